"""The samples that stand out in a step with an anomaly, and the documents that they were cut from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from eagleray import _core

from .context import Context

# As many as a person looks at.
SUSPECTS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A sample: its position, its summed loss in nats, and its place; without one where it could not be read."""

    position: int
    loss: float
    place: dict[str, Any] | None

    def kept(self) -> dict[str, Any]:
        """What the ledger keeps."""
        loss = {"loss": self.loss} if math.isfinite(self.loss) else {}
        return {"position": self.position, **loss, **(self.place or {})}

    def __str__(self) -> str:
        loss = f"a loss of {self.loss:.1f} nats" if math.isfinite(self.loss) else "a loss that is no number"
        place = self.place
        if place is None:
            return f"position {self.position} ({loss})"
        parts = " and ".join(
            f"documents {part['documents'][0]} to {part['documents'][1]} of `{part['shard']}` (tokens "
            f"{part['tokens'][0]} to {part['tokens'][1]})"
            for part in place["parts"]
        )
        return f"position {self.position} ({loss}): sample {place['index']} of source `{place['source']}`, {parts}"


def suspects_of(context: Context, seen: Sequence[tuple[int, float]]) -> list[Suspect]:
    """The samples of the world with the highest losses, those that are no number first; the same on every rank.

    Every rank must call it at one step, with the positions and losses that it alone has seen.
    """
    worst = sorted(seen, key=_badness, reverse=True)[:SUSPECTS_MAX]
    gathered: list[Any] = [None] * context.world
    dist.all_gather_object(gathered, worst, group=context.save_group)
    worst = sorted((each for told in gathered for each in told), key=_badness, reverse=True)[:SUSPECTS_MAX]
    answer: list[Any] = [None]
    if context.rank == 0:
        answer[0] = _places(context, [position for position, _ in worst])
    dist.broadcast_object_list(answer, src=0, group=context.save_group)
    return [
        Suspect(position=position, loss=loss, place=place)
        for (position, loss), place in zip(worst, answer[0], strict=True)
    ]


def text_of(suspects: Sequence[Suspect]) -> str:
    """Sentences for people, with a space behind them."""
    if not suspects:
        return ""
    shown = "; ".join(str(suspect) for suspect in suspects)
    return f"The highest losses of single samples: {shown}. "


def _badness(seen: tuple[int, float]) -> tuple[bool, float, int]:
    position, loss = seen
    finite = math.isfinite(loss)
    return (not finite, loss if finite else 0.0, -position)


def _places(context: Context, positions: list[int]) -> list[dict[str, Any] | None]:
    """Where the samples lie; what keeps that from being read must not hide the anomaly."""
    try:
        found = json.loads(_core.documents_at(json.dumps(context.plan.stream_config(0, 1, 0)), positions))
    except _core.EagleRayError:
        return [None] * len(positions)
    return [{name: place[name] for name in ("source", "index", "parts")} for place in found]
