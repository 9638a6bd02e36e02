"""Where unfinished downloads lie: moved, removed, put aside. Synchronous, for threads; each raises StoreError."""

import os
import shutil
from pathlib import Path

from poolnet.errors import OutputExists
from poolnet.storage.durable import store_errors


def remove_part(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    with store_errors("remove", path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def put_part_aside(part: Path) -> None:
    """Make way for a new part where one is that a crash, or somebody, gave another size: whoever's it is, it stays."""
    aside = part.with_name(part.name + ".damaged")
    if part.is_file() and not os.path.lexists(aside):
        with store_errors("move", part):
            part.rename(aside)


def move_part(earlier: Path, part: Path) -> None:
    """Bring the part of an interrupted download to another place, if that can be done without copying."""
    if earlier == part or not earlier.exists():
        return
    with store_errors("move", earlier):
        if part.exists():
            raise OutputExists(f"{part} is there already; move it away, or choose another place")
        try:
            earlier.rename(part)
        except OSError:  # another disk: begin anew there
            remove_part(earlier)
