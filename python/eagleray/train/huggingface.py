"""Causal language models of Transformers, from a folder with their config and perhaps their weights.

A model is made with its parameters on `meta`, sharded, and only then given memory: each rank holds its own part and
reads that part alone from the weights. Parameters keep the names that Transformers gives them. With `model.lora` all of
them are frozen, and adapters stand beside some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from .parts import local, part_of

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Rows that are read at once where some of their columns are kept.
_AT_ONCE_BYTES = 64 << 20
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
    return dict((base.layers if hasattr(base, "layers") else base.h).named_children())


def logits(model: nn.Module, tensors: Tensors) -> Tensor:
    """Logits [batch, sequence, vocabulary]. Where positions restart a document begins, which sees none before it."""
    out: Tensor = model(input_ids=tensors.tokens, position_ids=tensors.position_ids, use_cache=False).logits
    return out


def start(
    model: nn.Module,
    config: HuggingfaceConfig,
    seed: int,
    device: torch.device,
    *,
    home: torch.device | None = None,
    elsewhere: Iterable[str] = (),
) -> None:
    """Gives every parameter memory on `home`, and its value: that of the folder's weights, else one drawn by name.

    `home` is `device`, where buffers lie, unless it is given. Adapters are always drawn by name. `elsewhere` are
    parameters of the whole model that other stages may have.
    """
    _materialise(model, device, home or device)
    values = _Values(model, config, seed)
    for module in model.modules():
        if isinstance(module, SampleDropout):
            module.seed = seed
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values.read(name, parameter.shape, part_of(parameter), local(parameter))
    values.require_taken(model, elsewhere)


def names_of(model: nn.Module) -> list[str]:
    """The names of all parameters; of a shared one, all its names."""
    return [name for names in _by_parameter(model) for name in names]


def filler(model: nn.Module, config: HuggingfaceConfig, seed: int) -> Callable[[str, torch.Size, int, Tensor], None]:
    """Gives values of a parameter, from one of them on in row-major order, into a flat tensor."""
    values = _Values(model, config, seed)
    values.require_taken(model)

    def fill(name: str, shape: torch.Size, start: int, into: Tensor) -> None:
        row = math.prod(shape[1:])
        rows = range(start // row, -(-(start + into.numel()) // row))
        found = torch.empty((len(rows), *shape[1:]))
        values.read(name, shape, (rows,), found)
        begin = start - rows.start * row
        into.copy_(found.flatten()[begin : begin + into.numel()])

    return fill


class _Values:
    """The starting values of a model's parameters, read in parts."""

    def __init__(self, model: nn.Module, config: HuggingfaceConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._weights = Weights(config, str(model.base_model_prefix)) if config.files else None

    def read(self, name: str, shape: torch.Size, part: Sequence[range], into: Tensor) -> None:
        """Copies `part` of the parameter `name`, which has `shape`, into `into`: a range of each of the first dims."""
        if self._weights is not None and not lora.is_adapter(name):
            self._weights.read(lora.base_name(name), shape, part, into)
            return
        if lora.is_adapter(name):
            whole = lora.initial_value(name, shape, self._seed)
        else:
            whole = initial_value(self._config, name, shape, self._seed)
        into.copy_(whole[tuple(slice(each.start, each.stop) for each in part)])

    def require_taken(self, model: nn.Module, elsewhere: Iterable[str] = ()) -> None:
        """Refuses a folder with weights that neither the model nor another stage has a place for."""
        if self._weights is not None:
            self._weights.require_taken({lora.base_name(name) for name in (*names_of(model), *elsewhere)})


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
    """Tensors of a folder's safetensors files, read by rows: only rows that are asked for leave the store."""

    def __init__(self, config: HuggingfaceConfig, base: str) -> None:
        self._store, self._folder, self._base = _core.Store(config.path), config.path, base
        self._found: dict[str, tuple[str, torch.dtype, list[int], int]] = {}
        self._taken: set[str] = set()
        for file in config.files:
            self._read_header(file)

    def read(self, name: str, shape: torch.Size, part: Sequence[range], into: Tensor) -> None:
        """Copies `part` of the tensor `name`, which must have `shape`, into `into`: a range of each of the first dims.

        Of columns whole rows are read, some at a time, and what is asked for is kept.
        """
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
        rows, others = part[0], tuple(slice(each.start, each.stop) for each in part[1:])
        if not into.numel():
            return
        row = math.prod(shape[1:]) * dtype.itemsize
        cut = any(len(each) < size for each, size in zip(part[1:], shape[1:], strict=False))
        at_once = max(_AT_ONCE_BYTES // row, 1) if cut else len(rows)
        for first in range(rows.start, rows.stop, at_once):
            count = min(at_once, rows.stop - first)
            data = bytearray(self._store.get_range(file, offset + first * row, count * row))
            found_rows = torch.frombuffer(data, dtype=dtype).view(count, *shape[1:])
            into[first - rows.start :][:count].copy_(found_rows[(slice(None), *others)])

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
