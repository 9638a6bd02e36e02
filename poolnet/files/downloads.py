"""Downloads: from an offer to a complete file at its place, however often it is interrupted on the way.

The part file and its journal are written as pieces come; what is needed to resume is listed before the first of them.
A file that is here already is copied, not fetched.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import attrs
import trio

from poolnet.errors import OutputExists, PoolnetError, SourceUnavailable, StoreError
from poolnet.events import DownloadComplete, DownloadProgress, PoolEvent
from poolnet.files.exchange import Exchange
from poolnet.files.size_claims import SizeClaims
from poolnet.files.sources import Sources
from poolnet.ids import FileId
from poolnet.limits import MAX_PROGRESS_RATE
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import RangeSet
from poolnet.storage.durable import store_errors
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.files import download_target, run_on_disk
from poolnet.storage.piece_store import FileSource, PartFile, SourceChanged

#: Chunks verified or copied in one thread hop: 4 MiB.
_CHUNKS_PER_HOP: Final = 16
#: Weight of the newest measurement in the rate that is shown: settles within a second.
_RATE_WEIGHT: Final = 0.2


class Download:
    """A download that is running. Watches the exchange and says how far it is.

    Attributes:
        record: what is fetched; its size is only a claim until a genuine piece proves it.
        done_bytes: verified bytes that are here.
    """

    def __init__(self, record: PartRecord, publish: Callable[[PoolEvent], None]) -> None:
        self.record = record
        self.done_bytes = 0
        self._publish = publish
        self._news = trio.lowlevel.ParkingLot()
        self._is_complete = self._is_proven = self._is_doubted = False
        self._error: PoolnetError | None = None
        self._shown_at = trio.current_time()
        self._shown_bytes = 0
        self._rate = 0.0

    async def wait(self, sizes: SizeClaims) -> bool:
        """Wait until every piece is written and return True, or until another size should be tried.

        Raises:
            StoreError: the disk does not take it.
            UnknownFile: it was withdrawn by all who offered it.
        """
        give_up_at = trio.current_time() + sizes.patience_s()
        while not self._is_complete and self._error is None:
            is_waiting = self._is_proven or not sizes.has_others()
            is_late = trio.current_time() >= give_up_at
            if not is_waiting and (is_late or sizes.is_hopeless(is_doubted=self._is_doubted)):
                return False
            with trio.move_on_at(math.inf if is_waiting else give_up_at):
                await self._news.park()
        if self._error is not None:
            raise self._error
        return True

    def begin(self, done_bytes: int, *, is_proven: bool) -> None:
        """Take note of what was there already, and whether that proves the size."""
        self._is_proven, self._is_doubted = is_proven, False
        self.done_bytes = self._shown_bytes = done_bytes
        self._show(trio.current_time())

    def look_again(self) -> None:
        """Take note that there may be other claims about the size."""
        self._news.unpark_all()

    def size_doubted(self) -> None:
        """See `DownloadWatcher`."""
        self._is_doubted = True
        self._news.unpark_all()

    def pieces_stored(self, chunk_bytes: int) -> None:
        """See `DownloadWatcher`."""
        self._is_proven = True
        self.done_bytes += chunk_bytes
        now = trio.current_time()
        if now - self._shown_at >= 1 / MAX_PROGRESS_RATE:
            self._measure(now)
            self._show(now)

    def completed(self) -> None:
        """See `DownloadWatcher`."""
        self._show(trio.current_time())
        self._is_complete = True
        self._news.unpark_all()

    def failed(self, error: PoolnetError) -> None:
        """See `DownloadWatcher`; also called when nobody offers the file any more."""
        self._error = self._error or error
        self._news.unpark_all()

    def _measure(self, now: float) -> None:
        rate = max(0, self.done_bytes - self._shown_bytes) / (now - self._shown_at)
        self._rate = rate if self._rate == 0 else self._rate + _RATE_WEIGHT * (rate - self._rate)

    def _show(self, now: float) -> None:
        self._shown_at, self._shown_bytes = now, self.done_bytes
        self._publish(
            DownloadProgress(
                file_id=self.record.file_id,
                done_bytes=self.done_bytes,
                size_bytes=self.record.size_bytes,
                rate_bytes_per_s=self._rate,
            )
        )


class Downloads:
    """The downloads of one pool on this device.

    Args:
        publish: called with events.
        changed: called when a download begins or ends.

    Attributes:
        running: those that are going on, by id.
    """

    def __init__(
        self,
        table: FileTable,
        exchange: Exchange,
        sources: Sources,
        *,
        publish: Callable[[PoolEvent], None],
        changed: Callable[[], None],
    ) -> None:
        self.running: dict[FileId, Download] = {}
        self._table = table
        self._exchange = exchange
        self._sources = sources
        self._publish = publish
        self._changed = changed
        self._turns: WeakValueDictionary[FileId, trio.Lock] = WeakValueDictionary()

    async def fetch(self, file_id: FileId, name: str, claimed_sizes: Callable[[], Sequence[int]], out: Path) -> Path:
        """Fetch a file and return where it is; see `FileManager.download`."""
        target = await run_on_disk(download_target, out, name)
        turn = self._turns.setdefault(file_id, trio.Lock())
        async with turn:  # of two downloads of one file, the second copies what the first has brought
            complete = self._table.files.get(file_id)
            if complete is not None and complete.path == target:
                return target
            sizes = await self._size_claims(file_id, claimed_sizes)
            record = PartRecord(file_id=file_id, name=name, size_bytes=0, target=target)
            download = self.running[file_id] = Download(record, self._publish)
            self._changed()
            try:
                await self._run(download, sizes)
            finally:
                self._exchange_stop_unless_complete(file_id)
                del self.running[file_id]
                self._changed()
        self._publish(DownloadComplete(file_id=file_id, path=target))
        return target

    async def _size_claims(self, file_id: FileId, claimed: Callable[[], Sequence[int]]) -> SizeClaims:
        """Return the sizes to try; what is here already may prove one."""
        here = self._table.files.get(file_id) or self._table.parts.get(file_id)
        if here is None:
            return SizeClaims(file_id, claimed)
        size_bytes = here.size_bytes
        if isinstance(here, LocalFile) or await run_on_disk(_proves_size, self._table.part(here)):
            return SizeClaims(file_id, lambda: [size_bytes])
        return SizeClaims(file_id, lambda: sorted(claimed(), key=lambda size: size != size_bytes))

    async def _run(self, download: Download, sizes: SizeClaims) -> None:
        part: PartFile | None = None
        while part is None:
            download.record = attrs.evolve(download.record, size_bytes=sizes.choose())
            part = await self._fetch_pieces(download, sizes)
        with trio.CancelScope(shield=True):  # a few calls to the disk; half of it would be no use
            await self._finish(download.record, part)

    async def _fetch_pieces(self, download: Download, sizes: SizeClaims) -> PartFile | None:
        """Fetch the file, of the size in the record; return None if another size should be tried."""
        record = download.record
        part = self._table.part(record)
        try:
            held = await self._open_part(record, part)
        except StoreError:
            if sizes.is_first_try() and sizes.has_others():
                return None  # no disk has room for a size that is a lie
            raise
        download.begin(_chunk_bytes(part.shape, held), is_proven=bool(held))
        source = self._table.files.get(record.file_id)
        is_copied = source is not None and await self._copy(source, part, held)
        if not is_copied and part.shape.size_bytes:
            self._exchange.download(part, held.to_ranges(), download)
            if not await download.wait(sizes):
                self._exchange.stop(record.file_id)
                return None
        return part

    def _exchange_stop_unless_complete(self, file_id: FileId) -> None:
        if file_id not in self._table.files:
            self._exchange.stop(file_id)

    # --- the part file ------------------------------------------------------------------------------------------

    async def _open_part(self, record: PartRecord, part: PartFile) -> RangeSet:
        """Begin a part file, or go on with the one there is; return the genuine pieces in it."""
        earlier = self._table.parts.get(record.file_id)
        if earlier is not None and earlier.size_bytes != record.size_bytes:
            await run_on_disk(self._table.part(earlier).discard)
        elif earlier is not None:
            await run_on_disk(_move_part, earlier.part_path, record.part_path)
            written = await run_on_disk(part.reopen)
            if written is not None:
                await self._list(record)
                return await self._verify(part, written)
        return await self._begin_part(record, part)

    async def _begin_part(self, record: PartRecord, part: PartFile) -> RangeSet:
        await self._list(record)
        try:
            await run_on_disk(part.create)
        except (StoreError, OutputExists):
            with trio.CancelScope(shield=True):
                await self._unlist(record)
            raise
        return RangeSet.of(await run_on_disk(part.tree.present_nodes))

    async def _verify(self, part: PartFile, written: RangeSet) -> RangeSet:
        """Return the nodes that are there, and those chunks of `written` that are genuine."""
        nodes = await run_on_disk(part.tree.present_nodes)
        chunks = RangeSet()
        for batch in _batches(written):
            for piece in await run_on_disk(part.verify, batch):
                chunks.add(piece)
        await run_on_disk(part.begin_journal, chunks)
        chunks.update(RangeSet.of(nodes))
        return chunks

    async def _list(self, record: PartRecord) -> None:
        self._table.parts[record.file_id] = record
        await self._table.save_parts()

    async def _unlist(self, record: PartRecord) -> None:
        self._table.parts.pop(record.file_id, None)
        await self._table.save_parts()

    # --- the end ------------------------------------------------------------------------------------------------

    async def _copy(self, file: LocalFile, part: PartFile, held: RangeSet) -> bool:
        """Copy a file that is here; return False if it turns out that it is not what it was."""
        source = self._table.source(file)
        missing = RangeSet([(part.shape.node_count, part.shape.piece_count)]).difference(held)
        for batch in _batches(missing):
            try:
                await run_on_disk(_copy_pieces, source, part, batch)
            except SourceChanged as exc:
                self._sources.give_up(file.file_id, str(exc))
                held.difference_update(held.copy())
                held.update(await self._verify(part, missing))
                return False
        return True

    async def _finish(self, record: PartRecord, part: PartFile) -> None:
        await run_on_disk(part.sync)
        mtime_ns = await run_on_disk(part.publish, record.target)
        if record.file_id not in self._table.files:
            await self._sources.add(
                LocalFile(
                    file_id=record.file_id,
                    name=record.name,
                    size_bytes=record.size_bytes,
                    path=record.target,
                    mtime_ns=mtime_ns,
                    is_own=False,
                )
            )
        await self._unlist(record)


def _proves_size(part: PartFile) -> bool:
    """Return whether the top of the tree is here and genuine."""
    return part.shape.node_count > 0 and part.tree.node(0) is not None


def _chunk_bytes(shape: TreeShape, pieces: RangeSet) -> int:
    """Return how many bytes of the file these pieces are."""
    chunks = len(pieces.intersection(((shape.node_count, shape.piece_count),)))
    last = shape.piece_count - 1
    if not chunks or last not in pieces:
        return chunks * shape.piece_size(shape.node_count) if chunks else 0
    return (chunks - 1) * shape.piece_size(shape.node_count) + shape.piece_size(last)


def _batches(pieces: RangeSet) -> Iterator[list[int]]:
    remaining = iter(pieces)
    while batch := list(islice(remaining, _CHUNKS_PER_HOP)):
        yield batch


def _copy_pieces(source: FileSource, part: PartFile, pieces: Sequence[int]) -> None:
    genuine = part.write_pieces(list(zip(pieces, source.read_pieces(pieces), strict=True)))
    if not all(genuine):
        raise SourceUnavailable(f"{source.path} was changed while it was copied; try again")


def _move_part(earlier: Path, part: Path) -> None:
    """Bring the part file of an interrupted download to another place, if that can be done without copying."""
    if earlier == part or not earlier.exists():
        return
    with store_errors("move", earlier):
        if part.exists():
            raise OutputExists(f"{part} is there already; move it away, or choose another place")
        try:
            earlier.rename(part)
        except OSError:  # another disk: begin anew there
            earlier.unlink(missing_ok=True)
