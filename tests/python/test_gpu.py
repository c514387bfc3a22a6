"""What only a GPU can prove: its kernels, NCCL, a world under Ray Train on it. Skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import SHORT_STEPS
from ranks import Ranks
from training import Run, train_in, wait_until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize(("strategy", "recompute"), [("ddp", "none"), ("fsdp2", "full")])
def test_a_gpu_sees_the_samples_and_has_the_losses_of_a_cpu(
    strategy: str, recompute: str, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    run = new_run("gpu", workers=1, strategy=strategy, recompute=recompute, steps=SHORT_STEPS)
    run.finish()
    cpu = train_in(ranks, 1, new_run("cpu", workers=1, steps=SHORT_STEPS))
    assert run.digests() == cpu.digests()
    # Sixty steps carry the last digit of fp32 on into the fifth.
    assert run.loss_drift(cpu) < 1e-4
    first = {step: event["loss"] for step, event in cpu.history().items() if step <= 10}
    assert {step: run.history()[step]["loss"] for step in first} == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("deepspeed", ["null", "{zero_optimization: {offload_optimizer: {device: cpu}}}"])
def test_a_stage_of_zero_on_a_gpu_has_the_losses_of_a_cpu(
    stage: int, deepspeed: str, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    pytest.importorskip("deepspeed", reason="missing tool: deepspeed")
    run = new_run("gpu", workers=1, strategy=f"zero{stage}", deepspeed=deepspeed, steps=SHORT_STEPS)
    run.finish()
    cpu = train_in(ranks, 1, new_run("cpu", workers=1, steps=SHORT_STEPS))
    assert run.digests() == cpu.digests()
    assert run.loss_drift(cpu) < 1e-4


def test_a_killed_worker_on_a_gpu_is_replaced_and_goes_on_where_it_was(new_run: Callable[..., Run]) -> None:
    whole, torn = (new_run(name, workers=1, steps=400, every="20 steps", max_failures=0) for name in ("whole", "torn"))
    whole.finish()
    driver = torn.start()
    wait_until(lambda: max(torn.commits(), default=0) >= 40, driver)
    os.kill(driver.workers()[0], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(torn.events("generation")) == 2
    assert torn.digests() == whole.digests()
    assert torn.loss_drift(whole) < 1e-4


def test_state_on_the_host_has_the_losses_of_a_cpu_and_goes_on_from_its_checkpoint(
    new_run: Callable[..., Run], ranks: Ranks
) -> None:
    run = new_run("gpu", workers=1, strategy="fsdp2", offload="cpu", steps=SHORT_STEPS, every="20 steps")
    run.finish()
    # The last steps once more, from the commit before them.
    shutil.rmtree(run.store / "checkpoints" / f"step-{SHORT_STEPS:09}")
    run.finish()
    assert len([event for event in run.steps() if event["step"] == SHORT_STEPS]) == 2
    cpu = train_in(ranks, 1, new_run("cpu", workers=1, steps=SHORT_STEPS))
    assert run.digests() == cpu.digests()
    assert run.loss_drift(cpu) < 1e-4


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_compiled_layers_on_a_gpu_have_the_losses_of_a_cpu(
    strategy: str, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    run = new_run("gpu", workers=1, strategy=strategy, compile="true", steps=SHORT_STEPS)
    run.finish()
    cpu = train_in(ranks, 1, new_run("cpu", workers=1, steps=SHORT_STEPS))
    assert run.digests() == cpu.digests()
    assert run.loss_drift(cpu) < 1e-4


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_bf16_on_a_gpu_learns_what_fp32_does(strategy: str, new_run: Callable[..., Run]) -> None:
    wide, narrow = (new_run(p, workers=1, strategy=strategy, precision=p, steps=SHORT_STEPS) for p in ("fp32", "bf16"))
    wide.finish()
    narrow.finish()
    assert narrow.digests() == wide.digests()
    assert narrow.loss_drift(wide) < 2e-2
    last = narrow.steps()[-1]
    assert last["memory_bytes"] > 0
    assert last["flops_per_token"] > 0


def test_fsdp_of_accelerate_shards_saves_and_goes_on_on_a_gpu(script_run: Callable[..., Run], tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    config = tmp_path / "fsdp.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: 'no'\n"
        "fsdp_config: {fsdp_version: 2, fsdp_state_dict_type: SHARDED_STATE_DICT, fsdp_reshard_after_forward: true}\n",
        encoding="utf-8",
    )
    output = tmp_path / "out"
    said = {"launcher": "accelerate", "accelerate_config": str(config)}
    run = script_run("with_fsdp.py", "--steps", "20", "--output", str(output), workers=1, **said)
    run.finish()
    assert run.commits() == [5, 10, 15, 20]
    whole = [json.loads(line) for line in (output / "log").read_text().splitlines()]
    assert {line["kind"] for line in whole} == {"DistributedType.FSDP"}
    # As a kill after the save of step 10 leaves it.
    for step in (15, 20):
        shutil.rmtree(run.store / "checkpoints" / f"step-{step:09}")
    for end in run.store.glob("attempts/*.end.json"):
        end.unlink()
    (output / "log").unlink()
    run.finish()
    rest = [json.loads(line) for line in (output / "log").read_text().splitlines()]
    assert [line["step"] for line in rest] == list(range(11, 21))
    assert [line["loss"] for line in rest] == pytest.approx([line["loss"] for line in whole[10:]], rel=1e-5)
