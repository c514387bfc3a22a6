"""When the loop saves, and what it makes of how saves went. Every decision falls on all ranks at one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eagleray import _core
from eagleray.checkpoint import CheckpointEngine, Place, Saved
from eagleray.checkpoint.engine import agree
from eagleray.checkpoint.engine import load as load_checkpoint

from .context import BatchStream, Context
from .heading import Heading
from .state import Held
from .totals import Totals

# A store that does not answer costs one save, not the run; after this many in a row the run stops.
FAILED_SAVES_MAX = 3


class Saver:
    """The checkpoints of one rank's loop."""

    def __init__(
        self, context: Context, held: Held, stream: BatchStream | None, step: int, heading: Heading | None = None
    ) -> None:
        plan = context.plan
        self._context, self._held, self._stream = context, held, stream
        self._heading = heading or Heading.of(plan, None)
        self._place = Place(
            store_url=plan.store,
            attempt=context.attempt,
            rank=context.rank,
            world=context.world,
            group=context.save_group,
        )
        # A step that a commit holds is never taken again, so the ledger must tell of it by then.
        self._engine = CheckpointEngine(self._place, context.clock.now, self._sweep, context.reporter.sync)
        self._begun_step = step
        self._began = context.clock.now()
        self._stall: float | None = None
        self._seconds: float | None = None
        self._failures = 0
        self._asked = False
        self.saved_step = step

    def load(self, commit: Mapping[str, Any]) -> None:
        """Fills what is held from a commit, verified."""
        directory = str(commit["dir"])
        values = (commit.get("metadata") or {}).get("values") or {}
        self._held.restore(lambda state: load_checkpoint(self._place, directory, state), values)

    def leave_out(self, commit: Mapping[str, Any], heading: Heading) -> None:
        """Has whoever goes on from `commit` take over `heading`; every rank returns when it is written down."""

        def write() -> None:
            if self._context.rank == 0:
                store, attempt = self._context.plan.store, self._context.attempt
                _core.leave_out(store, attempt, str(commit["dir"]), json.dumps(heading.kept()))

        agree(self._place, write)

    def note_skip(self, batch: int, anomaly: Mapping[str, Any]) -> None:
        """Writes down that the update of `batch` is left out; every rank returns when it is."""

        def write() -> None:
            if self._context.rank == 0:
                _core.note_skip(self._context.plan.store, self._context.attempt, batch, json.dumps(anomaly))

        agree(self._place, write)

    def noted_skips(self, batch: int) -> dict[int, dict[str, Any]]:
        """What was written down of `batch` and those after it: rank 0 reads, for all."""

        def read() -> dict[int, dict[str, Any]]:
            noted = json.loads(_core.noted_skips(self._context.plan.store, batch)) if self._context.rank == 0 else {}
            return {int(each): anomaly for each, anomaly in noted.items()}

        return agree(self._place, read)

    def go_on(self, stream: BatchStream, step: int, heading: Heading) -> None:
        """Takes over where the run stands after it went back to `step`."""
        self._stream, self._heading = stream, heading
        self._begun_step = self.saved_step = step
        self._began = self._context.clock.now()

    def _due(self, step: int) -> bool:
        """Whether to save after `step`; asked of rank 0 alone, once a step, as it may read the clock."""
        asked_before, self._asked = self._asked, self._context.reporter.signalled("save")
        if self._asked and not asked_before:
            return True
        since = self._context.clock.now() - self._began
        return self._context.plan.cadence.due(step, since, self._context.world, self._stall, self._seconds)

    def set_flags(self, mine: Totals, step: int) -> None:
        """What this rank has to say to the world at `step`. Decisions that read a clock are rank 0's alone."""
        reporter = self._context.reporter
        mine.stop = int(reporter.signalled("stop"))
        mine.superseded = int(reporter.signalled("superseded"))
        if self._context.rank == 0:
            mine.save_due = int(self._due(step))
            mine.save_failed = int(self._engine.failed())

    def save(self, step: int, *, wait: bool) -> None:
        """Begins a save of `step`; the time until training may go on is the stall."""
        if self._begun_step == step:
            return
        self._begun_step = step
        began = self._context.clock.now()
        with self._context.spanned("checkpoint_stall"):
            self.collect()
            tensors, values = self._held.gather()
            self._engine.save_async(tensors, self._commit_fields(step, values))
            self._stall = self._context.clock.now() - began
            self._began = began
            if wait or not self._context.plan.save_async:
                self.collect(last=wait)

    def poll(self) -> None:
        """Takes the outcome of a save that has ended well; a failed one waits until rank 0 has told all ranks."""
        if self._engine.finished() and not self._engine.failed():
            self.collect()

    def collect(self, *, last: bool = False) -> None:
        """Takes the outcome of the save in flight, waiting for it if need be; a failed one may be forgiven."""
        if not self._engine.in_flight:
            return
        try:
            saved = self._engine.collect()
        except _core.UnavailableError as error:
            self._failures += 1
            if last or self._failures >= FAILED_SAVES_MAX:
                raise
            if self._context.rank == 0:
                self._context.reporter.add("failure", t=self._context.clock.now(), reason=f"save failed: {error}")
            return
        self._failures = 0
        if saved is not None:
            self._note(saved)

    def _note(self, saved: Saved) -> None:
        self.saved_step = saved.step
        self._seconds = saved.committed - saved.began
        if self._context.rank == 0:
            fields = {"step": saved.step, "dir": saved.directory, "start": saved.began, "staged": saved.staged}
            fields |= {"committed": saved.committed, "bytes": saved.bytes, "stall": self._stall or 0.0}
            self._context.reporter.add("checkpoint", t=saved.committed, **fields)

    def _commit_fields(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        plan = self._context.plan
        position = self._heading.course.end_of(step) * plan.global_batch
        # Randomness is a function of these: nothing else of a generator's state outlives a step.
        metadata: dict[str, Any] = {"rng": {"seed": plan.seed, "position": position}}
        if values:
            metadata["values"] = values
        if kept := self._heading.kept():
            metadata["anomalies"] = kept
        return {
            "step": step,
            "position": position,
            "strategy": str(plan.layout),
            **plan.hashes,
            "stream_state": None if self._stream is None else json.loads(self._stream.state()),
            "program": plan.program,
            "metadata": metadata,
        }

    def _sweep(self) -> None:
        _core.sweep(self._context.plan.store, json.dumps(dict(self._context.plan.keep)), self._context.attempt)
