"""What can be fetched and what is here, put together from the offers of the pool, the files and the downloads here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from poolnet.errors import UnknownFile
from poolnet.events import OfferKind
from poolnet.files.download_queue import Offer
from poolnet.files.offer_book import OfferBook, OfferInfo, OfferState
from poolnet.files.progress import Download
from poolnet.ids import FileId, encode_id, short_id
from poolnet.storage.file_table import FileKind, FileTable, LocalFile
from poolnet.storage.files import safe_file_name

#: So many files are named when several are meant.
_NAMED_IN_ERRORS: Final = 5
#: Of these it makes no difference on disk which one something is.
_PLAIN: Final = frozenset({"file", "media"})
#: State and verified bytes, by file and what it was asked for as.
States = Mapping[tuple[FileId, OfferKind], tuple[OfferState, int]]


class OfferList:
    """The files of one pool as an application sees them.

    Args:
        book: what is offered.
        table: what is here.
        running: the downloads that are going on.
        states: returns the state and the bytes of everything that was asked for.
    """

    def __init__(
        self,
        book: OfferBook,
        table: FileTable,
        *,
        running: Mapping[FileId, Download],
        states: Callable[[], States],
    ) -> None:
        self._book = book
        self._table = table
        self._running = running
        self._states = states

    def info(self, file_id: FileId, kind: OfferKind | None = None) -> OfferInfo:
        """Return one of the files, as `kind` or as what it is taken for without one."""
        return self._info(file_id, kind or self._usual_kind(file_id), self._states())

    def infos(self) -> list[OfferInfo]:
        """Return all of them, by name."""
        states = self._states()
        infos = [self._info(file_id, kind, states) for file_id, kind, _ in self._names()]
        return sorted(infos, key=lambda info: (info.name.casefold(), info.file_id, info.kind))

    def find(self, text: str, kind: OfferKind | None = None) -> tuple[FileId, OfferKind | None]:
        """Return the file that somebody means by its name, its id, or the beginning of its id.

        Of several that are meant, `kind` chooses; the kind that is returned is of the only one, or None: of one file
        that is offered as several.

        Raises:
            UnknownFile: there is none, or there are several.
        """
        known = [each for each in self._names() if kind in (None, each[1])]
        found = [each[:2] for each in known if text in (each[2], safe_file_name(each[2]))]
        if not found and text:
            prefix = text.lower()
            found = [each[:2] for each in known if encode_id(each[0]).startswith(prefix)]
        if not found:
            raise UnknownFile(f"no file {text!r} is offered here, by name or id; list the files to see what is")
        file_ids = sorted({file_id for file_id, _ in found})
        if len(file_ids) > 1:
            ids = ", ".join(short_id(file_id) for file_id in file_ids[:_NAMED_IN_ERRORS])
            raise UnknownFile(f"{len(file_ids)} files are meant by {text!r} ({ids}); use the id of one")
        return file_ids[0], found[0][1] if len(found) == 1 else None

    # --- for the queue ------------------------------------------------------------------------------------------

    def offer(self, file_id: FileId, kind: OfferKind | None = None) -> Offer | None:
        """Return what is known of a file that somebody offers as `kind`, or that is here as that."""
        kind = kind or self._usual_kind(file_id)
        if (best := self._book.best(file_id, kind)) is not None:
            return Offer(name=best.name, size_bytes=best.size_bytes, kind=best.kind, list_id=best.list_id)
        file = self._table.files.get(file_id)
        if file is None or file.kind == "list" or not is_here_as(file, kind):
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

    def _usual_kind(self, file_id: FileId) -> OfferKind:
        """Return what to take a file for if nobody says what is meant: what this device offers it as, or most do."""
        file = self._table.files.get(file_id)
        if file is not None and file.is_own and file.kind != "list":
            return file.kind
        kinds = self._book.kinds(file_id)
        if not kinds and file is not None and file.kind != "list":
            return file.kind
        return kinds[0] if kinds else "file"

    def _names(self) -> Iterator[tuple[FileId, OfferKind, str]]:
        """Yield all files with what they are and the names that are shown."""
        for here in self._table.files.values():
            if here.kind != "list" and not any(is_here_as(here, kind) for kind in self._book.kinds(here.file_id)):
                yield here.file_id, here.kind, here.name
        for file_id in self._book.files():
            file = self._table.files.get(file_id)
            if file is None and self._book.whole_of_stream(file_id) is not None:
                continue  # a stream that is finished is shown as the file that it became
            for kind in self._book.kinds(file_id):
                if file is not None and is_here_as(file, kind):
                    yield file_id, kind, file.name
                elif (best := self._book.best(file_id, kind)) is not None:
                    yield file_id, kind, best.name

    def _info(self, file_id: FileId, kind: OfferKind, states: States) -> OfferInfo:
        file, best = self._table.files.get(file_id), self._book.best(file_id, kind)
        if file is not None and not is_here_as(file, kind):
            file = None
        running = self._running.get(file_id)
        if running is not None and running.record.kind != kind:
            running = None
        known = self.offer(file_id, kind)
        assert known is not None
        nodes = self._book.nodes(file_id, kind)
        sources = 0 if running is None else running.count_sources()
        size_bytes = known.size_bytes if running is None else running.record.size_bytes
        if file is not None:
            state: OfferState = "seeding" if file.is_own else "complete"
            done_bytes = size_bytes = file.size_bytes
        elif running is not None:
            state, done_bytes = "downloading", running.done_bytes
        else:
            state, done_bytes = states.get((file_id, kind), ("offered", 0))
        is_told = file is not None and file.is_own and bool(nodes)  # then this device is one of them
        has_some = file is not None or done_bytes > 0
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
            holders=max(len(nodes), sources) + (has_some and not is_told),
        )


def is_here_as(file: LocalFile, kind: FileKind) -> bool:
    """Return whether a complete file is what somebody wants who wants it as `kind`."""
    return file.kind == kind or {file.kind, kind} <= _PLAIN
