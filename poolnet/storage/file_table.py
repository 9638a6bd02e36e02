"""What a device keeps of its files: those it can serve, those it is fetching, and what it was asked to fetch.

Four small JSON stores: ``offers.json`` holds complete files (own offers, and downloads that are served on),
``partials.json`` parts of folders that were fetched and are served on, ``downloads.json`` what has a ``.part``,
``queue.json`` the downloads that the user asked for, waiting and ended ones. The piece hashes of each file are in
``trees/``. The stores hold one record a line, and of records that did not change the line is kept, so that a save of
10 000 of them costs little more than writing them.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, get_args

import attrs
import trio

from poolnet.errors import StoreError, WireError
from poolnet.events import OfferKind
from poolnet.ids import FileId, decode_id_untrusted, encode_id
from poolnet.limits import MAX_FILE_SIZE
from poolnet.protocol.hash_tree import TreeShape
from poolnet.storage.atomic_json import read_json
from poolnet.storage.durable import make_private_directory, remove_unfinished, store_errors, write_durably
from poolnet.storage.files import run_on_disk
from poolnet.storage.piece_store import FileSource, PartFile
from poolnet.storage.tree_file import NodeCache, TreeFile

T = TypeVar("T")

#: What the name of a tree ends with.
_TREE: Final = ".tree"
_IDS: Final = frozenset({"file_id", "list_id"})
#: Whatever is larger was not written here, and would break what computes with it: trees, dates (beyond the year 6000).
_MAX_VALUES: Final = {
    "size_bytes": MAX_FILE_SIZE,
    "done_bytes": MAX_FILE_SIZE,
    "started_ms": 2**47,
    "ended_ms": 2**47,
}

#: What a complete file is. The list of a folder is served like a file, but is no offer of its own.
FileKind = OfferKind | Literal["list"]


@attrs.frozen(kw_only=True)
class LocalFile:
    """A complete file (or the content of a folder) on this device.

    Attributes:
        path: where it is; of a folder, the directory.
        mtime_ns: what it was when the file was last verified as a whole.
        is_own: whether this device offers it.
        list_id: of a folder, the file that lists what is in it.
        body: of an own offer that is no plain file, the body of the message that offers it, in wire form.
        only: of a part of a folder, what was wanted of it; all if it is empty.
    """

    file_id: FileId
    name: str
    size_bytes: int
    path: Path
    mtime_ns: int
    is_own: bool
    kind: FileKind = "file"
    list_id: FileId | None = None
    body: bytes = b""
    only: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PartRecord:
    """A download that is under way, or can be resumed.

    Attributes:
        list_id: of a folder, the file that lists what is in it.
        only: of a folder, the files and subfolders that are wanted; all if it is empty.
    """

    file_id: FileId
    name: str
    size_bytes: int
    target: Path
    kind: FileKind = "file"
    list_id: FileId | None = None
    only: tuple[str, ...] = ()

    @property
    def part_path(self) -> Path:
        """Where the bytes are until it is complete."""
        return self.target.with_name(self.target.name + ".part")


@attrs.frozen(kw_only=True)
class DownloadRecord:
    """A download that the user asked for; with `ended_ms`, one that is over.

    Attributes:
        size_bytes: what the offer said, until the first piece proves it.
        done_bytes: how much there was when it last stood still.
        code: why it ended, if it did not end well: as in events.py (`DownloadFailed`); `reason` says it to people.
    """

    file_id: FileId
    name: str
    size_bytes: int
    target: Path
    started_ms: int
    kind: OfferKind = "file"
    list_id: FileId | None = None
    only: tuple[str, ...] = ()
    priority: int = 0
    is_paused: bool = False
    done_bytes: int = 0
    ended_ms: int | None = None
    code: str = ""
    reason: str = ""


class FileTable:
    """The stores of one pool. `load` comes first; each `save_…` returns when it is on the disk.

    Attributes:
        directory: where the stores are.
        files: complete files, by id.
        partials: parts of folders, by the folder's id: at most one of each.
        parts: unfinished downloads, by id: at most one of each file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._trees = directory / "trees"
        self._files_store = _Store(directory / "offers.json", LocalFile)
        self._partials_store = _Store(directory / "partials.json", LocalFile)
        self._parts_store = _Store(directory / "downloads.json", PartRecord)
        self._queue_store = _Store(directory / "queue.json", DownloadRecord)
        self.files: dict[FileId, LocalFile] = {}
        self.partials: dict[FileId, LocalFile] = {}
        self.parts: dict[FileId, PartRecord] = {}
        self._nodes = NodeCache()

    def source(self, file: LocalFile) -> FileSource:
        """Return the pieces of a complete file that is no folder."""
        return FileSource(file.path, self.tree(file.file_id, file.size_bytes))

    def part(self, record: PartRecord) -> PartFile:
        """Return the pieces of an unfinished download that is no folder."""
        tree = self.tree(record.file_id, record.size_bytes)
        return PartFile(record.part_path, tree, self.journal_path(record.file_id))

    def tree(self, file_id: FileId, size_bytes: int) -> TreeFile:
        """Return the tree of a file."""
        return TreeFile(self.tree_path(file_id), file_id, TreeShape(size_bytes), self._nodes)

    async def load(self) -> list[DownloadRecord]:
        """Read the stores, and remove what belongs to no file any more; return the downloads that were asked for.

        Raises:
            StoreError: one is damaged (then it is kept aside), or cannot be read.
        """
        return await run_on_disk(self._load)

    async def save_files(self) -> None:
        """Store `files`.

        Raises:
            StoreError: it cannot be written.
        """
        await self._files_store.save(self.files.values)

    async def save_partials(self) -> None:
        """Store `partials`.

        Raises:
            StoreError: it cannot be written.
        """
        await self._partials_store.save(self.partials.values)

    async def save_parts(self) -> None:
        """Store `parts`.

        Raises:
            StoreError: it cannot be written.
        """
        await self._parts_store.save(self.parts.values)

    async def save_queue(self, records: Callable[[], Iterable[DownloadRecord]]) -> None:
        """Store the downloads that were asked for, as `records` returns them when it is their turn to be written.

        Raises:
            StoreError: they cannot be written.
        """
        await self._queue_store.save(records)

    def is_listed(self, file_id: FileId) -> bool:
        """Return whether its tree is needed: all of the file, or some of it, is here."""
        return file_id in self.files or file_id in self.partials or file_id in self.parts

    def tree_path(self, file_id: FileId) -> Path:
        """Return where the tree nodes of a file are."""
        return self._trees / f"{encode_id(file_id)}{_TREE}"

    def journal_path(self, file_id: FileId) -> Path:
        """Return where the journal of an unfinished download is."""
        return self._trees / f"{encode_id(file_id)}.journal"

    def remove_tree(self, file_id: FileId) -> None:
        """Remove the tree of a file that is not listed any more; if that fails, the next start does it."""
        with contextlib.suppress(OSError):
            self.tree_path(file_id).unlink(missing_ok=True)

    def new_tree_path(self) -> Path:
        """Return where to write the tree of a file whose id is not known yet."""
        return self._trees / f"{os.urandom(8).hex()}.new"

    def _load(self) -> list[DownloadRecord]:
        make_private_directory(self._trees)
        remove_unfinished(self.directory)
        self.files = {file.file_id: file for file in self._files_store.load()}
        self.partials = {file.file_id: file for file in self._partials_store.load()}
        self.parts = {part.file_id: part for part in self._parts_store.load()}
        self._remove_strays()
        return self._queue_store.load()

    def _remove_strays(self) -> None:
        """Remove trees of files that are not listed, and what else there is beside those of unfinished downloads."""
        begun = {encode_id(file_id) for file_id in self.parts}
        trees = begun | {encode_id(file_id) for file_id in [*self.files, *self.partials]}
        with store_errors("clean up", self._trees):
            for path in self._trees.iterdir():
                if path.stem not in (trees if path.suffix == _TREE else begun):
                    path.unlink()


class _Store(Generic[T]):
    """One JSON file of records; of several saves that wait, one is done for all."""

    def __init__(self, path: Path, record_class: type[T]) -> None:
        self.path = path
        self._record_class = record_class
        self._lines: dict[int, tuple[T, str]] = {}  # by identity, of the records that were written last
        self._lock = trio.Lock()
        self._asked = 0
        self._saved = 0

    def load(self) -> list[T]:
        items = read_json(self.path, [])
        if not isinstance(items, list):
            raise _malformed(self.path)
        return [_decode(item, self._record_class, self.path) for item in items]

    async def save(self, snapshot: Callable[[], Iterable[T]]) -> None:
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._saved >= mine:
                return
            covered = self._asked
            await run_on_disk(self._write, list(snapshot()))
            self._saved = covered

    def _write(self, records: list[T]) -> None:
        self._lines = {id(record): self._lines.get(id(record)) or (record, _encode(record)) for record in records}
        lines = ",\n".join(line for _, line in self._lines.values())
        write_durably(self.path, f"[\n{lines}\n]\n".encode())


def _encode(record: Any) -> str:
    """Return a record as JSON on one line, without what has its default."""
    fields = {
        field.name: _encode_value(field.name, value)
        for field in attrs.fields(type(record))
        if (value := getattr(record, field.name)) != field.default
    }
    return json.dumps(fields)


def _encode_value(name: str, value: Any) -> Any:
    if name in _IDS:
        return encode_id(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, Path) else value


def _decode(item: Any, record_class: type[T], store: Path) -> T:
    """Return the record that a line is, or raise that the store is malformed."""
    known: dict[str, attrs.Attribute[Any]] = attrs.fields_dict(record_class)  # type: ignore[arg-type]
    try:
        return record_class(**{name: _decode_value(known[name], value) for name, value in item.items()})
    except (AttributeError, KeyError, TypeError, ValueError, WireError) as exc:
        raise _malformed(store) from exc


def _decode_value(field: "attrs.Attribute[Any]", value: Any) -> Any:
    """Return the value of a field as it was before `_encode_value`.

    Raises:
        TypeError, ValueError, WireError: it is none.
    """
    if field.name in _IDS:
        return decode_id_untrusted(value)
    if field.type is bytes:
        return bytes.fromhex(value)
    if field.type is Path:
        return _decode_path(value, has_name=field.name == "target")
    if field.name == "only":
        return tuple(str(item) for item in value)
    if field.name == "kind":
        kinds = {kind for choice in get_args(field.type) for kind in get_args(choice) or (choice,)}
        return kinds.intersection({value}).pop()
    if type(value) not in (field.type, *get_args(field.type)):
        raise TypeError(field.name)
    if field.name in _MAX_VALUES and value is not None and not 0 <= value <= _MAX_VALUES[field.name]:
        raise ValueError(field.name)
    return value


def _decode_path(value: Any, *, has_name: bool) -> Path:
    """Return a path if the system could have a file there."""
    path = Path(value)
    if b"\0" in os.fsencode(path) or (has_name and not path.name):
        raise ValueError("a path that leads to no file")
    return path


def _malformed(store: Path) -> StoreError:
    return StoreError(f"{store} does not hold what poolnet writes; move it away, then offer the files again")
