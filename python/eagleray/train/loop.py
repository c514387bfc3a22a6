"""The training loop of one rank, top to bottom.

    open the stream at the position → build → load → for each step:
        micro batches: next, digest, forward, backward → one small all-reduce → clip, AdamW
        → validation when due → checkpoint when due → leave when done or asked to

Position is the only cursor: a step at position p trains on samples [p, p + global batch) whatever the
world, and everything random is drawn from (seed, position, rank).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from eagleray import _core
from eagleray.checkpoint import CheckpointEngine, Place, Saved
from eagleray.checkpoint.engine import load as load_checkpoint

from .ledger import Clock, Reporter, StepWatch
from .model import sample_losses
from .plan import Plan, Validation
from .state import load_state, save_state
from .strategy import Spread, build_optimizer, spread
from .totals import Totals

# A store that does not answer costs one save, not the run; after this many in a row the run stops.
FAILED_SAVES_MAX = 3

Batch = dict[str, Any]


class BatchStream(Protocol):
    """What the loop asks of a stream."""

    def next(self) -> Batch | None:
        """The next micro batch, or None at the end."""

    def expected_order_digest(self, start: int, end: int) -> int:
        """The closed form of the order digest of positions [start, end)."""

    def state(self) -> str:
        """Where the stream stands, as JSON."""

    def close(self) -> None:
        """Stops reading ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A rank's surroundings: who it is, and the doors to data, store and ledger."""

    rank: int
    world: int
    attempt: int
    reached_step: int
    device: torch.device
    clock: Clock
    reporter: Reporter
    save_group: dist.ProcessGroup | None
    open_stream: Callable[[int], BatchStream]
    open_validation: Callable[[Validation, int], BatchStream]
    validation_samples: Callable[[Validation], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a rank's loop ended: `completed` or `stopped`, after which step."""

    outcome: str
    step: int


def train(plan: Plan, context: Context, entered: float) -> Outcome:
    """Trains from the newest commit to the last step, or to a stop, and leaves a commit of where it ended."""
    reporter, clock = context.reporter, context.clock
    commit = _newest_commit(plan, context)
    step = 0 if commit is None else int(commit["step"])
    stream = context.open_stream(step * plan.global_batch)
    trainer = Trainer(plan, context, stream, step)
    reporter.span("setup", entered, clock.now())
    if commit is not None:
        with trainer.spanned("load"):
            trainer.load(commit)
    try:
        return trainer.run()
    finally:
        stream.close()


class Trainer:
    """Model, optimizer and cursor of one rank, and the parts of a step."""

    def __init__(self, plan: Plan, context: Context, stream: BatchStream, step: int) -> None:
        self.plan, self.context, self.stream, self.step = plan, context, stream, step
        self.spread: Spread = spread(
            plan.strategy, plan.model, seed=plan.seed, precision=plan.precision, device=context.device
        )
        optimizer = plan.optimizer
        self.optimizer = build_optimizer(
            self.spread.model.named_parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        self.place = Place(
            store_url=plan.store,
            attempt=context.attempt,
            rank=context.rank,
            world=context.world,
            group=context.save_group,
        )
        self.engine = CheckpointEngine(self.place, context.clock.now)
        self.watch = StepWatch(context.clock)
        self.begun_step = self.saved_step = step
        self.save_began = context.clock.now()
        self.save_stall: float | None = None
        self.save_seconds: float | None = None
        self.failed_saves = 0

    def run(self) -> Outcome:
        """All steps that are left."""
        plan = self.plan
        if self.step == 0:
            self.validate()
        while self.step < plan.steps:
            totals = self.run_step()
            if totals.superseded:
                raise _core.ConflictError(
                    f"attempt {self.context.attempt} was superseded: a newer attempt has claimed `{plan.store}`"
                )
            last = self.step == plan.steps or totals.stop > 0
            if self.step == plan.steps or any(self.step % held.every_steps == 0 for held in plan.validation):
                self.validate()
            if totals.save_failed:
                self.collect_save()
            if last or totals.save_due:
                self.save(wait=last or not plan.save_async)
            if last:
                break
        return Outcome(outcome="completed" if self.step == plan.steps else "stopped", step=self.step)

    def run_step(self) -> Totals:
        """One optimizer step over one global batch."""
        plan, watch = self.plan, self.watch
        position = self.step * plan.global_batch
        watch.begin()
        self._seed_randomness(position)
        mine = self._accumulate(position)
        with watch.span("compute"):
            self._set_flags(mine)
            totals = mine.reduce(self.context.device)
            self._check_whole(totals)
            grad_norm = self.spread.clip(plan.clip_grad_norm)
            if totals.nonfinite or grad_norm != grad_norm or grad_norm == float("inf"):
                raise _core.InvalidError(self._not_finite(totals, grad_norm))
            lr = plan.optimizer.lr_at(self.step + 1, plan.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._record_step(totals, lr, grad_norm)
        # A save that failed is collected by all ranks at one step, when rank 0's flag says so.
        if self.engine.finished() and not self.engine.failed():
            self.collect_save()
        return totals

    def _accumulate(self, position: int) -> Totals:
        """Forward and backward over this rank's micro batches, and the check that they are the right ones."""
        mine, index, count = Totals(), 0, 1
        while index < count:
            with self.watch.span("data_wait"):
                batch = self._next_batch(position)
                tensors = self._to_device(batch)
            count = int(batch["micro_count"])
            with self.watch.span("compute"):
                mine.add_digests(*batch_digests(batch))
                with self.spread.accumulating(index == count - 1), self.spread.precision():
                    self._forward_backward(mine, *tensors)
            index += 1
        first, last = slice_of(self.context.rank, self.context.world, position, self.plan.global_batch)
        expected = self.stream.expected_order_digest(first, last)
        if mine.order_digest != expected:
            raise _core.CorruptError(
                f"rank {self.context.rank}: the samples of positions {first} to {last} are not the ones the order "
                f"gives: expected digest {expected:016x}, found {mine.order_digest:016x}"
            )
        return mine

    def _forward_backward(self, mine: Totals, tokens: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> None:
        # A rank short of samples still runs the model, on a sample of weight zero: its peers wait for it.
        if empty := tokens.shape[0] == 0:
            tokens, labels, positions = (torch.zeros_like(tokens.new_empty(1, tokens.shape[1])) for _ in range(3))
        losses = sample_losses(self.spread.model(tokens, positions), labels)
        # Strategies average gradients over the world; this scale makes of it the mean over the global batch.
        scale = 0.0 if empty else self.context.world / self.plan.tokens_per_step
        (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        if not empty:
            mine.add_losses(losses.detach().double().tolist(), labels.numel())

    def _set_flags(self, mine: Totals) -> None:
        """What this rank has to say to the world. Decisions that read a clock are rank 0's alone."""
        reporter = self.context.reporter
        mine.stop = int(reporter.signalled("stop"))
        mine.superseded = int(reporter.signalled("superseded"))
        if self.context.rank == 0:
            since = self.context.clock.now() - self.save_began
            mine.save_due = int(self.plan.cadence.due(self.step + 1, since, self.save_stall, self.save_seconds))
            mine.save_failed = int(self.engine.failed())

    def _check_whole(self, totals: Totals) -> None:
        if totals.samples != self.plan.global_batch:
            raise _core.InternalError(
                f"step {self.step + 1} saw {totals.samples} samples, expected {self.plan.global_batch}"
            )

    def _not_finite(self, totals: Totals, grad_norm: float) -> str:
        what = f"the loss of {totals.nonfinite} samples" if totals.nonfinite else f"the gradient norm ({grad_norm})"
        first = self.step * self.plan.global_batch
        return (
            f"{what} is not finite at step {self.step + 1} (positions {first} to {first + self.plan.global_batch}); "
            f"the newest checkpoint is of step {self.saved_step}. Lower `train.optimizer.adamw.lr` or look at the data"
        )

    def _record_step(self, totals: Totals, lr: float, grad_norm: float) -> None:
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

    def validate(self) -> None:
        """The exact mean loss of each held-out dataset, every rank its share."""
        for held in self.plan.validation:
            if self.step not in (0, self.plan.steps) and self.step % held.every_steps:
                continue
            start = self.context.clock.now()
            totals = self._validation_totals(held)
            end = self.context.clock.now()
            self.context.reporter.span("validation", start, end)
            if self.context.rank == 0:
                self.context.reporter.add(
                    "validation",
                    t=end,
                    name=held.name,
                    step=self.step,
                    loss=totals.mean_loss,
                    samples=totals.samples,
                    start=start,
                    end=end,
                )

    @torch.no_grad()
    def _validation_totals(self, held: Validation) -> Totals:
        mine = Totals()
        samples = min(held.samples, self.context.validation_samples(held))
        stream = self.context.open_validation(held, samples)
        try:
            while (batch := stream.next()) is not None:
                tokens, labels, positions = self._to_device(batch)
                empty = tokens.shape[0] == 0
                if empty:
                    tokens, labels, positions = (torch.zeros_like(tokens.new_empty(1, tokens.shape[1])) for _ in range(3))
                with self.spread.precision():
                    losses = sample_losses(self.spread.model(tokens, positions), labels)
                if not empty:
                    mine.add_losses(losses.double().tolist(), labels.numel())
        finally:
            stream.close()
        return mine.reduce(self.context.device)

    def save(self, *, wait: bool) -> None:
        """Begins a save of this step; the time until training may go on is the stall."""
        if self.begun_step == self.step:
            return
        self.begun_step = self.step
        began = self.context.clock.now()
        with self.spanned("checkpoint_stall"):
            self.collect_save()
            self.engine.save_async(save_state(self.spread.model, self.optimizer), self._commit_fields())
            self.save_stall = self.context.clock.now() - began
            self.save_began = began
            if wait:
                self.collect_save(last=True)

    def collect_save(self, *, last: bool = False) -> None:
        """Takes the outcome of the save in flight, waiting for it if need be; a failed one may be forgiven."""
        if not self.engine.in_flight:
            return
        try:
            saved = self.engine.collect()
        except _core.UnavailableError as error:
            self.failed_saves += 1
            if last or self.failed_saves >= FAILED_SAVES_MAX:
                raise
            if self.context.rank == 0:
                self.context.reporter.add("failure", t=self.context.clock.now(), reason=f"save failed: {error}")
            return
        self.failed_saves = 0
        if saved is not None:
            self._after_save(saved)

    def _after_save(self, saved: Saved) -> None:
        self.saved_step = saved.step
        self.save_seconds = saved.committed - saved.began
        if self.context.rank != 0:
            return
        stall = self.save_stall or 0.0
        fields = {"step": saved.step, "dir": saved.directory, "start": saved.began, "staged": saved.staged}
        fields |= {"committed": saved.committed, "bytes": saved.bytes, "stall": stall}
        self.context.reporter.add("checkpoint", t=saved.committed, **fields)

    def _commit_fields(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "step": self.step,
            "position": self.step * plan.global_batch,
            "strategy": plan.strategy,
            **plan.hashes,
            "stream_state": self.stream.state(),
            "program": plan.program,
            # Randomness is a function of these: nothing else of a generator's state outlives a step.
            "metadata": {"rng": {"seed": plan.seed, "position": self.step * plan.global_batch}},
        }

    def load(self, commit: Mapping[str, Any]) -> None:
        """Fills model and optimizer from a commit, verified."""
        load_state(
            self.spread.model,
            self.optimizer,
            lambda state: load_checkpoint(self.place, str(commit["dir"]), state),
        )

    @contextmanager
    def spanned(self, cause: str) -> Iterator[None]:
        """Records the block as a span of this rank."""
        start = self.context.clock.now()
        try:
            yield
        finally:
            self.context.reporter.span(cause, start, self.context.clock.now())

    def _next_batch(self, position: int) -> Batch:
        batch = self.stream.next()
        if batch is None or int(batch["step_position"]) != position:
            found = "its end" if batch is None else f"position {batch['step_position']}"
            raise _core.InternalError(f"the stream is at {found}, expected position {position}")
        return batch

    def _to_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = self.context.device
        tokens, labels, positions = (torch.from_numpy(batch[key]) for key in ("tokens", "labels", "position_ids"))
        return tokens.to(device), labels.to(device), positions.to(device)

    def _seed_randomness(self, position: int) -> None:
        key = f"{self.plan.seed}/{position}/{self.context.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)


def batch_digests(batch: Batch) -> tuple[int, int]:
    """Order and token digest of a micro batch, from the arrays whose memory enters the step."""
    names = ("tokens", "labels", "positions", "source", "epoch", "index")
    order, token = _core.batch_digests(*(batch[name] for name in names))
    return int(order), int(token)


def slice_of(rank: int, world: int, position: int, global_batch: int) -> tuple[int, int]:
    """The positions that `rank` trains on in the step at `position`: contiguous, sizes differ by at most one."""
    base, rest = divmod(global_batch, world)
    first = position + rank * base + min(rank, rest)
    return first, first + base + (1 if rank < rest else 0)


def _newest_commit(plan: Plan, context: Context) -> dict[str, Any] | None:
    """Rank 0's answer, for all: two ranks must not see two different newest commits."""
    answer: list[Any] = [None]
    if context.rank == 0:
        text = _core.newest(plan.store)
        answer = [None if text is None else json.loads(text)]
    dist.broadcast_object_list(answer, src=0, group=context.save_group)
    commit: dict[str, Any] | None = answer[0]
    return commit
