"""What every part of the loop needs: who this rank is, its doors to data and ledger, and batches as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from eagleray import _core

from .layout import Axes
from .ledger import Clock, Reporter
from .plan import Plan, Validation
from .resume import newest_fitting

Batch = dict[str, Any]
# The label that torch's cross entropy leaves out.
IGNORED = -100


class BatchStream(Protocol):
    """What the loop asks of a stream."""

    def next(self) -> Batch | None:
        """The next micro batch, or None at the end."""

    def is_masked(self) -> bool:
        """Whether samples may have labels that no loss counts."""

    def expected_order_digest(self, start: int, end: int, /) -> int:
        """The closed form of the order digest of positions [start, end)."""

    def state(self) -> str:
        """Where the stream stands, as JSON."""

    def close(self) -> None:
        """Stops reading ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a rank's loop ended: `completed` or `stopped`, after which step."""

    outcome: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A rank's surroundings."""

    plan: Plan
    rank: int
    world: int
    axes: Axes
    attempt: int
    reached_step: int
    device: torch.device
    clock: Clock
    reporter: Reporter
    save_group: dist.ProcessGroup | None
    # At a batch of the order, of which so many are left out.
    open_stream: Callable[[int, int], BatchStream]
    open_validation: Callable[[Validation, int], BatchStream]
    validation_samples: Callable[[Validation], int]

    @property
    def reader(self) -> int:
        """Which share of a global batch this rank trains on."""
        return self.axes.reader(self.rank)

    @property
    def speaks(self) -> bool:
        """Whether this rank tells of its share's samples and losses."""
        return self.axes.speaks(self.rank)

    @contextmanager
    def spanned(self, cause: str) -> Iterator[None]:
        """Records the block as a span of this rank."""
        start = self.clock.now()
        try:
            yield
        finally:
            self.reporter.span(cause, start, self.clock.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """A micro batch on the device, each [batch, sequence]; `empty` when the rank had no sample left for it.

    Labels that no loss counts are `IGNORED`; `counted` is how many there are of the others. `positions` are those of
    the samples in the run's order.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    counted: int
    empty: bool
    positions: tuple[int, ...] = ()

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Tensors:
        """Shares memory with the batch on a CPU, copies it elsewhere.

        A rank short of samples still runs the model, on a sample of zeros that nobody counts: its peers wait for it.
        """
        if empty := batch["tokens"].shape[0] == 0:
            parts = [torch.zeros(1, batch["tokens"].shape[1], dtype=torch.int64, device=device) for _ in range(3)]
        else:
            parts = [on_device(batch[key], device) for key in ("tokens", "labels", "position_ids")]
        # On the host, where no device need be waited for.
        counted = int((batch["labels"] != IGNORED).sum())
        positions = (0,) if empty else tuple(batch["positions"].tolist())
        tokens, labels, position_ids = parts
        return cls(
            tokens=tokens,
            labels=labels,
            position_ids=position_ids,
            counted=counted,
            empty=empty,
            positions=positions,
        )


def on_device(array: Any, device: torch.device) -> torch.Tensor:
    """The tensor of a numpy array.

    To a GPU it goes from pinned memory: from any other, this thread would wait for all that the GPU has to do first.
    """
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def newest_commit(context: Context) -> dict[str, Any] | None:
    """Rank 0's answer, for all: two ranks must not see two different newest commits."""
    answer: list[Any] = [None, None]
    if context.rank == 0:
        try:
            answer[0] = newest_fitting(context.plan)
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0, group=context.save_group)
    commit, failure = answer
    if failure is not None:
        raise failure
    return commit  # type: ignore[no-any-return]


def batch_digests(batch: Batch) -> tuple[int, int]:
    """Order and token digest of a micro batch, from the arrays whose memory enters the step."""
    names = ("tokens", "labels", "positions", "source", "epoch", "index")
    order, token = _core.batch_digests(*(batch[name] for name in names))
    return int(order), int(token)


def require_order(stream: BatchStream, rank: int, positions: tuple[int, int], found: int) -> None:
    """Refuses samples whose order digest `found` is not what the order gives for `positions`, first to last."""
    expected = stream.expected_order_digest(*positions)
    if found != expected:
        raise _core.CorruptError(
            f"rank {rank}: the samples of positions {positions[0]} to {positions[1]} are not the ones the order gives: "
            f"expected digest {expected:016x}, found {found:016x}"
        )


def slice_of(reader: int, readers: int, position: int, global_batch: int) -> tuple[int, int]:
    """The positions that `reader` trains on in the step at `position`: contiguous, sizes differ by at most one."""
    base, rest = divmod(global_batch, readers)
    first = position + reader * base + min(reader, rest)
    return first, first + base + (1 if reader < rest else 0)
