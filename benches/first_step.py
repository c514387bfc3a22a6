"""`first_step`: from the command to the end of the first training step, beside torchrun and stock Ray Train.

Each round starts all three anew, one after the other; caches of the file system are warm after the first round,
which is not counted. Ours claims the run, opens its ledger and verifies its dataset on the way; the others open a file.
Phases: `world` ends where rank 0 is in a world of ranks, with torch imported; `build` where its model stands; `step`
where the first step has ended.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import Contender, Contest

ROUNDS = 5
PHASES = ("world", "build", "step")


def run() -> dict[str, Any]:
    """Seconds in all, and by phase."""
    rounds = int(os.environ.get("EAGLERAY_BENCH_ROUNDS", ROUNDS))
    seconds: dict[str, list[dict[str, float]]] = {"ours": [], "torchrun": [], "stock_ray_train": []}
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder:
        contest = Contest(folder=Path(folder), strategy="ddp", steps=1_000_000)
        try:
            contest.prepare()
            for number in range(rounds + 1):
                for name, start in (
                    ("ours", contest.ours),
                    ("torchrun", contest.torchrun),
                    ("stock_ray_train", contest.stock),
                ):
                    contender = start(f"{name[0]}{number}")
                    contender.wait_for_steps(1)
                    measured = _ours(contender) if name == "ours" else _plain(contender)
                    contender.end()
                    if number > 0:
                        seconds[name].append(measured)
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        finally:
            contest.end()
    return {"bench": "first_step", "figures": list(_figures(seconds))}


def _plain(contender: Contender) -> dict[str, float]:
    first = {moment["name"]: moment["t"] for moment in reversed(contender.moments()[0])}
    return _phases(contender.began, first["joined"], first["built"], first["step"])


def _ours(contender: Contender) -> dict[str, float]:
    contender.process.send_signal(signal.SIGINT)
    contender.wait()
    events = [event for event in contender.ledger() if event.get("rank") == 0]
    setup = sorted((event for event in events if event.get("cause") == "setup"), key=lambda event: event["start"])
    first = min((event for event in events if event["kind"] == "step"), key=lambda event: event["step"])
    # Spans of set-up: until the worker's function runs in its world, then until its model stands.
    return _phases(contender.began, setup[0]["end"], setup[1]["end"], first["end"])


def _phases(*moments: float) -> dict[str, float]:
    named = dict(zip(PHASES, (later - earlier for earlier, later in itertools.pairwise(moments)), strict=True))
    return {"all": moments[-1] - moments[0]} | named


def _figures(seconds: dict[str, list[dict[str, float]]]) -> Any:
    for name, rounds in seconds.items():
        for phase in ("all", *PHASES):
            values = sorted(each[phase] for each in rounds)
            yield {
                "name": f"{name}_{'to_first_step' if phase == 'all' else phase}",
                "value": statistics.median(values),
                "unit": "s",
                "low": values[0],
                "high": values[-1],
            }
