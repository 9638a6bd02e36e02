"""Downloads: from an offer to a complete file at its place, however often it is interrupted on the way.

The part file and its journal are written as pieces come; what is needed to resume is listed before the first of them.
A file that is here already is copied, not fetched. Which download runs when is the queue's business
(files/download_queue.py); how a kind of offer lies on disk is its `Content`'s.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

import attrs
import trio

from poolnet.errors import OutputExists, StoreError, UnknownFile
from poolnet.events import DownloadComplete, PoolEvent
from poolnet.files.contents import Content, FileContent, PartStore, complete_file
from poolnet.files.file_end import FileEnd
from poolnet.files.part_paths import is_published
from poolnet.files.partial_folders import PartialFolders
from poolnet.files.parts import Parts
from poolnet.files.progress import Download
from poolnet.files.size_claims import SizeClaims
from poolnet.files.sources import Sources
from poolnet.files.uses import DownloadWatcher, PieceSink
from poolnet.ids import FileId
from poolnet.limits import MIB
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import Ranges, RangeSet
from poolnet.service import open_service_nursery
from poolnet.storage.file_table import FileKind, FileTable, LocalFile, PartRecord
from poolnet.storage.files import run_on_disk, sync_name

#: Written and not on the disk: no disk takes long for it, and calls are few.
_WRITE_BACK_SIZE: Final = 64 * MIB
#: Returns the sizes that a file may have, the most believable first.
ClaimedSizes = Callable[[], Sequence[int]]


class DownloadExchange(Protocol):
    """What downloads need of the exchange of pieces."""

    def download(self, part: PieceSink, held: Ranges, watcher: DownloadWatcher, *, priority: int = 0) -> None:
        """Fetch what is missing of a file; `held` is there and genuine."""

    async def take_cached(self, part: PieceSink) -> RangeSet:
        """Write what is in the cache of a file that was relayed until now into a download; return what was written."""

    def select(self, file_id: FileId, pieces: Ranges | None) -> None:
        """Of a download fetch only these pieces, and the nodes above them; None: all."""

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Ask for pieces of a file before those of files with a lower priority, from now on."""

    def stop(self, file_id: FileId) -> None:
        """Neither fetch nor give a file any more."""

    def source_count(self, file_id: FileId) -> int:
        """Return how many linked peers have something of a file that is being fetched."""


class Downloads:
    """Runs the downloads of one pool on this device.

    Args:
        table: where they are listed.
        exchange: where their pieces come from.
        sources: takes those that are complete.
        partials: takes parts of folders that are complete.
        publish: called with events.
        changed: called with a file when its download begins, whenever its pieces begin to be fetched (the exchange has
            forgotten the route since the last time), and when it has ended.

    Attributes:
        running: those that are going on, by id.
        contents: how each kind of file lies on disk; kinds that are not there cannot be downloaded.
    """

    def __init__(
        self,
        table: FileTable,
        exchange: DownloadExchange,
        sources: Sources,
        partials: PartialFolders,
        *,
        publish: Callable[[PoolEvent], None],
        changed: Callable[[FileId], None],
    ) -> None:
        self.running: dict[FileId, Download] = {}
        plain = FileContent(table, sources.give_up, sources.recognise)
        self.contents: dict[FileKind, Content] = {"file": plain, "media": plain, "list": plain}
        self._parts = Parts(table, self.contents, self.running)
        self._table = table
        self._exchange = exchange
        self._sources = sources
        self._partials = partials
        self._publish = publish
        self._changed = changed
        self._turns: WeakValueDictionary[FileId, trio.Lock] = WeakValueDictionary()

    async def fetch(
        self,
        record: PartRecord,
        claimed_sizes: ClaimedSizes,
        *,
        priority: int = 0,
        is_quiet: bool = False,
        began: Callable[[Download], None] = lambda _download: None,
    ) -> Path:
        """Fetch a file to where the record says, and return where it is.

        Cancelling keeps what was fetched in a part file, from which the next call goes on.

        Args:
            record: what is wanted. Its size and list are claims and do not count.
            claimed_sizes: the sizes that it may have.
            priority: of its pieces among those of other files.
            is_quiet: whether no event is published.
            began: called with how it goes, when it is its turn.

        Raises:
            PoolnetError: as `FileManager.download`.
        """
        is_there = False
        while not is_there:
            is_prepared = not await run_on_disk(os.path.lexists, record.target)
            if is_prepared:  # not in its turn: that waits for nobody else's
                record = await self.contents[record.kind].prepare_part(record)
            turn = self._turns.setdefault(record.file_id, trio.Lock())
            async with turn:  # of two downloads of one file, the second copies what the first has brought
                if is_there := await run_on_disk(os.path.lexists, record.target):
                    await self._recognise(record)
                elif is_there := is_prepared:
                    sizes = await self._size_claims(record.file_id, claimed_sizes)
                    await self._fetch(record, sizes, priority, _publish_nothing if is_quiet else self._publish, began)
        if not is_quiet:
            self._publish(DownloadComplete(file_id=record.file_id, path=record.target))
        return record.target

    async def _fetch(
        self,
        record: PartRecord,
        sizes: SizeClaims,
        priority: int,
        publish: Callable[[PoolEvent], None],
        began: Callable[[Download], None],
    ) -> None:
        with self._under_way(record, priority, publish) as download:
            began(download)
            await self._run(download, sizes)

    async def fetch_end(self, file_id: FileId, claimed_sizes: ClaimedSizes, byte_count: int) -> FileEnd | None:
        """Fetch the last bytes of a folder's content into memory, verified, and with them its true size.

        Args:
            file_id: which folder.
            claimed_sizes: the sizes that it may have.
            byte_count: how many bytes.

        Returns:
            The end, or None if all of the file is here by now.

        Raises:
            UnknownFile: it was withdrawn.
            StoreError: no size that is claimed can be true.
        """
        async with self._turns.setdefault(file_id, trio.Lock()):
            sizes = await self._size_claims(file_id, claimed_sizes)
            record = PartRecord(file_id=file_id, name="", size_bytes=0, target=Path(), kind="folder")
            with self._under_way(record, 0, _publish_nothing) as download:
                while file_id not in self._table.files:
                    end = FileEnd(file_id, sizes.choose(), byte_count)
                    download.record = attrs.evolve(record, size_bytes=end.shape.size_bytes)
                    download.begin(0, is_proven=False)
                    if not end.chunks or await self._fetch_into(download, sizes, end, RangeSet(), end.chunks):
                        return end
        return None

    @contextlib.contextmanager
    def _under_way(self, record: PartRecord, priority: int, publish: Callable[[PoolEvent], None]) -> Iterator[Download]:
        """List a download as running during the block; after it, what was served before is served again."""
        file_id = record.file_id
        self._partials.give_way(file_id)
        download = Download(
            record, priority=priority, publish=publish, count_sources=lambda: self._exchange.source_count(file_id)
        )
        self.running[file_id] = download
        self._changed(file_id)
        try:
            yield download
        finally:
            if download.is_exchanged:
                self._exchange.stop(file_id)
                self._sources.serve_again(file_id)
            self._partials.serve_again(file_id)
            del self.running[file_id]
            self._changed(file_id)

    async def discard(self, file_id: FileId) -> None:
        """Remove what was fetched of a file that is not being downloaded, and forget it.

        Raises:
            StoreError: it cannot be removed; it is still listed.
        """
        async with self._turns.setdefault(file_id, trio.Lock()):
            record = self._table.parts.get(file_id)
            if record is not None:
                await self._parts.drop(record)

    async def finish_published(self) -> None:
        """See to downloads that had their name when the process ended: list them, and remove what is left beside them.

        What the disk refuses is left to the next start.
        """
        for record in list(self._table.parts.values()):
            async with self._turns.setdefault(record.file_id, trio.Lock()):
                with contextlib.suppress(StoreError, OutputExists):
                    if self._table.parts.get(record.file_id) is record and await run_on_disk(is_published, record):
                        await self._recognise(record)

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Change the priority of a download that is running."""
        if file_id in self.running:
            self.running[file_id].priority = priority
            self._exchange.prioritise(file_id, priority)

    def withdrawn(self, file_id: FileId) -> None:
        """End the download of a file that nobody offers any more."""
        if file_id in self.running:
            self.running[file_id].failed(UnknownFile("the file was withdrawn by everybody who offered it"))

    def is_fetched(self, file_id: FileId) -> bool:
        """Return whether the exchange fetches a file, and gives what is here of it to others."""
        return file_id in self.running and self.running[file_id].is_exchanged

    def found_here(self, file_id: FileId) -> None:
        """Take note that a file is served from here now; a download of it goes on with a copy."""
        if file_id in self.running:
            self.running[file_id].found_here()

    async def _recognise(self, record: PartRecord) -> None:
        """See whether what is at the target is the file: another download, or one that was interrupted, put it there.

        Raises:
            OutputExists: it is something else.
        """
        part = self._table.parts.get(record.file_id)
        complete = (self._table.partials if record.only else self._table.files).get(record.file_id)
        if complete is None or complete.path != record.target:
            found = await self.contents[record.kind].recognise(record, part)
            if found is None:
                raise OutputExists(f"{record.target} is there already; move it away, or choose another place")
            await run_on_disk(sync_name, record.target)
            await self._keep(found)
        if part is not None and part.target == record.target:
            await self._parts.discard(part)
            await self._parts.unlist(part)

    async def _size_claims(self, file_id: FileId, claimed: ClaimedSizes) -> SizeClaims:
        """Return the sizes to try; what is here already may prove one."""
        here = self._table.files.get(file_id) or self._table.parts.get(file_id)
        if here is None:
            return SizeClaims(file_id, claimed)
        size_bytes = here.size_bytes
        if isinstance(here, LocalFile) or await run_on_disk(self._proves_size, here):
            return SizeClaims(file_id, lambda: [size_bytes])
        return SizeClaims(file_id, lambda: sorted(claimed(), key=lambda size: size != size_bytes))

    def _proves_size(self, record: PartRecord) -> bool:
        """Return whether the top of the tree is here and genuine."""
        tree = self._table.tree(record.file_id, record.size_bytes)
        return tree.shape.node_count > 0 and tree.node(0) is not None

    async def _run(self, download: Download, sizes: SizeClaims) -> None:
        part: PartStore | None = None
        while part is None:
            here = self._table.files.get(download.record.file_id)
            size_bytes = sizes.choose() if here is None else here.size_bytes
            download.record = attrs.evolve(download.record, size_bytes=size_bytes)
            part = await self._fetch_pieces(download, sizes)
        with trio.CancelScope(shield=True):  # a few calls to the disk; half of it would be no use
            await self._finish(download.record, part)

    async def _fetch_pieces(self, download: Download, sizes: SizeClaims) -> PartStore | None:
        """Fetch the file, of the size in the record; return None if another size, or a copy, should be tried."""
        record = download.record
        content = self.contents[record.kind]
        try:
            part = await content.open_part(record)
            held = await self._parts.open(record, part)
        except StoreError:
            if sizes.is_first_try() and sizes.has_others():
                return None  # no disk has room for a size that is a lie, and no list of a folder adds up to it
            raise
        download.begin(_chunk_bytes(part.shape, held), is_proven=bool(held))
        wanted = await run_on_disk(content.wanted, record, part)
        missing = _missing(part.shape, held, wanted)
        if missing and content.needs_tree(part) and not await self._fetch_nodes(download, sizes, part, held, missing):
            return None
        if missing:
            await content.copy_here(record, part, missing.copy(), lambda pieces: _take(download, part, held, pieces))
            missing.difference_update(held)
        if missing:
            _take(download, part, held, await self._exchange.take_cached(part))
            missing.difference_update(held)
        if missing and not await self._fetch_missing(download, sizes, part, held, wanted):
            return None
        return part

    async def _fetch_nodes(
        self, download: Download, sizes: SizeClaims, part: PartStore, held: RangeSet, chunks: RangeSet
    ) -> bool:
        """Fetch the tree nodes above some chunks; return False if another size, or a copy, should be tried."""
        nodes = part.shape.with_ancestors(chunks).difference(chunks).difference(held)
        if nodes and not await self._fetch_missing(download, sizes, part, held, nodes.to_ranges()):
            return False
        held.update(RangeSet.of(await run_on_disk(part.tree.present_nodes)))
        return True

    async def _fetch_missing(
        self, download: Download, sizes: SizeClaims, part: PartStore, held: RangeSet, wanted: Ranges | None
    ) -> bool:
        """Fetch what is wanted and not held; return False if another size, or a copy, should be tried."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(_write_back, download, part)
            return await self._fetch_into(download, sizes, part, held, wanted)

    async def _fetch_into(
        self, download: Download, sizes: SizeClaims, sink: PieceSink, held: RangeSet, wanted: Ranges | None
    ) -> bool:
        """See `_fetch_missing`; where the pieces go need not be a disk."""
        file_id = download.record.file_id
        self._changed(file_id)
        download.is_exchanged = True
        self._exchange.download(sink, held.to_ranges(), download, priority=download.priority)
        if wanted is not None:
            self._exchange.select(file_id, wanted)
        is_complete = await download.wait(sizes)
        if not is_complete and download.is_exchanged:
            self._exchange.stop(file_id)
            download.is_exchanged = False
        return is_complete

    # --- complete ---------------------------------------------------------------------------------------------------

    async def _finish(self, record: PartRecord, part: PartStore) -> None:
        await run_on_disk(part.sync)
        mtime_ns = await run_on_disk(part.publish, record.target)
        await self._keep(complete_file(record, mtime_ns=mtime_ns))
        if not await run_on_disk(os.path.lexists, record.part_path):  # else the next start removes it
            await self._parts.unlist(record)

    async def _keep(self, fetched: LocalFile) -> None:
        """List what is at its target, and serve it, unless it is here already."""
        here = self._table.files.get(fetched.file_id)
        is_better = here is not None and fetched.kind == "folder" != here.kind and not here.is_own
        if fetched.only:
            await self._partials.add(fetched)
        elif here is None or is_better:
            await self._sources.add(fetched)
            await self._partials.forget(fetched.file_id)


async def _write_back(download: Download, part: PartStore) -> None:
    """Keep what is not on the disk yet so little that the end is not a long wait for it."""
    while True:
        await download.wait_for_growth(_WRITE_BACK_SIZE)
        try:
            await run_on_disk(part.write_back)
        except StoreError as exc:
            download.failed(exc)
            return


def _take(download: Download, part: PartStore, held: RangeSet, pieces: RangeSet) -> None:
    """Take note of pieces that were found on this device."""
    if not pieces:
        return
    held.update(pieces)
    download.pieces_stored(_chunk_bytes(part.shape, pieces))


def _publish_nothing(_event: PoolEvent) -> None:
    pass


def _missing(shape: TreeShape, held: RangeSet, wanted: Ranges | None) -> RangeSet:
    """Return the chunks that are wanted and not held; the nodes above them come along."""
    chunks = RangeSet([(shape.node_count, shape.piece_count)])
    return (chunks if wanted is None else chunks.intersection(wanted)).difference(held)


def _chunk_bytes(shape: TreeShape, pieces: RangeSet) -> int:
    """Return how many bytes of the file these pieces are."""
    chunks = len(pieces.intersection(((shape.node_count, shape.piece_count),)))
    last = shape.piece_count - 1
    if not chunks or last not in pieces:
        return chunks * shape.piece_size(shape.node_count) if chunks else 0
    return (chunks - 1) * shape.piece_size(shape.node_count) + shape.piece_size(last)
