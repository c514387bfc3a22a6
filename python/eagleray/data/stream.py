"""The stream as an iterator, for training loops of any kind: torchrun, Ray Train, a notebook."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagleray import _core

if TYPE_CHECKING:
    import torch

Batch = dict[str, Any]
"""Arrays of one micro batch of b samples of S tokens, each owning its memory.

`tokens`, `labels`, `position_ids` are int64 [b, S]; `positions`, `source`, `epoch`, `index` are uint64 [b]
and say which samples these are; `micro_index`, `micro_count` and `step_position` are integers. b is 0 where
the rank has run out of samples for the step and its peers have not.
"""

_TENSORS = ("tokens", "labels", "position_ids")


class SampleStream:
    """Micro batches of one rank, in order, read ahead in the background; opened when first asked.

    `state_dict` and `load_state_dict` work as those of torchdata's StatefulDataLoader. A state is below 4 KB,
    and one taken between steps can be loaded at any world size.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._stream: Any = None

    @property
    def config(self) -> dict[str, Any]:
        """What the stream was made of; see `stream_config`."""
        return dict(self._config)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.next()
        if batch is None:
            raise StopIteration
        return batch

    def next(self) -> Batch | None:
        """The next micro batch, or None at the end."""
        batch: Batch | None = self._opened().next()
        return batch

    def torch(self) -> TorchStream:
        """The same batches as tensors; it takes the place of this stream."""
        return TorchStream(self)

    def state(self) -> str:
        """Where the stream stands, as JSON."""
        return str(self._opened().state())

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: behind the last batch it returned."""
        state: dict[str, Any] = json.loads(self.state())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, or refuses one of another data order, saying what differs."""
        self.close()
        self._config["state"] = dict(state)
        self._opened()

    def expected_order_digest(self, start: int, end: int, /) -> int:
        """The closed form of the order digest of positions [start, end)."""
        return int(self._opened().expected_order_digest(start, end))

    def stats(self) -> dict[str, Any]:
        """Bytes and reads so far, samples in the queue, and seconds waited by cause."""
        stats: dict[str, Any] = json.loads(self._opened().stats())
        return stats

    def close(self) -> None:
        """Stops reading ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _opened(self) -> Any:
        if self._stream is None:
            self._stream = _core.Stream(json.dumps(self._config))
        return self._stream


class TorchStream:
    """A stream whose `tokens`, `labels` and `position_ids` are tensors over the same memory as its arrays."""

    def __init__(self, stream: SampleStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return tensors_of(next(self._stream))

    def state_dict(self) -> dict[str, Any]:
        """As `SampleStream.state_dict`."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `SampleStream.load_state_dict`."""
        self._stream.load_state_dict(state)

    def close(self) -> None:
        """Stops reading ahead."""
        self._stream.close()


def tensors_of(batch: Batch) -> Batch:
    """The batch with tensors in the place of its arrays of tokens; nothing is copied."""
    import torch

    tensors: dict[str, torch.Tensor] = {name: torch.from_numpy(batch[name]) for name in _TENSORS}
    return batch | tensors


def stream(
    spec: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rank: int | None = None,
    world: int | None = None,
    position: int = 0,
    prefetch_bytes: int | None = None,
) -> SampleStream:
    """The training stream of a run spec: a path to its YAML or `resolved.json`, or the resolved run itself.

    `rank` and `world` are those of torchrun's environment (`RANK`, `WORLD_SIZE`) where they are left out.
    The datasets must have been built: `eagleray tokens build run.yaml`.
    """
    return SampleStream(stream_config(spec, rank=rank, world=world, position=position, prefetch_bytes=prefetch_bytes))


def stream_config(
    spec: str | os.PathLike[str] | Mapping[str, Any],
    *,
    rank: int | None = None,
    world: int | None = None,
    position: int = 0,
    prefetch_bytes: int | None = None,
) -> dict[str, Any]:
    """The configuration of a rank's training stream, as plain JSON values."""
    resolved = _resolved(spec)
    data, train = resolved["spec"]["data"], resolved["spec"]["train"]
    config: dict[str, Any] = {
        "sources": [
            {"name": name, "url": _dataset_url(resolved, name), "weight": source["weight"]}
            for name, source in data["sources"].items()
        ],
        "sequence_length": data["sequence_length"],
        "seed": resolved["spec"]["seed"],
        "global_batch": train["global_batch"],
        "micro_batch": train["micro_batch"],
        "rank": int(os.environ.get("RANK", "0")) if rank is None else rank,
        "world": int(os.environ.get("WORLD_SIZE", "1")) if world is None else world,
        "position": position,
    }
    if train.get("steps") is not None:
        config["end_position"] = train["steps"] * train["global_batch"]
    if prefetch_bytes is not None:
        config["prefetch_bytes"] = prefetch_bytes
    return config


def _resolved(spec: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(spec, Mapping):
        return spec
    path = Path(spec)
    text = path.read_text(encoding="utf-8") if path.suffix == ".json" else _core.resolve_spec(str(path), [])
    resolved: Mapping[str, Any] = json.loads(text)
    return resolved


def _dataset_url(resolved: Mapping[str, Any], name: str) -> str:
    plan = json.loads(_core.plan_build(json.dumps(resolved), name, "train"))
    if plan["dataset"] is None:
        raise _core.NotFoundError(
            f"the token dataset of source `{name}` is not built; run `eagleray tokens build` on the spec first"
        )
    return str(plan["dataset"])
