"""TensorBoard events through its own writer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .figures import Figures


class TensorBoard:
    """Event files in a folder; each attempt, and each new try after a failure, writes one of its own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._writer: Any = None

    def open(self) -> None:
        """Begins a file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        self._writer = EventFileWriter(self._directory)

    def write(self, batch: Sequence[Figures]) -> None:
        """Adds scalars and hands them to the disk."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for figures in batch:
            scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.values.items()]
            self._writer.add_event(Event(wall_time=figures.t, step=figures.step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self, _outcome: str) -> None:
        """Closes the file."""
        self._writer.close()
