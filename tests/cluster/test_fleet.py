"""What looks at a launch of a thousand pods stays as small as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import wait_for
from cluster import Cluster
from fleet import Fleet, Watching

PODS = 1000
# Pods come and go from the first look on: the measure is how many went, not how long it took.
WARM, END = 200, 1500

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.usefixtures("kuberay", "kwok")
def test_watching_a_thousand_pods_that_come_and_go_takes_no_more_memory_at_the_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    fleet = Fleet(cluster, tmp_path, PODS)
    fleet.start()
    try:
        watching = fleet.watch(tmp_path / "told.jsonl", "1s")
        try:
            first = memory_after(fleet, watching, WARM)
            last = memory_after(fleet, watching, END)
        finally:
            said = watching.end()
    finally:
        fleet.stop()
    told = watching.told()
    assert told[-1]["phase"] == "running", (told[-1], said)
    assert sum(group["wanted"] for group in told[-1]["groups"]) >= PODS
    assert len(told) > 10, "it did not see that pods came and went"
    assert last < 1.2 * first + 2, f"{first:.1f} MB, then {last:.1f} MB after {END} pods were replaced"


def memory_after(fleet: Fleet, watching: Watching, replaced: int) -> float:
    """Resident megabytes, once so many pods were replaced."""

    def reached() -> bool:
        fleet.check()
        assert watching.process.poll() is None, "it ended"
        return fleet.replaced >= replaced

    wait_for(f"{replaced} pods to be replaced", reached, seconds=600)
    return watching.memory_mb()
