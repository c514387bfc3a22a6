"""The training loop of one rank, top to bottom.

    open the stream at the position → build → load → for each step:
        micro batches: next, digest, forward, backward → one small all-reduce → clip, AdamW
        → validation when due → checkpoint when due → leave when done or asked to

Position is the only cursor: a step at position p trains on samples [p, p + global batch) whatever the
world, and everything random is drawn from (seed, position, rank).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from eagleray import _core

from .context import Batch, BatchStream, Context, Tensors, batch_digests, slice_of
from .ledger import StepWatch
from .resume import newest_fitting, superseded
from .saver import Saver
from .strategy import build_optimizer, spread
from .totals import Totals
from .validation import validate


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a rank's loop ended: `completed` or `stopped`, after which step."""

    outcome: str
    step: int


def train(context: Context, entered: float) -> Outcome:
    """Trains from the newest commit to the last step, or to a stop, and leaves a commit of where it ended."""
    plan, reporter, clock = context.plan, context.reporter, context.clock
    commit = _newest_commit(context)
    step = 0 if commit is None else int(commit["step"])
    stream = context.open_stream(step * plan.global_batch)
    try:
        loop = Loop(context, stream, step)
        reporter.span("setup", entered, clock.now())
        if commit is not None:
            with context.spanned("load"):
                loop.saver.load(commit)
        return loop.run()
    finally:
        stream.close()


class Loop:
    """Model, optimizer and cursor of one rank."""

    def __init__(self, context: Context, stream: BatchStream, step: int) -> None:
        plan = context.plan
        self.context, self.plan, self.stream, self.step = context, plan, stream, step
        self.watch = StepWatch(context.clock)
        self.spread = spread(plan.strategy, plan.model, seed=plan.seed, precision=plan.precision, device=context.device)
        optimizer = plan.optimizer
        self.optimizer = build_optimizer(
            self.spread.model.named_parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        self.saver = Saver(context, self.spread, self.optimizer, stream, step)

    def run(self) -> Outcome:
        """All steps that are left."""
        plan = self.plan
        if self.step == 0:
            validate(self.context, self.spread, 0)
        while self.step < plan.steps:
            totals = self.run_step()
            if totals.superseded:
                raise superseded(plan.store, self.context.attempt)
            validate(self.context, self.spread, self.step)
            if totals.save_failed:
                self.saver.collect()
            last = self.step == plan.steps or totals.stop > 0
            if last or totals.save_due:
                self.saver.save(self.step, wait=last)
            if last:
                break
        return Outcome(outcome="completed" if self.step == plan.steps else "stopped", step=self.step)

    def run_step(self) -> Totals:
        """One optimizer step over one global batch."""
        plan, watch = self.plan, self.watch
        position = self.step * plan.global_batch
        watch.begin()
        mine = self._accumulate(position)
        with watch.span("compute"):
            self._set_flags(mine)
            totals = mine.reduce(self.context.device)
            grad_norm = self.spread.clip(plan.clip_grad_norm)
            self._check(totals, grad_norm)
            lr = plan.optimizer.lr_at(self.step + 1, plan.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        self._record(totals, lr, grad_norm)
        self.saver.poll()
        return totals

    def _accumulate(self, position: int) -> Totals:
        """Forward and backward over this rank's micro batches, and the check that they are the right ones."""
        mine, index, count = Totals(), 0, 1
        while index < count:
            with self.watch.span("data_wait"):
                batch = self._next_batch(position)
                tensors = Tensors.of(batch, self.context.device)
            with self.watch.span("compute"):
                count = int(batch["micro_count"])
                if index == 0:
                    self._seed_randomness(position)
                mine.add_digests(*batch_digests(batch))
                with self.spread.accumulating(index == count - 1):
                    self._forward_backward(mine, tensors)
                index += 1
        with self.watch.span("compute"):
            self._check_order(position, mine)
        return mine

    def _forward_backward(self, mine: Totals, tensors: Tensors) -> None:
        with self.spread.precision():
            losses = tensors.losses(self.spread)
        # Strategies average gradients over the world; this scale makes of it the mean over the global batch.
        scale = 0.0 if tensors.empty else self.context.world / self.plan.tokens_per_step
        (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        if not tensors.empty:
            mine.add_losses(losses.detach().double().tolist(), tensors.labels.numel())

    def _set_flags(self, mine: Totals) -> None:
        """What this rank has to say to the world. Decisions that read a clock are rank 0's alone."""
        reporter = self.context.reporter
        mine.stop = int(reporter.signalled("stop"))
        mine.superseded = int(reporter.signalled("superseded"))
        if self.context.rank == 0:
            mine.save_due = int(self.saver.due(self.step + 1))
            mine.save_failed = int(self.saver.failed())

    def _check_order(self, position: int, mine: Totals) -> None:
        first, last = slice_of(self.context.rank, self.context.world, position, self.plan.global_batch)
        expected = self.stream.expected_order_digest(first, last)
        if mine.order_digest != expected:
            raise _core.CorruptError(
                f"rank {self.context.rank}: the samples of positions {first} to {last} are not the ones the order "
                f"gives: expected digest {expected:016x}, found {mine.order_digest:016x}"
            )

    def _check(self, totals: Totals, grad_norm: float) -> None:
        step, first, batch = self.step + 1, self.step * self.plan.global_batch, self.plan.global_batch
        if totals.samples != batch:
            raise _core.InternalError(f"step {step} saw {totals.samples} samples, expected {batch}")
        if totals.nonfinite or not math.isfinite(grad_norm):
            what = f"the loss of {totals.nonfinite} samples" if totals.nonfinite else f"the gradient norm ({grad_norm})"
            raise _core.InvalidError(
                f"{what} is not finite at step {step} (positions {first} to {first + batch}); the newest checkpoint is "
                f"of step {self.saver.saved_step}. Lower `train.optimizer.adamw.lr`, or look at the data of that step"
            )

    def _record(self, totals: Totals, lr: float, grad_norm: float) -> None:
        watch, context = self.watch, self.context
        fields: dict[str, Any] = {
            "step": self.step,
            "position": (self.step - 1) * self.plan.global_batch,
            "recompute": self.step <= context.reached_step,
            "start": watch.start,
            "end": context.clock.now(),
            "data_wait": watch.seconds.get("data_wait", 0.0),
            "compute": watch.seconds.get("compute", 0.0),
            "checkpoint_stall": 0.0,
        }
        if context.rank == 0:
            fields |= {
                "loss": totals.mean_loss,
                "lr": lr,
                "grad_norm": grad_norm,
                "tokens": totals.tokens,
                "order_digest": f"{totals.order_digest:016x}",
                "token_digest": f"{totals.token_digest:016x}",
                "world": context.world,
                "total_steps": self.plan.steps,
            }
        context.reporter.add("step", t=fields["end"], **fields)

    def _next_batch(self, position: int) -> Batch:
        batch = self.stream.next()
        if batch is None or int(batch["step_position"]) != position:
            found = "its end" if batch is None else f"position {batch['step_position']}"
            raise _core.InternalError(f"the stream is at {found}, expected position {position}")
        return batch

    def _seed_randomness(self, position: int) -> None:
        key = f"{self.plan.seed}/{position}/{self.context.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)


def _newest_commit(context: Context) -> dict[str, Any] | None:
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
