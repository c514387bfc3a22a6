"""`dataset()`: the run's order as a dataset of torch, for scripts of the user's own.

Each rank reads its own share of every global batch, in the order of the spec, and nobody else deals samples out.
Position is the only cursor: whoever goes on from a checkpoint begins at its step × the global batch, and what
Accelerate and the Trainer would skip to get there is not skipped once more.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from eagleray import _core

from .context import IGNORED, Batch, BatchStream, batch_digests, require_order, slice_of
from .ledger import Clock
from .plan import Plan
from .totals import signed, wrap_add

Row = dict[str, torch.Tensor]
_offered: list[Feed | None] = []


class RunDataset(IterableDataset):  # type: ignore[type-arg]
    """This rank's samples: `input_ids`, `labels` and `position_ids`, each int64 [sequence length].

    Labels are not shifted, as the losses of Transformers want them: `labels[t]` is `input_ids[t]`, or -100 where no
    loss counts that token, as for the first of a sample.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed = feed

    def __iter__(self) -> Iterator[Row]:
        return self.feed.rows()

    def as_datasets(self) -> Any:
        """The same samples as an `IterableDataset` of the package `datasets`, which the trainers of TRL want."""
        from .script_trl import samples_of

        return samples_of(self.feed)


class Feed:
    """One rank's share of the order, and what was handed out of it."""

    def __init__(self, plan: Plan, *, rank: int, world: int, clock: Clock) -> None:
        self.plan, self.rank, self.world, self._clock = plan, rank, world, clock
        self.share = plan.global_batch // world
        # Seconds that the script waited for samples since they were last asked for.
        self._waited = 0.0
        # After which step the script goes on, by whoever said so.
        self._starts: dict[str, int] = {}
        self._asked = False
        self._begun: int | None = None
        self._handed = 0
        self._loader_batch = 1
        self._digests: dict[int, tuple[int, int]] = {}
        self._stream: BatchStream | None = None
        self._peeking = False

    @contextmanager
    def peeked(self) -> Iterator[None]:
        """Within the block, whoever reads looks at what a sample is, and takes none."""
        self._peeking = True
        try:
            yield
        finally:
            self._peeking = False

    def dataset(self, step: int | None) -> RunDataset:
        """The samples that follow `step`, or the checkpoint that the script goes on from."""
        self._asked = True
        if step is not None:
            if step < 0:
                raise _core.InvalidError(f"`dataset(step={step})`: steps that are done are 0 or more")
            self._starts[f"`dataset(step={step})`"] = step
        return RunDataset(self)

    def require_asked(self) -> None:
        """Refuses a script that trains on something else than the `data` of its run."""
        if not self._asked:
            raise _core.InvalidError(
                "the run has `data`, and the script never called `eagleray.train.dataset()`: train on it, or leave "
                "`data` out of the spec"
            )

    def go_on_from(self, step: int) -> None:
        """The script has loaded the checkpoint of a step."""
        if self._begun is not None and self._begun != step:
            raise _core.InvalidError(
                f"a checkpoint of step {step} is loaded after `dataset()` began to be read at step {self._begun}: load "
                "it before the loop"
            )
        self._starts["the checkpoint"] = step

    def skip(self, batches: int, batch_size: int) -> None:
        """The script skips so many of its batches: to where its checkpoint stands, which must be said only once."""
        step, rest = divmod(batches * batch_size, self.share)
        if rest:
            raise _core.InvalidError(
                f"`skip_first_batches`: {batches} batches of {batch_size} end within a step of {self.share} samples on "
                f"each of {self.world} workers (`train.global_batch` is {self.plan.global_batch})"
            )
        if batches:
            self._starts[f"`skip_first_batches` of {batches} batches"] = step

    def require_batches(self, what: str, batch_size: int, accumulation: int) -> None:
        """Refuses batch arithmetic that gives another global batch than the spec's."""
        given = batch_size * accumulation * self.world
        if given != self.plan.global_batch:
            raise _core.InvalidError(
                f"{what}: {batch_size} samples × {accumulation} accumulated × {self.world} workers make a global batch "
                f"of {given}, and `train.global_batch` is {self.plan.global_batch}"
            )

    def check_loader(self, loader: Any) -> None:
        """Refuses a `DataLoader` whose batches would not end where steps do, or that would read more than once."""
        if loader.num_workers:
            raise _core.InvalidError(
                f"`DataLoader(num_workers={loader.num_workers})` on `dataset()`: it reads ahead by itself; leave "
                "`num_workers` at 0"
            )
        size = loader.batch_size or 1
        if self.share % size:
            raise _core.InvalidError(
                f"`DataLoader(batch_size={size})` on `dataset()`: `train.global_batch` {self.plan.global_batch} over "
                f"{self.world} workers is {self.share} samples a step on each, which batches of {size} do not divide"
            )
        self._loader_batch = size

    def rows(self) -> Iterator[Row]:
        """The samples, once."""
        if get_worker_info() is not None:
            raise _core.InvalidError("`dataset()` reads ahead by itself: it is for a `DataLoader` with `num_workers=0`")
        if self._peeking:
            return self._peek()
        if self._begun is not None:
            raise _core.InvalidError(
                "`dataset()` is read a second time: a run goes through its order once, to the end of `train.steps`; "
                "loop over it once, and count steps instead of epochs"
            )
        if len(set(self._starts.values())) > 1:
            said = ", ".join(f"{who} is at step {step}" for who, step in self._starts.items())
            raise _core.InvalidError(f"`dataset()` cannot begin at two places: {said}")
        self._begun = next(iter(self._starts.values()), 0)
        self.close()
        return self._rows(self._opened(self._begun))

    def ended_step(self, step: int, add_up: Callable[[list[int]], list[int]]) -> dict[str, Any]:
        """What the step took, for the ledger; `add_up` sums integers over the ranks, which all come here at once.

        Raises `InvalidError` on every rank where a rank had taken another number of samples than its steps have.
        """
        self.require_asked()
        order, token = self._digests.pop(step, (0, 0))
        done = step - self.begun
        # Accelerate's loaders are one batch ahead of the script.
        fits = self._begun is not None and self._handed - done * self.share in (0, self._loader_batch)
        order, token, wrong = add_up([order, token, 0 if fits else 1])
        if wrong:
            raise _core.InvalidError(
                f"after step {step}, {done} since the script began, rank {self.rank} has taken {self._handed} samples "
                f"of `dataset()`, expected {done * self.share}: `train.global_batch` {self.plan.global_batch} over "
                f"{self.world} workers is {self.share} samples a step on each"
            )
        return {"order_digest": f"{order:016x}", "token_digest": f"{token:016x}", "tokens": self.plan.tokens_per_step}

    @property
    def begun(self) -> int:
        """The step after which the script began to read; 0 before it does."""
        return self._begun or 0

    def waited(self) -> float:
        """Seconds that the script waited for samples since this was last asked."""
        waited, self._waited = self._waited, 0.0
        return waited

    def state_at(self, step: int) -> dict[str, Any]:
        """What a commit of the step keeps of the stream: of a state, only the position changes on the way."""
        stream = self._stream or self._opened(step)
        state: dict[str, Any] = json.loads(stream.state())
        state["order"]["position"] = step * self.plan.global_batch
        state.pop("step", None)
        return state

    def close(self) -> None:
        """Stops reading ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _opened(self, step: int) -> BatchStream:
        config = self.plan.stream_config(self.rank, self.world, step * self.plan.global_batch)
        if not self.plan.steps:
            config["end_position"] = None
        stream: Any = _core.Stream(json.dumps(config))
        self._stream = stream
        return stream  # type: ignore[no-any-return]

    def _rows(self, stream: BatchStream) -> Iterator[Row]:
        while (batch := self._next(stream)) is not None:
            for row in _rows_of(batch):
                self._handed += 1
                yield row

    def _peek(self) -> Iterator[Row]:
        stream: Any = _core.Stream(json.dumps(self.plan.stream_config(self.rank, self.world, 0)))
        try:
            batch = stream.next()
        finally:
            stream.close()
        return iter([] if batch is None else list(_rows_of(batch)))

    def _next(self, stream: BatchStream) -> Batch | None:
        began = self._clock.now()
        batch = stream.next()
        self._waited += self._clock.now() - began
        if batch is None:
            return None
        position = int(batch["step_position"])
        step = position // self.plan.global_batch + 1
        before = self._digests.get(step, (0, 0))
        sums = tuple(wrap_add(*pair) for pair in zip(before, batch_digests(batch), strict=True))
        self._digests = {**self._kept(step), step: (sums[0], sums[1])}
        if int(batch["micro_index"]) + 1 == int(batch["micro_count"]):
            mine = slice_of(self.rank, self.world, position, self.plan.global_batch)
            require_order(stream, self.rank, mine, sums[0])
        return batch

    def _kept(self, step: int) -> dict[int, tuple[int, int]]:
        """Digests that may still be asked for: nobody does in a script that tells of no steps."""
        return {number: each for number, each in self._digests.items() if number >= step - 2}


def _rows_of(batch: Batch) -> Iterator[Row]:
    tokens, positions = (torch.from_numpy(batch[name]) for name in ("tokens", "position_ids"))
    labels = unshifted(torch.from_numpy(batch["labels"]))
    for row in zip(tokens, labels, positions, strict=True):
        yield dict(zip(("input_ids", "labels", "position_ids"), row, strict=True))


def unshifted(labels: torch.Tensor) -> torch.Tensor:
    """Labels of the same tokens, from labels of the next ones; nothing of the sample comes before its first token."""
    first = torch.full_like(labels[:, :1], IGNORED)
    return torch.cat([first, labels[:, :-1]], dim=1)


@contextmanager
def offered(feed: Feed | None) -> Iterator[None]:
    """Within the block, `dataset()` gives samples of the feed."""
    _offered.append(feed)
    try:
        yield
    finally:
        _offered.remove(feed)
        if feed is not None:
            feed.close()


def dataset_here(step: int | None) -> RunDataset:
    """What `eagleray.train.dataset` returns."""
    if not _offered:
        raise _core.InvalidError(
            "`dataset()` is for scripts that a run has started: name the script in `train.script` of a run spec, and "
            "start it with `eagleray train`"
        )
    feed = _offered[-1]
    if feed is None:
        raise _core.InvalidError("`dataset()`: the run has no `data`: add it to the spec, beside `train.script`")
    return feed.dataset(step)


def adapt_loader(module: Any) -> None:
    """Has `DataLoader` ask the feed before it reads from `dataset()`."""
    original = module.DataLoader.__init__

    @functools.wraps(original)
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        original(self, *arguments, **named)
        if (feed := feed_of(self)) is not None:
            feed.check_loader(self)

    module.DataLoader.__init__ = __init__


def adapt_accelerate(module: Any) -> None:
    """Has Accelerate's loaders leave `dataset()` as it is: each rank has its share, from where it goes on."""
    prepare, skip = module.prepare_data_loader, module.skip_first_batches
    signature = inspect.signature(prepare)

    @functools.wraps(prepare)
    def prepare_data_loader(*arguments: Any, **named: Any) -> Any:
        given = signature.bind(*arguments, **named)
        if feed_of(given.arguments["dataloader"]) is None:
            return prepare(*arguments, **named)
        names = ("split_batches", "dispatch_batches", "use_stateful_dataloader")
        if refused := [f"`{name}`" for name in names if given.arguments.get(name)]:
            raise _core.InvalidError(
                f"Accelerate's {', '.join(refused)} on `dataset()`, of which each worker reads its own share, is not "
                "available"
            )
        # To Accelerate this rank is alone with its share: there is nothing to deal out.
        given.arguments.update(num_processes=1, process_index=0, dispatch_batches=False)
        return prepare(*given.args, **given.kwargs)

    @functools.wraps(skip)
    def skip_first_batches(dataloader: Any, num_batches: int = 0) -> Any:
        feed = feed_of(dataloader)
        if feed is None:
            return skip(dataloader, num_batches)
        feed.skip(num_batches, dataloader.batch_size or 1)
        return dataloader

    ours = {"prepare_data_loader": (prepare, prepare_data_loader), "skip_first_batches": (skip, skip_first_batches)}
    # Whoever was imported before this has its own name for them.
    for name in ("accelerate", "accelerate.data_loader", "accelerate.accelerator", "transformers.trainer"):
        for attribute, (before, after) in ours.items():
            if getattr(sys.modules.get(name), attribute, None) is before:
                setattr(sys.modules[name], attribute, after)


def feed_of(loader: Any) -> Feed | None:
    """The feed behind a loader, if it reads from `dataset()`."""
    return feed_in(loader.dataset) if isinstance(loader, DataLoader) else None


def feed_in(dataset: Any) -> Feed | None:
    """The feed behind a dataset, if it is `dataset()`, or made of it."""
    feed = dataset.feed if isinstance(dataset, IterableDataset) and hasattr(dataset, "feed") else None
    return feed if isinstance(feed, Feed) else None


def sum_over(group: Any, values: list[int]) -> list[int]:
    """Wrapping u64 sums over the ranks of a group; without a group, this rank is alone."""
    if group is None:
        return values
    vector = torch.tensor([signed(value) for value in values], dtype=torch.int64)
    torch.distributed.all_reduce(vector, group=group)
    return [wrap_add(int(value), 0) for value in vector.tolist()]
