"""How each kind of offer lies on the disk of who fetches it: the seam between `Downloads` and what is in a download.

A plain file (or a picture) is one file, written here. A folder is described by a list that has to be fetched before,
and spreads over many files (files/folders.py).
"""

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import attrs

from poolnet.errors import DiskFull, SourceUnavailable
from poolnet.files.uses import PieceSink, PieceStore
from poolnet.ids import FileId
from poolnet.limits import MIB
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.copying import copy_range
from poolnet.storage.durable import store_errors
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.files import run_on_disk
from poolnet.storage.layout import READING
from poolnet.storage.no_links import open_file
from poolnet.storage.tree_file import TreeFile

#: Chunks verified or copied in one thread hop: 4 MiB.
_CHUNKS_PER_HOP: Final = 16
#: From this size on it pays to look for holes before anything is fetched.
_MIN_SIZE_WITH_HOLES: Final = 256 * MIB
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

#: Called with chunks that were written and are genuine.
Stored = Callable[[RangeSet], None]
#: See `Sources.recognise`.
FindFile = Callable[[Path, str, FileId], Awaitable[LocalFile | None]]


class PartStore(PieceSink, Protocol):
    """An unfinished download on disk. Called in threads; every method raises StoreError if the disk fails."""

    @property
    def tree(self) -> TreeFile:
        """The hashes of its pieces."""

    @property
    def shape(self) -> TreeShape:
        """Its pieces."""

    def create(self) -> None:
        """Begin it.

        Raises:
            OutputExists: something is where it goes.
            DiskFull: there is no room for all of it.
        """

    def reopen(self) -> RangeSet | None:
        """Return the chunks that were written, unverified; None if there is nothing of the right size: begin anew.

        Raises:
            DiskFull: there is no room for the rest.
        """

    def verify(self, pieces: Sequence[int]) -> list[int]:
        """Return those of these chunks that are there and genuine."""

    def note_written(self, pieces: RangeSet) -> None:
        """Note down that these chunks are there, for after a crash."""

    def find_holes(self, missing: RangeSet) -> RangeSet:
        """Return those of these chunks that are zeros, by the tree and on the disk, and note them down as there."""

    def begin_journal(self, pieces: RangeSet) -> None:
        """Note down that just these chunks are there."""

    def discard(self) -> None:
        """Remove what was begun."""

    def write_back(self) -> None:
        """Bring what was written so far to the disk, so that little is left for `sync`. Beside other calls."""

    def sync(self) -> None:
        """Bring everything written to the disk."""

    def publish(self, target: Path) -> int:
        """Give it its name; return its modification time (ns).

        Raises:
            OutputExists: something has that name.
        """


class Content(Protocol):
    """One kind of offer on disk."""

    def needs_tree(self, part: PartStore) -> bool:
        """Return whether `copy_here` comes after the tree nodes of what is missing, which are fetched for it."""

    async def prepare_part(self, record: PartRecord) -> PartRecord:
        """Fetch what describes a download, the list of a folder; return the record with what that shows to be true.

        Raises:
            PoolnetError: that cannot be had.
        """

    async def open_part(self, record: PartRecord) -> PartStore:
        """Return where a download is kept that was prepared.

        Raises:
            UnknownFile: something is wanted that is not in it.
            StoreError: what describes it is of another one, or not there.
        """

    def wanted(self, record: PartRecord, part: PartStore) -> Ranges | None:
        """Return the pieces of the download that are wanted; None: all. For threads."""

    async def recognise(self, record: PartRecord, listed: PartRecord | None) -> LocalFile | None:
        """Return what is at the target if it is what is wanted: something put it there that was interrupted then.

        Args:
            record: what is wanted. Its size does not count.
            listed: what there is, or was, of an unfinished download of it.

        Raises:
            StoreError: this home cannot be read or written.
        """

    def discard(self, record: PartRecord) -> None:
        """Remove what was begun, and nothing else; nothing if it is not there. For threads.

        Raises:
            StoreError: the system refused.
        """

    async def copy_here(self, record: PartRecord, part: PartStore, missing: RangeSet, stored: Stored) -> None:
        """Write those of the missing chunks that are on this device already, as far as they are genuine.

        Raises:
            StoreError: the disk does not take it.
        """

    def source(self, file: LocalFile) -> PieceStore:
        """Return the pieces of a complete one."""


class FileContent:
    """Plain files: what is copied has its tree here.

    Args:
        table: where those are listed that are here.
        give_up: called with a listed file that turns out not to be what it was, and the reason.
        find: returns the file at a path, given its name, if it has that id, and keeps its tree.
    """

    def __init__(self, table: FileTable, give_up: Callable[[FileId, str], None], find: FindFile) -> None:
        self._table = table
        self._give_up = give_up
        self._find = find

    def needs_tree(self, part: PartStore) -> bool:
        """See `Content`: a large file may have large holes."""
        return part.shape.size_bytes >= _MIN_SIZE_WITH_HOLES

    async def prepare_part(self, record: PartRecord) -> PartRecord:
        """See `Content`: an id says it all."""
        return record

    async def open_part(self, record: PartRecord) -> PartStore:
        """See `Content`."""
        return self._table.part(record)

    def wanted(self, record: PartRecord, part: PartStore) -> Ranges | None:
        """See `Content`."""
        return None

    async def recognise(self, record: PartRecord, listed: PartRecord | None) -> LocalFile | None:
        """See `Content`."""
        try:
            found = await self._find(record.target, record.name, record.file_id)
        except SourceUnavailable:
            return None
        return None if found is None else attrs.evolve(found, is_own=False, kind=record.kind)

    def discard(self, record: PartRecord) -> None:
        """See `Content`."""
        self._table.part(record).discard()

    async def copy_here(self, record: PartRecord, part: PartStore, missing: RangeSet, stored: Stored) -> None:
        """See `Content`; blocks are shared where the file system can, and holes stay holes."""
        if self.needs_tree(part) and (holes := await run_on_disk(part.find_holes, missing)):
            stored(holes)
            missing = missing.difference(holes)
        source = self._table.files.get(record.file_id)
        if source is None or source.kind == "folder" or not await run_on_disk(part.tree.is_complete):
            return
        for batch in batches(missing):
            try:
                genuine = await run_on_disk(_copy_chunks, source.path, record.part_path, part, batch)
            except SourceUnavailable as exc:
                self._give_up(source.file_id, str(exc))
                return
            stored(genuine)
            if len(genuine) < len(batch):
                self._give_up(source.file_id, f"{source.path} was changed since it was offered")
                return

    def source(self, file: LocalFile) -> PieceStore:
        """See `Content`."""
        return self._table.source(file)


def complete_file(record: PartRecord, *, mtime_ns: int) -> LocalFile:
    """Return what a download is that is at its target."""
    return LocalFile(
        file_id=record.file_id,
        name=record.name,
        size_bytes=record.size_bytes,
        path=record.target,
        mtime_ns=mtime_ns,
        is_own=False,
        kind=record.kind,
        list_id=record.list_id,
        only=record.only,
    )


def batches(pieces: RangeSet) -> Iterator[list[int]]:
    """Yield pieces in order, as many at a time as are verified or copied in one call in a thread."""
    remaining = iter(pieces)
    while batch := list(islice(remaining, _CHUNKS_PER_HOP)):
        yield batch


def _copy_chunks(source: Path, target: Path, part: PartStore, pieces: Sequence[int]) -> RangeSet:
    """Copy chunks of a file to where they are in the part; return those that are genuine there.

    Raises:
        SourceUnavailable: the source cannot be read.
        StoreError: the part cannot be written.
    """
    with store_errors("write", target):
        target_fd = open_file(target, os.O_RDWR)
    try:
        source_fd = os.open(source, READING)
        try:
            _copy_runs(source_fd, target_fd, part.shape, RangeSet.of(pieces))
        finally:
            os.close(source_fd)
    except OSError as exc:
        if exc.errno in _NO_SPACE:
            raise DiskFull(f"no space left to write {target}; free some and try again") from exc
        raise SourceUnavailable(
            f"{source} cannot be read: {exc.strerror or exc}"
        ) from exc  # or else `verify` will fail
    finally:
        os.close(target_fd)
    genuine = RangeSet.of(part.verify(pieces))
    part.note_written(genuine)
    return genuine


def _copy_runs(source_fd: int, target_fd: int, shape: TreeShape, pieces: RangeSet) -> None:
    for start, stop in pieces.ranges():
        first, last = shape.chunk_index(start), shape.chunk_index(stop - 1)
        offset = shape.chunk_offset(first)
        size = shape.chunk_offset(last) + shape.piece_size(stop - 1) - offset
        copy_range(source_fd, offset, target_fd, offset, size)
