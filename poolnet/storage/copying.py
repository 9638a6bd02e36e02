"""Copies within this device, as cheap as the file system allows: shared blocks, then in the kernel, then by hand.

Blocks that both files share from then on (a reflink) take neither time nor room; btrfs, XFS and others have them. Holes
of a sparse file are not filled. Nothing here is durable before the caller syncs, and nothing is verified.

Synchronous, to be called in a thread; call `copy_range` for a few MiB at a time where somebody waits to cancel.
"""

import errno
import os
import struct
import sys
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Final

from poolnet.limits import MIB
from poolnet.storage.tree_file import write_at

#: ``struct file_clone_range`` and its ioctl, ``_IOW(0x94, 13, …)``: ioctl_ficlonerange(2).
_CLONE_RANGE: Final = struct.Struct("@qQQQ")
_FICLONERANGE: Final = 0x4020940D
#: Read and written at once where the kernel does not copy; also zeros written at once.
_BUFFER_SIZE: Final = 1 * MIB
#: How the system says that it does not copy this way, or not between these files; anything else is a failure.
_NOT_THIS_WAY: Final = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EXDEV,
        errno.EINVAL,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EBADF,
    }
)


def copy_range(source_fd: int, source_offset: int, target_fd: int, target_offset: int, size_bytes: int) -> int:
    """Copy a part of one file into another; return how many bytes, which is less only if the source ends before.

    What was in that part of the target is replaced, and the target grows if it must. File positions may move.

    Args:
        source_fd: open for reading.
        source_offset: where the part begins.
        target_fd: another file (or the same, if the parts do not overlap), open for writing, not for appending.
        target_offset: where it goes.
        size_bytes: how long it is.

    Raises:
        OSError: the system failed (`ENOSPC`, `EIO`); some of it may have been copied.
    """
    available = os.fstat(source_fd).st_size - source_offset
    size = max(0, min(size_bytes, available))
    if size and not _clone(source_fd, source_offset, target_fd, target_offset, size):
        for start, stop, has_data in segments(source_fd, source_offset, source_offset + size):
            place = start - source_offset + target_offset
            if not has_data:
                _copy_hole(target_fd, place, stop - start)
            elif (done := _copy_data(source_fd, start, target_fd, place, stop - start)) < stop - start:
                return start - source_offset + done  # somebody cut it meanwhile
    return size


def clone_file(source: Path, target_fd: int) -> int:
    """Make an open file a copy of a whole other one; return its size.

    Without shared blocks this takes as long as copying takes. Modes and times are not copied.

    Args:
        source: a file.
        target_fd: as in `copy_range`; what was in it goes.

    Raises:
        OSError: the source cannot be read, or the target not be written; the target may have a part of it then.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place is empty
    try:
        os.ftruncate(target_fd, 0)
        return copy_range(source_fd, 0, target_fd, 0, os.fstat(source_fd).st_size)
    finally:
        os.close(source_fd)


def _clone(source_fd: int, source_offset: int, target_fd: int, target_offset: int, size: int) -> bool:
    """Let both files share the blocks; return False if that is not possible (unaligned, other file system)."""
    if sys.platform != "linux":
        return False
    request = _CLONE_RANGE.pack(source_fd, source_offset, size, target_offset)
    try:
        ioctl(target_fd, _FICLONERANGE, request)
    except OSError as exc:
        if exc.errno not in _NOT_THIS_WAY:
            raise
        return False
    return True


def segments(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """Yield where there is data and where holes are, as ``(start, stop, has_data)`` without gaps."""
    while start < stop:
        data = min(_seek(descriptor, start, os.SEEK_DATA, at_end=stop), stop)
        if start < data:
            yield start, data, False
        hole = min(_seek(descriptor, data, os.SEEK_HOLE, at_end=stop), stop) if data < stop else stop
        if data < hole:
            yield data, hole, True
        start = hole


def _seek(descriptor: int, offset: int, whence: int, *, at_end: int) -> int:
    """Return where the next data (or hole) is; `at_end` if there is none. Everything is data where nobody knows."""
    try:
        return os.lseek(descriptor, offset, whence)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return at_end
        if exc.errno in _NOT_THIS_WAY:
            return offset if whence == os.SEEK_DATA else at_end
        raise


def _copy_data(source_fd: int, source_offset: int, target_fd: int, target_offset: int, size: int) -> int:
    """Copy bytes, in the kernel if it can; return how many there were."""
    done = 0
    while done < size:
        copied = _copy_in_kernel(source_fd, source_offset + done, target_fd, target_offset + done, size - done)
        if not copied:
            return done + _copy_by_hand(source_fd, source_offset + done, target_fd, target_offset + done, size - done)
        done += copied
    return done


def _copy_in_kernel(source_fd: int, source_offset: int, target_fd: int, target_offset: int, size: int) -> int:
    """Copy some bytes; return how many, 0 if the kernel does not do it."""
    if sys.platform != "linux":
        return 0
    try:
        return os.copy_file_range(source_fd, target_fd, size, source_offset, target_offset)
    except OSError as exc:
        if exc.errno not in _NOT_THIS_WAY:
            raise
        return 0


def _copy_by_hand(source_fd: int, source_offset: int, target_fd: int, target_offset: int, size: int) -> int:
    done = 0
    while done < size:
        data = os.pread(source_fd, min(_BUFFER_SIZE, size - done), source_offset + done)
        if not data:
            break
        write_at(target_fd, data, target_offset + done)
        done += len(data)
    return done


def _copy_hole(target_fd: int, offset: int, size: int) -> None:
    """Make a part of the target read as zeros, without filling it where nothing is."""
    length = os.fstat(target_fd).st_size
    for start, stop, has_data in segments(target_fd, offset, min(offset + size, length)):
        if has_data:
            _write_zeros(target_fd, start, stop - start)
    if offset + size > length:
        os.ftruncate(target_fd, offset + size)


def _write_zeros(descriptor: int, offset: int, size: int) -> None:
    zeros = memoryview(bytes(min(_BUFFER_SIZE, size)))
    for start in range(0, size, _BUFFER_SIZE):
        write_at(descriptor, zeros[: size - start], offset + start)
