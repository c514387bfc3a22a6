"""What every training loop does with a step, the built-in one and one of your own: read it, check it, record it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from eagleray import _core

from .context import Batch, BatchStream, Context, Tensors, batch_digests, require_order, slice_of
from .ledger import StepWatch
from .measures import measures
from .totals import Totals


class StepReader:
    """This rank's micro batches of the step at a position, and the proof that they are the right ones."""

    def __init__(self, context: Context, stream: BatchStream, position: int) -> None:
        self._context, self._stream, self._position = context, stream, position
        self._begun = self._taken = False
        # Whether the micro batch at hand ends the step.
        self.last = False
        seed_randomness(context, position)

    def micro_batches(self, watch: StepWatch, totals: Totals) -> Iterator[Tensors]:
        """Micro batches on the device, their digests added to `totals`; the wait for each is counted as such."""
        if self._begun:
            raise _core.InvalidError("the micro batches of a step are there once: loop over `step.batches` once")
        self._begun = True
        index, count = 0, 1
        while index < count:
            watch.switch("data_wait")
            batch = self._next_batch()
            tensors = Tensors.of(batch, self._context.device)
            watch.switch("compute")
            count = int(batch["micro_count"])
            totals.add_digests(*batch_digests(batch))
            index += 1
            self.last = self._taken = index == count
            if self.last:
                self._check_order(totals)
            yield tensors

    def require_taken(self, step: int) -> None:
        """Refuses to end a step of which micro batches are left: the next would begin with them."""
        if not self._taken:
            raise _core.InvalidError(f"step {step} ended before its last micro batch: take all of `step.batches`")

    def _next_batch(self) -> Batch:
        batch = self._stream.next()
        if batch is None or int(batch["step_position"]) != self._position:
            found = "its end" if batch is None else f"position {batch['step_position']}"
            raise _core.InternalError(f"the stream is at {found}, expected position {self._position}")
        return batch

    def _check_order(self, totals: Totals) -> None:
        context = self._context
        mine = slice_of(context.reader, context.axes.readers, self._position, context.plan.global_batch)
        require_order(self._stream, context.rank, mine, totals.order_digest)


def seed_randomness(context: Context, cursor: int) -> None:
    """Whatever is random in a step is drawn from the run's seed, where the run stands, and the share of the batch."""
    key = f"{context.plan.seed}/{cursor}/{context.reader}".encode()
    torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)


def record_step(
    context: Context,
    watch: StepWatch,
    step: int,
    totals: Totals,
    figures: Mapping[str, Any],
    *,
    batch: int,
    reached: int,
) -> None:
    """Tells the ledger of a step that is done, on the data of `batch`; up to `reached` it is done again.

    What concerns all ranks, `figures` too, is said by rank 0 alone.
    """
    plan = context.plan
    fields: dict[str, Any] = {
        "step": step,
        "position": batch * plan.global_batch,
        "recompute": step <= reached,
        "start": watch.start,
        "end": context.clock.now(),
        "data_wait": watch.seconds.get("data_wait", 0.0),
        "compute": watch.seconds.get("compute", 0.0),
        "checkpoint_stall": 0.0,
    }
    if context.rank == 0:
        if totals.tokens and not totals.nonfinite:
            fields["tokens"] = totals.tokens
            if totals.counted != totals.tokens:
                fields["counted_tokens"] = totals.counted
            if totals.counted:
                fields["loss"] = totals.mean_loss
        fields |= {
            **figures,
            **measures(plan, context.device),
            "order_digest": f"{totals.order_digest:016x}",
            "token_digest": f"{totals.token_digest:016x}",
            "world": context.world,
            "total_steps": plan.steps,
        }
    context.reporter.add("step", t=fields["end"], **fields)
