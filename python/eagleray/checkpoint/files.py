"""Folders as checkpoints: whatever files the ranks of a world have written, under our place, lineage and commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eagleray import _core
from eagleray._commit import FILES

from .engine import Place, begin, finish
from .storage import WrittenFile

COPY_BYTES = 8 << 20


def write_files(
    place: Place, folder: Path, commit: Mapping[str, Any], prepare: Callable[[], None] | None = None
) -> tuple[str, int]:
    """Commits what each rank has in its own `folder`; returns the save's directory and size.

    Every rank raises when any rank failed, also where two ranks have a file of one name.
    """
    directory, store = begin(place, int(commit["step"]))

    def hand_over() -> list[WrittenFile]:
        return [_copy(store, folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]

    return directory, finish(place, directory, hand_over, {"engine": FILES, **commit}, prepare)


def _copy(store: _core.Store, folder: Path, path: Path) -> WrittenFile:
    name = path.relative_to(folder).as_posix()
    writer = store.writer(name)
    try:
        with path.open("rb") as source:
            while piece := source.read(COPY_BYTES):
                writer.write(piece)
        size, checksum = writer.finish()
    except BaseException:
        writer.abort()
        raise
    return WrittenFile(name=name, bytes=size, crc32c=checksum)
