"""The files of one pool on this device, put together: offers, complete files, downloads, the exchange of pieces.

What happens between them is here: an offer that is heard of reaches the downloads, a source that is lost is withdrawn,
a download that begins looks for holders. Applications and the pool meet it through `FileManager`.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

from poolnet.clock import Hlc
from poolnet.errors import LocalError, PoolnetError, UnknownFile
from poolnet.event_stream import EventStream
from poolnet.events import ErrorReported, FileOffered, OfferRetracted, PoolEvent, SourceLost
from poolnet.files.announcer import Announcer, Publish
from poolnet.files.download_queue import DownloadQueue
from poolnet.files.downloads import Downloads
from poolnet.files.exchange import Exchange
from poolnet.files.folders import Folders
from poolnet.files.list_proofs import ListProofs
from poolnet.files.media import Media
from poolnet.files.offer_book import NodeOffer, OfferBook, OfferedBody, offer_of
from poolnet.files.offer_list import OfferList, is_here_as
from poolnet.files.offering import Offering
from poolnet.files.partial_folders import PartialFolders
from poolnet.files.quiet_fetches import QuietFetches
from poolnet.files.relay_store import RelayStore
from poolnet.files.relays import RouteFinder
from poolnet.files.routes import HopsTo, Routes
from poolnet.files.sources import Sources
from poolnet.files.streams import Streams
from poolnet.files.uses import RelaySink
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, FileId, MsgId, PoolId, short_id
from poolnet.protocol.conduct import Kind
from poolnet.protocol.randomness import RandomSource
from poolnet.service import open_service_nursery
from poolnet.storage.cache_ring import CacheRing
from poolnet.storage.file_table import DownloadRecord, FileTable, LocalFile
from poolnet.storage.media_cache import MediaCache
from poolnet.storage.tree_file import NodeCache
from poolnet.wire.bodies import MediaBody, StreamBody
from poolnet.wire.folder_list import FolderEntry

logger = logging.getLogger(__name__)
Ts = TypeVarTuple("Ts")

#: Takes the nodes that offer what is being fetched.
WantHolders = Callable[[frozenset[DeviceId]], None]


class PoolFiles:
    """The parts of a `FileManager`.

    Args:
        nursery: for what nobody waits for.
        table: what is here; loaded.
        ring: holds what is relayed; its owner closes it.
        media_cache_bytes: what pictures of others may take; 0 fetches none by itself.
        rng: for the choice of pieces.
        events: where to tell what happens.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        table: FileTable,
        ring: CacheRing,
        media_cache_bytes: int,
        rng: RandomSource,
        events: EventStream[PoolEvent],
    ) -> None:
        self.table = table
        self.exchange = exchange = Exchange(rng, self._make_relay)
        self.events = events
        self.book = OfferBook()
        self.sources = Sources(
            table,
            exchange,
            self._source_lost,
            served=self._served,
            is_fetched=lambda file_id: self.downloads.is_fetched(file_id),
        )
        self.partials = PartialFolders(table, exchange, lambda file: self.folders.open_partial(file))
        self.downloads = Downloads(
            table, exchange, self.sources, self.partials, publish=events.publish, changed=self._fetching_changed
        )
        self.list = OfferList(self.book, table, running=self.downloads.running, states=lambda: self.queue.list.states())
        self.queue = DownloadQueue(
            nursery=nursery,
            table=table,
            downloads=self.downloads,
            offers=self.list,
            publish=events.publish,
            begins=lambda file_id: self.media.give_way(file_id),
        )
        self._quiet = QuietFetches(
            table, self.downloads, self.book, self.list, give_way=lambda file_id: self.media.give_way(file_id)
        )
        self.announcer = Announcer(table, self.book)
        self.routes = Routes(self.book, tell=exchange.route, fetched=self._fetched, size_here=exchange.size_here)
        self._has_cache = ring.is_usable
        exchange.on_relays(
            RouteFinder(
                wanted=self._relay_wanted,
                unwanted=self._relay_unwanted,
                doubted=lambda file_id, is_word: self.routes.size_doubted(file_id, is_word=is_word),
                refused=self.routes.refuse,
            )
        )
        self.folders = Folders(
            table.directory / "folders",
            table,
            self._quiet.fetch_list,
            ListProofs(table, self._quiet.fetch_end, self._list_proven),
        )
        self.downloads.contents["folder"] = self.sources.kinds["folder"] = self.folders
        self._media_directory = table.directory / "media"
        self._streams_directory = table.directory / "streams"
        self.media = Media(
            MediaCache(self._media_directory, media_cache_bytes),
            self.book,
            fetch=self._quiet.fetch_media,
            forget=self._forget_media,
            claimed_sizes=self._quiet.media_sizes,
            here=lambda file_id: None if (file := table.files.get(file_id)) is None else file.path,
            publish=events.publish,
            name_of=lambda node: self._name_of(node),
        )
        self.offering = Offering(
            table, sources=self.sources, announcer=self.announcer, folders=self.folders, media=self.media
        )
        self._streams: Streams | None = None
        self._ring = ring
        self._relayed_nodes = NodeCache()
        self._nursery = nursery
        self._is_over = False
        self._node: DeviceId | None = None
        self._noted: Callable[[DeviceId, Kind], None] = lambda _peer, _kind: None
        self._name_of: Callable[[DeviceId], str] = short_id
        self._want_holders: WantHolders = lambda _holders: None
        self._holders: frozenset[DeviceId] = frozenset()

    async def run(self, records: list[DownloadRecord], task_status: trio.TaskStatus[None]) -> None:
        """Serve what was served before, and keep downloads and timers going, until cancelled.

        Args:
            records: the downloads that were listed; they go on from `settle` on.
        """
        self.queue.list.restore(records)
        await self.folders.tidy_up()
        await self.sources.restore()
        await self.partials.restore()
        async with open_service_nursery() as nursery:
            nursery.start_soon(self.exchange.run_timer)
            nursery.start_soon(self.sources.run_checks)
            nursery.start_soon(self.queue.run)
            nursery.start_soon(self.downloads.finish_published)
            nursery.start_soon(self.routes.run)
            await nursery.start(self.media.run)
            task_status.started()
            await trio.sleep_forever()

    def close(self) -> None:
        """Take note that the tasks are ended now."""
        self._is_over = True

    async def list_folder(self, file_id: FileId) -> tuple[FolderEntry, ...]:
        """Return what is in a folder; see `FileManager.list_folder`."""
        if self.book.is_disputed(file_id):
            await self.folders.prove(file_id)
        offer = self.list.offer(file_id, "folder")
        if offer is None and self.list.is_known(file_id):
            raise LocalError("that is no folder; there is nothing to list")
        if offer is None or offer.list_id is None:
            raise UnknownFile("nobody offers that folder")
        return await self.folders.entries(offer.list_id, offer.size_bytes)

    # --- streams ------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """The streams of the pool.

        Raises:
            LocalError: these files belong to no pool.
        """
        if self._streams is None:
            raise LocalError("streams need a pool: join one first")
        return self._streams

    def _relay_wanted(self, file_id: FileId) -> None:
        """Take note that a peer asks for a file over this device; without a cache, it has what this device fetches."""
        if self._has_cache or self._is_fetched(file_id):
            self.partials.give_way(file_id)  # who asks can have all of it
            self.routes.ask(file_id)

    def _relay_unwanted(self, file_id: FileId) -> None:
        self.routes.forget(file_id)
        if not self._is_fetched(file_id):
            self.partials.serve_again(file_id)

    def _make_relay(self, file_id: FileId, size_bytes: int | None) -> RelaySink | None:
        """See `RelayMaker`."""
        if not self._ring.is_usable:
            return None
        if size_bytes is not None:
            return RelayStore(self._ring, file_id, size_bytes, nodes=self._relayed_nodes)
        return None if self._streams is None else self._streams.make_relay(file_id)

    # --- the pool -----------------------------------------------------------------------------------------------

    async def bind(
        self,
        key: DeviceKey,
        pool_id: PoolId,
        publish: Publish,
        *,
        name_of: Callable[[DeviceId], str],
        want_holders: WantHolders,
        hops_to: HopsTo,
        noted: Callable[[DeviceId, Kind], None],
        credit_of: Callable[[DeviceId], int],
    ) -> None:
        """Belong to a pool from now on; see `FileManager.bind`."""
        self._node, self._name_of, self._want_holders = key.device_id, name_of, want_holders
        self._noted = noted
        self.announcer.bind(key.device_id, publish)
        self.exchange.on_conduct(noted=noted, credit_of=credit_of)
        self._streams = Streams(
            self._streams_directory,
            table=self.table,
            exchange=self.exchange,
            ring=self._ring,
            key=key,
            pool_id=pool_id,
            news=self.book,
            publish=publish,
            offer_whole=self.offering.offer_stream,
            fetch_file=lambda file_id: self._quiet.fetch_whole(file_id, self._streams_directory),
            watching=self._fetching_changed,
        )
        for path in await self._streams.restore():
            logger.info("a stream that was cut off is kept as %s", path.name)
        self.routes.measure_by(hops_to)
        self._update_holders()

    async def settle(self) -> None:
        """Tell the pool what it does not know, and let listed downloads go on; see `FileManager.settle`."""
        await self._retract_lost_streams()
        await self.announcer.settle()
        self.queue.open()
        self.media.settle()

    def learned_offer(
        self,
        node: DeviceId,
        body: OfferedBody,
        hlc: Hlc,
        *,
        file_id: FileId | None,
        msg_id: MsgId | None,
    ) -> None:
        """Take note of a node's offer; see `FileManager.learned_offer`."""
        offered = file_id if isinstance(body, StreamBody) else body.file_id
        assert offered is not None, "the id of a stream is given"
        offer = offer_of(node, body, hlc)
        is_new = self.book.offered(offered, offer)
        for changed in (offered, offer.list_id):
            if changed is None:
                continue
            self.routes.offers_changed(changed)
            if changed in self.downloads.running:
                self.downloads.running[changed].look_again()
            self._holders_changed(changed)
        self.queue.offered()
        self._stream_news(offered, offer)
        if isinstance(body, MediaBody) and node != self._node and not self._is_known_as_other(offered):
            others = [other for other in self.book.nodes(offered, "media") if other != self._node]
            self.media.offered(offered, is_first=is_new and others == [node])
        if is_new:
            self.events.publish(
                FileOffered(
                    file_id=offered,
                    file_name=offer.name,
                    size_bytes=offer.size_bytes,
                    node=node,
                    name=self._name_of(node),
                    msg_id=msg_id,
                    key=None if msg_id is None else (hlc, msg_id),
                    kind=offer.kind,
                    file_count=offer.file_count,
                    preview=body.preview if isinstance(body, MediaBody) else b"",
                )
            )

    def learned_retraction(self, node: DeviceId, file_id: FileId, hlc: Hlc) -> None:
        """Take note that a node withdrew its offer; see `FileManager.learned_retraction`."""
        earlier = self.book.by_node(file_id, node)
        is_gone = self.book.retracted(file_id, node, hlc)
        if node == self._node and self._streams is not None and self._streams.is_own(file_id):
            self._soon(self._streams.withdrawn, file_id)
        if earlier is not None:
            self.routes.offers_changed(file_id)
            self._holders_changed(file_id)
            self._stream_news(file_id, earlier)
        if not self.book.nodes(file_id, "media"):
            self.media.withdrawn(file_id)
        if earlier is not None and earlier.list_id is not None and not self.book.nodes(earlier.list_id):
            self.downloads.withdrawn(earlier.list_id)
        if not is_gone:
            return
        self.events.publish(OfferRetracted(file_id=file_id, node=node))
        self.queue.withdrawn(file_id)
        self.downloads.withdrawn(file_id)
        if earlier is not None and earlier.kind != "stream":  # the end of that may still be on its way to others
            self.exchange.stop_relaying(file_id)
        partial = self.table.partials.get(file_id)
        if partial is not None:
            self._soon(self._reporting, self._forget_partial, partial)
        file = self.table.files.get(file_id)
        if file is not None and not file.is_own:
            self._soon(self._reporting, self.offering.forget, file)

    def _is_known_as_other(self, file_id: FileId) -> bool:
        """Return whether a complete file here is no picture for sure: it is a folder, or the list of one."""
        file = self.table.files.get(file_id)
        return file is not None and not is_here_as(file, "media")

    def _fetched(self) -> set[FileId]:
        """Return what this device is fetching: downloads, and streams that are watched."""
        watched = set() if self._streams is None else self._streams.watched
        return self.downloads.running.keys() | watched

    def _fetching_changed(self, file_id: FileId) -> None:
        """Take note that a download or the watching of a stream begins, begins anew, or has ended."""
        self.routes.ended(file_id)
        if self._is_fetched(file_id):
            self.routes.refresh([file_id])
        self._update_holders()

    def _is_fetched(self, file_id: FileId) -> bool:
        return file_id in self.downloads.running or (self._streams is not None and file_id in self._streams.watched)

    def _holders_changed(self, file_id: FileId) -> None:
        """Take note that others offer a file now, or somebody does no more."""
        if self._is_fetched(file_id):
            self._update_holders()

    def _update_holders(self) -> None:
        holders = frozenset(node for file_id in self._fetched() for node in self.book.nodes(file_id))
        if holders != self._holders:
            self._holders = holders
            self._want_holders(holders)

    def _stream_news(self, file_id: FileId, offer: NodeOffer) -> None:
        """Take note that a stream, or the whole of one, is offered or not any more."""
        if self._streams is not None:
            self._streams.news_changed(FileId(offer.stream_id) if offer.stream_id else file_id)

    async def _retract_lost_streams(self) -> None:
        """Withdraw streams that this device broke off: there are neither pieces of them nor the whole."""
        assert self._node is not None, "bind comes first"
        for stream_id in self.book.of_node(self._node):
            is_stream = self.book.is_stream_offered(stream_id) and not self.streams.is_own(stream_id)
            if is_stream and self.book.whole_of_stream(stream_id) is None:
                await self.announcer.retract(stream_id)

    # --- folders and pictures ---------------------------------------------------------------------------------------

    def _list_proven(self, file_id: FileId, list_id: FileId, size_bytes: int) -> bool:
        """Hold it against those who offer a folder with another list or size; see `Proven`."""
        for liar in self.book.prove_list(file_id, list_id, size_bytes):
            self._noted(liar, Kind.PROTOCOL)
        return list_id in self.table.files or bool(self.book.nodes(list_id))

    async def _forget_media(self, file_id: FileId) -> None:
        """Let go of a picture that everyone fetches; what the user downloaded of it stays."""
        file = self.table.files.get(file_id)
        if file is None or file.path.parent == self._media_directory:
            await self.sources.forget(file_id)
        part = self.table.parts.get(file_id)
        if part is not None and part.target.parent == self._media_directory:
            await self.downloads.discard(file_id)

    def _served(self, file_id: FileId) -> None:
        self.partials.drop(file_id)
        self.downloads.found_here(file_id)
        self.media.served(file_id)

    # --- what is lost -------------------------------------------------------------------------------------------

    async def _forget_partial(self, file: LocalFile) -> None:
        await self.partials.forget(file.file_id)
        await self.offering.forget(file)

    def _source_lost(self, file: LocalFile, reason: str) -> None:
        if file.path.parent == self._media_directory:
            self.media.lost(file.file_id)
            return
        self.events.publish(SourceLost(file_id=file.file_id, path=file.path, reason=reason))
        self._soon(self._reporting, self._withdraw, file)

    async def _withdraw(self, file: LocalFile) -> None:
        """Withdraw the offer of a file that is not what it was, unless it was offered again since."""
        if file.file_id in self.table.files:
            return
        await self.offering.forget(file)
        await self.announcer.retract(file.file_id)

    def _soon(self, call: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Do something that nobody waits for; not when the pool is being left, whose links may still bring news."""
        if not self._is_over:
            self._nursery.start_soon(call, *args)

    async def _reporting(self, call: Callable[[LocalFile], Awaitable[None]], file: LocalFile) -> None:
        """Do something that nobody waits for; what goes wrong becomes an event."""
        try:
            await call(file)
        except PoolnetError as exc:
            self.events.publish(ErrorReported(code=exc.code, message=str(exc)))
