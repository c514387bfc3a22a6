"""Builds the token datasets of a resolved run, in parallel on Ray.

    python -m eagleray.data.build --resolved FILE [--workers N] [--format json]

Every source of documents becomes a dataset under `data.built`, named by its content; one that is there
already is found and not built. Sources that are datasets are opened and checked. Killed at any point and
started again, a build goes on with the tasks that were not done and ends in the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagleray import _core, _failure
from eagleray._failure import EXIT_DONE, EXIT_STOPPED

from .build_tasks import restore, run_step

# Tasks handed to Ray beyond those that run: a worker that ends finds the next one waiting.
QUEUED_PER_WORKER = 1
# Without a terminal, progress is a line of its own this often.
PLAIN_LINE_SECONDS = 5.0
TERMINAL_LINE_SECONDS = 0.2
# A task that has taken this many workers with it would take every other one too.
RETRIES = 8

Progress = Callable[[str, bool], None]


def build(
    resolved: Mapping[str, Any], *, workers: int | None = None, progress: Progress | None = None
) -> dict[str, str]:
    """Builds what is missing and returns the URL of every source's dataset, training sources before validation.

    A validation set that has the name of a training source is returned as `validation.NAME`.

    `workers` tasks run at once, as many as the cluster has CPUs by default; an embedded Ray is started where
    none is connected. With `workers=0` they run in this process, one by one and without Ray. `progress` takes
    a line and whether it is the last of its source; by default lines go to stderr.
    """
    resolved_json = json.dumps(resolved)
    show = progress or ProgressLine()
    urls: dict[str, str] = {}
    for role, name in _sources(resolved):
        key = f"validation.{name}" if name in urls else name
        urls[key] = _build_source(resolved_json, name, role, workers, show)
    return urls


def _sources(resolved: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = resolved["spec"]["data"]
    return [("train", name) for name in data["sources"]] + [
        ("validation", name) for name in data.get("validation") or {}
    ]


def _build_source(resolved: str, name: str, role: str, workers: int | None, show: Progress) -> str:
    plan_json = _core.plan_build(resolved, name, role)
    plan = json.loads(plan_json)
    if plan["dataset"] is not None:
        show(f"{name}: dataset {plan['done'][:12]} is there", True)
        return str(plan["dataset"])
    try:
        return _run(plan_json, plan, workers, show)
    except _core.EagleRayError:
        # Another builder that finished first has swept the work away under this one.
        plan = json.loads(_core.plan_build(resolved, name, role))
        if plan["dataset"] is None:
            raise
        show(f"{name}: dataset {plan['done'][:12]} was built by another process", True)
        return str(plan["dataset"])


def _run(plan_json: str, plan: dict[str, Any], workers: int | None, show: Progress) -> str:
    if workers != 0:
        from eagleray import _ray

        _ray.start(workers or 1, verbose=False)
    meter = Meter(source=plan["source"], total_bytes=plan["total_bytes"], started=time.monotonic())
    stats = []
    for result in _run_tasks("map", plan["map"], workers, meter, show):
        stats.append(result)
        meter.add(json.loads(result))
    _core.check_map(plan_json, stats)
    meter.shards = len(plan["reduce"])
    for _ in _run_tasks("reduce", plan["reduce"], workers, meter, show):
        meter.shards_done += 1
    url = str(_core.finish_build(plan_json))
    show(meter.summary(), True)
    return url


def _run_tasks(
    step: str, tasks: Sequence[dict[str, Any]], workers: int | None, meter: Meter, show: Progress
) -> Iterator[str]:
    """Runs tasks in Ray's workers, as many at once as asked for; yields statistics in the order they end."""
    if workers == 0:
        for each in tasks:
            yield _stats_of(run_step(step, json.dumps(each)))
            show(meter.line(), False)
        return
    import ray

    at_once = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    # A worker that dies takes its task with it: the task runs again, and finds what it had finished.
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(run_step)
    waiting = iter([json.dumps(task) for task in tasks])
    running: set[Any] = set()
    limit = at_once if workers else at_once * (1 + QUEUED_PER_WORKER)
    # Tasks that are left when this ends early are not cancelled: a cancel that crosses a task's reply aborts
    # this process inside Ray 2.60 (`Tried to complete task that was not pending`). They end with this
    # driver; in a driver that goes on, the few that were handed out finish, and the next build finds them done.
    while True:
        while len(running) < limit and (task := next(waiting, None)) is not None:
            running.add(remote.remote(step, task))
        if not running:
            return
        done, _ = ray.wait(list(running), num_returns=1, timeout=TERMINAL_LINE_SECONDS)
        for reference in done:
            running.discard(reference)
            yield _stats_of(ray.get(reference))
        show(meter.line(), False)


def _stats_of(outcome: Mapping[str, Any]) -> str:
    if described := outcome.get("error"):
        raise restore(described)
    return str(outcome["stats"])


@dataclass(slots=True, kw_only=True)
class Meter:
    """How far a build is."""

    source: str
    total_bytes: int
    started: float
    bytes: int = 0
    documents: int = 0
    tokens: int = 0
    bad: int = 0
    shards: int = 0
    shards_done: int = 0
    _clock: Callable[[], float] = field(default=time.monotonic)

    def add(self, stats: Mapping[str, Any]) -> None:
        """Adds what a map task did."""
        self.bytes += stats["bytes"]
        self.documents += stats["documents"]
        self.tokens += stats["tokens"]
        self.bad += stats["bad"]

    def line(self) -> str:
        """`web: 42 % · 310.2 MB/s · 1.2M documents · 310.0M tokens · 2m 10s left`."""
        seconds = max(self._clock() - self.started, 1e-9)
        if self.shards:
            return f"{self.source}: writing shard {self.shards_done + 1} of {self.shards} · {self._counts()}"
        share = self.bytes / self.total_bytes if self.total_bytes else 1.0
        left = f" · {duration(seconds * (1 - share) / share)} left" if share > 0 else ""
        rate = self.bytes / seconds / 1e6
        return f"{self.source}: {share * 100:.0f} % · {rate:.1f} MB/s · {self._counts()}{left}"

    def summary(self) -> str:
        """What was built, and how fast."""
        seconds = max(self._clock() - self.started, 1e-9)
        rate = self.bytes / seconds / 1e6
        return f"{self.source}: {self._counts()} in {duration(seconds)} ({rate:.1f} MB/s of raw bytes)"

    def _counts(self) -> str:
        bad = f" · {count(self.bad)} bad records" if self.bad else ""
        return f"{count(self.documents)} documents · {count(self.tokens)} tokens{bad}"


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, builds, prints the datasets, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="eagleray tokens build", description=__doc__)
    parser.add_argument("--resolved", required=True, type=Path, help="the resolved spec, as JSON")
    parser.add_argument("--workers", type=int, help="tasks at once; default: one a CPU of the cluster; 0: no Ray")
    parser.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--verbose", action="store_true", help="tracebacks")
    options = parser.parse_args(arguments)
    # Ray prints about workers that die, until it has shut down; stdout is for the result alone.
    with contextlib.redirect_stdout(sys.stderr):
        code, result = _build_and_describe(options)
    sys.stdout.write(result)
    sys.stdout.flush()
    return code


def _build_and_describe(options: argparse.Namespace) -> tuple[int, str]:
    """Builds; the exit code, and what goes to stdout."""
    as_json = options.format == "json"
    line = ProgressLine()
    show: Progress = (lambda _line, _last: None) if options.quiet else line
    try:
        resolved = json.loads(options.resolved.read_text(encoding="utf-8"))
        urls = build(resolved, workers=options.workers, progress=show)
    except KeyboardInterrupt:
        line.end()
        sys.stderr.write("stopped; the same command goes on where this one was\n")
        return EXIT_STOPPED, ""
    except Exception as error:
        line.end()
        if options.verbose:
            traceback.print_exception(error)
        return _described(error, as_json=as_json, verbose=options.verbose)
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    if as_json:
        return EXIT_DONE, json.dumps({"datasets": urls}) + "\n"
    width = max((len(name) for name in urls), default=0)
    return EXIT_DONE, "".join(f"{name:<{width}}  {url}\n" for name, url in urls.items())


def _described(error: Exception, *, as_json: bool, verbose: bool) -> tuple[int, str]:
    """The exit code of an error, and what goes to stdout."""
    code = _failure.exit_code(error)
    if as_json:
        return code, json.dumps(_failure.described(error)) + "\n"
    sys.stderr.write(f"error: {_failure.text_of(error)}\n")
    if not _failure.is_ours(error) and not verbose:
        sys.stderr.write("  hint: run again with `--verbose` for the traceback\n")
    return code, ""


if __name__ == "__main__":
    sys.exit(main())
