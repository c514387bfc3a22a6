"""What a token costs in floating point operations, and what accelerators can do: the two halves of MFU.

docs/metrics.md has the formula, what it counts and where each figure comes from. Without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .model_config import AnyModel, HuggingfaceConfig

# Dense bf16 FLOP/s as published, by the name that the driver gives the device; read in November 2026. A device that
# is not here has no peak: variants of one chip differ (an H100 on PCIe has three quarters of one on SXM).
PEAK_BF16_FLOPS: Mapping[str, float] = {
    "NVIDIA A10G": 70e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362.05e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


@cache
def flops_per_token(config: AnyModel, sequence_length: int) -> int:
    """Forward and backward pass: 6N + 12·L·a·s, where a is the width of all heads, h in the built-in model.

    N are the weights that a token is multiplied by: matrices of the layers and the output, not the look-up of the
    embedding, nor norms. Attention counts in full, as if it were not causal; what is computed again does not count.
    """
    if isinstance(config, HuggingfaceConfig):
        # Frozen weights have no gradients of their own; what adapters cost is not counted.
        if config.lora is not None:
            return 4 * config.weights + 12 * config.attention * sequence_length
        return 6 * config.weights + 12 * config.attention * sequence_length
    hidden, keys = config.hidden_size, config.num_kv_heads * config.head_dim
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * config.intermediate_size
    weights = config.num_layers * layer + config.vocab_size * hidden
    return 6 * weights + 12 * config.num_layers * hidden * sequence_length


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s of one device in the run's precision, where it is known: bf16 on a device of the table."""
    return PEAK_BF16_FLOPS.get(device_name) if precision == "bf16" else None


def tokens_per_second(event: Mapping[str, Any]) -> float | None:
    """Tokens of a step over the time it took, from rank 0's event; None where it has none."""
    seconds = float(event["end"]) - float(event["start"])
    return float(event["tokens"]) / seconds if event.get("tokens") and seconds > 0.0 else None


def mfu(tokens_per_second: float | None, said: Mapping[str, Any]) -> float | None:
    """tokens/s × FLOPs per token ÷ (world × peak FLOP/s), by what rank 0 says of a step; None where it is unknown."""
    cost, peak = said.get("flops_per_token"), said.get("peak_flops")
    if tokens_per_second is None or not cost or not peak:
        return None
    return tokens_per_second * float(cost) / (int(said["world"]) * float(peak))
