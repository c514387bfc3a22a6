"""`overhead`: the CPU seconds of a step, beside a plain torchrun script with the same model and strategy.

`eagleray train` and torchrun both hold a world of two ranks, alive all the while; in turns one of them trains and
the other is stopped by a signal. CPU seconds are those of the ranks' processes, all their threads, from the end of
a step to the end of a later one. A pair is one turn of each. What Ray itself (driver, raylet, GCS, dashboard agents)
uses beside them is a figure of its own: it does not grow with the model, nor with the step.

`value` of a ratio is the mean of the pairs, `low` and `high` the 95 % interval of it (bootstrap over the pairs).
"""

from __future__ import annotations

import bisect
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest import Contender, Contest

PAIRS = 20
TURN_SECONDS = 8.0
# The step that was under way when the other's turn began has a gap in it.
SETTLE_SECONDS = 2.5
SAMPLE_SECONDS = 0.02
STRATEGIES = ("ddp", "fsdp2")
TICKS = os.sysconf("SC_CLK_TCK")


def run() -> dict[str, Any]:
    """Figures for each strategy."""
    pairs = int(os.environ.get("EAGLERAY_BENCH_PAIRS", PAIRS))
    figures: list[dict[str, Any]] = []
    for strategy in STRATEGIES:
        suffix = "" if strategy == STRATEGIES[0] else f"_{strategy}"
        with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder:
            contest = Contest(folder=Path(folder), strategy=strategy, steps=1_000_000)
            try:
                contest.prepare()
                figures += _measure(contest, pairs, suffix)
            finally:
                contest.end()
    return {"bench": "overhead", "figures": figures}


def _measure(contest: Contest, pairs: int, suffix: str) -> list[dict[str, Any]]:
    sides = {"ours": contest.ours("ours"), "torchrun": contest.torchrun("torchrun")}
    sides["torchrun"].wait_for_steps(3)
    sides["torchrun"].signal_workers(signal.SIGSTOP)
    sides["ours"].wait_for_steps(3)
    sides["ours"].signal_workers(signal.SIGSTOP)
    meters = {name: Meter(contender) for name, contender in sides.items()}
    turns: list[tuple[str, float, float]] = []
    for pair in range(pairs):
        order = list(sides) if pair % 2 == 0 else list(reversed(sides))
        for name in order:
            turns.append((name, *_turn(sides[name], meters[name])))
        print(f"{contest.strategy}: pair {pair + 1} of {pairs}", file=sys.stderr, flush=True)
    for contender in sides.values():
        contender.signal_workers(signal.SIGCONT)
    # Ours writes its ledger as it goes; the end flushes it.
    sides["ours"].process.send_signal(signal.SIGINT)
    sides["ours"].wait()
    return _figures(sides, meters, turns, suffix)


def _figures(
    sides: dict[str, Contender], meters: dict[str, Meter], turns: list[tuple[str, float, float]], suffix: str
) -> list[dict[str, Any]]:
    ends = {name: contender.step_ends() for name, contender in sides.items()}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    beside: list[float] = []
    for name, begin, end in turns:
        inside = [t for t in ends[name] if begin <= t <= end]
        if len(inside) < 3:
            raise SystemExit(f"error: {len(inside)} steps of `{name}` in a turn of {TURN_SECONDS} s are too few")
        used = meters[name].ranks.between(inside[0], inside[-1])
        costs[name].append(used / (len(inside) - 1))
        if name == "ours":
            beside.append(meters[name].others.between(inside[0], inside[-1]) / used)
    ratios = [ours / theirs for ours, theirs in zip(costs["ours"], costs["torchrun"], strict=True)]
    low, high = _interval(ratios)
    return [
        {
            "name": f"cpu_ratio_to_torchrun{suffix}",
            "value": statistics.fmean(ratios),
            "unit": "ratio",
            "low": low,
            "high": high,
        },
        *(_spread(f"cpu_seconds_a_step_{name}{suffix}", "s", values) for name, values in costs.items()),
        _spread(f"cpu_of_ray_and_driver_beside_ranks{suffix}", "share", beside),
    ]


def _turn(contender: Contender, meter: Meter) -> tuple[float, float]:
    """Lets one side train for a while; returns when its measured part began and ended."""
    contender.signal_workers(signal.SIGCONT)
    time.sleep(SETTLE_SECONDS)
    with meter:
        begin = time.time()
        time.sleep(TURN_SECONDS)
        end = time.time()
    contender.signal_workers(signal.SIGSTOP)
    return begin, end


@dataclass
class Curve:
    """CPU seconds used until moments in time."""

    times: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)

    def at(self, t: float) -> float:
        """Between two samples, in a line."""
        after = min(max(bisect.bisect_left(self.times, t), 1), len(self.times) - 1)
        (t0, t1), (u0, u1) = self.times[after - 1 : after + 1], self.used[after - 1 : after + 1]
        return u0 + (u1 - u0) * (t - t0) / (t1 - t0)

    def between(self, start: float, end: float) -> float:
        """CPU seconds from `start` to `end`."""
        return self.at(end) - self.at(start)


class Meter:
    """Reads the CPU time of a contender's processes, many times a second, while it is entered."""

    def __init__(self, contender: Contender) -> None:
        self.ranks, self.others = Curve(), Curve()
        self._workers = contender.workers()
        self._beside = [pid for pid in contender.processes() if pid not in self._workers]
        self._stop = threading.Event()

    def __enter__(self) -> Meter:
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while True:
            for curve, pids in ((self.ranks, self._workers), (self.others, self._beside)):
                curve.times.append(time.time())
                curve.used.append(sum(map(cpu_seconds, pids)))
            if self._stop.wait(SAMPLE_SECONDS):
                return


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all threads it has had; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _interval(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean."""
    draw = random.Random(1)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(draws))
    return means[draws // 40], means[-1 - draws // 40]


def _spread(name: str, unit: str, values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return {
        "name": name,
        "value": statistics.median(ordered),
        "unit": unit,
        "low": ordered[tenth],
        "high": ordered[-1 - tenth],
    }
