"""The model of a save without its optimizer, some tensors at a time, in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from eagleray import _core

from .engine import Place, opened, read
from .storage import StoreReader

_PREFIX = "model."


class ModelTensors:
    """Parameters of a save that has been verified, by the names that the model has for them."""

    def __init__(self, store_url: str, directory: str) -> None:
        self._place = Place(store_url=store_url, attempt=0, rank=0, world=1, group=None)
        self._directory = directory
        entries = StoreReader(opened(self._place, directory)).read_metadata().state_dict_metadata
        self._found = {
            key.removeprefix(_PREFIX): entry
            for key, entry in entries.items()
            if key.startswith(_PREFIX) and isinstance(entry, TensorStorageMetadata)
        }
        self.shapes: Mapping[str, Sequence[int]] = {name: tuple(entry.size) for name, entry in self._found.items()}
        if not self.shapes or not all(map(math.prod, self.shapes.values())):
            raise _core.InvalidError(f"`{directory}` holds no model")

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole tensors of these parameters on the CPU."""
        held = {name: torch.empty(self.shapes[name], dtype=self._found[name].properties.dtype) for name in names}
        read(self._place, self._directory, {"model": held})
        return held
