"""Ray Train 2.60's private parts: controller hooks, failure and scaling policies, the set-up of torch's world.

Used: `RunConfig.callbacks` with controller and worker-group callbacks, and a trainer that swaps policies. Apart from
`_ray`, since `ray.train` takes seconds to import.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.util import TrainingFramework
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from eagleray import _core

from ._ray import PERMANENT, cause_of


class RunFailurePolicy(DefaultFailurePolicy):
    """Ray's policy, but an error that would come again ends the run at once, and failures of a run that gets on
    cost nothing.

    Ray charges `max_failures` over a run's whole life. A run of weeks on machines that come and go loses many
    workers: only a failure at which the run has got no further than at the one before is charged.
    """

    def __init__(self, failure_config: Any, keeper: Any) -> None:
        super().__init__(failure_config)
        self._keeper = keeper
        self._reached = 0

    def make_decision(self, training_failed_error: Any) -> Any:
        """RAISE for what a restart cannot mend, RETRY after progress; else Ray's budget of failures."""
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(isinstance(failure, PERMANENT) for failure in failures):
            return FailureDecision.RAISE
        before, self._reached = self._reached, ray.get(self._keeper.reached.remote())
        if failures and self._reached > before:
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class _Device:
    """The context of a train function: the worker's own GPU is torch's current device."""

    def __enter__(self) -> None:
        import ray.train.torch
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(ray.train.torch.get_device())

    def __exit__(self, *_exception: object) -> None:
        pass


class _TorchBackend(Backend):
    """Has the workers join one process group, and leave it."""

    share_cuda_visible_devices = True
    # A group whose ranks are gone cannot be left in order.
    _LEAVE_SECONDS = 5.0

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Rank 0's host and a free port of it, for all; then every rank joins."""
        from ray.train._internal.utils import get_address_and_port

        place = worker_group.execute_single(0, get_address_and_port)
        world = len(worker_group)
        joining = [
            worker_group.execute_single_async(rank, _join, place, rank, world, backend_config) for rank in range(world)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Every rank leaves."""
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(_leave, len(worker_group) > 1), timeout=self._LEAVE_SECONDS)


class _World(BackendConfig):
    """What all worlds of torch have in common."""

    @property
    def train_func_context(self) -> type[_Device]:
        """What the train function runs in."""
        return _Device

    @property
    def framework(self) -> Any:
        """For Ray's own records."""
        return TrainingFramework.TORCH


@dataclass
class TorchWorld(_World):
    """Ray's own set-up of `torch.distributed`, by name.

    `ray.train.torch.TorchConfig` imports torch wherever it is named: in the driver, and in the controller, which is
    started anew for each run and after each loss of a head. They pass it on and never use it, so here only the
    workers import it.
    """

    gpus: bool
    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets the world up."""
        return _TorchBackend


def _name_place(place: tuple[str, int]) -> None:
    """Rank 0's host and port, and what Ray knows of ranks, in the environment of this one."""
    from ray.train.torch import config as torch_config

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place[0], str(place[1])
    torch_config._set_torch_distributed_env_vars()


def _join(place: tuple[str, int], rank: int, world: int, config: TorchWorld) -> None:
    from ray.train.torch import config as torch_config

    _name_place(place)
    torch_config._setup_torch_process_group(
        backend="nccl" if config.gpus else "gloo",
        world_rank=rank,
        world_size=world,
        init_method="env://",
        timeout_s=config.timeout_s,
    )


def _leave(destroy: bool) -> None:
    from ray.train.torch import config as torch_config

    torch_config._shutdown_torch(destroy_process_group=destroy)


class _ScriptBackend(Backend):
    """Tells the workers of each other, and leaves it to them to meet."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Rank 0's host and a free port of it, another one for each worker group, in every rank's environment."""
        from ray.train._internal.utils import get_address_and_port

        place = worker_group.execute_single(0, get_address_and_port)
        ranks = range(len(worker_group))
        ray.get([worker_group.execute_single_async(rank, _announce, place) for rank in ranks])


@dataclass
class ScriptWorld(_World):
    """The environment that `torchrun` gives, for scripts that join their process group themselves."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets the world up."""
        return _ScriptBackend


def _announce(place: tuple[str, int]) -> None:
    _name_place(place)
    os.environ["GROUP_RANK"] = os.environ["NODE_RANK"]
    os.environ["ROLE_RANK"], os.environ["ROLE_WORLD_SIZE"] = os.environ["RANK"], os.environ["WORLD_SIZE"]


class OneMachine(FixedScalingPolicy):
    """A fixed number of workers on a Ray that cannot grow: no actor is started to tell of what they will need."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks for nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


_Trainer: Any = DataParallelTrainer


class WholeMeshes(ElasticScalingPolicy):
    """Ray's elastic policy for a world that is a multiple of a mesh."""

    def __init__(self, scaling_config: Any, mesh_size: int) -> None:
        super().__init__(scaling_config)
        self._mesh_size = mesh_size

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """As many as there is room for, without those that would be left over."""
        possible: int = super()._count_possible_workers(reserved_resources)
        return possible - possible % self._mesh_size


class Trainer(_Trainer):  # type: ignore[misc]
    """Ray's trainer under our failure policy, which asks the ledger's keeper; worlds are multiples of `mesh_size`."""

    def __init__(self, *arguments: Any, keeper: Any, mesh_size: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._keeper = keeper
        self._mesh_size = mesh_size

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        if not os.environ.get("RAY_ADDRESS") and not self.scaling_config.elasticity_enabled:
            controller_init_kwargs["scaling_policy"] = OneMachine(self.scaling_config)
        elif self.scaling_config.elasticity_enabled:
            controller_init_kwargs["scaling_policy"] = WholeMeshes(self.scaling_config, self._mesh_size)
        controller_init_kwargs["failure_policy"] = RunFailurePolicy(self.run_config.failure_config, self._keeper)
        return super()._initialize_and_run_controller(**controller_init_kwargs)

    def _create_default_callbacks(self) -> Any:
        # Our loop opens its stream itself: a manager of datasets would be an actor with nothing to do.
        unwanted: list[type] = [] if self.datasets else [DatasetsCallback]
        if not os.environ.get("RAY_ADDRESS"):
            # The cleaner asks Ray's dashboard, which an embedded Ray does not run, about a controller that an
            # embedded Ray cannot outlive; it would only take a process and complain.
            unwanted.append(PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, tuple(unwanted))]


class KeeperCallback(ControllerCallback, WorkerGroupCallback):
    """Tells the ledger's keeper, from the controller, when worker groups fail and when they are built."""

    _INTERRUPTING = ("RESTARTING", "RESCHEDULING", "RESIZING", "PREEMPTING")
    # A resize waits this long for a save of what it is about to interrupt.
    _SAVE_SECONDS = 60.0
    _SAVE_POLL_SECONDS = 0.2

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """A worker group is about to be built; the one before is gone."""
        ray.get(self._keeper.begin_generation.remote(worker_group_context.num_workers, time.time()))

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """A failure or a resize was decided on: that is when it was seen."""
        name = current_state._state_type.state_name
        if name == "RESIZING":
            self._save_first()
        failed = getattr(getattr(current_state, "next_state", None), "training_failed_error", None)
        if name in self._INTERRUPTING or failed is not None:
            error = getattr(current_state, "training_failed_error", None) or failed
            reason = name.lower() if error is None else reason_of(error)
            ray.get(self._keeper.interrupted.remote(time.time(), reason))

    def _save_first(self) -> None:
        """A group that is in health is about to be replaced: saved now, it repeats the steps of a save and no more."""
        ray.get(self._keeper.ask_save.remote())
        deadline = time.monotonic() + self._SAVE_SECONDS
        while ray.get(self._keeper.awaits_save.remote()) and time.monotonic() < deadline:
            time.sleep(self._SAVE_POLL_SECONDS)


def reason_of(error: BaseException) -> str:
    """One line that says why a worker group ended: our own error, else who died, else the lowest rank's error."""
    cause = cause_of(error)
    failures = getattr(error, "worker_failures", {})
    dead = [rank for rank, failure in sorted(failures.items()) if isinstance(failure, WorkerHealthCheckFailedError)]
    if dead and not isinstance(cause, _core.EagleRayError):
        return f"the worker of rank {', '.join(str(rank) for rank in dead)} died"
    line = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return line.strip()[:300]
