"""The same script under stock Ray Train, as its documentation writes it: `python stock.py SETTINGS.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rank(settings: dict[str, Any]) -> None:
    """One worker of Ray Train, which has made the process group."""
    sys.path.insert(0, settings["peers"])
    import plain
    import ray.train

    context = ray.train.get_context()
    plain.train(settings, context.get_world_rank(), context.get_world_size())


def main() -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    settings = json.loads(Path(sys.argv[1]).read_text())
    TorchTrainer(
        rank,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=settings["world"]),
        run_config=RunConfig(storage_path=settings["folder"]),
    ).fit()


if __name__ == "__main__":
    main()
