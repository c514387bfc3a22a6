"""Ray itself: connecting to a cluster or starting one on this machine, what it holds, and what is lost with it.

With `_ray_train` the only module that touches what Ray 2.60 keeps private; another minor version is refused
rather than trusted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from eagleray import _core

# Its stubs know little of what is in it.
_raylet: Any = ray._raylet

SUPPORTED = (2, 60)
OBJECT_STORE_BYTES = 128 << 20

# What a restart cannot mend: the same input gives the same end.
PERMANENT = (
    _core.InvalidError,
    _core.NotFoundError,
    _core.ConflictError,
    _core.CorruptError,
    _core.ExhaustedError,
)

_ENVIRONMENT = {
    # The controller notices a dead worker at its next poll; Ray's own 2 s is most of our time to detect.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_AUTH = "RAY_AUTH_MODE"
# One machine of one user is not reclaimed with a notice.
_EMBEDDED_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def require_version() -> None:
    """Refuses a Ray whose privates were not read."""
    found = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if found != SUPPORTED:
        expected = ".".join(str(part) for part in SUPPORTED)
        hint = f"`pip install 'ray[train]=={expected}.*'`"
        raise _core.InvalidError(f"expected Ray {expected}.x, found {ray.__version__}; {hint}")


def start(workers: int, *, verbose: bool) -> None:
    """Connects to the cluster of `RAY_ADDRESS`, or starts one in this process's lifetime with room for `workers`."""
    if ray.is_initialized():
        return
    require_version()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    level = logging.INFO if verbose else logging.ERROR
    common: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level, "configure_logging": True}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **common)
    else:
        for name, value in _EMBEDDED_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        ray.init(
            # Not `auto`: a cluster left by another user of the machine is not ours to train on.
            address="local",
            num_cpus=max(workers, len(os.sched_getaffinity(0))),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=temp_dir(),
            **common,
        )
    quiet(verbose=verbose)


def place() -> dict[str, Any]:
    """Where this worker is, with how to reach its cluster: what crate `run` calls a place, and its cluster."""
    context = ray.get_runtime_context()
    auth = "token" if _raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN else "disabled"
    return {
        "node": context.get_node_id(),
        "address": ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
        "pid": os.getpid(),
        "gpus": context.get_accelerator_ids().get("GPU", []),
        "ray": {"address": context.gcs_address, "version": ray.__version__, "auth": auth},
    }


@contextlib.contextmanager
def joined(address: str, *, auth: str, namespace: str, verbose: bool) -> Iterator[None]:
    """Is a guest of a cluster that others work on, in a namespace of its own."""
    before = os.environ.get(_AUTH)
    # An embedded Ray wants the token of its user's home, but a guest only sends it where it is told to.
    _set_auth(auth)
    try:
        level = logging.INFO if verbose else logging.ERROR
        ray.init(address=address, namespace=namespace, log_to_driver=verbose, logging_level=level)
        quiet(verbose=verbose)
        yield
    finally:
        ray.shutdown()
        _set_auth(before)


def _set_auth(mode: str | None) -> None:
    if mode is None:
        os.environ.pop(_AUTH, None)
    else:
        os.environ[_AUTH] = mode
    # Ray keeps what it has read from the environment when it was imported.
    _raylet.Config.initialize("")
    # And a token that it has once read. A guest would go on asking it of everyone, the next cluster's control store
    # too, which has none: taken for dead by it, it would lose its actors before they run.
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


def on_node(node: str) -> Any:
    """The scheduling strategy of what must run on a node and nowhere else."""
    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def resources(name: str) -> float:
    """How much of a resource the cluster has, in use or not."""
    held: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return held.get(name, 0.0)


def require_room(workers: int) -> None:
    """Refuses more workers than the GPUs of an embedded Ray: they would wait for ever. A cluster may grow."""
    gpus = resources("GPU")
    if not os.environ.get("RAY_ADDRESS") and 0 < gpus < workers:
        raise _core.InvalidError(
            f"`cluster.workers` asks for {workers}, one GPU each, and this machine has {gpus:g}\n"
            f"  hint: `--set cluster.workers={gpus:g}`, or `CUDA_VISIBLE_DEVICES=` to train on the CPU"
        )


def this_node() -> Any:
    """The scheduling strategy of what must live and die with the driver's node."""
    return on_node(ray.get_runtime_context().get_node_id())


def temp_dir() -> str:
    """A short folder of this user: the path of Ray's sockets below it may have 107 bytes."""
    return os.environ.get("RAY_TMPDIR") or str(Path(tempfile.gettempdir()) / f"eagleray-ray-{os.getuid()}")


def quiet(*, verbose: bool) -> None:
    """Keeps Ray's own loggers off the terminal unless asked for; their files stay."""
    level = logging.INFO if verbose else logging.CRITICAL
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        # Ray prints a paragraph about every worker that dies; the keeper says it in a line.
        ray._private.worker.print_to_stdstream = lambda *_arguments, **_named: None


def log_dir() -> str | None:
    """Where this session's logs lie, while connected."""
    node = ray._private.worker._global_node
    return None if node is None else str(Path(node.get_session_dir_path()) / "logs")


def is_loss(error: BaseException) -> bool:
    """Whether it says that a process or node of Ray is gone, rather than what our code did."""
    return isinstance(error, (ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ConnectionError))


def cause_of(error: BaseException) -> BaseException:
    """The worker's error inside Ray's wrappers; a lasting one before what it set off in its peers."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for kinds in (PERMANENT, _core.EagleRayError, Exception):
        for failure in failures:
            if isinstance(failure, kinds):
                return failure
    return getattr(error, "controller_failure", None) or error
