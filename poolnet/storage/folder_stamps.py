"""Whether a folder is still what it was: sizes and modification times of its files, looked at a part at a time.

The times are kept in a file, eight bytes each in the order of the list. They are only hints where to look: what is
given to others is verified when it is read.
"""

import os
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from poolnet.storage.durable import store_errors, write_durably
from poolnet.storage.folder_index import FolderIndex
from poolnet.wire.folder_list import EntryKind

#: Files looked at in one call: some 10 ms.
_FILES_PER_CALL: Final = 4000


@attrs.frozen(kw_only=True)
class Looked:
    """What a look at some files has shown.

    Attributes:
        reason: why the folder is certainly not what it was; None if that is not so.
        touched: files (by place in the list) that were written to, and may be what they were all the same.
    """

    reason: str | None = None
    touched: tuple[int, ...] = ()


class FolderStamps:
    """The stamps of one folder. Synchronous; one thread at a time.

    Args:
        path: the folder.
        load: returns its files.
        kept_at: where the times are kept; if they are not there, the files count as unchanged until now.
    """

    def __init__(self, path: Path, load: Callable[[], FolderIndex], kept_at: Path) -> None:
        self._path = path
        self._load = load
        self._kept_at = kept_at
        self._mtimes_ns = array("q")
        self._next = 0

    def look(self) -> Looked:
        """Look at some of the files, next time at others.

        Raises:
            StoreError: the times, or the list of the folder, cannot be read or kept.
        """
        index = self._load()
        if len(self._mtimes_ns) != len(index):
            self._restore(index)
        touched = []
        try:
            root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            return Looked(reason=f"{self._path} is not there any more: {exc.strerror}")
        try:
            for place in self._take_turn(index):
                found = os.stat(index.paths[place], dir_fd=root, follow_symlinks=False)
                if found.st_size != index.size(place):
                    return Looked(reason=f"{self._path / index.paths[place]} has another size than when it was offered")
                if found.st_mtime_ns != self._mtimes_ns[place]:
                    touched.append(place)
        except OSError as exc:
            return Looked(reason=f"{self._path / exc.filename} is not there any more: {exc.strerror}")
        finally:
            os.close(root)
        return Looked(touched=tuple(touched))

    def refresh(self, mtimes_ns: Mapping[int, int]) -> None:
        """Take note that these files (by place in the list) are what they were, and have other times.

        Raises:
            StoreError: that cannot be kept.
        """
        for place, mtime_ns in mtimes_ns.items():
            self._mtimes_ns[place] = mtime_ns
        write_stamps(self._kept_at, self._mtimes_ns)

    def _take_turn(self, index: FolderIndex) -> list[int]:
        """Return the files whose turn it is."""
        stop = self._next + _FILES_PER_CALL
        turn = range(self._next, min(stop, len(index)))
        self._next = stop if stop < len(index) else 0
        return [place for place in turn if index.kinds[place] != EntryKind.EMPTY_DIRECTORY]

    def _restore(self, index: FolderIndex) -> None:
        with store_errors("read", self._kept_at):
            try:
                content = self._kept_at.read_bytes()
            except FileNotFoundError:
                content = b""
        self._mtimes_ns = array("q")
        if len(content) == len(index) * self._mtimes_ns.itemsize:
            self._mtimes_ns.frombytes(content)
        else:
            self._mtimes_ns.extend(self._time(path) for path in index.paths)
            write_stamps(self._kept_at, self._mtimes_ns)

    def _time(self, path: str) -> int:
        try:
            return os.stat(self._path / path, follow_symlinks=False).st_mtime_ns
        except OSError:
            return 0  # `look` says what is wrong


def write_stamps(path: Path, mtimes_ns: "array[int]") -> None:
    """Keep the times of a folder's files.

    Raises:
        StoreError: they cannot be written.
    """
    write_durably(path, mtimes_ns.tobytes())
