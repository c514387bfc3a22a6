"""Dropout whose masks belong to samples: drawn from the run's seed, a sample's position and the layer's name.

So they are the same for any world, any size of micro batches, and whoever resumes; and a second forward pass draws the
first one's again, with no state to put back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# The samples that go through the model at the moment; none where nothing is to be dropped.
_positions: list[tuple[int, ...]] = [()]


@contextmanager
def training_on(positions: tuple[int, ...]) -> Iterator[None]:
    """Within the block, forward and backward passes are of the samples at these positions, and drop of each its own."""
    _positions.append(positions)
    try:
        yield
    finally:
        _positions.pop()


class SampleDropout(nn.Module):
    """Drops a share `p` of what goes in, [samples, …], in training; elsewhere it hands everything on."""

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p, self.name = p, name
        # Known when the model is started.
        self.seed = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the samples at hand, scaled to have the mean that they had."""
        positions = _positions[-1]
        if not positions:
            return inputs
        masks = [self._kept(position, inputs) for position in positions]
        return inputs * torch.stack(masks).to(inputs.dtype) / (1.0 - self.p)

    def _kept(self, position: int, inputs: Tensor) -> Tensor:
        key = hashlib.blake2b(f"{self.seed}/{position}/{self.name}".encode(), digest_size=8).digest()
        generator = torch.Generator(inputs.device).manual_seed(int.from_bytes(key, "little") >> 1)
        return torch.rand(inputs.shape[1:], generator=generator, device=inputs.device) >= self.p
