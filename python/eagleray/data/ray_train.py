"""The stream behind `ray.train.get_dataset_shard`, by Ray Train's own hook.

Ray asks `DataConfig.configure` which iterator each worker gets and hands over whatever that returns. Here it
is a `StreamShard`: a few hundred bytes that say what to open, sent to the worker and opened there, by
position. No tokens pass through Ray.

    trainer = TorchTrainer(
        train_function,
        datasets={"train": streamed},
        dataset_config=StreamDataConfig(stream_config("run.yaml")),
        …
    )

    def train_function():
        shard = ray.train.get_dataset_shard("train")
        for batch in shard.open(position=resumed):
            …
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.train import DataConfig

from .stream import Batch, SampleStream

_DataConfig: Any = DataConfig


def streamed() -> None:
    """The dataset to name in a trainer's `datasets`: Ray wants one behind the name, and there is none to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShard:
    """What a worker opens: a stream's configuration with this worker's rank and world in it."""

    config: Mapping[str, Any]

    def open(
        self,
        *,
        rank: int | None = None,
        world: int | None = None,
        position: int | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> SampleStream:
        """The stream, from a position or a state on; rank and world are Ray's unless given."""
        given = {"rank": rank, "world": world, "position": position, "state": state}
        return SampleStream({**self.config, **{name: value for name, value in given.items() if value is not None}})

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.open())


class StreamDataConfig(_DataConfig):  # type: ignore[misc]
    """Gives each worker its part of a stream under the names listed, and Ray's own iterators under any other."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        names: Sequence[str] = ("train",),
        datasets_to_split: Sequence[str] = (),
    ) -> None:
        # A dataset that is split makes every worker wait for rank 0; ours have nothing to agree on.
        super().__init__(datasets_to_split=list(datasets_to_split))
        self.config = dict(config)
        self.names = tuple(names)

    def configure(
        self,
        datasets: Mapping[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """One dict of shards per worker; a worker's place in the list is its rank."""
        others = {name: dataset for name, dataset in datasets.items() if name not in self.names}
        shards: list[dict[str, Any]]
        if others:
            shards = super().configure(others, world_size, worker_handles, worker_node_ids, **kwargs)
        else:
            shards = [{} for _ in range(world_size)]
        for rank, shard in enumerate(shards):
            config = self.config | {"rank": rank, "world": world_size}
            shard.update({name: StreamShard(config=config) for name in datasets if name in self.names})
        return shards
