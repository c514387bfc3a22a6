"""The unigram entropy, in nats, of the largest token dataset under a folder: what a model that knows
only how frequent each token is would reach."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np


def token_bytes(shard: Path) -> int:
    """The width of a token, from the header of the shard's side table (docs/formats/token-dataset.md)."""
    header = shard.with_suffix(".blocks").read_bytes()[:64]
    magic, version = struct.unpack_from("<8sI", header)
    if magic != b"ERBLOCKS" or version != 1:
        raise SystemExit(f"error: `{shard}` has no side table of version 1")
    return int(struct.unpack_from("<I", header, 40)[0])


def counts(dataset: Path) -> np.ndarray:
    """How often each id occurs."""
    total = np.zeros(0, dtype=np.int64)
    for shard in sorted(dataset.glob("shards/*.bin")):
        ids = np.fromfile(shard, dtype="<u2" if token_bytes(shard) == 2 else "<i4")
        found = np.bincount(ids)
        size = max(len(total), len(found))
        total = np.pad(total, (0, size - len(total))) + np.pad(found, (0, size - len(found)))
    return total


def entropy(dataset: Path) -> float:
    """In nats."""
    found = counts(dataset)
    shares = found[found > 0] / found.sum()
    return float(-(shares * np.log(shares)).sum())


def main() -> None:
    datasets = [shards.parent for shards in Path(sys.argv[1]).glob("*/shards")]
    if not datasets:
        raise SystemExit(f"error: no token dataset in `{sys.argv[1]}`")
    largest = max(datasets, key=lambda dataset: sum(shard.stat().st_size for shard in dataset.glob("shards/*.bin")))
    print(entropy(largest))


if __name__ == "__main__":
    main()
