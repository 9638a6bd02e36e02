"""Where unfinished downloads lie: moved, put aside. Synchronous, for threads; each raises StoreError."""

import errno
import os
from pathlib import Path

from poolnet.errors import OutputExists
from poolnet.storage.durable import store_errors
from poolnet.storage.file_table import PartRecord
from poolnet.storage.files import rename_without_overwrite
from poolnet.storage.no_links import is_anything, is_file


def put_part_aside(part: Path) -> None:
    """Make way for a new part where one is that a crash, or somebody, gave another size: whoever's it is, it stays.

    Unless it is empty, as a crash leaves it that comes before it has a size.
    """
    aside = part.with_name(part.name + ".damaged")
    with store_errors("move", part):
        if not is_file(part):  # a link stays where it is: nothing is written by it
            return
        if not part.lstat().st_size:
            part.unlink()
        elif not is_anything(aside):
            part.rename(aside)


def is_published(record: PartRecord) -> bool:
    """Return whether what is at the target of a download may be that one, complete, whose part nobody needs any more.

    Of a file the part is gone, or another name of the same; of a folder it is gone.
    """
    with store_errors("look at", record.target):
        try:
            target = record.target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not is_anything(record.part_path):
            return record.kind == "folder" or target.st_size == record.size_bytes
        return os.path.samestat(target, record.part_path.lstat())


def move_part(earlier: Path, part: Path) -> bool:
    """Bring the part of an interrupted download to another place, if there is one.

    Returns:
        False if that takes copying, because the place is on another disk; the part stays where it is.

    Raises:
        OutputExists: something has that place.
        StoreError: the system refused; the part stays where it is.
    """
    with store_errors("move", earlier):
        if earlier == part or not is_anything(earlier):
            return True
        taken = f"{part} is there already; move it away, or choose another place"
        if is_anything(part):
            raise OutputExists(taken)
        try:
            if is_file(earlier):
                rename_without_overwrite(earlier, part)
            else:  # of a folder; that replaces an empty one at most
                earlier.rename(part)
        except FileExistsError as exc:
            raise OutputExists(taken) from exc
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            return False
        return True
