"""Training under Ray Train: `eagleray.train("run.yaml")` does what `eagleray train run.yaml` does.

`dataset()` is for scripts that `train.script` starts: the run's data in the run's order, as a dataset of torch.

`driver` claims and watches an attempt, `worker` is what Ray Train runs, `loop` is the training loop, and
`model`, `strategy`, `plan`, `totals`, `ledger` are its parts, each usable alone.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .script_data import RunDataset


def train(spec: str, overrides: Sequence[str] = (), *, take_over: bool = False, verbose: bool = False) -> int:
    """Runs or continues the run of the spec file `spec`; returns the exit code of the command line."""
    from eagleray import _core

    from .console import Console
    from .driver import run

    resolved = json.loads(_core.resolve_spec(spec, list(overrides)))
    return run(resolved, take_over=take_over, console=Console(verbose=verbose))


def dataset(step: int | None = None) -> RunDataset:
    """This rank's samples of the run's order, in a script of `train.script` with `data` beside it.

    Dicts of `input_ids`, `labels` (not shifted; -100 where no loss counts) and `position_ids`. They begin after `step`,
    or after the checkpoint that Accelerate or the Trainer goes on from, and end with `train.steps`.
    """
    from .script_data import dataset_here

    return dataset_here(step)


class _CallableModule(types.ModuleType):
    """The package is the noun and the verb: `eagleray.train.loop`, and `eagleray.train("run.yaml")`."""

    def __call__(
        self, spec: str, overrides: Sequence[str] = (), *, take_over: bool = False, verbose: bool = False
    ) -> int:
        return train(spec, overrides, take_over=take_over, verbose=verbose)


sys.modules[__name__].__class__ = _CallableModule
