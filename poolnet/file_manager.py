"""Files of one pool on this device: what is offered, what is fetched, what is given to others.

Put together here: the offers of the pool (`OfferBook`), the complete files of this device (`Sources`), its downloads
(`Downloads`), and the exchange of pieces with the neighbours (`Exchange`). Messages go through whoever binds it.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import trio

from poolnet.clock import Hlc
from poolnet.errors import LocalError, PoolnetError, TextTooLong, UnknownFile
from poolnet.event_stream import EventStream
from poolnet.events import ErrorReported, EventsDropped, FileOffered, OfferRetracted, PoolEvent, SourceLost
from poolnet.files.chunk_link import ChunkLink
from poolnet.files.downloads import Downloads
from poolnet.files.exchange import Exchange, ExchangeStatistics
from poolnet.files.offer_book import NodeOffer, OfferBook, OfferInfo, OfferState
from poolnet.files.sources import ProgressCallback, Sources
from poolnet.ids import DeviceId, FileId, MsgId, encode_id, short_id
from poolnet.limits import MAX_FILE_NAME_BYTES, MAX_OFFERS
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm_events import SwarmFrame
from poolnet.service import open_service_nursery
from poolnet.storage.file_table import FileTable, LocalFile
from poolnet.storage.files import safe_file_name, shorten_name
from poolnet.wire.bodies import Body, OfferBody, RetractOfferBody

__all__ = ["ChunkLink", "FileManager", "FileStatistics", "OfferInfo", "ProgressCallback", "open_file_manager"]

#: Signs, stores and sends a message to the pool.
Publish = Callable[[Body], Awaitable[MsgId]]
#: Takes the nodes that offer what is being fetched.
WantHolders = Callable[[frozenset[DeviceId]], None]


@attrs.frozen(kw_only=True)
class FileStatistics:
    """Files now, and what was moved since opening."""

    offers: int
    dropped_offers: int
    served: int
    downloads: int
    exchange: ExchangeStatistics


#: So many files are named when several are meant.
_NAMED_IN_ERRORS = 5


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

    def __init__(
        self, *, nursery: trio.Nursery, table: FileTable, rng: RandomSource, events: EventStream[PoolEvent]
    ) -> None:
        self._nursery = nursery
        self._table = table
        self._events = events
        self._book = OfferBook()
        self._exchange = Exchange(rng)
        self._sources = Sources(table, self._exchange, self._source_lost)
        self._downloads = Downloads(
            table, self._exchange, self._sources, publish=events.publish, changed=self._update_holders
        )
        self._node: DeviceId | None = None
        self._publish: Publish | None = None
        self._name_of: Callable[[DeviceId], str] = short_id
        self._want_holders: WantHolders = lambda _holders: None
        self._holders: frozenset[DeviceId] = frozenset()

    # --- for applications ---------------------------------------------------------------------------------------

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
        path = _whole_path(path)
        name = _shown_name(path) if name is None else name
        size = len(name.encode("utf-8", "replace"))
        if not 1 <= size <= MAX_FILE_NAME_BYTES:
            raise TextTooLong(f"a file name has 1 to {MAX_FILE_NAME_BYTES} bytes in UTF-8, this has {size}")
        if sum(file.is_own for file in self._table.files.values()) >= MAX_OFFERS:
            raise LocalError(f"this device offers {MAX_OFFERS} files already; retract some first")
        file = await self._sources.hash(path, name, on_progress)
        await self._sources.add(file)
        await self._publish_offer(file)
        return self._info(file.file_id)

    async def retract(self, file_id: FileId) -> None:
        """Give a file to nobody any more, and withdraw this device's offer of it. The file itself stays.

        Raises:
            UnknownFile: this device neither offers nor serves it.
            StoreError: this home cannot be written.
        """
        is_offered = self._offers_in_pool(file_id)
        if file_id not in self._table.files and not is_offered:
            raise UnknownFile("this device does not offer that file; only who offered it can withdraw it")
        await self._sources.forget(file_id)
        if is_offered:
            await self._publish_retraction(file_id)

    def offers(self) -> list[OfferInfo]:
        """Return the files that can be fetched, or are here, by name."""
        known = dict.fromkeys([*self._book.files(), *self._table.files])
        return sorted((self._info(file_id) for file_id in known), key=lambda info: (info.name.casefold(), info.file_id))

    def find(self, text: str) -> OfferInfo:
        """Return the file that somebody means by its name, its id, or the beginning of its id.

        Raises:
            UnknownFile: there is none, or there are several.
        """
        offers = self.offers()
        found = [info for info in offers if text in (info.name, safe_file_name(info.name))]
        if not found and text:
            found = [info for info in offers if encode_id(info.file_id).startswith(text.lower())]
        if not found:
            raise UnknownFile(f"no file {text!r} is offered here, by name or id; list the files to see what is")
        if len(found) > 1:
            ids = ", ".join(short_id(info.file_id) for info in found[:_NAMED_IN_ERRORS])
            raise UnknownFile(f"{len(found)} files are meant by {text!r} ({ids}); use the id of one")
        return found[0]

    async def download(self, file_id: FileId, out: Path) -> Path:
        """Fetch a file, verify it, put it in its place, and return where it is; from then on, serve it as well.

        Waits as long as nobody who has it is there. Cancelling keeps what was fetched in ``NAME.part``, and the next
        download of the file goes on from there, in the same place or another. A file that is here already is copied.

        Args:
            file_id: a file from `offers`.
            out: a directory, where it gets its own name made safe, or the path of the file to be made.

        Raises:
            UnknownFile: nobody offers it (any more).
            OutputExists: something is there; it is never overwritten.
            DiskFull: there is no room; what was fetched is kept.
            StoreError: the disk failed.
        """
        known = self._book.best(file_id) or self._table.files.get(file_id)
        if known is None:
            raise UnknownFile("nobody offers that file")
        return await self._downloads.fetch(file_id, known.name, lambda: self._book.sizes(file_id), out)

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[PoolEvent | EventsDropped]]:
        """Return a context manager around an iterator over what happens from now on (poolnet/events.py)."""
        return self._events.subscribe()

    def statistics(self) -> FileStatistics:
        """Return sizes and counts; costs nothing."""
        return FileStatistics(
            offers=sum(1 for _ in self._book.files()),
            dropped_offers=self._book.dropped,
            served=len(self._table.files),
            downloads=len(self._downloads.running),
            exchange=self._exchange.statistics(),
        )

    # --- for the pool -------------------------------------------------------------------------------------------

    def bind(
        self,
        node: DeviceId,
        publish: Publish,
        *,
        name_of: Callable[[DeviceId], str] = short_id,
        want_holders: WantHolders = lambda _holders: None,
    ) -> None:
        """Tell offers to a pool from now on.

        Args:
            node: this device.
            publish: sends a message; this device's own come back through `learned_offer` and `learned_retraction`.
            name_of: a node's display name, for events.
            want_holders: called with the nodes that offer what is being fetched, whenever these change, for a link to
                some of them.
        """
        self._node, self._publish, self._name_of, self._want_holders = node, publish, name_of, want_holders
        self._update_holders()

    async def settle(self) -> None:
        """Tell the pool what it does not know, once all stored offers were given to `learned_offer`.

        Files offered before `bind` are offered; offers whose files are not here any more are withdrawn.

        Raises:
            StoreError: the messages cannot be stored.
        """
        assert self._node is not None, "bind comes first"
        for file_id in self._book.of_node(self._node):
            file = self._table.files.get(file_id)
            if file is None or not file.is_own:
                await self._publish_retraction(file_id)
        for file in list(self._table.files.values()):
            if file.is_own and not self._offers_in_pool(file.file_id):
                await self._publish_offer(file)

    def learned_offer(
        self, node: DeviceId, name: str, file_id: FileId, size_bytes: int, hlc: Hlc, *, msg_id: MsgId | None = None
    ) -> None:
        """Take note of a node's offer (in that message), in whatever order messages come."""
        is_new = self._book.offered(file_id, NodeOffer(node=node, name=name, size_bytes=size_bytes, hlc=hlc))
        if file_id in self._downloads.running:
            self._downloads.running[file_id].look_again()
            self._update_holders()
        if is_new:
            self._events.publish(
                FileOffered(
                    file_id=file_id,
                    file_name=name,
                    size_bytes=size_bytes,
                    node=node,
                    name=self._name_of(node),
                    msg_id=msg_id,
                    key=None if msg_id is None else (hlc, msg_id),
                )
            )

    def learned_retraction(self, node: DeviceId, file_id: FileId, hlc: Hlc) -> None:
        """Take note that a node withdrew its offer.

        A file that nobody offers any more is not served on, and its download ends with `UnknownFile`.
        """
        if not self._book.retracted(file_id, node, hlc):
            return
        self._events.publish(OfferRetracted(file_id=file_id, node=node))
        download = self._downloads.running.get(file_id)
        if download is not None:
            download.failed(UnknownFile("the file was withdrawn by everybody who offered it"))
        file = self._table.files.get(file_id)
        if file is not None and not file.is_own:
            self._nursery.start_soon(self._reporting, self._sources.forget, file_id)

    def handle_frame(self, peer: DeviceId, frame: SwarmFrame) -> None:
        """Take a frame about files from a peer whose link is being served.

        Raises:
            ProtocolError: the peer broke the protocol; its link is to be closed.
        """
        self._exchange.handle_frame(peer, frame)

    async def serve_link(self, link: ChunkLink, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange pieces over a link until it closes; then return.

        Frames of that peer are understood from `task_status.started` on. The link stays its owner's to close.
        """
        await self._exchange.serve_link(link, task_status)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve what was served before, and keep the timers going. Called by `open_file_manager`."""
        await self._sources.restore()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._exchange.run_timer)
            nursery.start_soon(self._sources.run_checks)
            task_status.started()

    def _update_holders(self) -> None:
        holders = frozenset(node for file_id in self._downloads.running for node in self._book.nodes(file_id))
        if holders != self._holders:
            self._holders = holders
            self._want_holders(holders)

    # --- helpers ------------------------------------------------------------------------------------------------

    def _info(self, file_id: FileId) -> OfferInfo:
        file, offer = self._table.files.get(file_id), self._book.best(file_id)
        known = offer if file is None else file
        assert known is not None
        state, done_bytes = self._progress(file_id, file)
        download = self._downloads.running.get(file_id)
        return OfferInfo(
            file_id=file_id,
            name=known.name,
            size_bytes=known.size_bytes if download is None else download.record.size_bytes,
            nodes=self._book.nodes(file_id),
            local_path=None if file is None else file.path,
            state=state,
            done_bytes=done_bytes,
        )

    def _progress(self, file_id: FileId, file: LocalFile | None) -> tuple[OfferState, int]:
        if file is not None:
            return "seeding" if file.is_own else "complete", file.size_bytes
        download = self._downloads.running.get(file_id)
        return ("offered", 0) if download is None else ("downloading", download.done_bytes)

    def _offers_in_pool(self, file_id: FileId) -> bool:
        return self._node is not None and self._node in self._book.nodes(file_id)

    async def _publish_offer(self, file: LocalFile) -> None:
        if self._publish is not None:
            await self._publish(OfferBody(file_id=file.file_id, name=file.name, size=file.size_bytes))

    async def _publish_retraction(self, file_id: FileId) -> None:
        if self._publish is not None:
            await self._publish(RetractOfferBody(file_id=file_id))

    def _source_lost(self, file: LocalFile, reason: str) -> None:
        self._events.publish(SourceLost(file_id=file.file_id, path=file.path, reason=reason))
        self._nursery.start_soon(self._reporting, self._withdraw, file.file_id)

    async def _withdraw(self, file_id: FileId) -> None:
        await self._sources.tidy_up(file_id)
        if self._offers_in_pool(file_id) and file_id not in self._table.files:
            await self._publish_retraction(file_id)

    async def _reporting(self, call: Callable[[FileId], Awaitable[None]], file_id: FileId) -> None:
        """Do something that nobody waits for; what goes wrong becomes an event."""
        try:
            await call(file_id)
        except PoolnetError as exc:
            self._events.publish(ErrorReported(code=exc.code, message=str(exc)))


def _whole_path(path: Path) -> Path:
    return path.expanduser().absolute()


def _shown_name(path: Path) -> str:
    """Return a file's name as text that can be offered; names on disk are bytes, need not be UTF-8, may be longer."""
    return shorten_name(path.name.encode("utf-8", "replace").decode(), MAX_FILE_NAME_BYTES)


@contextlib.asynccontextmanager
async def open_file_manager(
    directory: Path, *, rng: RandomSource, events: EventStream[PoolEvent] | None = None
) -> AsyncIterator[FileManager]:
    """Open the files of one pool; what was offered or served before is served again.

    Args:
        directory: where it keeps its lists and hash trees; made if it is not there.
        rng: randomness for the choice of pieces.
        events: where to publish what happens; without it, a stream of its own.

    Raises:
        StoreError: the lists are damaged (they are kept aside) or cannot be read.
    """
    table = FileTable(directory)
    await table.load()
    stream = events or EventStream[PoolEvent]()
    try:
        async with open_service_nursery() as nursery:
            manager = FileManager(nursery=nursery, table=table, rng=rng, events=stream)
            await nursery.start(manager.run)
            yield manager
    finally:
        if events is None:
            stream.close()
