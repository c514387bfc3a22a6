"""One training, however the model lies on the ranks: the same losses, and the same checkpoint bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SHORT_STEPS, make_run
from eagleray import _core
from eagleray.train.compiled import require_compiler
from eagleray.train.loop import Loop
from ranks import Ranks
from training import Corpus, Run, Trained, surroundings, train_in

pytestmark = pytest.mark.timeout(600)
SAVED, STEPS = 20, 30
# On a CPU it goes nowhere, by the way that it goes from a GPU.
OFFLOADED = "{zero_optimization: {offload_optimizer: {device: cpu}}}"
# Strategy, world, and what else the spec says.
CASES: list[tuple[str, int, dict[str, str]]] = [
    ("ddp", 1, {}),
    ("ddp", 2, {"recompute": "full"}),
    ("ddp", 4, {}),
    ("fsdp2", 2, {}),
    ("fsdp2", 3, {"recompute": "selective"}),
    ("fsdp2", 4, {}),
    ("zero1", 2, {}),
    ("zero1", 3, {"recompute": "selective"}),
    ("zero2", 2, {"deepspeed": OFFLOADED}),
    ("zero2", 3, {}),
    ("zero3", 1, {}),
    ("zero3", 2, {}),
    ("zero3", 3, {"recompute": "full"}),
    ("zero3", 2, {"deepspeed": OFFLOADED.replace("}}}", "}, offload_param: {device: cpu}}}")}),
    ("{dp_replicate: 2, dp_shard: 2}", 4, {}),
    ("{tp: 2}", 2, {}),
    ("{dp_shard: 2, tp: 2}", 4, {"recompute": "full"}),
    ("{cp: 2}", 2, {}),
    ("{cp: 2, dp_shard: 2}", 4, {"recompute": "full"}),
    ("{dp_replicate: 2, cp: 2}", 4, {"recompute": "selective"}),
    ("{cp: 4}", 4, {}),
    ("{cp: 2, tp: 2}", 4, {}),
    ("{pp: 2, cp: 2}", 4, {"micro_batch": "3"}),
    ("{pp: 2}", 2, {"pipeline": "1f1b"}),
    # Micro batches of 3, 3 and 2 samples: the last is filled up.
    ("{pp: 2}", 2, {"micro_batch": "3"}),
    ("{pp: 2}", 2, {"pipeline": "gpipe", "recompute": "full"}),
    ("{pp: 2, dp_shard: 2}", 4, {}),
    ("{pp: 2, tp: 2}", 4, {}),
    # Two stages on each rank, a layer in each; once three micro batches in a single round.
    ("{pp: 2}", 2, {"pipeline": "interleaved", "layers": "4", "micro_batch": "3"}),
    ("{pp: 2, dp_shard: 2}", 4, {"pipeline": "interleaved", "layers": "4"}),
    ("ddp", 1, {"compile": "true", "recompute": "full"}),
    ("fsdp2", 2, {"compile": "true"}),
]
# Schedules lie a model on its ranks in two ways: one stage each, or several.
LAYOUTS = sorted({(strategy, world, more.get("layers", "2")) for strategy, world, more in CASES})
# By the model's layers.
Canonical = Callable[[str], tuple[Run, Trained]]


@pytest.fixture(scope="module")
def canonical(corpus: Corpus, undisturbed: Run, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Canonical:
    """A run of one rank with a checkpoint on the way: what every strategy goes on from, and what it must then do."""
    del undisturbed  # It has built the datasets.

    @cache
    def make(layers: str) -> tuple[Run, Trained]:
        folder = tmp_path_factory.mktemp("canonical")
        run = make_run(corpus, folder, steps=STEPS, every=f"{SAVED} steps", workers=1, layers=layers)
        trained = train_in(ranks, 1, run)
        assert run.commits() == [SAVED, STEPS]
        shutil.rmtree(run.store / "checkpoints" / f"step-{STEPS:09}")
        return run, trained

    return make


@pytest.mark.parametrize(("strategy", "world", "more"), CASES)
def test_from_one_checkpoint_every_strategy_has_the_same_losses(
    strategy: str,
    world: int,
    more: dict[str, str],
    canonical: Canonical,
    new_run: Callable[..., Run],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    origin, expected = canonical(more.get("layers", "2"))
    shutil.copytree(origin.store, tmp_path / "store")
    run = new_run(store=tmp_path / "store", strategy=strategy, workers=world, steps=STEPS, every="1000 steps", **more)
    trained = train_in(ranks, world, run)
    wanted = {step: event for step, event in expected.history().items() if step > SAVED}
    found = trained.history()
    assert found.keys() == wanted.keys()
    for step, event in wanted.items():
        assert found[step]["loss"] == pytest.approx(event["loss"], rel=1e-5)
        assert found[step]["grad_norm"] == pytest.approx(event["grad_norm"], rel=1e-4)
        assert (found[step]["order_digest"], found[step]["token_digest"]) == (
            event["order_digest"],
            event["token_digest"],
        )
    last = [event["loss"] for event in expected.events("validation")][-1]
    assert [event["loss"] for event in trained.events("validation")] == [pytest.approx(last, rel=1e-5)]


def test_state_on_the_host_is_refused_where_there_is_no_other_place(new_run: Callable[..., Run], ranks: Ranks) -> None:
    run = new_run(strategy="fsdp2", workers=1, offload="cpu", steps=STEPS)
    with pytest.raises(_core.InvalidError, match=r"on workers without a GPU.*remove `offload`"):
        train_in(ranks, 1, run)


def test_without_a_compiler_no_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(_core.InvalidError, match=r"needs a C.. compiler where the workers run.*install `g..`"):
        require_compiler(torch.device("cpu"))


@pytest.mark.parametrize("strategy", ["{dp_shard: 2, tp: 2}", "{pp: 2, dp_shard: 2}"])
def test_from_the_first_step_a_mesh_has_the_losses_of_two_replicas(
    strategy: str, replicas: Trained, new_run: Callable[..., Run], ranks: Ranks
) -> None:
    mesh = train_in(ranks, 4, new_run(steps=SHORT_STEPS, strategy=strategy, workers=4))
    assert mesh.digests() == replicas.digests()
    assert mesh.loss_drift(replicas) < 1e-5
    held = [event["loss"] for event in replicas.events("validation")]
    assert len(held) > 2
    assert [event["loss"] for event in mesh.events("validation")] == [pytest.approx(loss, rel=1e-5) for loss in held]


@pytest.mark.parametrize(("strategy", "world", "layers"), LAYOUTS)
def test_what_a_strategy_loads_and_saves_again_is_equal_bit_for_bit(
    strategy: str,
    world: int,
    layers: str,
    canonical: Canonical,
    new_run: Callable[..., Run],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    origin, _ = canonical(layers)
    store = tmp_path / "store"
    shutil.copytree(origin.store, store)
    pipeline = "1f1b" if layers == "2" else "interleaved"
    run = new_run(store=store, strategy=strategy, workers=world, steps=STEPS, layers=layers, pipeline=pipeline)
    ranks.run(world, _save_again, run.spec(), run.claim())
    assert run.commits() == [SAVED, SAVED + 1]
    whole = new_run("whole", store=store, workers=1, steps=STEPS, layers=layers)
    attempt = whole.claim()
    ((before, after),) = ranks.run(1, _tensors, whole.spec(), attempt, (SAVED, SAVED + 1))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert np.array_equal(tensor, after[name]), name


def _save_again(rank: int, world: int, resolved: dict[str, Any], attempt: int) -> None:
    with loaded(rank, world, resolved, attempt, SAVED) as loop:
        loop.saver.save(SAVED + 1, wait=True)


def _tensors(
    rank: int, world: int, resolved: dict[str, Any], attempt: int, steps: tuple[int, ...]
) -> list[dict[str, np.ndarray]]:
    """What the checkpoint of each step holds, by name."""
    found = []
    for step in steps:
        with loaded(rank, world, resolved, attempt, step) as loop:
            state, _ = loop.spread.held(loop.optimizer).gather()
            moments = {
                f"{name}.{kind}": value for name, each in state["optimizer"].items() for kind, value in each.items()
            }
            found.append({name: value.detach().numpy().copy() for name, value in (state["model"] | moments).items()})
    return found


@contextmanager
def loaded(rank: int, world: int, resolved: dict[str, Any], attempt: int, step: int) -> Iterator[Loop]:
    """The loop of a rank, with the checkpoint of `step` loaded."""
    with surroundings(rank, world, resolved, attempt, []) as context:
        plan = context.plan
        (commit,) = Path(plan.store).glob(f"checkpoints/step-{step:09}/*/COMMIT")
        found = {"step": step, "dir": str(commit.parent.relative_to(plan.store))}
        loop = Loop(context, found)
        try:
            loop.saver.load(found)
            yield loop
        finally:
            loop.stream.close()
