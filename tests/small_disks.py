"""Disks that are soon full, for tests: a file system in memory with so much room. Needs root and Linux."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """A disk mounted at `path`. Made by `small_disk`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._junk = path / "junk"

    def fill(self) -> None:
        """Let somebody else take all the room there is."""
        with self._junk.open("ab", buffering=0) as junk, contextlib.suppress(OSError):
            while junk.write(bytes(4096)):
                pass

    def free(self) -> None:
        """Give it back."""
        self._junk.unlink()


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk of that size (as ``mount`` writes it: ``8m``) at `path`, which is made, for the block."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True, capture_output=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)


def can_mount() -> bool:
    """Return whether this machine lets us mount disks."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    try:
        with tempfile.TemporaryDirectory() as directory, small_disk(Path(directory) / "disk", "1m"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
