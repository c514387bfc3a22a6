"""A script of Accelerate on the run's own data, which skips what is done as Accelerate's examples do."""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from eagleray.train import dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--until", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    accelerator = Accelerator(gradient_accumulation_steps=options.accumulate)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Embedding(options.vocabulary, 16), torch.nn.Linear(16, options.vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(dataset(), batch_size=options.batch)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    step = 0
    found = sorted(options.output.glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
    if found:
        accelerator.load_state(str(found[-1]))
        step = int(found[-1].name.split("_")[1])
        loader = accelerator.skip_first_batches(loader, step * options.accumulate)
    for batch in loader:
        with accelerator.accumulate(model):
            logits, wanted = model(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
            accelerator.backward(cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100))
            optimizer.step()
            optimizer.zero_grad()
        options.output.mkdir(exist_ok=True)
        with (options.output / f"seen-{accelerator.process_index}").open("a") as log:
            log.write(json.dumps({"step": step + 1, **{name: each.tolist() for name, each in batch.items()}}) + "\n")
        if accelerator.sync_gradients:
            step += 1
            if step == options.until:
                break
    accelerator.save_state(str(options.output / f"step_{step}"))


if __name__ == "__main__":
    main()
