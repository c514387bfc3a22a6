"""Scripts as they are under `train.script`: started on every worker, and gone on with when one is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eagleray import _core
from training import Run, wait_until

SCRIPTS = Path(__file__).parent / "scripts"
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def script_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs of scripts; whatever they started is ended with the test."""
    made: list[Run] = []

    def make(script: str, *arguments: str, workers: int = 2, keep: int = 100, **more: str) -> Run:
        text = {"path": str(SCRIPTS / script), "args": list(arguments), **more}
        spec = tmp_path / "run.yaml"
        spec.write_text(
            f"version: 1\nname: tiny\nstore: {tmp_path}/store\n"
            f"train: {{script: {json.dumps(text)}, max_failures: 2}}\n"
            f"checkpoint: {{keep: {{last: {keep}}}}}\ncluster: {{workers: {workers}}}\n",
            encoding="utf-8",
        )
        resolved = tmp_path / "resolved.json"
        resolved.write_text(_core.resolve_spec(str(spec), []), encoding="utf-8")
        made.append(Run(store=tmp_path / "store", resolved=resolved))
        return made[-1]

    yield make
    for run in made:
        run.end()


def test_a_plain_script_finds_its_own_checkpoint_after_the_death_of_a_worker(
    script_run: Callable[..., Run],
) -> None:
    run = script_run("plain_ddp.py", "--steps", "120", "--pause", "0.05")
    log = run.store / "script" / "log"
    driver = run.start()
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 45, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2
    steps = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert set(steps) == set(range(1, 121))
    # It went on from a checkpoint: what it did again is what followed the last one.
    assert len(steps) - 120 <= 15 and steps.count(1) == 1
    losses = {}
    for line in log.read_text().splitlines():
        step, loss = line.split()
        assert losses.setdefault(step, loss) == loss, f"step {step} was not the same twice"
    assert run.seconds("compute") > 2 * 120 * 0.05 * 0.5
    again = run.finish()
    assert "nothing to do" in again.text()


def assert_goes_on(run: Run, steps: int) -> None:
    """Each step is in the ledger, and what was done again is what followed the last commit before the blow."""
    told = run.steps()
    assert sorted(run.history()) == list(range(1, steps + 1))
    assert len(run.events("generation")) == 2
    resumed = [event["step"] for event in told if event["generation"] == 1]
    assert resumed[0] > 20 and resumed == list(range(resumed[0], steps + 1))
    assert resumed[0] - 1 in run.commits()
    for event in told:
        if event["generation"] == 0:
            assert not event["recompute"]
    assert run.seconds("load") > 0
    assert run.seconds("checkpoint_stall") > 0


def test_an_accelerate_script_saves_under_our_commit_and_goes_on_from_it(
    script_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    output = tmp_path / "out"
    arguments = ("--steps", "90", "--pause", "0.05", "--output", str(output))
    config = {"launcher": "accelerate", "accelerate_config": str(SCRIPTS / "accelerate.yaml")}
    run = script_run("with_accelerate.py", *arguments, keep=3, **config)
    driver = run.start()
    wait_until(lambda: max(run.commits(), default=0) >= 30, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert_goes_on(run, 90)
    lines = [line.split() for line in (output / "log").read_text().splitlines()]
    assert {int(step) for step, _, _ in lines} == set(range(1, 91))
    losses = {step: loss for step, loss, _ in reversed(lines)}
    assert all(losses[step] == loss for step, loss, _ in lines), "a step was not the same twice"
    assert {precision for _, _, precision in lines} == {"bf16"}
    # What the script sees is what is committed and kept.
    assert run.commits() == [70, 80, 90]
    assert sorted(path.name for path in output.glob("step_*")) == ["step_70", "step_80", "step_90"]
    folder = (output / "step_90").resolve()
    assert folder.is_relative_to(run.store) and (folder / "COMMIT").exists()
    assert (folder / "model.safetensors").exists() and (folder / "random_states_1.pkl").exists()


def test_a_trainer_script_goes_on_from_the_newest_commit_without_being_told(
    script_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="missing tool: transformers")
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    output = tmp_path / "out"
    run = script_run("with_trainer.py", "--steps", "90", "--pause", "0.05", "--output", str(output))
    driver = run.start()
    wait_until(lambda: max(run.commits(), default=0) >= 30, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert_goes_on(run, 90)
    history = run.history()
    assert history[90]["loss"] < history[1]["loss"] - 0.5
    assert history[90]["total_steps"] == 90
    folder = (output / "checkpoint-90").resolve()
    assert folder.is_relative_to(run.store) and (folder / "trainer_state.json").exists()
    assert (output / "final" / "model.safetensors").exists()
