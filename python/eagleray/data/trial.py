"""Reads a slice of a corpus through Ray Data, and says what it holds and what the whole would take.

    python -m eagleray.data.trial --request FILE [--cpus N] [--format json]

What `eagleray data try` hands over is planned already: objects are listed, places chosen, the tokenizer is looked
at. Each task is one row of a dataset, and its map one native call, so that what crosses processes is outcomes
and not text.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eagleray import _core

from . import command
from .build_tasks import restore
from .command import Progress, ProgressLine, count, duration
from .trial_tasks import run_held, run_here


def read_slice(trial: dict[str, Any], tokenizer: bytes | None, *, cpus: int | None = None) -> Iterator[str]:
    """Runs the tasks of a planned trial, `cpus` at once, and yields the outcomes of each as it ends.

    They run on the cluster of `RAY_ADDRESS`, or on an embedded Ray; with `cpus=0` in this process without Ray.
    """
    tasks = [json.dumps(task) for task in trial["tasks"]]
    if cpus == 0:
        for task in tasks:
            yield _outcome_of(run_here({"item": task}, tokenizer))
        return
    from eagleray import _ray

    _ray.start(cpus or 1, verbose=False)
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    at_once = min(cpus or max(int(_ray.resources("CPU")), 1), len(tasks))
    # Put once: a tokenizer has megabytes, and a task asks for it where its process has none.
    held = ray.put(tokenizer)
    # A block a task: the executor hands them out as workers come free, and holds no text.
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    outcomes = rows.map(functools.partial(run_held, tokenizer=[held]), num_cpus=1, concurrency=at_once)
    for row in outcomes.iter_rows():
        yield _outcome_of(row)


def _outcome_of(row: dict[str, Any]) -> str:
    if row["error"]:
        raise restore(json.loads(row["error"]))
    return str(row["outcomes"])


def report(request: str, *, cpus: int | None = None, progress: Progress | None = None) -> tuple[str, str]:
    """Reads the slice and returns what it says, as JSON and for people."""
    trial = json.loads(request)["trial"]
    show = progress or ProgressLine()
    used = trial["settings"]["tokenizer"]
    tokenizer = None if used is None else _core.read_tokenizer(used["location"])
    started, total = time.monotonic(), len(trial["tasks"])
    show(f"reading {count(trial['bytes'])}B of {count(trial['survey']['bytes'])}B in {total} tasks", False)
    outcomes: list[str] = []
    for outcome in read_slice(trial, tokenizer, cpus=cpus):
        outcomes.append(outcome)
        seconds = time.monotonic() - started
        left = duration(seconds / len(outcomes) * (total - len(outcomes)))
        show(f"{len(outcomes)} of {total} tasks · {duration(seconds)} · {left} left", False)
    return _core.report_trial(request, outcomes, tokenizer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, reads, prints what was found, and returns the exit code."""
    parser = command.parser("eagleray data try", __doc__)
    parser.add_argument("--request", required=True, type=Path, help="what `eagleray data try` hands over, as JSON")
    parser.add_argument("--cpus", type=int, help="tasks at once; default: one a CPU of the cluster; 0: no Ray")
    options = parser.parse_args(arguments)

    def act(progress: Progress) -> str:
        try:
            found, text = report(options.request.read_text(encoding="utf-8"), cpus=options.cpus, progress=progress)
        except Exception as error:
            raise _cause(error) from None
        return f"{found}\n" if options.format == "json" else text

    return command.run(options, act, stopped="nothing was written")


def _cause(error: BaseException) -> BaseException:
    """What a task met, inside what Ray wraps it in."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    return error


if __name__ == "__main__":
    sys.exit(main())
