"""The journal of a download: which chunks were written, and whether a sync has failed.

It only says where to look after a crash; what counts is that a chunk is genuine. So it needs no syncing, and a torn
entry at its end does no harm. Synchronous; every method raises `StoreError` if the disk fails.
"""

import os
import struct
from pathlib import Path
from typing import Final

from poolnet.ranges import RangeSet
from poolnet.storage.durable import store_errors, write_durably
from poolnet.storage.layout import opened

#: One run of pieces: the first, and the one after the last.
_ENTRY: Final = struct.Struct("<II")
#: A sync has failed.
_SYNC_FAILED: Final = _ENTRY.pack(0, 0)


class PartJournal:
    """The journal at `path`, which need not be there.

    Attributes:
        sync_failed: a sync of the download has failed, in this process or, once it was read, in an earlier one.
    """

    def __init__(self, path: Path) -> None:
        self.sync_failed = False
        self._path = path

    def read(self) -> RangeSet:
        """Return the pieces in it."""
        with store_errors("read", self._path):
            try:
                content = self._path.read_bytes()
            except FileNotFoundError:
                return RangeSet()
        pieces = RangeSet()
        for start, stop in _ENTRY.iter_unpack(content[: len(content) - len(content) % _ENTRY.size]):
            pieces.add_range(start, stop)
            self.sync_failed |= (start, stop) == (0, 0)
        return pieces

    def append(self, pieces: RangeSet) -> None:
        """Note down that these were written, too."""
        self._append(_pack(pieces))

    def note_failed_sync(self) -> None:
        """Note down that a sync has failed; it stays in the journal until that is removed."""
        self.sync_failed = True
        self._append(_SYNC_FAILED)

    def replace(self, pieces: RangeSet) -> None:
        """Begin anew with just these pieces."""
        write_durably(self._path, (_SYNC_FAILED if self.sync_failed else b"") + _pack(pieces))

    def remove(self) -> None:
        """Remove it, if it is there."""
        with store_errors("remove", self._path):
            self._path.unlink(missing_ok=True)

    def _append(self, entries: bytes) -> None:
        rest = memoryview(entries)
        with (
            store_errors("write", self._path),
            opened(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as journal,
        ):
            while rest:  # a disk that is nearly full takes a part
                rest = rest[os.write(journal, rest) :]


def _pack(pieces: RangeSet) -> bytes:
    return b"".join(_ENTRY.pack(*run) for run in pieces.ranges())
