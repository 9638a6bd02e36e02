"""What is fetched though the user did not ask for it by itself: lists of folders and their proofs, pictures, streams.

None of it is shown among the downloads, and each has a size above which it is none: whatever members offer, nobody has
more fetched than what was asked for, and a list or a picture with it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from poolnet.files.downloads import Downloads
from poolnet.files.file_end import FileEnd
from poolnet.files.offer_book import OfferBook
from poolnet.files.offer_list import OfferList
from poolnet.ids import FileId, encode_id
from poolnet.limits import MAX_FOLDER_LIST_SIZE, MAX_MEDIA_SIZE
from poolnet.storage.file_table import FileKind, FileTable, PartRecord
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE


class QuietFetches:
    """Fetches what other parts of a `FileManager` need.

    Args:
        table: what is here.
        downloads: fetches.
        book: what is offered.
        offers: the same, and what is here.
        give_way: called with a file before it is fetched as anything but a picture.
    """

    def __init__(
        self,
        table: FileTable,
        downloads: Downloads,
        book: OfferBook,
        offers: OfferList,
        *,
        give_way: Callable[[FileId], None],
    ) -> None:
        self._table = table
        self._downloads = downloads
        self._book = book
        self._offers = offers
        self._give_way = give_way

    async def fetch_list(self, list_id: FileId, path: Path) -> Path:
        """Fetch the list of a folder; see `FetchList`."""
        return await self._fetch(list_id, path, "list", self._list_sizes)

    async def fetch_end(self, file_id: FileId) -> FileEnd | None:
        """Fetch the end of a folder; see `FetchEnd`."""
        self._give_way(file_id)
        return await self._downloads.fetch_end(file_id, lambda: self._offers.sizes(file_id), FOLDER_TRAILER_SIZE)

    async def fetch_media(self, file_id: FileId, out: Path) -> Path:
        """Fetch a picture; see `Media`."""
        return await self._fetch(file_id, out, "media", self.media_sizes)

    async def fetch_whole(self, file_id: FileId, directory: Path) -> Path:
        """Return where the whole of a stream is, fetched into a directory if it was not here."""
        file = self._table.files.get(file_id)
        if file is not None:
            return file.path
        return await self._fetch(file_id, directory / encode_id(file_id), "file", self._offers.sizes)

    def media_sizes(self, file_id: FileId) -> Sequence[int]:
        """Return the sizes that a picture may have, the most believable first."""
        return [size for size in self._offers.sizes(file_id) if size <= MAX_MEDIA_SIZE]

    def _list_sizes(self, list_id: FileId) -> Sequence[int]:
        return [size for size in self._offers.sizes(list_id) if size <= MAX_FOLDER_LIST_SIZE]

    async def _fetch(
        self, file_id: FileId, target: Path, kind: FileKind, sizes: Callable[[FileId], Sequence[int]]
    ) -> Path:
        best = None if kind == "list" else self._book.best(file_id, kind)
        name = target.name if best is None else best.name
        if kind != "media":
            self._give_way(file_id)
        record = PartRecord(file_id=file_id, name=name, size_bytes=0, target=target, kind=kind)
        return await self._downloads.fetch(record, lambda: sizes(file_id), is_quiet=True)
