"""`zero1`, `zero2`, `zero3`: what updates a model in the hands of DeepSpeed, the step in ours.

    zero1    each rank has moments, and parameters in fp32, of a part of the model
    zero2    so are gradients
    zero3    so are the parameters that are computed with: a module's are gathered before it computes

What a rank has of a parameter is a run of its values: under `zero3` each parameter is cut into equal runs, in the
other two all of them end to end. Batches, the learning rate, clipping and what becomes of an anomaly are the loop's, as
everywhere. What of DeepSpeed 0.19 is used that it keeps private stands in this module alone.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
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
from .layout import Axes, Layout
from .lora import base_name, bits, summed
from .model import Llama, initial_value
from .model_config import AnyModel, HuggingfaceConfig, ModelConfig
from .recompute import recompute
from .state import Held, State, require_same_base
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
            "`train.strategy: zero1`, `zero2` and `zero3` need DeepSpeed where the workers run: "
            "`pip install 'eagleray[deepspeed]'`"
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


def materialise(
    model: nn.Module, device: torch.device, dtype: torch.dtype, cut: Callable[[nn.Parameter], object] | None = None
) -> None:
    """Gives every parameter memory of `dtype`, a module at a time, and has `cut` take it apart; values are none yet."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                real = nn.Parameter(
                    torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=parameter.requires_grad
                )
                if cut is not None:
                    cut(real)
                made[id(parameter)] = real
            setattr(module, name, made[id(parameter)])
    model._apply(lambda tensor: tensor if hasattr(tensor, "ds_id") else tensor.to(device))


def _computed_in(config: Mapping[str, Any]) -> torch.dtype:
    return torch.bfloat16 if config.get("bf16", {}).get("enabled") else torch.float32


@dataclass(kw_only=True)
class Zero(Spread):
    """As `Spread`; the optimizer makes it ready."""

    config: Mapping[str, Any]
    fill: Fill
    _optimizer: Any = field(default=None, init=False)
    # A digest of the parameters that are not trained.
    _frozen: str | None = field(default=None, init=False)

    def optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """AdamW over this rank's runs. Parameters get their first values here: before there is nothing to keep them."""
        return self.adopt(build_optimizer(self.model.named_parameters(), **settings))

    def adopt(self, inner: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Has DeepSpeed step `inner`, which is over the model's parameters; returns what is called in its place."""
        with contextlib.redirect_stdout(None), _sums_in_fp32():
            engine, self._optimizer, _, _ = _deepspeed().initialize(
                model=self.model, optimizer=inner, config=dict(self.config), dist_init_required=False
            )
        self.model = engine
        with torch.no_grad(), self.written():
            for name, parameter in self.trained():
                start, values = self.run(parameter)
                if values.numel() > 0:
                    self.fill(name, shape_of(parameter), start, values)
            self._fill_frozen()
        return self._optimizer  # type: ignore[no-any-return]

    def held(self, optimizer: torch.optim.Optimizer) -> Held:
        """Parameters and moments as runs of their values."""
        return _State(self)

    def forward_backward(self, tensors: Tensors, scale: float, *, last: bool) -> list[Done]:
        """As `Spread.forward_backward`."""
        losses = self._losses(tensors)
        self.backward(losses.sum() * (0.0 if tensors.empty else scale), last=last)
        return Done.of(tensors, losses)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradient of `loss`; the step's `last` one has them all at hand."""
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss, scale_wrt_gas=False)

    def multiply_gradients(self, factor: float) -> None:
        """As `Spread.multiply_gradients`."""
        torch._foreach_mul_(self.gradients(), factor)

    def clip(self, max_norm: float | None) -> float:
        """As `Spread.clip`."""
        gradients = self.gradients()
        squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum().to(self.device)
        dist.all_reduce(squares)
        norm = float(squares.sqrt().item())
        if max_norm is not None and norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
        return norm

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """This rank's parts of the gradients."""

    @abstractmethod
    def flats(self) -> list[Tensor]:
        """This rank's parameters in fp32: a flat tensor for each group of the optimizer or part of one."""

    @abstractmethod
    def place(self, parameter: Any) -> tuple[int, int, int, int]:
        """Which of `flats` has this rank's run of a parameter, from where; where the run begins, and how long it is."""

    @abstractmethod
    def written(self) -> contextlib.AbstractContextManager[None]:
        """What is written to `flats` inside is what the model computes with afterwards."""

    @abstractmethod
    def frozen_run(self, parameter: Any) -> tuple[int, Tensor]:
        """Where what this rank has of a parameter that is not trained begins, and its values."""

    def trained(self) -> Iterator[tuple[str, Any]]:
        """Trained parameters by name; a shared one under its first."""
        named = self.model.module.named_parameters()
        yield from ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def run(self, parameter: Any, moment: str | None = None) -> tuple[int, Tensor]:
        """Where this rank's run of a parameter begins, and its values in fp32, or those of a moment."""
        index, offset, start, count = self.place(parameter)
        flat = self.flats()[index]
        whole = flat if moment is None else self.moments(flat)[moment]
        return start, whole.detach()[offset : offset + count]

    def moments(self, flat: Tensor) -> dict[str, Tensor]:
        """What the optimizer keeps of one of `flats`."""
        state: dict[str, Tensor] = self._optimizer.optimizer.state[flat]
        return state

    def _fill_frozen(self) -> None:
        named = self.model.module.named_parameters()
        frozen = [(name, parameter) for name, parameter in named if not parameter.requires_grad]
        total = 0
        for name, parameter in frozen:
            start, values = self.frozen_run(parameter)
            if values.numel() > 0:
                wide = values if values.dtype == torch.float32 else torch.empty_like(values, dtype=torch.float32)
                self.fill(name, shape_of(parameter), start, wide)
                values.copy_(wide)
                # Whole ones are everybody's.
                if values.numel() < shape_of(parameter).numel() or dist.get_rank() == 0:
                    total += bits(base_name(name), wide, start)
        self._frozen = summed(total, self.device) if frozen else None


@dataclass(kw_only=True)
class ZeroParts(Zero):
    """`zero1` and `zero2`: whole parameters, all of them end to end in parts where they are updated."""

    # Whether the gradients at hand are those of a whole step.
    _complete: bool = field(default=False, init=False)

    def gradients(self) -> list[Tensor]:
        """As `Zero.gradients`."""
        optimizer = self._optimizer
        if optimizer.cpu_offload:
            # They are on their way there.
            optimizer._wait_for_offload_copies()
            return [flat.grad for flat in self.flats()]
        return [part for group in range(len(self.flats())) for part in optimizer.averaged_gradients[group]]

    def flats(self) -> list[Tensor]:
        """As `Zero.flats`."""
        flats: list[Tensor] = self._optimizer.single_partition_of_fp32_groups
        return flats

    def place(self, parameter: Any) -> tuple[int, int, int, int]:
        """As `Zero.place`."""
        optimizer = self._optimizer
        for group, members in enumerate(optimizer.round_robin_bit16_groups):
            for member, begin in zip(members, optimizer.round_robin_bit16_offsets[group], strict=True):
                if member is parameter:
                    low = dist.get_rank() * optimizer.partition_size[group]
                    first = min(max(begin, low), begin + parameter.numel())
                    end = max(min(begin + parameter.numel(), low + optimizer.partition_size[group]), first)
                    return group, first - low if end > first else 0, first - begin, end - first
        raise _core.InternalError("a parameter is in no group of the optimizer")

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """As `Zero.written`."""
        yield
        self._optimizer.update_lp_params()

    def frozen_run(self, parameter: Any) -> tuple[int, Tensor]:
        """As `Zero.frozen_run`."""
        return 0, parameter.data.view(-1)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As `Zero.backward`."""
        if self._complete:
            self._forget()
        super().backward(loss, last=last)
        self._complete = last

    def _forget(self) -> None:
        """Drops what is left of a step that was not taken: it would be added to this one."""
        optimizer = self._optimizer
        optimizer._wait_for_offload_copies()
        optimizer.micro_step_id = -1
        for kept in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
            kept.update(dict.fromkeys(kept))


@dataclass(kw_only=True)
class Zero3(Zero):
    """`zero3`: each parameter in runs, gathered to be computed with."""

    def gradients(self) -> list[Tensor]:
        """As `Zero.gradients`."""
        optimizer = self._optimizer
        if optimizer.offload_optimizer:
            return [flat.grad for flat in self.flats()]
        return [run for group in optimizer.averaged_gradients.values() for run in group]

    def flats(self) -> list[Tensor]:
        """As `Zero.flats`."""
        flats: list[Tensor] = self._optimizer.fp32_partitioned_groups_flat
        return flats

    def place(self, parameter: Any) -> tuple[int, int, int, int]:
        """As `Zero.place`."""
        optimizer = self._optimizer
        index, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        each = parameter.partition_numel()
        start = min(dist.get_rank() * each, parameter.ds_numel)
        return index, offset, start, min(each, parameter.ds_numel - start)

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """As `Zero.written`."""
        optimizer = self._optimizer
        optimizer._partition_all_parameters()
        yield
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        # Gathers again what is small enough to stay whole.
        optimizer._post_step(set())

    def frozen_run(self, parameter: Any) -> tuple[int, Tensor]:
        """As `Zero.frozen_run`."""
        each = parameter.partition_numel()
        start = min(dist.get_rank() * each, parameter.ds_numel)
        return start, parameter.ds_tensor.data[: min(each, parameter.ds_numel - start)]


def shape_of(parameter: Any) -> torch.Size:
    """The shape of a whole parameter."""
    return getattr(parameter, "ds_shape", parameter.shape)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _sums_in_fp32() -> Iterator[None]:
    """Has every stage in bf16 be ZeRO's optimizer, which sums gradients in fp32 when told to.

    For the first stage DeepSpeed takes another one, which keeps a second whole copy of the gradients, and no part of
    which is where that of the others is.
    """
    from deepspeed.runtime.engine import ZERO_OPTIMIZATION, DeepSpeedEngine

    chosen = DeepSpeedEngine._do_optimizer_sanity_check
    DeepSpeedEngine._do_optimizer_sanity_check = lambda *_: ZERO_OPTIMIZATION
    try:
        yield
    finally:
        DeepSpeedEngine._do_optimizer_sanity_check = chosen


@dataclass(frozen=True, slots=True)
class _State:
    """What checkpoints hold of a model in DeepSpeed's hands: the same names and shapes as of any other."""

    spread: Zero

    def gather(self) -> tuple[State, State]:
        """As `Held`."""
        frozen = self.spread._frozen
        model, moments = tensors_of(self.spread)
        return {"model": model, "optimizer": moments}, {} if frozen is None else {"frozen": frozen}

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `Held`."""
        require_same_base(self.spread._frozen, values)
        model, moments = tensors_of(self.spread)
        with self.spread.written():
            fill({"model": model, "optimizer": moments})


def tensors_of(spread: Zero) -> tuple[State, State]:
    """Trained parameters and their moments by name, as runs that share memory with them."""
    _begin(spread)
    model: State = {}
    moments: State = {}
    names: dict[int, str] = {}
    for name, parameter in spread.trained():
        index, *_ = spread.place(parameter)
        kept = spread.moments(spread.flats()[index])
        names[id(parameter)] = name
        model[name] = _part(spread, parameter, None)
        moments[name] = {
            each: value if value.dim() == 0 else _part(spread, parameter, each) for each, value in kept.items()
        }
    for name, parameter in spread.model.module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            model[name] = model[names[id(parameter)]]
    return model, moments


def _part(spread: Zero, parameter: Any, moment: str | None) -> FlatPart:
    start, values = spread.run(parameter, moment)
    return FlatPart.of(values, shape_of(parameter), start)


def _begin(spread: Zero) -> None:
    """Moments of zero where no step was taken yet."""
    for flat in spread.flats():
        state = spread.moments(flat)
        if not state:
            # Where the one kernel of AdamW wants it.
            state["step"] = torch.zeros((), device=flat.device if flat.is_cuda else "cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat.data), torch.zeros_like(flat.data)


def spread_zero(
    layout: Layout,
    config: AnyModel,
    axes: Axes,
    deepspeed: Mapping[str, Any],
    *,
    seed: int,
    device: torch.device,
    recomputed: str,
) -> Zero:
    """The model over all ranks; it computes once it has its optimizer."""
    parts: dict[str, Any] = {}
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
    return taken_apart(layout, model, axes, deepspeed, device=device, fill=fill, **parts)


def taken_apart(
    layout: Layout,
    model: nn.Module,
    axes: Axes,
    deepspeed: Mapping[str, Any],
    *,
    device: torch.device,
    fill: Fill,
    **parts: Any,
) -> Zero:
    """A model whose parameters have memory as its stage wants it, and are given their values by `fill` later."""
    dtype, cut = _computed_in(deepspeed), None
    if layout.kind == "zero3":
        init = _deepspeed().zero.Init(config_dict_or_path=dict(deepspeed), dtype=dtype)

        def cut(parameter: Any) -> None:
            init._convert_to_deepspeed_param(parameter)
            parameter.partition()

    materialise(model, device, dtype, cut)
    return (Zero3 if layout.kind == "zero3" else ZeroParts)(
        axes=axes,
        model=model,
        mesh=mesh_of(axes, device),
        device=device,
        autocast=False,
        config=deepspeed,
        fill=fill,
        **parts,
    )


def _drawn(config: ModelConfig, seed: int) -> Fill:
    def fill(name: str, shape: torch.Size, start: int, into: Tensor) -> None:
        value = initial_value(name, shape, seed, config.num_layers)
        into.copy_(value.flatten()[start : start + into.numel()])

    return fill
