"""The training loop of one rank, top to bottom.

    open the stream at the position → build → load → for each step:
        micro batches: next, digest, forward, backward → one small all-reduce → clip, AdamW
        → validation when due → checkpoint when due → leave when done or asked to

Position is the only cursor: a step at position p trains on samples [p, p + global batch) whatever the
world, and everything random is drawn from (seed, position, rank).
"""

from __future__ import annotations

import math

from eagleray import _core

from .context import BatchStream, Context, Outcome, newest_commit
from .ledger import StepWatch
from .resume import superseded
from .saver import Saver
from .state import ModelAndOptimizer
from .steps import StepReader, record_step
from .strategy import Done, Flow, build_optimizer, spread
from .totals import Totals
from .validation import validate


def train(context: Context, entered: float) -> Outcome:
    """Trains from the newest commit to the last step, or to a stop, and leaves a commit of where it ended."""
    plan, reporter, clock = context.plan, context.reporter, context.clock
    commit = newest_commit(context)
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
        self.spread = spread(
            plan.layout,
            plan.shape,
            seed=plan.seed,
            precision=plan.precision,
            device=context.device,
            recomputed=plan.recompute,
            flow=Flow(
                micro_batch=plan.micro_batch,
                micro_batches=plan.micro_batches(context.axes.readers),
                sequence_length=plan.sequence_length,
                schedule=plan.pipeline,
            ),
        )
        optimizer = plan.optimizer
        self.optimizer = build_optimizer(
            self.spread.model.named_parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        held = ModelAndOptimizer(model=self.spread.model, optimizer=self.optimizer)
        self.saver = Saver(context, held, stream, step)

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
        watch.begin("compute")
        mine = self._accumulate()
        self.saver.set_flags(mine, self.step + 1)
        totals = mine.reduce(self.context.device)
        grad_norm = self.spread.clip(plan.clip_grad_norm)
        self._check(totals, grad_norm)
        lr = plan.optimizer.lr_at(self.step + 1, plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        watch.stop()
        record_step(self.context, watch, self.step, totals, {"lr": lr, "grad_norm": grad_norm})
        self.saver.poll()
        return totals

    def _accumulate(self) -> Totals:
        """Forward and backward over this rank's micro batches; what this rank has to tell of them."""
        plan, mine = self.plan, Totals()
        reader = StepReader(self.context, self.stream, self.step * plan.global_batch)
        # Gradients are averaged over the readers; this scale makes of it the mean over the global batch.
        scale = self.context.axes.readers / plan.tokens_per_step
        # Looked at when all is under way: to look is to wait for the device.
        told: list[Done] = []
        for tensors in reader.micro_batches(self.watch, mine):
            told += self.spread.forward_backward(tensors, scale, last=reader.last)
        for done in told:
            mine.add_losses(done.losses.double().tolist(), done.tokens)
        # Ranks of one share have seen the same samples; one of them tells of it.
        return mine if self.context.speaks else Totals()

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
