"""What a trial runs in Ray's workers: one native call a row, its errors handed back as data."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

from eagleray import _core

from .build_tasks import ONE_THREAD, describe


def run_here(row: dict[str, Any], tokenizer: bytes | None) -> dict[str, Any]:
    """Reads the places of the task in `item`; `outcomes` as JSON, or `error` as JSON where it is one of ours."""
    os.environ.update(ONE_THREAD)
    try:
        return {"outcomes": _core.run_trial(row["item"], tokenizer), "error": ""}
    except _core.EagleRayError as error:
        return {"outcomes": "", "error": json.dumps(describe(error))}


def run_held(row: dict[str, Any], tokenizer: Sequence[Any]) -> dict[str, Any]:
    """The same with a tokenizer that lies in Ray's object store, its reference in a list so that it stays one."""
    return run_here(row, _fetched(tokenizer[0]))


@functools.cache
def _fetched(reference: Any) -> bytes | None:
    import ray

    tokenizer: bytes | None = ray.get(reference)
    return tokenizer
