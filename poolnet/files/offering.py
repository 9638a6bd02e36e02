"""What this device offers: files, folders, pictures and finished streams are hashed, listed, served and announced."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from poolnet.errors import LocalError, StoreError, TextTooLong, UnknownFile
from poolnet.files.announcer import Announcer, stored_body
from poolnet.files.folders import Folders
from poolnet.files.media import Media
from poolnet.files.sources import ProgressCallback, Sources
from poolnet.ids import FileId
from poolnet.limits import MAX_FILE_NAME_BYTES, MAX_OFFERS
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.files import shorten_name, whole_path
from poolnet.storage.stream_spool import SpooledFile
from poolnet.wire.bodies import OfferBody


class Offering:
    """The offers of this device.

    Args:
        table: where the files are listed.
        sources: serves them.
        announcer: tells the pool of them.
    """

    def __init__(
        self, table: FileTable, *, sources: Sources, announcer: Announcer, folders: Folders, media: Media
    ) -> None:
        self._table = table
        self._sources = sources
        self._announcer = announcer
        self._folders = folders
        self._media = media

    async def offer(self, path: Path, name: str | None, on_progress: ProgressCallback | None) -> FileId:
        """Offer a file; see `FileManager.offer`."""
        file = await self._hash(path, name, on_progress)
        return await self._begin(file)

    async def offer_media(self, path: Path, name: str | None, on_progress: ProgressCallback | None) -> FileId:
        """Offer a picture; see `FileManager.offer_media`."""
        file = await self._hash(path, name, on_progress)
        body = await self._media.prepare(file)
        return await self._begin(attrs.evolve(file, kind="media", body=stored_body(body)))

    async def offer_folder(
        self,
        path: Path,
        name: str | None,
        exclude: Sequence[str],
        include_hidden: bool,
        on_progress: ProgressCallback | None,
    ) -> FileId:
        """Offer a folder; see `FileManager.offer_folder`."""
        path, name = self._checked(path, name)
        prepared = await self._folders.prepare(
            path, name, exclude=exclude, include_hidden=include_hidden, on_progress=on_progress
        )
        await self._sources.add(prepared.list_file)
        return await self._begin(prepared.content)

    async def offer_stream(self, whole: SpooledFile) -> None:
        """Offer a stream of this device that is finished, as a file.

        Raises:
            StoreError: it cannot be listed, or the message cannot be stored.
        """
        body = OfferBody(file_id=whole.file_id, name=whole.name, size=whole.size_bytes, stream_id=whole.stream_id)
        await self._begin(
            LocalFile(
                file_id=whole.file_id,
                name=whole.name,
                size_bytes=whole.size_bytes,
                path=whole.path,
                mtime_ns=whole.mtime_ns,
                is_own=True,
                body=stored_body(body),
            )
        )

    async def retract(self, file_id: FileId) -> None:
        """Give a file to nobody any more; see `FileManager.retract`."""
        file = self._table.files.get(file_id)
        if file is None and not self._announcer.is_offered(file_id):
            raise UnknownFile("this device does not offer that file; only who offered it can withdraw it")
        if file is not None:
            await self.forget(file)
        await self._announcer.retract(file_id)

    async def forget(self, file: LocalFile) -> None:
        """Serve a file no more; of a folder, neither its list.

        Raises:
            StoreError: that cannot be written; the file comes back with the next start.
        """
        await self._sources.forget(file.file_id)
        if file.list_id is not None:
            await self._sources.forget(file.list_id)
            await self._folders.forget(file)

    async def _hash(self, path: Path, name: str | None, on_progress: ProgressCallback | None) -> LocalFile:
        path, name = self._checked(path, name)
        return await self._sources.hash(path, name, on_progress)

    def _checked(self, path: Path, name: str | None) -> tuple[Path, str]:
        """Return the whole path, and what others see.

        Raises:
            TextTooLong: the name is empty or too long.
            LocalError: this device offers too much already, or there is no such place.
        """
        path = whole_path(path)
        shown = check_offer_name(_shown_name(path) if name is None else name)
        if sum(file.is_own and file.kind != "list" for file in self._table.files.values()) >= MAX_OFFERS:
            raise LocalError(f"this device offers {MAX_OFFERS} files already; retract some first")
        return path, shown

    async def _begin(self, file: LocalFile) -> FileId:
        """List, serve and announce a file: all of that, or nothing if it fails or is cancelled."""
        await self._sources.add(file)
        try:
            await self._announcer.offer(file)
        except BaseException:  # cancelled as well
            if not self._announcer.is_offered(file.file_id):
                with trio.CancelScope(shield=True), contextlib.suppress(StoreError):  # a few calls to the disk
                    await self.forget(file)
            raise
        return file.file_id


def check_offer_name(name: str) -> str:
    """Return a name that an offer may have.

    Raises:
        TextTooLong: it is empty or longer than `MAX_FILE_NAME_BYTES` in UTF-8.
    """
    size = len(name.encode("utf-8", "replace"))
    if not 1 <= size <= MAX_FILE_NAME_BYTES:
        raise TextTooLong(f"a name has 1 to {MAX_FILE_NAME_BYTES} bytes in UTF-8, this has {size}")
    return name


def _shown_name(path: Path) -> str:
    """Return a file's name as text that can be offered; names on disk are bytes, need not be UTF-8, may be longer."""
    return shorten_name(path.name.encode("utf-8", "replace").decode(), MAX_FILE_NAME_BYTES)
