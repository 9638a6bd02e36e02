"""Which file of a folder lies where in its content. Compact: some 100 bytes a file, most of them its path."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from poolnet.errors import UnknownFile
from poolnet.ids import FileId
from poolnet.storage.folder_names import FolderNames
from poolnet.storage.folder_patterns import is_pattern, matcher
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE, EntryKind, FolderEntry

#: Names at the top of a folder that are told to who looks for another one.
_NAMED_IN_ERRORS: Final = 8

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
    """Return for each entry whether it is wanted, itself or a subfolder that it is in.

    Args:
        entries: all there are.
        only: paths of files and subfolders, and patterns (folder_patterns.py): what has a wildcard and is no path.

    Raises:
        UnknownFile: there is nothing of that kind; the message says which, and what there is instead.
    """
    wanted = {each.strip("/").removeprefix("./"): each for each in only}
    patterns = {path: matcher([each]) for path, each in wanted.items() if is_pattern(each)}
    found: set[str] = set()
    top: dict[str, None] = {}
    selected = bytearray()
    for entry in entries:
        is_directory = entry.kind == EntryKind.EMPTY_DIRECTORY
        matching = wanted.keys() & set(_places(entry.path))
        for path, is_match in patterns.items():
            if any(is_match(place, is_directory or place != entry.path) for place in _places(entry.path)):
                matching.add(path)
        found |= matching
        selected.append(bool(matching))
        if len(top) <= _NAMED_IN_ERRORS:
            name, *below = entry.path.split("/", 1)
            top[name + "/" if below or is_directory else name] = None
    if missing := sorted(wanted.keys() - found):
        raise UnknownFile(_nothing_matches(wanted[missing[0]], list(top)))
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


def _nothing_matches(wish: str, top: Sequence[str]) -> str:
    named = ", ".join(map(repr, top[:_NAMED_IN_ERRORS])) or "nothing"
    others = " and more" if len(top) > _NAMED_IN_ERRORS else ""
    return f"there is no {wish!r} in that folder; at its top there is {named}{others}"
