"""A whole run whose store is a bucket: datasets, checkpoints, ledger and report; killed, stopped and widened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from conftest import SURVIVAL_STEPS, make_run
from eagleray import _core
from test_survival import EVERY, assert_equals_undisturbed, assert_recompute_is_in_the_ledger_of_attempts
from training import Corpus, Run, wait_until

pytestmark = pytest.mark.timeout(900)


def mirror(url: str, folder: Path) -> None:
    """Copies what lies below a URL into a folder, where tests read runs."""
    store = _core.Store(url)
    for name, _ in store.list(""):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(name))


def test_a_run_on_s3_outlives_its_driver_is_stopped_and_goes_on_in_another_world(
    s3: str, corpus: Corpus, undisturbed: Run, tmp_path: Path
) -> None:
    url = f"{s3}/train/run"
    options = {"store": url, "built": f"{s3}/train/built", "steps": SURVIVAL_STEPS}
    run = Run(store=tmp_path / "mirror", resolved=make_run(corpus, tmp_path / "two", **options).resolved)
    wider = Run(store=run.store, resolved=make_run(corpus, tmp_path / "three", workers=3, **options).resolved)
    store = _core.Store(url)

    def commits() -> int:
        return sum(name.endswith("/COMMIT") for name, _ in store.list("checkpoints"))

    try:
        driver = run.start()
        wait_until(lambda: commits() >= 3, driver)
        driver.kill()
        driver, saved = run.start(), commits()
        wait_until(lambda: commits() >= saved + 3, driver)
        assert "from step" in driver.text()
        driver.process.send_signal(signal.SIGTERM)
        assert driver.wait() == 130, driver.text()
        assert "resume with the same command" in driver.text()
        wider.finish()
    finally:
        run.end()
        wider.end()
    mirror(url, run.store)
    assert (run.store / "report" / "report.html").exists()
    assert [event["attempt"] for event in run.events("attempt_start")] == [1, 2, 3]
    steps = {number: [event["step"] for event in run.steps() if event["attempt"] == number] for number in (1, 2, 3)}
    assert min(steps[2]) > EVERY
    # Stopped after a step that it saved: nothing is done again.
    assert steps[3] == list(range(max(steps[2]) + 1, SURVIVAL_STEPS + 1))
    assert {event["world"] for event in run.steps() if event["attempt"] == 3} == {3}
    assert_equals_undisturbed(run, undisturbed)
    assert_recompute_is_in_the_ledger_of_attempts(run)
