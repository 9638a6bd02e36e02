"""Where unfinished downloads lie: moved, put aside. Synchronous, for threads; each raises StoreError."""

import errno
import os
from pathlib import Path

from poolnet.errors import OutputExists
from poolnet.storage.durable import store_errors


def put_part_aside(part: Path) -> None:
    """Make way for a new part where one is that a crash, or somebody, gave another size: whoever's it is, it stays.

    Unless it is empty, as a crash leaves it that comes before it has a size.
    """
    aside = part.with_name(part.name + ".damaged")
    with store_errors("move", part):
        if part.is_file() and not part.stat().st_size:
            part.unlink()
        elif part.is_file() and not os.path.lexists(aside):
            part.rename(aside)


def move_part(earlier: Path, part: Path) -> bool:
    """Bring the part of an interrupted download to another place, if there is one.

    Returns:
        False if that takes copying, because the place is on another disk; the part stays where it is.

    Raises:
        OutputExists: something has that place.
        StoreError: the system refused; the part stays where it is.
    """
    with store_errors("move", earlier):
        if earlier == part or not earlier.exists():
            return True
        if part.exists():
            raise OutputExists(f"{part} is there already; move it away, or choose another place")
        try:
            earlier.rename(part)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            return False
        return True
