"""Checkpoints: saved beside training, committed by one object, verified before they are read.

`save` and `load` are for any nested state of tensors and plain values, from one process or every rank of
a `torch.distributed` world; a run's own saves go through `engine` with lineage and retention.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from eagleray import _core
from eagleray._commit import require_fit

from . import engine
from .engine import CheckpointEngine, Place, Saved
from .values import merge_values, split_values

__all__ = ["CheckpointEngine", "Place", "Saved", "load", "save"]


def save(state: Mapping[str, Any], url: str) -> str:
    """Saves `state` below `url` and commits it; returns the directory, relative to `url`.

    Tensors (sharded ones too) go to files, everything else must be plain JSON and goes into the commit.
    """
    place = _place(url)
    tensors, values = split_values(state)
    newest = _newest(url)
    step = 0 if newest is None else int(newest["step"]) + 1
    fields = {"step": step, "position": 0, "strategy": "none", "metadata": {"values": values}}
    directory, _ = engine.write(place, tensors, fields)
    return directory


def load(state: dict[str, Any], url: str) -> None:
    """Fills `state` from the newest commit below `url`: tensors in place, plain values replaced."""
    newest = _newest(url)
    if newest is None:
        raise _core.NotFoundError(f"no committed checkpoint below `{url}`")
    require_fit(newest, {})
    tensors, _ = split_values(state)
    engine.load(_place(url), str(newest["dir"]), tensors)
    merge_values(state, newest["metadata"]["values"])


def _place(url: str) -> Place:
    if not dist.is_initialized():
        return Place(store_url=url, attempt=0, rank=0, world=1, group=None)
    group: Any = dist.new_group(backend="gloo")
    return Place(store_url=url, attempt=0, rank=dist.get_rank(), world=dist.get_world_size(), group=group)


def _newest(url: str) -> dict[str, Any] | None:
    text = _core.newest(url)
    return None if text is None else json.loads(text)
