"""What a configuration of Accelerate may say: looked at by the driver before there are workers, and by each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eagleray import _core

from .plan import Script

# Where processes lie and how they meet is the cluster's: these keys have no say.
_PLACEMENT = {
    "num_processes", "num_machines", "machine_rank", "gpu_ids", "main_process_ip", "main_process_port",
    "rdzv_backend", "same_network", "main_training_function",
}  # fmt: skip
_HONOURED = {
    "compute_environment", "distributed_type", "mixed_precision", "use_cpu", "debug", "dynamo_config",
    "enable_cpu_affinity",
}  # fmt: skip
_DISTRIBUTED = {"NO", "MULTI_CPU", "MULTI_GPU", "FSDP"}
_ON_GPUS = {"MULTI_GPU", "FSDP"}
_PRECISIONS = {"no", "bf16", "fp16"}
_OFF: tuple[Any, ...] = (None, False, "", "no", "NO", [], {})


def require_config(script: Script, *, gpus: bool) -> None:
    """Refuses, before any worker starts, a configuration that they could not have; `gpus` says what they will be on."""
    text = None if script.launcher != "accelerate" else script.config_text()
    if text is None or script.accelerate_config is None:
        return
    path = script.accelerate_config
    config = json.loads(_core.yaml_values(path, text))
    if not isinstance(config, dict):
        raise _core.InvalidError(f"`train.script.accelerate_config: {path}`: expected keys and their values")
    refuse_config(path, config, gpus=gpus)


def refuse_config(path: str, config: Mapping[str, Any], *, gpus: bool) -> None:
    """Refuses what this build or this device cannot do, every key by its name."""
    kind, precision = str(config.get("distributed_type", "NO")), str(config.get("mixed_precision") or "no")
    known = _HONOURED | _PLACEMENT | ({"fsdp_config"} if kind == "FSDP" else set())
    refused = [f"`{key}: {value}`" for key, value in config.items() if key not in known and value not in _OFF]
    if config.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        refused.append(f"`compute_environment: {config['compute_environment']}`")
    if kind not in _DISTRIBUTED or (kind in _ON_GPUS and not gpus):
        refused.append(f"`distributed_type: {kind}`" + (" without GPUs" if kind in _ON_GPUS and not gpus else ""))
    if precision not in _PRECISIONS or (precision == "fp16" and not gpus):
        refused.append(f"`mixed_precision: {precision}`" + ("" if gpus else " without GPUs"))
    if refused:
        raise _core.InvalidError(f"`train.script.accelerate_config: {path}`: not available here: {', '.join(refused)}")
