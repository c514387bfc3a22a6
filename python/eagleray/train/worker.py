"""What Ray Train runs on each worker: it joins the ledger, opens doors to data and store, and runs the loop."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from eagleray import _core

from .context import BatchStream, Context, Outcome
from .entry import WorkerConfig
from .ledger import Clock, Event, Reporter
from .loop import train
from .own import run_function
from .plan import Plan, Validation
from .script import run_script
from .script_session import Session


def run(worker: WorkerConfig, clock: Clock, entered: float) -> dict[str, Any]:
    """Trains as one rank of Ray Train's world, in which this process is, and returns how it ended."""
    import ray
    import ray.train

    from eagleray import _ray

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    keeper = worker.keeper
    place = {**_ray.place(), "local_rank": context.get_local_rank()}
    welcome = ray.get(keeper.enter.remote(rank, entered, place))

    def push(events: list[Event], durable: bool) -> dict[str, bool]:
        try:
            signals: dict[str, bool] = ray.get(keeper.push.remote(welcome.generation, rank, events, durable))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return signals

    reporter = Reporter(push, {"rank": rank, "generation": welcome.generation})
    set_threads(context.get_local_world_size())
    plan, function = worker.plan, worker.plan.function
    here: dict[str, Any] = {
        "rank": rank,
        "world": world,
        "attempt": worker.attempt,
        "reached_step": welcome.reached_step,
        "clock": clock,
        "reporter": reporter,
    }
    outcome: Outcome
    try:
        if plan.script is not None:
            outcome = run_script(Session(plan, **here), plan.script, entered)
        elif function is not None:
            outcome = run_function(surroundings_of(plan, device=_device(), **here), function, entered)
        else:
            outcome = train(surroundings_of(plan, device=_device(), **here), entered)
    finally:
        reporter.close()
    return asdict(outcome)


def surroundings_of(
    plan: Plan,
    *,
    rank: int,
    world: int,
    attempt: int,
    reached_step: int,
    device: torch.device,
    clock: Clock,
    reporter: Reporter,
) -> Context:
    """What the loop works with on one rank of the default process group; every rank makes its own at once."""

    axes = plan.layout.over(world)
    reader, readers = axes.reader(rank), axes.readers

    def open_stream(batch: int, left_out: int) -> BatchStream:
        config = plan.stream_config(reader, readers, batch * plan.global_batch, left_out)
        stream: Any = _core.Stream(json.dumps(config))
        # A stream opens when it is first asked: asked now, it reads ahead while the model is built.
        stream.state()
        return stream  # type: ignore[no-any-return]

    return Context(
        plan=plan,
        rank=rank,
        world=world,
        axes=axes,
        attempt=attempt,
        reached_step=reached_step,
        device=device,
        clock=clock,
        reporter=reporter,
        save_group=_save_group(),
        open_stream=open_stream,
        open_validation=lambda held, samples: open_validation(plan, held, samples, reader, readers),
        validation_samples=lambda held: validation_samples(plan, held),
    )


def open_validation(plan: Plan, held: Validation, samples: int, reader: int, readers: int) -> BatchStream:
    """A reader's share of the held-out samples."""
    stream: Any = _core.Stream(json.dumps(plan.validation_config(held, samples, reader, readers)))
    return stream


def validation_samples(plan: Plan, held: Validation) -> int:
    """How many samples the held-out dataset has."""
    return int(_core.Order(json.dumps(plan.validation_config(held, 1, 0, 1))).num_samples)


def _save_group() -> dist.ProcessGroup | None:
    """Saves talk among themselves, beside the step's collectives and on the CPU."""
    group: Any = dist.new_group(backend="gloo")
    return group  # type: ignore[no-any-return]


def _device() -> torch.device:
    if torch.cuda.is_available():
        import ray.train.torch

        device: torch.device = ray.train.torch.get_device()
        return device
    return torch.device("cpu")


def set_threads(local_world: int) -> None:
    """Shares the node's cores between its ranks (Ray gives a worker one thread by default)."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // max(local_world, 1)))
