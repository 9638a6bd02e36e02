"""What can be fetched and what is here, put together from the offers of the pool, the files and the downloads here."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from poolnet.errors import UnknownFile
from poolnet.files.download_queue import Offer
from poolnet.files.offer_book import OfferBook, OfferInfo, OfferState
from poolnet.files.progress import Download
from poolnet.ids import FileId, encode_id, short_id
from poolnet.storage.file_table import FileTable
from poolnet.storage.files import safe_file_name

#: So many files are named when several are meant.
_NAMED_IN_ERRORS = 5


class OfferList:
    """The files of one pool as an application sees them.

    Args:
        book: what is offered.
        table: what is here.
        running: the downloads that are going on.
        states: returns the state and the bytes of every file that was asked for.
    """

    def __init__(
        self,
        book: OfferBook,
        table: FileTable,
        *,
        running: Mapping[FileId, Download],
        states: Callable[[], Mapping[FileId, tuple[OfferState, int]]],
    ) -> None:
        self._book = book
        self._table = table
        self._running = running
        self._states = states

    def info(self, file_id: FileId) -> OfferInfo:
        """Return one of the files."""
        return self._info(file_id, self._states())

    def infos(self) -> list[OfferInfo]:
        """Return all of them, by name."""
        states = self._states()
        infos = [self._info(file_id, states) for file_id, _ in self._names()]
        return sorted(infos, key=lambda info: (info.name.casefold(), info.file_id))

    def find(self, text: str) -> FileId:
        """Return the file that somebody means by its name, its id, or the beginning of its id.

        Raises:
            UnknownFile: there is none, or there are several.
        """
        found = [file_id for file_id, name in self._names() if text in (name, safe_file_name(name))]
        if not found and text:
            prefix = text.lower()
            found = [file_id for file_id, _ in self._names() if encode_id(file_id).startswith(prefix)]
        if not found:
            raise UnknownFile(f"no file {text!r} is offered here, by name or id; list the files to see what is")
        if len(found) > 1:
            ids = ", ".join(short_id(file_id) for file_id in sorted(found)[:_NAMED_IN_ERRORS])
            raise UnknownFile(f"{len(found)} files are meant by {text!r} ({ids}); use the id of one")
        return found[0]

    # --- for the queue ------------------------------------------------------------------------------------------

    def offer(self, file_id: FileId) -> Offer | None:
        """Return what is known of a file that somebody offers, or that is here."""
        if (best := self._book.best(file_id)) is not None:
            return Offer(name=best.name, size_bytes=best.size_bytes, kind=best.kind, list_id=best.list_id)
        file = self._table.files.get(file_id)
        if file is None or file.kind == "list":
            return None
        return Offer(name=file.name, size_bytes=file.size_bytes, kind=file.kind, list_id=file.list_id)

    def is_known(self, file_id: FileId) -> bool:
        """Return whether there is such a file; cheap."""
        return file_id in self._book or file_id in self._table.files

    def is_withdrawn(self, file_id: FileId) -> bool:
        """Return whether nobody offers it any more, and somebody did."""
        return file_id not in self._table.files and self._book.is_withdrawn(file_id)

    def sizes(self, file_id: FileId) -> Sequence[int]:
        """Return the sizes that it may have, the most believable first."""
        return [size for size in self._book.sizes(file_id) if size is not None]

    # --- helpers ------------------------------------------------------------------------------------------------

    def _names(self) -> Iterator[tuple[FileId, str]]:
        """Yield all files with the names that are shown."""
        for file in self._table.files.values():
            if file.kind != "list":
                yield file.file_id, file.name
        for file_id in self._book.files():
            if file_id in self._table.files or self._book.whole_of_stream(file_id) is not None:
                continue  # a stream that is finished is shown as the file that it became
            if (best := self._book.best(file_id)) is not None:
                yield file_id, best.name

    def _info(self, file_id: FileId, states: Mapping[FileId, tuple[OfferState, int]]) -> OfferInfo:
        file, best = self._table.files.get(file_id), self._book.best(file_id)
        known = self.offer(file_id)
        assert known is not None
        nodes = self._book.nodes(file_id)
        running = self._running.get(file_id)
        sources = 0 if running is None else running.count_sources()
        size_bytes = known.size_bytes if running is None else running.record.size_bytes
        if file is not None:
            state: OfferState = "seeding" if file.is_own else "complete"
            done_bytes = size_bytes = file.size_bytes
        elif running is not None:
            state, done_bytes = "downloading", running.done_bytes
        else:
            state, done_bytes = states.get(file_id, ("offered", 0))
        return OfferInfo(
            file_id=file_id,
            name=known.name if file is None else file.name,
            size_bytes=size_bytes,
            nodes=nodes,
            local_path=None if file is None else file.path,
            state=state,
            done_bytes=done_bytes,
            kind=known.kind,
            file_count=1 if best is None else best.file_count,
            holders=max(len(nodes), sources),
        )
