"""Training under Ray Train: `eagleray.train("run.yaml")` does what `eagleray train run.yaml` does.

`driver` claims and watches an attempt, `worker` is what Ray Train runs, `loop` is the training loop, and
`model`, `strategy`, `plan`, `totals`, `ledger` are its parts, each usable alone.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence


def train(spec: str, overrides: Sequence[str] = (), *, take_over: bool = False, verbose: bool = False) -> int:
    """Runs or continues the run of the spec file `spec`; returns the exit code of the command line."""
    from eagleray import _core

    from .console import Console
    from .driver import run

    resolved = json.loads(_core.resolve_spec(spec, list(overrides)))
    return run(resolved, take_over=take_over, console=Console(verbose=verbose))


class _CallableModule(types.ModuleType):
    """The package is the noun and the verb: `eagleray.train.loop`, and `eagleray.train("run.yaml")`."""

    def __call__(
        self, spec: str, overrides: Sequence[str] = (), *, take_over: bool = False, verbose: bool = False
    ) -> int:
        return train(spec, overrides, take_over=take_over, verbose=verbose)


sys.modules[__name__].__class__ = _CallableModule
