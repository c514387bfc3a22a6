"""Folders as checkpoints: whatever files the ranks of a world have written, under our place, lineage and commit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eagleray import _core
from eagleray._commit import FILES

from .engine import Place, agree
from .storage import WrittenFile

COPY_BYTES = 8 << 20


def write_files(
    place: Place, folder: Path, commit: Mapping[str, Any], prepare: Callable[[], None] | None = None
) -> tuple[str, int]:
    """Commits what each rank has in its own `folder`; returns the save's directory and size.

    Every rank raises when any rank failed, also where two ranks have a file of one name.
    """
    first, step = place.rank == 0, int(commit["step"])
    directory = agree(place, lambda: str(_core.next_save(place.store_url, place.attempt, step)) if first else "")
    store = _core.Store(f"{place.store_url.rstrip('/')}/{directory}")

    def hand_over() -> None:
        written = [_copy(store, folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        segment = {"rank": place.rank, "files": [file.to_json() for file in written]}
        _core.write_segment(place.store_url, directory, place.rank, json.dumps(segment))

    def close() -> int:
        if not first:
            return 0
        if prepare is not None:
            prepare()
        fields = {"engine": FILES, "attempt": place.attempt, "world": place.world, **commit}
        _core.commit(place.store_url, directory, json.dumps(fields))
        committed = json.loads(_core.read_commit(place.store_url, directory))
        return sum(int(file["bytes"]) for file in committed["files"])

    agree(place, hand_over)
    return directory, agree(place, close)


def verify_files(place: Place, directory: str) -> None:
    """Verifies the files of a commit, a share by each rank."""
    agree(place, lambda: _core.verify(place.store_url, directory, (place.rank, place.world)))


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
