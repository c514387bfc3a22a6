"""Activation checkpointing: what of a layer's forward pass is kept, and what is computed again when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def recompute(layers: Mapping[str, nn.Module] | nn.ModuleDict, kind: str) -> None:
    """Has each layer keep `none`: all of it, `selective`: attention and every second product, `full`: its input."""
    if kind == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = _every_second_product
    for layer in layers.values():
        # The forward, not the module: names of parameters and hooks of shards stay as they are.
        layer.forward = partial(checkpoint, layer.forward, **options)


def _every_second_product() -> Any:
    """Queries, values, gate and the way down are kept, in the order of execution, as torchtitan does."""
    return create_selective_checkpoint_contexts(_policy())


def _policy() -> Callable[..., CheckpointPolicy]:
    seen = {"forward": 0, "again": 0}

    def policy(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operation in ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        if operation == torch.ops.aten.mm.default:
            # Counted apart: the second time must come to the same decisions as the first.
            run = "again" if context.is_recompute else "forward"
            seen[run] += 1
            if seen[run] % 2 == 1:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return policy
