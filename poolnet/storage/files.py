"""Names, places and threads for users' files: what is the same for every file, whatever is in it."""

import contextlib
import errno
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import trio

from poolnet.errors import DiskFull, LocalError, OutputExists, StoreError
from poolnet.limits import DISK_THREADS, MIB
from poolnet.printable import BLANKS
from poolnet.storage.durable import store_errors, sync_directory
from poolnet.storage.no_links import is_file

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Bytes of a name that is safe: what file systems take (255), less room for the suffixes that we append.
MAX_SAFE_NAME_BYTES: Final = 240
#: Left free on a disk that a download goes to, for the databases and for everybody else.
RESERVED_SPACE: Final = 1 * MIB
_FALLBACK_NAME: Final = "file"
#: The longest suffix (".tar.gz") that is kept when a name is shortened.
_MAX_SUFFIX_BYTES: Final = 24
#: Separators, and what Windows does not take in names.
_FORBIDDEN: Final = frozenset('/\\<>:"|?*')
#: Control, format (bidi and zero-width among them), surrogate, private use, unassigned, line and paragraph separators.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_DEVICE_NAMES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"}
)
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_disk_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("disk_limiter")


async def run_on_disk(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run ``function(*args)``, which reads, writes or hashes, in one of `DISK_THREADS` threads and return its result.

    Once begun it is finished, even if the caller is cancelled: keep each call short (a few MiB).
    """
    try:
        limiter = _disk_limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(DISK_THREADS)
        _disk_limiter.set(limiter)
    return await trio.to_thread.run_sync(function, *args, limiter=limiter)


def safe_file_name(name: str) -> str:
    """Return a name made from `name` that is harmless as a file name on any system.

    It has no separators, control or invisible characters, no leading dots, no trailing dots or spaces; it is no device
    name of Windows, not empty, and at most `MAX_SAFE_NAME_BYTES` long (its suffix survives). A safe name stays as it
    is.
    """
    shown = "".join(
        "_" if char in _FORBIDDEN else char
        for char in unicodedata.normalize("NFC", name)
        if unicodedata.category(char) not in _INVISIBLE and char not in BLANKS
    )
    limit = MAX_SAFE_NAME_BYTES - 1  # room for the underscore before a device name
    shortened = shorten_name(shown.lstrip(". ").rstrip(". "), limit).rstrip(". ")
    if not shortened:
        return _FALLBACK_NAME
    stem = shortened.split(".", 1)[0].rstrip(" ").lower()
    return f"_{shortened}" if stem in _DEVICE_NAMES else shortened


def shorten_name(name: str, limit: int) -> str:
    """Cut the middle out of a name of more than `limit` bytes in UTF-8, between whole characters; its suffix survives.

    `limit` is at least twice `_MAX_SUFFIX_BYTES`.
    """
    if len(name.encode()) <= limit:
        return name
    suffixes = Path(name).suffixes[-2:]
    suffix = "".join(suffixes)
    if len(suffix.encode()) > _MAX_SUFFIX_BYTES:
        suffix = suffixes[-1] if len(suffixes[-1].encode()) <= _MAX_SUFFIX_BYTES else ""
    stem = name.removesuffix(suffix).encode()[: limit - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix


def whole_path(path: Path) -> Path:
    """Return a path that a user wrote as an absolute one, with ``~`` written out.

    Raises:
        LocalError: there is no such user, or the current directory is gone.
    """
    try:
        return path.expanduser().absolute()
    except (RuntimeError, OSError) as exc:
        raise LocalError(f"cannot tell where {path} is; write the whole path") from exc


def download_target(out: Path, name: str) -> Path:
    """Return where a download of a file called `name` (by others) goes: into the directory `out`, or to `out` itself.

    Raises:
        OutputExists: something is there.
        LocalError: the directory is not there, or no place can be there: no permission, or a name that is too long.
    """
    target = whole_path(out)
    try:
        if target.is_dir():
            target = target / safe_file_name(name)
        if os.path.lexists(target):
            raise OutputExists(f"{target} is there already; choose another place for the download")
        if not target.parent.is_dir():
            raise LocalError(f"there is no directory {target.parent}; make it first")
    except OSError as exc:
        raise LocalError(f"{target}: {exc.strerror or exc}; choose another place for the download") from exc
    return target


def publish_without_overwrite(part: Path, target: Path) -> None:
    """Rename `part` to `target` if nothing is there; durable when it returns.

    Raises:
        OutputExists: something is there; `part` stays.
        StoreError: the system refused.
    """
    with store_errors("create", target):
        if not is_file(part):
            raise StoreError(f"{part} is no file any more; move away what is there, and fetch it again")
        try:
            rename_without_overwrite(part, target)
        except FileExistsError as exc:
            raise OutputExists(f"{target} is there already; the download stays at {part}") from exc
        sync_directory(target.parent)


def rename_without_overwrite(path: Path, target: Path) -> None:
    """Rename a file if nothing has its new name.

    Raises:
        FileExistsError: something has; the file stays where it is.
        OSError: the system refused.
    """
    try:
        os.link(path, target)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        _rename_by_placeholder(path, target)
    else:
        with contextlib.suppress(OSError):  # a second name for what is complete is no reason to say that it is not
            path.unlink()


def sync_name(path: Path) -> None:
    """Make sure that a file stays where it is, for one that was published when the disk or the process failed.

    Raises:
        StoreError: the system refused.
    """
    with store_errors("write", path):
        sync_directory(path.parent)


def _rename_by_placeholder(path: Path, target: Path) -> None:
    """Do it where there are no hard links: claim the name with an empty file, then replace that."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        os.replace(path, target)
    except OSError:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


def check_free_space(directory: Path, needed_bytes: int) -> None:
    """Make sure that a disk can take a download.

    Raises:
        DiskFull: it has less than `needed_bytes` and a reserve left.
    """
    with store_errors("look at", directory):
        free = shutil.disk_usage(directory).free
    if free < needed_bytes + RESERVED_SPACE:
        raise DiskFull(f"{directory} has {free // MIB} MiB free, {needed_bytes // MIB + 1} MiB are needed; free some")
