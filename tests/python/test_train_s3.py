"""A whole run whose store is a bucket: datasets, checkpoints, ledger and report, its driver killed on the way."""

from __future__ import annotations

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


def test_after_the_death_of_the_driver_the_same_command_continues_on_s3(
    s3: str, corpus: Corpus, undisturbed: Run, tmp_path: Path
) -> None:
    url = f"{s3}/train/run"
    made = make_run(corpus, tmp_path, store=url, built=f"{s3}/train/built", steps=SURVIVAL_STEPS)
    run = Run(store=tmp_path / "mirror", resolved=made.resolved)
    store = _core.Store(url)
    try:
        driver = run.start()
        wait_until(lambda: sum(name.endswith("/COMMIT") for name, _ in store.list("checkpoints")) >= 3, driver)
        driver.kill()
        assert "from step" in run.finish().text()
    finally:
        run.end()
    mirror(url, run.store)
    assert (run.store / "report" / "report.html").exists()
    assert [event["attempt"] for event in run.events("attempt_start")] == [1, 2]
    assert min(event["step"] for event in run.steps() if event["attempt"] == 2) > EVERY
    assert_equals_undisturbed(run, undisturbed)
    assert_recompute_is_in_the_ledger_of_attempts(run)
