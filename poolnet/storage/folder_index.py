"""Which file of a folder lies where in its content. Compact: some 100 bytes a file, most of them its path."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from poolnet.errors import UnknownFile
from poolnet.ids import FileId
from poolnet.storage.folder_names import FolderNames
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE, EntryKind, FolderEntry

#: A part of a file: which, from where in it, how many bytes. The one behind the last stands for the trailer.
Span = tuple[int, int, int]


class FolderIndex:
    """The files and empty directories of one folder, in the order of its list.

    Attributes:
        paths: of each, relative to the folder as it lies on this device.
        starts: where in the content each begins, and at the end where the trailer does.
        kinds: what each is: an `EntryKind`.
    """

    __slots__ = ("kinds", "paths", "starts")

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.starts = array("Q", [0])
        self.kinds = bytearray()

    def append(self, path: str, size_bytes: int, kind: EntryKind) -> None:
        """Take the next entry."""
        self.paths.append(path)
        self.starts.append(self.starts[-1] + size_bytes)
        self.kinds.append(kind)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def content_size(self) -> int:
        """The size of the content: all files and the trailer."""
        return self.starts[-1] + FOLDER_TRAILER_SIZE

    @property
    def file_count(self) -> int:
        """How many entries are files."""
        return len(self.kinds) - self.kinds.count(EntryKind.EMPTY_DIRECTORY)

    def size(self, index: int) -> int:
        """Return the size of an entry."""
        return self.starts[index + 1] - self.starts[index]

    def spans(self, offset: int, size: int) -> Iterator[Span]:
        """Yield the parts of files that a part of the content consists of, in order."""
        end = offset + size
        index = bisect_right(self.starts, offset) - 1
        while offset < end and index < len(self.paths):
            stop = min(end, self.starts[index + 1])
            if offset < stop:
                yield index, offset - self.starts[index], stop - offset
                offset = stop
            index += 1
        if offset < end:
            yield len(self.paths), offset - self.starts[-1], end - offset


def index_list(entries: Iterable[FolderEntry], *, is_own: bool) -> FolderIndex:
    """Return the index of a list.

    Args:
        entries: in the order of the list.
        is_own: whether the folder lies here under the names of the list; else under names made harmless.

    Raises:
        WireError: as the entries do.
    """
    index = FolderIndex()
    names = FolderNames()
    for entry in entries:
        index.append(entry.path if is_own else names.place(entry.path), entry.size_bytes, entry.kind)
    return index


def select_entries(entries: Iterable[FolderEntry], only: Sequence[str]) -> bytearray:
    """Return for each entry whether it is one of the files, or in one of the subfolders, that `only` names.

    Raises:
        UnknownFile: there is no such file or subfolder; the message says which.
    """
    wanted = {path.strip("/").removeprefix("./") for path in only}
    found: set[str] = set()
    selected = bytearray()
    for entry in entries:
        matching = wanted.intersection(_places(entry.path))
        found |= matching
        selected.append(bool(matching))
    if missing := wanted - found:
        raise UnknownFile(f"there is no {sorted(missing)[0]!r} in that folder; look at its list for what is")
    return selected


def known_entries(entries: Iterable[FolderEntry], ids: frozenset[FileId]) -> Iterator[tuple[int, FileId]]:
    """Yield those entries, by place in the list, that are one of these files."""
    for place, entry in enumerate(entries):
        if entry.size_bytes and entry.file_id in ids:
            yield place, entry.file_id


def _places(path: str) -> Iterator[str]:
    """Yield a path and all directories above it."""
    yield path
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
