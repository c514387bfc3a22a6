"""The checkpoint engine without Ray: what is saved in one world is read, verified, in another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ranks import Ranks, faults

pytestmark = pytest.mark.timeout(180)
COMMIT = {"position": 80, "spec_hash": "a" * 64, "order_hash": "b" * 64, "model_hash": "c" * 64, "stream_state": {}}
COMMIT |= {"program": "0.1.0", "metadata": {}}


def _build(kind: str, seed: int, steps: int) -> tuple[Any, torch.optim.Optimizer]:
    from eagleray.train.layout import Layout
    from eagleray.train.model import sample_losses
    from eagleray.train.model_config import ModelConfig
    from eagleray.train.strategy import build_optimizer, spread

    config = ModelConfig(vocab_size=64, hidden_size=24, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2)
    built = spread(Layout(kind=kind), config, seed=seed, precision="fp32", device=torch.device("cpu"))
    optimizer = build_optimizer(built.model.named_parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(steps):
        tokens = torch.arange(16).view(1, 16) + step
        losses = sample_losses(built.model(tokens, torch.arange(16).view(1, 16)), tokens + 1)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return built, optimizer


def _whole(state: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed.tensor import DTensor

    if isinstance(state, dict):
        return {name: _whole(value) for name, value in state.items()}
    return state.full_tensor() if isinstance(state, DTensor) else state


def _zeros(state: dict[str, Any]) -> dict[str, Any]:
    if isinstance(state, dict):
        return {name: _zeros(value) for name, value in state.items()}
    return torch.zeros_like(state)


def _place(store: str, rank: int, world: int, attempt: int = 1) -> Any:
    from eagleray.checkpoint import Place

    return Place(store_url=store, attempt=attempt, rank=rank, world=world, group=dist.new_group(backend="gloo"))


def _claim(store: str) -> None:
    from eagleray import _core

    _core.claim(store, json.dumps({"host": "test", "pid": os.getpid()}))


def _save(rank: int, world: int, store: str, kind: str, expected: str) -> None:
    from eagleray.checkpoint import CheckpointEngine
    from eagleray.checkpoint.buffers import HostBuffers
    from eagleray.train.state import save_state

    built, optimizer = _build(kind, 1, 3)
    if kind == "fsdp2":
        for name, parameter in built.model.named_parameters():
            assert parameter.to_local().numel() * world == parameter.numel(), name
    # As from a GPU: through buffers, the second time those of the first.
    buffers = HostBuffers(pin=False, devices=frozenset({"cpu"}))
    engine = CheckpointEngine(_place(store, rank, world), buffers=buffers)
    state = save_state(built.model, optimizer)
    held = []
    for step in (5, 10):
        engine.save_async(_zeros(state) if step == 5 else state, {"step": step, "strategy": kind, **COMMIT})
        saved = engine.collect()
        assert saved is not None
        assert saved.step == step
        held.append(len(buffers))
    assert held[0] == held[1] > 0
    whole = _whole(state)
    if rank == 0:
        torch.save(whole, expected)


def _load(rank: int, world: int, store: str, kind: str, expected: str) -> None:
    from eagleray import _core
    from eagleray.checkpoint import engine
    from eagleray.train.state import load_state, save_state

    built, optimizer = _build(kind, 2, 0)
    commit = json.loads(_core.newest(store) or "{}")
    assert commit["position"] == 80
    place = _place(store, rank, world)
    load_state(built.model, optimizer, lambda state: engine.load(place, commit["dir"], state))
    whole = _whole(save_state(built.model, optimizer))
    if rank == 0:
        wanted = torch.load(expected)
        for part in ("model", "optimizer"):
            torch.testing.assert_close(whole[part], wanted[part], rtol=0, atol=0)


@pytest.mark.parametrize(("saver", "loader"), [(("fsdp2", 2), ("ddp", 1)), (("ddp", 1), ("fsdp2", 3))])
def test_one_world_reads_bit_for_bit_what_another_wrote_and_shards_are_even(
    saver: tuple[str, int], loader: tuple[str, int], ranks: Ranks, tmp_path: Path
) -> None:
    store, expected = str(tmp_path / "store"), str(tmp_path / "expected.pt")
    _claim(store)
    ranks.run(saver[1], _save, store, saver[0], expected)
    ranks.run(loader[1], _load, store, loader[0], expected)


def _load_rotten(rank: int, world: int, store: str, kind: str, expected: str, name: str) -> None:
    from eagleray import _core

    with pytest.raises(_core.CorruptError, match=name):
        _load(rank, world, store, kind, expected)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_rotten_file_is_named_before_anything_of_it_is_read(damage: str, ranks: Ranks, tmp_path: Path) -> None:
    store, expected = str(tmp_path / "store"), str(tmp_path / "expected.pt")
    _claim(store)
    ranks.run(1, _save, store, "ddp", expected)
    victim = max((tmp_path / "store").glob("checkpoints/*/*/*.distcp"))
    content = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content if damage == "flip" else content[:-100])
    ranks.run(1, _load_rotten, store, "ddp", expected, victim.name)


def _save_badly(rank: int, world: int, store: str) -> None:
    from eagleray import _core
    from eagleray.checkpoint import CheckpointEngine
    from eagleray.checkpoint.buffers import HostBuffers
    from eagleray.train.state import save_state

    built, optimizer = _build("ddp", 1, 1)
    buffers = HostBuffers(pin=False, devices=frozenset({"cpu"}))
    engine = CheckpointEngine(_place(store, rank, world), buffers=buffers)
    with faults(put_error_every=1, match=".distcp"):
        engine.save_async(save_state(built.model, optimizer), {"step": 10, "strategy": "ddp", **COMMIT})
        with pytest.raises(_core.EagleRayError, match="distcp"):
            engine.collect()
    assert not engine.in_flight
    # What failed may have left a reader behind: its buffers are nobody's.
    assert len(buffers) == 0
    assert _core.newest(store) is None


def test_a_save_that_the_store_refuses_raises_on_every_rank_and_commits_nothing(ranks: Ranks, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    _claim(store)
    ranks.run(2, _save_badly, store)


def test_a_buffer_is_one_save_s_until_it_is_given_back_and_the_next_one_s_then() -> None:
    from eagleray.checkpoint.buffers import HostBuffers

    buffers = HostBuffers(pin=False, devices=frozenset({"cpu"}))
    values = torch.arange(6.0).view(2, 3)

    def staged() -> tuple[torch.Tensor, list[torch.Tensor]]:
        staging = buffers.staging()
        copied = staging.copy(values)
        staging.finish()
        assert torch.equal(copied, values)
        return copied, staging.taken

    first, taken = staged()
    # While the first is being written, another may not lie in its place.
    second, others = staged()
    assert second.data_ptr() != first.data_ptr()
    values += 1
    assert torch.equal(first, values - 1)
    buffers.give_back(taken)
    third, _ = staged()
    assert third.data_ptr() == first.data_ptr()
    # A buffer of a size that a save has no use for goes.
    buffers.give_back(others)
    values = torch.zeros(5)
    staged()
    assert len(buffers) == 0


def test_a_host_that_cannot_pin_saves_all_the_same() -> None:
    from eagleray.checkpoint.buffers import HostBuffers

    staging = HostBuffers(devices=frozenset({"cpu"})).staging()
    copied = staging.copy(torch.arange(4))
    staging.finish()
    assert copied.is_pinned() == torch.cuda.is_available()
    assert copied.tolist() == [0, 1, 2, 3]


def test_any_state_of_tensors_and_plain_values_can_be_saved_and_loaded(tmp_path: Path) -> None:
    from eagleray import checkpoint

    url = str(tmp_path / "state")
    state: dict[str, Any] = {"weights": {"a": torch.arange(6.0).view(2, 3)}, "epoch": 3, "names": ["x", "y"]}
    checkpoint.save(state, url)
    again: dict[str, Any] = {"weights": {"a": torch.zeros(2, 3)}, "epoch": 0, "names": []}
    checkpoint.load(again, url)
    assert torch.equal(again["weights"]["a"], state["weights"]["a"])
    assert (again["epoch"], again["names"]) == (3, ["x", "y"])


def test_a_value_that_is_not_plain_is_refused_by_name(tmp_path: Path) -> None:
    from eagleray import InvalidError, checkpoint

    with pytest.raises(InvalidError, match="`hook` is a `function`"):
        checkpoint.save({"hook": _claim}, str(tmp_path / "state"))
