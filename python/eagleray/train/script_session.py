"""What a run keeps for a script of the user's own on one rank: its saves under our commit, its steps in the ledger.

A save goes into a folder of the rank's own first. When every rank has written, rank 0 commits what they all wrote, and
only then a link appears at the path that the script named: whoever looks there, the script too when it is started
again, sees whole checkpoints and no others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from eagleray import _core
from eagleray.checkpoint import Place
from eagleray.checkpoint.engine import agree, verify
from eagleray.checkpoint.files import write_files

from .ledger import Clock, Event, Reporter
from .plan import Plan
from .resume import newest_fitting, superseded
from .script_data import Feed, sum_over

T = TypeVar("T")
# A script that tells of no steps is accounted for this often.
PULSE_SECONDS = 2.0
_STOP, _SUPERSEDED = 1, 2


class StopScript(BaseException):
    """The run was asked to stop and has just saved: unwinds the script, whatever exceptions it catches."""


class Session:
    """One rank's end of a run whose training is a script."""

    def __init__(
        self, plan: Plan, *, rank: int, world: int, attempt: int, reached_step: int, clock: Clock, reporter: Reporter
    ) -> None:
        self.plan, self.rank, self.world, self.attempt = plan, rank, world, attempt
        self.clock, self.reporter = clock, reporter
        self.step = 0
        self.feed = Feed(plan, rank=rank, world=world, clock=clock) if plan.sources else None
        self.total_steps: int | None = plan.steps or None
        self.stopped = False
        # Who tells of steps, once somebody does: a Trainer steps through Accelerate's optimizer as well.
        self.teller: str | None = None
        self._reached_step = reached_step
        self._group: dist.ProcessGroup | None = None
        self._pending: Event | None = None
        self._store = Path(plan.store).resolve()
        # Removed when the script has ended.
        self.scratch = Path(tempfile.mkdtemp(prefix="eagleray-script-"))
        self._lock = threading.Lock()
        self._mark = clock.now()
        self._ended = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The block is the script: its time is accounted for, and what it left in our scratch is removed."""
        self._mark = self.clock.now()
        pulse = threading.Thread(target=self._pulse, name="script-account", daemon=True)
        pulse.start()
        try:
            yield
        finally:
            self._ended.set()
            pulse.join()
            self.tell()
            self._cover()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def join(self) -> None:
        """Opens a group of our own beside the script's; every rank comes here at the same place of the script."""
        if self._group is not None or self.world == 1:
            return
        if not dist.is_initialized():
            raise _core.InvalidError(
                f"rank {self.rank} of {self.world} trains alone: the script joined no process group; without GPUs, "
                "`Accelerator` and `TrainingArguments` must not be told of another device"
            )
        group: Any = dist.new_group(backend="gloo")
        self._group = group

    @property
    def next_step(self) -> int:
        """The step of a script that does not count: after that of a checkpoint, or after where its data began."""
        return max(self.step, 0 if self.feed is None else self.feed.begun) + 1

    def go_on_from(self, commit: Mapping[str, Any]) -> None:
        """The script goes on after the step of a commit."""
        self.step = int(commit["step"])
        if self.feed is not None:
            self.feed.go_on_from(self.step)

    def ended_step(self, step: int, **fields: Any) -> None:
        """A step is done; what is known of it later may be added until the next one ends."""
        self.tell()
        waited = 0.0
        if self.feed is not None:
            fields |= self.feed.ended_step(step, functools.partial(sum_over, self._group))
            waited = self.feed.waited()
        with self._lock:
            now, start = self.clock.now(), self._mark
            self._mark, self.step = now, step
        event = {"step": step, "recompute": step <= self._reached_step, "start": start, "end": now}
        waited = min(waited, now - start)
        event |= {"data_wait": waited, "compute": now - start - waited, "checkpoint_stall": 0.0}
        if self.feed is not None:
            event["position"] = (step - 1) * self.plan.global_batch
        if self.rank == 0:
            event |= {"world": self.world, **fields}
            if self.total_steps is not None:
                event["total_steps"] = self.total_steps
        self._pending = event

    def add_to_step(self, **fields: Any) -> None:
        """Adds to the last step; what concerns all ranks is said by rank 0."""
        if self._pending is not None and self.rank == 0:
            self._pending.update(fields)

    def tell(self) -> None:
        """Hands the last step to the ledger."""
        event, self._pending = self._pending, None
        if event is not None:
            self.reporter.add("step", t=event["end"], **event)

    def must_stop(self) -> bool:
        """Whether any rank has heard that the run is to stop; asked by every rank at once."""
        signalled = self.reporter.signalled
        flag = torch.tensor(_SUPERSEDED if signalled("superseded") else _STOP if signalled("stop") else 0)
        if self._group is not None:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        if int(flag) == _SUPERSEDED:
            raise superseded(self.plan.store, self.attempt)
        self.stopped = self.stopped or int(flag) == _STOP
        return self.stopped

    def save(self, path: Path, write: Callable[[Path], T], writer: str) -> T:
        """Has `write` fill a folder of this rank, commits what all ranks wrote, and shows it at `path`."""
        self.join()
        self.tell()
        self._cover()
        _require_free(path, self._store)
        began = self.clock.now()
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        result = write(folder)
        staged = self.clock.now()
        fields = {
            "step": self.step,
            "position": self.step * self.plan.global_batch,
            "strategy": str(self.plan.layout),
            **self.plan.hashes,
            "stream_state": None if self.feed is None else self.feed.state_at(self.step),
            "program": self.plan.program,
            "metadata": {"script": {"path": str(path), "writer": writer}},
        }
        # A step that a commit holds is never taken again, so the ledger must tell of it by then.
        directory, size = write_files(self._place(), folder, fields, self.reporter.sync)
        shutil.rmtree(folder, ignore_errors=True)
        _show(path, self._store / directory)
        committed = self.clock.now()
        self.reporter.span("checkpoint_stall", began, committed)
        if self.rank == 0:
            times = {"start": began, "staged": staged, "committed": committed, "stall": committed - began}
            self.reporter.add("checkpoint", t=committed, step=self.step, dir=directory, bytes=size, **times)
            self._sweep()
        # No rank looks at the folder before what is swept is gone.
        agree(self._place(), self.show_saves if self.rank == 0 else lambda: None)
        self._mark = self.clock.now()
        return result

    def opened(self, path: Path) -> Mapping[str, Any] | None:
        """The commit that `path` shows, its files verified by all ranks together; None for any other folder."""
        real = path.resolve()
        if not real.is_relative_to(self._store / "checkpoints"):
            return None
        directory = real.relative_to(self._store).as_posix()
        return self._verified(directory)

    def newest_in(self, parent: Path) -> Mapping[str, Any] | None:
        """The run's newest commit, verified, if the script saved it to a folder directly below `parent`."""
        self.join()
        commit = agree(self._place(), lambda: newest_fitting(self.plan) if self.rank == 0 else None)
        if commit is None or Path(_shown_at(commit)).parent != absolute(parent):
            return None
        return self._verified(str(commit["dir"]))

    def folder_of(self, commit: Mapping[str, Any]) -> Path:
        """Where the files of a commit lie."""
        return self._store / str(commit["dir"])

    def show_saves(self) -> None:
        """Links each committed save at the path that the script gave it, and takes links to others away."""
        shown: dict[Path, Path] = {}
        for save in json.loads(_core.list_saves(self.plan.store)):
            if save["state"] != "committed":
                continue
            commit = json.loads(_core.read_commit(self.plan.store, save["dir"]))
            if place := _shown_at(commit):
                shown[Path(place)] = self._store / str(save["dir"])
        for parent in {path.parent for path in shown}:
            for entry in parent.iterdir() if parent.is_dir() else ():
                # A name with a dot is a link that another rank is about to put in place.
                if entry not in shown and entry.name[0] != "." and is_ours(entry, self._store):
                    entry.unlink(missing_ok=True)
        for path, target in shown.items():
            if path.is_symlink() or not path.exists():
                _show(path, target)

    def _verified(self, directory: str) -> Mapping[str, Any]:
        began = self.clock.now()
        self._cover()
        verify(self._place(), directory)
        commit: Mapping[str, Any] = json.loads(_core.read_commit(self.plan.store, directory))
        self._mark = self.clock.now()
        self.reporter.span("load", began, self._mark)
        return commit

    def _place(self) -> Place:
        return Place(
            store_url=self.plan.store, attempt=self.attempt, rank=self.rank, world=self.world, group=self._group
        )

    def _sweep(self) -> None:
        # What could not be deleted now is deleted after the next commit.
        with contextlib.suppress(_core.EagleRayError):
            _core.sweep(self.plan.store, json.dumps(dict(self.plan.keep)), self.attempt)

    def _pulse(self) -> None:
        while not self._ended.wait(PULSE_SECONDS):
            if self.teller is None:
                self._cover()

    def _cover(self) -> None:
        """The time since it was last accounted for was the script's."""
        with self._lock:
            now, start = self.clock.now(), self._mark
            self._mark = now
        self.reporter.span("compute", start, now)


def absolute(path: Path) -> Path:
    """The path from the root, its links kept."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100


def is_ours(path: Path, store: Path) -> bool:
    """Whether the path is a link to a save of the store."""
    return path.is_symlink() and Path(os.readlink(path)).is_relative_to(store / "checkpoints")  # noqa: PTH115


def _shown_at(commit: Mapping[str, Any]) -> str:
    return str(((commit.get("metadata") or {}).get("script") or {}).get("path") or "")


def _require_free(path: Path, store: Path) -> None:
    if is_ours(path, store) or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    raise _core.InvalidError(
        f"the script saves to `{path}`, where something lies that is no checkpoint of this run; name a folder of its "
        "own, or move what is there"
    )


def _show(path: Path, target: Path) -> None:
    """Puts a link at `path`, in place of an older one or of an empty folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.rmdir()
    link = path.with_name(f".{path.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    link.replace(path)
