"""A pipeline: each rank has the layers of a stage, micro batches flow through, their losses appear on the last.

torch's schedules move the tensors. A schedule takes all micro batches of a step at once, each of one shape: those that
are short of samples are filled up with samples whose labels count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from eagleray import _core

from .context import IGNORED, Tensors
from .layout import Axes
from .model import sample_losses
from .parts import local
from .strategy import Done, Flow, Spread

# Stages of a rank, by schedule: the rank's own number, and that number plus `pp` where they are interleaved.
STAGES_PER_RANK = {"1f1b": 1, "gpipe": 1, "interleaved": 2}


class Stages(nn.Module):
    """The stages of a rank as one module, whose parameters are called what the whole model calls them."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config: Any = parts[0].config
        # In a tuple, which registers nothing: what is in them is registered below, under its own name.
        self.parts = tuple(parts)
        _join(self, parts)
        # Hooks of the parts, which are no modules of this one, would not run.
        self.register_state_dict_pre_hook(lambda module, *_: module.reshard())
        self.register_load_state_dict_pre_hook(lambda module, *_: module.reshard())

    def reshard(self) -> None:
        """Has parameters that are whole be shards again."""
        for part in self.parts:
            if isinstance(part, FSDPModule):
                part.reshard()


def joined(parts: Sequence[nn.Module]) -> nn.Module:
    """All parts of a rank as one module."""
    return parts[0] if len(parts) == 1 else Stages(parts)


def _join(into: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Registers in `into` what `parts` have, under the same names."""
    for name in dict.fromkeys(name for part in parts for name in part._modules):
        found = [module for part in parts if (module := part._modules.get(name)) is not None]
        if len(found) > 1:
            into.register_module(name, both := nn.Module())
            _join(both, found)
        else:
            into.register_module(name, found[0] if found else None)
    # Buffers that are not saved follow from the config, and each part has its own.
    if any(part._parameters or part._buffers.keys() - part._non_persistent_buffers_set for part in parts):
        raise _core.InternalError("a tensor of a checkpoint that belongs to no layer of a pipeline")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage has of a model: some layers, in the first the embedding too, in the last norm and head."""

    layers: range
    first: bool
    last: bool


def stages_of(num_layers: int, axes: Axes, rank: int, schedule: str) -> list[Stage]:
    """The stages of `rank`: its own along `pp`, and where they are interleaved that number plus `pp`."""
    num_stages = axes.pp * STAGES_PER_RANK[schedule]
    if num_layers < num_stages:
        raise _core.InvalidError(
            f"`train.pipeline: {schedule}` makes {num_stages} stages of `pp` {axes.pp}, above the model's "
            f"{num_layers} layers; lower `pp` or write `pipeline: 1f1b`"
        )
    stages = range(axes.stage(rank), num_stages, axes.pp)
    return [
        Stage(axes.layers(stage, num_layers, num_stages), first=stage == 0, last=stage == num_stages - 1)
        for stage in stages
    ]


@dataclass(kw_only=True)
class Pipelined(Spread):
    """The stages of a rank, and the schedule that it keeps with the others."""

    flow: Flow
    bf16: bool
    _waiting: list[Tensors] = field(default_factory=list)
    _found: list[Tensor] = field(default_factory=list)
    _scale: float = 1.0

    def __post_init__(self) -> None:
        self.stage = self.axes.stage(dist.get_rank())
        self.last = self.stage == self.axes.pp - 1
        self.parts: Sequence[nn.Module] = self.model.parts if isinstance(self.model, Stages) else [self.model]
        self.num_stages = self.axes.pp * len(self.parts)
        for part in self.parts:
            _autocast_forward(self, part)
        self._training = self._schedule(self.flow.micro_batches)
        self._evaluation = self._schedule(1)

    def forward_backward(self, tensors: Tensors, scale: float, *, last: bool) -> list[Done]:
        self._waiting.append(tensors)
        if not last:
            return []
        batches, self._waiting = self._waiting, []
        self._scale = self.summed(scale)
        with self.loss_in_parts():
            self._training.step(**self._inputs(batches), return_outputs=False)
        return self._done(batches)

    def evaluate(self, tensors: Tensors) -> list[Done]:
        with torch.no_grad(), self.loss_in_parts():
            self._evaluation.eval(**self._inputs([tensors]))
        return self._done([tensors])

    def _inputs(self, batches: list[Tensors]) -> dict[str, Any]:
        filled = [self.part(self._filled(tensors)) for tensors in batches]
        inputs: dict[str, Any] = {"kwarg_mbs": [{"position_ids": tensors.position_ids} for tensors in filled]}
        if self.stage == 0:
            inputs["arg_mbs"] = [(tensors.tokens,) for tensors in filled]
        if self.last:
            inputs["target_mbs"] = [tensors.labels for tensors in filled]
        return inputs

    def _filled(self, tensors: Tensors) -> Tensors:
        """The micro batch with as many samples as all have."""
        labels = torch.full_like(tensors.labels, IGNORED) if tensors.empty else tensors.labels
        missing = self.flow.micro_batch - labels.shape[0]

        def fill(values: Tensor, value: int) -> Tensor:
            return nn.functional.pad(values, (0, 0, 0, missing), value=value) if missing else values

        return Tensors(
            tokens=fill(tensors.tokens, 0),
            labels=fill(labels, IGNORED),
            position_ids=fill(tensors.position_ids, 0),
            counted=tensors.counted,
            empty=tensors.empty,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = local(sample_losses(logits, labels))
        self._found.append(losses.detach())
        return losses.sum() * self._scale

    def _done(self, batches: list[Tensors]) -> list[Done]:
        """Losses in the order of the micro batches, which every schedule takes forward in order."""
        found, self._found = self._found, []
        if not self.last:
            return []
        pairs = zip([self.whole(losses) for losses in found], batches, strict=True)
        return [done for losses, tensors in pairs for done in Done.of(tensors, losses[: tensors.labels.shape[0]])]

    def _schedule(self, micro_batches: int) -> Any:
        options: dict[str, Any] = {"loss_fn": self._loss, "scale_grads": False}
        stages = [self._stage(turn * self.axes.pp + self.stage, part) for turn, part in enumerate(self.parts)]
        if self.flow.schedule == "interleaved":
            return ScheduleInterleaved1F1B(stages, micro_batches, **options)
        # 1F1B wants as many micro batches as there are stages; with fewer, it would be GPipe anyway.
        kind = Schedule1F1B if self.flow.schedule == "1f1b" and micro_batches >= self.axes.pp else ScheduleGPipe
        return kind(stages[0], micro_batches, **options)

    def _stage(self, stage: int, part: nn.Module) -> PipelineStage:
        return PipelineStage(
            part,
            stage,
            self.num_stages,
            self.device,
            input_args=self._boundary(stage),
            output_args=self._boundary(stage + 1),
            group=self.mesh.get_group("pp"),
        )

    def _boundary(self, stage: int) -> Tensor:
        """What goes into a stage, without values: tokens, hidden states, and out of the last the logits."""
        # Under `cp` each rank hands on its part of the sequence, and with `tp` a part of that.
        batch, sequence = self.flow.micro_batch, self.flow.sequence_length // self.axes.cp
        if stage == 0:
            return torch.empty(batch, sequence, dtype=torch.int64, device="meta")
        config = self.model.config
        narrow = torch.bfloat16 if self.bf16 else torch.float32
        if stage == self.num_stages:
            return torch.empty(batch, sequence, config.vocab_size, dtype=narrow, device="meta", requires_grad=True)
        # Under autocast the residual stream is in fp32.
        states = (batch, sequence // self.axes.tp, config.hidden_size)
        kind = torch.float32 if self.autocast else narrow
        return torch.empty(states, dtype=kind, device="meta", requires_grad=True)


def _autocast_forward(spread: Spread, part: nn.Module) -> None:
    """Computes a stage's forward passes, which the schedule calls, in the precision of the run."""
    forward = part.forward

    def cast(*inputs: Any, **named: Any) -> Any:
        with spread.precision():
            return forward(*inputs, **named)

    part.forward = cast
