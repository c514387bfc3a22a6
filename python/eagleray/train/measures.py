"""What rank 0 says of itself with each step: figures at hand, without a collective or a wait for the device."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .flops import flops_per_token, peak_flops
from .plan import Plan

_STATM = Path("/proc/self/statm")


def measures(plan: Plan, device: torch.device) -> dict[str, Any]:
    """`memory_bytes`, and what MFU is made of: `flops_per_token`, `peak_flops`; each only where it is known."""
    found: dict[str, Any] = {"memory_bytes": memory_bytes(device)}
    if plan.model is not None:
        found["flops_per_token"] = flops_per_token(plan.model, plan.sequence_length)
        found["peak_flops"] = _peak(device, plan.precision)
    return {name: value for name, value in found.items() if value is not None}


def memory_bytes(device: torch.device) -> int | None:
    """The most that tensors have taken on a GPU so far; on a CPU what the process has resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "cpu":
        with suppress(OSError):
            return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


@cache
def _peak(device: torch.device, precision: str) -> float | None:
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
