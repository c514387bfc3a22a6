"""`train.function`: training code of your own, with data, ranks, checkpoints, stops and the ledger taken care of.

    def train(context):
        model = context.distribute(MyModel())
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        for step in context.steps(model=model, optimizer=optimizer):
            for batch in step.batches:
                loss = cross_entropy(model(batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="sum")
                step.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

`steps` goes on after the newest checkpoint, saves as `checkpoint.every` says, and ends early when the run is asked to
stop. The same function runs on one rank and on a thousand.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from eagleray import _core
from eagleray.checkpoint.values import merge_values, split_values

from .context import BatchStream, Context, Outcome, Tensors, newest_commit
from .layout import ZERO
from .ledger import StepWatch
from .resume import superseded
from .saver import Saver
from .state import State
from .steps import StepReader, record_step, seed_randomness
from .strategy import clip_gradients, mesh_of, multiply_gradients, shard
from .totals import Totals
from .zero_own import OwnZero, ZeroObjects


def function_named(name: str) -> Callable[[TrainContext], object]:
    """The function `package.module:function`.

    Raises `InvalidError` where there is none, saying which part was not found.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _core.InvalidError(
            f"`train.function: {name}`: no module `{error.name}`; start the command in the folder that holds it, "
            "or install it where the workers run"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise _core.InvalidError(f"`train.function: {name}`: `{module_name}` has no function `{attribute}`")
    return function  # type: ignore[no-any-return]


class TrainContext:
    """What a function of your own works with on one rank."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mesh: DeviceMesh | None = None
        self._step: Step | None = None
        self._zero = OwnZero(context) if context.plan.layout.kind in ZERO else None
        self._outcome: Outcome | None = None

    @property
    def rank(self) -> int:
        """This rank, from 0."""
        return self._context.rank

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self._context.world

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._context.device

    @property
    def vocab_size(self) -> int:
        """Ids of the datasets' tokenizer; 0 without `data`."""
        return self._context.plan.vocab_size

    @property
    def sequence_length(self) -> int:
        """Tokens of a sample; 0 without `data`."""
        return self._context.plan.sequence_length

    @property
    def mesh(self) -> DeviceMesh:
        """The axes of `train.strategy` that are more than 1, `dp_shard` in any case."""
        if self._mesh is None:
            self._mesh = mesh_of(self._context.axes, self.device)
        return self._mesh

    @property
    def should_stop(self) -> bool:
        """Whether this rank has heard that the run is to stop, which `steps` does by itself.

        Ranks hear of it at different moments: not for branches that all must take together.
        """
        return self._context.reporter.signalled("stop")

    def distribute(self, model: nn.Module) -> nn.Module:
        """The model on this rank's device, replicated or sharded as `train.strategy` says.

        Under `zero1`, `zero2` and `zero3` the model computes in the loop over `steps`, which takes its optimizer over.
        Under `fsdp2` and meshes each layer (each child of a `ModuleList` or `ModuleDict`) is gathered on its own.
        Raises `InvalidError` for `tp`, `cp` and `pp`, which need to know the model.
        """
        layout, axes = self._context.plan.layout, self._context.axes
        if axes.tp > 1 or axes.cp > 1 or axes.pp > 1:
            raise _core.InvalidError(
                f"`train.strategy: {layout}`: `distribute` knows replicas and shards; split tensors or layers of your "
                "own model over `context.mesh`, or use `ddp` or `fsdp2`"
            )
        if self._zero is not None:
            return self._zero.distribute(model)
        model.to(self.device)
        if layout.kind == "ddp":
            return DistributedDataParallel(model) if self.world > 1 else model
        shard(model, layers_of(model), self.mesh, axes, bf16=self._context.plan.precision == "bf16", cast_inputs=True)
        return model

    def clip(self, model: nn.Module, max_norm: float | None) -> float:
        """Clips the gradients of `model` by their norm over all ranks, which it returns (before clipping)."""
        if self._zero is not None:
            return self._zero.clip(model, max_norm)
        return clip_gradients(model.parameters(), max_norm, stages=self._context.axes.pp)

    def steps(self, **objects: Any) -> Iterator[Step]:
        """The steps that are left of `train.steps`, in order.

        `objects` are what checkpoints hold: modules, their optimizers, and whatever has `state_dict` and
        `load_state_dict` (of tensors and plain values). They are loaded from the newest checkpoint first.
        """
        context = self._context
        given = Objects(objects)
        held: Objects | ZeroObjects = given
        if self._zero is not None:
            self._zero.adopt(objects)
            held = ZeroObjects(objects, self._zero)
        held.check()
        commit = newest_commit(context)
        done = 0 if commit is None else int(commit["step"])
        stream = context.open_stream(done, 0) if context.plan.sources else None
        try:
            saver = Saver(context, held, stream, done)
            if commit is not None:
                with context.spanned("load"):
                    saver.load(commit)
            while done < context.plan.steps:
                step = self._step = Step(context, stream, done, given, self._zero)
                yield step
                totals = step._end(saver)
                done += 1
                last = done == context.plan.steps or totals.stop > 0
                if last or totals.save_due:
                    saver.save(done, wait=last)
                if last:
                    break
            self._outcome = Outcome(outcome="completed" if done == context.plan.steps else "stopped", step=done)
        finally:
            self._step = None
            if stream is not None:
                stream.close()

    def log(self, **figures: float) -> None:
        """Adds figures of this rank to the record of the step; those of rank 0 are shown."""
        if self._step is None:
            raise _core.InvalidError("`log` belongs into a step of `context.steps`")
        self._step.figures.update({name: float(value) for name, value in figures.items()})


class Step:
    """One step: its micro batches, and what comes of them."""

    def __init__(
        self, context: Context, stream: BatchStream | None, done: int, given: Objects, zero: OwnZero | None
    ) -> None:
        self._context, self._given, self._zero = context, given, zero
        # Where labels are masked, the gradients of a step are out of scale until it is known how many are not.
        self._unscaled = stream is not None and stream.is_masked()
        self._labels = 0
        self._reader = None if stream is None else StepReader(context, stream, done * context.plan.global_batch)
        if stream is None:
            seed_randomness(context, done)
        self._watch = StepWatch(context.clock)
        self._totals = Totals()
        self._done = done
        self._current: Tensors | None = None
        # Whether the batch at hand is among the samples told, and whether it has had a backward pass.
        self._counted = self._passed = False
        self.figures: dict[str, float] = {}
        self._watch.begin("compute")

    @property
    def number(self) -> int:
        """Which step this is, from 1."""
        return self._done + 1

    @property
    def batches(self) -> Iterator[Tensors]:
        """This rank's micro batches of the step, on its device; each must be taken."""
        if self._reader is None:
            raise _core.InvalidError("the run has no `data`, so its steps have no batches")
        for tensors in self._reader.micro_batches(self._watch, self._totals):
            self._current, self._counted, self._passed = tensors, False, False
            self._labels += tensors.counted
            yield tensors
        self._current = None
        if self._unscaled:
            self._scale_to_labels()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, summed over the tokens of the micro batch, to that of the step.

        Gradients are scaled so that what replicas average is the mean over the tokens of the global batch. The loss
        of the step in the ledger is that mean.
        """
        tensors = self._current
        if tensors is None:
            raise _core.InvalidError("`backward` belongs to a batch: call it in the loop over `step.batches`")
        plan = self._context.plan
        scale = self._context.axes.readers / plan.tokens_per_step
        self._add_gradient(loss * (0.0 if tensors.empty else scale))
        if not tensors.empty:
            # One sum stands for all samples of the batch; further ones are parts of the same loss.
            tokens, labels = (0, 0) if self._counted else (tensors.labels.numel(), tensors.counted)
            self._totals.add_losses([float(loss.detach())], tokens, labels)
            self._totals.samples += -1 if self._counted else tensors.labels.shape[0] - 1
            self._counted = True

    def _add_gradient(self, loss: Tensor) -> None:
        if self._zero is None:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        if self._passed:
            raise _core.InvalidError(
                f"`train.strategy: {self._zero.kind}`: `backward` was called twice for a batch, and DeepSpeed averages "
                "the gradients with the step's last one; sum the losses up and call it once"
            )
        self._passed = True
        self._zero.backward(loss, last=self._reader is not None and self._reader.last)

    def _scale_to_labels(self) -> None:
        """Brings the gradients from the mean over all tokens of the global batch to that over labels that count."""
        context = self._context
        labels = torch.tensor(self._labels if context.speaks else 0, dtype=torch.int64, device=context.device)
        dist.all_reduce(labels)
        counted = int(labels.item())
        given = [parameter for parameter in self._given.parameters() if parameter.grad is not None]
        if counted == 0:
            # Nothing is learned: an optimizer passes over what has no gradient, whatever it remembers.
            for parameter in given:
                parameter.grad = None
        elif given:
            multiply_gradients(given, context.plan.tokens_per_step / counted)
        self._unscaled = False

    def _end(self, saver: Saver) -> Totals:
        """Agrees with all ranks on what the step was, and records it."""
        context, plan = self._context, self._context.plan
        if self._reader is not None:
            self._reader.require_taken(self.number)
            if self._unscaled:
                raise _core.InvalidError(
                    f"step {self.number}: the data has labels that no loss counts, so gradients are scaled when the "
                    "last batch is done: loop over `step.batches` to its end, and only then call the optimizer"
                )
        mine = self._totals if context.speaks else Totals()
        saver.set_flags(mine, self.number)
        totals = mine.reduce(context.device)
        self._watch.stop()
        if totals.superseded:
            raise superseded(plan.store, context.attempt)
        if totals.nonfinite:
            raise _core.InvalidError(
                f"the loss is not finite at step {self.number}; the newest checkpoint is of step {saver.saved_step}"
            )
        if 0 < totals.samples != plan.global_batch:
            raise _core.InvalidError(
                f"step {self.number}: `backward` was called for {totals.samples} of {plan.global_batch} samples; "
                "call it for each batch, or never"
            )
        if totals.save_failed:
            saver.collect()
        said: dict[str, Any] = {}
        if figures := {name: value for name, value in self.figures.items() if math.isfinite(value)}:
            said["figures"] = figures
            if not totals.tokens and "loss" in figures:
                said["loss"] = figures["loss"]
        record_step(context, self._watch, self.number, totals, said, batch=self._done, reached=context.reached_step)
        saver.poll()
        return totals


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of `steps` as one state: modules and optimizers by parameter name, the rest as it tells itself."""

    objects: Mapping[str, Any]

    def check(self) -> None:
        """Refuses what no checkpoint can hold, before the first step."""
        for name, each in self.objects.items():
            if isinstance(each, torch.optim.Optimizer):
                self._module_of(name, each)
            elif not isinstance(each, nn.Module):
                split_values(self._state_of(name, each))

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all modules, each once."""
        modules = [each for each in self.objects.values() if isinstance(each, nn.Module)]
        found = {id(parameter): parameter for module in modules for parameter in module.parameters()}
        return list(found.values())

    def gather(self) -> tuple[State, State]:
        """As `state.Held`."""
        return split_values({name: self._state_of(name, each) for name, each in self.objects.items()})

    def restore(self, fill: Callable[[State], None], values: Mapping[str, Any]) -> None:
        """As `state.Held`."""
        state = {name: self._state_of(name, each) for name, each in self.objects.items()}
        tensors, _ = split_values(state)
        fill(tensors)
        merge_values(state, values)
        for name, each in self.objects.items():
            if isinstance(each, nn.Module):
                set_model_state_dict(each, state[name])
            elif isinstance(each, torch.optim.Optimizer):
                set_optimizer_state_dict(self._module_of(name, each), each, state[name])
            else:
                each.load_state_dict(state[name])

    def _state_of(self, name: str, each: Any) -> State:
        if isinstance(each, nn.Module):
            return dict(get_model_state_dict(each))
        if isinstance(each, torch.optim.Optimizer):
            module = self._module_of(name, each)
            _require_complete(name, module, each)
            return dict(get_optimizer_state_dict(module, each))
        if not hasattr(each, "state_dict"):
            raise _core.InvalidError(f"`steps({name}=…)`: a `{type(each).__name__}` has no `state_dict`")
        return dict(each.state_dict())

    def _module_of(self, name: str, optimizer: torch.optim.Optimizer) -> nn.Module:
        """The module whose parameters the optimizer steps."""
        mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for each in self.objects.values():
            if isinstance(each, nn.Module) and mine <= {id(parameter) for parameter in each.parameters()}:
                return each
        raise _core.InvalidError(
            f"`steps({name}=…)`: no module among them has all of its parameters; name the module too, "
            "`steps(model=model, …)`, and give each module an optimizer of its own"
        )


def _require_complete(name: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuses an optimizer that has stepped without some of its parameters: no checkpoint of it could be loaded."""
    if not optimizer.state:
        return
    names = {id(parameter): each for each, parameter in module.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and parameter not in optimizer.state:
                raise _core.InvalidError(
                    f"`steps({name}=…)`: the parameter `{names[id(parameter)]}` has had no gradient, so there is no "
                    "state of it to save; use it in every step, or set its `requires_grad` to False"
                )


def layers_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: the outermost modules that lie in a `ModuleList` or `ModuleDict`."""
    found: list[nn.Module] = []
    waiting = [(model, False)]
    while waiting:
        module, listed = waiting.pop()
        container = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if listed and not container:
            found += [module] if module not in found else []
        else:
            waiting += [(child, container) for child in reversed(list(module.children()))]
    return found


def run_function(context: Context, name: str, entered: float) -> Outcome:
    """Calls the function on this rank; returns how its last loop over `steps` ended."""
    function = function_named(name)
    own = TrainContext(context)
    # Every rank makes the same model: shards of it fit together.
    torch.manual_seed(context.plan.seed)
    context.reporter.span("setup", entered, context.clock.now())
    function(own)
    if own._outcome is None:
        raise _core.InvalidError(f"`train.function: {name}` returned before its steps were done; loop over `steps`")
    return own._outcome
