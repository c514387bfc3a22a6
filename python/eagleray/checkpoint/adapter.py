"""The adapters of a save as peft keeps them: `adapter_config.json` beside `adapter_model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from eagleray import _core

from .partial import ModelTensors
from .whole import adapted


def adapter_tensors(store_url: str, directory: str, model: Mapping[str, Any]) -> dict[str, Tensor]:
    """The adapters under peft's names. Raises `InvalidError` where `model` of the resolved spec has none."""
    if model.get("lora") is None:
        raise _core.InvalidError("the run has no `model.lora`, so there is no adapter: export the model, without it")
    saved = ModelTensors(store_url, directory)
    read = saved.read(list(saved.shapes))
    return {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in read.items()}


def write_adapter_config(folder: Path, names: list[str], model: Mapping[str, Any]) -> None:
    """What peft must know to lay the adapters over the base."""
    from eagleray.train.lora import peft_config

    config, lora = adapted(model)
    layers = {name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in names}
    # As other programs expect them: by the last part, which says the same where all layers of a name have adapters.
    targets = lora.targets or {layer.rsplit(".", 1)[-1] for layer in layers}
    said = peft_config(config, lora, targets)
    said.inference_mode = True
    said.save_pretrained(str(folder))
