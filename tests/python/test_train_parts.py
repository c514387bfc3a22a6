"""The parts of training that need no process: schedule, cadence, totals, slices, initial values, spans."""

from __future__ import annotations

import random

import pytest
import torch

from eagleray.train.context import slice_of
from eagleray.train.ledger import Clock, StepWatch
from eagleray.train.model import Llama, ModelConfig, initial_value, num_parameters, sample_losses
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
    assert [step for step in range(1, 31) if by_steps.due(step, 1e9, None, None)] == [10, 20, 30]
    by_seconds = Cadence(kind="seconds", seconds=5.0)
    assert not by_seconds.due(10, 4.9, 0.1, 1.0)
    assert by_seconds.due(11, 5.0, 0.1, 1.0)


def test_the_automatic_cadence_weighs_what_a_save_costs_and_never_overlaps_saves() -> None:
    auto = Cadence(kind="auto")
    assert auto.interval(None, None) == 60.0
    assert auto.interval(0.0, 1.0) == 30.0
    assert auto.interval(0.05, 1.0) == pytest.approx((2 * 0.05 * 86_400) ** 0.5)
    assert auto.interval(0.05, 500.0) == 500.0
    assert auto.interval(100.0, 1.0) == 1800.0


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
    watch.begin()
    for cause in ("data_wait", "compute", "data_wait"):
        with watch.span(cause):
            pass
    assert set(watch.seconds) == {"data_wait", "compute"}
    assert 0.0 <= sum(watch.seconds.values()) <= watch.clock.now() - watch.start
