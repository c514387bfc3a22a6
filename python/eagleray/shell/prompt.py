"""The prompt: each statement runs beside all ranks, in namespaces that stay, and equal answers are shown once."""

from __future__ import annotations

import code
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eagleray._failure import EXIT_STOPPED

from .answers import collapsed, ranks_text
from .cluster import Cluster

LOCAL = "%local"
_LEAVE = {"exit", "exit()", "quit", "quit()"}
_HISTORY = Path("~/.eagleray_history")


class Prompt(code.InteractiveConsole):
    """Python's own console, but statements are sent away; without a terminal it shows no prompts."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(filename="<eagleray>")
        self.cluster = cluster
        self.failed = False
        self._statements = 0
        self._stopped = False
        self._local = code.InteractiveInterpreter({"__name__": "__console__", "cluster": cluster})
        self._terminal = sys.stdin.isatty()

    def run(self) -> int:
        """Until the input ends; 1 where a statement failed that came through a pipe."""
        if not self._terminal:
            self._loop("")
            return EXIT_STOPPED if self._stopped else int(self.failed)
        world = self.cluster.world
        ranks = ranks_text(self.cluster.ranks)
        with _history():
            self._loop(
                f"{world.store}: rank {ranks} of {len(world.places)}, attempt {world.attempt}, generation "
                f"{world.generation}\nStatements run beside all of them; `{LOCAL} …` runs here; Ctrl-D leaves."
            )
        return 0

    def _loop(self, banner: str) -> None:
        with contextlib.suppress(SystemExit):
            self.interact(banner=banner, exitmsg="")

    def raw_input(self, prompt: str = "") -> str:
        """A line of a terminal with a prompt, or of a pipe without; the end of the input ends a block too."""
        if self._terminal:
            return input(prompt)
        line = sys.stdin.readline()
        if line:
            return line.rstrip("\n")
        if self.buffer:
            return ""
        # An end of the input would be told of by an empty line.
        raise SystemExit

    def push(self, line: str, *arguments: Any, **named: Any) -> bool:
        """Takes a line: to be run here, or a part of a statement."""
        if not self.buffer and line.strip() in _LEAVE:
            raise SystemExit
        if not self.buffer and (line.split() or [""])[0] == LOCAL:
            if self._local.runsource(line.strip().removeprefix(LOCAL).strip(), LOCAL):
                self.failed = True
                self.write(f"`{LOCAL}` takes a whole statement on its line\n")
            return False
        return super().push(line, *arguments, **named)

    def runsource(self, source: str, filename: str = "<eagleray>", symbol: str = "single") -> bool:
        """Waits for the rest, tells of a syntax error here, or sends the statement away."""
        try:
            whole = self.compile(source, filename, symbol)
        except (OverflowError, SyntaxError, ValueError):
            self.failed = True
            self.showsyntaxerror(filename)
            return False
        if whole is None:
            return True
        if not source.strip():
            return False
        try:
            self._send(source)
        except KeyboardInterrupt:
            if self._terminal:
                raise
            self._stopped = True
            raise SystemExit from None
        return False

    def _send(self, source: str) -> None:
        self._statements += 1
        told, failures = self.cluster.enter(source, f"<eagleray {self._statements}>")
        for line in collapsed(told):
            print(line, flush=True)
        for line in collapsed(failures):
            print(line, file=sys.stderr, flush=True)
        self.failed |= bool(failures)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Lines of earlier prompts, by the arrow keys."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = str(_HISTORY.expanduser())
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(1000)
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
