"""Which list a folder has. Its offers only claim it; its content proves it, as it ends with the id of its list.

So before a folder is laid out its end is fetched, and whoever offers it with another list or size has lied: an honest
device hashes what it offers. Whoever else offers the folder is believed as before. Of a folder of which all, or a part,
is here, the list is known.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from poolnet.errors import SourceUnavailable, StoreError
from poolnet.files.file_end import FileEnd
from poolnet.ids import FileId
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.files import run_on_disk
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE

#: Ends of folders kept for the downloads that need them next, of half a MiB and two tree nodes at most.
_MAX_KEPT_ENDS: Final = 8

#: Fetches the end of a folder's content; None if all of it is here by now. Raises PoolnetError.
FetchEnd = Callable[[FileId], Awaitable[FileEnd | None]]
#: Takes a folder, its list and its size, all proven; returns whether somebody has that list.
Proven = Callable[[FileId, FileId, int], bool]


class ListProofs:
    """The lists of the folders of one pool.

    Args:
        table: what is here.
        fetch_end: see `FetchEnd`.
        proven: see `Proven`.
    """

    def __init__(self, table: FileTable, fetch_end: FetchEnd, proven: Proven) -> None:
        self._table = table
        self._fetch_end = fetch_end
        self._proven = proven
        self._ends: dict[FileId, FileEnd] = {}

    async def list_of(self, file_id: FileId) -> FileId:
        """Return the list that a folder has; waits as long as nobody who has the end of it is there.

        Raises:
            UnknownFile: it was withdrawn by all who offered it.
            StoreError: it is no folder, or nobody offers it with its list.
        """
        end: FileEnd | None = None
        while end is None:
            if (known := self._known(file_id)) is not None:
                return known
            file = self._table.files.get(file_id)
            end = await self._fetch_end(file_id) if file is None else await self._read_end(file)
        if len(end.data) < FOLDER_TRAILER_SIZE:
            raise list_of_another()
        list_id = FileId(end.data)
        if not self._proven(file_id, list_id, end.shape.size_bytes):
            raise list_of_another()
        self._ends.pop(file_id, None)
        self._ends[file_id] = end
        if len(self._ends) > _MAX_KEPT_ENDS:
            del self._ends[next(iter(self._ends))]
        return list_id

    def take_chunks(self, file_id: FileId) -> list[tuple[int, bytes]]:
        """Return the chunks at the end of a folder that were fetched for the proof, once; nothing if none were."""
        end = self._ends.pop(file_id, None)
        return [] if end is None else end.chunk_data()

    def _known(self, file_id: FileId) -> FileId | None:
        """Return the list of a folder of which all or some is here: it was proven before."""
        for listed in (self._table.files, self._table.partials, self._table.parts):
            record = listed.get(file_id)
            if record is not None and record.kind == "folder":
                return record.list_id
        return None

    async def _read_end(self, file: LocalFile) -> FileEnd:
        """Return the end of a folder of which the content is here as a plain file."""
        end = FileEnd(file.file_id, file.size_bytes, FOLDER_TRAILER_SIZE)
        needed = end.needed
        try:
            found = await run_on_disk(self._table.source(file).read_pieces, needed)
        except SourceUnavailable as exc:
            raise StoreError(f"{exc}; try again when it is not served from there any more") from exc
        end.write_pieces(list(zip(needed, found, strict=True)))
        return end


def list_of_another() -> StoreError:
    """Return the error that a folder is offered, by all who do, with a list that is not its own."""
    return StoreError("the list of that folder is of another one; ask for the folder to be offered again")
