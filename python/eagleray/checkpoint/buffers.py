"""Host memory that saves are copied into on their way from a GPU, kept from one save to the next.

A copy into pinned memory goes as fast as the bus, beside others; one into memory that was never touched waits for the
kernel to hand out its pages, and for each copy before it. Pinning takes as long as such a copy: it is done once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

Size = tuple[torch.dtype, int]


class HostBuffers:
    """Buffers by type and length. Who has taken one owns it until it is given back: nobody else gets it before.

    torch rounds what it pins up to a power of two, so that the host may hold up to twice the bytes of a save.
    """

    def __init__(self, *, pin: bool = True, devices: frozenset[str] = frozenset({"cuda"})) -> None:
        self._pin = pin
        self._devices = devices
        self._free: dict[Size, list[Tensor]] = {}

    def __len__(self) -> int:
        """How many are free."""
        return sum(len(free) for free in self._free.values())

    def staging(self) -> Staging:
        """Copies for one save."""
        return Staging(self, self._devices)

    def take(self, dtype: torch.dtype, length: int) -> Tensor:
        """A flat buffer, pinned if that can be had."""
        free = self._free.get((dtype, length))
        return free.pop() if free else self._made(dtype, length)

    def give_back(self, buffers: list[Tensor]) -> None:
        """Takes over buffers that nothing reads or writes any more."""
        for buffer in buffers:
            self._free.setdefault((buffer.dtype, buffer.numel()), []).append(buffer)

    def drop_free(self) -> None:
        """Lets go of what no save has use for."""
        self._free.clear()

    def _made(self, dtype: torch.dtype, length: int) -> Tensor:
        if self._pin:
            try:
                return torch.empty(length, dtype=dtype, pin_memory=True)
            except RuntimeError:
                # A host that has no more to pin: this save, and those after it, are as slow as they were without.
                self._pin = False
        return torch.empty(length, dtype=dtype)


class Staging:
    """The copies of one save, under way until `finish`; `taken` are the buffers that they lie in."""

    def __init__(self, buffers: HostBuffers, devices: frozenset[str]) -> None:
        self._buffers = buffers
        self._devices = devices
        self._waiting: set[torch.device] = set()
        self.taken: list[Tensor] = []

    def copy(self, value: Tensor) -> Tensor:
        """A copy in host memory; a shard stays one (`DTensor.from_local` would move it back)."""
        if isinstance(value, DTensor):
            return DTensor(self.copy(value.to_local()), value._spec, requires_grad=False)
        if value.device.type not in self._devices:
            return value.detach().to("cpu", copy=True)
        buffer = self._buffers.take(value.dtype, value.numel())
        self.taken.append(buffer)
        copied = buffer.view(value.shape)
        copied.copy_(value.detach(), non_blocking=True)
        self._waiting.add(value.device)
        return copied

    def finish(self) -> None:
        """Waits until all copies are done."""
        for device in self._waiting:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        self._waiting.clear()
        # Sizes that this save did not ask for will not be asked for again.
        self._buffers.drop_free()
