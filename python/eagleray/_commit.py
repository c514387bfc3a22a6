"""What a commit must be for a run to go on from it; without torch, as the driver asks before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagleray import _core

ENGINE = "torch.dcp"
# Folders that a script of the user's own has filled, whatever is in them.
FILES = "files"
FORMAT_VERSION = 1


def require_fit(commit: Mapping[str, Any], expected: Mapping[str, str], engine: str = ENGINE) -> None:
    """Refuses a commit that this run cannot continue from, naming both sides of the difference."""
    where = f"checkpoint of step {commit.get('step')}"
    if commit.get("format_version") != FORMAT_VERSION:
        message = f"{where}: format version {commit.get('format_version')}, expected {FORMAT_VERSION}"
        raise _core.InvalidError(message)
    if commit.get("engine") != engine:
        raise _core.InvalidError(f"{where}: written by engine `{commit.get('engine')}`, expected `{engine}`")
    nouns = {"model_hash": "another model", "order_hash": "another data order"}
    for key, noun in nouns.items():
        if key in expected and commit.get(key) != expected[key]:
            short = (str(expected[key])[:12], str(commit.get(key))[:12])
            raise _core.InvalidError(
                f"{where} is of {noun}: expected `{key}` {short[0]}, found {short[1]}; "
                "restore the spec it was made with, or start in another `store`"
            )
