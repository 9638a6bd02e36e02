"""Finding a file's id: the whole of it is read once, its tree is written as it grows, memory stays at a few MiB.

Synchronous steps, to be called in a thread one after another; between them the caller can report progress or give up.
Holes of a sparse file are not read: what they hash to is known.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final

from poolnet.errors import SourceUnavailable
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.protocol.hash_tree import FinishedNode, TreeBuilder, TreeShape, chunk_hasher, hash_chunk
from poolnet.storage.durable import PRIVATE_FILE, replace_durably, store_errors
from poolnet.storage.tree_file import write_at

#: Read at once; a multiple of the chunk size.
BUFFER_SIZE: Final = 1 * MIB
#: Hashed in one step: about 10 ms.
STEP_SIZE: Final = 16 * MIB
#: ... and in holes, where a chunk costs a microsecond.
HOLE_STEP_SIZE: Final = 2048 * MIB
#: The hash of a chunk of zeros.
ZERO_CHUNK_HASH: Final = hash_chunk(bytes(CHUNK_SIZE))
_ZEROS: Final = memoryview(bytes(CHUNK_SIZE))


class ChunkHasher:
    """Finds the id of a file that comes in portions of any size, in order; nodes come out when they are complete."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._builder = TreeBuilder()
        self._begun = chunk_hasher()
        self._begun_size = 0

    def feed(self, data: memoryview) -> list[FinishedNode]:
        """Take the next bytes."""
        return self._feed(data, len(data))

    def feed_zeros(self, size: int) -> list[FinishedNode]:
        """Take so many zeros."""
        return self._feed(None, size)

    def finish(self) -> tuple[FileId, list[FinishedNode]]:
        """Return the id of the file, and the nodes not returned yet. Ends the hasher's life."""
        nodes = self._builder.add(self._begun.digest()) if self._begun_size else []
        file_id, last_nodes = self._builder.finish(self.size_bytes)
        return file_id, nodes + last_nodes

    def _feed(self, data: memoryview | None, size: int) -> list[FinishedNode]:
        """Take `size` bytes: `data`, or zeros."""
        nodes: list[FinishedNode] = []
        self.size_bytes += size
        start = 0
        while start < size:
            stop = min(size, start + CHUNK_SIZE - self._begun_size)
            if stop - start == CHUNK_SIZE:
                nodes += self._builder.add(ZERO_CHUNK_HASH if data is None else hash_chunk(data[start:stop]))
            else:
                nodes += self._feed_part(_ZEROS[: stop - start] if data is None else data[start:stop])
            start = stop
        return nodes

    def _feed_part(self, data: memoryview) -> list[FinishedNode]:
        """Take a part of a chunk."""
        self._begun.update(data)
        self._begun_size += len(data)
        if self._begun_size < CHUNK_SIZE:
            return []
        digest = self._begun.digest()
        self._begun, self._begun_size = chunk_hasher(), 0
        return self._builder.add(digest)


class TreeWriter:
    """Writes the tree of a file of known size, to be named when its id is known.

    Raises:
        StoreError: it cannot be written; so do the methods.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._shape = TreeShape(size_bytes)
        with store_errors("write", path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)

    def write(self, nodes: list[FinishedNode]) -> None:
        """Write nodes where they belong."""
        with store_errors("write", self._path):
            for node in nodes:
                piece = self._shape.piece_of_node(node.height, node.index)
                write_at(self._descriptor, node.data, self._shape.node_offset(piece))

    def publish(self, place: Path) -> None:
        """Give the complete tree its name, durably."""
        with store_errors("write", self._path):
            os.fsync(self._descriptor)
            replace_durably(self._path, place)

    def close(self, *, is_kept: bool) -> None:
        """Close it; unless it is kept, remove it; if that fails, the next start does it."""
        os.close(self._descriptor)
        if not is_kept:
            with contextlib.suppress(OSError):  # or it would hide why the tree is not kept
                self._path.unlink(missing_ok=True)


class FileHasher:
    """Hashes one file. A context manager: it holds the file and the unfinished tree open.

    Args:
        path: a regular file, or a link to one.
        tree_path: where to write its tree; None: only its id matters.

    Raises:
        SourceUnavailable: it cannot be read, or is not a regular file.
        StoreError: the tree cannot be written.
    """

    def __init__(self, path: Path, tree_path: Path | None) -> None:
        self.path = path
        self.done_bytes = 0
        self._hasher = ChunkHasher()
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._source = _open_source(path)
        try:
            self._before = os.fstat(self._source.fileno())
            self._tree = None if tree_path is None else TreeWriter(tree_path, self.size_bytes)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> "FileHasher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.close()
        if self._tree is not None:
            self._tree.close(is_kept=error is None)

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self._before.st_size

    @property
    def mtime_ns(self) -> int:
        """When the file was last modified, before it was read."""
        return self._before.st_mtime_ns

    def step(self) -> bool:
        """Read and hash some more; return whether there is still more.

        Raises:
            SourceUnavailable: it cannot be read, or was cut meanwhile.
            StoreError: the tree cannot be written.
        """
        work = 0.0
        while self.done_bytes < self.size_bytes and work < 1:
            size, data = read_portion(self.path, self._source, self.done_bytes, self.size_bytes, self._buffer)
            self._write(self._hasher.feed_zeros(size) if data is None else self._hasher.feed(data))
            self.done_bytes += size
            work += size / (HOLE_STEP_SIZE if data is None else STEP_SIZE)
        return self.done_bytes < self.size_bytes

    def finish(self, place: Callable[[FileId], Path]) -> FileId:
        """Return the id of the file; its tree is complete, synced, and moved to ``place(file_id)``.

        Raises:
            SourceUnavailable: it changed while it was read.
            StoreError: the tree cannot be written.
        """
        assert self._tree is not None, "it was asked for"
        file_id = self.finish_id()
        self._tree.publish(place(file_id))
        return file_id

    def finish_id(self) -> FileId:
        """Return the id of the file, whose tree is not kept.

        Raises:
            SourceUnavailable, StoreError: as `finish`.
        """
        file_id, nodes = self._hasher.finish()
        self._write(nodes)
        after = os.fstat(self._source.fileno())
        if (after.st_size, after.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise SourceUnavailable(f"{self.path} was changed while it was read; offer it again when it is finished")
        return file_id

    def _write(self, nodes: list[FinishedNode]) -> None:
        if self._tree is not None:
            self._tree.write(nodes)


def read_portion(
    path: Path, source: FileIO, offset: int, end: int, buffer: memoryview
) -> tuple[int, memoryview | None]:
    """Return the size of the next portion of a file, and its bytes (in `buffer`), or None for a hole.

    Args:
        path: of the file, for the error.
        source: the file.
        offset: where the portion begins.
        end: the size that the file had.
        buffer: of which as much is filled as there is in the file.

    Raises:
        SourceUnavailable: it cannot be read, or was cut meanwhile.
    """
    try:
        hole = hole_size(source.fileno(), offset, end)
        if hole >= CHUNK_SIZE:
            return min(hole, HOLE_STEP_SIZE), None
        part = buffer[: end - offset]
        source.seek(offset)
        got = source.readinto(part)
    except OSError as exc:
        raise SourceUnavailable(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if got is None or got < len(part):  # a regular file gives less only at its end
        raise SourceUnavailable(f"{path} was cut while it was read; offer it again when it is finished")
    return got, part


def hole_size(descriptor: int, offset: int, end: int) -> int:
    """Return how many bytes from `offset` on are known to be zeros without looking: 0 where the system cannot tell."""
    if os.fstat(descriptor).st_size < end:
        return 0  # it was cut, which is no hole
    try:
        return min(os.lseek(descriptor, offset, os.SEEK_DATA), end) - offset
    except OSError as exc:
        return end - offset if exc.errno == errno.ENXIO else 0


def _open_source(path: Path) -> FileIO:
    """Open a regular file; anything else (a directory, a device, a pipe) is refused before it can block."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceUnavailable(f"{path} is not a file; only files can be offered")
        return FileIO(path)
    except FileNotFoundError as exc:
        raise SourceUnavailable(f"there is no file {path}") from exc
    except OSError as exc:
        raise SourceUnavailable(f"{path} cannot be read: {exc.strerror or exc}") from exc
