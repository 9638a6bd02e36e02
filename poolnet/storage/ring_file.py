"""The file of a `CacheRing`: fixed slots, one piece each. Knows nothing of what is in them.

Room is allocated before it is used, some MiB at a time: a disk that fills up later does not fail a write that replaces
something, and a pool that caches nothing takes nothing. The last of a disk is left to others.

The file has no meaning without the index in memory, so what a crash left is removed when the next one is opened; a lock
(`flock`) tells what is in use. Synchronous; `read` and `write` may run in several threads at once and beside `grow` and
`close`.
"""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from poolnet.limits import CHUNK_SIZE
from poolnet.storage.durable import PRIVATE_FILE, store_errors
from poolnet.storage.files import RESERVED_SPACE
from poolnet.storage.held_files import create_held, is_held
from poolnet.storage.tree_file import write_at

logger = logging.getLogger(__name__)

#: Names of such files.
_PATTERN: Final = "cache-*.ring"
#: Slots allocated at once: 16 MiB.
_GROWTH: Final = 64
#: How file systems say that they do not allocate in advance; their files grow when they are written.
_NO_ALLOCATION: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})


def new_ring_path(directory: Path) -> Path:
    """Return a path for a new file in `directory`."""
    return directory / f"cache-{time.time_ns()}.ring"


def remove_stale_rings(directory: Path) -> None:
    """Remove what crashes left behind in `directory`; files in use stay, and those that the system does not let go.

    Raises:
        StoreError: the directory cannot be read.
    """
    with store_errors("look at", directory):
        found = list(directory.glob(_PATTERN))
    for path in found:
        try:
            # Without locks it is the lock of the home that keeps others out.
            if path.is_file() and not path.is_symlink() and not is_held(path, without_locks=False):
                path.unlink(missing_ok=True)
        except OSError as exc:
            logger.warning("cannot remove %s, which is of no use any more: %s", path, exc)


class RingFile:
    """Slots of `CHUNK_SIZE` bytes in a file at `path`, which is made when the first are needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slot_count = 0
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._user_count = 0  # threads that read, write or grow just now
        self._is_closed = False

    def grow(self, max_slots: int) -> range:
        """Add slots, not above `max_slots` in all; return the new ones: none if the disk has no room. One at a time.

        Where the file system cannot promise room, the system writes zeros instead: that takes its time.

        Raises:
            OSError: the disk failed, or is closed (`EBADF`).
        """
        with self._lock:
            if self._descriptor is None and not self._is_closed:
                self._descriptor = create_held(self.path, PRIVATE_FILE)
        with self._opened() as descriptor:
            found = os.fstatvfs(descriptor)
            room = (found.f_bavail * found.f_frsize - RESERVED_SPACE) // CHUNK_SIZE
            first = self.slot_count
            more = max(0, min(_GROWTH, max_slots - first, room))
            if more:
                _allocate(descriptor, first * CHUNK_SIZE, more * CHUNK_SIZE)
                self.slot_count += more
            return range(first, first + more)

    def read(self, slot: int, size_bytes: int) -> bytes:
        """Return the first bytes of a slot; fewer if somebody cut the file.

        Raises:
            OSError: the disk failed, or is closed (`EBADF`).
        """
        with self._opened() as descriptor:
            return os.pread(descriptor, size_bytes, slot * CHUNK_SIZE)

    def write(self, slot: int, data: bytes) -> None:
        """Replace what is in a slot.

        Raises:
            OSError: the disk failed, or is closed (`EBADF`); what the slot holds is not known then.
        """
        with self._opened() as descriptor:
            write_at(descriptor, data, slot * CHUNK_SIZE)

    def close(self) -> None:
        """Remove the file. Who reads, writes or grows just now can finish that. More than once does no harm.

        Raises:
            StoreError: it cannot be removed.
        """
        with self._lock:
            is_there = self._descriptor is not None and not self._is_closed
            self._is_closed = True
            self._close_unused()
        if is_there:
            with store_errors("remove", self.path):
                self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with self._lock:
            if self._is_closed or self._descriptor is None:
                raise _closed()
            self._user_count += 1
            descriptor = self._descriptor
        try:
            yield descriptor
        finally:
            with self._lock:
                self._user_count -= 1
                self._close_unused()

    def _close_unused(self) -> None:
        """Close the descriptor once it is time and nobody uses it: its number may be another file's at once."""
        if self._is_closed and not self._user_count and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def _allocate(descriptor: int, offset: int, size: int) -> None:
    """Make a file larger, with room on the disk where the file system can promise it.

    Raises:
        OSError: there is no room; the file is as it was.
    """
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(descriptor, offset, size)
        else:
            os.ftruncate(descriptor, offset + size)
    except OSError as exc:
        if exc.errno in _NO_ALLOCATION:
            os.ftruncate(descriptor, offset + size)
            return
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, offset)  # some give what there is before they say no
        raise
