"""The shape of a model; without torch, so that those who only pass it on need not wait for its import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
