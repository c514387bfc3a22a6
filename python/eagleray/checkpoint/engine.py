"""Saves in the background and loads what was verified: DCP in the middle, our lineage and commit around it.

A save is a copy to host memory, then a thread of each rank that writes files, then segments, then one
commit by rank 0. The thread talks to its peers over a gloo group of its own, so the training step never
waits for it; a save that fails or dies leaves no commit, and no reader sees it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from eagleray import _core
from eagleray._commit import ENGINE

from .buffers import HostBuffers, Staging
from .flat import FlatPart
from .storage import StoreReader, StoreWriter, WrittenFile

State = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run's saves go, and who writes: one rank of a world, for one attempt."""

    store_url: str
    attempt: int
    rank: int
    world: int
    group: dist.ProcessGroup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A save that was committed. Times are seconds since the epoch."""

    step: int
    directory: str
    began: float
    staged: float
    committed: float
    bytes: int


@dataclass(slots=True)
class _Flight:
    """One save on its way; `error` or `saved` is set when the thread ends."""

    step: int
    thread: threading.Thread | None = None
    saved: Saved | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class CheckpointEngine:
    """At most one save in flight; every rank of the world calls the same methods in the same order.

    Two things are done on rank 0 in the save's thread, where they delay no step: `prepare` before each commit,
    what must be on the store by then, and `sweep` after it.
    """

    def __init__(
        self,
        place: Place,
        now: Callable[[], float] = time.time,
        sweep: Callable[[], object] | None = None,
        prepare: Callable[[], None] | None = None,
        buffers: HostBuffers | None = None,
    ) -> None:
        self._place = place
        self._buffers = HostBuffers() if buffers is None else buffers
        self._now = now
        self._sweep = sweep
        self._prepare = prepare
        self._flight: _Flight | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a save has begun that nobody has collected."""
        return self._flight is not None

    def save_async(self, state: State, commit: Mapping[str, Any]) -> None:
        """Copies `state` to host memory and returns; the rest happens in a thread of this process.

        `commit` holds the fields of the commit that the engine does not know (`step`, `position`, hashes …).
        The save before must have been collected.
        """
        if self._flight is not None:
            raise _core.InternalError("a save began before the one before it was collected")
        began = self._now()
        staging = self._buffers.staging()
        staged = stage(state, staging)
        flight = _Flight(step=int(commit["step"]))
        times = (began, self._now())
        flight.thread = threading.Thread(
            target=self._run,
            args=(flight, staged, staging.taken, dict(commit), times),
            name=f"save-{flight.step}",
            daemon=True,
        )
        self._flight = flight
        flight.thread.start()

    def finished(self) -> bool:
        """Whether the save in flight has ended, well or not; false when there is none."""
        return self._flight is not None and self._flight.done.is_set()

    def failed(self) -> bool:
        """Whether the save in flight has ended badly."""
        return self._flight is not None and self._flight.done.is_set() and self._flight.error is not None

    def collect(self) -> Saved | None:
        """Waits for the save in flight and returns it; raises what it failed with. None when there is none."""
        flight, self._flight = self._flight, None
        if flight is None:
            return None
        flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return flight.saved

    def _run(
        self,
        flight: _Flight,
        state: State,
        taken: list[torch.Tensor],
        commit: dict[str, Any],
        times: tuple[float, float],
    ) -> None:
        try:
            directory, size = write(self._place, state, commit, self._prepare)
            # Here alone: who knows what of a save that failed still reads its buffers.
            self._buffers.give_back(taken)
            began, staged = times
            flight.saved = Saved(
                step=flight.step, directory=directory, began=began, staged=staged, committed=self._now(), bytes=size
            )
            if self._sweep is not None and _first(self._place):
                # What could not be deleted now is deleted after the next commit.
                with contextlib.suppress(_core.EagleRayError):
                    self._sweep()
        except Exception as error:
            flight.error = error
        finally:
            flight.done.set()


def stage(state: State, staging: Staging) -> State:
    """A copy of `state` in host memory, complete when this returns."""

    def copy(value: Any) -> Any:
        if isinstance(value, FlatPart):
            return value.staged(staging.copy)
        if isinstance(value, dict):
            return {name: copy(inner) for name, inner in value.items()}
        return staging.copy(value) if isinstance(value, torch.Tensor) else value

    copied = {name: copy(value) for name, value in state.items()}
    staging.finish()
    return copied


def write(
    place: Place, state: State, commit: Mapping[str, Any], prepare: Callable[[], None] | None = None
) -> tuple[str, int]:
    """Writes and commits one save; returns its directory and size. Every rank raises when any rank failed."""
    directory, store = begin(place, int(commit["step"]))
    writer = StoreWriter(store)
    try:
        with _alone(place):
            dcp_save(state, storage_writer=writer, process_group=place.group, no_dist=place.group is None)
    except CheckpointException as error:
        raise _cause(error) from error
    return directory, finish(place, directory, lambda: writer.files.written, {"engine": ENGINE, **commit}, prepare)


def begin(place: Place, step: int) -> tuple[str, _core.Store]:
    """The directory of a new save, which all ranks agree on, and a store of it."""
    directory = agree(
        place, lambda: str(_core.next_save(place.store_url, place.attempt, step)) if _first(place) else ""
    )
    return directory, opened(place, directory)


def finish(
    place: Place,
    directory: str,
    written: Callable[[], list[WrittenFile]],
    commit: Mapping[str, Any],
    prepare: Callable[[], None] | None,
) -> int:
    """Writes each rank's segment of the files that `written` tells of, then the commit on rank 0; its size in bytes."""
    agree(place, lambda: _write_segment(place, directory, written()))
    return agree(place, lambda: _commit(place, directory, commit, prepare) if _first(place) else 0)


def _write_segment(place: Place, directory: str, written: list[WrittenFile]) -> None:
    segment = json.dumps({"rank": place.rank, "files": [file.to_json() for file in written]})
    _core.write_segment(place.store_url, directory, place.rank, segment)


def _commit(place: Place, directory: str, commit: Mapping[str, Any], prepare: Callable[[], None] | None) -> int:
    if prepare is not None:
        prepare()
    fields = {"attempt": place.attempt, "world": place.world, **commit}
    _core.commit(place.store_url, directory, json.dumps(fields))
    committed = json.loads(_core.read_commit(place.store_url, directory))
    return sum(int(file["bytes"]) for file in committed["files"])


def load(place: Place, directory: str, state: State) -> None:
    """Verifies the files of a commit and reads `state`'s tensors in place."""
    verify(place, directory)
    read(place, directory, state)


def read(place: Place, directory: str, state: State) -> None:
    """Reads `state`'s tensors in place, of a commit whose files have been verified."""
    reader = StoreReader(opened(place, directory))
    try:
        with _alone(place):
            dcp_load(state, storage_reader=reader, process_group=place.group, no_dist=place.group is None)
    except CheckpointException as error:
        raise _cause(error) from error


def verify(place: Place, directory: str) -> None:
    """Verifies the files of a commit, a share by each rank."""
    agree(place, lambda: _core.verify(place.store_url, directory, (place.rank, place.world)))


def opened(place: Place, directory: str) -> _core.Store:
    """A store of one save's folder."""
    return _core.Store(f"{place.store_url.rstrip('/')}/{directory}")


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """A single process is a world too: DCP's warning that it is one says nothing."""
    with warnings.catch_warnings():
        if place.group is None:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _first(place: Place) -> bool:
    return place.rank == 0


def agree(place: Place, action: Callable[[], T]) -> T:
    """Runs `action` on every rank and returns rank 0's result; raises the first rank's error on all of them."""
    outcome: tuple[T | None, Exception | None]
    try:
        outcome = (action(), None)
    except Exception as error:
        outcome = (None, error)
    outcomes: list[Any] = [outcome]
    if place.group is not None:
        outcomes = [None] * place.world
        dist.all_gather_object(outcomes, outcome, group=place.group)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    result: T = outcomes[0][0]
    return result


def _cause(error: CheckpointException) -> Exception:
    """The lowest rank's own error, without DCP's wrapping; ours keep their class and hint."""
    for _, (failure, _trace) in sorted(error.failures.items()):
        if isinstance(failure, Exception):
            return failure
    return _core.InternalError(str(error))
