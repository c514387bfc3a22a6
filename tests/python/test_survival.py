"""What is killed comes back and goes on exactly where it was: by itself, or by the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SURVIVAL_STEPS
from training import Driver, Run, wait_until

pytestmark = pytest.mark.timeout(900)
# Steps between saves.
EVERY = 10


def steps_of_latest_save(run: Run) -> int:
    return max(run.commits(), default=0)


def assert_equals_undisturbed(run: Run, undisturbed: Run) -> None:
    """Same samples, same tokens, and the same losses to five digits."""
    assert run.digests() == undisturbed.digests()
    assert run.loss_drift(undisturbed) < 1e-5


def assert_recompute_is_in_the_ledger(run: Run) -> None:
    """A step done twice is marked the second time, and each interruption costs at most one interval and what a
    second of the ledger holds."""
    first_time: set[int] = set()
    again = 0
    for event in run.steps():
        assert event["recompute"] or event["step"] not in first_time
        again += event["step"] in first_time
        first_time.add(event["step"])
    interruptions = len(run.events("generation")) - 1
    # A save in flight when the blow fell counts for the interval before it.
    assert again <= interruptions * 2 * EVERY


def test_killed_workers_are_replaced_and_training_goes_on_by_itself(
    new_run: Callable[..., Run], undisturbed: Run
) -> None:
    # A budget of none: a run that gets on between two blows is not charged for them.
    run = new_run(steps=SURVIVAL_STEPS, max_failures=0)
    driver = run.start()
    wait_until(lambda: steps_of_latest_save(run) >= 50, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    torn: list[Path] = []
    for strike in range(3):
        before, generations = steps_of_latest_save(run), strike + 2
        wait_until(lambda: len(run.events("generation")) == generations and steps_of_latest_save(run) > before, driver)  # noqa: B023
        save = _uncommitted(run, driver)
        os.kill(driver.workers()[0], signal.SIGKILL)
        torn += [save] if not (save / "COMMIT").exists() else []
        if torn:
            break
    assert torn, "no blow fell into a save"
    assert driver.wait() == 0, driver.text()
    resumed = [event["step"] for event in run.steps() if event["generation"] == 1]
    assert resumed[0] > 50
    assert len(run.events("attempt_start")) == 1
    assert_equals_undisturbed(run, undisturbed)
    assert_recompute_is_in_the_ledger(run)
    causes = {event["cause"] for event in run.events("span")}
    assert {"detection", "reform", "load"} <= causes


def _uncommitted(run: Run, driver: Driver) -> Path:
    """A save directory as soon as something is being written into it, before its commit."""
    known = set(run.store.glob("checkpoints/*/*"))
    while driver.process.poll() is None:
        for save in set(run.store.glob("checkpoints/*/*")) - known:
            if any(path.name != "BEGUN" for path in save.glob("*")):
                return save
        time.sleep(0.001)
    raise AssertionError(driver.text())


def test_after_the_death_of_the_raylet_the_same_command_continues(
    new_run: Callable[..., Run], undisturbed: Run
) -> None:
    # Workers train on without a raylet until Ray notices, some twenty seconds later: no run ends before that.
    run = new_run(steps=1_000_000)
    driver = run.start()
    wait_until(lambda: steps_of_latest_save(run) >= 50, driver)
    os.kill(driver.pids(b"raylet/raylet")[0], signal.SIGKILL)
    # Ours is 2 and a hint; Ray may end a process that has lost its raylet, with 1, before our word or after it.
    code = driver.wait()
    assert code in (1, 2), driver.text()
    if code == 2 or "error:" in driver.text():
        assert "the same command continues" in driver.text()
    driver.end()
    again = run.start()
    wait_until(lambda: run.steps()[-1]["attempt"] == 2 and max(run.history()) >= SURVIVAL_STEPS, again)
    # Asked over the store, as from a machine that cannot send it a signal.
    binary = Path(sys.executable).parent / "eagleray"
    asked = subprocess.run([binary, "stop", run.store], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout.startswith("the driver is stopped after step")) == (0, True), asked
    assert again.wait() == 130, again.text()
    assert "from step" in again.text()
    assert min(event["step"] for event in run.steps() if event["attempt"] == 2) > 50
    digests = run.digests()
    assert {step: digests[step] for step in undisturbed.digests()} == undisturbed.digests()
    assert_recompute_is_in_the_ledger_of_attempts(run)


def assert_recompute_is_in_the_ledger_of_attempts(run: Run) -> None:
    """As within an attempt; how much a driver took with it that its ledger did not hold yet, nobody can tell."""
    seen: set[int] = set()
    for event in run.steps():
        assert event["recompute"] or event["step"] not in seen
        seen.add(event["step"])


def test_of_two_drivers_on_one_run_one_stops_and_says_so(new_run: Callable[..., Run], undisturbed: Run) -> None:
    run = new_run(steps=3 * SURVIVAL_STEPS)
    older = run.start()
    wait_until((run.store / "attempts" / "0001.json").exists, older)
    refused = run.start()
    assert refused.wait() == 1, refused.text()
    assert "attempt 1" in refused.text()
    newer = run.start("--take-over")
    assert older.wait() == 1, older.text()
    assert "superseded" in older.text()
    assert newer.wait() == 0, newer.text()
    assert set(run.history()) == set(range(1, 3 * SURVIVAL_STEPS + 1))
    digests = run.digests()
    assert {step: digests[step] for step in undisturbed.digests()} == undisturbed.digests()
