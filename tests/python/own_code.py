"""Training functions of users, as `train.function` names them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from eagleray.train.own import TrainContext


class Bigram(nn.Module):
    """Tokens to logits, in two layers that look at nothing but the token."""

    def __init__(self, vocabulary: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(32, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [batch, sequence, vocabulary]."""
        states = self.embedding(tokens)
        for layer in self.layers:
            states = states + layer(states)
        logits: torch.Tensor = self.head(states)
        return logits


class Counter:
    """Something of the user's with a state."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from there."""
        self.steps = state["steps"]


def train(context: TrainContext) -> None:
    """A model, an optimizer with a schedule, and a counter."""
    model = context.distribute(Bigram())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=50)
    counter = Counter()
    for step in context.steps(model=model, optimizer=optimizer, schedule=schedule, counter=counter):
        for batch in step.batches:
            logits = model(batch.tokens)
            step.backward(functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"))
        optimizer.step()
        optimizer.zero_grad()
        counter.steps += 1
        assert counter.steps == step.number
        context.log(lr=schedule.get_last_lr()[0], counted=counter.steps)
        schedule.step()


def twice(context: TrainContext) -> None:
    """Passes backward twice for a batch."""
    model = context.distribute(Bigram())
    optimizer = torch.optim.AdamW(model.parameters())
    for step in context.steps(model=model, optimizer=optimizer):
        for batch in step.batches:
            for _ in range(2):
                step.backward(model(batch.tokens).sum())


def frozen(context: TrainContext) -> None:
    """Has a parameter that is not trained."""
    model = Bigram()
    model.embedding.requires_grad_(False)
    context.distribute(model)


def momentum(context: TrainContext) -> None:
    """Has another optimizer."""
    model = context.distribute(Bigram())
    next(iter(context.steps(model=model, optimizer=torch.optim.SGD(model.parameters(), momentum=0.9))))


def early(context: TrainContext) -> None:
    """Computes before its steps."""
    context.distribute(Bigram())(torch.zeros(1, 1, dtype=torch.int64))


def talked(context: TrainContext) -> None:
    """As `train`, with clipping; the labels of what nobody should learn are masked."""
    torch.manual_seed(3)
    model = context.distribute(Bigram(320))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in context.steps(model=model, optimizer=optimizer):
        for batch in step.batches:
            logits = model(batch.tokens)
            step.backward(functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"))
        context.clip(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def plain_losses(stream: Any, steps: int, global_batch: int) -> list[float]:
    """The loss of each step of `talked` in one process of plain torch."""
    torch.manual_seed(3)
    model = Bigram(320)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        total, counted, samples = torch.zeros(()), 0, 0
        while samples < global_batch:
            batch = stream.next()
            tokens, labels = torch.from_numpy(batch["tokens"]), torch.from_numpy(batch["labels"])
            samples, counted = samples + len(tokens), counted + int((labels >= 0).sum())
            total = total + functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="sum")
        (total / counted).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / counted)
    stream.close()
    return losses


def hasty(context: TrainContext) -> None:
    """Takes the one batch of each step without asking whether there is another."""
    model = context.distribute(Bigram(320))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in context.steps(model=model, optimizer=optimizer):
        batch = next(step.batches)
        logits = model(batch.tokens)
        step.backward(functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"))
        optimizer.step()


def forgetful(context: TrainContext) -> None:
    """Leaves a batch of each step untaken."""
    for step in context.steps():
        next(step.batches)


def without_steps(context: TrainContext) -> None:
    """Returns at once."""
