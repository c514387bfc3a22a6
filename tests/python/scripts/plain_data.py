"""A script of plain PyTorch on the run's own data, with checkpoints of its own; it writes down what it sees."""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from eagleray.train import dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    layers = torch.nn.Embedding(options.vocabulary, 16), torch.nn.Linear(16, options.vocabulary)
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    own = Path(os.environ["EAGLERAY_CHECKPOINT_DIR"])
    checkpoint, step = own / "last.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.module.load_state_dict(state["model"])
        step = state["step"]
    rank = dist.get_rank()
    for index, batch in enumerate(DataLoader(dataset(step=step), batch_size=options.batch)):
        # Labels are not shifted: the logits of each token are for the next one.
        logits, wanted = model(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
        loss = cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
        (loss / options.accumulate).backward()
        with (own / f"seen-{rank}").open("a") as log:
            log.write(json.dumps({"step": step + 1, **{name: each.tolist() for name, each in batch.items()}}) + "\n")
        if (index + 1) % options.accumulate:
            continue
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        time.sleep(options.pause)
        if rank == 0 and step % options.every == 0:
            torch.save({"model": model.module.state_dict(), "step": step}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
