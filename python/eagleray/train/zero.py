"""`zero3`: parameters, gradients and moments in the hands of DeepSpeed, the step in ours.

DeepSpeed keeps of each parameter a run of its values on each rank, in fp32 beside the moments, and gathers a module's
before it computes. Batches, the learning rate, clipping and what becomes of an anomaly are the loop's, as everywhere.
What of DeepSpeed 0.19 is used that it keeps private stands in this module alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eagleray import _core
from eagleray.checkpoint.flat import FlatPart

from .context import Tensors
from .layout import Axes
from .model import Llama, initial_value
from .model_config import AnyModel, HuggingfaceConfig, ModelConfig
from .recompute import recompute
from .state import Held, State
from .strategy import Done, Spread, build_optimizer, mesh_of

SUPPORTED = (0, 19)
# Gives a run of values of the parameter `name`, of a shape, into a flat tensor.
Fill = Callable[[str, torch.Size, int, Tensor], None]


def _deepspeed() -> Any:
    """The package, set up for a world that is there already."""
    try:
        found = tuple(int(part) for part in metadata.version("deepspeed").split(".")[:2])
    except metadata.PackageNotFoundError as error:
        raise _core.InvalidError(
            "`train.strategy: zero3` needs DeepSpeed where the workers run: `pip install 'eagleray[deepspeed]'`"
        ) from error
    if found != SUPPORTED:
        expected = ".".join(str(part) for part in SUPPORTED)
        raise _core.InvalidError(
            f"expected DeepSpeed {expected}.x, found {metadata.version('deepspeed')}; "
            f"`pip install 'deepspeed=={expected}.*'`"
        )
    cpu = not torch.cuda.is_available()
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    # It says on every rank what it does; what goes wrong is raised.
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    # Where it prints at import, it prints into the driver's terminal.
    with contextlib.redirect_stdout(None):
        import deepspeed
        import deepspeed.ops

        if cpu:
            # An extension for inference that takes a minute to compile, and that training never calls.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)
    return deepspeed


def partition(model: nn.Module, config: Mapping[str, Any], device: torch.device) -> None:
    """Takes the parameters of a model on `meta` apart, a module at a time; their values are none yet."""
    deepspeed = _deepspeed()
    dtype = torch.bfloat16 if config.get("bf16", {}).get("enabled") else torch.float32
    init = deepspeed.zero.Init(config_dict_or_path=dict(config), dtype=dtype)
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                real = nn.Parameter(
                    torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=parameter.requires_grad
                )
                init._convert_to_deepspeed_param(real)
                real.partition()
                made[id(parameter)] = real
            setattr(module, name, made[id(parameter)])
    model._apply(lambda tensor: tensor if hasattr(tensor, "ds_id") else tensor.to(device))


@dataclass(kw_only=True)
class Zero3(Spread):
    """As `Spread`; the optimizer makes it ready."""

    config: Mapping[str, Any]
    fill: Fill
    _optimizer: Any = field(default=None, init=False)

    def optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """AdamW over this rank's runs. Parameters get their first values here: before there is nothing to keep them."""
        inner = build_optimizer(self.model.named_parameters(), **settings)
        with contextlib.redirect_stdout(None):
            engine, self._optimizer, _, _ = _deepspeed().initialize(
                model=self.model, optimizer=inner, config=dict(self.config), dist_init_required=False
            )
        self.model = engine
        with self._written(), torch.no_grad():
            for name, parameter in self._named():
                start, values = self._run(parameter)
                if values.numel() > 0:
                    self.fill(name, parameter.ds_shape, start, values)
        return self._optimizer  # type: ignore[no-any-return]

    def held(self, optimizer: torch.optim.Optimizer) -> Held:
        """Parameters and moments as runs of their values."""
        return _State(self)

    def forward_backward(self, tensors: Tensors, scale: float, *, last: bool) -> list[Done]:
        """As `Spread.forward_backward`."""
        self.model.set_gradient_accumulation_boundary(last)
        losses = self._losses(tensors)
        self.model.backward(losses.sum() * (0.0 if tensors.empty else scale), scale_wrt_gas=False)
        return Done.of(tensors, losses)

    def multiply_gradients(self, factor: float) -> None:
        """As `Spread.multiply_gradients`."""
        torch._foreach_mul_(self.gradients(), factor)

    def clip(self, max_norm: float | None) -> float:
        """As `Spread.clip`."""
        gradients = self.gradients()
        squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        dist.all_reduce(squares)
        norm = float(squares.sqrt().item())
        if max_norm is not None and norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
        return norm

    def gradients(self) -> list[Tensor]:
        """This rank's runs of the gradients."""
        return [run for group in self._optimizer.averaged_gradients.values() for run in group]

    def _named(self) -> Iterator[tuple[str, Any]]:
        """Parameters by name; a shared one under its first."""
        yield from self.model.module.named_parameters()

    def _run(self, parameter: Any, moment: str | None = None) -> tuple[int, Tensor]:
        """Where this rank's run of a parameter begins, and its values in fp32, or those of a moment."""
        each = parameter.partition_numel()
        start = min(dist.get_rank() * each, parameter.ds_numel)
        values, _ = self._optimizer._get_fp32_opt_state_partition(parameter, False, moment)
        return start, values.detach()[: min(each, parameter.ds_numel - start)]

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """What is written to the fp32 values inside is what the model computes with afterwards."""
        optimizer = self._optimizer
        optimizer._partition_all_parameters()
        yield
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Gathers again what is small enough to stay whole.
        optimizer._post_step(set())


@dataclass(frozen=True, slots=True)
class _State:
    """What checkpoints hold of a model in DeepSpeed's hands: the same names and shapes as of any other."""

    spread: Zero3

    def gather(self) -> tuple[State, State]:
        """As `Held`."""
        self._begin()
        return self._tensors(), {}

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `Held`."""
        self._begin()
        tensors = self._tensors()
        with self.spread._written():
            fill(tensors)

    def _tensors(self) -> State:
        spread = self.spread
        model: State = {}
        moments: State = {}
        for name, parameter in spread._named():
            model[name] = self._part(parameter, None)
            kept = self._group_state(parameter)
            moments[name] = {
                "step": kept["step"],
                **{moment: self._part(parameter, moment) for moment in ("exp_avg", "exp_avg_sq")},
            }
        shared = {id(parameter): name for name, parameter in spread._named()}
        for name, parameter in spread.model.module.named_parameters(remove_duplicate=False):
            model[name] = model[shared[id(parameter)]]
        return {"model": model, "optimizer": moments}

    def _part(self, parameter: Any, moment: str | None) -> FlatPart:
        start, values = self.spread._run(parameter, moment)
        return FlatPart.of(values, parameter.ds_shape, start)

    def _group_state(self, parameter: Any) -> dict[str, Tensor]:
        optimizer = self.spread._optimizer
        group, _, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        state: dict[str, Tensor] = optimizer.optimizer.state[optimizer.fp32_partitioned_groups_flat[group]]
        return state

    def _begin(self) -> None:
        """Moments of zero where no step was taken yet."""
        optimizer = self.spread._optimizer
        for flat in optimizer.fp32_partitioned_groups_flat:
            state = optimizer.optimizer.state[flat]
            if not state:
                # Where the one kernel of AdamW wants it.
                state["step"] = torch.zeros((), device=flat.device if flat.is_cuda else "cpu")
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat.data), torch.zeros_like(flat.data)


def spread_zero3(
    config: AnyModel,
    axes: Axes,
    deepspeed: Mapping[str, Any],
    *,
    seed: int,
    device: torch.device,
    recomputed: str,
) -> Zero3:
    """The model in parts over all ranks; it computes once it has its optimizer."""
    parts: dict[str, Any] = {"axes": axes, "mesh": mesh_of(axes, device), "device": device, "autocast": False}
    if isinstance(config, HuggingfaceConfig):
        from . import huggingface

        model = huggingface.on_meta(config)
        layers, fill = huggingface.layers(model), huggingface.filler(model, config, seed)
        parts["logits"] = huggingface.logits
    else:
        with torch.device("meta"):
            model = Llama(config)
        layers, fill = model.layers, _drawn(config, seed)
    recompute(layers, recomputed)
    partition(model, deepspeed, device)
    return Zero3(model=model, config=deepspeed, fill=fill, **parts)


def _drawn(config: ModelConfig, seed: int) -> Fill:
    def fill(name: str, shape: torch.Size, start: int, into: Tensor) -> None:
        value = initial_value(name, shape, seed, config.num_layers)
        into.copy_(value.flatten()[start : start + into.numel()])

    return fill
