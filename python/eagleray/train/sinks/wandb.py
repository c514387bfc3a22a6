"""Weights & Biases through its own client: one run of theirs for a run of ours, however many attempts it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .figures import Figures
from .identity import identity_of


class Wandb:
    """Logs figures against an axis `step`; a step done twice is there twice, the second time with `recompute` 1."""

    def __init__(
        self,
        *,
        store: str,
        name: str,
        project: str,
        entity: str | None,
        mode: str | None,
        directory: str | None,
        parameters: Mapping[str, Any],
    ) -> None:
        self._options: dict[str, Any] = {
            "name": name,
            "project": project,
            "entity": entity,
            "mode": mode,
            "resume": "allow",
            "config": dict(parameters),
        }
        self._store, self._directory = store, directory
        self._run: Any = None

    def open(self) -> str:
        """Begins the run, or goes on with it."""
        import wandb

        if self._run is not None:
            with suppress(Exception):
                self._run.finish(exit_code=1)
        # The keeper's output, code and load are not the run's.
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, x_disable_stats=True
        )
        directory = None if os.environ.get("WANDB_DIR") else self._directory
        self._run = wandb.init(**self._options, id=identity_of(self._store), dir=directory, settings=settings)
        self._run.define_metric("*", step_metric="step")
        return str(self._run.dir if self._run.offline else self._run.url)

    def write(self, batch: Sequence[Figures]) -> None:
        """Hands rows to W&B's own process, which sends them or keeps them."""
        for figures in batch:
            self._run.log({"step": figures.step, "recompute": int(figures.again), **figures.values})

    def close(self, outcome: str) -> None:
        """Waits until all is sent or kept."""
        self._run.finish(exit_code=0 if outcome in ("completed", "stopped") else 1)
