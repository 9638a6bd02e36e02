"""Where the bytes of a file lie that is verified piece by piece: in one file, or (folder_layout.py) in many.

A layout knows how the bytes are spread, not where; its methods take the path. It verifies nothing and raises `OSError`
as the system does; `FileSource` and `PartFile` make sense of that. Synchronous, to be called in threads.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from poolnet.errors import SourceUnavailable
from poolnet.storage.copying import segments
from poolnet.storage.files import publish_without_overwrite
from poolnet.storage.no_links import is_file, opened_file
from poolnet.storage.tree_file import write_at

#: A pipe that has taken the place of a file must not block whoever opens it.
READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
#: The unit of `st_blocks` (POSIX leaves it open; Linux, macOS and the BSDs agree).
_BLOCK_SIZE: Final = 512


class SourceChanged(SourceUnavailable):
    """A complete file is not what it was: edited, cut, replaced, removed, or its tree is damaged."""


class OpenFiles(Protocol):
    """The files of a layout, open for a batch of reads and writes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from there. What an unfinished download does not have yet is zeros, or shorter."""

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there."""


class Layout(Protocol):
    """How the bytes of a file are spread. Methods raise `OSError`."""

    @property
    def needed_bytes(self) -> int:
        """How much room an unfinished download takes when it is complete."""

    def reading(self, path: Path, *, is_complete: bool) -> AbstractContextManager[OpenFiles]:
        """Open for reading, until the end of the block.

        Args:
            path: where it lies.
            is_complete: then a file of another size than it should have raises `SourceChanged`.
        """

    def writing(self, path: Path) -> AbstractContextManager[OpenFiles]:
        """Open an unfinished download for writing and reading, until the end of the block."""

    def create(self, path: Path) -> None:
        """Begin an unfinished download; `FileExistsError` if something is there."""

    def holes(self, path: Path, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield from where to where an unfinished download has holes between two offsets, as far as that is known."""

    def missing_bytes(self, path: Path, written_bytes: int) -> int | None:
        """Return how much room an unfinished download still takes, or None if what is there is none of this layout.

        Args:
            path: where it lies.
            written_bytes: how much of it was written.
        """

    def write_back(self, path: Path) -> None:
        """Bring what was written so far to the disk, if that leaves less to do for `settle`."""

    def settle(self, path: Path, position: int) -> int | None:
        """Do a part of what is left to do when all is written; return the position to go on from, or None at the end.

        Args:
            path: where it lies.
            position: 0 at first, then what was returned.
        """

    def publish(self, part: Path, target: Path) -> None:
        """Give a complete download its name, durably.

        Raises:
            OutputExists: something has that name.
            StoreError: the system refused.
        """

    def discard(self, path: Path) -> None:
        """Remove what was begun, and nothing else; nothing if it is not there."""


class OneFile:
    """All bytes in one file."""

    def __init__(self, size_bytes: int) -> None:
        self.needed_bytes = size_bytes

    @contextlib.contextmanager
    def reading(self, path: Path, *, is_complete: bool) -> Iterator["OpenFile"]:
        """See `Layout`."""
        # A complete file is where its user has it, maybe by a link.
        with opened(path, READING) if is_complete else opened_file(path, os.O_RDONLY) as descriptor:
            if is_complete and os.fstat(descriptor).st_size != self.needed_bytes:
                raise SourceChanged(f"{path} has another size than when it was offered")
            yield OpenFile(descriptor)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator["OpenFile"]:
        """See `Layout`."""
        with opened_file(path, os.O_RDWR) as descriptor:
            yield OpenFile(descriptor)

    def create(self, path: Path) -> None:
        """See `Layout`."""
        with opened_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as new:
            try:
                os.ftruncate(new, self.needed_bytes)
            except OSError:
                with contextlib.suppress(OSError):  # or nobody would know whose it is, and it would be in the way
                    path.unlink()
                raise

    def holes(self, path: Path, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """See `Layout`."""
        with opened_file(path, os.O_RDONLY) as descriptor:
            yield from ((first, last) for first, last, has_data in segments(descriptor, start, stop) if not has_data)

    def missing_bytes(self, path: Path, written_bytes: int) -> int | None:
        """See `Layout`; the file system knows best how much of a sparse file is there."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_size != self.needed_bytes:
            return None
        return self.needed_bytes - found.st_blocks * _BLOCK_SIZE

    def write_back(self, path: Path) -> None:
        """See `Layout`."""
        with opened_file(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def settle(self, path: Path, position: int) -> None:
        """See `Layout`: there is one step."""
        self.write_back(path)

    def publish(self, part: Path, target: Path) -> None:
        """See `Layout`."""
        publish_without_overwrite(part, target)

    def discard(self, path: Path) -> None:
        """See `Layout`."""
        with contextlib.suppress(FileNotFoundError):
            if is_file(path) and path.lstat().st_size == self.needed_bytes:
                path.unlink()


class OpenFile:
    """One open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """See `OpenFiles`."""
        return os.pread(self._descriptor, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """See `OpenFiles`."""
        write_at(self._descriptor, data, offset)


@contextlib.contextmanager
def opened(path: Path | str, flags: int, *, mode: int = 0o666, dir_fd: int | None = None) -> Iterator[int]:
    """Open a file for the block."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
