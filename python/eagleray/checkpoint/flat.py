"""Parts of tensors that are no rectangles: a run of values in row-major order, as ZeRO leaves one on each rank.

A run of a matrix is at most three rectangles: the end of a row, whole rows, the beginning of a row. As those it is
saved and read, under the tensor's own name and shape, so that a checkpoint does not tell who wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

Box = tuple[tuple[int, ...], tuple[int, ...]]


def boxes(shape: Sequence[int], start: int, end: int) -> Iterator[Box]:
    """Offsets and sizes of the rectangles that values `start` to `end` of a tensor of `shape` are, in their order."""
    if start >= end:
        return
    if len(shape) < 2:
        yield ((start,), (end - start,)) if shape else ((), ())
        return
    row = math.prod(shape[1:])
    # Where rows are cut: at the first and at the last border of rows inside.
    first, last = -(-start // row) * row, end // row * row
    cuts = [start, *(cut for cut in (first, last) if start < cut < end), end] if first <= last else [start, end]
    for low, high in pairwise(sorted(set(cuts))):
        index = low // row
        if low % row == 0 and high % row == 0:
            yield (index, *(0 for _ in shape[1:])), ((high - low) // row, *shape[1:])
        else:
            for offsets, sizes in boxes(shape[1:], low - index * row, high - index * row):
                yield (index, *offsets), (1, *sizes)


class FlatPart(torch.Tensor):
    """Values `start` and on of a tensor of `global_shape`: a flat tensor that DCP saves and reads as rectangles."""

    start: int
    # What DCP knows a tensor with a `global_shape` by. Where a rectangle lies in the flat tensor follows from their
    # order, so that `local_offsets`, which DCP asks for, are never read.
    global_shape: tuple[int, ...]
    global_offsets: tuple[tuple[int, ...], ...]
    local_sizes: tuple[tuple[int, ...], ...]
    local_offsets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, values: Tensor, shape: Sequence[int], start: int) -> FlatPart:
        """Shares memory with `values`, one-dimensional."""
        part = values.detach().as_subclass(cls)
        found = list(boxes(tuple(shape), start, start + values.numel()))
        part.start, part.global_shape = start, tuple(shape)
        part.global_offsets = tuple(offsets for offsets, _ in found)
        part.local_sizes = tuple(sizes for _, sizes in found)
        part.local_offsets = part.global_offsets
        return part

    def staged(self, copy: Callable[[Tensor], Tensor]) -> FlatPart:
        """A copy in host memory, as `copy` makes them."""
        return FlatPart.of(copy(self.as_subclass(torch.Tensor)), self.global_shape, self.start)

    # What DCP asks of tensors that lie on many ranks, as `torch.distributed._checkpointable` has it.

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
            for offsets, sizes in zip(self.global_offsets, self.local_sizes, strict=True)
        ]

    def __create_write_items__(self, name: str, _part: Any) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self)
        return [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=torch.Size(self.global_shape)),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        begin = 0
        for offsets, sizes in zip(self.global_offsets, self.local_sizes, strict=True):
            count = math.prod(sizes)
            if index.offset is None or tuple(index.offset) == offsets:
                return self.as_subclass(torch.Tensor)[begin : begin + count].view(sizes)
            begin += count
        raise ValueError(f"{index.fqn}: no part begins at {index.offset}")
