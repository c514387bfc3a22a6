"""A bounded queue and a thread between the keeper and one sink: what is slow or broken there stays there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .figures import Figures, Sink

# Enough for an hour of steps of a second; figures that wait longer make room for newer ones.
QUEUE_MAX = 4096
# A sink that failed is tried again after the first pause, then after twice as long, up to the last.
RETRY_SECONDS = (5.0, 600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a sink has to say to people: where it is, or what keeps it from writing."""

    sink: str
    message: str
    place: str | None = None


class Feed:
    """Hands figures to a sink on a thread of its own; says once what is wrong, and goes on trying."""

    def __init__(self, name: str, sink: Sink, tell: Callable[[Told], None]) -> None:
        self._name, self._sink, self._tell = name, sink, tell
        self._waiting: deque[Figures] = deque()
        self._changed = threading.Condition()
        self._outcome: str | None = None
        self._complained: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"metrics-{name}", daemon=True)
        self._thread.start()

    def put(self, figures: Figures) -> None:
        """Queues figures; returns at once, whatever the sink does."""
        with self._changed:
            self._waiting.append(figures)
            self._trim()
            self._changed.notify()

    def close(self, outcome: str) -> None:
        """Lets the thread end with what is queued; `join` waits for it."""
        with self._changed:
            self._outcome = outcome
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Whether all was written within the time."""
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            self._complain("slow", "did not take the last figures in time")
        return not self._thread.is_alive()

    def _run(self) -> None:
        opened, pause = False, RETRY_SECONDS[0]
        while True:
            batch, outcome = self._take(wait=opened)
            try:
                if not opened:
                    place = self._sink.open()
                    opened = True
                    if place is not None:
                        self._tell(Told(sink=self._name, message=f"metrics: {self._name} at {place}", place=place))
                if batch:
                    self._sink.write(batch)
                    batch = []
                pause = RETRY_SECONDS[0]
                if outcome is not None:
                    self._sink.close(outcome)
                    return
            except Exception as error:
                opened = False
                self._put_back(batch)
                reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
                self._complain("failed", f"cannot be written, and is tried again now and then: {reason}")
                if outcome is not None:
                    return
                self._rest(pause)
                pause = min(2.0 * pause, RETRY_SECONDS[1])

    def _take(self, *, wait: bool) -> tuple[list[Figures], str | None]:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self._outcome is not None)
            batch = list(self._waiting)
            self._waiting.clear()
            return batch, self._outcome

    def _put_back(self, batch: list[Figures]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(batch))
            self._trim()

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None, timeout=seconds)

    def _trim(self) -> None:
        while len(self._waiting) > QUEUE_MAX:
            self._waiting.popleft()
            self._complain("behind", f"is more than {QUEUE_MAX} steps behind; the oldest are left out")

    def _complain(self, what: str, message: str) -> None:
        """Says a thing once; whoever is behind because it failed has said why."""
        if what not in self._complained and not ("failed" in self._complained and what == "behind"):
            self._complained.add(what)
            self._tell(Told(sink=self._name, message=f"metrics: {self._name} {message}"))
