"""A pipeline: each rank has the layers of a stage, micro batches flow through, their losses appear on the last.

torch's schedules move the tensors. A schedule takes all micro batches of a step at once, each of one shape: those that
are short of samples are filled up with samples whose labels count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from .context import IGNORED, Tensors
from .model import sample_losses
from .parts import local
from .strategy import Done, Flow, Spread


@dataclass(kw_only=True)
class Pipelined(Spread):
    """One stage of a model, and the schedule that it keeps with the others."""

    flow: Flow
    bf16: bool
    _waiting: list[Tensors] = field(default_factory=list)
    _found: list[Tensor] = field(default_factory=list)
    _scale: float = 1.0

    def __post_init__(self) -> None:
        self.stage = self.axes.stage(dist.get_rank())
        self.last = self.stage == self.axes.pp - 1
        _autocast_forward(self)
        # 1F1B wants as many micro batches as there are stages; with fewer, it would be GPipe anyway.
        count = self.flow.micro_batches
        kind = Schedule1F1B if self.flow.schedule == "1f1b" and count >= self.axes.pp else ScheduleGPipe
        self._training = kind(self._stage(), count, loss_fn=self._loss, scale_grads=False)
        self._evaluation = ScheduleGPipe(self._stage(), 1, loss_fn=self._loss, scale_grads=False)

    def forward_backward(self, tensors: Tensors, scale: float, *, last: bool) -> list[Done]:
        self._waiting.append(tensors)
        if not last:
            return []
        batches, self._waiting = self._waiting, []
        self._scale = scale
        with self.loss_in_parts():
            self._training.step(**self._inputs(batches), return_outputs=False)
        return self._done(batches)

    def evaluate(self, tensors: Tensors) -> list[Done]:
        with torch.no_grad(), self.loss_in_parts():
            self._evaluation.eval(**self._inputs([tensors]))
        return self._done([tensors])

    def _inputs(self, batches: list[Tensors]) -> dict[str, Any]:
        filled = [self._filled(tensors) for tensors in batches]
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
        pairs = zip(found, batches, strict=True)
        return [done for losses, tensors in pairs for done in Done.of(tensors, losses[: tensors.labels.shape[0]])]

    def _stage(self) -> PipelineStage:
        return PipelineStage(
            self.model,
            self.stage,
            self.axes.pp,
            self.device,
            input_args=self._boundary(self.stage),
            output_args=self._boundary(self.stage + 1),
            group=self.mesh.get_group("pp"),
        )

    def _boundary(self, stage: int) -> Tensor:
        """What goes into a stage, without values: tokens, hidden states, and out of the last the logits."""
        batch, sequence = self.flow.micro_batch, self.flow.sequence_length
        if stage == 0:
            return torch.empty(batch, sequence, dtype=torch.int64, device="meta")
        config = self.model.config
        narrow = torch.bfloat16 if self.bf16 else torch.float32
        if stage == self.axes.pp:
            return torch.empty(batch, sequence, config.vocab_size, dtype=narrow, device="meta", requires_grad=True)
        # Under autocast the residual stream is in fp32; with `tp` each rank hands on its part of the sequence.
        states = (batch, sequence // self.axes.tp, config.hidden_size)
        kind = torch.float32 if self.autocast else narrow
        return torch.empty(states, dtype=kind, device="meta", requires_grad=True)


def _autocast_forward(spread: Spread) -> None:
    """Computes the stage's forward passes, which the schedule calls, in the precision of the run."""
    forward = spread.model.forward

    def cast(*inputs: Any, **named: Any) -> Any:
        with spread.precision():
            return forward(*inputs, **named)

    spread.model.forward = cast
