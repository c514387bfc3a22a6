"""The run's data as an `IterableDataset` of the package `datasets`, the only kind that TRL's trainers take."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from eagleray import _core

from .script_data import Feed, feed_in


def samples_of(feed: Feed) -> Any:
    """The samples of the feed: `input_ids`, `labels` and `position_ids`, lists of integers."""
    try:
        import datasets  # type: ignore[import-untyped]
        from datasets.iterable_dataset import ExamplesIterable  # type: ignore[import-untyped]
    except ImportError as error:
        raise _core.InvalidError(f"`dataset().as_datasets()` needs the package `datasets`: {error}") from error

    names = ("input_ids", "labels", "position_ids")

    class RunSamples(datasets.IterableDataset):  # type: ignore[misc]
        """Read as it is: what would make another dataset of it is refused when that is read."""

        def __init__(self) -> None:
            features = datasets.Features({name: datasets.List(datasets.Value("int64")) for name in names})
            super().__init__(ExamplesIterable(_refuse, {}), info=datasets.DatasetInfo(features=features))
            self.feed = feed

        def __iter__(self) -> Iterator[dict[str, list[int]]]:
            return ({name: values.tolist() for name, values in row.items()} for row in feed.rows())

    return RunSamples()


def adapt(module: Any) -> None:
    """Has `SFTTrainer` look at the first sample, as it does when it is made, without taking it."""
    trainer = module.SFTTrainer
    begin = trainer.__init__

    @functools.wraps(begin)
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        given = (*arguments, *named.values())
        feed = next((found for each in given if (found := feed_in(each)) is not None), None)
        if feed is None:
            begin(self, *arguments, **named)
            return
        with feed.peeked():
            begin(self, *arguments, **named)

    trainer.__init__ = __init__


def _refuse() -> Iterator[Any]:
    raise _core.InvalidError(
        "`dataset().as_datasets()` is tokenised and packed, and read as it is: give "
        "`SFTConfig(dataset_kwargs={'skip_prepare_dataset': True})`, without `packing`, and no `map` or `filter`"
    )
    yield
