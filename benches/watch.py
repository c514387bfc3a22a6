"""`watch`: what `eagleray watch` of 1,000 pods takes, while one in a hundred of them is replaced each second.

A real API server; kwok keeps nodes and pods, so there is no Ray; the benchmark says what KubeRay and the driver would
(`tests/cluster/fleet.py`). The looks are five seconds apart, as by default. Memory is resident memory, `first` after
half a minute and `last` at the end; `low` and `high` of the CPU are windows of half a minute. Needs what the tests of
a cluster need, and the modules of kwok.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PODS = int(os.environ.get("EAGLERAY_BENCH_PODS", "1000"))
SECONDS = float(os.environ.get("EAGLERAY_BENCH_SECONDS", "300"))
WINDOW_SECONDS = 30.0
CLONE = Path(__file__).resolve().parent.parent


def run() -> dict[str, Any]:
    """CPU and memory."""
    sys.path[:0] = [str(CLONE / "tests" / "python"), str(CLONE / "tests" / "cluster")]
    import operators
    import programs
    from cluster import Cluster
    from fleet import Fleet
    from session import one_plane

    programs.build(programs.KWOK)
    with one_plane() as plane, tempfile.TemporaryDirectory(prefix="er-") as folder:
        operators.install_definitions(plane.client, operators.kuberay_definitions())
        operators.start_kwok(plane)
        fleet = Fleet(Cluster.make(plane, "watch"), Path(folder), PODS)
        fleet.start()
        watching = fleet.watch(Path(folder, "told.jsonl"), "5s")
        try:
            figures = list(_measure(fleet, watching))
        finally:
            sys.stderr.write(watching.end())
        # The namespace and the machines go with the control plane.
        fleet.halt()
        return {"bench": "watch", "figures": figures}


def _measure(fleet: Any, watching: Any) -> Any:
    memory, shares = [], []
    began = time.monotonic()
    while time.monotonic() < began + SECONDS:
        used, since = watching.cpu_seconds(), time.monotonic()
        time.sleep(WINDOW_SECONDS)
        fleet.check()
        if watching.process.poll() is not None:
            raise SystemExit("error: `eagleray watch` ended")
        shares.append(100 * (watching.cpu_seconds() - used) / (time.monotonic() - since))
        memory.append(watching.memory_mb())
        print(
            f"{shares[-1]:.2f} % of a core, {memory[-1]:.1f} MB, {fleet.replaced} replaced", file=sys.stderr, flush=True
        )
    share = {"value": statistics.median(shares), "low": min(shares), "high": max(shares)}
    yield {"name": "watch_cpu_share_of_a_core", "unit": "%", **share}
    yield {"name": "watch_memory_first_mb", "value": memory[0], "unit": "MB"}
    yield {"name": "watch_memory_last_mb", "value": memory[-1], "unit": "MB"}
    yield {"name": "watch_memory_last_over_first", "value": memory[-1] / memory[0], "unit": "ratio"}
    yield {"name": "pods", "value": fleet.pods, "unit": "pods"}
    yield {"name": "pods_replaced", "value": fleet.replaced, "unit": "pods"}
    yield {"name": "lines_told", "value": len(watching.told()), "unit": "lines"}
