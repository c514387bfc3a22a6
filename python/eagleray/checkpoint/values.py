"""A nested state in two parts: tensors, which go to files, and plain values, which go into the commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eagleray import _core


def split_values(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and plain values of a nested state, each in the same nesting."""
    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            inner_tensors, inner_values = split_values(value)
            if inner_tensors:
                tensors[name] = inner_tensors
            if inner_values:
                values[name] = inner_values
        elif hasattr(value, "data_ptr"):
            tensors[name] = value
        else:
            try:
                json.dumps(value)
            except TypeError as error:
                kind = type(value).__name__
                raise _core.InvalidError(f"`{name}` is a `{kind}`: state is tensors and plain JSON values") from error
            values[name] = value
    return tensors, values


def merge_values(state: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Puts plain values back into a nested state."""
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(state.get(name), dict):
            merge_values(state[name], value)
        else:
            state[name] = value
