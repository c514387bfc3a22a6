"""MLflow through its own client: one run of MLflow for a run of ours, however many attempts it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .figures import Figures
from .identity import identity_of

# The run is found again by this tag.
TAG = "eagleray.run"
# What one request of MLflow's REST interface may hold.
METRICS_MAX, PARAMETERS_MAX = 1000, 100
_STATUS = {"completed": "FINISHED", "stopped": "KILLED"}


class Mlflow:
    """Logs figures as metrics. A step done twice is there twice, the second time with `train/recompute` beside it."""

    def __init__(
        self, *, store: str, name: str, experiment: str, tracking_uri: str | None, parameters: Mapping[str, Any]
    ) -> None:
        self._store, self._name, self._experiment = store, name, experiment
        self._tracking_uri = tracking_uri
        self._parameters = parameters
        self._client: Any = None
        self._run_id = ""

    def open(self) -> str:
        """Finds the run, or makes it."""
        uri = self._tracking_uri
        if uri is not None and (uri.startswith("file:") or os.path.isabs(uri)):  # noqa: PTH117 (a URI, not a path)
            # MLflow asks whether a folder is meant; a spec that names one has said so.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        experiment, identity = self._experiment_id(), identity_of(self._store)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{identity}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            run = self._client.create_run(experiment, run_name=self._name, tags={TAG: identity})
            self._run_id = run.info.run_id
            self._log_parameters()
        return f"{self._client.tracking_uri}, run {self._run_id}"

    def write(self, batch: Sequence[Figures]) -> None:
        """Logs in as few requests as may be."""
        metrics = list(self._metrics(batch))
        for start in range(0, len(metrics), METRICS_MAX):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + METRICS_MAX])

    def close(self, outcome: str) -> None:
        """Says how the attempt ended; another one opens the run again."""
        if outcome != "superseded":
            self._client.set_terminated(self._run_id, _STATUS.get(outcome, "FAILED"))

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return str(self._client.create_experiment(self._experiment) if found is None else found.experiment_id)

    def _metrics(self, batch: Sequence[Figures]) -> Iterator[Any]:
        from mlflow.entities import Metric

        for figures in batch:
            values = {**figures.values, "train/recompute": 1.0} if figures.again else figures.values
            for name, value in values.items():
                yield Metric(legal(name), value, int(figures.t * 1000.0), figures.step)

    def _log_parameters(self) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, str(value)) for name, value in self._parameters.items()]
        for start in range(0, len(parameters), PARAMETERS_MAX):
            self._client.log_batch(self._run_id, params=parameters[start : start + PARAMETERS_MAX])


def legal(name: str) -> str:
    """The name with what MLflow refuses in one replaced by `_`."""
    return re.sub(r"[^\w\-. /]", "_", name)
