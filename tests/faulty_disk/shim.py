"""Python's hands on faulty_disk.c: building it, and telling the one that is loaded in this process what to do."""

import ctypes
import enum
import os
import shutil
import subprocess
from pathlib import Path

import attrs

SOURCE = Path(__file__).with_name("faulty_disk.c")


class Kind(enum.IntFlag):
    """What an operation is; as in faulty_disk.c."""

    WRITE = 1
    TRUNCATE = 2
    ALLOCATE = 4
    SYNC = 8
    SYNC_DIRECTORY = 16
    CREATE = 32
    RENAME = 64
    UNLINK = 128
    LINK = 256
    MAKE_DIRECTORY = 512
    REMOVE_DIRECTORY = 1024
    NOTE = 2048
    FAILED_SYNC = 4096


#: What a full disk refuses.
GROWING = Kind.WRITE | Kind.ALLOCATE | Kind.CREATE | Kind.LINK | Kind.MAKE_DIRECTORY
SYNCS = Kind.SYNC | Kind.SYNC_DIRECTORY
#: What a broken disk refuses.
ALL = GROWING | SYNCS | Kind.TRUNCATE | Kind.RENAME | Kind.UNLINK | Kind.REMOVE_DIRECTORY


class Action(enum.IntEnum):
    """What happens at the chosen operation; as in faulty_disk.c."""

    NOTHING = 0
    KILL = 1
    KILL_TORN = 2
    FAIL_ONCE = 3
    FAIL_ON = 4
    SHORT_THEN_FAIL_ON = 5


@attrs.frozen
class Fault:
    """At operation `number` (from 1): `action`; with this error, for operations of these kinds."""

    action: Action = Action.NOTHING
    number: int = 0
    error: int = 0
    kinds: int = int(ALL)


NO_FAULT = Fault()


def can_build() -> bool:
    """Return whether there is a C compiler, and a system that the shim is for."""
    return os.name == "posix" and os.uname().sysname == "Linux" and shutil.which("cc") is not None


def build(directory: Path) -> Path:
    """Compile the shim; return the library to preload."""
    library = directory / "faulty_disk.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def arm(directory: Path, fault: Fault = NO_FAULT, log: int = -1) -> None:
    """Begin to count below `directory`, which is a real path; what is done is written to the descriptor `log`."""
    _shim().faulty_disk_arm(
        str(directory).encode(),
        ctypes.c_int(fault.action),
        ctypes.c_long(fault.number),
        ctypes.c_int(fault.error),
        ctypes.c_uint(fault.kinds),
        ctypes.c_int(log),
    )


def disarm() -> None:
    """Leave the disk alone."""
    _shim().faulty_disk_disarm()


def mend() -> None:
    """Let nothing fail any more, but go on counting and writing down."""
    _shim().faulty_disk_mend()


def count() -> int:
    """Return how many operations there were since `arm`."""
    return int(_shim().faulty_disk_count())


def note(text: str) -> None:
    """Put a text into the log, between the operations."""
    _shim().faulty_disk_note(text.encode())


def _shim() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.faulty_disk_count.restype = ctypes.c_long
    return library
