"""One rank that trains small models for a step and tells the bytes of the tensors that it held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eagleray.train.context import Tensors
from eagleray.train.layout import Layout
from eagleray.train.model import sample_losses
from eagleray.train.model_config import ModelConfig
from eagleray.train.parts import local
from eagleray.train.strategy import build_optimizer, spread


def nbytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of tensors on this rank, shared storages counted once."""
    storages = {}
    for tensor in tensors:
        storage = local(tensor).untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Saved:
    """The storages that the graph keeps for its backward pass, parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Notes a tensor that is being kept."""
        storage = local(tensor).untyped_storage()
        # Whole parameters come and go with their layer: what is one is seen while it is there.
        parameters = {local(parameter).untyped_storage().data_ptr() for parameter in self.model.parameters()}
        if storage.data_ptr() not in parameters:
            self.storages.setdefault(storage.data_ptr(), storage)
        return tensor

    def bytes(self) -> int:
        """The bytes of all of them."""
        return sum(storage.nbytes() for storage in self.storages.values())


def measure_all(
    _rank: int, _world: int, cases: list[tuple[str, dict[str, Any]]], batch: tuple[int, int]
) -> list[dict[str, int]]:
    """Measures each pair of a strategy and a model's shape, with batches of (samples, sequence length)."""
    return [measure(strategy, shape, batch) for strategy, shape in cases]


def measure(strategy: str, shape: dict[str, Any], batch: tuple[int, int]) -> dict[str, int]:
    """Trains one step and measures."""
    config = ModelConfig(**shape)
    spread_model = spread(Layout(kind=strategy), config, seed=1, precision="fp32", device=torch.device("cpu"))
    model = spread_model.model
    optimizer = build_optimizer(model.named_parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    held = nbytes(spread_model.parameters())
    tokens = torch.randint(0, config.vocab_size, batch)
    labels = torch.randint(0, config.vocab_size, batch)
    positions = torch.arange(batch[1]).expand(batch)
    saved = Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        loss = sample_losses(model(tokens, positions), labels).sum()
    kept = saved.bytes()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in spread_model.parameters() if parameter.grad is not None]
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim() > 0]
    return {
        "parameters": held,
        "gradients": sum(local(gradient).numel() * 4 for gradient in gradients),
        "optimizer": nbytes(moments),
        "saved": kept,
    }


def measure_zero(
    _rank: int,
    _world: int,
    kind: str,
    shapes: list[dict[str, Any]],
    batch: tuple[int, int],
    deepspeed: dict[str, Any],
) -> list[dict[str, int]]:
    """Trains one step of each shape under DeepSpeed and measures what it keeps of the model on this rank."""
    found = []
    for shape in shapes:
        config = ModelConfig(**shape)
        spread_model: Any = spread(
            Layout(kind=kind), config, seed=1, precision="fp32", device=torch.device("cpu"), deepspeed=deepspeed
        )
        optimizer: Any = spread_model.optimizer(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        tokens = torch.randint(0, config.vocab_size, batch)
        positions = torch.arange(batch[1]).expand(batch)
        tensors = Tensors(tokens=tokens, labels=tokens, position_ids=positions, counted=tokens.numel(), empty=False)
        # The first stage sums up whole gradients, and takes its part of them at the step's end.
        whole = 0
        if kind == "zero1":
            spread_model.forward_backward(tensors, 1.0 / tokens.numel(), last=False)
            whole = nbytes(parameter.grad for parameter in spread_model.model.module.parameters())
        spread_model.forward_backward(tensors, 1.0 / tokens.numel(), last=True)
        # Of the tensors that a part of the second stage begins and ends in, DeepSpeed keeps the rest too: large in a
        # small model alone, and so not counted.
        gradients = whole or sum(4 * part.numel() for part in spread_model.gradients())
        optimizer.step()
        states = optimizer.optimizer.state.values()
        found.append(
            {
                "parameters": nbytes([*spread_model.flats(), *getattr(optimizer, "bit16_groups_flat", [])]),
                "gradients": gradients,
                "optimizer": nbytes(value for state in states for value in state.values() if value.dim() > 0),
            }
        )
    return found
