"""`memory`: the peak memory of a rank under `fsdp2`, beside a plain script that shards with `fully_shard`.

Worlds of two ranks, forked from one process that has everything imported, train the same model for a few steps;
what is measured is how far the peak of a rank's memory rises above what it had before its model was made. Each world
is new, the two sides take turns. The model has 40 million parameters, so that it and not the interpreter is measured.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

CLONE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLONE / "tests" / "python"))

RUNS, WORLD, STEPS, SEQUENCE, SAMPLES = 5, 2, 3, 128, 2
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_layers": 6,
    "num_heads": 10,
    "num_kv_heads": 5,
}


def run() -> dict[str, Any]:
    """Peaks of both, and their ratio."""
    from ranks import Ranks

    ranks = Ranks()
    peaks: dict[str, list[float]] = {"ours": [], "plain_fsdp2": []}
    try:
        for _ in range(RUNS):
            peaks["ours"].append(max(ranks.run(WORLD, ours)))
            peaks["plain_fsdp2"].append(max(ranks.run(WORLD, plain)))
    finally:
        ranks.end()
    ratios = sorted(mine / theirs for mine, theirs in zip(peaks["ours"], peaks["plain_fsdp2"], strict=True))
    figures = [_figure(f"peak_mib_{name}", "MiB", sorted(values)) for name, values in peaks.items()]
    return {"bench": "memory", "figures": [_figure("peak_ratio_to_plain_fsdp2", "ratio", ratios), *figures]}


def ours(_rank: int, _world: int) -> float:
    """The peak of a rank of ours above its start, MiB."""
    import torch

    from eagleray.train.context import Tensors
    from eagleray.train.layout import Layout
    from eagleray.train.model_config import ModelConfig
    from eagleray.train.strategy import build_optimizer, spread

    before = _resident("VmRSS")
    model = spread(Layout(kind="fsdp2"), ModelConfig(**SHAPE), seed=1, precision="fp32", device=torch.device("cpu"))
    optimizer = build_optimizer(model.model.named_parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for _ in range(STEPS):
        tokens, labels, positions = _batch()
        model.forward_backward(
            Tensors(tokens=tokens, labels=labels, position_ids=positions, counted=tokens.numel(), empty=False),
            1 / labels.numel(),
            last=True,
        )
        model.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _resident("VmHWM") - before


def plain(_rank: int, _world: int) -> float:
    """The peak of a rank of a plain script above its start, MiB."""
    import torch
    from torch import nn
    from torch.distributed.fsdp import fully_shard
    from torch.nn.functional import cross_entropy

    from eagleray.train.model import Llama
    from eagleray.train.model_config import ModelConfig

    before = _resident("VmRSS")
    with torch.device("meta"):
        model = Llama(ModelConfig(**SHAPE))
    for layer in model.layers.values():
        fully_shard(layer)
    fully_shard(model)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(STEPS):
        tokens, labels, positions = _batch()
        cross_entropy(model(tokens, positions).flatten(0, 1).float(), labels.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _resident("VmHWM") - before


def _batch() -> tuple[Any, Any, Any]:
    import torch

    ids = torch.randint(0, SHAPE["vocab_size"], (SAMPLES, SEQUENCE + 1))
    return ids[:, :-1], ids[:, 1:], torch.arange(SEQUENCE).expand(SAMPLES, -1)


def _resident(which: str) -> float:
    """A line of the process's status, MiB; `ru_maxrss` would be that of the process it was forked from."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def _figure(name: str, unit: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "value": statistics.median(values), "unit": unit, "low": values[0], "high": values[-1]}
