"""Adapters of low rank beside a model's frozen weights: peft's own layers, injected before anything has memory.

A layer that has adapters becomes `base_layer` beside `lora_A.default` and `lora_B.default`. Checkpoints hold the
adapters alone, under those names, and a digest of what is frozen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eagleray import _core

from .dropout import SampleDropout
from .model import drawn
from .model_config import HuggingfaceConfig, Lora
from .parts import local, rows_of, speaks_for

FIRST, SECOND = ".lora_A.default.weight", ".lora_B.default.weight"
_BASE = ".base_layer."
# Sums are taken modulo this: of as many ranks as there may be they stay within 64 bits.
_DIGEST_BITS = 48
_CHUNK = 1 << 22


def inject(model: nn.Module, config: HuggingfaceConfig, lora: Lora) -> None:
    """Puts adapters without memory beside the targets, and freezes everything else."""
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise _core.InvalidError(
            "`model.lora` needs peft where the workers run: `pip install 'eagleray[huggingface]'`"
        ) from error
    targets = targets_in(model, config, lora)
    # Whole names, so that peft decides nothing.
    inject_adapter_in_model(peft_config(config, lora, targets), model, low_cpu_mem_usage=True)
    if lora.dropout > 0.0:
        for name, module in model.named_modules():
            if isinstance(dropout := getattr(module, "lora_dropout", None), nn.ModuleDict):
                dropout["default"] = SampleDropout(lora.dropout, name)


def peft_config(config: HuggingfaceConfig, lora: Lora, targets: Iterable[str]) -> Any:
    """The adapters as peft describes them."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        # Other programs read a whole number here.
        lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=sorted(targets),
        bias="none",
        task_type="CAUSAL_LM",
        fan_in_fan_out=config.transposed,
        base_model_name_or_path=config.path,
    )


def targets_in(model: Any, config: HuggingfaceConfig, lora: Lora) -> list[str]:
    """The names of the layers that get adapters; refuses a target that no layer but the head has."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    if not lora.targets:
        return linear
    found: set[str] = set()
    for target in lora.targets:
        hit = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not hit:
            there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise _core.InvalidError(
                f"`model.lora.targets`: no linear layer of the model in `{config.path}` is named `{target}`; there are "
                f"{there} (the head gets no adapter)"
            )
        found |= hit
    return sorted(found)


def is_adapter(name: str) -> bool:
    """Whether the parameter `name` is of an adapter."""
    return name.endswith((FIRST, SECOND))


def base_name(name: str) -> str:
    """What Transformers calls a parameter of the base."""
    return name.replace(_BASE, ".")


def initial_value(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The starting value of an adapter's parameter: the second factor is zero, so that training begins at the base.

    The first is as wide as peft's (a uniform distribution of that variance), and drawn by name.
    """
    if name.endswith(SECOND):
        return torch.zeros(shape)
    return drawn(name, shape, seed, 1.0 / math.sqrt(3.0 * shape[1]))


def delta(tensors: Mapping[str, Tensor], name: str, config: HuggingfaceConfig, lora: Lora) -> Tensor:
    """What the adapters `tensors` add to the weight `name` of the base."""
    module = name.removesuffix(".weight")
    product = tensors[module + SECOND] @ tensors[module + FIRST] * (lora.alpha / lora.rank)
    return product.T if config.transposed else product


def frozen_digest(model: nn.Module) -> str | None:
    """A digest of the frozen parameters, the same in every world; None where nothing is frozen."""
    frozen = [(name, parameter) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if not frozen:
        return None
    total = 0
    for name, parameter in frozen:
        if speaks_for(parameter):
            columns = math.prod(parameter.shape[1:])
            first = rows_of(parameter).start * columns
            total += bits(base_name(name.removeprefix("module.")), local(parameter.detach()), first)
    return summed(total, next(model.parameters()).device)


def summed(total: int, device: torch.device) -> str:
    """The digest of which each rank has the share `total`."""
    share = torch.tensor(total % (1 << _DIGEST_BITS), dtype=torch.int64, device=device)
    dist.all_reduce(share)
    return shown(int(share.item()))


def bits(name: str, tensor: Tensor, first: int = 0) -> int:
    """The share of a digest of a tensor in fp32, or of a part of it that begins at the element `first`."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
    flat = tensor.contiguous().view(-1)
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK].view(torch.int32).to(torch.int64)
        places = torch.arange(first + start, first + start + chunk.numel(), device=chunk.device)
        total += int((chunk * (2 * (places + key) + 1)).sum().item())
    return total


def shown(total: int) -> str:
    """The digest whose shares sum up to `total`."""
    return f"{total % (1 << _DIGEST_BITS):0{_DIGEST_BITS // 4}x}"
