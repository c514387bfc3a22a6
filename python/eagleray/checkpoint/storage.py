"""`torch.distributed.checkpoint`'s file reader and writer over our store: local folders and S3 alike.

DCP plans who writes which tensor and gathers that plan on rank 0; everything below the plan is ours:
files become visible whole, and their size and CRC-32C are recorded as the bytes go out. The seam for
an engine without the gather is this module: it would replace `StoreWriter` and `StoreReader`.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemBase,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import WriteResult

from eagleray import _core

METADATA_NAME = ".metadata"
# A tensor's zip container is written in pieces of a few dozen bytes; they are collected up to this size.
WRITE_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One file of a save, as it went out."""

    name: str
    bytes: int
    crc32c: int

    def to_json(self) -> dict[str, Any]:
        """The entry of a segment."""
        return {"name": self.name, "bytes": self.bytes, "crc32c": f"{self.crc32c:08x}"}


class _Outgoing(io.RawIOBase):
    """A store writer with the two calls that DCP makes: `write` and `tell`."""

    def __init__(self, writer: Any) -> None:
        super().__init__()
        self._writer = writer
        self._pending = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._position += len(view)
        if len(view) >= WRITE_BUFFER_BYTES:
            self.drain()
            self._writer.write(view)
        else:
            self._pending += view
            if len(self._pending) >= WRITE_BUFFER_BYTES:
                self.drain()
        return len(view)

    def flush(self) -> None:
        """Nothing to do: bytes are safe when the writer finishes, and not before."""

    def close(self) -> None:
        """Left to the file system, which finishes the writer or aborts it."""

    def drain(self) -> None:
        if self._pending:
            self._writer.write(bytes(self._pending))
            self._pending.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incoming:
    """A file to read; ranges of it are fetched when DCP asks for them."""

    path: str


class StoreFiles(FileSystemBase):
    """The files of one save directory of a store."""

    def __init__(self, store: _core.Store) -> None:
        self.store = store
        self.written: list[WrittenFile] = []

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """A file to write, visible when the block ends without an exception; or a handle to read."""
        if mode != "wb":
            yield _Incoming(path=str(path))
            return
        writer = self.store.writer(str(path))
        stream = _Outgoing(writer)
        try:
            yield stream
            stream.drain()
            size, checksum = writer.finish()
        except BaseException:
            writer.abort()
            raise
        self.written.append(WrittenFile(name=str(path), bytes=size, crc32c=checksum))

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """Names are relative to the save directory, so there is nothing to join."""
        return suffix

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """The save directory is the store's root."""
        return ""

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Never needed: a file is written whole under its own name."""
        raise NotImplementedError("a store has no rename")

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Stores have no directories to make."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Save directories are named by the lineage, never by DCP's caller."""
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether the file is there."""
        return self.store.head(str(path)) is not None

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Deletes the file."""
        self.store.delete(str(path))


class StoreWriter(FileSystemWriter):
    """Writes a rank's tensors into one file of the save directory that `store` is the root of."""

    def __init__(self, store: _core.Store) -> None:
        # Durability is the store's: it syncs a file before it shows it.
        super().__init__("", single_file_per_rank=True, sync_files=False, thread_count=1)
        self.files = StoreFiles(store)
        self.fs: Any = self.files
        self.path = ""

    def prepare_local_plan(self, plan: Any) -> Any:
        """Save directories are new by construction, so there is no older metadata to look for."""
        return plan

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes DCP's index, on rank 0, after every rank's data."""
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {result.index: result.storage_data for part in results for result in part}
        metadata.storage_meta = self.storage_meta()
        with self.files.create_stream(METADATA_NAME, "wb") as stream:
            pickle.dump(metadata, stream)


class StoreReader(FileSystemReader):
    """Reads tensors by range from the save directory that `store` is the root of."""

    def __init__(self, store: _core.Store) -> None:
        super().__init__("")
        self.store = store
        self.fs: Any = StoreFiles(store)
        self.path = ""

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        return io.BytesIO(self.store.get_range(file.path, sinfo.offset, sinfo.length))

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """DCP's index. It is a pickle: read only after its CRC matched the commit that names it."""
        metadata: Metadata = pickle.loads(self.store.get(METADATA_NAME))
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata
