"""`matrix`: every strategy goes on from every other's checkpoint, and has the losses of one rank never stopped.

For each strategy a run of twenty steps saves after ten; from that save each of them trains the other ten. On the CPU,
in fp32. `value` is the largest difference of any loss to that of the undisturbed rank, relative to it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE / "tests" / "python"))

Case = tuple[str, int, dict[str, str]]
SAVED, STEPS = 10, 20
# Enough for two stages on each of two ranks; all have as many, since they take each other's saves.
LAYERS = "4"


def run() -> dict[str, Any]:
    """The worst of the whole square, and of each strategy as the one that goes on."""
    from ranks import Ranks
    from training import make_corpus

    ranks = Ranks()
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        (place / "corpus").mkdir()
        try:
            worst = _square(ranks, make_corpus(place / "corpus"), place)
        finally:
            ranks.end()
    figures = [{"name": "worst_relative_loss_difference", "value": max(worst.values()), "unit": "ratio"}]
    figures += [{"name": f"worst_in_{name}", "value": value, "unit": "ratio"} for name, value in worst.items()]
    return {"bench": "matrix", "figures": figures}


def _square(ranks: Any, corpus: Any, place: Path) -> dict[str, float]:
    from conftest import make_run
    from test_strategies import CASES
    from training import train_in

    cases = _wanted([(strategy, world, more | {"layers": LAYERS}) for strategy, world, more in CASES])
    alone = make_run(corpus, place / "alone", workers=1, steps=STEPS, every="1000 steps", layers=LAYERS)
    spec = alone.resolved.parent / "run.yaml"
    subprocess.run(
        [str(Path(sys.executable).parent / "eagleray"), "tokens", "build", str(spec)], check=True, stdout=sys.stderr
    )
    wanted = train_in(ranks, 1, alone).history()
    saves: list[Path] = []
    for number, (strategy, world, more) in enumerate(cases):
        given = make_run(
            corpus,
            place / f"from-{number}",
            strategy=strategy,
            workers=world,
            steps=STEPS,
            every=f"{SAVED} steps",
            **more,
        )
        train_in(ranks, world, given)
        shutil.rmtree(given.store / "checkpoints" / f"step-{STEPS:09}")
        saves.append(given.store)
    worst: dict[str, float] = {}
    for strategy, world, more in cases:
        name = _name(strategy, world, more)
        for number, store in enumerate(saves):
            copied = place / "at-work"
            shutil.copytree(store, copied / "store")
            taken = make_run(
                corpus, copied, store=copied / "store", strategy=strategy, workers=world, steps=STEPS, **more
            )
            found = train_in(ranks, world, taken).history()
            if sorted(found) != list(range(SAVED + 1, STEPS + 1)):
                raise SystemExit(f"error: {name} did not go on from the save of {cases[number]}")
            drift = max(abs(event["loss"] / wanted[step]["loss"] - 1) for step, event in found.items())
            worst[name] = max(worst.get(name, 0.0), drift)
            shutil.rmtree(copied)
        print(f"{name}: {worst[name]:.1e}", file=sys.stderr, flush=True)
    return worst


def _wanted(cases: list[Case]) -> list[Case]:
    """Those that `EAGLERAY_BENCH_CASES` names, by the names of their figures and with commas; without it all."""
    given = os.environ.get("EAGLERAY_BENCH_CASES")
    if not given:
        return cases
    by_name = {_name(*case): case for case in cases}
    if unknown := set(given.split(",")) - by_name.keys():
        raise SystemExit(f"error: no case {', '.join(sorted(unknown))}; there are {', '.join(by_name)}")
    return [by_name[name] for name in given.split(",")]


def _name(strategy: str, world: int, more: dict[str, str]) -> str:
    """`pp_2_dp_shard_2_x4_pipeline_interleaved`: the case as part of a figure's name."""
    said = [strategy, f"x{world}", *(f"{key} {value}" for key, value in more.items() if key != "layers")]
    return re.sub(r"\W+", "_", " ".join(said)).strip("_")
