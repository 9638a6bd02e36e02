"""The content of a folder, spread over its files: read and written across their borders, one file open at a time.

Files of an unfinished download are made when the first byte of them comes, or, if none does because they are empty or
all zeros, when the download is settled. Bytes of files that nobody selected have to be kept all the same where they
share a chunk with others, or that chunk could be neither verified again nor given to anybody: they go into a *spill*,
a sparse file beside the journal that goes with it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from poolnet.errors import OutputExists, StoreError
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.durable import PRIVATE_FILE, store_errors, sync_directory
from poolnet.storage.folder_index import FolderIndex
from poolnet.storage.layout import SourceChanged
from poolnet.storage.no_links import FolderRoot, is_directory, opened_file, opened_folder
from poolnet.storage.tree_file import write_at
from poolnet.wire.folder_list import EntryKind

#: Entries seen to in one step of settling: some 10 ms.
_ENTRIES_PER_STEP: Final = 1000
#: So many entries are brought to the disk all at once, together with what other programs have written.
_MANY: Final = 100
_WRITING: Final = os.O_RDWR | os.O_CREAT


@attrs.frozen(kw_only=True)
class Selection:
    """Some files of a folder. `selected` tells of each entry whether it is one; `spill` is for bytes of others."""

    selected: bytearray
    spill: Path


class FolderLayout:
    """The content of one folder.

    Args:
        load: returns its files; of folders that nobody reads they need not stay in memory.
        list_id: the id of its list: the trailer of the content.
        selection: the files that are wanted; None: all.
    """

    def __init__(self, load: Callable[[], FolderIndex], list_id: FileId, selection: Selection | None = None) -> None:
        self.list_id = list_id
        self.selection = selection
        self._load = load

    @property
    def index(self) -> FolderIndex:
        """What is in the folder."""
        return self._load()

    @property
    def needed_bytes(self) -> int:
        """See `Layout`."""
        if self.selection is None:
            return self.index.starts[-1]
        return sum(self.index.size(i) for i, is_selected in enumerate(self.selection.selected) if is_selected)

    @property
    def shape(self) -> TreeShape:
        """The pieces of the content."""
        return TreeShape(self.index.content_size)

    def is_selected(self, place: int) -> bool:
        """Return whether an entry is wanted."""
        return self.selection is None or bool(self.selection.selected[place])

    def selected_files(self) -> list[int]:
        """Return which entries are files that are wanted."""
        kinds = self.index.kinds
        return [i for i in range(len(kinds)) if kinds[i] != EntryKind.EMPTY_DIRECTORY and self.is_selected(i)]

    def selected_pieces(self) -> Ranges | None:
        """Return the chunks (as pieces) with something of the selected files in them; None: all."""
        if self.selection is None:
            return None
        first = self.shape.node_count
        pieces = RangeSet()
        for place in range(len(self.index)):
            if self.selection.selected[place] and self.index.size(place):
                start, stop = self.index.starts[place], self.index.starts[place + 1]
                pieces.add_range(first + start // CHUNK_SIZE, first + (stop - 1) // CHUNK_SIZE + 1)
        return pieces.to_ranges()

    def whole_chunks(self, selected: RangeSet | None = None) -> RangeSet:
        """Return the chunks (as pieces) that consist of these bytes of the content, and of no others of any file.

        Args:
            selected: without it, the bytes of the selected files.
        """
        index, first = self.index, self.shape.node_count
        size = index.content_size
        whole = RangeSet() if selected is None else selected.copy()
        whole.add_range(index.starts[-1], size)
        for place in range(len(index)) if selected is None else ():
            if self.is_selected(place) and index.size(place):
                whole.add_range(index.starts[place], index.starts[place + 1])
        chunks = RangeSet()
        for start, stop in whole.ranges():
            end = -(-stop // CHUNK_SIZE) if stop == size else stop // CHUNK_SIZE
            chunks.add_range(first - (-start // CHUNK_SIZE), first + end)
        return chunks

    @contextlib.contextmanager
    def reading(self, path: Path, *, is_complete: bool) -> Iterator["_OpenFolder"]:
        """See `Layout`."""
        with (
            opened_folder(path, may_be_link=is_complete) as root,
            _OpenFolder(self, path, root, is_complete=is_complete) as files,
        ):
            yield files

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator["_OpenFolder"]:
        """See `Layout`."""
        with opened_folder(path) as root, _OpenFolder(self, path, root, is_complete=False) as files:
            yield files

    def create(self, path: Path) -> None:
        """See `Layout`."""
        path.mkdir()

    def holes(self, path: Path, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """See `Layout`: none are known."""
        return iter(())

    def missing_bytes(self, path: Path, written_bytes: int) -> int | None:
        """See `Layout`."""
        if not is_directory(path):
            return None
        return max(0, self.needed_bytes - written_bytes)

    def open_entry(self, root: FolderRoot, place: int) -> int:
        """Return a descriptor for writing a file of an unfinished download, which is made if it is not there.

        Args:
            root: the folder, open.
            place: which file.
        """
        path = self.index.paths[place]
        mode = 0o777 if self.index.kinds[place] == EntryKind.EXECUTABLE else 0o666
        try:
            descriptor = root.open_file(path, _WRITING, mode=mode)
        except FileNotFoundError:
            root.make_directories(path.rpartition("/")[0])
            descriptor = root.open_file(path, _WRITING, mode=mode)
        try:
            if os.fstat(descriptor).st_size != self.index.size(place):
                os.ftruncate(descriptor, self.index.size(place))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def write_back(self, path: Path) -> None:
        """See `Layout`: nothing, since each file is synced alone, and most are small."""

    def settle(self, path: Path, position: int) -> int | None:
        """See `Layout`: make what no byte came for, bring everything to the disk, and ask of every file if it is."""
        count = len(self.index)
        with opened_folder(path) as root:
            if position < count:
                stop = min(position + _ENTRIES_PER_STEP, count)
                self._make_entries(root, range(position, stop))
                return stop
            if position == count:
                self._sync_directories(root)
                return position + 1
            start = position - count - 1
            self._sync_entries(root, range(start, min(start + _ENTRIES_PER_STEP, count)))
        return position + _ENTRIES_PER_STEP if start + _ENTRIES_PER_STEP < count else None

    def publish(self, part: Path, target: Path) -> None:
        """See `Layout`."""
        with store_errors("create", target):
            # Renaming a directory replaces an empty one, if somebody makes it just now; nothing is lost by that.
            if os.path.lexists(target):
                raise OutputExists(f"{target} is there already; the download stays at {part}")
            if not is_directory(part):
                raise StoreError(f"{part} is no folder any more; move away what is there, and fetch it again")
            os.rename(part, target)
            sync_directory(target.parent)
            self._remove_spill()

    def discard(self, path: Path) -> None:
        """See `Layout`."""
        self._remove_spill()
        if not is_directory(path):
            return
        directories = {""}
        with opened_folder(path) as root:
            for place, relative in enumerate(self.index.paths):
                is_file = self.index.kinds[place] != EntryKind.EMPTY_DIRECTORY
                directories.update(str(above) for above in PurePosixPath(relative).parents)
                with contextlib.suppress(OSError):
                    if is_file:  # also what was selected before the download was taken up again
                        root.unlink(relative)
                    else:
                        root.rmdir(relative)
            for directory in sorted(directories - {"", "."}, key=lambda each: -each.count("/")):
                with contextlib.suppress(OSError):
                    root.rmdir(directory)
            with contextlib.suppress(OSError):  # somebody put something of theirs into it
                path.rmdir()

    def _make_entries(self, root: FolderRoot, places: range) -> None:
        for place in places:
            if not self.is_selected(place):
                with contextlib.suppress(OSError):  # it was selected before the download was taken up again
                    root.unlink(self.index.paths[place])
            elif self.index.kinds[place] == EntryKind.EMPTY_DIRECTORY:
                root.make_directories(self.index.paths[place])
            else:
                os.close(self.open_entry(root, place))

    def _sync_entries(self, root: FolderRoot, places: range) -> None:
        for place in places:
            if not self.is_selected(place):
                continue
            if self.index.kinds[place] == EntryKind.EMPTY_DIRECTORY:
                root.sync_directory(self.index.paths[place])
            else:
                root.sync_file(self.index.paths[place])

    def _sync_directories(self, root: FolderRoot) -> None:
        if len(self.index) > _MANY:
            os.sync()  # after that, syncing a file costs next to nothing, and says whether this has failed
            return
        for above in {parent for relative in self.index.paths for parent in PurePosixPath(relative).parents}:
            with contextlib.suppress(FileNotFoundError):  # nothing in it was selected
                root.sync_directory("" if str(above) == "." else str(above))

    def _remove_spill(self) -> None:
        """Remove the spill; if that fails, the next start does it."""
        if self.selection is not None:
            with contextlib.suppress(OSError):
                self.selection.spill.unlink(missing_ok=True)


class _OpenFolder:
    """The files of a folder in a batch of reads and writes; the last one that was used stays open."""

    def __init__(self, layout: FolderLayout, path: Path, root: FolderRoot, *, is_complete: bool) -> None:
        self._layout = layout
        self._index = layout.index
        self._path = path
        self._root = root
        self._is_complete = is_complete
        self._current: tuple[int, bool] | None = None  # which file is open, and whether for writing
        self._descriptor = -1

    def __enter__(self) -> "_OpenFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, offset: int, size: int) -> bytes:
        """See `OpenFiles`."""
        parts = [self._read_span(*span) for span in self._index.spans(offset, size)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """See `OpenFiles`."""
        view = memoryview(data)
        done = 0
        for place, start, size in self._index.spans(offset, len(data)):
            self._write_span(place, start, view[done : done + size])
            done += size

    def _read_span(self, place: int, start: int, size: int) -> bytes:
        layout = self._layout
        if place == len(self._index):
            return layout.list_id[start : start + size]
        if layout.selection is not None and not layout.is_selected(place):
            return _read_spill(layout.selection.spill, self._index.starts[place] + start, size)
        try:
            self._open_for_reading(place)
        except FileNotFoundError:
            if self._is_complete:
                raise
            return bytes(size)  # nothing of it came yet
        data = os.pread(self._descriptor, size, start)
        return data if len(data) == size else data.ljust(size, b"\0")

    def _write_span(self, place: int, start: int, data: memoryview) -> None:
        layout = self._layout
        if place == len(self._index):
            if data != layout.list_id[start : start + len(data)]:
                raise StoreError("that folder has another list than its offer says; ask for it to be offered again")
        elif layout.selection is not None and not layout.is_selected(place):
            with opened_file(layout.selection.spill, os.O_WRONLY | os.O_CREAT, mode=PRIVATE_FILE) as spill:
                write_at(spill, data, self._index.starts[place] + start)
        else:
            if self._current != (place, True):
                self._close()
                self._descriptor = layout.open_entry(self._root, place)
                self._current = (place, True)
            write_at(self._descriptor, data, start)

    def _open_for_reading(self, place: int) -> None:
        if self._current is not None and self._current[0] == place:
            return
        self._close()
        path = self._index.paths[place]
        self._descriptor = self._root.open_file(path, os.O_RDONLY)
        self._current = (place, False)
        if self._is_complete and os.fstat(self._descriptor).st_size != self._index.size(place):
            raise SourceChanged(f"{self._path / path} has another size than when it was offered")

    def _close(self) -> None:
        if self._current is not None:
            os.close(self._descriptor)
            self._current = None


def _read_spill(spill: Path, offset: int, size: int) -> bytes:
    try:
        with opened_file(spill, os.O_RDONLY) as descriptor:
            return os.pread(descriptor, size, offset).ljust(size, b"\0")
    except FileNotFoundError:
        return bytes(size)
