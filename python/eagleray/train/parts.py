"""Which part of a tensor a rank holds."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(parameter: Tensor) -> tuple[range, ...]:
    """What this rank has of the whole tensor, along each of its dims."""
    if not isinstance(parameter, DTensor):
        return tuple(range(size) for size in parameter.shape)
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(range(first, first + size) for first, size in zip(offset, shape, strict=True))


def rows_of(parameter: Tensor) -> range:
    """The rows of the whole tensor that this rank has."""
    return part_of(parameter)[0]


def speaks_for(parameter: Tensor) -> bool:
    """Whether this rank is the one of all with the same part that counts in a sum over the world."""
    if not isinstance(parameter, DTensor):
        return dist.get_rank() == 0
    place = parameter.device_mesh.get_coordinate() or []
    return all(
        index == 0 for index, placement in zip(place, parameter.placements, strict=True) if placement.is_replicate()
    )
