"""What a device keeps of its files: those it can serve, and those it is fetching. Two small JSON stores.

``offers.json`` holds complete files (own offers, and downloads that are served on), ``downloads.json`` those with a
``.part``. The piece hashes of each are in ``trees/``.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from poolnet.errors import StoreError, WireError
from poolnet.ids import FileId, decode_id_untrusted, encode_id
from poolnet.protocol.hash_tree import TreeShape
from poolnet.storage.atomic_json import read_json, write_json
from poolnet.storage.durable import make_private_directory, store_errors
from poolnet.storage.files import run_on_disk
from poolnet.storage.piece_store import FileSource, PartFile
from poolnet.storage.tree_file import NodeCache, TreeFile

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class LocalFile:
    """A complete file on this device. `mtime_ns` is what it was when the file was last verified as a whole."""

    file_id: FileId
    name: str
    size_bytes: int
    path: Path
    mtime_ns: int
    is_own: bool


@attrs.frozen(kw_only=True)
class PartRecord:
    """A download that is under way, or can be resumed."""

    file_id: FileId
    name: str
    size_bytes: int
    target: Path

    @property
    def part_path(self) -> Path:
        """Where the bytes are until it is complete."""
        return self.target.with_name(self.target.name + ".part")


class FileTable:
    """The two stores of one pool. `load` comes first; each `save_…` returns when it is on the disk.

    Attributes:
        files: complete files, by id.
        parts: unfinished downloads, by id: at most one of each file.
    """

    def __init__(self, directory: Path) -> None:
        self._trees = directory / "trees"
        self._files_store = _Store(directory / "offers.json")
        self._parts_store = _Store(directory / "downloads.json")
        self.files: dict[FileId, LocalFile] = {}
        self.parts: dict[FileId, PartRecord] = {}
        self._nodes = NodeCache()

    def source(self, file: LocalFile) -> FileSource:
        """Return the pieces of a complete file."""
        return FileSource(file.path, self._tree(file))

    def part(self, record: PartRecord) -> PartFile:
        """Return the pieces of an unfinished download."""
        return PartFile(record.part_path, self._tree(record), self._trees / f"{encode_id(record.file_id)}.journal")

    def _tree(self, entry: LocalFile | PartRecord) -> TreeFile:
        return TreeFile(self.tree_path(entry.file_id), entry.file_id, TreeShape(entry.size_bytes), self._nodes)

    async def load(self) -> None:
        """Read both stores, and remove what belongs to no file any more.

        Raises:
            StoreError: one is damaged (then it is kept aside), or cannot be read.
        """
        await run_on_disk(self._load)

    async def save_files(self) -> None:
        """Store `files`.

        Raises:
            StoreError: it cannot be written.
        """
        await self._files_store.save(lambda: [_encode(file) for file in self.files.values()])

    async def save_parts(self) -> None:
        """Store `parts`.

        Raises:
            StoreError: it cannot be written.
        """
        await self._parts_store.save(lambda: [_encode(part) for part in self.parts.values()])

    def tree_path(self, file_id: FileId) -> Path:
        """Return where the tree nodes of a file are."""
        return self._trees / f"{encode_id(file_id)}.tree"

    def remove_tree(self, file_id: FileId) -> None:
        """Remove the tree of a file that is not listed any more; if that fails, the next start does it."""
        with contextlib.suppress(OSError):
            self.tree_path(file_id).unlink(missing_ok=True)

    def new_tree_path(self) -> Path:
        """Return where to write the tree of a file whose id is not known yet."""
        return self._trees / f"{os.urandom(8).hex()}.new"

    def _load(self) -> None:
        make_private_directory(self._trees)
        files = [_decode_file(item, self._files_store.path) for item in self._files_store.load()]
        parts = [_decode_part(item, self._parts_store.path) for item in self._parts_store.load()]
        self.files = {file.file_id: file for file in files}
        self.parts = {part.file_id: part for part in parts}
        self._remove_strays({encode_id(file_id) for file_id in self.files.keys() | self.parts.keys()})

    def _remove_strays(self, known: set[str]) -> None:
        with store_errors("clean up", self._trees):
            for path in self._trees.iterdir():
                if path.name.split(".")[0] not in known:
                    path.unlink()


class _Store:
    """One JSON file; of several saves that wait, one is done for all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = trio.Lock()
        self._asked = 0
        self._saved = 0

    def load(self) -> list[Any]:
        value = read_json(self.path, [])
        if not isinstance(value, list):
            raise _malformed(self.path)
        return value

    async def save(self, snapshot: Callable[[], list[Any]]) -> None:
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._saved >= mine:
                return
            covered = self._asked
            await run_on_disk(write_json, self.path, snapshot())
            self._saved = covered


def _encode(record: LocalFile | PartRecord) -> dict[str, Any]:
    fields = attrs.asdict(record)
    return {
        name: encode_id(value) if name == "file_id" else str(value) if isinstance(value, Path) else value
        for name, value in fields.items()
    }


def _decode_file(item: Any, store: Path) -> LocalFile:
    return LocalFile(
        file_id=_file_id(item, store),
        name=_field(item, "name", str, store),
        size_bytes=_field(item, "size_bytes", int, store),
        path=Path(_field(item, "path", str, store)),
        mtime_ns=_field(item, "mtime_ns", int, store),
        is_own=_field(item, "is_own", bool, store),
    )


def _decode_part(item: Any, store: Path) -> PartRecord:
    return PartRecord(
        file_id=_file_id(item, store),
        name=_field(item, "name", str, store),
        size_bytes=_field(item, "size_bytes", int, store),
        target=Path(_field(item, "target", str, store)),
    )


def _file_id(item: Any, store: Path) -> FileId:
    try:
        return FileId(decode_id_untrusted(_field(item, "file_id", str, store)))
    except WireError as exc:
        raise _malformed(store) from exc


def _field(item: Any, name: str, kind: type[T], store: Path) -> T:
    value = item.get(name) if isinstance(item, dict) else None
    if type(value) is not kind:
        raise _malformed(store)
    return value


def _malformed(store: Path) -> StoreError:
    return StoreError(f"{store} does not hold what poolnet writes; move it away, then offer the files again")
