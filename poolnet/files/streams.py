"""The streams of one pool on this device: those that it publishes, and those that it watches.

A stream is a file that grows. Who publishes one sends bytes; they are kept on disk, and given in signed pieces to
whoever watches, and by those to others (protocol/stream_pieces.py, the swarm). When it is finished the whole is a file
in the directory, and offered like any other.
"""

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Set
from pathlib import Path
from typing import Final

import attrs
import trio

from poolnet.errors import LocalError, PoolnetError, StoreError, TextTooLong, UnknownFile
from poolnet.files.stream_exchange import StreamExchange, StreamFollowing, StreamNews
from poolnet.files.stream_reader import FetchFile, StreamReader
from poolnet.files.stream_store import StreamStore
from poolnet.files.stream_writer import OfferWhole, StreamWriter
from poolnet.files.uses import PieceStore, RelaySink, StreamWatcher
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, PoolId
from poolnet.limits import CLOSE_TIMEOUT_S, MAX_FILE_NAME_BYTES
from poolnet.protocol.stream_pieces import NONCE_SIZE, StreamSigner
from poolnet.service import open_service_nursery
from poolnet.storage.cache_ring import CacheRing
from poolnet.storage.durable import make_private_directory
from poolnet.storage.file_table import FileTable
from poolnet.storage.files import run_on_disk
from poolnet.storage.stream_spool import SpooledFile, StreamSpool, recover_streams
from poolnet.wire.bodies import Body, RetractOfferBody, StreamBody

logger = logging.getLogger(__name__)

#: Finished streams whose pieces are still given to those who are behind; others read the file instead.
_MAX_LINGERING: Final = 8

#: Signs, stores and sends a message to the pool.
Publish = Callable[[Body], Awaitable[object]]


@attrs.frozen(kw_only=True)
class StreamStatistics:
    """Streams now."""

    published: int
    lingering: int
    watched: int


class Streams:
    """Publishes and watches streams. `restore` comes first.

    Args:
        directory: where streams of this device are written, and their files stay; made when it is needed.
        table: where trees of files are kept.
        exchange: moves pieces.
        ring: keeps pieces of others' streams.
        key: of this device.
        pool_id: which pool.
        news: what the pool says of streams.
        publish: tells the pool of a stream, or that it was withdrawn.
        offer_whole: takes a finished stream as a file.
        fetch_file: returns where a file is, after it was fetched if need be; for streams that ended before.
        watching: called with a stream of others when watching it begins and when that has ended.
    """

    def __init__(
        self,
        directory: Path,
        *,
        table: FileTable,
        exchange: StreamExchange,
        ring: CacheRing,
        key: DeviceKey,
        pool_id: PoolId,
        news: StreamNews,
        publish: Publish,
        offer_whole: OfferWhole,
        fetch_file: FetchFile,
        watching: Callable[[FileId], None] = lambda _stream_id: None,
    ) -> None:
        self._directory = directory
        self._table = table
        self._exchange = exchange
        self._ring = ring
        self._key = key
        self._pool_id = pool_id
        self._news = news
        self._publish = publish
        self._offer_whole = offer_whole
        self._fetch_file = fetch_file
        self._watching = watching
        self._own: dict[FileId, _OwnStream] = {}  # in the order of their beginning
        self._watched: dict[FileId, StreamReader] = {}

    @property
    def watched(self) -> Set[FileId]:
        """The streams of others that are being watched."""
        return self._watched.keys()

    async def restore(self) -> list[Path]:
        """Save what a crash left of streams of this device, as files that are not offered; return these.

        Raises:
            StoreError: the disk refused.
        """
        await run_on_disk(make_private_directory, self._directory)
        return await run_on_disk(recover_streams, self._directory)

    def is_own(self, stream_id: FileId) -> bool:
        """Return whether this device gives pieces of a stream of its own; offers of others that it made are stale."""
        return stream_id in self._own

    def news_changed(self, stream_id: FileId) -> None:
        """Take note that `news` may answer otherwise about a stream now: it was offered, withdrawn or finished."""
        if stream_id in self._watched:
            self._watched[stream_id].news_changed()

    async def withdrawn(self, stream_id: FileId) -> None:
        """Give no more of a finished stream of this device, whose offer was withdrawn; who reads it here reads on.

        One that was broken off lingers, so that those who watch hear of that.
        """
        own = self._own.get(stream_id)
        if own is not None and own.writer.file is not None:
            await self._drop(own)

    def make_relay(self, stream_id: FileId) -> RelaySink:
        """Return where to keep pieces of somebody's stream on their way to others."""
        return StreamStore(self._ring, self._pool_id, stream_id)

    @contextlib.asynccontextmanager
    async def open_stream(self, name: str) -> AsyncIterator[StreamWriter]:
        """Publish a stream until the end of the block: what is sent to the writer goes to whoever watches.

        At the end of the block the stream is finished: it is a file, which is offered. If an error or a cancellation
        ends the block, the stream is aborted: those who watch are told so, and what was sent stays in the directory.

        Args:
            name: what others see, and what the file will be called, made safe, with a number if that is taken.

        Raises:
            TextTooLong: the name is empty or longer than `MAX_FILE_NAME_BYTES` in UTF-8.
            StoreError: the disk failed, or this home cannot be written.
        """
        own = await self._begin(name)
        try:
            await self._publish(StreamBody(nonce=own.nonce, name=name))
            async with open_service_nursery() as nursery:
                nursery.start_soon(own.writer.run_flush)
                yield own.writer
                await own.writer.aclose()
        except BaseException:  # whatever ends the block, a cancellation too: those who watch are told
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self._abort(own)
            raise
        await self._let_go()

    @contextlib.asynccontextmanager
    async def watch(self, stream_id: FileId, *, from_start: bool = False) -> AsyncIterator[StreamReader]:
        """Read a stream until the end of the block; it need not have begun, nor its author be there.

        Args:
            stream_id: of this device or another; of others one reader at a time.
            from_start: begin at its first byte, and skip nothing. Otherwise begin with what is new, and skip what is
                more than a few seconds old (`StreamReader.skipped_bytes`).

        Raises:
            UnknownFile: nobody offers such a stream.
            LocalError: it is being watched already, or downloaded as the file that somebody says it is; or too much is
                being fetched.
        """
        own = self._own.get(stream_id)
        if own is not None:
            reader = self._reader(own.spool, own, own, from_start=from_start)
            with own.followed_by(reader):
                yield reader
            return
        if not self._news.is_stream_offered(stream_id) and self._news.whole_of_stream(stream_id) is None:
            raise UnknownFile("nobody offers that stream; list the offers to see what there is")
        if stream_id in self._watched:
            raise LocalError("this device is watching that stream already; one reader at a time")
        store = StreamStore(self._ring, self._pool_id, stream_id)
        reader = self._reader(store, self._exchange, self._news, from_start=from_start)
        self._watched[stream_id] = reader
        try:
            self._exchange.follow_stream(store, 0, 0, reader)
            self._watching(stream_id)
            yield reader
        finally:
            del self._watched[stream_id]
            self._exchange.stop_following(stream_id)
            self._watching(stream_id)

    def statistics(self) -> StreamStatistics:
        """Return counts; costs nothing."""
        published = sum(not own.writer.is_over for own in self._own.values())
        return StreamStatistics(published=published, lingering=len(self._own) - published, watched=len(self._watched))

    # --- own streams --------------------------------------------------------------------------------------------

    async def _begin(self, name: str) -> "_OwnStream":
        size = len(name.encode("utf-8", "replace"))
        if not 1 <= size <= MAX_FILE_NAME_BYTES:
            raise TextTooLong(f"the name of a stream has 1 to {MAX_FILE_NAME_BYTES} bytes in UTF-8, this has {size}")
        signer = StreamSigner(self._key, self._pool_id, secrets.token_bytes(NONCE_SIZE))
        spool = await run_on_disk(StreamSpool, self._directory, name, signer)
        own = self._own[signer.stream_id] = _OwnStream(spool, signer.nonce)
        own.writer = StreamWriter(spool, self._exchange, finish=self._finish, offer=self._offer_whole, stored=own.tell)
        self._exchange.serve_stream(spool)
        return own

    async def _finish(self, spool: StreamSpool) -> SpooledFile:
        return await run_on_disk(spool.finish, self._table.new_tree_path(), self._table.tree_path)

    async def _abort(self, own: "_OwnStream") -> None:
        """End a stream whose block was left by an error. What goes wrong with that is only noted."""
        try:
            if own.writer.file is not None:
                await own.writer.aclose()  # it was finished, and perhaps not offered
            else:
                try:
                    await own.writer.abort()
                finally:
                    await self._publish(RetractOfferBody(file_id=own.stream_id))
        except PoolnetError as exc:
            logger.warning("the pool could not be told how a stream ended: %s", exc.code)
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        """Give the pieces of no more than a few finished streams."""
        idle = [own for own in self._own.values() if own.writer.is_over and not own.readers]
        for own in idle[: max(0, len(idle) - _MAX_LINGERING)]:
            await self._drop(own)

    async def _drop(self, own: "_OwnStream") -> None:
        """Give no more pieces of a stream. While it is read here its index stays, at most until the next start."""
        del self._own[own.stream_id]
        self._exchange.stop(own.stream_id)
        if own.readers:
            return
        try:
            await run_on_disk(own.spool.forget)
        except StoreError as exc:
            logger.warning("the index of a finished stream cannot be removed: %s", exc.code)

    def _reader(
        self, store: PieceStore, following: StreamFollowing, news: StreamNews, *, from_start: bool
    ) -> StreamReader:
        return StreamReader(store, following, news, self._fetch_file, from_start=from_start)


class _OwnStream:
    """A stream of this device, and who reads it here: brings them its pieces without any exchange."""

    writer: StreamWriter

    def __init__(self, spool: StreamSpool, nonce: bytes) -> None:
        self.spool = spool
        self.nonce = nonce
        self.stream_id = spool.file_id
        self.readers: set[StreamReader] = set()

    @contextlib.contextmanager
    def followed_by(self, reader: StreamReader) -> Iterator[None]:
        """Tell a reader how the stream grows, during the block."""
        self.readers.add(reader)
        reader.grew(self.spool.count)
        try:
            yield
        finally:
            self.readers.discard(reader)

    def tell(self) -> None:
        """Tell all readers how many pieces there are now."""
        for reader in self.readers:
            reader.grew(self.spool.count)

    # --- as a StreamFollowing: the pieces are here --------------------------------------------------------------

    def follow_stream(self, store: RelaySink, start: int, stop: int, watcher: StreamWatcher) -> None:
        """See `StreamFollowing`."""

    def move_stream(self, stream_id: FileId, start: int, stop: int) -> None:
        """See `StreamFollowing`."""

    def stream_ended(self, stream_id: FileId, count: int) -> None:
        """See `StreamFollowing`."""

    def stop_following(self, stream_id: FileId) -> None:
        """See `StreamFollowing`."""

    # --- as StreamNews: all that there will be comes in pieces --------------------------------------------------

    def is_stream_offered(self, stream_id: FileId) -> bool:
        """See `StreamNews`."""
        return True

    def whole_of_stream(self, stream_id: FileId) -> FileId | None:
        """See `StreamNews`."""
        return None
