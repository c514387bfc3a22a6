"""The training loop under Ray Train: equal for every strategy and world, accounted for, and clear when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import SHORT_STEPS, SURVIVAL_STEPS
from eagleray import _core
from ranks import Ranks
from training import BATCH, SEQUENCE, Corpus, Run, Trained, train_in

pytestmark = pytest.mark.timeout(900)
SLOW_STEPS = 100


def test_a_complete_run_learns_and_says_so_when_it_is_started_again(undisturbed: Run) -> None:
    losses = [event["loss"] for event in undisturbed.events("validation")]
    assert losses[-1] < losses[0] - 0.5
    attempts = len(undisturbed.events("attempt_start"))
    again = undisturbed.finish()
    assert "is complete" in again.text()
    assert len(undisturbed.events("attempt_start")) == attempts


def test_the_ledger_covers_every_second_of_every_rank(undisturbed: Run) -> None:
    began = undisturbed.events("attempt_start")[0]["t"]
    ended = undisturbed.events("attempt_end")[-1]["t"]
    for rank in (0, 1):
        covered = sum(
            event["end"] - event["start"] for event in undisturbed.events("span") if event["rank"] in (rank, None)
        )
        parts = ("data_wait", "compute", "checkpoint_stall")
        steps = [event for event in undisturbed.events("step") if event["rank"] == rank]
        covered += sum(event[part] for event in steps for part in parts)
        assert covered == pytest.approx(ended - began, rel=0.02)


def test_a_step_ends_while_a_save_is_under_way(undisturbed: Run) -> None:
    ends = [event["end"] for event in undisturbed.steps()]
    saves = undisturbed.events("checkpoint")
    assert any(save["start"] < end < save["committed"] for save in saves for end in ends)


def test_each_step_counts_the_tokens_of_the_global_batch(undisturbed: Run) -> None:
    assert {event["tokens"] for event in undisturbed.steps()} == {BATCH * SEQUENCE}


# Three share a global batch of eight unevenly.
@pytest.mark.parametrize(("world", "strategy"), [(1, "ddp"), (3, "fsdp2"), (4, "ddp")])
def test_one_global_batch_has_one_loss_curve_in_every_world(
    world: int, strategy: str, new_run: Callable[..., Run], replicas: Trained, ranks: Ranks
) -> None:
    trained = train_in(ranks, world, new_run(steps=SHORT_STEPS, strategy=strategy, workers=world))
    assert {event["world"] for event in trained.steps()} == {world}
    assert trained.digests() == replicas.digests()
    assert trained.loss_drift(replicas) < 1e-5


def test_bf16_under_sharding_learns_what_fp32_learns(
    new_run: Callable[..., Run], replicas: Trained, ranks: Ranks
) -> None:
    bf16 = train_in(ranks, 2, new_run(steps=SHORT_STEPS, strategy="fsdp2", precision="bf16"))
    assert bf16.digests() == replicas.digests()
    assert 1e-6 < bf16.loss_drift(replicas) < 0.05


def test_data_wait_rises_with_the_latency_of_the_store(
    new_run: Callable[..., Run], undisturbed: Run, ranks: Ranks
) -> None:
    # So slow that a rank reads fewer samples a second than it trains on, on a busy machine too; what was read ahead
    # is used up soon.
    slow = train_in(ranks, 2, new_run(steps=SLOW_STEPS), get_latency_ms=200, match=".bin")
    assert slow.data_wait_share() > 0.1 + undisturbed.data_wait_share()
    expected = undisturbed.digests()
    assert slow.digests() == {step: expected[step] for step in range(1, SLOW_STEPS + 1)}


def test_a_flipped_bit_in_a_shard_stops_the_run_and_names_the_place(
    corpus: Corpus, undisturbed: Run, new_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    built = tmp_path / "built"
    shutil.copytree(corpus.built, built)
    shards = sorted(built.glob("*/shards/*.bin"), key=lambda path: path.stat().st_size)
    with shards[-1].open("r+b") as shard:
        shard.seek(2000)
        byte = shard.read(1)[0]
        shard.seek(2000)
        shard.write(bytes([byte ^ 1]))
    with pytest.raises(_core.CorruptError, match=shards[-1].name):
        train_in(ranks, 2, new_run(steps=SHORT_STEPS, built=built))


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(
    new_run: Callable[..., Run], undisturbed: Run, ranks: Ranks
) -> None:
    with pytest.raises(
        _core.InvalidError, match=r"step \d+ \(positions \d+ to \d+\): the (loss|norm of the gradient) is not finite"
    ):
        train_in(ranks, 2, new_run(steps=SHORT_STEPS, lr=1e30))


def test_a_spec_with_another_model_or_order_may_not_continue_a_run(
    undisturbed: Run, new_run: Callable[..., Run]
) -> None:
    wider = new_run("wider", store=undisturbed.store, hidden_size=64, steps=1000).start()
    assert wider.wait() == 1, wider.text()
    assert "another model" in wider.text()
    assert "`model.config.hidden_size` was 32, is 64" in wider.text()
    reordered = new_run("reordered", store=undisturbed.store, seed=6, steps=1000).start()
    assert reordered.wait() == 1, reordered.text()
    assert "another data order" in reordered.text()
    assert "`seed` was 5, is 6" in reordered.text()


def test_documents_that_changed_are_not_taken_for_those_of_the_run(
    corpus: Corpus, undisturbed: Run, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    shutil.copy(corpus.root / "train.jsonl", documents / "a.jsonl")
    shutil.copy(corpus.root / "held.jsonl", documents / "b.jsonl")
    claims = sorted((undisturbed.store / "attempts").iterdir())
    grown = new_run(store=undisturbed.store, documents=f"{documents}/*.jsonl", steps=1000).start()
    assert grown.wait() == 1, grown.text()
    assert f"checkpoint of step {SURVIVAL_STEPS}" in grown.text()
    assert "the documents or the tokenizer of this run have changed since" in grown.text()
    assert sorted((undisturbed.store / "attempts").iterdir()) == claims


def test_tensorboard_shows_every_step(undisturbed: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(undisturbed.store / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx({step: event["loss"] for step, event in undisturbed.history().items()}, rel=1e-6)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("missing tool: root (mount of a small tmpfs)")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("missing tool: mount (of a small tmpfs)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_during_a_save_ends_the_run_with_one_clear_message(
    small_disk: Path, new_run: Callable[..., Run]
) -> None:
    run = new_run(steps=SHORT_STEPS, store=small_disk / "store", every="2 steps", workers=1)
    driver = run.start()
    assert driver.wait() == 1, driver.text()
    text = driver.text()
    assert "space" in text.lower()
    assert text.count("error: ") == 1
    assert "Traceback" not in text
    # Trying again would not help.
    assert len(run.events("generation")) <= 1
