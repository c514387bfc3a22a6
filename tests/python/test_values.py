"""Plain values of a checkpoint come back as they were."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from eagleray import _core
from eagleray.checkpoint.values import merge_values, split_values
from eagleray.train.own import layers_of


def again(state: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """`fresh` after the values of `state` have gone through a commit."""
    _, values = split_values(state)
    merge_values(fresh, json.loads(json.dumps(values, allow_nan=False)))
    return fresh


def test_what_json_has_no_form_for_comes_back_as_it_was() -> None:
    state = {
        "worst": math.inf,
        "betas": (0.9, 0.95),
        "seen": {1: 5, 2: {"a": (1,)}},
        "milestones": Counter({3: 1}),
        "empty": {},
        "groups": [{"lr": 0.1, "foreach": None, "params": ["a"]}],
        "nested": {"deep": {"flag": True}},
    }
    fresh = {"worst": 0.0, "seen": {1: 0}, "milestones": Counter(), "left": "over", "nested": {"deep": {"old": 1}}}
    found = again(state, fresh)
    assert found == state
    assert isinstance(found["milestones"], Counter)


def test_schedules_go_on_where_they_were() -> None:
    def made() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        first = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1.0, total_iters=1)
        second = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2])
        return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, [first, second], [1])

    optimizer, schedule = made()
    rates = []
    for step in range(6):
        if step == 2:
            saved = dict(schedule.state_dict())
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    optimizer, schedule = made()
    schedule.load_state_dict(again(saved, dict(schedule.state_dict())))
    rest = []
    for _ in range(2, 6):
        optimizer.step()
        schedule.step()
        rest.append(schedule.get_last_lr()[0])
    assert rest == pytest.approx(rates[2:])


def test_a_value_with_a_tensor_inside_a_list_is_refused_by_name() -> None:
    with pytest.raises(_core.InvalidError, match="`averages` is a `Tensor`"):
        split_values({"averages": [torch.zeros(2)]})


def test_layers_are_the_outermost_modules_of_lists() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    stages = nn.ModuleList(nn.ModuleList(Block() for _ in range(2)) for _ in range(2))
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"stages": stages}))
    assert layers_of(model) == [block for stage in stages for block in stage]
