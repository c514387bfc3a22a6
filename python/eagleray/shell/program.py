"""A program beside one worker: its lines as they come, its exit code, and its end when the helper ends."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

# A parent for the program, and a watch that kills their process group once the helper holds the pipe no more, however
# that went. The parent alone could not: Ray kills the children of a worker that ends, and no further down.
_PARENT = """\
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
nothing = os.open(os.devnull, os.O_RDWR)
watch = os.fork()
if watch == 0:
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
os.dup2(nothing, 0)
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        os.write(2, f"cannot run `{sys.argv[1]}`: {error.strerror}\\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
os.kill(watch, signal.SIGKILL)
os._exit(128 - code if code < 0 else code)
"""
LINE_BYTES_MAX = 64 << 10
# A program that writes faster than its lines are fetched waits for them.
LINES_HELD_MAX = 4096
LINES_A_LOOK = 512
LOOK_SECONDS = 1.0
# Children may hold the pipes of a program that has ended.
PIPES_SECONDS = 1.0
TERMINATE_SECONDS = 2.0
# As shells have it.
SIGNALLED = 128

Line = tuple[str, str]


class Program:
    """A program that runs, with its output."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lines: queue.Queue[Line] = queue.Queue(LINES_HELD_MAX)
        self._unwanted = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PARENT, *argv],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def look(self) -> tuple[list[Line], int | None]:
        """The lines since the last look, waiting a moment for the first; the exit code once there are no more."""
        lines: list[Line] = []
        deadline = time.monotonic() + LOOK_SECONDS
        while not lines and time.monotonic() < deadline and not self._is_over():
            with contextlib.suppress(queue.Empty):
                lines.append(self._lines.get(timeout=0.05))
        with contextlib.suppress(queue.Empty):
            while len(lines) < LINES_A_LOOK:
                lines.append(self._lines.get_nowait())
        over = self._is_over() and self._lines.empty()
        return lines, self._code() if over else None

    def end(self) -> None:
        """Ends it and what it started, by force if need be; its output is dropped."""
        self._unwanted.set()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _is_over(self) -> bool:
        if self._process.poll() is None:
            return False
        deadline = time.monotonic() + PIPES_SECONDS
        for reader in self._readers:
            if not self._lines.empty():
                break
            reader.join(max(0.0, deadline - time.monotonic()))
        return self._lines.empty()

    def _code(self) -> int:
        code = self._process.returncode
        return SIGNALLED - code if code < 0 else code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self, stream: str, pipe: IO[bytes]) -> None:
        with pipe:
            while piece := pipe.readline(LINE_BYTES_MAX):
                line = (stream, piece.decode(errors="replace").rstrip("\r\n"))
                while not self._unwanted.is_set():
                    with contextlib.suppress(queue.Full):
                        self._lines.put(line, timeout=0.2)
                        break
