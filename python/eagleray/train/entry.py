"""What crosses from the driver through Ray Train's controller to the workers; only the workers import torch for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What the driver sends to every worker."""

    plan: Plan
    attempt: int
    keeper: Any


def run_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The train function of Ray Train: trains, and returns how it ended."""
    from .ledger import Clock

    clock = Clock()
    entered = clock.now()
    from .worker import run

    return run(config["worker"], clock, entered)
