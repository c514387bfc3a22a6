"""Scripts as they are under `train.script`: started on every worker, and gone on with when one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eagleray import _core
from eagleray.train.plan import Script, plan_from
from training import SCRIPTS, Driver, Run, wait_until

pytestmark = pytest.mark.timeout(900)
STEPS = 60


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


def struck(run: Run, **environment: str) -> Driver:
    """Starts the run and kills a worker after its third save."""
    driver = run.start(**environment)
    wait_until(lambda: newest_step(run) >= 30, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    return driver


def struck_and_stopped(run: Run) -> None:
    """As `struck`; then stops what goes on by itself, and has the same command finish the rest."""
    driver = struck(run)
    wait_until(lambda: newest_step(run) >= 50, driver)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait() == 130, driver.text()
    again = run.finish()
    assert "from step" in again.text()


def newest_step(run: Run) -> int:
    return max((int(event["step"]) for event in run.events("checkpoint")), default=0)


def assert_goes_on(run: Run, steps: int, *, stopped: bool) -> None:
    """Each step is in the ledger, and each worker group began after a commit and went on from there."""
    assert sorted(run.history()) == list(range(1, steps + 1))
    groups: dict[tuple[int, int], list[int]] = {}
    for event in run.steps():
        groups.setdefault((event["attempt"], event["generation"]), []).append(event["step"])
    assert list(groups) == [(1, 0), (1, 1), *([(2, 0)] if stopped else [])]
    # Each script saves every ten steps; what the ledger heard of the last save may have died with the worker.
    saved = {event["step"] for event in run.events("checkpoint")} | set(range(0, steps, 10))
    for done in groups.values():
        assert done == list(range(done[0], done[-1] + 1)) and done[0] - 1 in saved
    assert groups[1, 0][0] == 1 and groups[1, 1][0] > 30
    if stopped:
        # It had just been saved: nothing is done again.
        assert groups[2, 0][0] == groups[1, 1][-1] + 1
    seen: set[int] = set()
    for event in run.steps():
        # What one rank told of a step, and another did not any more, is done again too.
        assert event["recompute"] or event["step"] not in seen
        seen.add(event["step"])
    assert run.seconds("load") > 0 and run.seconds("checkpoint_stall") > 0


def test_an_accelerate_script_saves_under_our_commit_and_goes_on_from_it(
    script_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    output = tmp_path / "out"
    arguments = ("--steps", "100", "--pause", "0.1", "--output", str(output))
    config = {"launcher": "accelerate", "accelerate_config": str(SCRIPTS / "accelerate.yaml")}
    run = script_run("with_accelerate.py", *arguments, keep=3, **config)
    driver = struck(run)
    assert driver.wait() == 0, driver.text()
    assert_goes_on(run, 100, stopped=False)
    lines = [line.split() for line in (output / "log").read_text().splitlines()]
    assert {int(step) for step, _, _ in lines} == set(range(1, 101))
    losses = {step: loss for step, loss, _ in reversed(lines)}
    assert all(losses[step] == loss for step, loss, _ in lines), "a step was not the same twice"
    assert {precision for _, _, precision in lines} == {"bf16"}
    # What the script sees is what is committed and kept.
    assert run.commits() == [80, 90, 100]
    assert sorted(path.name for path in output.glob("step_*")) == ["step_100", "step_80", "step_90"]
    folder = (output / "step_100").resolve()
    assert folder.is_relative_to(run.store) and (folder / "COMMIT").exists()
    assert (folder / "model.safetensors").exists() and (folder / "random_states_1.pkl").exists()


def test_a_trainer_script_goes_on_from_the_newest_commit_without_being_told(
    script_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="missing tool: transformers")
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    output = tmp_path / "out"
    run = script_run("with_trainer.py", "--steps", "100", "--pause", "0.1", "--output", str(output))
    struck_and_stopped(run)
    assert_goes_on(run, 100, stopped=True)
    history = run.history()
    assert history[100]["loss"] < history[1]["loss"] - 0.5
    assert history[100]["total_steps"] == 100
    folder = (output / "checkpoint-100").resolve()
    assert folder.is_relative_to(run.store) and (folder / "trainer_state.json").exists()
    assert (output / "final" / "model.safetensors").exists()


def test_an_sft_trainer_of_trl_has_the_losses_of_an_undisturbed_run_after_the_death_of_a_worker(
    script_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("trl", reason="missing tool: trl")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    output, alone = tmp_path / "out", tmp_path / "alone"
    run = script_run("with_trl.py", "--steps", str(STEPS), "--pause", "0.05", "--output", str(output))
    driver = struck(run, **offline)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2 and run.seconds("load") > 0
    history = run.history()
    assert sorted(history) == list(range(1, STEPS + 1))
    assert run.commits()[-1] == STEPS
    assert (output / f"checkpoint-{STEPS}").resolve().is_relative_to(run.store)
    # The same script under torchrun, where nothing strikes it.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(SCRIPTS / "with_trl.py")]
    environment = os.environ | offline | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    arguments = ["--steps", str(STEPS), "--output", str(alone)]
    subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
    mine, theirs = (losses_of(folder / f"checkpoint-{STEPS}") for folder in (output, alone))
    assert mine == theirs and len(theirs) == STEPS and theirs[STEPS] < theirs[1] - 0.5
    # The ledger's numbers went through JSON, which costs the last bit.
    assert {step: event["loss"] for step, event in history.items()} == pytest.approx(theirs, rel=1e-12)


def losses_of(checkpoint: Path) -> dict[int, float]:
    """The loss of each step, as a Trainer logged it."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def span(self, cause: str, _start: float, _end: float) -> None:
        self.spans.append(cause)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "def main():\n    raise ValueError('bad')\nmain()",
            _core.InvalidError,
            "own.py, line 2, in main: ValueError: bad",
        ),
        ("import sys\nsys.exit(3)", _core.InvalidError, "own.py, line 2: exit code 3"),
        ("raise SystemExit('no data')", _core.InvalidError, "own.py, line 1: exit code 1: no data"),
        ("raise RuntimeError('peer closed')", _core.UnavailableError, "own.py, line 1: RuntimeError: peer closed"),
        (
            "import sys\ntry:\n    raise RuntimeError\nexcept RuntimeError:\n    sys.exit(1)",
            _core.UnavailableError,
            "code 1",
        ),
        ("import sys\nassert sys.argv[1:] == ['--lr', '3']\nassert __name__ == '__main__'\nsys.exit(0)", None, ""),
    ],
)
def test_a_script_ends_with_its_own_line(
    text: str, kind: type[Exception] | None, message: str, script_run: Callable[..., Run], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from eagleray.train.ledger import Clock
    from eagleray.train.script import run_script
    from eagleray.train.script_session import Session

    for name in ("EAGLERAY_CHECKPOINT_DIR", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "")
    own = tmp_path / "own.py"
    own.write_text(text, encoding="utf-8")
    run = script_run(str(own), "--lr", "3", workers=1)
    plan = plan_from(run.spec(), {"train": {}, "validation": {}}, 0)
    told: Any = Told()
    session = Session(plan, rank=0, world=1, attempt=1, reached_step=0, clock=Clock(), reporter=told)
    assert plan.script is not None
    if kind is None:
        assert run_script(session, plan.script, 0.0).outcome == "completed"
        assert told.spans == ["setup", "compute"]
        return
    with pytest.raises(kind, match=re.escape(message)):
        run_script(session, plan.script, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "`distributed_type: FSDP`"),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
            "`deepspeed_config: {'zero_stage': 3}`",
        ),
        ({"mixed_precision": "fp8"}, "`mixed_precision: fp8`"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_what_a_configuration_of_accelerate_cannot_have_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    from eagleray.train.script_accelerate import environment

    path = tmp_path / "accelerate.json"
    base = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True}
    path.write_text(json.dumps(base | {"mixed_precision": "bf16"}), encoding="utf-8")
    script = Script(path="train.py", args=(), launcher="accelerate", accelerate_config=str(path))
    assert environment(script, 2)["ACCELERATE_MIXED_PRECISION"] == "bf16"
    path.write_text(json.dumps(base | changes), encoding="utf-8")
    with pytest.raises(_core.InvalidError, match=re.escape(message)):
        environment(script, 2)


def test_a_script_on_s3_is_read_by_the_driver_and_runs_as_one_beside_its_configuration(
    s3: str, script_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    from eagleray.train.ledger import Clock
    from eagleray.train.script import run_script
    from eagleray.train.script_session import Session

    for name in ("EAGLERAY_CHECKPOINT_DIR", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "")
    text = "import os, sys\nopen(sys.argv[1], 'w').write(f'{os.environ[\"ACCELERATE_MIXED_PRECISION\"]} {__file__}')\n"
    folder = _core.Store(f"{s3}/scripts")
    folder.put("deep/own.py", text.encode())
    folder.put("accelerate.yaml", (SCRIPTS / "accelerate.yaml").read_bytes())
    run = script_run("with_trl.py", str(tmp_path / "out"), workers=1)
    resolved = run.spec()
    said = {"path": f"{s3}/scripts/deep/own.py", "accelerate_config": f"{s3}/scripts/accelerate.yaml"}
    resolved["spec"]["train"]["script"] |= {**said, "launcher": "accelerate"}
    _core.refuse_unavailable(json.dumps(resolved), "train")
    plan = plan_from(resolved, {"train": {}, "validation": {}}, 0)
    assert plan.script is not None and plan.label == "own.py"
    script = plan.script.fetched()
    script.require_there()
    told: Any = Told()
    session = Session(plan, rank=0, world=1, attempt=1, reached_step=0, clock=Clock(), reporter=told)
    assert run_script(session, script, 0.0).outcome == "completed"
    precision, place = (tmp_path / "out").read_text().split()
    assert precision == "bf16" and Path(place).name == "own.py"
    assert not Path(place).exists(), "the folder of the worker is removed"
    with pytest.raises(_core.InvalidError, match=r"`train.script.path`: there is no object `s3://.*/none.py`"):
        Script(path=f"{s3}/none.py", args=(), launcher="python", accelerate_config=None).fetched()


def test_fsdp_of_accelerate_is_refused_without_gpus_before_workers_and_set_up_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    from eagleray.train import script_accelerate
    from eagleray.train.script_config import require_config

    path = tmp_path / "fsdp.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: 'no'\n"
        "fsdp_config: {fsdp_version: 2, fsdp_state_dict_type: SHARDED_STATE_DICT, fsdp_reshard_after_forward: true}\n",
        encoding="utf-8",
    )
    script = Script(path="train.py", args=(), launcher="accelerate", accelerate_config=str(path))
    with pytest.raises(_core.InvalidError, match="`distributed_type: FSDP` without GPUs"):
        require_config(script, gpus=False)
    require_config(script, gpus=True)
    # An `Accelerator(cpu=True)` of another test leaves it in this process.
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(_core.InvalidError, match="`ACCELERATE_USE_FSDP` without GPUs"):
        script_accelerate.refuse_plugins([])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    script_accelerate.refuse_plugins(["fsdp_plugin"])
    found = script_accelerate.environment(script, 2)
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    assert found["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT" and "ACCELERATE_USE_CPU" not in found


def test_a_script_that_is_not_there_is_refused_before_anything_starts(script_run: Callable[..., Run]) -> None:
    run = script_run("no_such_script.py")
    driver = run.start()
    assert driver.wait() == 1
    assert "there is no file" in driver.text()
    assert not (run.store / "attempts").exists()
