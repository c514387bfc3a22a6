"""How the model is spread over the world, behind one small interface.

    ddp      replicas: DistributedDataParallel
    fsdp2    shards over all ranks: fully_shard
    zero1    moments in parts over all ranks, by DeepSpeed (`zero`); zero2 gradients too, zero3 parameters too
    mesh     {pp, dp_replicate, dp_shard, cp, tp}: a pipeline of stages, each sharded over its readers and the parts of
             their sequences, each tensor in parts

The loop never asks which strategy runs. All average gradients over the ranks that read other samples, so the loop
scales each loss by `readers / tokens of the global batch` and gets the same gradient from any, for any world.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from eagleray import _core

from .compiled import compile_layers
from .context import Tensors
from .context_parallel import Zigzag, gather_keys, require_even
from .dropout import training_on
from .layout import AXES, ZERO, Axes, Layout
from .lora import frozen_digest
from .model import Llama, initialise, sample_losses
from .model_config import AnyModel, HuggingfaceConfig, ModelConfig
from .parts import local
from .recompute import recompute
from .state import Held, ModelAndOptimizer
from .tensor_parallel import split_tensors

if TYPE_CHECKING:
    from .pipeline import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a micro batch gave: the summed loss of each sample, how many tokens it had, how many the losses count."""

    losses: Tensor
    tokens: int
    counted: int

    @classmethod
    def of(cls, tensors: Tensors, losses: Tensor) -> list[Done]:
        """What `tensors` gave; nothing where they are no samples."""
        if tensors.empty:
            return []
        return [cls(losses=losses.detach(), tokens=tensors.labels.numel(), counted=tensors.counted)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What goes through a pipeline: samples of a micro batch, micro batches of a step, tokens of a sample."""

    micro_batch: int
    micro_batches: int
    sequence_length: int
    schedule: str = "1f1b"


@dataclass(kw_only=True)
class Spread:
    """A model on its devices, with what differs between strategies."""

    axes: Axes
    model: nn.Module
    mesh: DeviceMesh
    device: torch.device
    autocast: bool
    # This rank's part of every sequence, under `cp`.
    zigzag: Zigzag | None = None
    logits: Callable[[nn.Module, Tensors], Tensor] = lambda model, tensors: model(tensors.tokens, tensors.position_ids)

    def forward_backward(self, tensors: Tensors, scale: float, *, last: bool) -> list[Done]:
        """Adds the gradient of `scale` × the losses of a micro batch; `last` says that it ends the step.

        Returns what has become known of micro batches of this step: on each rank, or on those that have losses.
        """
        with self._accumulating(last), self.loss_in_parts(), training_on(tensors.positions):
            losses = self._losses(tensors)
            # A rank short of samples runs the model for its peers, on zeros that nobody counts.
            (losses.sum() * (0.0 if tensors.empty else self.summed(scale))).backward()  # type: ignore[no-untyped-call]
        return Done.of(tensors, self.whole(losses))

    def evaluate(self, tensors: Tensors) -> list[Done]:
        """The losses of a micro batch without their gradients."""
        with torch.no_grad(), self.loss_in_parts():
            losses = self._losses(tensors)
        return Done.of(tensors, self.whole(losses))

    def parameters(self) -> list[nn.Parameter]:
        """Trained parameters of this rank; shards of them where they are sharded."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """What updates the model; `settings` are those of `build_optimizer`."""
        return build_optimizer(self.model.named_parameters(), **settings)

    def held(self, optimizer: torch.optim.Optimizer) -> Held:
        """What checkpoints hold of the model and its optimizer."""
        return ModelAndOptimizer(model=self.model, optimizer=optimizer, frozen=frozen_digest(self.model))

    def multiply_gradients(self, factor: float) -> None:
        """Multiplies what the step has summed up so far."""
        multiply_gradients(self.parameters(), factor)

    def clip(self, max_norm: float | None) -> float:
        """Clips gradients in place by their global norm, which it returns (before clipping)."""
        return clip_gradients(self.model.parameters(), max_norm, stages=self.axes.pp, device=self.device)

    def part(self, tensors: Tensors) -> Tensors:
        """What this rank has of a micro batch: under `cp` some tokens of every sample."""
        return tensors if self.zigzag is None else self.zigzag.part(tensors)

    def whole(self, losses: Tensor) -> Tensor:
        """The losses of whole samples, without their gradients."""
        return losses.detach() if self.zigzag is None else self.zigzag.whole(losses)

    def summed(self, scale: float) -> float:
        """The scale under which gradients of parts of a sequence, which shards average, come to their sum."""
        return scale * self.axes.cp

    def _losses(self, tensors: Tensors) -> Tensor:
        mine = self.part(tensors)
        with self.precision():
            logits = self.logits(self.model, mine)
        return local(sample_losses(logits, mine.labels))

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """bf16 autocast where parameters are not cast as they are gathered."""
        if self.autocast:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _accumulating(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """The context of one micro batch: replicas' gradients meet on the last one of a step only.

        Shards' meet on each: kept back, every rank would hold the whole gradient in fp32, which is what sharding
        is there to avoid.
        """
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def loss_in_parts(self) -> contextlib.AbstractContextManager[object]:
        """Under `tp` each rank has the logits of its part of the vocabulary."""
        return loss_parallel() if self.axes.tp > 1 else contextlib.nullcontext()


def multiply_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiplies the gradients of those that have one, in place."""
    torch._foreach_mul_([local(each.grad) for each in parameters if each.grad is not None], factor)


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float | None, *, stages: int = 1, device: torch.device | None = None
) -> float:
    """Clips gradients in place by their global norm, which it returns (before clipping).

    Ranks hold parts or copies of the gradients of one of `stages` stages; each part counts once. Ranks talk over
    `device`, the gradients' own unless it is given: those on the host are summed up where the collectives are.
    """
    parameters = list(parameters)
    given = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [_reduced(parameter) for parameter in given]
    holders = dist.get_world_size() // stages
    copies = torch.tensor([holders // _parts(gradient) for gradient in gradients], dtype=torch.float64)
    # Without any gradient there is a norm too, of nothing: ranks must meet.
    apart = torch._foreach_norm([local(gradient) for gradient in gradients]) if gradients else []
    norms = (
        torch.stack(list(apart)).double()
        if apart
        else torch.zeros(0, dtype=torch.float64, device=_device_of(parameters))
    )
    squares = (norms.square() / copies.to(norms.device)).sum().to(device or norms.device)
    dist.all_reduce(squares)
    norm = squares.sqrt().float()
    if max_norm is not None and given:
        clip_grads_with_norm_(given, max_norm, norm)
    return float(norm.item())


def _device_of(parameters: list[nn.Parameter]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")


def _reduced(parameter: nn.Parameter) -> Tensor:
    """The gradient; one that ranks of `tp` still hold as summands (a norm's, from parts of the sequence) summed up."""
    gradient = parameter.grad
    if isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements):
        gradient = parameter.grad = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return gradient  # type: ignore[return-value]


def _parts(tensor: Tensor) -> int:
    """How many ranks share one copy of a tensor."""
    if not isinstance(tensor, DTensor):
        return 1
    mesh = tensor.device_mesh
    return math.prod(
        mesh.size(axis) for axis, placement in enumerate(tensor.placements) if not placement.is_replicate()
    )


def spread(
    layout: Layout,
    config: AnyModel,
    *,
    seed: int,
    precision: str,
    device: torch.device,
    recomputed: str = "none",
    compiled: bool = False,
    offloaded: bool = False,
    flow: Flow | None = None,
    deepspeed: Mapping[str, Any] | None = None,
) -> Spread:
    """Builds the model, starts it from `seed` and spreads it over the default process group.

    `recomputed` is `none`, `selective` or `full`. `compiled` compiles each layer. `offloaded` keeps shards on the host
    of a GPU. `flow` is needed where `layout` has pipeline stages, `deepspeed`,
    its whole configuration, under `zero1`, `zero2` and `zero3`.
    """
    world = dist.get_world_size()
    axes = layout.over(world)
    bf16 = precision == "bf16"
    if layout.kind in ZERO:
        from .zero import spread_zero

        if deepspeed is None:
            raise _core.InternalError(f"`{layout.kind}` needs DeepSpeed's configuration")
        return spread_zero(layout, config, axes, deepspeed, seed=seed, device=device, recomputed=recomputed)
    if isinstance(config, HuggingfaceConfig):
        how: dict[str, Any] = {"seed": seed, "bf16": bf16, "device": device, "recomputed": recomputed, "flow": flow}
        return _spread_huggingface(layout, config, axes, **how, compiled=compiled, offloaded=offloaded)
    if layout.kind == "ddp":
        mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("dp_replicate",))
        model = Llama(config)
        initialise(model, seed, _copy_whole)
        if compiled:
            compile_layers(model.layers, device, whole=True)
        recompute(model.layers, recomputed)
        model.to(device)
        return Spread(axes=axes, model=replicated(model), mesh=mesh, device=device, autocast=bf16)
    mesh = mesh_of(axes, device)
    zigzag = _zigzag(axes, device, flow)
    models = _models(config, _stages(config, axes, flow))
    sharded = axes.readers * axes.cp > 1 or layout.kind == "fsdp2"
    for model in models:
        if zigzag is not None:
            gather_keys(model, zigzag)
        if axes.tp > 1:
            split_tensors(model, mesh["tp"])
        if compiled:
            compile_layers(model.layers, device, whole=True)
        recompute(model.layers, recomputed)
        if sharded:
            shard(model, model.layers.values(), mesh, axes, bf16=bf16, cast_inputs=False, offloaded=offloaded)
        model.to_empty(device=home_of(device, offloaded=offloaded))
        model.tie()
        initialise(model, seed, _copy_part)
    given: dict[str, Any] = {"axes": axes, "mesh": mesh, "device": device, "autocast": bf16 and not sharded}
    given["zigzag"] = zigzag
    if axes.pp == 1 or flow is None:
        return Spread(**given, model=models[0])
    from .pipeline import Pipelined, joined

    return Pipelined(**given, model=joined(models), flow=flow, bf16=bf16)


def _zigzag(axes: Axes, device: torch.device, flow: Flow | None) -> Zigzag | None:
    """This rank's part of every sequence; None where it has all of each."""
    if axes.cp == 1:
        return None
    if flow is not None:
        require_even(flow.sequence_length, axes)
    return Zigzag.of(axes, device)


def _stages(config: AnyModel, axes: Axes, flow: Flow | None) -> Sequence[Stage | None]:
    """This rank's pipeline stages; None is the whole model."""
    if axes.pp == 1:
        return [None]
    if flow is None:
        raise _core.InternalError("a pipeline needs the shape of its micro batches")
    from .pipeline import stages_of

    return stages_of(config.num_layers, axes, dist.get_rank(), flow.schedule)


def _models(config: ModelConfig, stages: Sequence[Stage | None]) -> list[Llama]:
    """The model without memory, or a part of it for each of `stages`."""
    with torch.device("meta"):
        models = [Llama(config) for _ in stages]
    for model, stage in zip(models, stages, strict=True):
        if stage is not None:
            model.keep(stage.layers, first=stage.first, last=stage.last)
    return models


def _spread_huggingface(
    layout: Layout,
    config: HuggingfaceConfig,
    axes: Axes,
    *,
    seed: int,
    bf16: bool,
    device: torch.device,
    recomputed: str,
    compiled: bool,
    offloaded: bool,
    flow: Flow | None,
) -> Spread:
    from . import huggingface, huggingface_mesh

    mesh = mesh_of(axes, device)
    stages = _stages(config, axes, flow)
    zigzag = _zigzag(axes, device, flow)
    in_parts = axes.pp > 1 or axes.tp > 1 or zigzag is not None
    whole = layout.kind == "ddp"
    sharded = not whole and (axes.readers * axes.cp > 1 or not in_parts)
    models = [huggingface.on_meta(config) for _ in stages]
    everywhere = huggingface.names_of(models[0])
    for model, stage in zip(models, stages, strict=True):
        if stage is not None:
            huggingface_mesh.keep(model, stage.layers, first=stage.first, last=stage.last)
        if axes.tp > 1:
            huggingface_mesh.split_tensors(model, mesh["tp"])
        if in_parts:
            huggingface_mesh.compute_in_parts(model, zigzag)
        layers = huggingface.layers(model)
        if compiled:
            # Layers of some families leave the graph for a line or two.
            compile_layers(layers, device, whole=False)
        recompute(layers, recomputed)
        if sharded:
            shard(model, layers.values(), mesh, axes, bf16=bf16, cast_inputs=False, offloaded=offloaded)
        huggingface.start(model, config, seed, device, home=home_of(device, offloaded=offloaded), elsewhere=everywhere)
    parts: dict[str, Any] = {"axes": axes, "mesh": mesh, "device": device, "autocast": bf16 and not sharded}
    parts["zigzag"] = zigzag
    if flow is not None and axes.pp > 1:
        from .pipeline import Pipelined, joined

        return Pipelined(**parts, model=joined(models), flow=flow, bf16=bf16)
    (model,) = models
    parts["model"] = replicated(model) if whole else model
    return Spread(**parts) if in_parts else Spread(**parts, logits=huggingface.logits)


def replicated(model: nn.Module) -> nn.Module:
    """Copies that average their gradients: buckets are views of them, so that a step holds one copy."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def mesh_of(axes: Axes, device: torch.device) -> DeviceMesh:
    """The axes that are more than 1, and the one that shards in any case: over the parts of sequences too."""
    sizes = dict(zip(AXES, axes.sizes, strict=True))
    sizes["dp_shard"] *= sizes.pop("cp")
    kept = {name: size for name, size in sizes.items() if size > 1 or name == "dp_shard"}
    return init_device_mesh(device.type, tuple(kept.values()), mesh_dim_names=tuple(kept))


def home_of(device: torch.device, *, offloaded: bool) -> torch.device:
    """Where parameters lie while nothing computes with them."""
    return torch.device("cpu") if offloaded else device


def shard(
    model: nn.Module,
    layers: Iterable[nn.Module],
    mesh: DeviceMesh,
    axes: Axes,
    *,
    bf16: bool,
    cast_inputs: bool,
    offloaded: bool = False,
) -> None:
    """Shards `model` over the ranks of `mesh` that train on other tokens; each of `layers` is gathered on its own.

    In bf16 `cast_inputs` brings what each layer is given to it: the built-in model's rotary positions stay in fp32.
    `offloaded` shards, their gradients and so their moments lie in pinned memory of the host.
    """
    policy = MixedPrecisionPolicy()
    if bf16:
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=cast_inputs
        )
    # A stage's backward pass keeps what it has gathered until the step ends: dropping it before would gain nothing.
    reading: Any = ("dp_replicate", "dp_shard") if axes.dp_replicate > 1 else "dp_shard"
    options: dict[str, Any] = {"mesh": mesh[reading], "mp_policy": policy, "reshard_after_forward": axes.pp == 1}
    options["offload_policy"] = CPUOffloadPolicy() if offloaded else OffloadPolicy()
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)


def _copy_whole(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)


def _copy_part(parameter: nn.Parameter, value: Tensor) -> None:
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    # Every rank drew the same whole tensor: each keeps its own part, and nothing is sent.
    part = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(part.to_local())


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW over named parameters; matrices decay, norms do not. On a GPU it is one kernel."""
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for _, parameter in named if _is_matrix(parameter)], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if not _is_matrix(parameter)], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type == "cuda" for _, parameter in named)
    given = [group for group in groups if group["params"]]
    return torch.optim.AdamW(given, lr=lr, betas=betas, eps=eps, fused=fused)


def _is_matrix(parameter: nn.Parameter) -> bool:
    # What DeepSpeed has taken apart is flat, and knows what it was.
    return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
