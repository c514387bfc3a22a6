"""The training loop of one rank, top to bottom.

    open the stream at the position → build → load → for each step:
        micro batches: next, digest, forward, backward → one small all-reduce → clip, AdamW
        → validation when due → checkpoint when due → leave when done or asked to

Position is the only cursor: a step at position p trains on samples [p, p + global batch) whatever the
world, and everything random is drawn from (seed, position, rank). Steps take the order's batches one by
one, but for those that an anomaly has left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eagleray import _core

from .context import BatchStream, Context, Outcome, newest_commit, slice_of
from .heading import Heading
from .ledger import StepWatch
from .resume import superseded
from .saver import Saver
from .steps import StepReader, record_step
from .strategy import Done, Flow, spread
from .suspects import Suspect, suspects_of, text_of
from .totals import Totals
from .validation import validate


def train(context: Context, entered: float) -> Outcome:
    """Trains from the newest commit to the last step, or to a stop, and leaves a commit of where it ended."""
    reporter, clock = context.reporter, context.clock
    commit = newest_commit(context)
    loop = Loop(context, commit)
    try:
        reporter.span("setup", entered, clock.now())
        if commit is not None:
            with context.spanned("load"):
                loop.saver.load(commit)
        return loop.run()
    finally:
        loop.stream.close()


class Loop:
    """Model, optimizer and cursor of one rank."""

    def __init__(self, context: Context, commit: Mapping[str, Any] | None) -> None:
        plan = context.plan
        plan.require_device(gpu=context.device.type == "cuda")
        self.context, self.plan = context, plan
        self.step = 0 if commit is None else int(commit["step"])
        # Steps up to this one are done again.
        self.reached = context.reached_step
        self.heading = Heading.of(plan, commit)
        self.stream = self._open_stream()
        self.watch = StepWatch(context.clock)
        self.spread = spread(
            plan.layout,
            plan.shape,
            seed=plan.seed,
            precision=plan.precision,
            device=context.device,
            recomputed=plan.recompute,
            compiled=plan.compile,
            offloaded=plan.offload == "cpu",
            flow=Flow(
                micro_batch=plan.micro_batch,
                micro_batches=plan.micro_batches(context.axes.readers),
                sequence_length=plan.sequence_length,
                schedule=plan.pipeline,
            ),
            deepspeed=plan.deepspeed,
        )
        optimizer = plan.optimizer
        self.optimizer = self.spread.optimizer(
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        self.saver = Saver(context, self.spread.held(self.optimizer), self.stream, self.step, self.heading)
        # What was decided of batches past the commit stands, whatever their losses are in this world.
        self.skips = self.saver.noted_skips(self.batch)
        # This rank's samples of the step at hand, with their losses.
        self.seen: list[tuple[int, float]] = []

    @property
    def batch(self) -> int:
        """The global batch of the order that the next step trains on."""
        return self.heading.course.batch_after(self.step)

    def run(self) -> Outcome:
        """All steps that are left."""
        plan = self.plan
        if self.step == 0:
            validate(self.context, self.spread, 0)
        while self.step < plan.steps:
            totals = self.run_step()
            if totals is None:
                continue
            validate(self.context, self.spread, self.step)
            if totals.save_failed:
                self.saver.collect()
            last = self.step == plan.steps or totals.stop > 0
            if last or totals.save_due:
                self.saver.save(self.step, wait=last)
            if last:
                break
        return Outcome(outcome="completed" if self.step == plan.steps else "stopped", step=self.step)

    def run_step(self) -> Totals | None:
        """One optimizer step over one global batch; None where an anomaly sent the run back to a commit."""
        plan, watch, batch = self.plan, self.watch, self.batch
        watch.begin("compute")
        mine = self._accumulate()
        self.saver.set_flags(mine, self.step + 1)
        totals = mine.reduce(self.context.device)
        if totals.superseded:
            raise superseded(plan.store, self.context.attempt)
        if 0 < totals.counted < totals.tokens:
            # The scale of the losses took all tokens to count; how many do is known now.
            self.spread.multiply_gradients(totals.tokens / totals.counted)
        grad_norm = self.spread.clip(plan.clip_grad_norm)
        anomaly = self._look(totals, grad_norm)
        if anomaly is not None and anomaly["reaction"] == "rollback" and self._go_back(anomaly):
            return None
        lr = plan.optimizer.lr_at(self.step + 1, plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if anomaly is not None:
            self._skip(anomaly)
        elif totals.counted > 0:
            # Without a token that counts there is nothing to learn, and AdamW would move by what it remembers.
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        watch.stop()
        figures: dict[str, Any] = {"lr": lr} | ({"grad_norm": grad_norm} if math.isfinite(grad_norm) else {})
        record_step(self.context, watch, self.step, totals, figures, batch=batch, reached=self.reached)
        self.saver.poll()
        return totals

    def _open_stream(self) -> BatchStream:
        return self.context.open_stream(self.batch, len(self.heading.course))

    def _accumulate(self) -> Totals:
        """Forward and backward over this rank's micro batches; what this rank has to tell of them."""
        plan, mine = self.plan, Totals()
        reader = StepReader(self.context, self.stream, self.batch * plan.global_batch)
        # Gradients are averaged over the readers; this scale makes of it the mean over the global batch.
        scale = self.context.axes.readers / plan.tokens_per_step
        # Looked at when all is under way: to look is to wait for the device.
        told: list[Done] = []
        for tensors in reader.micro_batches(self.watch, mine):
            told += self.spread.forward_backward(tensors, scale, last=reader.last)
        losses: list[float] = []
        for done in told:
            mine.add_losses(summed := done.losses.double().tolist(), done.tokens, done.counted)
            losses += summed
        context, first = self.context, self.batch * plan.global_batch
        share = range(*slice_of(context.reader, context.axes.readers, first, plan.global_batch))
        self.seen = list(zip(share, losses, strict=False)) if context.speaks else []
        # Ranks of one share have seen the same samples; one of them tells of it.
        return mine if self.context.speaks else Totals()

    def _look(self, totals: Totals, grad_norm: float) -> dict[str, Any] | None:
        """The anomaly of the step at hand, the same on every rank; raises where it ends the run."""
        step, size = self.step + 1, self.plan.global_batch
        if totals.samples != size:
            raise _core.InternalError(f"step {step} saw {totals.samples} samples, expected {size}")
        if totals.counted == 0:
            return None
        if (decided := self.skips.get(self.batch)) is not None:
            return self.heading.recall(step, decided)
        loss = None if totals.nonfinite else totals.mean_loss
        anomaly = self.heading.look(step, loss, finite_gradient=math.isfinite(grad_norm))
        if anomaly is not None and anomaly["reaction"] == "stop":
            suspects = self._tell(anomaly, "stop")
            first = self.batch * size
            raise _core.InvalidError(
                f"step {step} (positions {first} to {first + size}): {anomaly['reason']}. {text_of(suspects)}"
                f"The newest checkpoint is of step {self.saver.saved_step}. Lower `train.optimizer.adamw.lr`, look at "
                "the data of that step, or have `train.anomalies` go on without it"
            )
        return anomaly

    def _go_back(self, anomaly: Mapping[str, Any]) -> bool:
        """To the newest commit, and on with the data after the step at hand; false where there is no commit yet."""
        # What is being saved may be the newest.
        self.saver.collect()
        commit = newest_commit(self.context)
        if commit is None:
            return False
        plan, step = self.plan, int(commit["step"])
        heading = Heading.of(plan, commit)
        until = self.batch + 1 + int(plan.anomalies["rollback"]["beyond_steps"])
        heading.course = heading.course.without(heading.course.end_of(step), until)
        heading.watch.remember(self.heading.watch)
        size, start = plan.global_batch, self.heading.course.end_of(step)
        self._tell(anomaly, "rollback", back_to=step, left_out=[start * size, until * size])
        # Before anything moves: who dies from here on leaves a run that goes on as this one would have.
        self.saver.leave_out(commit, heading)
        self.context.reporter.span("recompute", self.watch.start, self.context.clock.now())
        with self.context.spanned("load"):
            self.stream.close()
            self.optimizer.zero_grad(set_to_none=True)
            self.saver.load(commit)
            self.reached, self.step, self.heading = max(self.reached, self.step), step, heading
            self.stream = self._open_stream()
            self.saver.go_on(self.stream, step, heading)
        return True

    def _skip(self, anomaly: Mapping[str, Any]) -> None:
        """Leaves the update of the step at hand out, and has every resume do so."""
        self._tell(anomaly, "skip")
        if self.batch not in self.skips:
            # Before the step counts: who goes on from an earlier commit must not come to another decision.
            self.saver.note_skip(self.batch, anomaly)

    def _tell(self, anomaly: Mapping[str, Any], action: str, **more: Any) -> list[Suspect]:
        """Tells the ledger of an anomaly, on every rank at once; returns the samples that stand out."""
        # A save in the background talks in the group in which ranks are asked now.
        self.saver.collect()
        suspects = suspects_of(self.context, self.seen)
        if self.context.rank == 0:
            first = self.batch * self.plan.global_batch
            told = {"step": anomaly["step"], "anomaly": anomaly["kind"], "action": action, "reason": anomaly["reason"]}
            positions = [first, first + self.plan.global_batch]
            samples = [suspect.kept() for suspect in suspects]
            more |= {"positions": positions, "samples": samples}
            self.context.reporter.add("anomaly", t=self.context.clock.now(), **told, **more)
        return suspects
