"""A script of Accelerate whose model is sharded by its configuration; it says what it is, and each loss."""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    accelerator = Accelerator()
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    output = Path(options.output)
    saves = sorted(output.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    done = 0
    if saves:
        accelerator.load_state(str(saves[-1]))
        done = int(saves[-1].name.removeprefix("step_"))
    for step in range(done + 1, options.steps + 1):
        torch.manual_seed(step)
        batch = torch.randn(8, 16, device=accelerator.device)
        loss = (model(batch) - batch.flip(1)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.is_main_process:
            output.mkdir(parents=True, exist_ok=True)
            with (output / "log").open("a") as log:
                kind = str(accelerator.distributed_type)
                log.write(json.dumps({"step": step, "loss": loss.item(), "kind": kind}) + "\n")
        if step % 5 == 0:
            accelerator.save_state(str(output / f"step_{step}"))


if __name__ == "__main__":
    main()
