"""Which ranks a run has and where; and, beside a worker, which of them one stands beside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eagleray import _core


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank is."""

    rank: int
    node: str
    address: str
    pid: int
    local_rank: int
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The ranks that train together now."""

    store: str
    attempt: int
    generation: int
    ray: dict[str, str]
    places: tuple[Place, ...]

    def once_per_node(self, ranks: Iterable[int]) -> list[int]:
        """Of these ranks the lowest of each node."""
        lowest: dict[str, int] = {}
        for rank in sorted(ranks):
            lowest.setdefault(self.places[rank].node, rank)
        return sorted(lowest.values())

    def of(self, rank: int) -> Here:
        """What a helper beside this rank knows of it."""
        place = self.places[rank]
        return Here(
            rank=rank,
            world=len(self.places),
            local_rank=place.local_rank,
            generation=self.generation,
            node=place.node,
            address=place.address,
            pid=place.pid,
            gpus=place.gpus,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """The rank that a helper stands beside; `pid` is the process that trains."""

    rank: int
    world: int
    local_rank: int
    generation: int
    node: str
    address: str
    pid: int
    gpus: tuple[str, ...]


_here: Here | None = None


def here() -> Here:
    """The rank beside which this code runs, which is code that `Cluster.run` or the prompt sent."""
    if _here is None:
        raise _core.InvalidError(
            "`here()` has an answer only beside a worker, in what `Cluster.run` or the prompt runs"
        )
    return _here


def stand(place: Here) -> None:
    """From now on this process stands beside that rank."""
    global _here
    _here = place


def running_world(run: str) -> World:
    """Where the ranks of a run are that trains now; `run` is its store, or its spec."""
    store = run
    if run.endswith((".yaml", ".yml")):
        store = str(json.loads(_core.resolve_spec(run, []))["spec"]["store"])
    return _world(store, json.loads(_core.running_world(store)))


def has_moved_on(world: World) -> bool:
    """Whether the run has another world by now, or none."""
    text = _core.world_of_attempt(world.store, world.attempt)
    if text is None or not _core.is_current(world.store, world.attempt):
        return True
    return int(json.loads(text)["generation"]) != world.generation


def _world(store: str, found: dict[str, Any]) -> World:
    places = [Place(rank=rank, **place | {"gpus": tuple(place["gpus"])}) for rank, place in enumerate(found["ranks"])]
    known = {name: found[name] for name in ("attempt", "generation", "ray")}
    return World(store=store, places=tuple(places), **known)
