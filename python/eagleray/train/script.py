"""`train.script`: a script of the user's own, as it is, on every worker.

It runs in the worker's process under its own name, with the environment that `torchrun` gives. Where it uses Accelerate
or the Trainer of Transformers, their saves go under our commit and their steps into the ledger (`script_accelerate`,
`script_trainer`); a script of plain PyTorch keeps its checkpoints itself, in `EAGLERAY_CHECKPOINT_DIR`.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from eagleray import _core

from . import script_accelerate, script_data, script_trainer, script_trl
from .context import Outcome
from .plan import Script
from .script_hooks import after_import
from .script_session import Session, StopScript

CHECKPOINT_DIR = "EAGLERAY_CHECKPOINT_DIR"
# Below the run's store: what a script of plain PyTorch keeps.
FOLDER = "script"
# What a lost peer leaves the others with: a new worker group may mend it.
PASSING = (RuntimeError, ConnectionError, TimeoutError)


def run_script(session: Session, script: Script, entered: float) -> Outcome:
    """Runs the script on this rank, until it returns."""
    script = script.placed(session.scratch)
    script.require_there()
    _set_environment(session, script)
    session.show_saves()
    session.reporter.span("setup", entered, session.clock.now())
    with (
        after_import(
            {
                "torch.utils.data.dataloader": script_data.adapt_loader,
                "accelerate.data_loader": script_data.adapt_accelerate,
                "accelerate.accelerator": lambda module: script_accelerate.adapt(module, session),
                "accelerate.optimizer": lambda module: script_accelerate.adapt_optimizer(module, session),
                "transformers.trainer": lambda module: script_trainer.adapt(module, session),
                "trl.trainer.sft_trainer": script_trl.adapt,
            }
        ),
        session.running(),
        script_data.offered(session.feed),
    ):
        try:
            with _as_main(script):
                runpy.run_path(script.path, run_name="__main__")
        except StopScript:
            pass
        except SystemExit as end:
            if end.code not in (None, 0):
                raise _failed(script, end) from None
        except _core.EagleRayError:
            raise
        except Exception as error:
            traceback.print_exception(error)
            raise _failed(script, error) from None
        if session.feed is not None:
            session.feed.require_asked()
    return Outcome(outcome="stopped" if session.stopped else "completed", step=session.step)


def _set_environment(session: Session, script: Script) -> None:
    own = Path(session.plan.store) / FOLDER
    own.mkdir(parents=True, exist_ok=True)
    os.environ[CHECKPOINT_DIR] = str(own)
    if not torch.cuda.is_available():
        # Told of no CPU, Accelerate trains one model on each rank and says nothing.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if script.launcher == "accelerate":
        os.environ.update(script_accelerate.environment(script, session.world))


@contextmanager
def _as_main(script: Script) -> Iterator[None]:
    """As `python SCRIPT ARGS` has it: its arguments, and its folder first on the path."""
    arguments, path = sys.argv, list(sys.path)
    sys.argv = [script.path, *script.args]
    sys.path.insert(0, str(Path(script.path).parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, path


def _failed(script: Script, error: BaseException) -> _core.EagleRayError:
    """What a script ended with, by its own line: for good, or until the ranks are together again."""
    if isinstance(error, SystemExit):
        ended = f"exit code {error.code}" if isinstance(error.code, int) else f"exit code 1: {error.code}"
    else:
        ended = f"{type(error).__name__}: {error}"
    message = f"`train.script`: {_place(script, error)}: {ended}"
    passing = any(isinstance(each, PASSING) for each in _chain(error))
    return _core.UnavailableError(message) if passing else _core.InvalidError(message)


def _place(script: Script, error: BaseException) -> str:
    """`train.py, line 12, in main`: the innermost line of the script, else of a file beside it."""
    frames = traceback.extract_tb(error.__traceback__)
    beside = str(Path(script.path).parent) + os.sep
    own = [frame for frame in frames if frame.filename == script.path]
    own = own or [frame for frame in frames if frame.filename.startswith(beside)]
    if not own:
        return Path(script.path).name
    where = "" if own[-1].name == "<module>" else f", in {own[-1].name}"
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}{where}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, or in the course of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
