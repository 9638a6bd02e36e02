"""Bytes that are on the disk when a function returns: whole or not at all, after a power cut as well.

Synchronous; to be called in a thread. Errors of the operating system become `StoreError` and `DiskFull` here, so that
nothing above this package meets an errno.
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from poolnet.errors import DiskFull, StoreError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
#: How file systems say that they do not sync directories. Any other error means that a change may be lost.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.EROFS, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
#: Names of what `write_durably` was writing when the process ended.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")


@contextlib.contextmanager
def store_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into a sentence: "cannot `what` `path`: reason".

    Raises:
        DiskFull: no space or quota left.
        StoreError: anything else that the system refused.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise DiskFull(f"no space left to {what} {path}; free some and try again") from exc
        raise StoreError(f"cannot {what} {path}: {exc.strerror or exc}") from exc


def write_durably(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by a file of `content`: written beside it, synced, renamed, directory synced.

    Raises:
        StoreError: it cannot be written (`DiskFull` if that is why); what was there is intact.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with store_errors("write", path):
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):  # or it would hide why
                part.unlink()
            raise
        sync_directory(path.parent)


def replace_durably(path: Path, target: Path) -> None:
    """Rename a file that is synced, over whatever has its new name.

    Raises:
        OSError: the system refused, or does not know whether it will last.
    """
    os.replace(path, target)
    sync_directory(target.parent)


def sync_file(path: Path) -> None:
    """Make what was written to a file durable, whoever wrote it.

    Raises:
        OSError: the system could not; nobody knows then what is on the disk, and a second try proves nothing.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in a directory durable, where the system can.

    Raises:
        OSError: it can, but it failed; they may be lost.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a directory that may be entered, but not read
        return
    try:
        sync_open_directory(descriptor)
    finally:
        os.close(descriptor)


def sync_open_directory(descriptor: int) -> None:
    """Do what `sync_directory` does for one that is open."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY_SYNC:
            raise


def remove_unfinished(directory: Path) -> None:
    """Remove what `write_durably` left in a directory of ours when a process was killed; nobody may be writing there.

    Raises:
        StoreError: the system refused.
    """
    with store_errors("clean up", directory):
        for entry in list(os.scandir(directory)):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def make_private_directory(path: Path) -> None:
    """Create a directory that only its owner can enter, and those above it that are missing; durably.

    Raises:
        StoreError: it cannot be created, or something else has that name.
    """
    with store_errors("create", path):
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file, not a directory; choose another place")
        # Each is on the disk before the next is made, so of those that are there only the last may not be: whoever made
        # it was killed before the sync, or that failed.
        missing = [parent for parent in path.parents if not parent.exists()]
        if not path.exists():
            last = missing[-1] if missing else path
            sync_directory(last.parent.parent)
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            sync_directory(parent.parent)
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        sync_directory(path.parent)


def keep_aside(path: Path) -> Path:
    """Rename a damaged file so that it is in nobody's way and nothing is lost; return its new path.

    Raises:
        StoreError: it cannot be renamed.
    """
    with store_errors("set aside", path):
        number = 1
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        os.replace(path, aside)
    return aside


def was_kept_aside(path: Path) -> bool:
    """Return whether there is a damaged file that once was `path`."""
    return next(path.parent.glob(f"{path.name}.damaged-*"), None) is not None
