"""Files and directories reached without following a link that somebody has put in their way.

A download may lie where others write, too: in a directory that is shared, or synchronised by another program. What is
written, cut or removed there by its name must not be something else, so a link is never followed, neither as the last
part of a name nor on the way to it; and no file is written to that has a second name, by which it may be somebody's.
The way to the place itself is the user's, who may have links in it.

Everything raises `OSError`, as the system does; where a link is in the way it says so. Synchronous, for threads.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from poolnet.storage.durable import sync_open_directory

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: Nor does it wait for a pipe that has taken the place of a file.
_FILE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LINK_ERRORS: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENOTDIR})
_WRITES: Final = os.O_WRONLY | os.O_RDWR
_NEW_FILE: Final = 0o666  # less what the user's umask takes away


@contextlib.contextmanager
def opened_file(path: Path | str, flags: int, *, mode: int = _NEW_FILE) -> Iterator[int]:
    """Open a regular file for the block; see `open_file`."""
    descriptor = open_file(path, flags, mode=mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(path: Path | str, flags: int, *, mode: int = _NEW_FILE, dir_fd: int | None = None) -> int:
    """Return a descriptor of a regular file.

    Args:
        path: the last part of it is no link; see `FolderRoot` for the rest.
        flags: as of `os.open`. `O_TRUNC` is not for here: it cuts before anything can be looked at.
        dir_fd: where a relative path begins.

    Raises:
        OSError: also if it is a link or something else than a file, or is to be written and has a second name.
    """
    assert not flags & os.O_TRUNC, "a file is looked at before it is cut"
    try:
        descriptor = os.open(path, flags | _FILE, mode, dir_fd=dir_fd)
    except OSError as exc:
        raise _explained(exc, os.fspath(path)) from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "something that is no file has taken its place", os.fspath(path))
        if flags & _WRITES and found.st_nlink > 1:
            raise OSError(errno.EMLINK, "that file has a second name, and may be somebody's", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class FolderRoot:
    """An open directory, and what is below it. Made by `opened_folder`; for one thread.

    Paths are relative, with slashes, and have neither ``..`` nor empty parts. The directory that was used last stays
    open, so that the next file in it costs one call of the system.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._directory = ""
        self._directory_fd = descriptor

    def open_file(self, path: str, flags: int, *, mode: int = _NEW_FILE) -> int:
        """Return a descriptor of a regular file; see the function of this name."""
        with self._named(path) as (directory, name):
            return open_file(name, flags, mode=mode, dir_fd=directory)

    def stat(self, path: str) -> os.stat_result:
        """Return what is there; of a link, what it is itself."""
        with self._named(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        with self._named(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        if path == self._directory:
            self.close()
        with self._named(path) as (directory, name):
            os.rmdir(name, dir_fd=directory)

    def make_directories(self, path: str) -> None:
        """Make a directory and those above it, as far as they are missing."""
        try:
            self._make_directory(path)
        except FileNotFoundError:
            parent = path.rpartition("/")[0]
            if not parent:  # this directory itself was removed
                raise
            self.make_directories(parent)
            self._make_directory(path)

    def sync_file(self, path: str) -> None:
        """Bring a file to the disk."""
        descriptor = self.open_file(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directory(self, path: str) -> None:
        """Make creations, renames and removals in a directory durable, where the system can; "" is this one."""
        with self.opened_directory(path) as descriptor:
            sync_open_directory(descriptor)

    @contextlib.contextmanager
    def opened_directory(self, path: str) -> Iterator[int]:
        """Open a directory for the block, "" for this one itself."""
        try:
            descriptor = self._open_directory(path) if path else os.dup(self.descriptor)
        except OSError as exc:
            raise _explained(exc, path) from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the directory that was used last; this one stays open."""
        if self._directory:
            os.close(self._directory_fd)
            self._directory, self._directory_fd = "", self.descriptor

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[tuple[int, str]]:
        """Give the block a path's directory, open, and its last part; errors are about the whole path."""
        parent, _, name = path.rpartition("/")
        try:
            if parent != self._directory:
                self.close()
                if parent:
                    self._directory_fd, self._directory = self._open_directory(parent), parent
            yield self._directory_fd, name
        except OSError as exc:
            raise _explained(exc, path) from exc

    def _make_directory(self, path: str) -> None:
        with self._named(path) as (directory, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=directory)

    def _open_directory(self, path: str) -> int:
        descriptor = self.descriptor
        try:
            for name in path.split("/"):
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                if descriptor != self.descriptor:
                    os.close(descriptor)
                descriptor = below
        except BaseException:
            if descriptor != self.descriptor:
                os.close(descriptor)
            raise
        return descriptor


@contextlib.contextmanager
def opened_folder(path: Path, *, may_be_link: bool = False) -> Iterator[FolderRoot]:
    """Open a directory for the block.

    Args:
        may_be_link: its user may have a link there: a folder that is offered.
    """
    try:
        descriptor = os.open(path, _DIRECTORY | (0 if may_be_link else os.O_NOFOLLOW))
    except OSError as exc:
        raise _explained(exc, os.fspath(path)) from exc
    root = FolderRoot(descriptor)
    try:
        yield root
    finally:
        root.close()
        os.close(descriptor)


def is_anything(path: Path) -> bool:
    """Return whether there is something of that name, be it a link to nothing."""
    return _is_there(path, lambda _mode: True)


def is_file(path: Path) -> bool:
    """Return whether there is a regular file; a link to one is none."""
    return _is_there(path, stat.S_ISREG)


def is_directory(path: Path) -> bool:
    """Return whether there is a directory; a link to one is none."""
    return _is_there(path, stat.S_ISDIR)


def _is_there(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _explained(error: OSError, path: str) -> OSError:
    """Return an error about the whole of a path; what systems say about a link in the way helps nobody."""
    reason, number = error.strerror, error.errno or 0
    if number in _LINK_ERRORS and reason == os.strerror(number):
        reason = "a link, or something else, is in its place"
    return OSError(number, reason, path)
