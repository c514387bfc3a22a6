"""`launch`: from the command `eagleray launch` to a RayJob that the API server has, and from a worker pod that is
deleted to the end of the first step after it.

On a real Kubernetes and KubeRay whose pods are processes (`tests/cluster`), two workers and a model that takes no time;
each round is a run of its own, after one that builds the data and is not counted. The pod has 20 s of grace, as in the
tests: a replacement comes when the old pod is gone, not before. Times are of one clock: that of this machine.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from native import figure

ROUNDS = 3
GRACE_SECONDS = 20
# Of the run that builds the data: its schedule warms up over ten.
STEPS_BUILT = 12
STEPS = 1_000_000
CLONE = Path(__file__).resolve().parent.parent


def run() -> dict[str, Any]:
    """Seconds of each part."""
    sys.path[:0] = [str(CLONE / "tests" / "python"), str(CLONE / "tests" / "cluster")]
    import operators
    from session import one_plane
    from training import Corpus, make_corpus

    rounds = int(os.environ.get("EAGLERAY_BENCH_ROUNDS", ROUNDS))
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder, one_plane() as plane:
        operators.install_kuberay(plane)
        texts = Path(folder, "corpus")
        texts.mkdir()
        make_corpus(texts)
        built = _built(plane, Corpus(texts), Path(folder))
        for number in range(1, rounds + 1):
            for name, value in _round(plane, Corpus(texts), Path(folder, str(number)), built).items():
                seconds.setdefault(name, []).append(value)
            print({name: round(values[-1], 2) for name, values in seconds.items()}, file=sys.stderr, flush=True)
    return {"bench": "launch", "figures": [figure(name, values, "s") for name, values in seconds.items()]}


def _built(plane: Any, corpus: Any, folder: Path) -> Path:
    """The data of all rounds, built where they read it."""
    from cluster import Cluster
    from runs import prepare

    cluster = Cluster.make(plane, "built")
    launch = prepare(
        cluster,
        corpus,
        _shared(cluster, folder),
        steps=STEPS_BUILT,
        on_eks={"cpu": {"instance": "m7i.2xlarge", "nodes": 1}},
    )
    done = launch.command("launch", "--wait", "--timeout", "8m")
    if done.returncode != 0:
        raise SystemExit(f"error: the run that builds the data failed:\n{done.stderr}{cluster.told()}")
    kept = folder / "built"
    shutil.copytree(launch.shared / "built", kept)
    cluster.remove()
    return kept


def _shared(cluster: Any, folder: Path) -> Path:
    shared = folder / "shared"
    shared.mkdir(parents=True)
    cluster.claim("shared", shared)
    return shared


def _round(plane: Any, corpus: Any, folder: Path, built: Path) -> dict[str, float]:
    """One run: launched, struck once it has a save, and left when it trains again."""
    from client import wait_for
    from cluster import Cluster
    from runs import prepare

    cluster = Cluster.make(plane, "launch")
    try:
        launch = prepare(cluster, corpus, _shared(cluster, folder), built=built, steps=STEPS)
        jobs, closing = cluster.path("ray.io/v1", "rayjobs"), threading.Event()
        seen: dict[str, float] = {}

        def follow() -> None:
            for kind, job in cluster.client.watch(jobs, closing):
                if kind == "ADDED":
                    seen.setdefault(job["metadata"]["name"], time.time())

        threading.Thread(target=follow, daemon=True).start()
        began = time.time()
        made = launch.command("launch", "--built")
        ended = time.time()
        if made.returncode != 0:
            raise SystemExit(f"error: {made.stderr}")
        wait_for("the job to be seen", lambda: launch.job in seen)
        closing.set()
        wait_for("a save", launch.run.commits, every=0.5)
        first = launch.run.steps()[0]["end"]
        struck, gone, ready = _strike(cluster)
        again = wait_for("a step of the next world", lambda: _after(launch.run), every=0.5)
        return {
            "command_to_rayjob": seen[launch.job] - began,
            "launch_command": ended - began,
            "command_to_first_step": first - began,
            "pod_deleted_to_training": again - struck,
            "pod_deleted_to_gone": gone - struck,
            "pod_deleted_to_replacement_ready": ready - struck,
        }
    except BaseException:
        sys.stderr.write(cluster.told()[-8000:])
        raise
    finally:
        cluster.remove()


def _strike(cluster: Any) -> tuple[float, float, float]:
    """Deletes a worker's pod; when that was, when the pod was gone, and when its replacement was ready."""
    from client import wait_for

    before = {pod["metadata"]["name"] for pod in cluster.ray_pods("worker")}
    victim = sorted(before)[0]
    struck = time.time()
    cluster.client.delete(cluster.path("v1", "pods", victim), gracePeriodSeconds=GRACE_SECONDS)
    wait_for("the pod to go", lambda: cluster.client.find(cluster.path("v1", "pods", victim)) is None)
    gone = time.time()

    def replaced() -> bool:
        fresh = [pod for pod in cluster.ray_pods("worker") if pod["metadata"]["name"] not in before]
        conditions = [each for pod in fresh for each in pod.get("status", {}).get("conditions", ())]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    wait_for("a replacement to be ready", replaced)
    return struck, gone, time.time()


def _after(run: Any) -> float | None:
    """When the first step of the second world ended."""
    ends = [event["end"] for event in run.steps() if event["generation"] > 0]
    return min(ends) if ends else None
