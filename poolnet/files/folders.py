"""Folders: hashed for an offer, laid out for a download, looked after while they are served.

A folder is two files (wire/folder_list.py): the list of what is in it, kept in ``folders/``, and the content, which is
all its files in a row. So a folder of 100 000 small files is a few hundred pieces, and everything about pieces is the
same as for files. Which files changed shows by the stamps that are kept beside the list.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from poolnet.errors import SourceUnavailable, StoreError, UnknownFile
from poolnet.files.contents import PartStore, Stored, batches, complete_file
from poolnet.files.folder_lists import FetchList, FolderLists
from poolnet.files.list_proofs import ListProofs, list_of_another
from poolnet.files.sources import ProgressCallback
from poolnet.files.uses import PieceStore
from poolnet.ids import FileId, encode_id
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.durable import make_private_directory, store_errors
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.files import run_on_disk
from poolnet.storage.folder_copy import FolderCopier
from poolnet.storage.folder_hashing import FolderHasher
from poolnet.storage.folder_index import FolderIndex, known_entries, select_entries
from poolnet.storage.folder_layout import FolderLayout, Selection
from poolnet.storage.folder_stamps import FolderStamps, write_stamps
from poolnet.storage.folder_walk import FolderWalk
from poolnet.storage.hashing import FileHasher
from poolnet.storage.piece_store import FileSource, PartFile
from poolnet.wire.bodies import FolderBody, encode_body
from poolnet.wire.folder_list import FOLDER_TRAILER_SIZE, FolderEntry


@attrs.frozen(kw_only=True)
class PreparedFolder:
    """A folder that was hashed. Both files are to be listed and served; `body` offers them.

    Attributes:
        list_file: the list.
        content: the content; its path is the folder.
        body: the message.
    """

    list_file: LocalFile
    content: LocalFile
    body: FolderBody


class Folders:
    """The folders of one pool on this device: a `Content` for `Downloads`, and a `SourceKind` for `Sources`.

    Args:
        directory: where lists and stamps are kept.
        table: the files that are here; the folders' lists and contents are among them.
        fetch_list: fetches a list that is not here.
        proofs: tells which list a folder has.
    """

    def __init__(self, directory: Path, table: FileTable, fetch_list: FetchList, proofs: ListProofs) -> None:
        self._directory = directory
        self._table = table
        self._lists = FolderLists(directory, table, fetch_list)
        self._proofs = proofs
        self._stamps: dict[FileId, FolderStamps] = {}

    async def tidy_up(self) -> None:
        """Remove lists and stamps of folders that are neither here nor on their way any more. To be called first.

        Raises:
            StoreError: the directory cannot be made or read.
        """
        needed = {file.list_id for file in [*self._table.files.values(), *self._table.partials.values()]}
        needed |= {part.list_id for part in self._table.parts.values()}
        for file in list(self._table.files.values()):
            if (
                file.kind == "list" and file.file_id not in needed
            ):  # of a folder that was fetched in part, or not at all
                del self._table.files[file.file_id]
                await run_on_disk(self._table.remove_tree, file.file_id)
        for part in list(self._table.parts.values()):
            if part.kind == "list" and part.file_id not in needed:  # somebody wanted to look at it, and gave up
                del self._table.parts[part.file_id]
                await run_on_disk(self._table.remove_tree, part.file_id)
        known = {encode_id(file_id) for file_id in [*self._table.files, *self._table.partials, *self._table.parts]}
        await run_on_disk(_remove_strays, self._directory, known)

    async def forget(self, file: LocalFile) -> None:
        """Remove what is kept about a folder that is not listed any more; if that fails, the next start does it."""
        self._stamps.pop(file.file_id, None)
        assert file.list_id is not None
        await run_on_disk(_remove_quietly, self._stamps_path(file.file_id))
        if file.list_id not in self._table.files:
            await run_on_disk(_remove_quietly, self._lists.path(file.list_id))

    async def entries(self, list_id: FileId, size_bytes: int) -> tuple[FolderEntry, ...]:
        """Return what is in a folder; fetches the list if it is not here.

        Args:
            list_id: its list.
            size_bytes: the size of the content, as its offer says.

        Raises:
            PoolnetError: the list cannot be had.
            StoreError: it is none, or that of another folder.
        """
        await self._lists.need(list_id)
        entries = await run_on_disk(lambda: tuple(self._lists.entries(list_id)))
        if sum(entry.size_bytes for entry in entries) + FOLDER_TRAILER_SIZE != size_bytes:
            raise list_of_another()
        return entries

    async def prove(self, file_id: FileId) -> None:
        """Find out which list a folder has, of which different ones are claimed.

        Raises:
            PoolnetError: as `ListProofs.list_of`.
        """
        await self._proofs.list_of(file_id)

    # --- to offer -----------------------------------------------------------------------------------------------

    async def prepare(
        self,
        path: Path,
        name: str,
        *,
        exclude: Sequence[str] = (),
        include_hidden: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> PreparedFolder:
        """Hash a folder, and keep what is needed to serve it; cancelling leaves nothing behind.

        Args:
            path: a directory. Links in it are not followed, special files and what begins with a dot are left out.
            name: what others see.
            exclude: patterns of what is left out as well (`FolderWalk`).
            include_hidden: whether what begins with a dot is taken.
            on_progress: called with bytes hashed and bytes in all.

        Raises:
            SourceUnavailable: something in it cannot be read or offered, or changed meanwhile; the message says what.
            StoreError: this home cannot be written.
        """
        walk = await run_on_disk(lambda: FolderWalk(path, exclude=exclude, include_hidden=include_hidden))
        while await run_on_disk(walk.step):
            pass
        with await run_on_disk(FolderHasher, walk, self._table.new_tree_path()) as hasher:
            while await run_on_disk(hasher.step):
                if on_progress is not None:
                    on_progress(hasher.done_bytes, hasher.size_bytes)
            list_file = await self._lists.keep(hasher.entries(), name)
            file_id = await run_on_disk(hasher.finish, list_file.file_id, self._table.tree_path)
        await run_on_disk(write_stamps, self._stamps_path(file_id), walk.mtimes_ns)
        self._stamps.pop(file_id, None)
        if on_progress is not None:
            on_progress(hasher.size_bytes, hasher.size_bytes)
        return _prepared(list_file, file_id, walk, name)

    async def find_change(self, file: LocalFile) -> str | None:
        """Look whether some of the files of a complete folder are what they were; the next call looks at others.

        Returns:
            None if they are, else what happened; the folder is not to be served any more then.
        """
        stamps = self._stamps.get(file.file_id)
        if stamps is None:
            load = self._loader(file)
            stamps = self._stamps[file.file_id] = FolderStamps(file.path, load, self._stamps_path(file.file_id))
        try:
            looked = await run_on_disk(stamps.look)
            if looked.reason is not None or not looked.touched:
                return looked.reason
            return await self._compare(file, stamps, looked.touched)
        except StoreError as exc:
            return str(exc)

    # --- to download and to serve (see `Content`) ---------------------------------------------------------------

    async def prepare_part(self, record: PartRecord) -> PartRecord:
        """See `Content`: finds out which list it is, whatever offers say, and fetches that if it is not here."""
        list_id = await self._proofs.list_of(record.file_id)
        await self._lists.need(list_id)
        return attrs.evolve(record, list_id=list_id)

    async def open_part(self, record: PartRecord) -> PartStore:
        """See `Content`.

        Raises:
            UnknownFile: something is wanted that is not in the folder.
            StoreError: the list is none, or belongs to another content.
        """
        return self._part(record, await run_on_disk(self._open_layout, record))

    async def recognise(self, record: PartRecord, listed: PartRecord | None) -> LocalFile | None:
        """See `Content`: only what was published by a download that was interrupted just then."""
        if listed is None or attrs.evolve(record, size_bytes=listed.size_bytes, list_id=listed.list_id) != listed:
            return None
        if await run_on_disk(os.path.lexists, listed.part_path) or not await run_on_disk(os.path.isdir, listed.target):
            return None
        try:
            layout = await run_on_disk(self._open_layout, listed)
        except (StoreError, UnknownFile):
            return None  # what was written was laid out by that list
        places = frozenset(await run_on_disk(layout.selected_files))
        for path, file_id in (await run_on_disk(self._ids_of, listed.target, layout, places)).values():
            try:
                if (await self._hash(path))[0] != file_id:
                    return None
            except SourceUnavailable:
                return None
        return complete_file(listed, mtime_ns=0)

    def discard(self, record: PartRecord) -> None:
        """See `Content`. Without its list, which may be gone, nobody knows what was begun: what is empty goes."""
        assert record.list_id is not None
        try:
            layout = self._open_layout(record)
        except (StoreError, UnknownFile):
            layout = FolderLayout(FolderIndex, record.list_id)
        self._part(record, layout).discard()
        _remove_quietly(self._spill_path(record.file_id))

    def needs_tree(self, part: PartStore) -> bool:
        """See `Content`: what is copied has no tree of its own."""
        return True

    def wanted(self, record: PartRecord, part: PartStore) -> Ranges | None:
        """See `Content`."""
        return _layout_of(part).selected_pieces()

    async def copy_here(self, record: PartRecord, part: PartStore, missing: RangeSet, stored: Stored) -> None:
        """See `Content`: its end, and files of the folder that are here, offered, downloaded or in another folder.

        What cannot be verified, because the tree is not here, does not count.
        """
        at_hand = [(piece, data) for piece, data in self._proofs.take_chunks(record.file_id) if piece in missing]
        written = await run_on_disk(part.write_pieces, at_hand)
        stored(RangeSet.of(piece for (piece, _), is_genuine in zip(at_hand, written, strict=True) if is_genuine))
        layout = _layout_of(part)
        sources = await run_on_disk(self._find_here, record, layout)
        copier = FolderCopier(record.part_path, layout, sources)
        while await run_on_disk(copier.step):
            pass
        copied = await run_on_disk(copier.chunks)
        for batch in batches(copied.intersection(missing)):
            genuine = RangeSet.of(await run_on_disk(part.verify, batch))
            await run_on_disk(part.note_written, genuine)
            stored(genuine)

    def source(self, file: LocalFile) -> PieceStore:
        """See `Content`."""
        assert file.list_id is not None
        layout = FolderLayout(self._loader(file), file.list_id)
        return FileSource(file.path, self._table.tree(file.file_id, file.size_bytes), layout)

    async def open_partial(self, file: LocalFile) -> tuple[PieceStore, Ranges]:
        """Return the pieces of a part of a folder that was fetched, and which of them there are.

        Raises:
            StoreError: its list is not here any more, or cannot be read.
            UnknownFile: there is nothing of that kind in the folder.
        """
        return await run_on_disk(self._open_partial, file)

    # --- helpers ------------------------------------------------------------------------------------------------

    def _stamps_path(self, file_id: FileId) -> Path:
        return self._directory / f"{encode_id(file_id)}.stamps"

    def _open_layout(self, record: PartRecord) -> FolderLayout:
        """Return how a folder is to be laid out here.

        Raises:
            UnknownFile, StoreError: as `open_part`.
        """
        assert record.list_id is not None
        index = self._lists.index(record.list_id, is_own=False)
        if index.content_size != record.size_bytes:
            raise list_of_another()
        return FolderLayout(lambda: index, record.list_id, self._select(record) if record.only else None)

    def _select(self, record: PartRecord | LocalFile) -> Selection:
        assert record.list_id is not None
        selected = select_entries(self._lists.entries(record.list_id), record.only)
        return Selection(selected=selected, spill=self._spill_path(record.file_id))

    def _spill_path(self, file_id: FileId) -> Path:
        return self._table.journal_path(file_id).with_suffix(".spill")

    def _part(self, record: PartRecord, layout: FolderLayout) -> PartFile:
        tree = self._table.tree(record.file_id, record.size_bytes)
        return PartFile(record.part_path, tree, self._table.journal_path(record.file_id), layout)

    def _open_partial(self, file: LocalFile) -> tuple[PieceStore, Ranges]:
        assert file.list_id is not None
        layout = FolderLayout(self._loader(file), file.list_id, self._select(file))
        tree = self._table.tree(file.file_id, file.size_bytes)
        held = layout.whole_chunks()
        held.update(RangeSet.of(tree.present_nodes()))
        return FileSource(file.path, tree, layout), held.to_ranges()

    def _find_here(self, record: PartRecord, layout: FolderLayout) -> list[tuple[int, Path]]:
        """Return which files that are wanted of a folder are here already, by place in its list, and where."""
        assert record.list_id is not None
        wanted = frozenset(entry.file_id for entry in self._lists.entries(record.list_id) if entry.size_bytes)
        here: dict[FileId, Path] = {}
        for file in [*self._table.partials.values(), *self._table.files.values()]:
            if file.kind == "folder":
                here.update(self._find_in_folder(file, wanted))
            elif file.file_id in wanted:
                here[file.file_id] = file.path
        found = known_entries(self._lists.entries(record.list_id), frozenset(here))
        return [(place, here[file_id]) for place, file_id in found if layout.is_selected(place)]

    def _find_in_folder(self, file: LocalFile, wanted: frozenset[FileId]) -> Iterator[tuple[FileId, Path]]:
        """Yield those of the files wanted that are in a complete folder; nothing if its list cannot be read."""
        assert file.list_id is not None
        try:
            index = self._lists.index(file.list_id, is_own=file.is_own)
            for place, file_id in known_entries(self._lists.entries(file.list_id), wanted):
                yield file_id, file.path / index.paths[place]
        except StoreError:
            return  # it is found out, and said, when that folder is looked at

    async def _compare(self, file: LocalFile, stamps: FolderStamps, touched: Sequence[int]) -> str | None:
        """Hash files that were written to; return what happened if one is not what it was."""
        assert file.list_id is not None
        layout = FolderLayout(self._loader(file), file.list_id)
        expected = await run_on_disk(self._ids_of, file.path, layout, frozenset(touched))
        refreshed: dict[int, int] = {}
        for place, (path, file_id) in expected.items():
            try:
                found_id, refreshed[place] = await self._hash(path)
            except SourceUnavailable as exc:
                return str(exc)
            if found_id != file_id:
                return f"{path} was changed since it was offered"
        await run_on_disk(stamps.refresh, refreshed)
        return None

    def _ids_of(self, root: Path, layout: FolderLayout, places: frozenset[int]) -> dict[int, tuple[Path, FileId]]:
        """Return where some files of a complete folder are, and what they should be."""
        paths = layout.index.paths
        entries = enumerate(self._lists.entries(layout.list_id))
        return {place: (root / paths[place], entry.file_id) for place, entry in entries if place in places}

    async def _hash(self, path: Path) -> tuple[FileId, int]:
        """Return the id of a file, and its modification time; its tree is not kept."""
        with await run_on_disk(FileHasher, path, None) as hasher:
            while await run_on_disk(hasher.step):
                pass
            return await run_on_disk(hasher.finish_id), hasher.mtime_ns

    def _loader(self, file: LocalFile) -> Callable[[], FolderIndex]:
        """Return a function that returns what is in a complete folder."""
        list_id, is_own = file.list_id, file.is_own
        assert list_id is not None
        return lambda: self._lists.index(list_id, is_own=is_own)


def _prepared(list_file: LocalFile, file_id: FileId, walk: FolderWalk, name: str) -> PreparedFolder:
    body = FolderBody(
        file_id=file_id,
        list_id=list_file.file_id,
        name=name,
        size=walk.index.content_size,
        list_size=list_file.size_bytes,
        file_count=walk.index.file_count,
    )
    content = LocalFile(
        file_id=file_id,
        name=name,
        size_bytes=body.size,
        path=walk.path,
        mtime_ns=0,
        is_own=True,
        kind="folder",
        list_id=body.list_id,
        body=encode_body(body),
    )
    return PreparedFolder(list_file=list_file, content=content, body=body)


def _layout_of(part: PartStore) -> FolderLayout:
    assert isinstance(part, PartFile)
    assert isinstance(part.layout, FolderLayout)
    return part.layout


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _remove_strays(directory: Path, known: set[str]) -> None:
    make_private_directory(directory)
    with store_errors("clean up", directory):
        for path in directory.iterdir():
            if path.name.split(".")[0] not in known:
                path.unlink(missing_ok=True)
