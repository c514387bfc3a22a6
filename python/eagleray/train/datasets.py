"""The token datasets of a run: found on the store, or built before training starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eagleray import _core

from .console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """URL of each dataset by role (`train`, `validation`) and name, and the vocabulary they need."""

    urls: Mapping[str, Mapping[str, str]]
    vocab_size: int


def ensure_datasets(
    resolved: Mapping[str, Any], console: Console, start_ray: Callable[[], None], *, built: bool = False
) -> Datasets:
    """Finds every dataset of the spec, builds what is missing, and checks that the vocabulary fits the model.

    `built` refuses what is missing: no accelerator waits while CPUs tokenise.
    """
    data = resolved["spec"]["data"]
    if data is None:
        return Datasets(urls={"train": {}, "validation": {}}, vocab_size=0)
    wanted = [("train", name) for name in data["sources"]]
    wanted += [("validation", name) for name in data.get("validation") or {}]
    urls: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
    missing = []
    for role, name in wanted:
        url = _found(resolved, role, name)
        if url is None:
            missing.append((role, name))
        else:
            urls[role][name] = url
    if missing:
        names = ", ".join(f"`{name}`" for _, name in missing)
        if built:
            raise _core.NotFoundError(
                f"not built: the token datasets of {names}\nhint: `eagleray tokens build` builds them, on CPUs alone"
            )
        from eagleray.data.build import build

        console.say(f"building token datasets of {names}")
        start_ray()
        build(resolved)
        for role, name in missing:
            urls[role][name] = _required(resolved, role, name)
    return Datasets(urls=urls, vocab_size=_fitting_vocabulary(resolved, urls))


def _found(resolved: Mapping[str, Any], role: str, name: str) -> str | None:
    # Also of a source that is a dataset already: it must be of this run's tokenizer.
    dataset: str | None = json.loads(_core.plan_build(json.dumps(resolved), name, role))["dataset"]
    return dataset


def _required(resolved: Mapping[str, Any], role: str, name: str) -> str:
    url = _found(resolved, role, name)
    if url is None:
        raise _core.InternalError(f"dataset `{name}` was built and is not there")
    return url


def _fitting_vocabulary(resolved: Mapping[str, Any], urls: Mapping[str, Mapping[str, str]]) -> int:
    """The vocabulary of the datasets, which must agree with each other and fit into the model's."""
    sizes: dict[str, int] = {}
    for by_name in urls.values():
        for name, url in by_name.items():
            sizes[name] = int(json.loads(_core.dataset_info(url))["vocab_size"])
    needed = max(sizes.values())
    model = resolved["spec"]["model"]
    given = None if model is None or model["kind"] != "llama" else model["config"].get("vocab_size")
    if given is not None and given < needed:
        largest = max(sizes, key=lambda name: sizes[name])
        raise _core.InvalidError(
            f"`model.config.vocab_size` is {given}, and dataset `{largest}` has a vocabulary of {needed}; "
            f"set it to at least {needed}, or leave it out"
        )
    return needed
