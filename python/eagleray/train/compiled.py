"""`train.compile`: each layer's forward pass, and with it the backward pass, as kernels that `torch.compile` makes.

Layers of one shape share what is made for the first of them, so that making it takes as long for eighty layers as for
two. It takes place in the first step, and again where a micro batch of another size, or validation, comes first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eagleray import _core

_COMPILERS = ("g++", "clang++", "c++")


def compile_layers(layers: Mapping[str, nn.Module] | nn.ModuleDict, device: torch.device, *, whole: bool) -> None:
    """Has the forward pass of each layer be compiled when it first runs; `whole` refuses what would run in pieces."""
    require_compiler(device)
    for layer in layers.values():
        # The forward, not the module: names of parameters and hooks of shards stay as they are.
        forward: Any = torch.compile(layer.forward, fullgraph=whole)
        layer.forward = forward


def require_compiler(device: torch.device) -> None:
    """Refuses a machine that has not what torch's compiler needs there, before a step is taken."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise _core.InvalidError(
                "`train.compile` needs Triton and a GPU that it knows: `pip install triton`, or remove `compile`"
            )
        _require(os.environ.get("CC"), ("gcc", "clang", "cc"), "a C compiler, which Triton calls")
    else:
        _require(os.environ.get("CXX"), _COMPILERS, "a C++ compiler")


def _require(named: str | None, known: tuple[str, ...], what: str) -> None:
    wanted = (named,) if named else known
    if not any(shutil.which(name) for name in wanted):
        raise _core.InvalidError(
            f"`train.compile` needs {what} where the workers run, and `PATH` has none of {', '.join(wanted)}; "
            "install `g++`, or remove `compile`"
        )
