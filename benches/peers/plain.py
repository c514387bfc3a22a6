"""The script that a team has before it has us: one file, torchrun's variables, DDP or FSDP2, a memory map of tokens.

    python -m torch.distributed.run --nproc-per-node=2 plain.py SETTINGS.json

It trains the same model as `eagleray train`, so that what differs is what goes on around it. Each rank writes the
moments of its life, in seconds since the epoch, to `FOLDER/RANK.jsonl`: `{"name": …, "t": …}`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.time()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.data import DataLoader, Dataset, DistributedSampler  # noqa: E402


class Tokens(Dataset[tuple[Tensor, Tensor]]):
    """Samples of a flat file of 16-bit ids."""

    def __init__(self, path: str, sequence_length: int) -> None:
        self.ids = np.memmap(path, dtype=np.uint16, mode="r")
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.sequence_length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first = index * self.sequence_length
        window = torch.from_numpy(self.ids[first : first + self.sequence_length + 1].astype(np.int64))
        return window[:-1], window[1:]


def train(settings: dict[str, Any], rank: int, world: int) -> None:
    """Trains for `steps` steps; the process group is there."""
    from eagleray.train.model import Llama
    from eagleray.train.model_config import ModelConfig

    moments = (Path(settings["folder"]) / f"{rank}.jsonl").open("w", buffering=1)

    def mark(name: str, t: float | None = None, **more: Any) -> None:
        moment = {"name": name, "t": time.time() if t is None else t, "pid": os.getpid()} | more
        moments.write(json.dumps(moment) + "\n")

    mark("started", STARTED)
    mark("joined")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = settings["precision"] == "bf16"
    torch.manual_seed(settings["seed"])
    config = ModelConfig(**settings["model"])
    model: nn.Module = Llama(config).to(device)
    precision: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if settings["strategy"] == "fsdp2":
        policy = MixedPrecisionPolicy()
        if bf16:
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in model.layers.values():
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
    else:
        precision = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], betas=(0.9, 0.95), weight_decay=0.1)
    dataset = Tokens(settings["tokens"], settings["sequence_length"])
    sampler = DistributedSampler(dataset, shuffle=True, seed=settings["seed"])
    loader = DataLoader(dataset, batch_size=settings["global_batch"] // world, sampler=sampler, drop_last=True)
    positions = torch.arange(settings["sequence_length"], device=device).unsqueeze(0)
    mark("built")
    step = epoch = 0
    while step < settings["steps"]:
        sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            tokens, labels = (part.to(device) for part in batch)
            with precision:
                logits = model(tokens, positions.expand_as(tokens))
            loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = settings["lr"] * 0.5 * (1 + math.cos(math.pi * step / settings["steps"]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total = loss.detach().clone()
            dist.all_reduce(total)
            total.item()
            step += 1
            mark("step", memory=torch.cuda.max_memory_allocated() if device.type == "cuda" else 0)
            if step == settings["steps"]:
                break


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(settings, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
