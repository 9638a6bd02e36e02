"""Streams over the real exchange of pieces, on links in memory: directly, from watcher to watcher, and relayed."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from stream_world import POOL, Pool
from trio.testing import MockClock

from poolnet.files.exchange import Exchange
from poolnet.files.relays import RouteFinder
from poolnet.files.streams import Streams
from poolnet.files.uses import RelaySink
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.file_table import FileTable
from poolnet.storage.stream_spool import SpooledFile
from poolnet.testing.chunk_links import FileNode, Uplink, linked
from poolnet.wire.bodies import Body, StreamBody


@pytest.fixture
def autojump(jumping_clock: MockClock) -> MockClock:
    """Time jumps, disks do not take any."""
    return jumping_clock


class Party:
    """A device whose streams go over a real exchange."""

    def __init__(self, node: FileNode, exchange: Exchange, streams: Streams) -> None:
        self.node = node
        self.exchange = exchange
        self.streams = streams


@contextlib.asynccontextmanager
async def open_party(path: Path, number: int, pool: Pool, *, cache_size_bytes: int = 32 * MIB) -> AsyncIterator[Party]:
    """Open a device without links."""
    key = DeviceKey(bytes([number]) * 32)
    directory = path / f"party-{number}"
    table = FileTable(directory)
    await table.load()
    ring = open_ring(directory / "cache", size_bytes=cache_size_bytes)
    exchange = Exchange(random.Random(number), lambda file_id, size_bytes: make_relay(file_id, size_bytes))

    async def publish(body: Body) -> MsgId:
        await trio.lowlevel.checkpoint()
        if isinstance(body, StreamBody):
            pool.offered.add(stream_id_of(key.device_id, POOL, body.nonce))
        return MsgId(bytes(32))

    async def offer_whole(whole: SpooledFile) -> None:
        await trio.lowlevel.checkpoint()

    async def fetch_file(file_id: FileId) -> Path:
        raise AssertionError("pieces are enough")

    streams = Streams(
        directory / "streams",
        table=table,
        exchange=exchange,
        ring=ring,
        key=key,
        pool_id=POOL,
        news=pool,
        publish=publish,
        offer_whole=offer_whole,
        fetch_file=fetch_file,
    )
    await streams.restore()

    def make_relay(file_id: FileId, size_bytes: int | None) -> RelaySink | None:
        return streams.make_relay(file_id) if size_bytes is None else None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run_timer)
        yield Party(FileNode(DeviceId(key.device_id), exchange, Uplink(4 * MIB)), exchange, streams)
        nursery.cancel_scope.cancel()
    ring.close()


async def send_some(party: Party, content: bytearray, started: trio.MemorySendChannel[FileId]) -> None:
    rng = random.Random(5)
    async with party.streams.open_stream("film") as writer:
        await started.send(writer.stream_id)
        for size in [1, 100, 3 * CHUNK_SIZE, 20 * CHUNK_SIZE, 5, 7, 40_000]:
            data = rng.randbytes(size)
            content += data
            await writer.send(data)
            await trio.sleep(0.3)


async def read_all(party: Party, stream_id: FileId, got: list[bytes]) -> None:
    async with party.streams.watch(stream_id, from_start=True) as reader:
        got.append(b"".join([data async for data in reader]))


def relay_streams(party: Party) -> None:
    """Let a device relay every stream, as one that is linked to its author."""
    party.exchange.on_relays(RouteFinder(wanted=lambda file_id: party.exchange.route(file_id, None, 1)))


@pytest.mark.parametrize("cache_size_bytes", [32 * MIB, 0])
async def test_a_stream_goes_from_watcher_to_watcher(
    cache_size_bytes: int, tmp_path: Path, autojump: MockClock
) -> None:
    pool = Pool()
    async with (
        open_party(tmp_path, 1, pool) as author,
        open_party(tmp_path, 2, pool, cache_size_bytes=cache_size_bytes) as first,
        open_party(tmp_path, 3, pool) as second,
        linked(author.node, first.node),
        linked(first.node, second.node),
    ):
        got: list[bytes] = []
        content = bytearray()
        sent, started = trio.open_memory_channel[FileId](1)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_some, author, content, sent)
                stream_id = await started.receive()
                nursery.start_soon(read_all, first, stream_id, got)
                nursery.start_soon(read_all, second, stream_id, got)
        assert got == [content] * 2
        assert author.node.uplink.sent_bytes < 1.1 * len(got[0])


async def test_a_stream_is_relayed_by_who_does_not_watch_it(tmp_path: Path, autojump: MockClock) -> None:
    pool = Pool()
    async with (
        open_party(tmp_path, 1, pool) as author,
        open_party(tmp_path, 2, pool) as relay,
        open_party(tmp_path, 3, pool) as watcher,
        linked(author.node, relay.node),
        linked(relay.node, watcher.node),
    ):
        got: list[bytes] = []
        content = bytearray()
        sent, started = trio.open_memory_channel[FileId](1)
        relay_streams(relay)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_some, author, content, sent)
                stream_id = await started.receive()
                nursery.start_soon(read_all, watcher, stream_id, got)
                await trio.testing.wait_all_tasks_blocked()
                watcher.exchange.route(stream_id, None, 2)
        assert got == [content]


async def test_a_live_reader_behind_a_relay_begins_at_the_end(tmp_path: Path, autojump: MockClock) -> None:
    pool = Pool()
    async with (
        open_party(tmp_path, 1, pool) as author,
        open_party(tmp_path, 2, pool) as relay,
        open_party(tmp_path, 3, pool) as watcher,
        linked(author.node, relay.node),
        linked(relay.node, watcher.node),
        author.streams.open_stream("radio") as writer,
    ):
        relay_streams(relay)
        for number in range(50):
            await writer.send(b"%02d" % number)
            await trio.sleep(0.5)
        with trio.fail_after(60):
            async with watcher.streams.watch(writer.stream_id) as reader:
                watcher.exchange.route(writer.stream_id, None, 2)
                assert await anext(reader) == b"49"
                await writer.send(b"50")
                assert await anext(reader) == b"50"
                assert reader.skipped_bytes == 0
