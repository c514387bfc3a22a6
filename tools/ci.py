"""What `.ci/run` runs: every stage even after one failed, with its time beside its budget."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import build
import checks
import environment
import tests
from place import CLONE, Failed, say

TOTAL_BUDGET_S = 3420


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage, with the seconds that it may take with a cold cache on two cores."""

    name: str
    budget_s: int
    body: Callable[[], object]


def _dev(*arguments: str) -> list[str]:
    """Runs `./dev` as a user would; the lines it printed."""
    command = [str(CLONE / "dev"), *arguments]
    status, lines = tests.teed(command, os.environ)
    if status != 0:
        raise Failed(f"`./dev {' '.join(arguments)}` ended with status {status}")
    return lines


# What takes minutes of a core beside a quicker test of the same; `./dev test` has it all.
QUICK = ("-m", "not long")


class Runners:
    """Runs the tests and keeps the summary lines of their runners."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def run(self, which: str, *arguments: str) -> None:
        """One of the runners."""
        command = [str(CLONE / "dev"), "test", which, *arguments]
        status, lines = tests.teed(command, os.environ)
        self.lines += [line for line in lines if _worth_repeating(line)]
        if status != 0:
            raise Failed(f"`./dev test {' '.join([which, *arguments])}` ended with status {status}")


def _worth_repeating(line: str) -> bool:
    if found := tests.RUST_RESULT.match(line):
        return any(int(count) for count in found.groups())
    ours = line.startswith(("cargo test: ", "cluster: ", "FAILED ", "ERROR ", "SKIPPED "))
    return ours or (line.startswith("=") and tests.PYTEST_RESULT.match(line) is not None)


def _cpu_seconds() -> float:
    """Of all processes that have ended: on a busy machine, what a stage costs by itself."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _quickstart() -> None:
    with tempfile.TemporaryDirectory(prefix="eagleray-quickstart-") as folder:
        _dev("quickstart", "--short", "--dir", str(Path(folder, "quickstart")))


def stages(runners: Runners) -> list[Stage]:
    """In the order in which they fail soonest."""
    return [
        Stage(name="environment", budget_s=60, body=environment.ensure),
        Stage(name="format", budget_s=10, body=checks.formatted),
        Stage(name="ruff", budget_s=10, body=checks.ruff),
        Stage(name="clippy", budget_s=140, body=checks.clippy),
        Stage(name="tidy", budget_s=15, body=checks.tidy),
        Stage(name="licences", budget_s=90, body=checks.licences),
        Stage(name="wheel", budget_s=230, body=build.install),
        Stage(name="types", budget_s=20, body=checks.types),
        Stage(name="rust tests", budget_s=120, body=lambda: runners.run("rust")),
        Stage(name="python tests", budget_s=1700, body=lambda: runners.run("python", *QUICK, *tests.at_once())),
        # With a cold cache the programs of the cluster are built first: 480 s of these.
        Stage(name="cluster tests", budget_s=720, body=lambda: runners.run("cluster", *QUICK, "tests/cluster")),
        Stage(name="quickstart", budget_s=165, body=_quickstart),
    ]


def run() -> None:
    """Runs all stages; fails when one failed."""
    runners = Runners()
    rows: list[str] = []
    failed: list[str] = []
    began = time.monotonic()
    for stage in stages(runners):
        say(f"\n=== {stage.name} (budget {stage.budget_s} s)")
        started, used = time.monotonic(), _cpu_seconds()
        try:
            stage.body()
            outcome = "ok"
        except (Failed, subprocess.SubprocessError, OSError) as error:
            say(f"error: {error}")
            outcome = "FAILED"
        except Exception:
            traceback.print_exc()
            outcome = "FAILED"
        taken, cpu = time.monotonic() - started, _cpu_seconds() - used
        if outcome != "ok":
            failed.append(stage.name)
        over = "  over its budget" if taken > stage.budget_s else ""
        rows.append(f"{stage.name:<14}{taken:>7.0f} s of {stage.budget_s:>4} s {cpu:>6.0f} s CPU  {outcome}{over}")
    total = time.monotonic() - began
    rows.append(f"{'all':<14}{total:>7.0f} s of {TOTAL_BUDGET_S:>4} s {_cpu_seconds():>6.0f} s CPU")
    print("\n".join(["", *rows, "", *runners.lines]), flush=True)
    if failed:
        raise Failed(f"failed: {', '.join(failed)}")
