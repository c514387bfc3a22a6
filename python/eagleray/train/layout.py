"""How a model lies on the ranks of a world: the axes of the mesh, and what each rank reads and says.

Without torch, so that the driver need not wait for its import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagleray import _core

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
# What DeepSpeed spreads.
ZERO = ("zero1", "zero2", "zero3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`train.strategy`, decided: `ddp`, `fsdp2`, one of `ZERO`, or `mesh` with its axes."""

    kind: str
    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @classmethod
    def from_resolved(cls, strategy: Mapping[str, Any]) -> Layout:
        """The layout of a resolved spec's strategy."""
        return cls(kind=strategy["kind"], **{axis: strategy[axis] for axis in AXES if axis in strategy})

    @property
    def mesh_size(self) -> int:
        """The number that every world is a multiple of."""
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp

    def require_divided(self, vocab_size: int) -> None:
        """Refuses a vocabulary of which some rank of `tp` would have a smaller part."""
        if vocab_size % self.tp != 0:
            above = -(-vocab_size // self.tp) * self.tp
            raise _core.InvalidError(
                f"`train.strategy: {self}` needs a vocabulary that `tp` divides, and the model's is {vocab_size}; give "
                f"the model a `config` with `vocab_size: {above}`, whose last ids are never used"
            )

    def __str__(self) -> str:
        if self.kind != "mesh":
            return self.kind
        axes = [f"{axis}: {size}" for axis in AXES if (size := getattr(self, axis)) != 1]
        return f"{{{', '.join(axes)}}}"

    def over(self, world: int) -> Axes:
        """The axes of a world; ranks beyond the product of a mesh are further replicas."""
        if self.kind == "ddp":
            return Axes(dp_replicate=world)
        if self.kind in ("fsdp2", *ZERO):
            return Axes(dp_shard=world)
        replicas, rest = divmod(world, self.mesh_size)
        if rest != 0:
            raise _core.InvalidError(
                f"`train.strategy: {self}` is a mesh of {self.mesh_size} workers, and the world has {world}; "
                f"make `cluster.workers` a multiple of {self.mesh_size}"
            )
        return Axes(
            pp=self.pp,
            dp_replicate=self.dp_replicate * replicas,
            dp_shard=self.dp_shard,
            cp=self.cp,
            tp=self.tp,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The sizes of a mesh over a whole world, outermost first: neighbours in `tp` are neighbours in rank."""

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes in the order of `AXES`; their product is the world."""
        return (self.pp, self.dp_replicate, self.dp_shard, self.cp, self.tp)

    @property
    def readers(self) -> int:
        """Shares of a global batch: ranks of one share train on the same samples."""
        return self.dp_replicate * self.dp_shard

    def reader(self, rank: int) -> int:
        """The share of the global batch that `rank` reads."""
        return rank // (self.cp * self.tp) % self.readers

    def stage(self, rank: int) -> int:
        """The pipeline stage of `rank`."""
        return rank // (self.readers * self.cp * self.tp)

    def speaks(self, rank: int) -> bool:
        """Whether `rank` is the one of its share that has the losses and tells of the samples."""
        return self.stage(rank) == self.pp - 1 and rank % (self.cp * self.tp) == 0

    def layers(self, stage: int, num_layers: int, num_stages: int) -> range:
        """The layers of one of all stages: evenly, the first stages take one more."""
        each, rest = divmod(num_layers, num_stages)
        first = stage * each + min(stage, rest)
        return range(first, first + each + (1 if stage < rest else 0))
