"""TensorBoard events through its own writer, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_TAGS = {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "data_wait": "time/data_wait"}


class TensorBoard:
    """Writes scalars of rank 0's steps and of validations; silently nothing when TensorBoard is missing.

    A disk that is full or gone ends the plots, not the run.
    """

    def __init__(self, directory: str | None) -> None:
        self._writer: Any = None
        if directory is None:
            return
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            return
        with suppress(OSError):
            self._writer = EventFileWriter(directory)

    def observe(self, event: Mapping[str, Any]) -> None:
        """Writes what an event of the ledger has to show."""
        if self._writer is None:
            return
        if event["kind"] == "step":
            values = {tag: event[name] for name, tag in _TAGS.items() if name in event}
            values |= {f"own/{name}": value for name, value in event.get("figures", {}).items()}
        elif event["kind"] == "validation":
            values = {f"validation/{event['name']}": event["loss"]}
        else:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        try:
            self._writer.add_event(Event(wall_time=event["t"], step=event["step"], summary=summary))
        except OSError:
            self._writer = None

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
