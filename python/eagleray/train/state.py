"""One view of the trained state, whatever the strategy: tensors under the parameters' own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

State = dict[str, Any]


class Held(Protocol):
    """What the checkpoints of a run hold."""

    def gather(self) -> tuple[State, State]:
        """Tensors in nested dictionaries, sharded ones as this rank's shards; and plain values."""

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """Has `fill` read tensors in place, and takes them and `values` over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAndOptimizer:
    """The built-in loop's state: what is not a tensor is a function of spec and position."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def gather(self) -> tuple[State, State]:
        """As `Held`."""
        return save_state(self.model, self.optimizer), {}

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `Held`."""
        load_state(self.model, self.optimizer, fill)


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Parameters and moments by parameter name. Learning rates and the like are the spec's, not the state's."""
    parameters, moments = get_state_dict(model, optimizer)
    return {"model": dict(parameters), "optimizer": _by_name(moments)}


def _by_name(moments: Any) -> State:
    """Moments by parameter name, without the groups."""
    return dict(moments["state"])


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, fill: Callable[[State], None]) -> None:
    """Builds the state as it stands, lets `fill` read into its tensors, and gives it back to the model."""
    parameters, moments = get_state_dict(model, optimizer)
    state = {"model": dict(parameters), "optimizer": _by_name(moments)}
    fill(state)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict={"state": state["optimizer"], "param_groups": moments["param_groups"]},
    )
