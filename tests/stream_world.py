"""Devices with streams, for tests: an exchange in memory that loses, delays and reorders pieces, and a pool's news."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio

from poolnet.errors import SourceUnavailable, StoreError
from poolnet.files.streams import Streams
from poolnet.files.uses import PieceStore, RelaySink, StreamWatcher
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, MsgId, PoolId
from poolnet.limits import MIB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.service import open_service_nursery
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.file_table import FileTable
from poolnet.storage.piece_store import PiecesDamaged
from poolnet.storage.stream_spool import SpooledFile
from poolnet.wire.bodies import Body, RetractOfferBody, StreamBody

POOL = PoolId(bytes([7]) * 32)
#: Pieces of one watcher that are under way at once.
_AT_ONCE = 6


@attrs.define
class Network:
    """What happens to pieces between devices."""

    rng: random.Random
    loss: float = 0.0
    delay_s: float = 0.01
    false_claims: dict[FileId, int] = attrs.field(factory=dict)
    tells_highest_only: bool = False
    widest_window: int = 0
    news: trio.Event = attrs.field(factory=trio.Event)

    def stir(self) -> None:
        """Wake those who have nothing to do: something has changed."""
        self.news.set()
        self.news = trio.Event()

    def claim(self, stream_id: FileId, count: int) -> None:
        """Let somebody say that a stream has so many pieces."""
        self.false_claims[stream_id] = count
        self.stir()


@attrs.define(eq=False)
class _Following:
    store: RelaySink
    watcher: StreamWatcher
    start: int
    stop: int
    scope: trio.CancelScope
    here: set[int] = attrs.field(factory=set)
    asked: set[int] = attrs.field(factory=set)
    count: int | None = None


class MemoryExchange:
    """A `StreamExchange` of one device. Its followers fetch from the devices in `peers` while these are there."""

    def __init__(self, network: Network, nursery: trio.Nursery) -> None:
        self.network = network
        self.peers: list[MemoryExchange] = []
        self._is_away = False
        self._stored: dict[FileId, int] = {}
        self.served: dict[FileId, PieceStore] = {}
        self.held: dict[FileId, set[int]] = {}
        self.following: dict[FileId, _Following] = {}
        self._nursery = nursery

    @property
    def is_away(self) -> bool:
        """Whether nobody has a link to this device."""
        return self._is_away

    @is_away.setter
    def is_away(self, is_away: bool) -> None:
        self._is_away = is_away
        self.network.stir()

    def serve_stream(self, store: PieceStore) -> None:
        self.served[store.file_id] = store
        self.held[store.file_id] = set()

    def stream_stored(self, stream_id: FileId, piece: int) -> None:
        assert piece == self._stored.get(stream_id, 0), "pieces of a stream appear in order"
        self._stored[stream_id] = piece + 1
        self.held[stream_id].add(piece)
        self.network.stir()

    def stop(self, file_id: FileId) -> None:
        self.served.pop(file_id, None)
        self.held.pop(file_id, None)

    def follow_stream(self, store: RelaySink, start: int, stop: int, watcher: StreamWatcher) -> None:
        scope = trio.CancelScope()
        self.following[store.file_id] = _Following(store, watcher, start, stop, scope)
        self.held.setdefault(store.file_id, set())
        self.served[store.file_id] = store
        self._nursery.start_soon(self._fetch_all, store.file_id, self.following[store.file_id])

    def move_stream(self, stream_id: FileId, start: int, stop: int) -> None:
        following = self.following[stream_id]
        following.start, following.stop = start, stop
        self.network.stir()
        self.network.widest_window = max(self.network.widest_window, stop - start)

    def stream_ended(self, stream_id: FileId, count: int) -> None:
        self.following[stream_id].count = count

    def stop_following(self, stream_id: FileId) -> None:
        self.following.pop(stream_id).scope.cancel()

    async def _fetch_all(self, stream_id: FileId, following: _Following) -> None:
        with following.scope:
            async with trio.open_nursery() as nursery:
                for _ in range(_AT_ONCE):
                    nursery.start_soon(self._fetch, stream_id, following)

    async def _fetch(self, stream_id: FileId, following: _Following) -> None:
        while True:
            news = self.network.news
            await trio.sleep(self._travel_s())
            self._hear(stream_id, following)
            wanted = self._wanted(stream_id, following)
            if not wanted:
                await news.wait()
                continue
            peer, piece = wanted[0]
            following.asked.add(piece)
            await trio.sleep(self._travel_s())
            following.asked.discard(piece)
            if self.network.rng.random() >= self.network.loss:
                self._deliver(stream_id, following, peer, piece)

    def _travel_s(self) -> float:
        return self.network.rng.uniform(0.1, 1.0) * self.network.delay_s

    def _hear(self, stream_id: FileId, following: _Following) -> None:
        claims = [max(peer.held.get(stream_id, ()), default=-1) + 1 for peer in self._there()]
        claims += [self.network.false_claims[stream_id]] if stream_id in self.network.false_claims else []
        for claim in [max(claims, default=0)] if self.network.tells_highest_only else claims:
            following.watcher.grew(claim)

    def _wanted(self, stream_id: FileId, following: _Following) -> list[tuple["MemoryExchange", int]]:
        return [
            (peer, piece)
            for piece in range(following.start, following.stop)
            for peer in self._there()
            if piece in peer.held.get(stream_id, ()) and piece not in following.here | following.asked
        ]

    def _there(self) -> list["MemoryExchange"]:
        return [peer for peer in self.peers if not peer.is_away]

    def _deliver(self, stream_id: FileId, following: _Following, peer: "MemoryExchange", piece: int) -> None:
        if peer.is_away or stream_id not in peer.served:
            return
        try:
            (data,) = peer.served[stream_id].read_pieces([piece])
        except PiecesDamaged:
            peer.held[stream_id].discard(piece)
            return
        except SourceUnavailable:
            peer.stop(stream_id)
            return
        assert following.store.write_pieces([(piece, data)]) == [True]
        following.here.add(piece)
        self.held[stream_id].add(piece)
        self.network.stir()
        following.watcher.pieces_arrived([(piece, data)])
        for file_id, evicted in following.store.take_evicted():
            self.held[file_id].discard(evicted)


@attrs.define
class Pool:
    """What the pool knows: `StreamNews` of every device, and the messages."""

    bodies: list[Body] = attrs.field(factory=list)
    offered: set[FileId] = attrs.field(factory=set)
    wholes: dict[FileId, SpooledFile] = attrs.field(factory=dict)

    def is_stream_offered(self, stream_id: FileId) -> bool:
        return stream_id in self.offered

    def whole_of_stream(self, stream_id: FileId) -> FileId | None:
        whole = self.wholes.get(stream_id)
        return None if whole is None else whole.file_id


@attrs.define(eq=False)
class Device:
    """One device: its streams, and its exchange."""

    streams: Streams
    exchange: MemoryExchange
    directory: Path
    table: FileTable


class World:
    """A pool of devices. Made by `open_world`."""

    def __init__(self, path: Path, nursery: trio.Nursery, stack: contextlib.ExitStack, rng: random.Random) -> None:
        self.network = Network(rng)
        self.pool = Pool()
        self.fetched: list[FileId] = []
        self.offer_errors: list[StoreError] = []  # what the next attempts to offer the whole of a stream bring
        self._path = path
        self._nursery = nursery
        self._stack = stack
        self._count = 0

    async def device(self, *peers: Device, cache_size_bytes: int = 64 * MIB) -> Device:
        """Return a new device that fetches from these."""
        self._count += 1
        key = DeviceKey(bytes([self._count]) * 32)
        directory = self._path / f"device-{self._count}"
        table = FileTable(directory)
        await table.load()
        ring = open_ring(directory / "cache", size_bytes=cache_size_bytes)
        self._stack.callback(ring.close)
        exchange = MemoryExchange(self.network, self._nursery)
        exchange.peers = [peer.exchange for peer in peers]

        async def publish(body: Body) -> MsgId:
            await trio.lowlevel.checkpoint()
            self.pool.bodies.append(body)
            if isinstance(body, StreamBody):
                self.pool.offered.add(stream_id_of(key.device_id, POOL, body.nonce))
            elif isinstance(body, RetractOfferBody):
                self.pool.offered.discard(body.file_id)
            return MsgId(bytes(32))

        streams = Streams(
            directory / "streams",
            table=table,
            exchange=exchange,
            ring=ring,
            key=key,
            pool_id=POOL,
            news=self.pool,
            publish=publish,
            offer_whole=self._offer_whole,
            fetch_file=self._fetch_file,
        )
        await streams.restore()
        return Device(streams, exchange, directory, table)

    async def _offer_whole(self, whole: SpooledFile) -> None:
        await trio.lowlevel.checkpoint()
        if self.offer_errors:
            raise self.offer_errors.pop()
        self.pool.wholes[whole.stream_id] = whole

    async def _fetch_file(self, file_id: FileId) -> Path:
        await trio.sleep(1.0)
        self.fetched.append(file_id)
        return next(whole.path for whole in self.pool.wholes.values() if whole.file_id == file_id)


@contextlib.asynccontextmanager
async def open_world(path: Path, *, seed: int = 1) -> AsyncIterator[World]:
    """Open a pool without devices, and without losses; its files are below `path`."""
    with contextlib.ExitStack() as stack:
        async with open_service_nursery() as nursery:
            yield World(path, nursery, stack, random.Random(seed))
