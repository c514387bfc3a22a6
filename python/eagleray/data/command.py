"""What the commands on data have in common: flags, progress on stderr, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable

from eagleray import _failure
from eagleray._failure import EXIT_DONE, EXIT_STOPPED

# Without a terminal, progress is a line of its own this often.
PLAIN_LINE_SECONDS = 5.0
TERMINAL_LINE_SECONDS = 0.2

# Takes a line, and whether it is the last of its kind.
Progress = Callable[[str, bool], None]


class ProgressLine:
    """Lines on stderr: one that is drawn over on a terminal, one every few seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")
        self._open = False

    def __call__(self, line: str, last: bool) -> None:
        """Shows a line, where it is time for one; the last of a source is always shown."""
        now = time.monotonic()
        if last:
            self.end()
            sys.stderr.write(f"{line}\n")
        elif self._terminal and now - self._shown_at >= TERMINAL_LINE_SECONDS:
            sys.stderr.write(f"\r\x1b[2K{line}")
            self._open, self._shown_at = True, now
        elif not self._terminal and now - self._shown_at >= PLAIN_LINE_SECONDS:
            sys.stderr.write(f"{line}\n")
            self._shown_at = now
        sys.stderr.flush()

    def end(self) -> None:
        """Clears a line that would be drawn over."""
        if self._open:
            sys.stderr.write("\r\x1b[2K")
            self._open = False


def count(value: float) -> str:
    """A number for people: `950`, `12.3k`, `4.5M`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: `8s`, `2m 05s`, `1h 03m`."""
    whole = max(int(seconds), 0)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 60}m {whole % 60:02}s" if whole >= 60 else f"{whole}s"


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of the flags that every command has."""
    made = argparse.ArgumentParser(prog=name, description=description)
    made.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
    made.add_argument("--format", choices=("text", "json"), default="text")
    made.add_argument("--verbose", action="store_true", help="tracebacks")
    return made


def run(options: argparse.Namespace, act: Callable[[Progress], str], *, stopped: str) -> int:
    """Prints what `act` gives, or how it ended, in the form that `options` ask for; returns the exit code.

    `stopped` says what an interrupt leaves. Ray is shut down in any case.
    """
    # Ray prints about workers that die, until it has shut down; stdout is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        code, result = _ended(options, act, stopped)
    sys.stdout.write(result)
    sys.stdout.flush()
    return code


def _ended(options: argparse.Namespace, act: Callable[[Progress], str], stopped: str) -> tuple[int, str]:
    """The exit code, and what goes to stdout."""
    line = ProgressLine()
    try:
        result = act((lambda _line, _last: None) if options.quiet else line)
        line.end()
        return EXIT_DONE, result
    except KeyboardInterrupt:
        line.end()
        sys.stderr.write(f"stopped; {stopped}\n")
        return EXIT_STOPPED, ""
    except Exception as error:
        line.end()
        if options.verbose:
            traceback.print_exception(error)
        return _described(error, as_json=options.format == "json", verbose=options.verbose)
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()


def _described(error: Exception, *, as_json: bool, verbose: bool) -> tuple[int, str]:
    code = _failure.exit_code(error)
    if as_json:
        return code, json.dumps(_failure.described(error)) + "\n"
    sys.stderr.write(f"error: {_failure.text_of(error)}\n")
    if not _failure.is_ours(error) and not verbose:
        sys.stderr.write("  hint: run again with `--verbose` for the traceback\n")
    return code, ""
