"""What the driver says on the terminal: one progress line, a summary, and errors without tracebacks."""

from __future__ import annotations

import json
import sys
from typing import Any

from eagleray import _failure

# Without a terminal, progress is a line of its own this often.
PLAIN_LINE_SECONDS = 10.0


class Console:
    """Progress on stderr, results on stdout."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self._terminal = sys.stderr.isatty()
        self._line_open = False
        self._printed_at = float("-inf")
        self._printed = ""

    def say(self, text: str) -> None:
        """One line about what goes on."""
        self._end_line()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def progress(self, now: float, report: dict[str, Any]) -> None:
        """The progress line: step, loss, speed, data wait and time left."""
        for notice in report["notices"]:
            self.say(notice)
        if "step" not in report:
            return
        line = progress_line(report)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{line}")
            self._line_open = True
        elif now - self._printed_at >= PLAIN_LINE_SECONDS and line != self._printed:
            sys.stderr.write(f"{line}\n")
            self._printed = line
        else:
            return
        self._printed_at = now
        sys.stderr.flush()

    def summary(self, summary: dict[str, Any]) -> None:
        """The end of the run, for people or for programs."""
        self._end_line()
        if self.as_json:
            sys.stdout.write(json.dumps(summary) + "\n")
        else:
            sys.stdout.write(summary_text(summary))
        sys.stdout.flush()

    def error(self, error: BaseException, logs: str | None) -> int:
        """Says what went wrong, and returns the exit code."""
        self._end_line()
        return _failure.tell(error, as_json=self.as_json, verbose=self.verbose, logs=logs)

    def _end_line(self) -> None:
        if self._line_open:
            sys.stderr.write("\n")
            self._line_open = False


def progress_line(report: dict[str, Any]) -> str:
    """`step 120/400 · loss 4.213 · 12.3k tok/s · data wait 0.1 % · 2m 10s left`."""
    total = report.get("total_steps")
    parts = [f"step {report['step']}" + (f"/{total}" if total else "")]
    if "loss" in report:
        parts.append(f"loss {report['loss']:.4f}")
    if "tokens_per_second" in report and total:
        left = (total - report["step"]) * report["seconds_per_step"]
        parts.append(f"{_count(report['tokens_per_second'])} tok/s")
        if report.get("mfu") is not None:
            parts.append(f"MFU {report['mfu'] * 100:.1f} %")
        parts += [
            f"data wait {report['data_wait_share'] * 100:.1f} %",
            f"{_duration(left)} left",
        ]
    if "checkpoint_step" in report:
        parts.append(f"saved {report['checkpoint_step']}")
    return " · ".join(parts)


def summary_text(summary: dict[str, Any]) -> str:
    """The summary as aligned lines."""
    rows: list[tuple[str, str]] = [("run", f"{summary['name']}: {summary['outcome']} at step {summary['step']}")]
    validation = summary.get("validation") or {}
    if losses := validation.get("loss"):
        rows.append(("validation loss", f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last"))
    if speed := summary.get("tokens_per_second"):
        rows.append(("speed", f"{_count(speed)} tokens/s"))
    if shares := summary.get("shares"):
        shown = sorted(((share, name) for name, share in shares.items() if share >= 0.0005), reverse=True)
        rows.append(("time", ", ".join(f"{name.replace('_', ' ')} {share * 100:.1f} %" for share, name in shown)))
    rows += [(noun, summary[noun]) for noun in ("checkpoint", "ledger", "report") if summary.get(noun)]
    width = max(len(noun) for noun, _ in rows)
    return "".join(f"{noun:<{width}}  {text}\n" for noun, text in rows)


def _count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    whole = max(int(seconds), 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {whole % 60:02}s" if minutes else f"{whole}s"
