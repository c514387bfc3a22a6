"""Causal language models of Transformers, from a folder with their config and perhaps their weights.

A model is made with its parameters on `meta`, sharded, and only then given memory: each rank holds its own part and
reads that part alone from the weights. Parameters keep the names that Transformers gives them. With `model.lora` all of
them are frozen, and adapters stand beside some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eagleray import _core

from . import lora
from .context import Tensors
from .dropout import SampleDropout
from .model import drawn
from .model_config import HuggingfaceConfig
from .parts import local, rows_of

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Buffers that older versions of Transformers saved; they follow from the config.
_FOLLOWING = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def on_meta(config: HuggingfaceConfig) -> nn.Module:
    """The model in fp32: parameters without memory, buffers as they will be."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise _core.InvalidError(
            "`model.huggingface` needs Transformers where the workers run: `pip install 'eagleray[huggingface]'`"
        ) from error
    said = {key: value for key, value in config.config.items() if key not in ("model_type", "dtype", "torch_dtype")}
    shape = AutoConfig.for_model(config.family, **said)
    maker: Any = AutoModelForCausalLM
    with _parameters_on_meta():
        model: nn.Module = maker.from_config(shape, attn_implementation="sdpa", dtype=torch.float32)
    if config.lora is not None:
        lora.inject(model, config, config.lora)
    return model


def layers(model: nn.Module) -> Mapping[str, nn.Module]:
    """The layers by their place."""
    base: Any = getattr(model, str(model.base_model_prefix))
    return {str(index): layer for index, layer in enumerate(base.layers if hasattr(base, "layers") else base.h)}


def logits(model: nn.Module, tensors: Tensors) -> Tensor:
    """Logits [batch, sequence, vocabulary]. Where positions restart a document begins, which sees none before it."""
    out: Tensor = model(input_ids=tensors.tokens, position_ids=tensors.position_ids, use_cache=False).logits
    return out


def start(
    model: nn.Module, config: HuggingfaceConfig, seed: int, device: torch.device, home: torch.device | None = None
) -> None:
    """Gives every parameter memory on `home`, and its value: that of the folder's weights, else one drawn by name.

    `home` is `device`, where buffers lie, unless it is given. Adapters are always drawn by name.
    """
    _materialise(model, device, home or device)
    values = _Values(model, config, seed)
    for module in model.modules():
        if isinstance(module, SampleDropout):
            module.seed = seed
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values.read(name, parameter.shape, rows_of(parameter), local(parameter))
    values.require_taken(model)


def filler(model: nn.Module, config: HuggingfaceConfig, seed: int) -> Callable[[str, torch.Size, int, Tensor], None]:
    """Gives values of a parameter, from one of them on in row-major order, into a flat tensor."""
    values = _Values(model, config, seed)
    values.require_taken(model)

    def fill(name: str, shape: torch.Size, start: int, into: Tensor) -> None:
        row = math.prod(shape[1:])
        rows = range(start // row, -(-(start + into.numel()) // row))
        found = torch.empty((len(rows), *shape[1:]))
        values.read(name, shape, rows, found)
        begin = start - rows.start * row
        into.copy_(found.flatten()[begin : begin + into.numel()])

    return fill


class _Values:
    """The starting values of a model's parameters, read by rows."""

    def __init__(self, model: nn.Module, config: HuggingfaceConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._weights = Weights(config, str(model.base_model_prefix)) if config.files else None

    def read(self, name: str, shape: torch.Size, rows: range, into: Tensor) -> None:
        """Copies `rows` of the parameter `name`, which has `shape`, into `into`."""
        if lora.is_adapter(name):
            into.copy_(lora.initial_value(name, shape, self._seed)[rows.start : rows.stop])
        elif self._weights is not None:
            self._weights.read(lora.base_name(name), shape, rows, into)
        else:
            into.copy_(initial_value(self._config, name, shape, self._seed)[rows.start : rows.stop])

    def require_taken(self, model: nn.Module) -> None:
        """Refuses a folder with weights that the model has no place for."""
        if self._weights is not None:
            self._weights.require_taken({lora.base_name(name) for names in _by_parameter(model) for name in names})


def initial_value(config: HuggingfaceConfig, name: str, shape: torch.Size, seed: int) -> Tensor:
    """The starting value of the parameter `name` without weights: a function of seed and name alone, on the CPU."""
    if len(shape) == 1:
        # Gemma's norms multiply by one plus their weight.
        unit = not name.endswith("bias") and not config.family.startswith("gemma")
        return torch.ones(shape) if unit else torch.zeros(shape)
    std = float(config.config.get("initializer_range", 0.02))
    if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight")):
        std /= math.sqrt(2 * config.num_layers)
    return drawn(name, shape, seed, std)


class Weights:
    """Tensors of a folder's safetensors files, read by rows: only what is asked for leaves the store."""

    def __init__(self, config: HuggingfaceConfig, base: str) -> None:
        self._store, self._folder, self._base = _core.Store(config.path), config.path, base
        self._found: dict[str, tuple[str, torch.dtype, list[int], int]] = {}
        self._taken: set[str] = set()
        for file in config.files:
            self._read_header(file)

    def read(self, name: str, shape: torch.Size, rows: range, into: Tensor) -> None:
        """Copies `rows` of the tensor `name`, which must have `shape`, into `into`."""
        # Some folders hold the base model, without the head and without its prefix.
        bare = name.removeprefix(f"{self._base}.")
        known = name if name in self._found else bare
        if known not in self._found:
            raise _core.InvalidError(f"`{self._folder}` has no weights for `{name}`: they are of another model")
        self._taken.add(known)
        file, dtype, found, offset = self._found[known]
        if found != list(shape):
            raise _core.InvalidError(
                f"`{name}` has the shape {found} in `{self._folder}/{file}` and {list(shape)} by its config.json"
            )
        if not rows:
            return
        row = math.prod(shape[1:]) * dtype.itemsize
        data = bytearray(self._store.get_range(file, offset + rows.start * row, len(rows) * row))
        into.copy_(torch.frombuffer(data, dtype=dtype).view(into.shape))

    def require_taken(self, names: set[str]) -> None:
        """Refuses weights that the model has no place for; `names` are those that it has under any name."""
        bare = {name.removeprefix(f"{self._base}.") for name in names}
        left = [
            name for name in self._found if name not in self._taken | names | bare and not name.endswith(_FOLLOWING)
        ]
        if left:
            raise _core.InvalidError(
                f"`{self._folder}` has weights that its config.json has no place for: {', '.join(sorted(left)[:3])}"
                + (f" and {len(left) - 3} more" if len(left) > 3 else "")
            )

    def _read_header(self, file: str) -> None:
        size = self._store.head(file)
        if size is None:
            raise _core.NotFoundError(f"`{self._folder}/{file}` is not there, and the folder's index names it")
        length = int.from_bytes(self._store.get_range(file, 0, 8), "little") if size >= 8 else size
        if 8 + length > size:
            raise _core.InvalidError(f"`{self._folder}/{file}` is not a safetensors file, or not whole")
        try:
            header = json.loads(self._store.get_range(file, 8, length))
        except ValueError as error:
            raise _core.InvalidError(f"`{self._folder}/{file}` is not a safetensors file: {error}") from error
        data = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if 8 + length + data > size:
            raise _core.InvalidError(
                f"`{self._folder}/{file}` is not whole: it has {size} bytes of {8 + length + data}"
            )
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in _DTYPES:
                raise _core.InvalidError(
                    f"`{name}` in `{self._folder}/{file}` is {entry['dtype']}; {', '.join(_DTYPES)} are read"
                )
            self._found[name] = (file, _DTYPES[entry["dtype"]], entry["shape"], 8 + length + entry["data_offsets"][0])


def _by_parameter(model: nn.Module) -> list[list[str]]:
    """The names of each parameter; of a shared one, several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _materialise(model: nn.Module, device: torch.device, home: torch.device) -> None:
    """Memory for every parameter on `home`, buffers as they are on `device`; what was shared stays shared."""
    shared = _by_parameter(model)
    model._apply(lambda tensor: torch.empty_like(tensor, device=home) if tensor.is_meta else tensor.to(device))
    for first, *others in shared:
        for other in others:
            owner, _, attribute = other.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_parameter(first))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Has every parameter that is made inside be made without memory; `torch.device` would take the buffers too."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
