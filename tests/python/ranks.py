"""Worlds of ranks without Ray, made in a fraction of a second: forks of one process that has torch imported.

    ranks.run(3, body, *arguments)   # → what `body(rank, 3, *arguments)` returned on each rank

`body` is a function of a module. Every world has processes of its own: torch remembers meshes of groups that are gone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["pytest", "torch", "peft", "eagleray.train.worker", "eagleray.train.huggingface", "training"]
PRELOADED += ["deepspeed"] if importlib.util.find_spec("deepspeed") else []
PRELOADED += [f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen3", "mistral", "gemma3", "gpt2")]
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


def _enter(connection: Connection, body: Body, rank: int, world: int, rendezvous: str, arguments: Any) -> None:
    torch.set_num_threads(1)
    connection.send(_outcome(body, rank, world, rendezvous, arguments))
    connection.close()


def _outcome(body: Body, rank: int, world: int, rendezvous: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    try:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
        try:
            return body(rank, world, *arguments), None
        finally:
            dist.destroy_process_group()
    except BaseException as error:
        return None, error


class Ranks:
    """Makes worlds. The process that its ranks are forked from is started with the first."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="er-ranks-"))
        self._worlds = 0
        # DeepSpeed looks for a device when it is imported.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # A pool of compilers for each rank would import torch once more in each.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def run(self, world: int, body: Body, *arguments: Any) -> list[Any]:
        """Runs `body(rank, world, *arguments)` on each rank of a new gloo world; results by rank.

        Raises the first error that is not merely the loss of a peer.
        """
        self._worlds += 1
        rendezvous = (self._folder / str(self._worlds)).as_uri()
        processes, connections = [], []
        for rank in range(world):
            here, there = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=_enter, args=(there, body, rank, world, rendezvous, arguments), daemon=True
            )
            process.start()
            there.close()
            processes.append(process)
            connections.append(here)
        try:
            return self._gathered(connections)
        finally:
            for process in processes:
                # Those that have answered are on their way out; who has not waits in vain.
                process.kill()
                process.join()

    def _gathered(self, connections: list[Connection]) -> list[Any]:
        results: dict[int, Any] = {}
        errors: list[BaseException] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(results) < len(connections):
            waiting = [connection for rank, connection in enumerate(connections) if rank not in results]
            ready = wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
            if not ready:
                break
            for connection in ready:
                rank = connections.index(connection)
                results[rank], error = self._received(connection, rank)
                if error is not None:
                    deadline = min(deadline, time.monotonic() + FAREWELL_SECONDS)
                    errors.append(error)
        if errors:
            # What gloo says of a peer that left is a RuntimeError.
            raise min(errors, key=lambda error: isinstance(error, RuntimeError))
        missing = sorted(set(range(len(connections))) - results.keys())
        assert not missing, f"ranks {missing} did not come back"
        return [results[rank] for rank in range(len(connections))]

    def _received(self, connection: Any, rank: int) -> tuple[Any, BaseException | None]:
        try:
            outcome: tuple[Any, BaseException | None] = connection.recv()
        except EOFError:
            return None, RuntimeError(f"the process of rank {rank} ended")
        return outcome

    def end(self) -> None:
        """Removes what worlds met in."""
        shutil.rmtree(self._folder, ignore_errors=True)
