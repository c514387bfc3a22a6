"""The one extra collective of a step: what every rank must agree on, in one int64 sum.

Digests are wrapping u64 sums and losses are fixed-point, so the result does not depend on the order or
the number of summands. Flags ride along, so that all ranks stop, save and fail at the same step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist

_MASK = (1 << 64) - 1
# Losses are summed in units of 2^-20 nat: exact for any order, and 2^43 nat fit.
LOSS_UNIT_BITS = 20


def wrap_add(left: int, right: int) -> int:
    """The wrapping u64 sum of two digests."""
    return (left + right) & _MASK


def fixed_point(losses: Iterable[float]) -> int:
    """The sum of per-sample losses in units of 2^-20 nat; NaN and infinities count as zero (they have a flag)."""
    scale = float(1 << LOSS_UNIT_BITS)
    return sum(round(loss * scale) for loss in losses if loss == loss and abs(loss) != float("inf"))


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over the micro batches of a rank, or after `reduce` over the global batch. Flags count ranks."""

    order_digest: int = 0
    token_digest: int = 0
    loss: int = 0
    tokens: int = 0
    # Of the tokens, those that the loss counts.
    counted: int = 0
    samples: int = 0
    nonfinite: int = 0
    stop: int = 0
    superseded: int = 0
    save_due: int = 0
    save_failed: int = 0

    @property
    def mean_loss(self) -> float:
        """Nats per token that counts."""
        return self.loss / (1 << LOSS_UNIT_BITS) / max(self.counted, 1)

    def add_digests(self, order: int, token: int) -> None:
        """Adds the digests of one micro batch."""
        self.order_digest = wrap_add(self.order_digest, order)
        self.token_digest = wrap_add(self.token_digest, token)

    def add_losses(self, losses: list[float], tokens: int, counted: int | None = None) -> None:
        """Adds the summed loss of each sample of one micro batch, of whose tokens all count, or `counted`."""
        self.loss += fixed_point(losses)
        self.nonfinite += sum(1 for loss in losses if not (loss == loss and abs(loss) != float("inf")))
        self.tokens += tokens
        self.counted += tokens if counted is None else counted
        self.samples += len(losses)

    def reduce(self, device: torch.device) -> Totals:
        """The totals of the world, equal on every rank."""
        names = [entry.name for entry in fields(self)]
        values = [signed(getattr(self, name)) for name in names]
        vector = torch.tensor(values, dtype=torch.int64, device=device)
        dist.all_reduce(vector)
        summed = dict(zip(names, (int(value) for value in vector.tolist()), strict=True))
        summed["order_digest"] &= _MASK
        summed["token_digest"] &= _MASK
        return Totals(**summed)


def signed(value: int) -> int:
    """The two's complement reading of a u64, which sums the same way."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
