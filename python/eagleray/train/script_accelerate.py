"""Accelerate in a script of the user's own: its configuration, its saves and its steps."""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from eagleray import _core

from .plan import Script
from .script_config import refuse_config
from .script_data import feed_of
from .script_session import Session, StopScript, absolute

WRITER = "accelerate"
_PLUGINS = ("deepspeed_plugin", "deepspeed_plugins", "fsdp_plugin", "megatron_lm_plugin", "parallelism_config")


def environment(script: Script, world: int) -> dict[str, str]:
    """What `accelerate launch` would set for the script's configuration, apart from where processes lie."""
    if script.accelerate_config is None:
        return {}
    try:
        from accelerate.commands import launch
        from accelerate.commands.config.config_args import load_config_from_file
        from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
    except ModuleNotFoundError as error:
        raise _core.InvalidError(
            f"`train.script.launcher: accelerate` needs the package `accelerate`: {error}"
        ) from error
    try:
        config = load_config_from_file(script.accelerate_config)
    except (ValueError, TypeError, AttributeError) as error:
        raise _core.InvalidError(f"`train.script.accelerate_config`: {error}") from error
    gpus = torch.cuda.is_available()
    refuse_config(script.accelerate_config, config.to_dict(), gpus=gpus)
    parsed = ["--config_file", script.accelerate_config, "--num_processes", str(world), "--num_machines", "1"]
    arguments, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args([*parsed, script.path]))
    arguments.gpu_ids = None
    # Only the launcher of several GPUs knows of FSDP.
    found = prepare_multi_gpu_env(arguments) if arguments.use_fsdp else prepare_simple_launcher_cmd_env(arguments)[1]
    chosen = {name: value for name, value in found.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    if not gpus:
        chosen["ACCELERATE_USE_CPU"] = "true"
    return chosen


def adapt(module: Any, session: Session) -> None:
    """Has `Accelerator` save to, and load from, the checkpoints of the run."""
    accelerator = module.Accelerator
    begin, save, load = accelerator.__init__, accelerator.save_state, accelerator.load_state

    @functools.wraps(begin)
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        given = inspect.signature(begin).bind(self, *arguments, **named).arguments
        refuse_plugins(name for name in _PLUGINS if given.get(name) is not None)
        begin(self, *arguments, **named)
        _require_whole_world(self, session)

    @functools.wraps(save)
    def save_state(self: Any, output_dir: Any = None, *arguments: Any, **named: Any) -> str:
        config = self.project_configuration
        automatic = config.automatic_checkpoint_naming
        if automatic:
            output_dir = Path(self.project_dir) / "checkpoints" / f"checkpoint_{config.iteration}"
        path = absolute(Path(output_dir))

        def write(folder: Path) -> None:
            config.automatic_checkpoint_naming = False
            try:
                save(self, str(folder), *arguments, **named)
            finally:
                config.automatic_checkpoint_naming = automatic

        session.save(path, write, WRITER)
        if session.must_stop():
            raise StopScript
        return str(path)

    @functools.wraps(load)
    def load_state(self: Any, input_dir: Any = None, *arguments: Any, **named: Any) -> None:
        session.join()
        commit, config = None, self.project_configuration
        if input_dir is not None:
            commit = session.opened(absolute(Path(input_dir)))
        elif config.automatic_checkpoint_naming:
            commit = session.newest_in(Path(self.project_dir) / "checkpoints")
            if commit is not None:
                number = Path(commit["metadata"]["script"]["path"]).name.rpartition("_")[2]
                config.iteration = int(number) + 1
        if commit is None:
            load(self, input_dir, *arguments, **named)
            return
        load(self, str(session.folder_of(commit)), *arguments, **named)
        session.go_on_from(commit)

    accelerator.__init__, accelerator.save_state, accelerator.load_state = __init__, save_state, load_state
    accelerator.prepare_data_loader = _prepare_data_loader(accelerator.prepare_data_loader, session)


def _prepare_data_loader(original: Callable[..., Any], session: Session) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare_data_loader(self: Any, data_loader: Any, *arguments: Any, **named: Any) -> Any:
        feed = feed_of(data_loader)
        # A Trainer accumulates by itself, and so may a script: what they take is counted at each step.
        if feed is not None and session.teller in (None, WRITER) and self.gradient_accumulation_steps > 1:
            what = "`DataLoader(batch_size=…)` and `Accelerator(gradient_accumulation_steps=…)`"
            feed.require_batches(what, data_loader.batch_size or 1, self.gradient_accumulation_steps)
        return original(self, data_loader, *arguments, **named)

    return prepare_data_loader


def adapt_optimizer(module: Any, session: Session) -> None:
    """Has the first prepared optimizer tell of its steps, those that end an accumulation."""
    optimizer = module.AcceleratedOptimizer
    original = optimizer.step
    first: list[Callable[[], Any]] = []

    @functools.wraps(original)
    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        if session.teller in (None, WRITER) and self.gradient_state.sync_gradients:
            if not first or first[0]() is None:
                first[:] = [weakref.ref(self)]
            if first[0]() is self:
                session.teller = WRITER
                session.ended_step(session.next_step, lr=float(self.param_groups[0]["lr"]))
        return result

    optimizer.step = step


def refuse_plugins(names: Any) -> None:
    """Refuses strategies that a script asks Accelerate for, and that this build or this device cannot do."""
    # Without GPUs Accelerate makes DDP of it, and says nothing.
    sharded = torch.cuda.is_available()
    found = [f"`{name}`" for name in names if not (sharded and name == "fsdp_plugin")]
    if not sharded and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        found.append("`ACCELERATE_USE_FSDP` without GPUs")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        found.append("`ACCELERATE_USE_DEEPSPEED`")
    if found:
        raise _core.InvalidError(f"`train.script`: {', '.join(found)} is not available in this build")


def _require_whole_world(accelerator: Any, session: Session) -> None:
    session.join()
    if accelerator.num_processes != session.world:
        raise _core.InvalidError(f"`Accelerator` sees {accelerator.num_processes} of the run's {session.world} workers")
