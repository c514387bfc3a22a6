"""A nested state in two parts: tensors, which go to files, and plain values, which go into the commit as JSON.

What JSON has no form for is written as an object of one key that begins with `$`, so that it comes back as it was:
tuples, dictionaries with keys that are not strings, counters, numbers that are not finite.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from eagleray import _core


def split_values(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and plain values of a nested state, each in the same nesting; values in the form of the commit.

    Raises `InvalidError` for anything else, naming it.
    """
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, value in state.items():
        if _is_nest(value):
            inner_tensors, inner_values = split_values(value)
            if inner_tensors:
                tensors[name] = inner_tensors
            if inner_values:
                values[name] = inner_values
        elif hasattr(value, "data_ptr"):
            tensors[name] = value
        else:
            values[name] = _encoded(name, value)
    return tensors, values


def merge_values(state: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Puts the plain values of a commit into a nested state, in the place of those that it has."""
    for name, value in list(state.items()):
        if name not in values and not _is_nest(value) and not hasattr(value, "data_ptr"):
            del state[name]
    for name, value in values.items():
        if isinstance(value, Mapping) and not _is_tagged(value):
            inner = state.get(name)
            state[name] = dict(inner) if isinstance(inner, Mapping) else {}
            merge_values(state[name], value)
        else:
            state[name] = _decoded(value)


def _is_nest(value: Any) -> bool:
    """A dictionary that is walked into; others are values as a whole."""
    plain = isinstance(value, Mapping) and not isinstance(value, Counter) and len(value) > 0
    return plain and all(isinstance(key, str) and not key.startswith("$") for key in value)


def _is_tagged(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _DECODERS


def _encoded(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list):
        return [_encoded(name, each) for each in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encoded(name, each) for each in value]}
    if isinstance(value, Mapping):
        pairs = [[_encoded(name, key), _encoded(name, each)] for key, each in value.items()]
        return {"$counter" if isinstance(value, Counter) else "$pairs": pairs}
    kind = type(value).__name__
    raise _core.InvalidError(f"`{name}` is a `{kind}`: state is tensors, and plain values without tensors in them")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, Mapping):
        if not _is_tagged(value):
            return {key: _decoded(each) for key, each in value.items()}
        ((tag, inner),) = value.items()
        return _DECODERS[tag](inner)
    return value


def _pairs(inner: list[list[Any]]) -> dict[Any, Any]:
    return {_decoded(key): _decoded(each) for key, each in inner}


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$tuple": lambda inner: tuple(_decoded(each) for each in inner),
    "$pairs": _pairs,
    "$counter": lambda inner: Counter(_pairs(inner)),
}
