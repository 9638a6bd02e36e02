"""Finding a file's id: the whole of it is read once, its tree is written as it grows, memory stays at a few MiB.

Synchronous steps, to be called in a thread one after another; between them the caller can report progress or give up.
"""

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
from poolnet.protocol.hash_tree import FinishedNode, TreeBuilder, TreeShape, hash_chunk
from poolnet.storage.durable import PRIVATE_FILE, store_errors
from poolnet.storage.tree_file import write_at

#: Read at once; a multiple of the chunk size.
_BUFFER_SIZE: Final = 1 * MIB
#: Hashed in one step: about 10 ms.
_STEP_SIZE: Final = 16 * MIB


class FileHasher:
    """Hashes one file. A context manager: it holds the file and the unfinished tree open.

    Args:
        path: a regular file, or a link to one.
        tree_path: where to write its tree.

    Raises:
        SourceUnavailable: it cannot be read, or is not a regular file.
        StoreError: the tree cannot be written.
    """

    def __init__(self, path: Path, tree_path: Path) -> None:
        self.path = path
        self.done_bytes = 0
        self._builder = TreeBuilder()
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._tree_path = tree_path
        self._source = _open_source(path)
        try:
            self._before = os.fstat(self._source.fileno())
            with store_errors("write", tree_path):
                self._tree = os.open(tree_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
        except BaseException:
            self._source.close()
            raise
        self._shape = TreeShape(self.size_bytes)

    def __enter__(self) -> "FileHasher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.close()
        os.close(self._tree)
        if error is not None:
            self._tree_path.unlink(missing_ok=True)

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
        end = min(self.done_bytes + _STEP_SIZE, self.size_bytes)
        while self.done_bytes < end:
            self._hash_piece(self._buffer[: min(_BUFFER_SIZE, self.size_bytes - self.done_bytes)])
        return self.done_bytes < self.size_bytes

    def finish(self, place: Callable[[FileId], Path]) -> FileId:
        """Return the id of the file; its tree is complete, synced, and moved to ``place(file_id)``.

        Raises:
            SourceUnavailable: it changed while it was read.
            StoreError: the tree cannot be written.
        """
        file_id, nodes = self._builder.finish(self.size_bytes)
        self._write(nodes)
        after = os.fstat(self._source.fileno())
        if (after.st_size, after.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise SourceUnavailable(f"{self.path} was changed while it was read; offer it again when it is finished")
        with store_errors("write", self._tree_path):
            os.fsync(self._tree)
            os.replace(self._tree_path, place(file_id))
        return file_id

    def _hash_piece(self, part: memoryview) -> None:
        try:
            got = self._source.readinto(part)
        except OSError as exc:
            raise SourceUnavailable(f"{self.path} cannot be read: {exc.strerror}") from exc
        if got is None or got < len(part):  # a regular file gives less only at its end
            raise SourceUnavailable(f"{self.path} was cut while it was read; offer it again when it is finished")
        for start in range(0, got, CHUNK_SIZE):
            self._write(self._builder.add(hash_chunk(part[start : start + CHUNK_SIZE])))
        self.done_bytes += got

    def _write(self, nodes: list[FinishedNode]) -> None:
        with store_errors("write", self._tree_path):
            for node in nodes:
                piece = self._shape.piece_of_node(node.height, node.index)
                write_at(self._tree, node.data, self._shape.node_offset(piece))


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
