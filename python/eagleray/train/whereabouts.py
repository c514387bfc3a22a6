"""Where the ranks of the world at hand are, told on the store for whoever wants to look at them while they train."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from eagleray import _core

Place = dict[str, Any]


class Whereabouts:
    """One object on the store for each attempt: written once all ranks of a world have come, removed at the end."""

    def __init__(self, store_url: str, attempt: int) -> None:
        self._store_url = store_url
        self._attempt = attempt
        self._generation = 0
        self._world = 0
        self._places: dict[int, Place] = {}
        self._due = False

    def begin(self, generation: int, world: int) -> None:
        """A world is being built; what lies on the store about the one before stays until this one is whole."""
        self._generation, self._world = generation, world
        self._places, self._due = {}, False

    def enter(self, rank: int, place: Place) -> None:
        """A rank has come."""
        self._places[rank] = place
        self._due = bool(self._world) and self._places.keys() >= set(range(self._world))

    def write(self) -> None:
        """Writes what is due; where that fails, the next call does."""
        if not self._due:
            return
        ray = self._places[0]["ray"]
        ranks = [
            {name: value for name, value in self._places[rank].items() if name != "ray"} for rank in range(self._world)
        ]
        world = {"attempt": self._attempt, "generation": self._generation, "ray": ray, "ranks": ranks}
        _core.put_world(self._store_url, json.dumps(world))
        self._due = False

    def remove(self) -> None:
        """The attempt ends; a store that is gone must not hide how."""
        self._due = False
        with contextlib.suppress(_core.EagleRayError):
            _core.remove_world(self._store_url, self._attempt)
