"""Files that are of use only while a process holds them open: what a killed one left can be told from what is in use.

Who holds a file has locked it (`flock`), which no crash outlives. Where the file system has no locks nobody can tell.

Among them is what is written for the user, where the user wants it: it is hidden beside that place until it is whole.
As that is no directory of ours, whoever writes into it next removes what was left there. Synchronous.
"""

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

_NEW: Final = re.compile(r"\.poolnet-[0-9a-f]{16}\.part")


def create_held(path: Path, mode: int) -> int:
    """Make a new file, and return a descriptor for reading and writing; it is held until that is closed.

    Raises:
        OSError: as `os.open`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    # Without a lock (no support, or somebody who cleans up was faster) the file may lose its name, but nothing else.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def is_held(path: Path, *, without_locks: bool) -> bool:
    """Return whether a process holds a file; `without_locks` where the file system cannot tell.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return without_locks
    finally:
        os.close(descriptor)
    return False


def create_beside(target: Path, mode: int) -> tuple[Path, int]:
    """Make a new file in the directory of `target`, whose name it is to get; what was left there before goes.

    Returns:
        Its path, and a descriptor as `create_held`, to be closed only when it has its name or is removed.

    Raises:
        OSError: as `os.open`.
    """
    remove_left_over(target.parent)
    path = target.with_name(f".poolnet-{secrets.token_hex(8)}.part")
    return path, create_held(path, mode)


def remove_left_over(directory: Path, *, is_ours: bool = False) -> None:
    """Remove what `create_beside` has made and nobody holds any more, as far as the system lets us.

    Args:
        directory: where to look.
        is_ours: nobody else writes there, so nobody holds what the file system cannot tell of.
    """
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        found = [entry for entry in entries if _NEW.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
        for entry in found:
            with contextlib.suppress(OSError):
                if not is_held(Path(entry.path), without_locks=not is_ours):
                    os.unlink(entry.path)
