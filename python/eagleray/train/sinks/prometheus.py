"""Prometheus through its own client: the newest figures as gauges, at `/metrics` on the keeper's node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import Figures

_GAUGES = {
    "train/loss": ("eagleray_loss", "Training loss of the step, nats per token"),
    "train/lr": ("eagleray_learning_rate", "Learning rate of the step"),
    "train/grad_norm": ("eagleray_grad_norm", "Norm of the gradient before clipping"),
    "time/data_wait_share": ("eagleray_data_wait_share", "Share of the step that rank 0 waited for data"),
    "time/tokens_per_second": ("eagleray_tokens_per_second", "Tokens of the global batch over the step's time"),
    "time/mfu": ("eagleray_mfu", "Model FLOPs utilization of the step"),
    "memory/bytes": ("eagleray_memory_bytes", "Rank 0: peak allocated on a GPU, resident on a CPU"),
}
_COUNTERS = {
    "anomalies/skipped_positions": ("eagleray_skipped_positions", "Positions whose update an anomaly left out"),
    "anomalies/rollbacks": ("eagleray_rollbacks", "Times that an anomaly sent the run back to a checkpoint"),
    "anomalies/left_out_positions": ("eagleray_left_out_positions", "Positions that rollbacks have left out"),
}


class Prometheus:
    """Gauges with the label `run`, each from its first value on, and counters from 0, or from what was `counted`."""

    def __init__(self, *, run: str, host: str, port: int, counted: Mapping[str, float]) -> None:
        self._counted, self._counters = dict(counted), dict[str, Any]()
        self._run, self._host, self._port = run, host, port
        self._server: Any = None
        self._registry: Any = None
        self._gauges: dict[str, Any] = {}

    def open(self) -> str:
        """Serves, on a thread of the client."""
        from prometheus_client import CollectorRegistry, Counter, start_http_server

        if self._server is None:
            self._registry = CollectorRegistry()
            for name, (shown, doc) in _COUNTERS.items():
                counter = Counter(shown, doc, ["run"], registry=self._registry).labels(self._run)
                counter.inc(self._counted.get(name, 0.0))
                self._counters[name] = counter
            self._server, _ = start_http_server(self._port, addr=self._host, registry=self._registry)
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/metrics"

    def write(self, batch: Sequence[Figures]) -> None:
        """Sets what the batch holds; of two values of one figure the later stays."""
        for figures in batch:
            if not figures.beside:
                self._set("eagleray_step", "Steps done", figures.step)
                self._set("eagleray_step_end_seconds", "When the step ended, seconds since the Unix epoch", figures.t)
            for name, value in figures.values.items():
                group, _, own = name.partition("/")
                if name in _GAUGES:
                    self._set(*_GAUGES[name], value)
                elif name in self._counters:
                    # What is written again after a failure must not count twice.
                    self._counters[name].inc(max(value - self._counted.get(name, 0.0), 0.0))
                    self._counted[name] = max(value, self._counted.get(name, 0.0))
                elif group == "validation":
                    self._set("eagleray_validation_loss", "Loss on held-out text, nats per token", value, own)
                elif group == "own":
                    self._set("eagleray_own", "Figures of the run's own training function", value, own)

    def close(self, _outcome: str) -> None:
        """Frees the port."""
        self._server.shutdown()
        self._server.server_close()

    def _set(self, name: str, doc: str, value: float, own: str | None = None) -> None:
        from prometheus_client import Gauge

        if name not in self._gauges:
            labels = ["run"] if own is None else ["run", "name"]
            self._gauges[name] = Gauge(name, doc, labels, registry=self._registry)
        self._gauges[name].labels(*([self._run] if own is None else [self._run, own])).set(value)
