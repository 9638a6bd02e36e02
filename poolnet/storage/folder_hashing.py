"""Finding the ids of a folder: of each file in it, and of the content that they are together. Each byte is read once.

Synchronous steps like those of hashing.py; memory is the ids, 32 bytes a file.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final

from poolnet.errors import SourceUnavailable
from poolnet.ids import ID_SIZE, FileId
from poolnet.storage.folder_walk import FolderWalk
from poolnet.storage.hashing import BUFFER_SIZE, HOLE_STEP_SIZE, STEP_SIZE, ChunkHasher, TreeWriter, read_portion
from poolnet.storage.no_links import opened_folder
from poolnet.wire.folder_list import EntryKind, FolderEntry, empty_directory

#: Opening and closing a file is as much work as hashing so many bytes.
_WORK_PER_FILE: Final = STEP_SIZE // 500


class FolderHasher:
    """Hashes the files that a complete walk has found. A context manager, as `FileHasher`.

    Args:
        walk: what is in the folder.
        tree_path: where to write the tree of the content.

    Raises:
        SourceUnavailable: the folder cannot be opened.
        StoreError: the tree cannot be written.
    """

    def __init__(self, walk: FolderWalk, tree_path: Path) -> None:
        self.path = walk.path
        self.done_bytes = 0
        self._index = walk.index
        self._mtimes_ns = walk.mtimes_ns
        self._content = ChunkHasher()
        self._ids = bytearray()
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._tree = TreeWriter(tree_path, self._index.content_size)
        self._opened = contextlib.ExitStack()
        try:
            self._root = self._opened.enter_context(opened_folder(self.path, may_be_link=True))
        except OSError as exc:
            self._tree.close(is_kept=False)
            raise SourceUnavailable(f"{self.path} cannot be read: {exc.strerror}") from exc
        self._portions = self._hash_files()

    def __enter__(self) -> "FolderHasher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portions.close()
        self._opened.close()
        self._tree.close(is_kept=error is None)

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return self._index.starts[-1]

    def step(self) -> bool:
        """Read and hash some more; return whether there is still more.

        Raises:
            SourceUnavailable: a file cannot be read, or was changed since the walk.
            StoreError: the tree cannot be written.
        """
        work = 0.0
        for done in self._portions:
            work += done
            if work >= 1:
                return True
        return False

    def entries(self) -> Iterator[FolderEntry]:
        """Yield the entries of the folder's list, when `step` has returned False."""
        for place, path in enumerate(self._index.paths):
            kind = EntryKind(self._index.kinds[place])
            if kind == EntryKind.EMPTY_DIRECTORY:
                yield empty_directory(path)
            else:
                file_id = FileId(bytes(self._ids[place * ID_SIZE : (place + 1) * ID_SIZE]))
                yield FolderEntry(path=path, size_bytes=self._index.size(place), file_id=file_id, kind=kind)

    def finish(self, list_id: FileId, place: Callable[[FileId], Path]) -> FileId:
        """Return the id of the content; its tree is complete, synced, and moved to ``place(file_id)``.

        Args:
            list_id: the id of the list of `entries`.
            place: tells where the tree of a file goes.

        Raises:
            StoreError: the tree cannot be written.
        """
        self._tree.write(self._content.feed(memoryview(list_id)))
        file_id, nodes = self._content.finish()
        self._tree.write(nodes)
        self._tree.publish(place(file_id))
        return file_id

    def _hash_files(self) -> Generator[float, None, None]:
        """Hash all files; yield how much of a step each portion was."""
        for place, kind in enumerate(self._index.kinds):
            if kind == EntryKind.EMPTY_DIRECTORY:
                self._ids += bytes(ID_SIZE)
                continue
            with self._open(place) as source:
                self._check(place, source)
                yield from self._hash_file(place, source)
                self._check(place, source)
            yield _WORK_PER_FILE / STEP_SIZE

    def _hash_file(self, place: int, source: FileIO) -> Iterator[float]:
        path, end = self._path(place), self._index.size(place)
        hasher = ChunkHasher()
        while hasher.size_bytes < end:
            size, data = read_portion(path, source, hasher.size_bytes, end, self._buffer)
            if data is None:
                hasher.feed_zeros(size)
                self._tree.write(self._content.feed_zeros(size))
            else:
                hasher.feed(data)
                self._tree.write(self._content.feed(data))
            self.done_bytes += size
            yield size / (HOLE_STEP_SIZE if data is None else STEP_SIZE)
        self._ids += hasher.finish()[0]

    def _open(self, place: int) -> FileIO:
        try:
            return FileIO(self._root.open_file(self._index.paths[place], os.O_RDONLY))
        except OSError as exc:
            raise SourceUnavailable(f"{self._path(place)} cannot be read: {exc.strerror}; exclude it") from exc

    def _check(self, place: int, source: FileIO) -> None:
        """Make sure that a file is what the walk has found."""
        found = os.fstat(source.fileno())
        before = (self._index.size(place), self._mtimes_ns[place])
        if (found.st_size, found.st_mtime_ns) != before:
            path = self._path(place)
            raise SourceUnavailable(f"{path} was changed while the folder was read; offer it again when it is finished")

    def _path(self, place: int) -> Path:
        return self.path / self._index.paths[place]
