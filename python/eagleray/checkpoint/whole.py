"""Whole tensors of a run's model, under the names that Transformers has for them: of one save, or the mean of several.

Adapters are merged into the base, which is read from its own folder and must be the one they were trained beside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from eagleray import _core

from .partial import ModelTensors

# As much of a mean is under way at a time, in fp64.
MEAN_BYTES = 512 * 10**6
_LLAMA_NAMES = (
    ("embedding.", "model.embed_tokens."),
    ("layers.", "model.layers."),
    (".attention.", ".self_attn."),
    (".attention_norm.", ".input_layernorm."),
    (".mlp_norm.", ".post_attention_layernorm."),
    ("head.", "lm_head."),
)

Shapes = Mapping[str, Sequence[int]]


class Whole(Protocol):
    """Parameters by name, each read whole."""

    shapes: Shapes

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Whole tensors of these parameters on the CPU."""

    def require_read(self) -> None:
        """Called when all has been read once: refuses what only the whole can tell of."""


def whole_model(store_url: str, directories: Sequence[str], model: Mapping[str, Any]) -> Whole:
    """The model of a run, as the saves in `directories` have it; `model` is that of the resolved spec."""
    saves = [ModelTensors(store_url, directory) for directory in directories]
    if model["kind"] == "llama":
        return Saved(saves=saves, names={_llama_name(name): name for name in saves[0].shapes})
    if model.get("lora") is None:
        return Saved(saves=saves, names={name: name for name in saves[0].shapes})
    return Merged(saves, [frozen_in(store_url, directory) for directory in directories], model)


@dataclass(kw_only=True)
class Saved:
    """All parameters lie in the saves."""

    saves: Sequence[ModelTensors]
    # What the saves call each.
    names: Mapping[str, str]
    shapes: Shapes = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = {name: self.saves[0].shapes[saved] for name, saved in self.names.items()}

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """As `Whole`."""
        found = mean(self.saves, [self.names[name] for name in names])
        return {name: found[self.names[name]] for name in names}

    def require_read(self) -> None:
        """As `Whole`."""


class Merged:
    """A base, with what its adapters add."""

    def __init__(self, saves: Sequence[ModelTensors], frozen: Sequence[str | None], model: Mapping[str, Any]) -> None:
        from eagleray.train import huggingface, lora
        from eagleray.train.model_config import HuggingfaceConfig

        self._config, self._lora = adapted(model)
        self._saves, self._frozen, self._adapters = saves, frozen, lora
        self._sum = 0
        said = HuggingfaceConfig.read(model["path"])
        base = huggingface.on_meta(said)
        self.shapes: Shapes = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
        self._weights = huggingface.Weights(said, str(base.base_model_prefix))
        places = {name.removesuffix(".weight") for name in self.shapes}
        lost = [name for name in saves[0].shapes if name.rsplit(".lora_", 1)[0] not in places]
        if lost:
            raise _core.InvalidError(f"the base in `{model['path']}` has no place for the adapter `{lost[0]}`")

    def read(self, names: Sequence[str]) -> dict[str, Tensor]:
        """As `Whole`."""
        found: dict[str, Tensor] = {}
        for name in names:
            shape = torch.Size(self.shapes[name])
            found[name] = torch.empty(shape)
            self._weights.read(name, shape, [range(size) for size in shape], found[name])
            self._sum += self._adapters.bits(name, found[name])
        module = [name.removesuffix(".weight") for name in names]
        both = (self._adapters.FIRST, self._adapters.SECOND)
        wanted = [place + factor for place in module for factor in both if place + factor in self._saves[0].shapes]
        read = [save.read(wanted) if wanted else {} for save in self._saves]
        for name in names:
            if name.removesuffix(".weight") + both[0] in wanted:
                # A product of means is not the mean of products.
                added = [self._adapters.delta(adapters, name, self._config, self._lora).double() for adapters in read]
                found[name] += (torch.stack(added).mean(dim=0)).float()
        return found

    def require_read(self) -> None:
        """As `Whole`."""
        digest = self._adapters.shown(self._sum)
        for frozen in self._frozen:
            if frozen != digest:
                raise _core.InvalidError(
                    f"the weights in `{self._config.path}` are not those that the adapters were trained beside: "
                    f"expected the digest {frozen}, found {digest}; put them back"
                )


def adapted(model: Mapping[str, Any]) -> tuple[Any, Any]:
    """The folder's model, and the adapters of a resolved `model.lora`."""
    from eagleray.train.model_config import HuggingfaceConfig, with_adapters

    config = with_adapters(HuggingfaceConfig.read(model["path"]), model)
    return config, config.lora


def frozen_in(store_url: str, directory: str) -> str | None:
    """The digest of what was frozen when a save was made."""
    commit = json.loads(_core.read_commit(store_url, directory))
    found: str | None = ((commit.get("metadata") or {}).get("values") or {}).get("frozen")
    return found


def mean(saves: Sequence[ModelTensors], names: Sequence[str]) -> dict[str, Tensor]:
    """The mean of these tensors over saves of one model, summed in fp64; that of one save is what it holds."""
    if len(saves) == 1:
        return saves[0].read(names)
    for save in saves[1:]:
        if save.shapes != saves[0].shapes:
            raise _core.InvalidError("the checkpoints are of different models: their tensors differ in names or shapes")
    found: dict[str, Tensor] = {}
    for group in groups({name: saves[0].shapes[name] for name in names}, 8, MEAN_BYTES):
        sums = {name: torch.zeros(*saves[0].shapes[name], dtype=torch.float64) for name in group}
        dtypes: dict[str, torch.dtype] = {}
        for save in saves:
            for name, tensor in save.read(group).items():
                sums[name] += tensor
                dtypes[name] = tensor.dtype
        found |= {name: (total / len(saves)).to(dtypes[name]) for name, total in sums.items()}
    return found


def groups(shapes: Shapes, width: int, size_max: int) -> Iterator[list[str]]:
    """Names whose tensors fit into `size_max` bytes together, in order; a larger tensor has a group of its own."""
    group: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * width
        if group and held + size > size_max:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def _llama_name(name: str) -> str:
    """The name that Transformers' Llama gives a parameter of the built-in model."""
    if name.startswith("norm."):
        return f"model.{name}"
    for ours, theirs in _LLAMA_NAMES:
        if name.startswith(ours) or (ours.startswith(".") and ours in name):
            name = name.replace(ours, theirs, 1)
    return name
