"""What runs beside each worker: an actor without resources that does what its client sends, and ends with it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import cloudpickle

from .place import Here, here, stand
from .program import Line, Program

# More than workers of Ray have: training goes first where both want a core.
NICENESS = 10
TOLD_CHARACTERS_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a function or a statement: what it printed, and a value (pickled) or an error (a traceback)."""

    told: str
    value: bytes | None = None
    error: str | None = None


class Helper:
    """Beside one rank. Functions and statements run one after another on one thread; the rest on others."""

    def __init__(self, place: Here) -> None:
        os.nice(NICENESS)
        if place.gpus:
            # Those of the worker, to read; Ray has reserved none for us. Nothing has asked for a GPU yet.
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
        stand(place)
        self._place = place
        self._names: dict[str, Any] = {
            "__name__": "__console__",
            "here": here,
            "rank": place.rank,
            "world": place.world,
        }
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._program: Program | None = None

    def ready(self) -> int:
        """The process."""
        return os.getpid()

    def run(self, sent: bytes) -> Answer:
        """Calls a pickled function with its arguments."""

        def call() -> bytes:
            function, arguments, named = cloudpickle.loads(sent)
            value: bytes = cloudpickle.dumps(function(*arguments, **named))
            return value

        return self._answered(call)

    def enter(self, source: str, name: str) -> Answer:
        """Runs a statement as a prompt does; values of expressions are told, as `repr` has them."""
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)

        def show(value: Any) -> None:
            if value is not None:
                self._names["_"] = value
                print(repr(value))

        def execute() -> None:
            before, sys.displayhook = sys.displayhook, show
            try:
                exec(compile(source, name, "single"), self._names)
            finally:
                sys.displayhook = before

        return self._answered(execute)

    def interrupt(self) -> None:
        """Raises `KeyboardInterrupt` in what runs; it takes effect where Python code runs."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(KeyboardInterrupt)
                )

    def start(self, argv: Sequence[str]) -> None:
        """Starts a program, in the place of the one before."""
        self.end()
        place = self._place
        environment: Mapping[str, Any] = {"RANK": place.rank, "WORLD": place.world, "WORKER_PID": place.pid}
        self._program = Program(argv, {f"EAGLERAY_{name}": str(value) for name, value in environment.items()})

    def look(self) -> tuple[list[Line], int | None]:
        """New lines of the program, and its exit code once there are no more."""
        return ([], None) if self._program is None else self._program.look()

    def end(self) -> None:
        """Ends the program."""
        if self._program is not None:
            self._program.end()

    def _answered(self, work: Callable[[], bytes | None]) -> Answer:
        told = _Told()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                try:
                    with self._lock:
                        self._thread = threading.get_ident()
                    value = work()
                finally:
                    with self._lock:
                        self._thread = None
            return Answer(told=told.getvalue(), value=value)
        except BaseException as error:
            # What was sent may raise anything, SystemExit too, and a helper goes on.
            return Answer(told=told.getvalue(), error=_traceback(error))


class _Told(io.StringIO):
    """What is printed, to a limit."""

    def write(self, text: str, /) -> int:
        room = TOLD_CHARACTERS_MAX - self.tell()
        if room > 0:
            super().write(text if len(text) <= room else text[:room] + "\n… (more than is kept)\n")
        return len(text)


def _traceback(error: BaseException) -> str:
    """Without the frames of this file."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))
