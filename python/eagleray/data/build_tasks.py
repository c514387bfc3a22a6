"""What a build runs in Ray's workers: one native call a task, its errors handed back as data.

An exception that crosses processes as a pickle would lose its hint or its class with another version of the
package; kind, message and hint survive as plain values.
"""

from __future__ import annotations

import os
from typing import Any

from eagleray import _core

# A task has one CPU: the tokenizer must not start threads for the others.
ONE_THREAD = {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

STEPS = {"map": _core.run_map, "reduce": _core.run_reduce}


def run_step(step: str, task: str) -> dict[str, Any]:
    """Runs one task; `{"stats": json}`, or `{"error": …}` where it is one of ours."""
    os.environ.update(ONE_THREAD)
    try:
        return {"stats": STEPS[step](task)}
    except _core.EagleRayError as error:
        return {"error": describe(error)}


def describe(error: _core.EagleRayError) -> dict[str, Any]:
    """An error as plain values."""
    return {
        "class": type(error).__name__,
        "text": str(error),
        "kind": getattr(error, "kind", "internal"),
        "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", None),
    }


def restore(described: dict[str, Any]) -> _core.EagleRayError:
    """The error that `describe` described."""
    kind: type[_core.EagleRayError] = getattr(_core, described["class"], _core.InternalError)
    error = kind(described["text"])
    for name in ("kind", "message", "hint"):
        setattr(error, name, described[name])
    return error
