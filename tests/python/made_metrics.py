"""What tests of metrics share: a keeper fed by hand, waiting for its sinks, and a reader of W&B's offline files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eagleray import _core
from eagleray.train.ledger import Keeper
from eagleray.train.sinks import Wanted

# Only a hang is as slow as this; every wait is for a condition.
PATIENCE_SECONDS = 120.0


def step_event(step: int, loss: float, *, again: bool = False, **changes: Any) -> dict[str, Any]:
    """What rank 0 says of a step of a second: 512 tokens, a tenth of the time waiting; `again` is a minute later."""
    start = 1_700_000_000.0 + step + 60.0 * again
    event: dict[str, Any] = {"kind": "step", "rank": 0, "t": start + 1.0, "step": step, "start": start}
    event |= {"end": start + 1.0, "loss": loss, "lr": 0.5, "grad_norm": 2.0, "tokens": 512, "data_wait": 0.1}
    return event | {"compute": 0.8, "world": 2, "total_steps": 9, "memory_bytes": 1 << 20, "recompute": again} | changes


def wanted(store: Path | str, **metrics: Any) -> Wanted:
    """The sinks of a run `small`; TensorBoard only where it is named."""
    parameters = {"train.steps": 9, "model.preset": "llama-tiny"}
    chosen = {"tensorboard": False} | metrics
    return Wanted(name="small", store=str(store), metrics=chosen, parameters=parameters, directory=str(store))


class Attempt:
    """The keeper of a new attempt of a run, with one rank that has come."""

    def __init__(self, store: Path, told: Sequence[dict[str, Any]] = (), **metrics: Any) -> None:
        claim = {"host": "here", "pid": 1, "take_over": True}
        attempt = int(json.loads(_core.claim(str(store), json.dumps(claim)))["attempt"])
        self.keeper = Keeper(str(store), attempt, 10.0, 0, wanted(store, **metrics), told)
        self.generation = self.keeper.begin_generation(1, 11.0)
        self.keeper.enter(0, 12.0)
        self.notices: list[str] = []

    def push(self, *events: dict[str, Any]) -> None:
        """Hands events over as rank 0 does; returns when the store has them."""
        self.keeper.push(self.generation, 0, list(events), True)

    def heard(self, text: str) -> bool:
        """Whether a notice with this text has come."""
        self.notices += self.keeper.progress()["notices"]
        return any(text in notice for notice in self.notices)

    def finish(self, outcome: str) -> None:
        """Ends the attempt."""
        self.keeper.finish(time.time(), outcome)


def eventually(condition: Callable[[], Any]) -> Any:
    """The condition's value once it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


def offline_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged into a `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    for data in _log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def _log_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format behind W&B's header of 7 bytes: blocks of 32 KiB, heads of crc, length, type."""
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
