"""Where figures go beside the ledger: TensorBoard, MLflow, Weights & Biases, Prometheus, as `metrics` of the spec says.

Each sink has a queue and a thread of its own (`feed`): none can stop or slow the run. Importing this package imports
no client.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eagleray import _core

from .feed import Feed, Told
from .figures import AnomalyCount, Sink, figures_of

__all__ = ["Sinks", "Told", "Wanted", "require_clients"]

# At the end of an attempt sinks have this long, all together, to take what is queued.
CLOSE_SECONDS = 30.0
_CLIENTS = {"mlflow": "mlflow", "wandb": "wandb", "prometheus": "prometheus_client"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the spec asks for, and what sinks say of the run."""

    name: str
    store: str
    metrics: Mapping[str, Any]
    parameters: Mapping[str, Any]
    # Where a client that writes files does so when the store is no folder.
    directory: str

    @classmethod
    def of(cls, resolved: Mapping[str, Any]) -> Wanted:
        """The sinks of a resolved spec; specs from before there was a choice have TensorBoard."""
        spec = resolved["spec"]
        shown = {key: spec[key] for key in ("seed", "model", "train", "checkpoint")}
        shown["data"] = {"sequence_length": (spec["data"] or {}).get("sequence_length")}
        shown["cluster"] = {"workers": spec["cluster"]["workers"]}
        return cls(
            name=spec["name"],
            store=spec["store"],
            metrics=spec.get("metrics") or {"tensorboard": True},
            parameters=dict(_flat("", shown)),
            directory=str(Path.cwd()),
        )

    @property
    def folder(self) -> str | None:
        """The store, where it is a folder."""
        return None if "://" in self.store else self.store

    @property
    def tracking_uri(self) -> str | None:
        """Where MLflow keeps its runs; None leaves it to MLflow's own variable."""
        written: str | None = self.metrics["mlflow"].get("tracking_uri")
        if written is None and not os.environ.get("MLFLOW_TRACKING_URI") and self.folder is not None:
            return f"sqlite:///{self.folder}/mlflow.db"
        return written


def require_clients(wanted: Wanted) -> None:
    """Refuses what the spec asks for and this Python cannot do, by name, before anything starts."""
    for key, module in _CLIENTS.items():
        if wanted.metrics.get(key) is not None and not _is_installed(module):
            raise _core.InvalidError(
                f"`metrics.{key}` needs the package `{module}`, which is not installed here\n"
                f"hint: pip install 'eagleray[{key}]'"
            )
    if wanted.metrics.get("mlflow") is None or wanted.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return
    raise _core.InvalidError(
        f"`metrics.mlflow` has no place: the store {wanted.store} is no folder\n"
        "hint: name one in `metrics.mlflow.tracking_uri`, or set MLFLOW_TRACKING_URI"
    )


class Sinks:
    """The sinks of an attempt."""

    def __init__(self, wanted: Wanted | None, anomalies: Iterable[Mapping[str, Any]] = ()) -> None:
        self._told: deque[Told] = deque()
        self._anomalies = AnomalyCount()
        for event in anomalies:
            self._anomalies.add(event)
        sinks = {} if wanted is None else _sinks_of(wanted, self._anomalies.values)
        self._feeds = [Feed(name, sink, self._told.append) for name, sink in sinks.items()]

    def observe(self, event: Mapping[str, Any]) -> None:
        """Queues what an event of rank 0 has to show."""
        figures = self._anomalies.add(event) if event["kind"] == "anomaly" else figures_of(event)
        if figures is not None:
            for feed in self._feeds:
                feed.put(figures)

    def told(self) -> list[Told]:
        """What sinks had to say since the last call."""
        return [self._told.popleft() for _ in range(len(self._told))]

    def close(self, outcome: str) -> None:
        """Ends all sinks at once, within `CLOSE_SECONDS`."""
        for feed in self._feeds:
            feed.close(outcome)
        deadline = time.monotonic() + CLOSE_SECONDS
        for feed in self._feeds:
            feed.join(deadline - time.monotonic())


def _sinks_of(wanted: Wanted, counted: Mapping[str, float]) -> dict[str, Sink]:
    from .mlflow import Mlflow
    from .prometheus import Prometheus
    from .tensorboard import TensorBoard
    from .wandb import Wandb

    sinks: dict[str, Sink] = {}
    metrics = wanted.metrics
    # TensorBoard is on by default: where it is missing, or the store is S3, to which nothing can be appended, it is
    # left out without a word.
    if metrics.get("tensorboard") and wanted.folder is not None and _is_installed("tensorboard"):
        sinks["tensorboard"] = TensorBoard(f"{wanted.folder}/tensorboard")
    if (mlflow := metrics.get("mlflow")) is not None:
        sinks["mlflow"] = Mlflow(
            store=wanted.store,
            name=wanted.name,
            experiment=mlflow.get("experiment") or wanted.name,
            tracking_uri=wanted.tracking_uri,
            parameters=wanted.parameters,
        )
    if (wandb := metrics.get("wandb")) is not None:
        sinks["wandb"] = Wandb(
            store=wanted.store,
            name=wanted.name,
            project=wandb.get("project") or wanted.name,
            entity=wandb.get("entity"),
            mode=wandb.get("mode"),
            directory=wanted.folder or wanted.directory,
            parameters=wanted.parameters,
        )
    if (prometheus := metrics.get("prometheus")) is not None:
        place = {"host": prometheus["host"], "port": prometheus["port"]}
        sinks["prometheus"] = Prometheus(run=wanted.name, **place, counted=counted)
    return sinks


def _is_installed(module: str) -> bool:
    """Whether it can be imported; a folder of that name, such as W&B's own, is no package."""
    found = find_spec(module)
    return found is not None and found.origin is not None


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    """`train.optimizer.lr` and so on; what is not set is left out."""
    if isinstance(value, Mapping):
        return [pair for key, each in value.items() for pair in _flat(f"{path}.{key}" if path else key, each)]
    return [] if value is None else [(path, value)]
