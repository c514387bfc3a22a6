"""A script of Accelerate that knows nothing of what starts it; it goes on from the newest folder it finds."""

import argparse
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--accumulate", type=int, default=2)
    options = parser.parse_args()
    accelerator = Accelerator(gradient_accumulation_steps=options.accumulate)
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    inputs = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    step = 0
    found = sorted(options.output.glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
    if found:
        accelerator.load_state(str(found[-1]))
        step = int(found[-1].name.split("_")[1])
    while step < options.steps:
        for features, target in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(features), target)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            step += 1
            time.sleep(options.pause)
            if accelerator.is_main_process:
                options.output.mkdir(exist_ok=True)
                with (options.output / "log").open("a") as log:
                    log.write(f"{step} {loss.item():.8f} {accelerator.mixed_precision}\n")
            if step % options.every == 0:
                accelerator.save_state(str(options.output / f"step_{step}"))
            if step == options.steps:
                break
    accelerator.end_training()


if __name__ == "__main__":
    main()
