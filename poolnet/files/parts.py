"""Unfinished downloads on disk: begun, taken up again with what is genuine in them, dropped. And their list.

Of each file there is one part at most, and it is listed before its first byte is written, so that whatever a crash
leaves is found. `Content` knows how a part lies on disk.
"""

from collections.abc import Container, Mapping

import trio

from poolnet.errors import OutputExists, StoreError
from poolnet.files.contents import Content, PartStore, batches
from poolnet.files.part_paths import is_published, move_part, put_part_aside
from poolnet.ids import FileId
from poolnet.ranges import RangeSet
from poolnet.storage.file_table import FileKind, FileTable, PartRecord
from poolnet.storage.files import run_on_disk


class Parts:
    """The parts of the downloads of one pool.

    Args:
        table: where they are listed.
        contents: how each kind of file lies on disk.
        running: the downloads that are going on; the parts of others may have to go for them.
    """

    def __init__(self, table: FileTable, contents: Mapping[FileKind, Content], running: Container[FileId]) -> None:
        self._table = table
        self._contents = contents
        self._running = running

    async def open(self, record: PartRecord, part: PartStore) -> RangeSet:
        """Begin a part file, or go on with the one there is; return the genuine pieces in it."""
        earlier = self._table.parts.get(record.file_id)
        if earlier is not None and (not _is_same(earlier, record) or await run_on_disk(is_published, earlier)):
            await self.discard(earlier)
        elif earlier is not None:
            if not await run_on_disk(move_part, earlier.part_path, record.part_path):
                await self.discard(earlier)  # on another disk: begin anew
            written = await run_on_disk(part.reopen)
            if written is not None:
                await self._list(record)
                return await self._verify(part, written)
            if earlier.part_path == record.part_path:
                await run_on_disk(put_part_aside, record.part_path)
        return await self._begin_part(record, part)

    async def discard(self, record: PartRecord) -> None:
        """Remove a part that is of no use."""
        await run_on_disk(self._contents[record.kind].discard, record)

    async def drop(self, record: PartRecord) -> None:
        """Remove a part, and forget it."""
        await self.discard(record)
        await self.unlist(record)
        if not self._table.is_listed(record.file_id):
            await run_on_disk(self._table.remove_tree, record.file_id)

    async def _supersede(self, record: PartRecord) -> None:
        """Remove what is left of another download that went to the same place: of an earlier version, mostly."""
        for left in [left for left in self._table.parts.values() if left.part_path == record.part_path]:
            if left.file_id != record.file_id and left.file_id not in self._running:
                await self.drop(left)

    async def _begin_part(self, record: PartRecord, part: PartStore) -> RangeSet:
        await self._supersede(record)
        await self._list(record)
        try:
            await run_on_disk(part.create)
        except (StoreError, OutputExists):
            with trio.CancelScope(shield=True):
                await self.unlist(record)
            raise
        return RangeSet.of(await run_on_disk(part.tree.present_nodes))

    async def _verify(self, part: PartStore, written: RangeSet) -> RangeSet:
        """Return the nodes that are there, and those chunks of `written` that are genuine."""
        nodes = await run_on_disk(part.tree.present_nodes)
        chunks = RangeSet()
        for batch in batches(written):
            for piece in await run_on_disk(part.verify, batch):
                chunks.add(piece)
        await run_on_disk(part.begin_journal, chunks)
        chunks.update(RangeSet.of(nodes))
        return chunks

    async def _list(self, record: PartRecord) -> None:
        self._table.parts[record.file_id] = record
        await self._table.save_parts()

    async def unlist(self, record: PartRecord) -> None:
        self._table.parts.pop(record.file_id, None)
        await self._table.save_parts()


def _is_same(one: PartRecord, other: PartRecord) -> bool:
    """Return whether a download can go on with what another one has left."""
    return (one.size_bytes, one.kind, one.list_id) == (other.size_bytes, other.kind, other.list_id)
