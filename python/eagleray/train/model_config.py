"""The shape of a model; without torch, so that those who only pass it on need not wait for its import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eagleray import _core


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a model, as the resolved spec gives it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False

    @classmethod
    def from_resolved(cls, config: Mapping[str, Any], vocab_size: int) -> ModelConfig:
        """The config of `model.config`; `vocab_size` fills in what the spec left to the tokenizer."""
        names = cls.__dataclass_fields__.keys()
        given = {name: config[name] for name in names if config.get(name) is not None}
        return cls(**({"vocab_size": vocab_size} | given))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Adapters of low rank, on the layers of these names; on all linear ones but the head where there are none."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0

    @classmethod
    def from_resolved(cls, lora: Mapping[str, Any]) -> Lora:
        """The adapters of `model.lora`."""
        targets = () if lora["targets"] == "all-linear" else tuple(lora["targets"])
        alpha, dropout = float(lora["alpha"]), float(lora["dropout"])
        return cls(rank=lora["rank"], alpha=alpha, targets=targets, dropout=dropout)


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingfaceConfig:
    """A model of a Hugging Face folder, as the crate `run` reads it."""

    path: str
    family: str
    vocab_size: int
    max_positions: int | None
    weights: int
    attention: int
    files: tuple[str, ...]
    config: Mapping[str, Any] = field(hash=False)
    lora: Lora | None = None

    @classmethod
    def read(cls, path: str) -> HuggingfaceConfig:
        """The model in the folder `path`.

        Raises what the folder is refused with: its family, what it lacks, dropout.
        """
        said = json.loads(_core.read_huggingface(path))
        return cls(**said | {"path": path, "files": tuple(said["files"])})

    @property
    def num_layers(self) -> int:
        """How many layers it has."""
        return int(self.config.get("num_hidden_layers") or self.config["n_layer"])

    @property
    def transposed(self) -> bool:
        """Whether its linear layers keep their weights as inputs × outputs."""
        return self.family == "gpt2"


AnyModel = ModelConfig | HuggingfaceConfig


def with_model(resolved: dict[str, Any]) -> dict[str, Any]:
    """The resolved run with the config of its Hugging Face folder, if it names one: what a resume is compared by."""
    model = resolved["spec"]["model"]
    if model is None or model["kind"] != "huggingface":
        return resolved
    config = json.dumps(HuggingfaceConfig.read(model["path"]).config)
    renewed: dict[str, Any] = json.loads(_core.with_model_config(json.dumps(resolved), config))
    return renewed


def model_from(resolved: Mapping[str, Any], vocab_size: int) -> AnyModel:
    """The model of a resolved run; `vocab_size` fills in what the spec left to the tokenizer."""
    model = resolved["spec"]["model"]
    if model["kind"] != "huggingface":
        return ModelConfig.from_resolved(model["config"], vocab_size)
    found = HuggingfaceConfig.read(model["path"])
    length = resolved["spec"]["data"]["sequence_length"]
    if found.max_positions is not None and length > found.max_positions:
        raise _core.InvalidError(
            f"`data.sequence_length` is {length}, and the model in `{found.path}` has {found.max_positions} positions"
        )
    return with_adapters(found, model)


def with_adapters(found: HuggingfaceConfig, model: Mapping[str, Any]) -> HuggingfaceConfig:
    """The model of a folder with the adapters of a resolved `model`, if it has some."""
    if model.get("lora") is None:
        return found
    if not found.files:
        raise _core.InvalidError(
            f"`model.lora` trains adapters beside weights, and `{found.path}` has none: put safetensors there, or "
            "train the model itself, without `lora`"
        )
    return replace(found, lora=Lora.from_resolved(model["lora"]))
