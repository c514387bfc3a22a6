"""What an event of the ledger has to show: one set of names for every sink, and what a sink is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..flops import mfu, tokens_per_second

_NAMES = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "data_wait": "time/data_wait",
    "memory_bytes": "memory/bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of a step, or of something `beside` it; `again` where the step had been done before."""

    t: float
    step: int
    values: Mapping[str, float]
    # A validation after the step, or an anomaly: nothing that says the step is done.
    beside: bool = False
    again: bool = False


class Sink(Protocol):
    """Where figures go. Each method runs on the sink's own thread, and may fail: then `open` is called again."""

    def open(self) -> str | None:
        """Makes ready to write, a second time too; returns the place to tell people of, if there is one."""

    def write(self, batch: Sequence[Figures]) -> None:
        """Writes figures, oldest first, so that they outlive this process."""

    def close(self, outcome: str) -> None:
        """The attempt has ended: `completed`, `stopped`, `failed` or `superseded`."""


def figures_of(event: Mapping[str, Any]) -> Figures | None:
    """The figures of a step of rank 0 or of a validation; None for other events."""
    if event["kind"] == "validation":
        values = {f"validation/{event['name']}": float(event["loss"])}
        return Figures(t=event["t"], step=int(event["step"]), values=values, beside=True)
    if event["kind"] != "step":
        return None
    values = {name: float(event[field]) for field, name in _NAMES.items() if field in event}
    seconds = float(event["end"]) - float(event["start"])
    speed = tokens_per_second(event)
    derived = {
        "time/data_wait_share": float(event["data_wait"]) / seconds if seconds > 0.0 else None,
        "time/tokens_per_second": speed,
        "time/mfu": mfu(speed, event),
    }
    values |= {name: value for name, value in derived.items() if value is not None}
    values |= {f"own/{name}": float(value) for name, value in event.get("figures", {}).items()}
    return Figures(t=event["t"], step=int(event["step"]), values=values, again=bool(event.get("recompute")))


@dataclass(slots=True)
class AnomalyCount:
    """What anomalies have cost a run, over all its attempts; each counts once, however often it is told of."""

    values: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("anomalies/skipped_positions", "anomalies/rollbacks", "anomalies/left_out_positions"), 0.0
        )
    )
    _seen: set[tuple[Any, ...]] = field(default_factory=set)

    def add(self, event: Mapping[str, Any]) -> Figures | None:
        """The counts after an anomaly; None where it was counted before, or cost no data."""
        first, end = event["positions"]
        same = (event["step"], first, end, event["action"])
        if same in self._seen or event["action"] == "stop":
            return None
        self._seen.add(same)
        if event["action"] == "skip":
            self.values["anomalies/skipped_positions"] += end - first
        else:
            self.values["anomalies/rollbacks"] += 1
            start, until = event.get("left_out", (0, 0))
            self.values["anomalies/left_out_positions"] += until - start
        return Figures(t=event["t"], step=int(event["step"]), values=dict(self.values), beside=True)
