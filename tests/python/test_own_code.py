"""Code of one's own under `train.function`: the same data, checkpoints and ledger as the built-in loop has."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SHORT_STEPS
from eagleray import _core
from package import PYTHON
from ranks import Ranks
from training import Run, Trained, train_in, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("strategy", "world"), [("ddp", 1), ("ddp", 2), ("fsdp2", 3), ("zero1", 2), ("zero2", 3), ("zero3", 2)]
)
def test_one_s_own_code_trains_on_the_same_samples_and_goes_on_from_its_checkpoint(
    strategy: str, world: int, replicas: Trained, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    run = new_run(function="own_code:train", steps=SHORT_STEPS, every="20 steps", strategy=strategy, workers=world)
    whole = train_in(ranks, world, run)
    assert whole.digests() == replicas.digests()
    losses = [event["loss"] for event in whole.steps()]
    assert losses[-1] < losses[0] - 0.5
    assert [event["figures"]["counted"] for event in whole.steps()] == list(range(1, SHORT_STEPS + 1))
    for step in (40, 60):
        shutil.rmtree(run.store / "checkpoints" / f"step-{step:09}")
    # From the checkpoint of step 20, in another world too.
    for again_in in {world, 2}:
        shutil.copytree(run.store, run.store.parent / f"again-{again_in}")
        copy = new_run(
            f"spec-{again_in}",
            store=run.store.parent / f"again-{again_in}",
            function="own_code:train",
            steps=SHORT_STEPS,
            strategy=strategy,
            workers=again_in,
        )
        rest = train_in(ranks, again_in, copy)
        expected = {step: event for step, event in whole.history().items() if step > 20}
        assert rest.history().keys() == expected.keys()
        for step, event in rest.history().items():
            assert event["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5)
            assert event["figures"] == expected[step]["figures"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_code:twice", "`backward` was called twice for a batch"),
        ("own_code:frozen", "`embedding.weight` has no `requires_grad`"),
        ("own_code:momentum", "the optimizer must be Adam or AdamW, found `SGD`"),
        ("own_code:early", "the model computes in the loop over `context.steps`"),
    ],
)
def test_what_deepspeed_cannot_do_for_one_s_own_code_is_refused(
    function: str, message: str, replicas: Trained, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    with pytest.raises(_core.InvalidError, match=message):
        train_in(ranks, 1, new_run(function=function, steps=SHORT_STEPS, workers=1, strategy="zero2"))


def test_one_s_own_code_goes_on_under_another_strategy(
    replicas: Trained, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    run = new_run(function="own_code:train", steps=20, every="10 steps", strategy="zero3", workers=2)
    whole = train_in(ranks, 2, run)
    shutil.rmtree(run.store / "checkpoints" / f"step-{20:09}")
    for strategy in ("ddp", "zero1"):
        copied = run.store.parent / strategy
        shutil.copytree(run.store, copied)
        other = new_run(strategy, store=copied, function="own_code:train", steps=20, strategy=strategy, workers=2)
        rest = train_in(ranks, 2, other)
        assert sorted(rest.history()) == list(range(11, 21))
        for step, event in rest.history().items():
            assert event["loss"] == pytest.approx(whole.history()[step]["loss"], rel=1e-5)
            assert event["figures"] == whole.history()[step]["figures"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_code:missing", "`own_code` has no function `missing`"),
        ("no_such_module.at_all:train", "no module `no_such_module`"),
        ("own_code:forgetful", "step 1 ended before its last micro batch"),
        ("own_code:without_steps", "returned before its steps were done"),
    ],
)
def test_code_that_does_not_do_its_part_is_told_so(
    function: str, message: str, replicas: Trained, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    with pytest.raises(_core.InvalidError, match=message):
        train_in(ranks, 1, new_run(function=function, steps=SHORT_STEPS, workers=1))


def test_the_example_trains_under_the_driver_and_outlives_a_worker(new_run: Callable[..., Run]) -> None:
    pytest.importorskip("transformers", reason="missing tool: transformers")
    run = new_run(function="gpt2:train", steps=100, max_failures=0)
    driver = run.start(PYTHONPATH=os.pathsep.join([str(EXAMPLES), str(PYTHON)]))
    wait_until(lambda: max(run.commits(), default=0) >= 20, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2
    history = run.history()
    assert sorted(history) == list(range(1, 101))
    assert history[100]["loss"] < history[1]["loss"] - 0.5
    assert history[100]["figures"]["grad_norm"] > 0
