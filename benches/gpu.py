"""`gpu`: a step on one GPU beside a plain script, in bf16 with a model of a billion parameters; what a save costs.

For each of `ddp` and `fsdp2` a plain script and `eagleray train` take turns, each from a new start; the first steps
are not counted. MFU is that of docs/metrics.md. `low` and `high` are the 10th and 90th percentile of the steps.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import Contender, Contest, Setting

# The shape of `llama-1b` with a vocabulary of 32,000.
LARGE = Setting(
    model={
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_layers": 16,
        "num_heads": 32,
        "num_kv_heads": 8,
    },
    world=1,
    sequence_length=2048,
    global_batch=8,
    micro_batch=8,
    precision="bf16",
)
STRATEGIES = ("ddp", "fsdp2")
ROUNDS = int(os.environ.get("EAGLERAY_BENCH_ROUNDS", 2))
STEPS = int(os.environ.get("EAGLERAY_BENCH_STEPS", 50))
WARM_UP = 10
SAVES = 2


def run() -> dict[str, Any]:
    """Figures for each strategy; needs a GPU."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="er-", ignore_cleanup_errors=True) as folder:
        for strategy in STRATEGIES:
            place = Path(folder, strategy)
            place.mkdir()
            contest = Contest(folder=place, strategy=strategy, steps=1_000_000, setting=LARGE)
            try:
                contest.prepare()
                figures += _turns(contest)
                if strategy == STRATEGIES[-1]:
                    figures += _saves(contest)
            finally:
                contest.end()
    return {"bench": "gpu", "figures": figures}


def _turns(contest: Contest) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    memory: dict[str, float] = {}
    steps: list[Any] = []
    for number in range(ROUNDS):
        for name, start in (("plain", contest.torchrun), ("ours", contest.ours)):
            contender = start(f"{name[0]}{number}")
            contender.wait_for_steps(STEPS)
            ends = contender.step_ends()[WARM_UP:STEPS]
            seconds[name] += [later - earlier for earlier, later in itertools.pairwise(ends)]
            if name == "ours":
                steps = _steps(contender)
                memory[name] = max(step["memory_bytes"] for step in steps)
            else:
                memory[name] = contender.moments()[0][-1]["memory"]
            contender.end()
            print(f"{contest.strategy}, {name}: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    tokens = contest.setting.global_batch * contest.setting.sequence_length
    flops, peak = steps[-1]["flops_per_token"], steps[-1].get("peak_flops")
    return [
        _figure(f"gpu_step_ratio_to_plain_{contest.strategy}", middle["ours"] / middle["plain"], "ratio"),
        *(_spread(f"gpu_step_ms_{name}_{contest.strategy}", values) for name, values in seconds.items()),
        _figure(f"gpu_tokens_per_second_{contest.strategy}", tokens / middle["ours"], "tokens/s"),
        *([_figure(f"gpu_mfu_{contest.strategy}", tokens / middle["ours"] * flops / peak, "share")] if peak else []),
        *(_figure(f"gpu_peak_gib_{name}_{contest.strategy}", held / 2**30, "GiB") for name, held in memory.items()),
        _figure(
            f"gpu_data_wait_share_{contest.strategy}",
            sum(step["data_wait"] for step in steps[WARM_UP:]) / sum(s["end"] - s["start"] for s in steps[WARM_UP:]),
            "share",
        ),
    ]


def _saves(contest: Contest) -> list[dict[str, Any]]:
    """What a save of the whole state, in the background, takes from the steps."""
    contender = contest.ours("saves", save_every=f"{STEPS} steps")
    saves: list[Any] = []
    while len(saves) < SAVES:
        contender.wait_for_steps(len(contender.step_ends()) + 1)
        saves = [event for event in contender.ledger() if event["kind"] == "checkpoint"]
    contender.end()
    size = statistics.median(save["bytes"] for save in saves)
    until_commit = [save["committed"] - save["start"] for save in saves]
    return [
        _figure("gpu_save_gib", size / 2**30, "GiB"),
        _figure("gpu_save_stall_s", statistics.median(save["stall"] for save in saves), "s"),
        _figure("gpu_save_until_commit_s", statistics.median(until_commit), "s"),
    ]


def _steps(contender: Contender) -> list[Any]:
    return sorted((event for event in contender.ledger() if event["kind"] == "step"), key=lambda event: event["step"])


def _figure(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit}


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    deciles = statistics.quantiles((value * 1e3 for value in values), n=10)
    return _figure(name, statistics.median(values) * 1e3, "ms") | {"low": deciles[0], "high": deciles[-1]}
