"""The run's account as it happens: spans measured in the ranks, gathered and written beside the driver.

Ranks buffer events and hand them over about once a second from a thread of their own, so the step never
waits for the ledger. The keeper, an actor on the driver's node, writes them to the store, looks for a
newer attempt at each write, and answers every hand-over with what the rank must know: stop, superseded.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eagleray import _core

from .flops import mfu
from .sinks import Sinks, Wanted
from .whereabouts import Place, Whereabouts

FLUSH_SECONDS = 1.0
# Objects of the ledger are read one by one: the longer an attempt lasts, the more of its time each of them holds.
FLUSH_SHARE = 1 / 600
FLUSH_SECONDS_MAX = 10.0
# A rank hands its last events over within this long, or leaves: its peers may be gone.
CLOSE_SECONDS = 10.0
# Events of one driver and its ranks go through one writer.
WRITER = "driver"

Event = dict[str, Any]


class Clock:
    """Wall time that cannot jump: the monotonic clock, anchored once."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.perf_counter()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._anchor + time.perf_counter()


@dataclass(slots=True)
class StepWatch:
    """The spans of one step, each measured by its own start and end; what none covers stays uncovered."""

    clock: Clock
    start: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    _cause: str | None = None
    _since: float = 0.0

    def begin(self, cause: str) -> None:
        """Starts a step, with a span of `cause`."""
        self.start = self._since = self.clock.now()
        self.seconds = {}
        self._cause = cause

    def switch(self, cause: str) -> None:
        """Ends the span at hand and starts one of `cause`."""
        self.stop()
        self._cause = cause

    def stop(self) -> None:
        """Ends the span at hand; what follows is covered by none."""
        now = self.clock.now()
        if self._cause is not None:
            self.seconds[self._cause] = self.seconds.get(self._cause, 0.0) + now - self._since
        self._cause, self._since = None, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What the keeper tells a rank that joins: its generation, and the last step that was ever begun."""

    generation: int
    reached_step: int


class Reporter:
    """A rank's end of the ledger: events in, signals out."""

    def __init__(self, push: Callable[[list[Event], bool], dict[str, bool]], common: Event) -> None:
        self._push = push
        self._pushing = threading.Lock()
        self._common = common
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._closing = threading.Event()
        self._signals: dict[str, bool] = {}
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def add(self, kind: str, **fields: Any) -> None:
        """Buffers one event."""
        event = {"kind": kind, **self._common, **fields}
        with self._lock:
            self._events.append(event)

    def span(self, cause: str, start: float, end: float) -> None:
        """Buffers a span of this rank."""
        self.add("span", t=end, cause=cause, start=start, end=end)

    def signalled(self, name: str) -> bool:
        """Whether the keeper asks for `stop` or `save`, or has found this attempt `superseded`."""
        return self._signals.get(name, False)

    def sync(self) -> None:
        """Hands over every event so far and returns when the store has them; not for the step's own thread."""
        self._hand_over(durable=True)

    def close(self) -> None:
        """Hands over what is left; returns when it was taken or the time is up."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            closing = self._closing.wait(FLUSH_SECONDS)
            # A keeper that is gone took the driver with it, and this process will be ended from there.
            with contextlib.suppress(Exception):
                self._hand_over(durable=False)
            if closing:
                return

    def _hand_over(self, *, durable: bool) -> None:
        with self._pushing:
            with self._lock:
                events, self._events = self._events, []
            try:
                self._signals = self._push(events, durable)
            except BaseException:
                with self._lock:
                    self._events = events + self._events
                raise


@dataclass(slots=True)
class _Member:
    """What the keeper knows of a rank: the end of the last thing it told of."""

    last_end: float


class Keeper:
    """Writes the attempt's events and remembers what progress, signals and gaps need."""

    def __init__(
        self,
        store_url: str,
        attempt: int,
        began: float,
        reached_step: int,
        wanted: Wanted | None = None,
        anomalies: Iterable[Event] = (),
    ) -> None:
        self._store_url = store_url
        self._attempt = attempt
        self._ledger = _core.Ledger(store_url, attempt, WRITER)
        self._clock = Clock()
        self._generation = -1
        self._idle_since = began
        self._gap_cause = "setup"
        self._interrupted_at: float | None = None
        self._interrupt_reason = ""
        self._members: dict[int, _Member] = {}
        self._reached_step = reached_step
        self._signals = {"stop": False, "superseded": False, "save": False}
        # A save of this step or a later one answers the one that was asked for.
        self._save_from = 0
        self._world = 0
        self._began = began
        self._flushed_at = self._written_at = 0.0
        # Something was said that does not wait, unlike steps and spans.
        self._urgent = False
        self._latest: dict[str, Any] = {}
        self._recent: list[tuple[float, int, float, float]] = []
        self._sinks = Sinks(wanted, anomalies)
        self._whereabouts = Whereabouts(store_url, attempt)
        self._notices: list[str] = []

    def begin_generation(self, world: int, now: float) -> int:
        """A new worker group is being started; whatever the one before still had to say has arrived."""
        self._settle(now)
        self._world = world
        self._generation += 1
        self._recent.clear()
        self._whereabouts.begin(self._generation, world)
        reason = self._interrupt_reason or "start"
        self._write(
            [{"t": now, "kind": "generation", "generation": self._generation, "world": world, "reason": reason}]
        )
        return self._generation

    def enter(self, rank: int, entered: float, place: Place | None = None) -> Welcome:
        """A rank's code has begun to run: the time before it was set-up, or re-forming after a failure."""
        if place is not None:
            self._whereabouts.enter(rank, place)
        self._members[rank] = _Member(last_end=entered)
        self._write([self._span(self._gap_cause, rank, self._idle_since, entered)])
        return Welcome(generation=max(self._generation, 0), reached_step=self._reached_step)

    def push(self, generation: int, rank: int, events: list[Event], durable: bool) -> dict[str, bool]:
        """Takes a rank's events, written before it returns if `durable`; answers with the signals."""
        if generation == self._generation and events:
            self._write(events)
            self._observe(rank, events)
        if durable:
            self._ledger.flush()
        self._flush()
        return dict(self._signals)

    def interrupted(self, seen: float, reason: str) -> None:
        """The controller has seen a failure, or decided to resize."""
        if self._interrupted_at is None:
            self._interrupted_at = seen
            self._interrupt_reason = reason
            self._write([{"t": seen, "kind": "failure", "generation": self._generation, "reason": reason}])
            self._notices.append(f"the worker group was interrupted ({reason}); it is being rebuilt")

    def stop(self) -> None:
        """Asks every rank to save and leave at the end of its step."""
        self._signals["stop"] = True

    def ask_save(self) -> None:
        """Asks for a save at the end of a step, due or not."""
        self._save_from = self._reached_step
        self._signals["save"] = bool(self._members)

    def awaits_save(self) -> bool:
        """Whether a save that was asked for has not been committed yet, and may still be."""
        return self._signals["save"]

    def reached(self) -> int:
        """The last step that any attempt has begun, as far as its ranks have told."""
        return self._reached_step

    def progress(self) -> dict[str, Any]:
        """The latest step of rank 0 with rates over the last seconds, and what is new for people."""
        self._hear_sinks(self._clock.now())
        notices, self._notices = self._notices, []
        report = {**self._latest, "notices": notices, "ranks": self._ranks()}
        if len(self._recent) >= 2:
            seconds = self._recent[-1][0] - self._recent[0][0]
            tokens = sum(entry[1] for entry in self._recent[1:])
            waited = sum(entry[2] for entry in self._recent[1:])
            stepped = sum(entry[3] for entry in self._recent[1:])
            report["tokens_per_second"] = tokens / max(seconds, 1e-9)
            report["data_wait_share"] = waited / max(stepped, 1e-9)
            report["mfu"] = mfu(report["tokens_per_second"], self._latest)
            report["seconds_per_step"] = seconds / (len(self._recent) - 1)
        return report

    def _ranks(self) -> int:
        return 0 if self._interrupted_at is not None else len(self._members)

    def record(self, events: list[Event]) -> None:
        """Writes events of the driver itself."""
        self._write(events)

    def finish(self, now: float, outcome: str) -> None:
        """The attempt ends: closes every rank's time, writes the end and flushes."""
        self._settle(now)
        step = int(self._latest.get("step", 0))
        self._write([{"t": now, "kind": "attempt_end", "outcome": outcome, "step": step}])
        self._whereabouts.remove()
        self._sinks.close(outcome)
        self._hear_sinks(now)
        # The store may be what ended the attempt: then the last events are lost, and the cause is not.
        with contextlib.suppress(_core.EagleRayError):
            self._ledger.close()

    def _observe(self, rank: int, events: list[Event]) -> None:
        member = self._members.setdefault(rank, _Member(last_end=self._idle_since))
        for event in events:
            if rank == 0:
                self._sinks.observe(event)
            member.last_end = max(member.last_end, float(event.get("end", 0.0)))
            if event["kind"] == "step":
                self._reached_step = max(self._reached_step, int(event["step"]))
                if rank == 0:
                    shown = ("step", "loss", "lr", "world", "total_steps", "flops_per_token", "peak_flops")
                    self._latest.update({name: event[name] for name in shown if name in event})
                    seconds = event["end"] - event["start"]
                    self._recent.append((event["end"], event.get("tokens", 0), event["data_wait"], seconds))
                    del self._recent[:-50]
            elif event["kind"] == "validation":
                self._latest.setdefault("validation_first", event["loss"])
                self._latest["validation_last"] = event["loss"]
            elif event["kind"] == "checkpoint":
                self._latest["checkpoint_step"] = event["step"]
                self._latest["checkpoint"] = event["dir"]
                if int(event["step"]) >= self._save_from:
                    self._signals["save"] = False
            elif event["kind"] == "failure":
                # A save that failed will not be committed, whoever waits for it.
                self._signals["save"] = False

    def _hear_sinks(self, now: float) -> None:
        """Passes on what sinks have to say: to people, and with the place to the ledger."""
        for told in self._sinks.told():
            self._notices.append(told.message)
            place = {} if told.place is None else {"place": told.place}
            self._write([{"t": now, "kind": "metrics", "sink": told.sink, "message": told.message, **place}])

    def _settle(self, now: float) -> None:
        """Ends the time of the ranks of this generation: detection until the failure was seen, else wind-down.

        A generation of which no rank ever came leaves the gap before it open: it goes on until one does.
        """
        seen = self._interrupted_at
        ended = now if seen is None else seen
        for rank, member in self._members.items():
            cause = "setup" if seen is None else "detection"
            if ended > member.last_end:
                self._write([self._span(cause, rank, member.last_end, ended)])
        if self._members:
            for rank in set(range(self._world)) - self._members.keys():
                self._write([self._span(self._gap_cause, rank, self._idle_since, ended)])
            self._idle_since, self._gap_cause = ended, "reform"
        self._members = {}
        self._interrupted_at = None
        self._signals["save"] = False

    def _span(self, cause: str, rank: int, start: float, end: float) -> Event:
        generation = max(self._generation, 0)
        return {
            "t": end, "kind": "span", "cause": cause, "rank": rank, "generation": generation, "start": start, "end": end
        }  # fmt: skip

    def _write(self, events: list[Event]) -> None:
        if events:
            own = {"attempt": self._attempt, "writer": WRITER}
            self._urgent |= any(event["kind"] not in ("step", "span") for event in events)
            self._ledger.append(json.dumps([own | event for event in events]))

    def _flush(self) -> None:
        now = self._clock.now()
        if now - self._flushed_at < FLUSH_SECONDS:
            return
        self._flushed_at = now
        try:
            patience = min(max((now - self._began) * FLUSH_SHARE, FLUSH_SECONDS), FLUSH_SECONDS_MAX)
            if self._urgent or now - self._written_at >= patience:
                self._written_at = now
                self._ledger.flush()
                self._urgent = False
            # Here, since nobody's step waits for a flush.
            self._whereabouts.write()
            self._signals["superseded"] = not _core.is_current(self._store_url, self._attempt)
        except _core.EagleRayError as error:
            # Events stay in memory and go out with the next flush; training is not stopped for its diary.
            self._notices.append(f"the ledger could not be written, and will be with the next: {error}")
