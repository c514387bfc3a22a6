"""The driver of one attempt: idempotent from the first line, so the same command always continues the run.

    finished already? → same spec? → datasets built → attempt claimed → Ray Train fits, re-forms, fits on
        → account closed, summary and report

It runs the trainer in a thread and keeps the main thread for signals and the progress line.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from eagleray import _core
from eagleray._commit import ENGINE, FILES, require_fit
from eagleray._failure import EXIT_DONE, EXIT_STOPPED

from .account import grow, report, summary, told_before
from .console import Console
from .datasets import ensure_datasets
from .ledger import Clock
from .model_config import with_model
from .plan import Plan, plan_from
from .resume import last_end, newest, newest_fitting, superseded
from .script_config import require_config
from .sinks import Wanted, require_clients

POLL_SECONDS = 0.5
# Ranks notice a lost peer by its closed socket; this only bounds a peer that hangs without dying.
COLLECTIVE_TIMEOUT_SECONDS = 600
# How often a run of `workers: {min, max}` looks for room to grow; each time it does costs a re-forming.
RESIZE_SECONDS = 60.0
# Without any worker for this long, the driver says what it waits for, and again after as long.
WAIT_NOTICE_SECONDS = 45.0
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(Exception):
    """A signal asked this process to stop before there was anything to save."""


@dataclass(slots=True)
class Stop:
    """How often the user has asked to stop, by SIGINT or SIGTERM, and whether through the store."""

    count: int = 0
    by_store: bool = False
    training: bool = False

    def listen(self) -> None:
        """Takes the signals; once more after Ray starts, which takes SIGTERM for itself."""
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                signal.signal(number, self._ask)

    def exit_code(self) -> int:
        """The exit code of a run that was stopped and has saved."""
        # KubeRay takes any other end for a failure, and would make the next cluster and train on.
        return EXIT_DONE if self.by_store and _in_a_pod_of_ray() else EXIT_STOPPED

    def _ask(self, _number: int, _frame: object) -> None:
        self.count += 1
        # Before training there is nothing to save, and after the second time nobody wants to wait.
        if not self.training or self.count > 1:
            raise InterruptedRunError


def run(resolved: Mapping[str, Any], *, take_over: bool, built: bool = False, console: Console) -> int:
    """Runs or continues the run of a resolved spec; returns the exit code. `built` refuses to build its data."""
    with _signals() as stop:
        try:
            return _run(resolved, take_over=take_over, built=built, console=console, stop=stop)
        except (InterruptedRunError, KeyboardInterrupt):
            console.say("stopped without a save; resume with the same command")
            return EXIT_STOPPED
        except Exception as error:
            return console.error(_unwrapped(error), _logs())
        finally:
            _shutdown_ray()


def _run(resolved: Mapping[str, Any], *, take_over: bool, built: bool, console: Console, stop: Stop) -> int:
    _core.refuse_unavailable(json.dumps(resolved), "train")
    resolved = with_model(dict(resolved))
    spec = resolved["spec"]
    store_url = spec["store"]
    require_clients(Wanted.of(resolved))
    commit = newest(store_url)
    if commit is not None:
        _require_same_run(store_url, resolved, commit)
    if (step := _completed(resolved, commit)) is not None:
        console.say(f"run `{spec['name']}` is complete: {step} steps; nothing to do")
        report(store_url, console)
        console.summary(summary(store_url, spec["name"], "completed", step))
        return EXIT_DONE
    workers = spec["cluster"]["workers"]

    def start_ray() -> None:
        from eagleray import _ray

        _ray.start(workers["max"], verbose=console.verbose)
        stop.listen()

    datasets = ensure_datasets(resolved, console, start_ray, built=built)
    plan = plan_from(resolved, datasets.urls, datasets.vocab_size)
    if plan.script is not None:
        script = plan.script.fetched()
        plan = replace(plan, script=script)
        if not os.environ.get("RAY_ADDRESS"):
            script.require_there()
    _require_samples(plan)
    commit = newest_fitting(plan)
    attempt = _claim(store_url, resolved, take_over=take_over)
    heartbeat = _core.Heartbeat(store_url, attempt)
    try:
        resumed = "from the beginning" if commit is None else f"from step {commit['step']}"
        console.say(f"run `{plan.name}` · attempt {attempt} · {resumed} · {_workers_text(workers)} · {plan.label}")
        driving = _Attempt(plan, attempt, resolved, console, stop, heartbeat)
        start_ray()
        return driving.run()
    finally:
        heartbeat.stop()


class _Attempt:
    """One claimed attempt: keeper, trainer thread, and the watch over both."""

    def __init__(
        self,
        plan: Plan,
        attempt: int,
        resolved: Mapping[str, Any],
        console: Console,
        stop: Stop,
        heartbeat: _core.Heartbeat,
    ) -> None:
        self.plan, self.attempt, self.resolved = plan, attempt, resolved
        self.console, self.stop, self.heartbeat = console, stop, heartbeat
        self.workers = resolved["spec"]["cluster"]["workers"]
        self.clock = Clock()
        self.began = self.clock.now()
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None
        # On a cluster of KubeRay an elastic run starts on its floor, and asks for more once it trains.
        self.grown = self.workers["min"] == self.workers["max"] or not _in_a_pod_of_ray()

    def run(self) -> int:
        """Trains to an end of some kind and closes the account."""
        import ray

        from eagleray import _ray

        from .ledger import Keeper

        _ray.require_room(self.workers["min"])
        if self.plan.script is not None:
            require_config(self.plan.script, gpus=_ray.resources("GPU") > 0)
        # Nobody waits for the keeper to come up: what it is told first, it is told in this order.
        # Every rank calls it each second: with 512 of them a quarter of the GCS's time went to events of these calls.
        remote: Any = ray.remote(num_cpus=0, scheduling_strategy=_ray.this_node(), enable_task_events=False)
        reached, anomalies = told_before(self.plan.store)
        begun = (self.plan.store, self.attempt, self.began, reached)
        keeper = remote(Keeper).remote(*begun, Wanted.of(self.resolved), anomalies)
        keeper.record.remote([self._start_event()])
        fit = threading.Thread(target=self._fit, args=(keeper,), name="fit", daemon=True)
        fit.start()
        self.stop.training = True
        self._watch(fit, keeper)
        self.stop.training = False
        outcome = self._outcome()
        latest: dict[str, Any] = ray.get(keeper.progress.remote())
        step = int(self.result["step"]) if self.result else int(latest.get("step", 0))
        _finish(keeper, self.plan.store, self.attempt, outcome, step, self.clock.now())
        if self.error is not None:
            raise self.error
        if outcome == "stopped":
            self.console.say(f"stopped after step {step}, saved; resume with the same command")
            return self.stop.exit_code()
        report(self.plan.store, self.console)
        self.console.summary(summary(self.plan.store, self.plan.name, outcome, step))
        return EXIT_DONE

    def _fit(self, keeper: Any) -> None:
        """Ray Train, from first worker group to last; leaves a result or an error."""
        scratch = tempfile.mkdtemp(prefix="eagleray-")
        try:
            self.result = self._trainer(keeper, scratch).fit().return_value
        except BaseException as error:
            self.error = error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _trainer(self, keeper: Any, scratch: str) -> Any:
        import ray.train

        from eagleray import _ray, _ray_train

        from .entry import WorkerConfig, run_worker

        # Ray annotates the classes of Train v1, whose names v2 took over.
        api: Any = ray.train
        spec = self.resolved["spec"]
        low, high = self.workers["min"], self.workers["max"]
        gpus = _ray.resources("GPU") > 0
        self.plan.require_device(gpu=gpus)
        return _ray_train.Trainer(
            run_worker,
            train_loop_config={"worker": WorkerConfig(plan=self.plan, attempt=self.attempt, keeper=keeper)},
            scaling_config=api.ScalingConfig(
                num_workers=low if low == high else (low, high),
                use_gpu=gpus,
                elastic_resize_monitor_interval_s=float(os.environ.get("EAGLERAY_RESIZE_SECONDS", RESIZE_SECONDS)),
            ),
            run_config=api.RunConfig(
                name=self.plan.name,
                # Ray wants a place for reports; ours go to the store, from the ranks.
                storage_path=scratch,
                failure_config=api.FailureConfig(max_failures=spec["train"]["max_failures"]),
                callbacks=[_ray_train.KeeperCallback(keeper)],
            ),
            backend_config=_ray_train.TorchWorld(gpus=gpus, timeout_s=COLLECTIVE_TIMEOUT_SECONDS)
            if self.plan.script is None
            else _ray_train.ScriptWorld(),
            keeper=keeper,
            mesh_size=self.plan.layout.mesh_size,
        )

    def _watch(self, fit: threading.Thread, keeper: Any) -> None:
        """Shows progress and passes the stop on, until the trainer's thread has ended."""
        import ray

        asked, manned = 0, self.clock.now()
        while fit.is_alive():
            fit.join(POLL_SECONDS)
            if self.heartbeat.superseded():
                self.error = superseded(self.plan.store, self.attempt)
                return
            if self.stop.count == 0 and self.heartbeat.stop_asked():
                self.stop.count, self.stop.by_store = 1, True
            if self.stop.count > asked:
                asked = self.stop.count
                after = "saving after this step" if self.plan.script is None else "at the next save of the script"
                self.console.say(f"stopping: {after} (once more to stop at once)")
                ray.get(keeper.stop.remote())
            progress = ray.get(keeper.progress.remote())
            if progress["ranks"] > 0:
                manned = self.clock.now()
                if not self.grown:
                    self.grown = True
                    grow(self.console)
            elif self.clock.now() - manned > WAIT_NOTICE_SECONDS:
                manned = self.clock.now()
                self.console.say(self._waiting())
            self.console.progress(self.clock.now(), progress)

    def _waiting(self) -> str:
        from eagleray import _ray

        cpus, gpus = _ray.resources("CPU"), _ray.resources("GPU")
        each = "a GPU" if gpus > 0 else "a CPU"
        return (
            f"waiting for workers: the run wants {_workers_text(self.workers)} of {each} each, "
            f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs in all"
        )

    def _outcome(self) -> str:
        if self.error is None and self.result is not None:
            return str(self.result["outcome"])
        cause = None if self.error is None else _unwrapped(self.error)
        return "superseded" if isinstance(cause, _core.ConflictError) else "failed"

    def _start_event(self) -> dict[str, Any]:
        import ray

        versions = {"python": platform.python_version(), "ray": ray.__version__, "torch": metadata.version("torch")}
        return {"t": self.began, "kind": "attempt_start", **versions}


def _completed(resolved: Mapping[str, Any], commit: Mapping[str, Any] | None) -> int | None:
    """The last step of a run that is complete: by its commit, or, where a script decides, by its last attempt."""
    spec = resolved["spec"]
    if spec["train"].get("script") is not None:
        end = last_end(spec["store"])
        return int(end["step"]) if end.get("outcome") == "completed" else None
    return int(commit["step"]) if commit is not None and int(commit["step"]) >= spec["train"]["steps"] else None


def _require_same_run(store_url: str, resolved: Mapping[str, Any], commit: Mapping[str, Any]) -> None:
    """Refuses to continue a run whose model shape or data order the spec has changed, showing what differs."""
    expected = {key: resolved[key] for key in ("model_hash", "order_hash")}
    try:
        require_fit(commit, expected, ENGINE if resolved["spec"]["train"].get("script") is None else FILES)
    except _core.InvalidError as error:
        before = _core.Store(store_url)
        if before.head("resolved.json") is None:
            raise
        earlier = before.get("resolved.json").decode()
        found = json.loads(_core.spec_differences(earlier, json.dumps(resolved)))
        shown = "".join(
            f"\n  `{each['field']}` was {json.dumps(each['old'])}, is {json.dumps(each['new'])}" for each in found
        )
        raise _core.InvalidError(f"{error}\ndifferences from the spec of this run:{shown}") from error


def _require_samples(plan: Plan) -> None:
    """Opens every order, which refuses a source that is shorter than one sample, before anything is claimed."""
    if plan.sources:
        _core.Order(json.dumps(plan.stream_config(0, 1, 0)))
    for held in plan.validation:
        _core.Order(json.dumps(plan.validation_config(held, 1, 0, 1)))


def _claim(store_url: str, resolved: Mapping[str, Any], *, take_over: bool) -> int:
    info = {
        "host": platform.node(),
        "pid": os.getpid(),
        "program": resolved["program"],
        "spec_hash": resolved["spec_hash"],
        "take_over": take_over,
    }
    attempt = int(json.loads(_core.claim(store_url, json.dumps(info)))["attempt"])
    store = _core.Store(store_url)
    store.put("resolved.json", json.dumps(resolved, indent=2).encode())
    store.put("run.yaml", resolved.get("document", "").encode())
    return attempt


def _workers_text(workers: Mapping[str, int]) -> str:
    low, high = workers["min"], workers["max"]
    count = str(low) if low == high else f"{low} to {high}"
    return f"{count} worker{'' if count == '1' else 's'}"


def _in_a_pod_of_ray() -> bool:
    """Whether KubeRay made the pod that this runs in."""
    return bool(os.environ.get("RAY_CLUSTER_NAME"))


def _finish(keeper: Any, store_url: str, attempt: int, outcome: str, step: int, now: float) -> None:
    import ray

    ray.get(keeper.finish.remote(now, outcome))
    # A store that is full or gone must not hide what the attempt ended with.
    with suppress(_core.EagleRayError):
        _core.finish(store_url, attempt, json.dumps({"outcome": outcome, "step": step}))


def _unwrapped(error: BaseException) -> BaseException:
    """The error itself, out of Ray's wrappers."""
    if isinstance(error, _core.EagleRayError) or "ray" not in sys.modules:
        return error
    from eagleray import _ray

    cause: BaseException = _ray.cause_of(error)
    if _ray.is_loss(cause):
        from eagleray import _ray_train

        return _core.UnavailableError(
            f"a part of Ray that this driver cannot do without was lost: {_ray_train.reason_of(cause)}\n"
            "hint: the same command continues from the newest checkpoint"
        )
    return cause


def _logs() -> str | None:
    if "ray" not in sys.modules:
        return None
    from eagleray import _ray

    return _ray.log_dir()


def _shutdown_ray() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextmanager
def _signals() -> Iterator[Stop]:
    """Signals count up `Stop` instead of ending the process, and are given back at the end."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in _STOPPING}
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
