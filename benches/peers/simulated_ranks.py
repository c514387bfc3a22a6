"""The driver of `eagleray train` with a world of simulated ranks in the place of Ray Train's: `EAGLERAY_PYTHON` of
`./dev bench head`.

Real: the driver with its claim, heartbeat and watch, the keeper and what it writes, the callback that tells the keeper
of a new world, each rank's reporter with its thread, what a rank says of a step, its call of the keeper through Ray,
and Ray Train's poll of the workers, from a process of its own as its controller's is. Simulated: a rank computes
nothing, and the ranks of a host share a process; many handles of one actor stand for as many workers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from eagleray.train import driver

RANKS = int(os.environ["EAGLERAY_BENCH_RANKS"])
STEP_SECONDS = float(os.environ["EAGLERAY_BENCH_STEP_SECONDS"])
RESULT = Path(os.environ["EAGLERAY_BENCH_RESULT"])
HOSTS = 4
# As the driver sets it for Ray Train.
POLL_SECONDS = 0.5


class Ranks:
    """The ranks of one host: each with the reporter that a rank has, all stepped by one thread."""

    def __init__(self, worker: Any, ranks: range) -> None:
        import torch

        from eagleray.train.ledger import Clock

        torch.set_num_threads(1)
        self._worker, self._ranks = worker, ranks
        self._clock, self._device = Clock(), torch.device("cpu")
        self._calls: list[float] = []

    def run(self) -> dict[str, Any]:
        """Takes steps until the keeper has told every rank to stop; says how long calls of the keeper took."""
        contexts = [self._join(rank) for rank in self._ranks]
        step = 0
        due = time.monotonic()
        while not all(context.reporter.signalled("stop") for context in contexts):
            step += 1
            due += STEP_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
            for context in contexts:
                self._step(context, step)
        for context in contexts:
            # All at once, as processes of their own would.
            context.reporter._closing.set()
        for context in contexts:
            context.reporter.close()
        return {"step": step, "calls": self._calls}

    def poll_status(self) -> Any:
        """What Ray Train's worker answers while its function runs."""
        from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus

        return WorkerStatus(running=True)

    def _join(self, rank: int) -> Any:
        from eagleray import _ray
        from eagleray.train.ledger import Reporter

        keeper = self._worker.keeper
        place = {**_ray.place(), "local_rank": rank % 8}
        welcome = ray.get(keeper.enter.remote(rank, self._clock.now(), place))

        def push(events: list[dict[str, Any]], durable: bool) -> dict[str, bool]:
            began = time.perf_counter()
            signals: dict[str, bool] = ray.get(keeper.push.remote(welcome.generation, rank, events, durable))
            self._calls.append(time.perf_counter() - began)
            return signals

        common = {"rank": rank, "generation": welcome.generation}
        return SimpleNamespace(
            plan=self._worker.plan,
            rank=rank,
            world=RANKS,
            device=self._device,
            clock=self._clock,
            reporter=Reporter(push, common),
        )

    def _step(self, context: Any, step: int) -> None:
        from eagleray.train.ledger import StepWatch
        from eagleray.train.steps import record_step
        from eagleray.train.totals import Totals

        now = self._clock.now()
        watch = StepWatch(self._clock, start=now - 0.98 * STEP_SECONDS)
        watch.seconds = {"data_wait": 0.0003, "compute": 0.97 * STEP_SECONDS}
        tokens = context.plan.global_batch * context.plan.sequence_length
        totals = Totals(
            order_digest=step << 40, token_digest=step << 41, loss=step << 20, tokens=tokens, counted=tokens
        )
        record_step(context, watch, step, totals, {"lr": 3e-4, "grad_norm": 1.25}, batch=step - 1, reached=0)


class Controller:
    """Ray Train's poll of its workers, as often as its controller asks them."""

    def __init__(self, hosts: list[Any]) -> None:
        from ray.train.v2._internal.execution.worker_group.worker import Worker
        from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup

        metadata: Any = None
        workers = [Worker(actor=hosts[rank % HOSTS], metadata=metadata, resources={"CPU": 1}) for rank in range(RANKS)]
        group: Any = WorkerGroup.__new__(WorkerGroup)
        group._worker_group_state = SimpleNamespace(workers=workers)
        group._world_rank_to_ongoing_poll, group._callbacks = {}, []
        group._worker_rank_to_replica_group_rank = None
        group._worker_health_check_timeout_s = 600.0
        self._group = group
        threading.Thread(target=self._run, daemon=True).start()

    def ready(self) -> bool:
        """That it polls."""
        return True

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            status = self._group.poll_status(timeout=POLL_SECONDS)
            assert not status.errors, status.errors
            time.sleep(max(0.0, began + POLL_SECONDS - time.monotonic()))


class SimulatedAttempt(driver._Attempt):
    """An attempt whose world is simulated."""

    def _fit(self, keeper: Any) -> None:
        try:
            self.result = self._simulate(keeper)
        except BaseException as error:
            self.error = error

    def _simulate(self, keeper: Any) -> dict[str, Any]:
        from eagleray import _ray_train
        from eagleray.train.entry import WorkerConfig

        told: Any = SimpleNamespace(num_workers=RANKS)
        _ray_train.KeeperCallback(keeper).before_worker_group_start(told)
        worker = WorkerConfig(plan=self.plan, attempt=self.attempt, keeper=keeper)
        remote: Any = ray.remote(num_cpus=0)
        # A host answers polls beside its steps; Ray Train's workers do so too.
        hosts = [
            remote(Ranks).options(max_concurrency=4).remote(worker, range(host, RANKS, HOSTS)) for host in range(HOSTS)
        ]
        running = [host.run.remote() for host in hosts]
        controller = remote(Controller).remote(hosts)
        ray.get(controller.ready.remote())
        ends = ray.get(running)
        calls = [seconds for end in ends for seconds in end["calls"]]
        RESULT.write_text(json.dumps({"calls": calls}), encoding="utf-8")
        return {"outcome": "stopped", "step": max(end["step"] for end in ends)}


if __name__ == "__main__":
    from eagleray.train.__main__ import main

    driver._Attempt = SimulatedAttempt  # type: ignore[misc]
    # The binary says `-m eagleray.train` first.
    sys.exit(main(sys.argv[3:]))
