"""The parts of training that need no process: schedule, cadence, totals, slices, initial values, spans."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eagleray import _core
from eagleray.train import validation
from eagleray.train.context import slice_of
from eagleray.train.ledger import Clock, Keeper, StepWatch
from eagleray.train.model import Llama, initial_value, num_parameters, sample_losses
from eagleray.train.model_config import ModelConfig
from eagleray.train.plan import Cadence, Optimizer
from eagleray.train.totals import Totals, fixed_point

CONFIG = ModelConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=4, num_kv_heads=2)


def test_the_schedule_warms_up_linearly_and_ends_at_the_final_ratio() -> None:
    optimizer = Optimizer(lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, warmup_steps=10, final_lr_ratio=0.1)
    assert optimizer.lr_at(5, 100) == pytest.approx(0.5)
    assert optimizer.lr_at(10, 100) == pytest.approx(1.0)
    assert optimizer.lr_at(55, 100) == pytest.approx(0.55)
    assert optimizer.lr_at(100, 100) == pytest.approx(0.1)


def test_a_cadence_by_steps_ignores_the_clock_and_one_by_seconds_ignores_steps() -> None:
    by_steps = Cadence(kind="steps", steps=10)
    assert [step for step in range(1, 31) if by_steps.due(step, 1e9, 2, None, None)] == [10, 20, 30]
    by_seconds = Cadence(kind="seconds", seconds=5.0)
    assert not by_seconds.due(10, 4.9, 2, 0.1, 1.0)
    assert by_seconds.due(11, 5.0, 2, 0.1, 1.0)


def test_the_automatic_cadence_weighs_what_a_save_costs_and_never_overlaps_saves() -> None:
    auto = Cadence(kind="auto")
    assert auto.interval(2, None, None) == 60.0
    assert auto.interval(2, 0.0, 1.0) == 30.0
    assert auto.interval(1, 0.05, 1.0) == pytest.approx((2 * 0.05 * 86_400) ** 0.5)
    assert auto.interval(1, 0.05, 500.0) == 500.0
    assert auto.interval(1, 100.0, 1.0) == 1800.0


def test_the_automatic_cadence_saves_more_often_in_a_world_that_loses_more_workers() -> None:
    auto = Cadence(kind="auto")
    assert auto.interval(16, 0.5, 1.0) == pytest.approx(auto.interval(1, 0.5, 1.0) / 4)
    assert auto.interval(128, 0.5, 1.0) == 30.0


def test_slices_of_any_world_are_the_global_batch_in_order() -> None:
    for world in range(1, 12):
        slices = [slice_of(rank, world, 40, 8) for rank in range(world)]
        assert [position for first, last in slices for position in range(first, last)] == list(range(40, 48))
        sizes = [last - first for first, last in slices]
        assert max(sizes) - min(sizes) <= 1


def test_loss_sums_do_not_depend_on_their_order() -> None:
    losses = [random.Random(1).random() * 10 for _ in range(1000)]
    shuffled = random.Random(2).sample(losses, len(losses))
    assert fixed_point(losses) == fixed_point(shuffled)
    assert fixed_point(losses) / (1 << 20) == pytest.approx(sum(losses), rel=1e-6)


def test_a_loss_that_is_not_finite_is_counted_and_not_summed() -> None:
    totals = Totals()
    totals.add_losses([1.0, float("nan"), float("inf")], 30)
    assert totals.nonfinite == 2
    assert totals.loss == 1 << 20


def test_digests_wrap_as_unsigned_sums() -> None:
    totals = Totals()
    totals.add_digests((1 << 64) - 1, 5)
    totals.add_digests(2, (1 << 64) - 5)
    assert (totals.order_digest, totals.token_digest) == (1, 0)


def test_initial_values_depend_on_name_and_seed_alone() -> None:
    shape = torch.Size((4, 4))
    first = initial_value("layers.0.mlp.up_proj.weight", shape, 7, 2)
    torch.manual_seed(99)
    assert torch.equal(first, initial_value("layers.0.mlp.up_proj.weight", shape, 7, 2))
    assert not torch.equal(first, initial_value("layers.1.mlp.up_proj.weight", shape, 7, 2))
    assert not torch.equal(first, initial_value("layers.0.mlp.up_proj.weight", shape, 8, 2))
    assert torch.equal(initial_value("norm.weight", torch.Size((4,)), 7, 2), torch.ones(4))


def test_the_model_is_causal_and_its_positions_restart_where_the_batch_says() -> None:
    torch.manual_seed(0)
    model = Llama(CONFIG)
    tokens = torch.randint(0, 50, (1, 12))
    straight = torch.arange(12).view(1, 12)
    changed = tokens.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 50
    before, after = model(tokens, straight), model(changed, straight)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])
    # Attention sees differences of positions only, so a restart changes logits and a shift of all does not.
    torch.testing.assert_close(before, model(tokens, straight + 5), rtol=1e-4, atol=1e-5)
    restarted = torch.cat((straight[:, :6], straight[:, :6]), dim=1)
    assert not torch.allclose(before[:, 6:], model(tokens, restarted)[:, 6:])


def test_tied_embeddings_are_one_parameter() -> None:
    tied = ModelConfig(**{**{name: getattr(CONFIG, name) for name in CONFIG.__slots__}, "tie_embeddings": True})
    assert num_parameters(CONFIG) - num_parameters(tied) == 50 * 16
    assert num_parameters(CONFIG) == sum(parameter.numel() for parameter in Llama(CONFIG).parameters())


def test_losses_are_summed_per_sample() -> None:
    logits, labels = torch.randn(3, 5, 50), torch.randint(0, 50, (3, 5))
    losses = sample_losses(logits, labels)
    one = torch.nn.functional.cross_entropy(logits[1], labels[1], reduction="sum")
    assert losses.shape == (3,)
    torch.testing.assert_close(losses[1], one)


def test_spans_of_a_step_add_up_by_cause() -> None:
    watch = StepWatch(Clock())
    watch.begin("compute")
    for cause in ("data_wait", "compute", "data_wait"):
        watch.switch(cause)
    watch.stop()
    ended = watch.clock.now()
    assert set(watch.seconds) == {"data_wait", "compute"}
    assert 0.0 <= sum(watch.seconds.values()) <= ended - watch.start


def spans(store: Path) -> list[tuple[str, int, float, float]]:
    """Cause, rank, start and end of every span of a run's ledger."""
    events = json.loads(_core.read_ledger(str(store)))
    return [(each["cause"], each["rank"], each["start"], each["end"]) for each in events if each["kind"] == "span"]


def claimed(store: Path) -> Keeper:
    """The keeper of a run's first attempt, begun at second 10."""
    _core.claim(str(store), json.dumps({"host": "here", "pid": 1}))
    return Keeper(str(store), 1, 10.0, 0)


def test_the_wait_for_a_worker_group_that_never_came_belongs_to_what_it_waited_for(tmp_path: Path) -> None:
    keeper = claimed(tmp_path)
    keeper.begin_generation(2, 11.0)
    keeper.interrupted(70.0, "no room")
    keeper.begin_generation(2, 71.0)
    keeper.enter(0, 80.0)
    keeper.interrupted(90.0, "the worker of rank 1 died")
    keeper.finish(100.0, "failed")
    assert spans(tmp_path) == [("setup", 0, 10.0, 80.0), ("detection", 0, 80.0, 90.0), ("setup", 1, 10.0, 90.0)]


def test_a_save_that_was_asked_for_is_not_answered_by_an_older_one(tmp_path: Path) -> None:
    keeper = claimed(tmp_path)
    generation = keeper.begin_generation(1, 11.0)
    keeper.enter(0, 12.0)
    step: dict[str, Any] = {"kind": "step", "t": 13.0, "step": 130, "loss": 1.0, "lr": 1.0, "world": 1}
    step |= {"total_steps": 200, "start": 12.0, "end": 13.0, "tokens": 1, "data_wait": 0.0}
    keeper.push(generation, 0, [step], False)
    keeper.ask_save()
    assert keeper.push(generation, 0, [], False)["save"]
    for saved, awaited in ((100, True), (131, False)):
        event = {"kind": "checkpoint", "t": 14.0, "step": saved, "dir": "there", "end": 14.0}
        keeper.push(generation, 0, [event], False)
        assert keeper.awaits_save() == awaited


def test_a_validation_that_is_not_finite_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Totals(nonfinite=3, samples=16, tokens=512)
    monkeypatch.setattr(validation, "_totals", lambda *_arguments: bad)
    held = SimpleNamespace(name="held", every_steps=10)
    reporter = SimpleNamespace(span=lambda *_arguments: None)
    context: Any = SimpleNamespace(
        plan=SimpleNamespace(validation=[held], steps=100), clock=Clock(), reporter=reporter, rank=1
    )
    spread: Any = None
    with pytest.raises(_core.InvalidError, match="3 of 16 samples is not finite"):
        validation.validate(context, spread, 10)


def test_more_workers_than_the_gpus_of_this_machine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from eagleray import _ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(_ray, "resources", lambda name: 1.0 if name == "GPU" else 16.0)
    _ray.require_room(1)
    with pytest.raises(_core.InvalidError, match=r"--set cluster\.workers=1"):
        _ray.require_room(2)


def test_a_stop_that_the_store_asked_for_is_no_failure_in_a_pod_of_kuberay(monkeypatch: pytest.MonkeyPatch) -> None:
    from eagleray.train.driver import Stop

    monkeypatch.setenv("RAY_CLUSTER_NAME", "solar-1-x4k2q")
    assert Stop(count=1, by_store=True).exit_code() == 0
    assert Stop(count=1).exit_code() == 130, "a signal"
    monkeypatch.delenv("RAY_CLUSTER_NAME")
    assert Stop(count=1, by_store=True).exit_code() == 130, "a terminal's"
