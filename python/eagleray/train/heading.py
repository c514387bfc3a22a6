"""Where a run goes on with its data, and what it has seen of anomalies: both decided in Rust, both in every commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagleray import _core

from .plan import Plan


@dataclass(slots=True, kw_only=True)
class Heading:
    """`course` says which global batch of the order each step trains on, `watch` looks at each step's loss."""

    course: _core.Course
    watch: _core.AnomalyWatch

    @classmethod
    def of(cls, plan: Plan, commit: Mapping[str, Any] | None) -> Heading:
        """The heading of whoever goes on from `commit`, or from the beginning."""
        kept = kept_in(commit)
        return cls(
            course=_core.Course(json.dumps(kept["left_out"])),
            watch=_core.AnomalyWatch(json.dumps(plan.anomalies), kept["watch"]),
        )

    def look(self, step: int, loss: float | None, *, finite_gradient: bool) -> dict[str, Any] | None:
        """What is wrong with `step`: `{step, kind, reaction, reason}`, or None."""
        seen = self.watch.look(step, loss, finite_gradient)
        return None if seen is None else json.loads(seen)

    def recall(self, step: int, decided: Mapping[str, Any]) -> dict[str, Any]:
        """The anomaly that `step` was decided to be before, in the form of `look`."""
        self.watch.recall(step)
        return {**decided, "step": step, "reaction": "skip"}

    def kept(self) -> dict[str, Any]:
        """What a commit keeps, as `kept_in` reads it; nothing where there is nothing to know."""
        if len(self.course) == 0 and self.watch.state() == _core.AnomalyWatch("{}").state():
            return {}
        return {"left_out": json.loads(self.course.to_json()), "watch": self.watch.state()}


def kept_in(commit: Mapping[str, Any] | None) -> dict[str, Any]:
    """`left_out` and `watch` of a commit."""
    kept: dict[str, Any] = {"left_out": [], "watch": None}
    return kept | (((commit or {}).get("metadata") or {}).get("anomalies") or {})


def with_left_out(store_url: str, commit: dict[str, Any]) -> dict[str, Any]:
    """The commit with what a rollback to it has left out since: whoever goes on from it must leave out the same."""
    text = _core.left_out(store_url, str(commit["dir"]))
    if text is None:
        return commit
    metadata = dict(commit.get("metadata") or {})
    return commit | {"metadata": metadata | {"anomalies": json.loads(text)}}
