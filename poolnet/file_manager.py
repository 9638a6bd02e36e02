"""Files of one pool on this device: what is offered, what is fetched, what is given to others.

The face of the service, for applications and for the pool it belongs to; its parts are put together in
files/pool_files.py. Messages go through whoever binds it.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import trio

from poolnet.clock import Hlc
from poolnet.errors import LocalError
from poolnet.event_stream import EventStream
from poolnet.events import EventsDropped, OfferKind, PoolEvent
from poolnet.files.announcer import Publish
from poolnet.files.chunk_link import ChunkLink
from poolnet.files.download_history import DownloadInfo, DownloadState
from poolnet.files.exchange import ExchangeStatistics
from poolnet.files.offer_book import OfferedBody, OfferInfo, OfferState
from poolnet.files.pool_files import PoolFiles, WantHolders
from poolnet.files.routes import HopsTo
from poolnet.files.sources import ProgressCallback
from poolnet.files.stream_reader import StreamReader
from poolnet.files.stream_writer import StreamWriter
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, FileId, MsgId, PoolId, short_id
from poolnet.limits import DEFAULT_CACHE_SIZE, DEFAULT_CONCURRENT_DOWNLOADS, MAX_WANT_WINDOW, MEDIA_CACHE_SIZE
from poolnet.protocol.conduct import Kind
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm_events import SwarmFrame
from poolnet.service import open_service_nursery
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.file_table import FileTable
from poolnet.storage.files import run_on_disk
from poolnet.wire.folder_list import EntryKind, FolderEntry

__all__ = [
    "ChunkLink",
    "DownloadInfo",
    "DownloadState",
    "EntryKind",
    "FileManager",
    "FileStatistics",
    "FolderEntry",
    "OfferInfo",
    "OfferState",
    "ProgressCallback",
    "open_file_manager",
]


@attrs.frozen(kw_only=True)
class FileStatistics:
    """Files now, and what was moved since opening."""

    offers: int
    dropped_offers: int
    served: int
    downloads: int
    exchange: ExchangeStatistics


class FileManager:
    """Offers, downloads and seeding in one pool. Made by `open_file_manager`.

    Alone it hashes, keeps and copies files; with `serve_link` it exchanges them with neighbours; `bind` gives it a pool
    to tell its offers to.

    Example:
        ```python
        import random
        from pathlib import Path

        from poolnet.file_manager import open_file_manager


        async def main():
            Path("letter.txt").write_text("Dear all")
            async with open_file_manager(Path("files"), rng=random.SystemRandom()) as files:
                offer = await files.offer(Path("letter.txt"))
                assert files.find("letter.txt") == offer
                copy = await files.download(offer.file_id, Path("copy.txt"))
                assert copy.read_text() == "Dear all"
        ```
    """

    def __init__(self, files: PoolFiles) -> None:
        self._files = files

    # --- for applications: offers -------------------------------------------------------------------------------

    async def offer(
        self, path: Path, *, name: str | None = None, on_progress: ProgressCallback | None = None
    ) -> OfferInfo:
        """Hash a file, tell the pool of it, and give it to everyone who asks, as long as it stays what it is.

        Args:
            path: a regular file. It stays where it is and is read when somebody fetches it.
            name: what others see; without it the file's own, shortened if it is too long.
            on_progress: called with bytes hashed and bytes in all.

        Raises:
            SourceUnavailable: it cannot be read, is no file, or changed while it was read.
            TextTooLong: the name is empty or longer than `MAX_FILE_NAME_BYTES` in UTF-8.
            StoreError: this home cannot be written; nothing was offered.
        """
        return self._files.list.info(await self._files.offering.offer(path, name, on_progress))

    async def offer_folder(
        self,
        path: Path,
        *,
        name: str | None = None,
        exclude: Sequence[str] = (),
        include_hidden: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> OfferInfo:
        """Offer a folder as one thing, as long as what is in it stays what it is.

        Who has an earlier version of it fetches only what has changed. Links are not followed, and special files left
        out.

        Args:
            path: a directory.
            name: what others see; without it the directory's own.
            exclude: patterns of what is left out: ``*.o``, ``build/``, ``/notes/*.txt``. One without a slash is
                about names, with one about paths in the folder, ending in one about directories only.
            include_hidden: whether what begins with a dot is offered, too.
            on_progress: called with bytes hashed and bytes in all.

        Raises:
            SourceUnavailable: something in it cannot be read, or changed meanwhile.
            TextTooLong: the name is empty or too long.
            StoreError: this home cannot be written; nothing was offered.
        """
        return self._files.list.info(
            await self._files.offering.offer_folder(path, name, exclude, include_hidden, on_progress)
        )

    async def offer_media(
        self, path: Path, *, name: str | None = None, on_progress: ProgressCallback | None = None
    ) -> OfferInfo:
        """Offer a picture that everybody fetches at once and keeps for a while (`MediaReceived`).

        With Pillow (``poolnet[media]``) the offer has its size in pixels and a tiny preview.

        Raises:
            LocalError: it is empty, or larger than `MAX_MEDIA_SIZE`.
            SourceUnavailable, TextTooLong, StoreError: as `offer`.
        """
        return self._files.list.info(await self._files.offering.offer_media(path, name, on_progress))

    async def save_as(self, file_id: FileId, out: Path) -> Path:
        """Copy a picture that was fetched to where it stays, and return where it is.

        Args:
            file_id: of a `MediaReceived`.
            out: a directory, where it gets its own name made safe, or the path of the file to be made.

        Raises:
            UnknownFile: it is not here, or not any more.
            SourceUnavailable: what is here is damaged; it is fetched again.
            OutputExists: something is there; it is never overwritten.
            StoreError: the disk failed.
        """
        return await self._files.media.save_as(file_id, out)

    def open_stream(self, name: str) -> AbstractAsyncContextManager[StreamWriter]:
        """Return a context manager around a writer: what is sent to it goes to everyone who watches, at once.

        At the end of its block the stream is finished, and offered as a file; when an error ends the block it is broken
        off, and those who watch are told.

        Raises:
            LocalError: this belongs to no pool.
            TextTooLong: (on entering) the name is empty or too long.
            StoreError: (on entering, and when sending) the disk failed.
        """
        return self._files.streams.open_stream(name)

    def watch(self, stream_id: FileId, *, from_start: bool = False) -> AbstractAsyncContextManager[StreamReader]:
        """Return a context manager around an iterator over the bytes of a stream, as they come.

        It ends with the stream, waits while nobody who has more of it is there, and raises `StreamAborted` if its
        author broke off.

        Args:
            stream_id: what a `FileOffered` of kind "stream" has as its id.
            from_start: begin with its first byte and skip nothing. Otherwise begin with what is new, and skip what is
                more than a few seconds late.

        Raises:
            LocalError: this belongs to no pool; (on entering) this device watches that stream already.
            UnknownFile: (on entering) nobody offers it.
        """
        return self._files.streams.watch(stream_id, from_start=from_start)

    async def retract(self, file_id: FileId) -> None:
        """Give a file to nobody any more, and withdraw this device's offer of it. The file itself stays.

        Others who offer it go on doing so.

        Raises:
            UnknownFile: this device neither offers nor serves it.
            StoreError: this home cannot be written.
        """
        await self._files.offering.retract(file_id)

    def offers(self) -> list[OfferInfo]:
        """Return the files that can be fetched, or are here, by name: each once, whoever offers it.

        A file that some offer as another kind than others (a folder, a picture) is there once for each: who is right
        does not show before it is fetched.
        """
        return self._files.list.infos()

    def find(self, text: str, *, kind: OfferKind | None = None) -> OfferInfo:
        """Return the file that somebody means by its name, its id, or the beginning of its id.

        Args:
            kind: look only for what is offered as this. Without it, a file that is offered as several is returned as
                what this device, or else most others, offer it as.

        Raises:
            UnknownFile: there is none, or there are several.
        """
        return self._files.list.info(*self._files.list.find(text, kind))

    async def list_folder(self, file_id: FileId) -> tuple[FolderEntry, ...]:
        """Return what is in a folder: its files and empty directories, with their sizes, by path.

        If the folder is not here, its list is fetched, and nothing else: waits as long as nobody who has it is there.
        It is verified against the offer, which is a claim of who makes it: that the folder has this list shows when the
        folder is fetched. If claims differ, the end of the folder is fetched now, which shows it. Names are as their
        author wrote them.

        Args:
            file_id: a folder from `offers`.

        Raises:
            UnknownFile: nobody offers it (any more).
            LocalError: it is no folder.
            StoreError: what was fetched is no list of that folder, or the disk failed.
        """
        return await self._files.list_folder(file_id)

    # --- for applications: downloads ----------------------------------------------------------------------------

    async def download(
        self,
        file_id: FileId,
        out: Path,
        *,
        priority: int = 0,
        only: Sequence[str] = (),
        kind: OfferKind | None = None,
    ) -> Path:
        """Fetch a file, verify it, put it in its place, and return where it is; from then on, serve it as well.

        Waits for its turn, and as long as nobody who has it is there. Cancelling keeps what was fetched in
        ``NAME.part``, and the next download of the file goes on from there, in the same place or another; a download of
        the same file to the same place that somebody started in the background goes on. A file that is here already is
        copied.

        Args:
            file_id: a file from `offers`.
            out: a directory, where it gets its own name made safe, or the path of the file to be made.
            priority: of several, those with a higher one go first.
            only: of a folder, the paths of files and subfolders that are wanted, and patterns as of `offer_folder`
                (what has a ``*``, ``?`` or ``[`` in it); without it, all.
            kind: what it is to be fetched as, as `OfferInfo.kind` says, where several are offered; without it, what
                most devices offer it as.

        Raises:
            UnknownFile: nobody offers it (any more), or not as that; or `only` names what is not in the folder.
            OutputExists: something is there; it is never overwritten.
            DiskFull: there is no room; what was fetched is kept.
            DownloadCancelled: by `cancel`.
            StoreError: the disk failed.
            LocalError: it is a stream; or `only` was given and it is no folder.
        """
        return await self._files.queue.fetch(file_id, out, priority=priority, only=only, kind=kind)

    async def start_download(
        self,
        file_id: FileId,
        out: Path,
        *,
        priority: int = 0,
        only: Sequence[str] = (),
        kind: OfferKind | None = None,
    ) -> DownloadInfo:
        """Fetch a file in the background, as `download` does, and return how that stands.

        It is listed durably and goes on when the pool is opened again, until it is complete, cancelled or failed. While
        the disk is full it is paused; it goes on by itself. What becomes of it is told by events, and by `downloads`.
        One to the same place goes on if it was paused.

        Raises:
            UnknownFile: nobody offers it.
            OutputExists: something is there, or will be.
            LocalError: it is a stream; or `only` was given and it is no folder.
            StoreError: it cannot be listed.
        """
        return await self._files.queue.start(file_id, out, priority=priority, only=only, kind=kind)

    async def pause(self, file_id: FileId) -> None:
        """Let the downloads of a file stand still, also after a restart, and keep what was fetched.

        Raises:
            UnknownFile: there is no download of it.
            StoreError: that cannot be listed; it stands still until the pool is opened again.
        """
        await self._files.queue.pause(file_id)

    async def resume(self, file_id: FileId) -> None:
        """Go on with the downloads of a file that stand still, or try the last one again if it failed.

        Raises:
            UnknownFile: there is no such download, or nobody offers the file any more.
            OutputExists: something is where it goes by now.
            StoreError: that cannot be listed.
        """
        await self._files.queue.resume(file_id)

    async def cancel(self, file_id: FileId) -> None:
        """End the downloads of a file, and remove what was fetched of it. Those who wait get `DownloadCancelled`.

        Raises:
            UnknownFile: there is no download of it, and nothing was fetched.
            StoreError: what was fetched cannot be removed.
        """
        await self._files.queue.cancel(file_id)

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Let the downloads of a file go before those with a lower priority, and after those with a higher one.

        Raises:
            UnknownFile: there is no download of it.
        """
        self._files.queue.prioritise(file_id, priority)

    def downloads(self) -> list[DownloadInfo]:
        """Return the downloads that wait, run, stand still or have ended, the newest last.

        Of those that have ended `MAX_DOWNLOAD_HISTORY` are remembered.
        """
        return self._files.queue.infos()

    async def forget_downloads(self) -> None:
        """Forget the downloads that have ended. Their files stay.

        Raises:
            StoreError: that cannot be written.
        """
        await self._files.queue.forget()

    def set_limits(
        self, *, up: int | None = None, down: int | None = None, concurrent: int = DEFAULT_CONCURRENT_DOWNLOADS
    ) -> None:
        """Limit what files may take, until the pool is closed. Messages are not limited.

        Args:
            up: bytes a second that go out; None: as many as possible.
            down: bytes a second that come in; None: as many as possible.
            concurrent: downloads that run at once. One that gets nothing for a while does not count.

        Raises:
            LocalError: a limit is below 1.
        """
        if min(limit for limit in (up, down, concurrent) if limit is not None) < 1:
            raise LocalError("a limit is at least 1; without one, nothing is limited")
        self._files.exchange.set_limits(up=up, down=down)
        self._files.queue.set_concurrent(concurrent)

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[PoolEvent | EventsDropped]]:
        """Return a context manager around an iterator over what happens from now on (poolnet/events.py)."""
        return self._files.events.subscribe()

    def statistics(self) -> FileStatistics:
        """Return sizes and counts; costs nothing."""
        return FileStatistics(
            offers=sum(1 for _ in self._files.book.files()),
            dropped_offers=self._files.book.dropped,
            served=len(self._files.table.files),
            downloads=len(self._files.downloads.running),
            exchange=self._files.exchange.statistics(),
        )

    # --- for the pool -------------------------------------------------------------------------------------------

    async def bind(
        self,
        key: DeviceKey,
        pool_id: PoolId,
        publish: Publish,
        *,
        name_of: Callable[[DeviceId], str] = short_id,
        want_holders: WantHolders = lambda _holders: None,
        hops_to: HopsTo = lambda _holders: None,
        noted: Callable[[DeviceId, Kind], None] = lambda _peer, _kind: None,
        credit_of: Callable[[DeviceId], int] = lambda _peer: MAX_WANT_WINDOW,
    ) -> None:
        """Tell offers to a pool from now on.

        Args:
            key: of this device; signs the pieces of streams.
            pool_id: which pool.
            publish: sends a message; this device's own come back through `learned_offer` and `learned_retraction`.
            name_of: a node's display name, for events.
            want_holders: called with the nodes that offer what is being fetched, whenever these change, for a link to
                some of them.
            hops_to: returns how many links away the nearest of some nodes is, or None.
            noted: called with a peer that sent a wrong piece, or broke a promise.
            credit_of: returns for how many pieces a peer may be asked at a time.

        Raises:
            StoreError: what a crash left of streams cannot be put in order.
        """
        await self._files.bind(
            key,
            pool_id,
            publish,
            name_of=name_of,
            want_holders=want_holders,
            hops_to=hops_to,
            noted=noted,
            credit_of=credit_of,
        )

    def credit_changed(self, peer: DeviceId, pieces: int) -> None:
        """Take note of for how many pieces a peer may be asked at a time from now on."""
        self._files.exchange.set_credit(peer, pieces)

    def routes_changed(self) -> None:
        """Take note that links or the roster have changed: holders may be nearer or farther now."""
        self._files.routes.refresh()

    async def settle(self) -> None:
        """Tell the pool what it does not know, once all stored offers were given to `learned_offer`.

        Files offered before `bind` are offered; offers whose files are not here any more are withdrawn. Downloads that
        were listed go on.

        Raises:
            StoreError: the messages cannot be stored.
        """
        await self._files.settle()

    def learned_offer(
        self,
        node: DeviceId,
        body: OfferedBody,
        hlc: Hlc,
        *,
        file_id: FileId | None = None,
        msg_id: MsgId | None = None,
    ) -> None:
        """Take note of a node's offer, in whatever order messages come.

        Args:
            node: whose it is.
            body: what the message says.
            hlc: the time of the message.
            file_id: of a stream, its id, which the body does not say.
            msg_id: the message.
        """
        self._files.learned_offer(node, body, hlc, file_id=file_id, msg_id=msg_id)

    def learned_retraction(self, node: DeviceId, file_id: FileId, hlc: Hlc) -> None:
        """Take note that a node withdrew its offer.

        A file that nobody offers any more is not served on, and its downloads end with `UnknownFile`.
        """
        self._files.learned_retraction(node, file_id, hlc)

    def handle_frame(self, peer: DeviceId, frame: SwarmFrame) -> None:
        """Take a frame about files from a peer whose link is being served.

        Raises:
            ProtocolError: the peer broke the protocol; its link is to be closed.
        """
        self._files.exchange.handle_frame(peer, frame)

    async def serve_link(self, link: ChunkLink, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange pieces over a link until it closes; then return.

        Frames of that peer are understood from `task_status.started` on. The link stays its owner's to close.
        """
        await self._files.exchange.serve_link(link, task_status)


@contextlib.asynccontextmanager
async def open_file_manager(
    directory: Path,
    *,
    rng: RandomSource,
    events: EventStream[PoolEvent] | None = None,
    cache_size_bytes: int = DEFAULT_CACHE_SIZE,
    media_cache_bytes: int = MEDIA_CACHE_SIZE,
) -> AsyncIterator[FileManager]:
    """Open the files of one pool; what was offered or served before is served again.

    Args:
        directory: where it keeps its lists, hash trees, cache, pictures and streams; made if it is not there.
        rng: randomness for the choice of pieces.
        events: where to publish what happens; without it, a stream of its own.
        cache_size_bytes: what may be held on disk of files on their way to others; 0 relays nothing.
        media_cache_bytes: what pictures of others may take; 0 fetches none by itself.

    Raises:
        StoreError: the lists are damaged (they are kept aside) or cannot be read.
    """
    table = FileTable(directory)
    records = await table.load()
    ring = await run_on_disk(lambda: open_ring(directory, size_bytes=cache_size_bytes))
    stream = events or EventStream[PoolEvent]()
    try:
        async with open_service_nursery() as nursery:
            files = PoolFiles(
                nursery=nursery, table=table, ring=ring, media_cache_bytes=media_cache_bytes, rng=rng, events=stream
            )
            await nursery.start(files.run, records)
            try:
                yield FileManager(files)
            finally:
                files.close()
    finally:
        if events is None:
            stream.close()
        with trio.CancelScope(shield=True):
            await run_on_disk(ring.close)
