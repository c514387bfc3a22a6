"""Runs the tests, shows what the runners print as they print it, and repeats their summaries at the end."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import build
import environment
from place import CLONE, Failed, say, shown

# Each runs Ray with several workers.
PROCESSES_MAX = 4
RUST_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
PYTEST_RESULT = re.compile(r"^=*\s*((?:\d+ [a-z]+,? ?)+in [\d.]+s.*?)\s*=*$")


def run(which: str, arguments: Sequence[str]) -> None:
    """`all` or one of the runners; fails when a test fails and when none ran."""
    summaries: list[str] = []
    failures: list[str] = []
    for name, runner in RUNNERS.items():
        if which in ("all", name):
            try:
                summaries.append(runner(arguments if which == name else ()))
            except Failed as error:
                failures.append(str(error))
    for line in [*summaries, *failures]:
        say(line)
    if failures:
        raise Failed("tests failed")


def rust(arguments: Sequence[str]) -> str:
    """All tests of the workspace, examples in documentation included."""
    # The oracle tests read real tokenizers; what cannot be fetched they skip by name, and miss in CI.
    fetch = [str(environment.ensure()), str(CLONE / "benches/fetch.py"), "tokenizers"]
    subprocess.run(fetch, env=environment.environment(), check=False)
    with build.owned_target():
        command = ["cargo", "test", "--release", "--workspace", "--locked", "--no-fail-fast", *arguments]
        status, lines = teed(command, build.cargo_environment())
    counts = [tuple(map(int, found.groups())) for found in map(RUST_RESULT.match, lines) if found]
    passed, failed, ignored = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    summary = f"cargo test: {passed} passed; {failed} failed; {ignored} ignored; in {len(counts)} binaries"
    return _judge(summary, status, passed)


def python(arguments: Sequence[str]) -> str:
    """pytest with real Ray and a real S3 server, against the installed wheel."""
    interpreter = build.install()
    # A choice of tests runs in one process, to be read and debugged.
    command = [str(interpreter), "-m", "pytest", *(arguments or at_once())]
    return _pytest("pytest", command)


def cluster(arguments: Sequence[str]) -> str:
    """The tests on a Kubernetes of this machine, one after the other; skipped by name where there can be none."""
    interpreter = build.install()
    # Ahead of the tests, whose time is limited: with a cold cache this takes minutes.
    command = [str(interpreter), str(CLONE / "tests/cluster/machine.py")]
    subprocess.run(command, env=environment.environment(), check=True)
    return _pytest("cluster", [str(interpreter), "-m", "pytest", *(arguments or ["tests/cluster"])])


def _pytest(name: str, command: Sequence[str]) -> str:
    status, lines = teed(command, build.cargo_environment())
    results = [found.group(1) for found in map(PYTEST_RESULT.match, lines) if found]
    counted = {
        word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", results[-1] if results else "")
    }
    # A machine that can hold no cluster has skipped them all, each by name.
    ran = counted.get("passed", 0) or (name == "cluster" and counted.get("skipped", 0))
    return _judge(f"{name}: {results[-1] if results else 'no summary'}", status, int(ran))


def at_once() -> list[str]:
    """pytest in several processes: what one waits for leaves a core to another."""
    return [f"--numprocesses={_processes()}", "--dist=loadfile", "--no-loadscope-reorder"]


def _processes() -> int:
    return max(2, min(len(os.sched_getaffinity(0)) // 2, PROCESSES_MAX))


def _judge(summary: str, status: int, passed: int) -> str:
    if status != 0:
        raise Failed(f"{summary} (ended with status {status})")
    if passed == 0:
        raise Failed(f"{summary} (no test ran)")
    return summary


def teed(command: Sequence[str | Path], variables: Mapping[str, str]) -> tuple[int, list[str]]:
    """Runs a command, passing its output on line by line; returns its status and the lines."""
    say(f"$ {shown(command)}")
    started = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=CLONE,
        env=dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    say(f"({time.monotonic() - started:.0f} s)")
    return process.returncode, lines


RUNNERS = {"rust": rust, "python": python, "cluster": cluster}
