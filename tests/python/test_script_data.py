"""`dataset()`: the run's own data in scripts of PyTorch, Accelerate and Transformers, in the order of the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eagleray import _core
from eagleray.data.build import build
from eagleray.train.plan import Plan, plan_from
from ranks import Ranks
from training import BATCH, SEQUENCE, Corpus, Run, wait_until

pytestmark = pytest.mark.timeout(900)
STEPS = 60


@pytest.fixture
def data_run(script_run: Callable[..., Run], corpus: Corpus) -> Callable[..., Run]:
    """Makes runs of scripts that have the corpus beside them."""

    def make(script: str, *arguments: str, **more: Any) -> Run:
        data = {
            "tokenizer": f"{corpus.root}/tokenizer.json",
            "sequence_length": SEQUENCE,
            "sources": {"sea": {"documents": f"{corpus.root}/train.jsonl", "weight": 1.0}},
            "built": str(corpus.built),
        }
        run = script_run(script, "--vocabulary", "300", *arguments, data=f"data: {json.dumps(data)}\n", **more)
        # Without tasks of Ray: one that any other run of the corpus has built is there already.
        build(run.spec(), workers=0)
        return run

    return make


def plan_of(resolved: dict[str, Any]) -> Plan:
    """The plan of a run whose datasets are built."""
    from eagleray.train.console import Console
    from eagleray.train.datasets import ensure_datasets

    def unbuilt() -> None:
        raise AssertionError("the datasets of this run are not built")

    datasets = ensure_datasets(resolved, Console(), unbuilt)
    return plan_from(resolved, datasets.urls, datasets.vocab_size)


class Expected:
    """What the order of a run gives, read by one rank without any script."""

    def __init__(self, run: Run) -> None:
        plan = plan_of(run.spec())
        self.rows: dict[int, list[tuple[Any, ...]]] = {}
        self.digests: dict[int, tuple[str, str]] = {}
        order = _core.Order(json.dumps(plan.stream_config(0, 1, 0)))
        stream = _core.Stream(json.dumps(plan.stream_config(0, 1, 0) | {"micro_batch": BATCH}))
        while (batch := stream.next()) is not None:
            step = batch["step_position"] // BATCH + 1
            parts = (batch[name].tolist() for name in ("tokens", "labels", "position_ids"))
            self.rows[step] = [(ids, [-100, *labels[:-1]], places) for ids, labels, places in zip(*parts, strict=True)]
            names = ("tokens", "labels", "positions", "source", "epoch", "index")
            found, tokens = _core.batch_digests(*(batch[name] for name in names))
            assert found == order.digest((step - 1) * BATCH, step * BATCH)
            self.digests[step] = (f"{found:016x}", f"{tokens:016x}")
        stream.close()

    def require(self, folder: Path, world: int, steps: int, done_twice_at_most: int) -> None:
        """Each rank has seen its share of each step, in order, and no step that was saved again."""
        share = BATCH // world
        for rank in range(world):
            lines = [json.loads(line) for line in (folder / f"seen-{rank}").read_text().splitlines()]
            seen: dict[int, list[tuple[Any, ...]]] = {}
            for line in lines:
                rows = zip(line["input_ids"], line["labels"], line["position_ids"], strict=True)
                seen.setdefault(line["step"], []).extend(rows)
            assert sorted(seen) == list(range(1, steps + 1))
            for step, rows in seen.items():
                wanted = self.rows[step][rank * share : (rank + 1) * share]
                # A step that was done in part when its worker died is there twice, the first time in part.
                assert rows[-share:] == wanted and all(row in wanted for row in rows), f"rank {rank}, step {step}"
            assert sum(map(len, seen.values())) <= share * (steps + done_twice_at_most)


def test_a_plain_script_on_the_data_of_the_run_sees_the_order_also_after_the_death_of_a_worker(
    data_run: Callable[..., Run],
) -> None:
    run = data_run("plain_data.py", "--pause", "0.05")
    seen = run.store / "script" / "seen-0"
    driver = run.start()
    wait_until(lambda: seen.exists() and len(seen.read_text().splitlines()) > 2 * 25, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2
    Expected(run).require(run.store / "script", world=2, steps=STEPS, done_twice_at_most=15)


@pytest.mark.long
def test_a_trainer_on_the_data_of_the_run_goes_on_at_the_position_of_its_commit(
    data_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="missing tool: transformers")
    output = tmp_path / "out"
    run = data_run("trainer_data.py", "--steps", str(STEPS), "--pause", "0.05", "--output", str(output))
    driver = run.start()
    wait_until(lambda: max(run.commits(), default=0) >= 20, driver)
    os.kill(driver.workers()[-1], signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    assert len(run.events("generation")) == 2
    expected = Expected(run)
    expected.require(output, world=2, steps=STEPS, done_twice_at_most=15)
    assert run.digests() == expected.digests
    history = run.history()
    assert history[STEPS]["position"] == (STEPS - 1) * BATCH and history[STEPS]["loss"] < history[1]["loss"] - 0.5
    newest = json.loads(_core.read_commit(str(run.store), str(json.loads(_core.newest(str(run.store)) or "")["dir"])))
    assert newest["position"] == STEPS * BATCH == newest["stream_state"]["order"]["position"]
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    # What it would have skipped still counts as done.
    assert state["epoch"] == 1.0


def test_labels_are_those_of_the_same_tokens_and_what_no_loss_counts_stays_so() -> None:
    import torch

    from eagleray.train.script_data import unshifted

    # Tokens 10 to 13, of which 12 is masked; the label of the last is a token that the sample no longer has.
    assert unshifted(torch.tensor([[11, -100, 13, 14]])).tolist() == [[-100, 11, -100, 13]]


def scripted(rank: int, world: int, resolved: dict[str, Any], attempt: int) -> list[dict[str, Any]]:
    """Runs the script of a run on a rank of a pool; what it told."""
    from eagleray.train.ledger import Clock, Reporter
    from eagleray.train.script import run_script
    from eagleray.train.script_session import Session

    told: list[dict[str, Any]] = []

    def push(events: list[dict[str, Any]], _durable: bool) -> dict[str, bool]:
        told.extend(events)
        return {}

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": 0}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    plan = plan_of(resolved)
    reporter = Reporter(push, {"rank": rank, "generation": 0})
    here = {"rank": rank, "world": world, "attempt": attempt, "reached_step": 0}
    try:
        assert plan.script is not None
        run_script(Session(plan, clock=Clock(), reporter=reporter, **here), plan.script, 0.0)
    finally:
        reporter.close()
    return told


def test_accelerate_deals_out_no_share_again_and_skips_nothing_twice(
    data_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    output, told = tmp_path / "out", []
    for until in (7, 12):
        run = data_run("accelerate_data.py", "--until", str(until), "--output", str(output))
        told += ranks.run(2, scripted, run.spec(), run.claim())[0]
    expected = Expected(run)
    expected.require(output, world=2, steps=12, done_twice_at_most=0)
    steps = [event for event in told if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert [(event["order_digest"], event["token_digest"]) for event in steps] == [
        expected.digests[step] for step in range(1, 13)
    ]
    for arguments, message in (
        (("--accumulate", "4"), "2 samples × 4 accumulated × 2 workers make a global batch of 16"),
        (("--accumulate", "1"), "has taken 6 samples of .*, expected 8"),
    ):
        run = data_run("accelerate_data.py", "--until", "3", "--output", str(tmp_path / "no"), *arguments)
        with pytest.raises(_core.InvalidError, match=message):
            ranks.run(2, scripted, run.spec(), run.claim())


def test_an_sft_trainer_of_trl_takes_the_data_of_the_run_and_goes_on_at_its_commit(
    data_run: Callable[..., Run], ranks: Ranks, tmp_path: Path
) -> None:
    pytest.importorskip("trl", reason="missing tool: trl")
    output = tmp_path / "out"
    run = data_run("trl_data.py", "--steps", "12", "--output", str(output))
    whole = [event for event in ranks.run(2, scripted, run.spec(), run.claim())[0] if event["kind"] == "step"]
    expected = Expected(run)
    found = {event["step"]: (event["order_digest"], event["token_digest"]) for event in whole}
    assert found == {step: expected.digests[step] for step in range(1, 13)}
    assert whole[-1]["loss"] < whole[0]["loss"]
    # As a kill after the save of step 6 leaves it.
    for step in (9, 12):
        shutil.rmtree(run.store / "checkpoints" / f"step-{step:09}")
    rest = [event for event in ranks.run(2, scripted, run.spec(), run.claim())[0] if event["kind"] == "step"]
    names = ("step", "loss", "order_digest", "token_digest")
    assert [[event[name] for name in names] for event in rest] == [
        [event[name] for name in names] for event in whole[6:]
    ]


def test_what_reads_the_data_of_a_run_twice_or_not_at_all_is_refused(
    data_run: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="missing tool: accelerate")
    from eagleray import train
    from eagleray.train.ledger import Clock, Reporter
    from eagleray.train.script import run_script
    from eagleray.train.script_session import Session

    with pytest.raises(_core.InvalidError, match="for scripts that a run has started"):
        train.dataset()
    head = "from eagleray.train import dataset\nfrom torch.utils.data import DataLoader\n"
    texts = {
        "": "the script never called",
        "for each in dataset(step=59): pass\nfor each in dataset(step=59): pass": "read a second time",
        "for each in DataLoader(dataset(), num_workers=1): pass": "leave `num_workers` at 0",
        "first, second = dataset(step=3), dataset(step=4)\nnext(iter(second))": "cannot begin at two places",
        "DataLoader(dataset(), batch_size=3)": "is 8 samples a step on each, which batches of 3 do not divide",
        "from accelerate.data_loader import prepare_data_loader\n"
        "prepare_data_loader(DataLoader(dataset()), split_batches=True)": "Accelerate's `split_batches` on `dataset()`",
        "from accelerate import skip_first_batches\n"
        "skip_first_batches(DataLoader(dataset(), batch_size=2), 3)": "3 batches of 2 end within a step of 8 samples",
        "from accelerate import skip_first_batches\n"
        "next(iter(skip_first_batches(DataLoader(dataset(step=2), batch_size=2), 4)))": "of 4 batches is at step 1",
        "dataset(step=-1)": "steps that are done are 0 or more",
    }
    own = tmp_path / "own.py"
    for attempt, (text, message) in enumerate(texts.items()):
        own.write_text(head + text, encoding="utf-8")
        run = data_run(str(own), workers=1)
        plan, reporter = plan_of(run.spec()), Reporter(lambda _events, _durable: {}, {"rank": 0})
        session = Session(plan, rank=0, world=1, attempt=attempt, reached_step=0, clock=Clock(), reporter=reporter)
        assert plan.script is not None
        with pytest.raises(_core.InvalidError, match=re.escape(message)):
            run_script(session, plan.script, 0.0)
        reporter.close()
    uneven = data_run("plain_data.py", workers=3).spec()
    with pytest.raises(_core.InvalidError, match="choose a multiple of 3"):
        plan_of(uneven)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"gradient_accumulation_steps": 1}, "2 samples × 1 accumulated × 2 workers make a global batch of 4"),
        ({"max_steps": STEPS + 1}, f"`train.steps`, where `dataset()` ends, is {STEPS}"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
    ],
)
def test_a_trainer_whose_steps_are_not_those_of_the_run_is_refused_with_the_numbers(
    changes: dict[str, Any], message: str | None, data_run: Callable[..., Run]
) -> None:
    from eagleray.train.ledger import Clock
    from eagleray.train.script_data import Feed
    from eagleray.train.script_trainer import require_order

    feed = Feed(plan_of(data_run("trainer_data.py").spec()), rank=0, world=2, clock=Clock())
    arguments = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": STEPS}
    given = SimpleNamespace(**arguments | {"auto_find_batch_size": False} | changes)
    if message is None:
        require_order(feed.dataset(None), given)
        return
    with pytest.raises(_core.InvalidError, match=re.escape(message)):
        require_order(feed.dataset(None), given)
