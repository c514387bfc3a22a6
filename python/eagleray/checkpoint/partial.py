"""The model of a save without its optimizer, some tensors at a time, in one process."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

from eagleray import _core

from .storage import StoreReader

_PREFIX = "model."


class ModelTensors:
    """Parameters of a save that has been verified, by the names that the model has for them."""

    def __init__(self, store_url: str, directory: str) -> None:
        self._store = _core.Store(f"{store_url.rstrip('/')}/{directory}")
        entries = StoreReader(self._store).read_metadata().state_dict_metadata
        self._dtypes: dict[str, torch.dtype] = {}
        self.shapes: Mapping[str, Sequence[int]] = {}
        shapes: dict[str, Sequence[int]] = {}
        for key, entry in entries.items():
            if key.startswith(_PREFIX) and isinstance(entry, TensorStorageMetadata):
                name = key.removeprefix(_PREFIX)
                shapes[name], self._dtypes[name] = tuple(entry.size), entry.properties.dtype
        self.shapes = shapes
        if not shapes or not all(map(math.prod, shapes.values())):
            raise _core.InvalidError(f"`{directory}` holds no model")

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole tensors of these parameters on the CPU."""
        held = {name: torch.empty(tuple(self.shapes[name]), dtype=self._dtypes[name]) for name in names}
        with warnings.catch_warnings():
            # One process is all there is to it.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp_load({"model": held}, storage_reader=StoreReader(self._store), no_dist=True)
        return held
