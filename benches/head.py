"""`head`: what 512 ranks ask of the head of a cluster: CPU and memory of the driver, of the keeper of the ledger, of
Ray Train's poll and of Ray's own processes, beside a head of 8 CPU and 32 GB.

`eagleray train` on a Ray head without CPUs of its own, as on EKS, with a world of simulated ranks; what of it is real
stands in `peers/simulated_ranks.py`. Ray's dashboard runs, though nobody looks at it. The first minute is not counted.
Memory is resident memory, `first` after that minute and `last` at the end; `low` and `high` are the least and the most
of windows of half a minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contest import NEVER, SMALL, TAG, Contest, spec_text, tagged
from native import figure

RANKS = int(os.environ.get("EAGLERAY_BENCH_RANKS", "512"))
STEP_SECONDS = float(os.environ.get("EAGLERAY_BENCH_STEP_SECONDS", "1"))
SECONDS = float(os.environ.get("EAGLERAY_BENCH_SECONDS", "300"))
WARM_SECONDS = 60.0
WINDOW_SECONDS = 30.0
PATIENCE_SECONDS = 180.0
HEAD_CPUS, HEAD_MB = 8, 32e3
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MEASURED = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""
# Words of a command line, and whose it is; the simulated ranks are not the head's.
PARTS = {
    "ray::Ranks": None,
    "ray::Keeper": "keeper",
    "ray::Controller": "controller",
    "simulated_ranks.py": "driver",
    "gcs_server": "gcs",
    "raylet/raylet": "raylet",
    "dashboard": "dashboard",
}


def run() -> dict[str, Any]:
    """CPU and memory by part, events a second, and what the ledger costs who reads it."""
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder:
        contest = Contest(folder=Path(folder), strategy="ddp", steps=1_000_000)
        contest.prepare()
        with _head(Path(folder)) as environment:
            windows, calls, seconds = _measure(Path(folder), environment)
        store = Path(folder, "run")
        return {"bench": "head", "figures": [*_load(windows), *_told(store, calls, seconds), *_read(store)]}


@contextlib.contextmanager
def _head(folder: Path) -> Iterator[dict[str, str]]:
    """Ray's head; gives the environment of what runs on it, and ends all that carries its tag."""
    tag = f"{os.getpid()}-head"
    ports = [_free_port() for _ in range(4)]
    environment = dict(os.environ) | {
        TAG: tag,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "EAGLERAY_BENCH_RANKS": str(RANKS),
        "EAGLERAY_BENCH_STEP_SECONDS": str(STEP_SECONDS),
        "EAGLERAY_BENCH_RESULT": str(folder / "result.json"),
        "RAY_ADDRESS": f"127.0.0.1:{ports[0]}",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports[0],
        "dashboard-port": ports[1],
        "ray-client-server-port": ports[2],
        "dashboard-agent-listen-port": ports[3],
        "num-cpus": 0,
        "object-store-memory": 256 << 20,
        "temp-dir": folder / "ray",
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=true"]
    with Path(folder, "ray.out").open("wb") as log:
        head = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait("Ray's head", lambda: _answers(ports[0]) or head.poll() is not None)
            yield environment
        finally:
            for pid, _ in tagged(tag):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()


def _measure(folder: Path, environment: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[float], float]:
    """Windows of CPU and memory by part, how long calls of the keeper took, and seconds of training."""
    setting = dataclasses.replace(SMALL, world=RANKS, global_batch=RANKS, micro_batch=1)
    spec = folder / "run.yaml"
    spec.write_text(
        spec_text(folder, folder / "corpus", setting, name="run", strategy="ddp", steps=1_000_000, save_every=NEVER),
        encoding="utf-8",
    )
    python = folder / "python"
    ranks = Path(__file__).parent / "peers" / "simulated_ranks.py"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ranks} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    command = [str(Path(sys.executable).with_name("eagleray")), "train", str(spec)]
    output = folder / "train.out"
    with output.open("wb") as log:
        driver = subprocess.Popen(command, env={**environment, "EAGLERAY_PYTHON": str(python)}, stdout=log, stderr=log)
        try:
            world = folder / "run" / "world" / "0001.json"
            _wait("the ranks to come", lambda: world.exists() or driver.poll() is not None)
            time.sleep(WARM_SECONDS)
            began = time.monotonic()
            windows = []
            before = _usage(environment[TAG])
            while time.monotonic() < began + SECONDS and driver.poll() is None:
                time.sleep(WINDOW_SECONDS)
                after = _usage(environment[TAG])
                windows.append(_window(before, after))
                before = after
                print(json.dumps(windows[-1]), file=sys.stderr, flush=True)
            driver.send_signal(signal.SIGINT)
            code = driver.wait(PATIENCE_SECONDS)
        finally:
            driver.kill()
            driver.wait()
    if code != 130:
        raise SystemExit(f"error: the driver ended with status {code}:\n{output.read_text()[-4000:]}")
    calls = json.loads((folder / "result.json").read_text())["calls"]
    return windows, calls, WARM_SECONDS + time.monotonic() - began


def _load(windows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    parts = sorted(windows[0]["cpu"])
    for part in parts:
        cores = [window["cpu"][part] for window in windows]
        yield figure(f"{part}_cpu_cores", cores, "cores")
        memory = [window["mb"][part] for window in windows]
        yield {"name": f"{part}_memory_first_mb", "value": memory[0], "unit": "MB"}
        yield {"name": f"{part}_memory_last_mb", "value": memory[-1], "unit": "MB"}
    cores = [sum(window["cpu"].values()) for window in windows]
    memory = [sum(window["mb"].values()) for window in windows]
    yield figure("head_cpu_cores", cores, "cores")
    yield {"name": "head_cpu_share", "value": 100 * statistics.median(cores) / HEAD_CPUS, "unit": "%"}
    yield {"name": "head_memory_last_mb", "value": memory[-1], "unit": "MB"}
    yield {"name": "head_memory_share", "value": 100 * memory[-1] / HEAD_MB, "unit": "%"}


def _told(store: Path, calls: list[float], seconds: float) -> Iterator[dict[str, Any]]:
    """What the keeper has taken, and how long a rank waited for its answer, in a thread beside the step."""
    objects = sorted(store.glob("ledger/**/*.jsonl"))
    events = sum(path.read_bytes().count(b"\n") for path in objects)
    size = sum(path.stat().st_size for path in objects)
    tenths = statistics.quantiles(calls, n=100)
    yield {"name": "events_per_second", "value": events / seconds, "unit": "1/s"}
    yield {"name": "calls_per_second", "value": len(calls) / seconds, "unit": "1/s"}
    yield {"name": "call_ms", "value": 1e3 * tenths[49], "unit": "ms", "low": 1e3 * tenths[9], "high": 1e3 * tenths[98]}
    yield {"name": "ledger_mb_per_hour", "value": size / 1e6 / seconds * 3600, "unit": "MB"}
    yield {"name": "ledger_events", "value": events, "unit": "events"}


def _read(store: Path) -> Iterator[dict[str, Any]]:
    """What reads the whole ledger: the next attempt before it begins, and the report."""
    begin = "import sys; from eagleray.train.account import told_before; told_before(sys.argv[1])"
    report = [str(Path(sys.executable).with_name("eagleray")), "report", str(store)]
    for name, command in (("next_attempt", [sys.executable, "-c", begin, str(store)]), ("report", report)):
        # From a small process: the peak of a child is never below the memory that it was made with.
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURED, *command], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds, kilobytes = map(float, done.stdout.split()[-2:])
        yield {"name": f"{name}_reads_ledger_cpu_s", "value": seconds, "unit": "s"}
        yield {"name": f"{name}_reads_ledger_peak_mb", "value": kilobytes * 1024 / 1e6, "unit": "MB"}


def _usage(tag: str) -> dict[int, tuple[str, float, float]]:
    """Part, CPU seconds and resident MB of each process of the head, by pid."""
    found = {}
    for pid, command in tagged(tag):
        part = next((part for words, part in PARTS.items() if words in command), "ray_other")
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
            if part is not None:
                found[pid] = part, (int(fields[11]) + int(fields[12])) / TICKS, resident
    return found | {0: ("", time.monotonic(), 0.0)}


def _window(before: Mapping[int, tuple[str, float, float]], after: Mapping[int, tuple[str, float, float]]) -> Any:
    cpu: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    seconds = after[0][1] - before[0][1]
    for pid, (part, used, resident) in after.items():
        if pid:
            cpu[part] += (used - before.get(pid, (part, 0.0, 0.0))[1]) / seconds
            memory[part] += resident
    return {"cpu": dict(cpu), "mb": dict(memory)}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait(what: str, condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
        time.sleep(0.2)
