"""Ranks as text, and the answers of many ranks as few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from eagleray import _core


def ranks_text(ranks: Iterable[int]) -> str:
    """`0-2,5` for 0, 1, 2 and 5."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_ranks(text: str, world: int) -> list[int]:
    """The reverse, refusing ranks that the world does not have."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise _core.InvalidError(f"`--ranks {text}`: expected ranks such as 0,2-5, found `{part}`")
        low, high = int(first), int(last) if dash else int(first)
        # Before the range is made: it may be of any length.
        if low > high or high >= world:
            raise _core.InvalidError(f"`--ranks {text}`: the run has ranks {ranks_text(range(world))}, not `{part}`")
        found.update(range(low, high + 1))
    return sorted(found)


def collapsed(texts: Mapping[int, str]) -> list[str]:
    """Each text once, every line of it behind the ranks that gave it; the texts of low ranks first."""
    ranks: dict[str, list[int]] = {}
    for rank in sorted(texts):
        if texts[rank]:
            ranks.setdefault(texts[rank], []).append(rank)
    return [f"[{ranks_text(those)}] {line}" for text, those in ranks.items() for line in text.splitlines()]
