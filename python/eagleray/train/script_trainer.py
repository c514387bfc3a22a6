"""The Trainer of Transformers in a script of the user's own: its checkpoints, where it goes on, its steps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from eagleray import _core

from .script_data import feed_in
from .script_session import Session, absolute

WRITER = "trainer"


def adapt(module: Any, session: Session) -> None:
    """Has `Trainer` save to the checkpoints of the run, go on from the newest, and tell of its steps."""
    trainer = module.Trainer
    begin, train, save = trainer.__init__, trainer.train, trainer._save_checkpoint
    callback = _callback(session)

    @functools.wraps(begin)
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        begin(self, *arguments, **named)
        _refuse(self.args, session)
        session.join()
        session.teller = WRITER
        self.add_callback(callback())

    @functools.wraps(train)
    def train_on(self: Any, resume_from_checkpoint: Any = None, *arguments: Any, **named: Any) -> Any:
        if feed_in(self.train_dataset) is not None:
            require_order(self.train_dataset, self.args)
        commit = session.newest_in(Path(self.args.output_dir))
        if commit is not None:
            resume_from_checkpoint = str(session.folder_of(commit))
            session.go_on_from(commit)
        elif session.feed is not None and not resume_from_checkpoint:
            session.feed.go_on_from(0)
        return train(self, resume_from_checkpoint, *arguments, **named)

    @functools.wraps(save)
    def save_checkpoint(self: Any, *arguments: Any, **named: Any) -> None:
        place = self.args.output_dir
        name = f"{module.PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        path = absolute(Path(self._get_output_dir(trial=None)) / name)

        def write(folder: Path) -> None:
            self.args.output_dir = str(folder)
            try:
                save(self, *arguments, **named)
            finally:
                self.args.output_dir = place
            # What the Trainer wrote lies in a folder of its own below the one it was given.
            for file in (folder / name).iterdir():
                file.rename(folder / file.name)
            (folder / name).rmdir()

        session.save(path, write, WRITER)

    trainer.__init__, trainer.train, trainer._save_checkpoint = __init__, train_on, save_checkpoint


def _callback(session: Session) -> Any:
    from transformers.trainer_callback import TrainerCallback

    class Ledger(TrainerCallback):
        """Tells of each step, and ends training after a save when the run is asked to stop."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            session.total_steps = int(state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            session.ended_step(int(state.global_step))
            if state.global_step < state.max_steps and session.must_stop():
                control.should_save = control.should_training_stop = True
            return control

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs.get("logs") or {}
            names = {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "lr"}
            told = {ours: float(logs[theirs]) for theirs, ours in names.items() if theirs in logs}
            session.add_to_step(**told)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            session.tell()

    return Ledger


def _refuse(arguments: Any, session: Session) -> None:
    """Refuses what would go another way than the script says, by name."""
    refused = [
        f"`{name}`"
        for name in ("fsdp", "deepspeed", "load_best_model_at_end", "save_on_each_node")
        if getattr(arguments, name, None)
    ]
    if refused:
        raise _core.InvalidError(f"`train.script`: `TrainingArguments` with {', '.join(refused)} is not available")
    if arguments.world_size != session.world:
        raise _core.InvalidError(f"`Trainer` sees {arguments.world_size} of the run's {session.world} workers")


def require_order(dataset: Any, arguments: Any) -> None:
    """Refuses a `Trainer` whose steps are not those of the run's order."""
    feed, steps = dataset.feed, dataset.feed.plan.steps
    if arguments.auto_find_batch_size:
        raise _core.InvalidError("`TrainingArguments(auto_find_batch_size=True)` is not available with `dataset()`")
    feed.require_batches(
        "`per_device_train_batch_size` and `gradient_accumulation_steps` of `TrainingArguments`",
        arguments.train_batch_size,
        arguments.gradient_accumulation_steps,
    )
    if 0 < steps < arguments.max_steps:
        raise _core.InvalidError(
            f"`TrainingArguments(max_steps={arguments.max_steps})`: `train.steps`, where `dataset()` ends, is {steps}"
        )
