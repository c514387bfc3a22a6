"""`workers: {min, max}` on a cluster whose nodes come and go: the world follows them, the samples do not change."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from training import Run, processes_with, wait_until

pytestmark = pytest.mark.timeout(900)
MARK = "EAGLERAY_TEST_CLUSTER"
# Of the nodes and the driver alike: a head started by hand wants a token of them otherwise.
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


class Cluster:
    """A head without CPUs, and nodes of one CPU each, on loopback."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="er-"))
        self.nodes = 0
        self._start("--head", "--num-cpus=0", "--port=0", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.address = (self.folder / "ray_current_cluster").read_text(encoding="utf-8").strip()

    def add(self) -> str:
        """Starts a node; the tag of its processes."""
        return self._start(f"--address={self.address}", "--num-cpus=1")

    def kill(self, node: str) -> None:
        """SIGKILL to every process of a node, workers included: its machine is gone."""
        for process, _ in processes_with(MARK, node):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        """Leaves nothing behind."""
        for number in range(self.nodes):
            self.kill(self._tag(number))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tag(self, number: int) -> str:
        return f"{self.folder.name}-{number}"

    def _start(self, *arguments: str) -> str:
        tag = self._tag(self.nodes)
        self.nodes += 1
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--object-store-memory=100000000"]
        environment = os.environ | RAY | {MARK: tag}
        started = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
        assert started.returncode == 0, started.stdout + started.stderr
        return tag


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        yield made
    finally:
        made.end()


def worlds(run: Run) -> list[int]:
    """The worlds that took steps, in order, without repetition."""
    seen: list[int] = []
    for event in run.steps():
        if not seen or seen[-1] != event["world"]:
            seen.append(event["world"])
    return seen


def test_a_run_saves_and_grows_onto_a_new_node_and_shrinks_when_one_is_lost(
    cluster: Cluster, new_run: Callable[..., Run], undisturbed: Run
) -> None:
    cluster.add()
    # More steps than it will take, and no save due: what it goes on from is the save that it made in order to grow.
    run = new_run(steps=1_000_000, workers="{min: 1, max: 2}", every="100000 steps")
    driver = run.start(RAY_ADDRESS=cluster.address, EAGLERAY_RESIZE_SECONDS="2", **RAY)
    wait_until(lambda: len(run.steps()) > 20, driver)
    second = cluster.add()
    wait_until(lambda: 2 in worlds(run), driver)
    grown_at = next(event["step"] for event in run.steps() if event["world"] == 2)
    assert run.commits() == [grown_at - 1]
    assert grown_at > 20
    cluster.kill(second)
    wait_until(lambda: worlds(run) == [1, 2, 1], driver)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait() == 130, driver.text()
    expected = undisturbed.digests()
    digests = run.digests()
    both = digests.keys() & expected.keys()
    assert len(both) >= min(grown_at, len(expected))
    assert {step: digests[step] for step in both} == {step: expected[step] for step in both}
