"""A loss that jumps, or is no number: the step is left out, or the run goes back; and every resume does the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eagleray import _core
from eagleray.checkpoint.partial import ModelTensors
from eagleray.train import strategy
from eagleray.train.loop import Loop
from ranks import Ranks
from training import WORDS, Account, Corpus, Run, Trained, _train, train_in, wait_until

pytestmark = pytest.mark.timeout(600)
STEPS = 40
SPIKY_SEED, SPIKY_STEPS = 37, 110
NAN = float("nan")


def policy(then: str, count: int = 5) -> str:
    spike = f"{{sigmas: 8, window: 8, then: {then}}}"
    return f"{{not_finite: {then}, loss_spike: {spike}, limit: {{count: {count}, steps: 100}}}}"


def _poisoned(
    rank: int, world: int, resolved: dict[str, Any], attempt: int, poison: dict[int, float]
) -> list[dict[str, Any]]:
    """Trains with the losses of some batches of the order multiplied, and their gradients with them."""
    accumulate, losses = Loop._accumulate, strategy.sample_losses
    factor = [1.0]

    def accumulate_poisoned(loop: Loop) -> Any:
        factor[0] = poison.get(loop.batch, 1.0)
        return accumulate(loop)

    def losses_poisoned(*arguments: Any) -> Any:
        return losses(*arguments) * factor[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_accumulate", accumulate_poisoned)
        patch.setattr(strategy, "sample_losses", losses_poisoned)
        return _train(rank, world, resolved, attempt, {})


def train_poisoned(ranks: Ranks, world: int, run: Run, poison: dict[int, float]) -> Trained:
    told = ranks.run(world, _poisoned, run.spec(), run.claim(), poison)
    return Trained([event for each in told for event in each])


def model_at(run: Run, step: int) -> dict[str, torch.Tensor]:
    (commit,) = run.store.glob(f"checkpoints/step-{step:09}/*/COMMIT")
    tensors = ModelTensors(str(run.store), str(commit.parent.relative_to(run.store)))
    return tensors.read(list(tensors.shapes))


def commit_of(run: Run, step: int) -> dict[str, Any]:
    (commit,) = run.store.glob(f"checkpoints/step-{step:09}/*/COMMIT")
    found: dict[str, Any] = json.loads(commit.read_text().splitlines()[0])
    return found


def order_of(trained: Account) -> dict[int, str]:
    return {step: event["order_digest"] for step, event in trained.history().items()}


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("factor", [4.0, NAN])
def test_a_step_that_is_skipped_leaves_the_model_as_it_was_in_every_world(
    factor: float, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    told = []
    for world, strategy_name in ((1, "ddp"), (3, "fsdp2")):
        run = new_run(
            f"run-{world}", anomalies=policy("skip"), workers=world, strategy=strategy_name, steps=28, every="1 steps"
        )
        told.append(train_poisoned(ranks, world, run, {25: factor}))
        (seen,) = told[-1].events("anomaly")
        assert (seen["step"], seen["action"], seen["positions"]) == (26, "skip", [200, 208])
        assert seen["anomaly"] == ("loss_spike" if factor == factor else "not_finite")
        before, after, later = (model_at(run, step) for step in (25, 26, 27))
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not all(torch.equal(before[name], later[name]) for name in before)
    alone, many = told
    assert alone.digests() == many.digests()
    losses = [{step: event["loss"] for step, event in each.history().items() if "loss" in event} for each in told]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert (26 in losses[0]) == (factor == factor)


@pytest.mark.usefixtures("undisturbed")
def test_a_skip_is_done_again_by_whoever_resumes_before_the_next_save_whatever_its_loss_is_then(
    new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    spec = {"anomalies": policy("skip", count=1), "steps": 30, "every": "10 steps"}
    run = new_run("torn", workers=2, strategy="fsdp2", **spec)
    torn = train_poisoned(ranks, 2, run, {25: 4.0})
    shutil.copytree(run.store, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "step-000000030")
    killed = new_run("killed", store=tmp_path / "killed", workers=3, **spec)
    # The loss of the batch is as those before it this time, and the run has another world.
    resumed = train_poisoned(ranks, 3, killed, {})
    said = ("step", "action", "anomaly", "positions", "reason")
    (first,), (again,) = torn.events("anomaly"), resumed.events("anomaly")
    assert {name: first[name] for name in said} == {name: again[name] for name in said}
    before, after = model_at(run, 30), model_at(killed, 30)
    assert all(torch.allclose(before[name], after[name], rtol=1e-4, atol=1e-6) for name in before)
    assert order_of(resumed) == {step: digest for step, digest in order_of(torn).items() if step > 20}
    # It counts for the limit once more, and no other watch knows of it.
    assert json.loads(commit_of(killed, 30)["metadata"]["anomalies"]["watch"])["anomalies"] == [26]


@pytest.mark.usefixtures("undisturbed")
def test_a_rollback_goes_on_without_the_data_and_so_does_whoever_resumes(
    new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    spec = {"anomalies": policy("rollback"), "steps": STEPS, "every": "10 steps"}
    run = new_run("torn", workers=2, strategy="fsdp2", **spec)
    torn = train_poisoned(ranks, 2, run, {25: 4.0})
    (seen,) = torn.events("anomaly")
    assert (seen["step"], seen["action"], seen["back_to"]) == (26, "rollback", 20)
    again = [event["step"] for event in torn.steps() if event["recompute"]]
    assert again == [21, 22, 23, 24, 25]
    positions = {step: event["position"] // 8 for step, event in torn.history().items()}
    assert [positions[step] for step in (1, 20, 21, 40)] == [0, 19, 26, 45]

    # Whoever never saw the batches, but was told to leave them out.
    shutil.copytree(run.store, tmp_path / "clean")
    shutil.rmtree(tmp_path / "clean" / "checkpoints" / "step-000000030")
    shutil.rmtree(tmp_path / "clean" / "checkpoints" / "step-000000040")
    (written,) = (tmp_path / "clean").glob("checkpoints/*/*/LEFT_OUT")
    assert json.loads(written.read_text())["left_out"] == [[20, 26]]
    # Killed after the rollback, before a save; then after the save of step 30; in other worlds.
    for world, steps, name in ((1, range(21, 41), "clean"), (3, range(31, 41), "saved")):
        if name == "saved":
            shutil.copytree(run.store, tmp_path / name)
            shutil.rmtree(tmp_path / name / "checkpoints" / "step-000000040")
        resumed = train_poisoned(ranks, world, new_run(name, store=tmp_path / name, workers=world, **spec), {25: 4.0})
        assert not resumed.events("anomaly")
        assert order_of(resumed) == {step: digest for step, digest in order_of(torn).items() if step in steps}
        wanted = torn.history()
        for step, event in resumed.history().items():
            assert event["loss"] == pytest.approx(wanted[step]["loss"], rel=1e-5)


@pytest.mark.usefixtures("undisturbed")
def test_too_many_anomalies_stop_the_run_with_the_place(new_run: Callable[..., Run], ranks: Ranks) -> None:
    run = new_run(anomalies=policy("rollback", count=2), workers=1, steps=STEPS, every="10 steps")
    wanted = (
        r"step 21 \(positions 200 to 208\): the loss is .*; 3 anomalies within 100 steps.*"
        r"position 20\d \(a loss of [\d.]+ nats\): sample \d+ of source `sea`, documents \d+ to \d+ of "
        r"`.*/shards/00000\.bin` \(tokens \d+ to \d+\)"
    )
    with pytest.raises(_core.InvalidError, match=wanted):
        train_poisoned(ranks, 1, run, {22: 4.0} | dict.fromkeys(range(24, 60), 4.0))


@pytest.mark.usefixtures("undisturbed")
def test_the_limit_counts_what_was_seen_before_a_kill(
    new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    spec = {"anomalies": policy("rollback", count=1), "workers": 1, "steps": STEPS, "every": "10 steps"}
    run = new_run("torn", **spec)
    train_poisoned(ranks, 1, run, {25: 4.0})
    # Killed after the rollback to step 20, before the next save; then the data goes wrong again.
    shutil.copytree(run.store, tmp_path / "killed")
    for step in (30, 40):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / f"step-{step:09}")
    with pytest.raises(_core.InvalidError, match="2 anomalies within 100 steps"):
        train_poisoned(ranks, 1, new_run("killed", store=tmp_path / "killed", **spec), {25: 4.0, 28: 4.0})


def make_spiky(folder: Path, corpus: Corpus) -> Path:
    """The words of `corpus` in more documents, and two documents that are nothing like them."""
    draw = random.Random(11)
    words = [" ".join(draw.choices(WORDS.split(), k=draw.randint(20, 60))) for _ in range(1500)]
    noise = ["".join(chr(draw.randint(0x21, 0x7E)) for _ in range(60)) for _ in range(2)]
    path = folder / "spiky.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in words + noise), encoding="utf-8")
    return path


@pytest.mark.long
def test_a_run_that_real_data_sends_back_and_a_blow_then_hits_equals_the_one_that_nobody_touched(
    corpus: Corpus, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    # By this seed one of the documents comes before the first checkpoint, where nothing can be gone back to.
    spike = "{loss_spike: {sigmas: 6, window: 8, then: rollback}, rollback: {beyond_steps: 2}}"
    documents = make_spiky(tmp_path, corpus)
    spec = {
        "documents": documents,
        "seed": SPIKY_SEED,
        "anomalies": spike,
        "steps": SPIKY_STEPS,
        "every": "60 steps",
        "lr": 2e-2,
    }
    run = new_run("struck", **spec, built=tmp_path / "built")
    driver = run.start()
    # Between the rollback and the next save: the samples are those that it has written down and no commit holds.
    wait_until(lambda: any(run.store.glob("checkpoints/*/*/LEFT_OUT")), driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2

    calm = train_in(ranks, 2, new_run("calm", **spec, built=tmp_path / "built"))
    seen = {(event["step"], event["action"]) for event in calm.events("anomaly")}
    assert {action for _, action in seen} == {"skip", "rollback"}
    assert {(event["step"], event["action"]) for event in run.events("anomaly")} == seen
    assert order_of(run) == order_of(calm)
    drifts = [
        abs(event["loss"] / calm.history()[step]["loss"] - 1)
        for step, event in run.history().items()
        if "loss" in event
    ]
    assert len(drifts) >= SPIKY_STEPS - 1 and max(drifts) < 1e-5


def test_a_loop_of_one_s_own_has_no_policy(new_run: Callable[..., Run]) -> None:
    run = new_run(function="own_code:train", anomalies=policy("skip"))
    with pytest.raises(_core.InvalidError, match=r"`train.anomalies` with `train.function`"):
        _core.refuse_unavailable(json.dumps(run.spec()), "train")
