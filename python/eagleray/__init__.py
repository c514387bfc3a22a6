"""Eagle Ray: pretraining on Ray that survives its machines.

`eagleray.data` streams tokens by position, `eagleray.checkpoint` saves and loads, `eagleray.train` runs a
spec, `eagleray.shell` and `eagleray.connect` look at a run while it trains. Importing this package touches neither
torch nor Ray.
"""

from __future__ import annotations

from typing import Any

from eagleray._core import (
    ConflictError,
    CorruptError,
    EagleRayError,
    ExhaustedError,
    InternalError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    __version__,
)

__all__ = [
    "ConflictError",
    "CorruptError",
    "EagleRayError",
    "ExhaustedError",
    "InternalError",
    "InvalidError",
    "NotFoundError",
    "UnavailableError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Loads the sub-packages when they are first asked for."""
    import importlib

    if name in {"checkpoint", "data", "shell", "train"}:
        return importlib.import_module(f"eagleray.{name}")
    if name == "connect":
        return importlib.import_module("eagleray.shell").connect
    raise AttributeError(f"module `eagleray` has no attribute `{name}`")
