"""One view of the trained state, whatever the strategy: tensors under the parameters' own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from eagleray import _core

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
    # A digest of the parameters that are not trained, and so in no checkpoint.
    frozen: str | None = None

    def gather(self) -> tuple[State, State]:
        """As `Held`."""
        return save_state(self.model, self.optimizer), {} if self.frozen is None else {"frozen": self.frozen}

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `Held`."""
        require_same_base(self.frozen, values)
        load_state(self.model, self.optimizer, fill)


def require_same_base(frozen: str | None, values: Mapping[str, Any]) -> None:
    """Refuses adapters that were trained beside weights with another digest than `frozen`."""
    if values.get("frozen") != frozen:
        raise _core.InvalidError(
            "the weights in `model.huggingface` are not those that the checkpoint's adapters were trained beside: "
            f"expected the digest {values.get('frozen')}, found {frozen}; put the weights back, or start in another "
            "`store`"
        )


def save_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Trained parameters and their moments by name. Learning rates and the like are the spec's, not the state's."""
    parameters, moments = get_state_dict(model, optimizer)
    return {"model": _trained(model, parameters), "optimizer": _by_name(moments)}


def _trained(model: nn.Module, parameters: Mapping[str, Any]) -> State:
    """All there is, but for frozen parameters under any of their names."""
    frozen = {
        name.removeprefix("module.")
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    return {name: value for name, value in parameters.items() if name not in frozen}


def _by_name(moments: Any) -> State:
    """Moments by parameter name, without the groups."""
    return dict(moments["state"])


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, fill: Callable[[State], None]) -> None:
    """Builds the state as it stands, lets `fill` read into its tensors, and gives it back to the model."""
    parameters, moments = get_state_dict(model, optimizer)
    state = {"model": _trained(model, parameters), "optimizer": _by_name(moments)}
    fill(state)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict={"state": state["optimizer"], "param_groups": moments["param_groups"]},
        # What is frozen is missing; all else was asked for by name.
        options=StateDictOptions(strict=len(state["model"]) == len(parameters)),
    )
