"""A function's own model under `zero1`, `zero2`, `zero3`: it keeps its optimizer, whose steps DeepSpeed takes.

The optimizer that the function makes becomes the one over this rank's runs, and its `step` DeepSpeed's, once `steps`
has both: what the function wrote for replicas runs as it is.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eagleray import _core
from eagleray.checkpoint.values import merge_values, split_values

from .context import Context
from .state import State
from .zero import Zero, taken_apart, tensors_of


class ZeroModel(nn.Module):
    """What `distribute` gives: the model, which computes once `steps` has its optimizer too."""

    def __init__(self, module: nn.Module, own: OwnZero) -> None:
        super().__init__()
        self.module = module
        self._own = own

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the model's own."""
        return self._own.ready().model(*inputs, **named)


class OwnZero:
    """One rank's model and optimizer of a function, in DeepSpeed's hands."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._spread: Zero | None = None
        self._names: list[list[str]] = []
        # Whether the gradients of a whole step are there.
        self._complete = False
        self._adopted = False

    @property
    def kind(self) -> str:
        """The strategy."""
        return self._context.plan.layout.kind

    def distribute(self, model: nn.Module) -> ZeroModel:
        """Gives the model's parameters memory as the stage wants it; their values are kept until they have a place."""
        if self._spread is not None:
            raise self._refused("one model can be distributed, found two")
        if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
            raise self._refused(f"every parameter must be trained, and `{frozen[0]}` has no `requires_grad`")
        values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

        def fill(name: str, _shape: torch.Size, start: int, into: Tensor) -> None:
            into.copy_(values[name].view(-1)[start : start + into.numel()])

        plan = self._context.plan
        if plan.deepspeed is None:
            raise _core.InternalError(f"`{self.kind}` needs DeepSpeed's configuration")
        self._spread = taken_apart(
            plan.layout, model, self._context.axes, plan.deepspeed, device=self._context.device, fill=fill
        )
        return ZeroModel(model, self)

    def adopt(self, objects: Mapping[str, Any]) -> None:
        """Takes the optimizer among the objects of `steps` over."""
        optimizers = [each for each in objects.values() if isinstance(each, torch.optim.Optimizer)]
        models = [each for each in objects.values() if isinstance(each, nn.Module)]
        if self._spread is None or len(models) != 1 or not isinstance(models[0], ZeroModel) or len(optimizers) != 1:
            raise self._refused(
                "`steps` needs the model that `distribute` gave and its one optimizer: "
                "`steps(model=model, optimizer=optimizer)`"
            )
        if self._adopted:
            raise self._refused("`steps` can be called once")
        (optimizer,) = optimizers
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or optimizer.defaults["amsgrad"]:
            raise self._refused(f"the optimizer must be Adam or AdamW, found `{type(optimizer).__name__}`")
        names = {id(parameter): name for name, parameter in models[0].module.named_parameters()}
        groups = [[names.pop(id(parameter), None) for parameter in group["params"]] for group in optimizer.param_groups]
        if names or any(name is None for group in groups for name in group):
            raise self._refused("the optimizer must have every parameter of the model that `distribute` gave, no other")
        self._names = [[str(name) for name in group] for group in groups]
        # The same groups and the same state, with the class' own `step`: DeepSpeed calls it.
        taken: Any = self._spread.adopt(copy.copy(optimizer))
        # The starting values have their place.
        self._spread.fill = _nothing_left
        self._adopted = True
        optimizer.step = types.MethodType(self._step_by(taken), optimizer)  # type: ignore[method-assign]
        optimizer.zero_grad = taken.zero_grad  # type: ignore[method-assign]

    def ready(self) -> Zero:
        """The model with its optimizer."""
        if self._spread is None or not self._adopted:
            raise self._refused("the model computes in the loop over `context.steps`, which must have its optimizer")
        return self._spread

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradient of a micro batch; `last` says that it ends the step."""
        self.ready().backward(loss, last=last)
        self._complete = last

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Clips the gradients by their norm over all ranks, which it returns (before clipping)."""
        if not isinstance(model, ZeroModel):
            raise self._refused("`clip` takes the model that `distribute` gave")
        self._require_complete()
        return self.ready().clip(max_norm)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> State:
        """The optimizer's state as torch has it of any other strategy: by name, groups with the names in them."""
        groups = [
            {key: value for key, value in group.items() if key != "params"} | {"params": list(names)}
            for group, names in zip(optimizer.param_groups, self._names, strict=True)
        ]
        return {"state": tensors_of(self.ready())[1], "param_groups": groups}

    def model_state(self, model: ZeroModel) -> State:
        """Parameters by name, and what else the model's `state_dict` holds."""
        parameters = {name for name, _ in model.module.named_parameters(remove_duplicate=False)}
        rest = {name: value for name, value in model.module.state_dict().items() if name not in parameters}
        return tensors_of(self.ready())[0] | rest

    def _step_by(self, taken: Any) -> Callable[..., None]:
        def step(optimizer: Any, closure: Any = None) -> None:
            if closure is not None:
                raise self._refused("`optimizer.step` takes no closure")
            self._require_complete()
            taken.step()
            self._complete = False
            # What torch's schedules look at, to see that updates come before them.
            optimizer._opt_called = True

        step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
        return step

    def _require_complete(self) -> None:
        if not self._complete:
            raise self._refused("call `step.backward` for every batch of a step before `clip` and `optimizer.step`")

    def _refused(self, why: str) -> Exception:
        return _core.InvalidError(f"`train.strategy: {self.kind}` with `train.function`: {why}")


@dataclass(frozen=True, slots=True)
class ZeroObjects:
    """The objects of `steps` as one state, as `own.Objects`, the model and its optimizer as runs of whole tensors."""

    objects: Mapping[str, Any]
    own: OwnZero

    def check(self) -> None:
        """Refuses what no checkpoint can hold, before the first step."""
        self.gather()

    def gather(self) -> tuple[State, State]:
        """As `state.Held`."""
        return split_values({name: self._state_of(name, each) for name, each in self.objects.items()})

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `state.Held`."""
        state = {name: self._state_of(name, each) for name, each in self.objects.items()}
        tensors, _ = split_values(state)
        with self.own.ready().written():
            fill(tensors)
        merge_values(state, values)
        for name, each in self.objects.items():
            if isinstance(each, torch.optim.Optimizer):
                for group, saved in zip(each.param_groups, state[name]["param_groups"], strict=True):
                    group.update({key: value for key, value in saved.items() if key != "params"})
            elif not isinstance(each, nn.Module):
                each.load_state_dict(state[name])

    def _state_of(self, name: str, each: Any) -> State:
        if isinstance(each, ZeroModel):
            return self.own.model_state(each)
        if isinstance(each, torch.optim.Optimizer):
            return self.own.optimizer_state(each)
        if not hasattr(each, "state_dict"):
            raise _core.InvalidError(f"`steps({name}=…)`: a `{type(each).__name__}` has no `state_dict`")
        return dict(each.state_dict())


def _nothing_left(name: str, *_: Any) -> None:
    raise _core.InternalError(f"`{name}` has its starting value already")
