"""How the model is spread over the world: `ddp` (replicated) and `fsdp2` (sharded), behind one small interface.

The loop never asks which strategy runs. Both average gradients over the world, so the loop scales each
loss by `world / tokens of the global batch` and gets the same gradient from either, for any world.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from eagleray import _core

from .model import Llama, initialise
from .model_config import ModelConfig

AVAILABLE = ("ddp", "fsdp2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A model on its devices, with what differs between strategies."""

    kind: str
    model: nn.Module
    mesh: DeviceMesh
    device: torch.device
    autocast: bool

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass (bf16 autocast for ddp; fsdp2 casts its own parameters)."""
        if self.autocast:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """The context of one micro batch: replicas' gradients meet on the last one of a step only.

        Shards' meet on each: kept back, every rank would hold the whole gradient in fp32, which is what sharding
        is there to avoid.
        """
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def parameters(self) -> list[nn.Parameter]:
        """Trained parameters; shards of them under fsdp2."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def clip(self, max_norm: float | None) -> float:
        """Clips gradients in place by their global norm, which it returns (before clipping)."""
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if max_norm is not None:
            clip_grads_with_norm_(parameters, max_norm, norm)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return float(whole.item())


def spread(kind: str, config: ModelConfig, *, seed: int, precision: str, device: torch.device) -> Spread:
    """Builds the model, starts it from `seed` and spreads it over the default process group."""
    if kind not in AVAILABLE:
        available = ", ".join(AVAILABLE)
        raise _core.InvalidError(f"`train.strategy: {kind}` is not available in this build; available: {available}")
    world = torch.distributed.get_world_size()
    bf16 = precision == "bf16"
    if kind == "ddp":
        mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("dp_replicate",))
        model = Llama(config)
        initialise(model, seed, _copy_whole)
        model.to(device)
        # Buckets are views of the gradients, so a step holds one copy of them; the graph never changes.
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return Spread(kind=kind, model=wrapped, mesh=mesh, device=device, autocast=bf16)
    mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("dp_shard",))
    with torch.device("meta"):
        model = Llama(config)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    _shard(model, mesh, policy or MixedPrecisionPolicy())
    model.to_empty(device=device)
    model.tie()
    initialise(model, seed, _copy_shard)
    return Spread(kind=kind, model=model, mesh=mesh, device=device, autocast=False)


def _shard(model: Llama, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _copy_whole(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.copy_(value)


def _copy_shard(parameter: nn.Parameter, value: Tensor) -> None:
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
    """AdamW over named parameters; matrices decay, norms do not."""
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for _, parameter in named if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps)
