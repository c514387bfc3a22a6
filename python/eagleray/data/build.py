"""Builds the token datasets of a resolved run, in parallel on Ray.

    python -m eagleray.data.build --resolved FILE [--workers N] [--format json]

Every source of documents becomes a dataset under `data.built`, named by its content; one that is there
already is found and not built. Sources that are datasets are opened and checked. Killed at any point and
started again, a build goes on with the tasks that were not done and ends in the same bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagleray import _core

from . import command
from .build_tasks import restore, run_step
from .command import TERMINAL_LINE_SECONDS, Progress, ProgressLine, count, duration

# Tasks handed to Ray beyond those that run: a worker that ends finds the next one waiting.
QUEUED_PER_WORKER = 1
# A task that has taken this many workers with it would take every other one too.
RETRIES = 8


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, builds, prints the datasets, and returns the exit code."""
    parser = command.parser("eagleray tokens build", __doc__)
    parser.add_argument("--resolved", required=True, type=Path, help="the resolved spec, as JSON")
    parser.add_argument("--workers", type=int, help="tasks at once; default: one a CPU of the cluster; 0: no Ray")
    options = parser.parse_args(arguments)

    def act(progress: Progress) -> str:
        resolved = json.loads(options.resolved.read_text(encoding="utf-8"))
        urls = build(resolved, workers=options.workers, progress=progress)
        if options.format == "json":
            return json.dumps({"datasets": urls}) + "\n"
        width = max((len(name) for name in urls), default=0)
        return "".join(f"{name:<{width}}  {url}\n" for name, url in urls.items())

    return command.run(options, act, stopped="the same command goes on where this one was")


if __name__ == "__main__":
    sys.exit(main())
