"""A pool of processes that have torch imported, to make a world of any size up to theirs in milliseconds.

    ranks.run(3, body, *arguments)   # → what `body(rank, 3, *arguments)` returned on each rank

`body` is a function of a module. When a rank raises, its error is raised here, and its peers, who wait for it in
vain, are left alone: processes that do not come back are replaced.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SIZE = 4
# Only a hang is as slow as this.
PATIENCE_SECONDS = 240.0
# Peers of a rank that raised see its sockets close; who has seen nothing by then waits for something else.
FAREWELL_SECONDS = 5.0

Body = Callable[..., Any]


@contextmanager
def faults(**injected: Any) -> Iterator[None]:
    """Has the stores that are opened inside fail or dawdle (the keys are those of `EAGLERAY_STORE_FAULTS`)."""
    os.environ["EAGLERAY_STORE_FAULTS"] = json.dumps(injected)
    try:
        yield
    finally:
        del os.environ["EAGLERAY_STORE_FAULTS"]


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            body, rank, world, rendezvous, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(body, rank, world, rendezvous, arguments))


def _outcome(body: Body, rank: int, world: int, rendezvous: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    try:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
        try:
            return body(rank, world, *arguments), None
        finally:
            dist.destroy_process_group()
    except BaseException as error:
        return None, error


@dataclass
class _Process:
    """One process, and the pipe to it."""

    process: Any
    connection: Connection

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


@dataclass
class Ranks:
    """The pool. It starts what it lacks when it is asked to run something."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="er-ranks-")))
    _processes: list[_Process] = field(default_factory=list)
    _worlds: int = 0

    def run(self, world: int, body: Body, *arguments: Any) -> list[Any]:
        """Runs `body(rank, world, *arguments)` on each rank of a new gloo world; results by rank.

        Raises the first error that is not merely the loss of a peer.
        """
        self._fill()
        self._worlds += 1
        rendezvous = (self.folder / str(self._worlds)).as_uri()
        busy = self._processes[:world]
        for rank, each in enumerate(busy):
            each.connection.send((body, rank, world, rendezvous, arguments))
        results: dict[int, Any] = {}
        errors: list[BaseException] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(results) < len(busy):
            waiting = [each.connection for rank, each in enumerate(busy) if rank not in results]
            ready = wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
            if not ready:
                self._replace([each for rank, each in enumerate(busy) if rank not in results])
                break
            for rank, each in enumerate(busy):
                if each.connection in ready and rank not in results:
                    result, error = self._receive(each)
                    results[rank] = result
                    if error is not None:
                        deadline = min(deadline, time.monotonic() + FAREWELL_SECONDS)
                        errors.append(error)
        if errors:
            # What gloo says of a peer that left is a RuntimeError.
            raise min(errors, key=lambda error: isinstance(error, RuntimeError))
        assert len(results) == world, f"ranks {sorted(set(range(world)) - results.keys())} did not come back"
        return [results[rank] for rank in range(world)]

    def _receive(self, each: _Process) -> tuple[Any, BaseException | None]:
        try:
            outcome: tuple[Any, BaseException | None] = each.connection.recv()
        except EOFError:
            self._replace([each])
            return None, RuntimeError("a rank's process ended")
        return outcome

    def _fill(self) -> None:
        context = mp.get_context("spawn")
        while len(self._processes) < SIZE:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._processes.append(_Process(process=process, connection=here))

    def _replace(self, lost: list[_Process]) -> None:
        self._processes = [each for each in self._processes if each not in lost]
        for each in lost:
            each.end()

    def end(self) -> None:
        """Leaves nothing behind."""
        self._replace(list(self._processes))
