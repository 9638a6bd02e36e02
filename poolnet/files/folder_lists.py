"""The lists of folders that are here: own ones, and those of folders that are fetched or were."""

import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import attrs

from poolnet.errors import StoreError, WireError
from poolnet.ids import FileId, encode_id
from poolnet.limits import MIB
from poolnet.storage.durable import PRIVATE_FILE, make_private_directory, replace_durably, store_errors
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.files import run_on_disk
from poolnet.storage.folder_index import FolderIndex, index_list
from poolnet.storage.hashing import FileHasher
from poolnet.wire.folder_list import FolderEntry, decode_folder_list_untrusted, encode_folder_list

#: Folders of which the index stays in memory: some 10 MiB for 100 000 files.
_LOADED_FOLDERS: Final = 4

#: Fetches the list of a folder: takes its id and where it goes, returns when it is there and listed in the table.
FetchList = Callable[[FileId, Path], Awaitable[object]]


class FolderLists:
    """The lists in one directory.

    Args:
        directory: where they are.
        table: where they are listed, like any other file.
        fetch: fetches one that is not here.
    """

    def __init__(self, directory: Path, table: FileTable, fetch: FetchList) -> None:
        self._directory = directory
        self._table = table
        self._fetch = fetch
        self._load = lru_cache(maxsize=_LOADED_FOLDERS)(self._load_index)

    def path(self, list_id: FileId) -> Path:
        """Return where a list is."""
        return self._directory / f"{encode_id(list_id)}.list"

    async def keep(self, entries: Iterable[FolderEntry], name: str) -> LocalFile:
        """Write the list of an own folder, and hash it. The caller lists it.

        Raises:
            StoreError: it cannot be written.
        """
        path = self._directory / f"{secrets.token_hex(8)}.new"
        try:
            await run_on_disk(_write_list, path, entries)
            with await run_on_disk(FileHasher, path, self._table.new_tree_path()) as hasher:
                while await run_on_disk(hasher.step):
                    pass
                list_id = await run_on_disk(hasher.finish, self._table.tree_path)
            with store_errors("write", path):
                await run_on_disk(replace_durably, path, self.path(list_id))
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # it is there if that failed, or was cancelled
        return LocalFile(
            file_id=list_id,
            name=name,
            size_bytes=hasher.size_bytes,
            path=self.path(list_id),
            mtime_ns=hasher.mtime_ns,
            is_own=True,
            kind="list",
        )

    async def need(self, list_id: FileId) -> None:
        """Fetch a list unless it is here.

        Raises:
            PoolnetError: it cannot be had.
        """
        path = self.path(list_id)
        if await run_on_disk(_make_room, path, list_id in self._table.files):
            return
        await self._fetch(list_id, path)
        listed = self._table.files.get(list_id)
        if listed is not None and listed.kind != "list":  # somebody offered it as something else
            mtime_ns = await run_on_disk(_mtime_ns, path)
            self._table.files[list_id] = attrs.evolve(listed, kind="list", path=path, mtime_ns=mtime_ns, is_own=False)
            await self._table.save_files()

    def index(self, list_id: FileId, *, is_own: bool) -> FolderIndex:
        """Return what is in a folder; to be called in a thread.

        Args:
            list_id: its list, which is here.
            is_own: whether the folder lies here under the names of the list; else under names made harmless.

        Raises:
            StoreError: the list cannot be read, or is none.
        """
        return self._load(list_id, is_own)

    def entries(self, list_id: FileId) -> Iterator[FolderEntry]:
        """Yield the entries of a list that is here; to be called in a thread.

        Raises:
            StoreError: it cannot be read, or is no list.
        """
        path = self.path(list_id)
        try:
            with store_errors("read", path), path.open("rb") as file:
                yield from decode_folder_list_untrusted(iter(lambda: file.read(MIB), b""))
        except WireError as exc:
            raise StoreError(
                f"that folder has no list that can be read ({exc}); ask for it to be offered again"
            ) from exc

    def _load_index(self, list_id: FileId, is_own: bool) -> FolderIndex:
        return index_list(self.entries(list_id), is_own=is_own)


def _make_room(path: Path, is_listed: bool) -> bool:
    """Return whether a list is here, or else make room for it."""
    make_private_directory(path.parent)
    with store_errors("look at", path):
        if is_listed and path.exists():
            return True
        path.unlink(missing_ok=True)  # it was left over, and nobody has verified it
    return False


def _mtime_ns(path: Path) -> int:
    with store_errors("look at", path):
        return path.stat().st_mtime_ns


def _write_list(path: Path, entries: Iterable[FolderEntry]) -> None:
    make_private_directory(path.parent)
    with store_errors("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with open(descriptor, "wb") as file:
            file.writelines(encode_folder_list(entries))
            file.flush()
            os.fsync(file.fileno())
