"""Streams: what one device sends, others read while it grows, whatever the network does."""

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from small_disks import can_mount, small_disk
from stream_world import POOL, Device, World, open_world
from trio.testing import MockClock

from poolnet.errors import (
    DiskFull,
    LocalError,
    ProtocolError,
    SourceUnavailable,
    StoreError,
    StreamAborted,
    TextTooLong,
    UnknownFile,
)
from poolnet.files.stream_reader import WINDOW, StreamReader
from poolnet.files.stream_store import StreamStore
from poolnet.files.stream_whole import StreamWhole
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_FILE_NAME_BYTES, MAX_STREAM_PIECE_SIZE, STREAM_FLUSH_S
from poolnet.protocol.hash_tree import TreeBuilder, TreeShape, hash_chunk
from poolnet.protocol.live_edge import MAX_LIVE_DELAY_S
from poolnet.protocol.stream_pieces import StreamSigner, encode_stream_piece
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.growing_tree import GrowingTree
from poolnet.storage.hashing import FileHasher
from poolnet.storage.piece_store import FileSource, PiecesDamaged
from poolnet.storage.stream_spool import SpooledFile, StreamSpool, recover_streams
from poolnet.storage.tree_file import NodeCache, TreeFile
from poolnet.wire.bodies import RetractOfferBody, StreamBody


@pytest.fixture
def autojump(jumping_clock: MockClock) -> MockClock:
    """Time jumps, disks do not take any."""
    return jumping_clock


async def read_all(device: Device, stream_id: FileId, *, from_start: bool = True) -> bytes:
    async with device.streams.watch(stream_id, from_start=from_start) as reader:
        return b"".join([data async for data in reader])


def file_id_of(path: Path, tree: Path) -> FileId:
    with FileHasher(path, tree) as hasher:
        while hasher.step():
            pass
        return hasher.finish(lambda _: tree)


# --- the way of the bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_all_that_is_sent_arrives_in_order_over_a_bad_network(
    seed: int, tmp_path: Path, autojump: MockClock
) -> None:
    rng = random.Random(seed)
    sent = bytearray()
    got: dict[int, bytes] = {}
    async with open_world(tmp_path, seed=seed) as world:
        world.network.loss, world.network.delay_s = 0.3, 0.2
        author = await world.device()
        first = await world.device(author)
        second = await world.device(first)  # hears of it from a watcher only

        async def watch(number: int, device: Device, stream_id: FileId) -> None:
            got[number] = await read_all(device, stream_id)

        async with trio.open_nursery() as nursery, author.streams.open_stream("song.ogg") as writer:
            for number, device in enumerate([first, second]):
                nursery.start_soon(watch, number, device, writer.stream_id)
            for _ in range(40):
                data = rng.randbytes(rng.choice([1, 100, 30_000, 3 * CHUNK_SIZE]))
                await writer.send(data)
                sent += data
                await trio.sleep(rng.uniform(0, 0.5))
        assert got == {0: sent, 1: sent}
        assert writer.path.read_bytes() == sent
        assert world.fetched == []
        assert world.network.widest_window <= WINDOW


async def test_a_finished_stream_is_a_file_of_its_name_with_a_tree_that_fits(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        async with author.streams.open_stream("talk.opus") as writer:
            await writer.send(random.Random(1).randbytes(5 * CHUNK_SIZE + 17))
            assert writer.file is None
        whole = writer.file
        assert whole is not None
        assert whole.path == author.directory / "streams" / "talk.opus"
        assert whole.size_bytes == 5 * CHUNK_SIZE + 17
        assert whole.file_id == file_id_of(whole.path, tmp_path / "tree")
        source = FileSource(
            whole.path,
            TreeFile(author.table.tree_path(whole.file_id), whole.file_id, TreeShape(whole.size_bytes), NodeCache()),
        )
        source.read_pieces(range(source.shape.piece_count))
        assert world.pool.wholes == {writer.stream_id: whole}
        async with author.streams.watch(writer.stream_id, from_start=True) as reader:
            async for _ in reader:
                pass
        assert reader.file_id == whole.file_id


async def test_little_is_sent_soon_and_much_at_once(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("log") as writer, watcher.streams.watch(writer.stream_id) as reader:
            await trio.sleep(2)
            for size in (5, MAX_STREAM_PIECE_SIZE):
                began_at = trio.current_time()
                await writer.send(bytes(size))
                assert await anext(reader) == bytes(size)
                took_s = trio.current_time() - began_at
                expected_s = STREAM_FLUSH_S if size == 5 else 0.0
                assert expected_s <= took_s <= expected_s + 4 * world.network.delay_s


async def test_an_empty_stream_ends_as_an_empty_file(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("nothing") as writer:
            pass
        assert writer.path.read_bytes() == b""
        world.pool.wholes.clear()
        assert await read_all(watcher, writer.stream_id) == b""


async def test_several_tasks_send_without_mixing_their_bytes(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        async with author.streams.open_stream("mixed") as writer, trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(writer.send, bytes([number]) * 3_000_000)
        content = writer.path.read_bytes()
        assert len(content) == 15_000_000
        assert {len(set(content[start : start + 3_000_000])) for start in range(0, 15_000_000, 3_000_000)} == {1}


async def test_this_device_reads_its_own_stream_several_times_over(tmp_path: Path, autojump: MockClock) -> None:
    got: list[bytes] = []
    async with open_world(tmp_path) as world:
        author = await world.device()

        async def read(stream_id: FileId) -> None:
            got.append(await read_all(author, stream_id))

        async with trio.open_nursery() as nursery, author.streams.open_stream("mirror") as writer:
            await writer.send(b"one ")
            await trio.sleep(3)
            nursery.start_soon(read, writer.stream_id)
            nursery.start_soon(read, writer.stream_id)
            await writer.send(b"two")
        assert got == [b"one two"] * 2


# --- live -----------------------------------------------------------------------------------------------------


async def test_a_live_reader_begins_with_the_last_piece_there_is(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("radio") as writer:
            for number in range(600):
                await writer.send(b"%03d" % number)
                await trio.sleep(2 * STREAM_FLUSH_S)
            async with watcher.streams.watch(writer.stream_id) as reader:
                assert await anext(reader) == b"599"
                await writer.send(b"new")
                assert await anext(reader) == b"new"
                assert reader.skipped_bytes == 0


async def test_a_live_reader_that_is_there_from_the_beginning_misses_nothing_of_a_burst(
    tmp_path: Path, autojump: MockClock
) -> None:
    content = random.Random(2).randbytes(100 * MAX_STREAM_PIECE_SIZE)
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("film") as writer, watcher.streams.watch(writer.stream_id) as reader:
            with trio.move_on_after(3):
                await anext(reader)
            await writer.send(content)
            await writer.aclose()
            assert b"".join([data async for data in reader]) == content
            assert reader.skipped_bytes == 0


async def run_slow_reader(world: World, *, from_start: bool) -> tuple[StreamReader, bytes, bytes]:
    """Read slower than is sent; return the reader, what it got, and what was sent."""
    author = await world.device()
    watcher = await world.device(author)
    got = bytearray()
    async with trio.open_nursery() as nursery, author.streams.open_stream("fast") as writer:

        async def send() -> None:
            for number in range(200):
                await writer.send(b"%04d" % number)
                await trio.sleep(2 * STREAM_FLUSH_S)
            await writer.aclose()

        nursery.start_soon(send)
        async with watcher.streams.watch(writer.stream_id, from_start=from_start) as reader:
            async for data in reader:
                got += data
                if len(got) < 200:
                    await trio.sleep(4)
    return reader, bytes(got), writer.path.read_bytes()


async def test_a_slow_live_reader_skips_ahead_and_says_how_much(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        reader, got, sent = await run_slow_reader(world, from_start=False)
        numbers = [int(got[start : start + 4]) for start in range(0, len(got), 4)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0
        assert reader.skipped_bytes > 0
        assert len(got) + reader.skipped_bytes == len(sent)


async def test_a_slow_reader_from_the_start_skips_nothing(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        reader, got, sent = await run_slow_reader(world, from_start=True)
        assert got == sent
        assert reader.skipped_bytes == 0


async def test_a_live_reader_is_never_much_later_than_the_bound(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with trio.open_nursery() as nursery, author.streams.open_stream("clock") as writer:

            async def send() -> None:
                while True:
                    await writer.send(b"%010d" % round(1000 * trio.current_time()))
                    await trio.sleep(0.3)

            nursery.start_soon(send)
            async with watcher.streams.watch(writer.stream_id) as reader:
                for _ in range(60):
                    delay_s = trio.current_time() - int(await anext(reader)) / 1000
                    assert delay_s < MAX_LIVE_DELAY_S + 3
                    await trio.sleep(2)
                assert reader.skipped_bytes > 0
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tells_highest_only", [False, True])
async def test_a_false_claim_costs_a_live_reader_a_moment_and_no_bytes(
    tells_highest_only: bool, tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        world.network.tells_highest_only = tells_highest_only
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("true") as writer:
            await writer.send(b"first")
            await trio.sleep(1)
            async with watcher.streams.watch(writer.stream_id) as reader:
                assert await anext(reader) == b"first"
                world.network.claim(writer.stream_id, 1_000_000)
                for number in range(100):
                    await writer.send(b"%03d" % number)
                    with trio.fail_after(30):
                        assert await anext(reader) == b"%03d" % number
                assert reader.skipped_bytes == 0


async def test_a_reader_that_meets_a_liar_first_finds_the_stream_all_the_same(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("true") as writer:
            await writer.send(b"here")
            await trio.sleep(1)
            world.network.claim(writer.stream_id, 1_000_000)
            with trio.fail_after(20):
                async with watcher.streams.watch(writer.stream_id) as reader:
                    assert await anext(reader) == b"here"


async def test_a_live_reader_goes_past_what_nobody_has_any_more(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("holes") as writer, watcher.streams.watch(writer.stream_id) as reader:
            await writer.send(b"zero")
            assert await anext(reader) == b"zero"
            author.exchange.is_away = True
            for number in range(1, 5):
                await writer.send(b"%04d" % number)
                await trio.sleep(1)
            author.exchange.held[writer.stream_id] -= {1, 2}
            author.exchange.is_away = False
            with trio.fail_after(60):
                assert await anext(reader) == b"0004"
            assert reader.skipped_bytes == 12


# --- how it ends ----------------------------------------------------------------------------------------------


async def test_a_stream_whose_author_fails_is_aborted_for_all_and_kept(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with author.streams.open_stream("broken") as writer:
                await writer.send(b"so far")
                raise ZeroDivisionError
        world.pool.offered.add(writer.stream_id)  # the watcher has not heard of the retraction yet
        async with watcher.streams.watch(writer.stream_id, from_start=True) as reader:
            assert await anext(reader) == b"so far"
            with pytest.raises(StreamAborted):
                await anext(reader)
        assert world.pool.wholes == {}
        assert [type(body) for body in world.pool.bodies] == [StreamBody, RetractOfferBody]
        assert writer.path == author.directory / "streams" / "broken"
        assert writer.path.read_bytes() == b"so far"
        with pytest.raises(LocalError):
            await writer.send(b"more")


async def test_a_cancelled_stream_is_aborted_too(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        with trio.move_on_after(10):
            async with author.streams.open_stream("endless") as writer:
                while True:
                    await writer.send(b"x")
                    await trio.sleep(1)
        world.pool.offered.add(writer.stream_id)
        with pytest.raises(StreamAborted):
            await read_all(watcher, writer.stream_id)


async def test_a_reader_waits_while_the_author_is_away(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with (
            author.streams.open_stream("back") as writer,
            watcher.streams.watch(writer.stream_id, from_start=True) as reader,
        ):
            await writer.send(b"one")
            assert await anext(reader) == b"one"
            author.exchange.is_away = True
            await writer.send(b"two")
            with trio.move_on_after(3600) as waiting:
                await anext(reader)
            assert waiting.cancelled_caught
            author.exchange.is_away = False
            assert await anext(reader) == b"two"


async def test_a_reader_of_a_withdrawn_stream_is_told(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with author.streams.open_stream("gone") as writer, watcher.streams.watch(writer.stream_id) as reader:
            author.exchange.is_away = True
            with trio.move_on_after(60) as waiting:
                await anext(reader)
            assert waiting.cancelled_caught
            world.pool.offered.discard(writer.stream_id)
            watcher.streams.news_changed(writer.stream_id)
            with pytest.raises(StreamAborted):
                await anext(reader)


async def test_a_stream_that_ended_before_is_read_from_its_file(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device()
        async with author.streams.open_stream("old") as writer:
            await writer.send(bytes(3 * CHUNK_SIZE) + b"end")
        assert await read_all(watcher, writer.stream_id) == bytes(3 * CHUNK_SIZE) + b"end"
        assert writer.file is not None
        assert world.fetched == [writer.file.file_id]
        assert await read_all(watcher, writer.stream_id, from_start=False) == b""


async def test_a_reader_whose_author_left_after_finishing_reads_the_rest_from_the_file(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        got = bytearray()
        async with (
            author.streams.open_stream("tail") as writer,
            watcher.streams.watch(writer.stream_id, from_start=True) as reader,
        ):
            await writer.send(b"first part, ")
            got += await anext(reader)
            author.exchange.is_away = True
            await writer.send(b"second part")
            await writer.aclose()
            async for data in reader:
                got += data
        assert got == b"first part, second part"
        assert len(world.fetched) == 1


async def test_only_streams_that_are_offered_are_watched_and_by_one_reader(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        with pytest.raises(UnknownFile):
            async with watcher.streams.watch(FileId(bytes(32))):
                pass
        async with author.streams.open_stream("one") as writer:
            async with watcher.streams.watch(writer.stream_id):
                with pytest.raises(LocalError):
                    async with watcher.streams.watch(writer.stream_id):
                        pass
                assert watcher.streams.statistics().watched == 1
            async with watcher.streams.watch(writer.stream_id):
                pass
        assert watcher.exchange.following == {}


async def test_only_the_last_finished_streams_are_still_given(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        for number in range(12):
            async with author.streams.open_stream("take") as writer:
                await writer.send(b"%d" % number)
        assert author.streams.statistics().published == 0
        assert author.streams.statistics().lingering == len(author.exchange.served) == 8
        names = {path.name for path in (author.directory / "streams").iterdir() if not path.name.startswith(".")}
        assert names == {"take"} | {f"take ({number})" for number in range(2, 13)}


@pytest.mark.parametrize("name", ["", "x" * (MAX_FILE_NAME_BYTES + 1)])
async def test_a_name_that_no_offer_can_have_is_refused(name: str, tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        with pytest.raises(TextTooLong):
            async with author.streams.open_stream(name):
                pass
        assert world.pool.bodies == []


async def test_a_stream_of_a_dangerous_name_stays_in_its_directory(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        async with author.streams.open_stream("../../evil\x00" + "é" * 100 + ".mkv") as writer:
            await writer.send(b"x")
        assert writer.path.parent == author.directory / "streams"
        assert writer.path.suffix == ".mkv"


async def test_a_whole_that_could_not_be_offered_is_offered_once_more(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        world.offer_errors = [StoreError("a disk that stumbles")]
        with pytest.raises(StoreError):
            async with author.streams.open_stream("late") as writer:
                await writer.send(b"all of it")
        assert writer.file is not None
        assert world.pool.wholes == {writer.stream_id: writer.file}


async def test_a_stream_whose_tree_cannot_be_kept_is_aborted_and_its_bytes_stay(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        with pytest.raises(StoreError):  # noqa: PT012
            async with author.streams.open_stream("bare") as writer:
                await writer.send(b"the bytes")
                shutil.rmtree(author.table.new_tree_path().parent)
        assert writer.file is None
        assert writer.path == author.directory / "streams" / "bare"
        assert writer.path.read_bytes() == b"the bytes"
        world.pool.offered.add(writer.stream_id)
        with pytest.raises(StreamAborted):
            await read_all(watcher, writer.stream_id)


async def test_what_waits_for_a_full_piece_goes_out_when_a_stream_is_aborted(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with author.streams.open_stream("cut") as writer:
                await writer.send(b"the last ")
                await writer.send(b"words")
                raise ZeroDivisionError
        assert writer.path.read_bytes() == b"the last words"
        assert writer.size_bytes == len(b"the last words")


@pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root")
async def test_a_full_disk_ends_a_stream_for_its_author_and_for_those_who_watch(
    tmp_path: Path, autojump: MockClock
) -> None:
    with small_disk(tmp_path / "disk", "6m"):
        async with open_world(tmp_path / "disk") as world:
            author = await world.device(cache_size_bytes=0)
            watcher = await world.device(author, cache_size_bytes=0)
            with pytest.raises(DiskFull):  # noqa: PT012
                async with author.streams.open_stream("large") as writer:
                    for _ in range(100):
                        await writer.send(bytes(CHUNK_SIZE))
            kept = writer.path.stat().st_size
            assert kept >= 20 * MAX_STREAM_PIECE_SIZE
            world.pool.offered.add(writer.stream_id)
            async with watcher.streams.watch(writer.stream_id, from_start=True) as reader:
                assert len(await anext(reader)) == MAX_STREAM_PIECE_SIZE
                with pytest.raises(StreamAborted):
                    async for _ in reader:
                        pass


# --- stores -----------------------------------------------------------------------------------------------------

KEY = DeviceKey(bytes([1]) * 32)
SIGNER = StreamSigner(KEY, POOL, bytes(16))


def make_pieces(count: int) -> list[tuple[int, bytes]]:
    return [(number, encode_stream_piece(SIGNER.sign(number, 5 * number, b"%05d" % number))) for number in range(count)]


def test_a_store_takes_genuine_pieces_at_their_place_only(tmp_path: Path) -> None:
    ring = open_ring(tmp_path, size_bytes=8 * CHUNK_SIZE)
    store = StreamStore(ring, POOL, SIGNER.stream_id)
    (_, first), (_, second) = make_pieces(2)
    other = encode_stream_piece(StreamSigner(KEY, POOL, bytes([1]) * 16).sign(1, 5, b"00001"))
    assert store.write_pieces([(0, first), (1, first), (1, other), (1, second[:-1] + b"x"), (1, b""), (1, second)]) == [
        True,
        *[False] * 4,
        True,
    ]
    assert store.read_pieces([1, 0]) == [second, first]
    assert store.held() == ((0, 2),)
    assert store.count is None
    assert store.write_pieces([(2, encode_stream_piece(SIGNER.sign(2, 10, b"", is_final=True)))]) == [True]
    assert store.count == 3
    ring.close()


def test_what_the_ring_gives_up_is_reported_once(tmp_path: Path) -> None:
    ring = open_ring(tmp_path, size_bytes=4 * CHUNK_SIZE)
    store = StreamStore(ring, POOL, SIGNER.stream_id)
    store.write_pieces(make_pieces(6))
    assert store.take_evicted() == [(SIGNER.stream_id, 0), (SIGNER.stream_id, 1)]
    assert store.take_evicted() == []
    assert store.held() == ((2, 6),)
    with pytest.raises(PiecesDamaged) as caught:
        store.read_pieces([1, 3])
    assert caught.value.pieces == [1]
    ring.close()


def test_without_a_ring_the_last_pieces_are_kept_in_memory(tmp_path: Path) -> None:
    store = StreamStore(open_ring(tmp_path, size_bytes=0), POOL, SIGNER.stream_id)
    pieces = make_pieces(40)
    store.write_pieces(pieces)
    assert store.held() == ((8, 40),)
    assert store.read_pieces([8, 39]) == [pieces[8][1], pieces[39][1]]
    assert store.take_evicted() == [(SIGNER.stream_id, number) for number in range(8)]


def test_a_spool_notices_that_another_program_changed_it(tmp_path: Path) -> None:
    spool = StreamSpool(tmp_path, "x", SIGNER)
    spool.append([b"first", b"second"])
    assert len(spool.read_pieces([0, 1])) == 2
    with pytest.raises(PiecesDamaged):
        spool.read_pieces([2])
    with spool.path.open("r+b") as file:
        file.write(b"F")
    with pytest.raises(SourceUnavailable):
        spool.read_pieces([0])
    spool.abort()
    spool.path.unlink()
    with pytest.raises(SourceUnavailable):
        spool.read_pieces([1])


def test_a_crash_leaves_a_file_of_what_was_sent(tmp_path: Path) -> None:
    for number, content in enumerate([b"saved", b"", b"too"]):
        spool = StreamSpool(tmp_path, "concert.flac", StreamSigner(KEY, POOL, bytes([number]) * 16))
        spool.append([content] if content else [])
    recovered = recover_streams(tmp_path)
    assert {path.name for path in recovered} == {"concert.flac", "concert (2).flac"}
    assert {path.read_bytes() for path in recovered} == {b"saved", b"too"}
    assert set(tmp_path.iterdir()) == set(recovered)
    assert recover_streams(tmp_path) == []


@pytest.mark.parametrize("chunk_count", [0, 1, 2, 1024, 1025, 2049])
def test_a_growing_tree_is_the_tree_of_the_whole(chunk_count: int, tmp_path: Path) -> None:
    size = chunk_count * CHUNK_SIZE - (7 if chunk_count else 0)
    growing = GrowingTree(tmp_path / "nodes")
    block = bytes(3 * CHUNK_SIZE - 5)
    for start in range(0, size, len(block)):
        growing.add(block[: min(len(block), size - start)])
    file_id = growing.finish(tmp_path / "new", lambda _: tmp_path / "tree")
    growing.close()
    builder = TreeBuilder()
    last = hash_chunk(bytes(CHUNK_SIZE - 7))
    whole = hash_chunk(bytes(CHUNK_SIZE))
    for index in range(chunk_count):
        builder.add(last if index == chunk_count - 1 else whole)
    assert file_id == builder.finish(size)[0]
    tree = TreeFile(tmp_path / "tree", file_id, TreeShape(size), NodeCache())
    assert tree.is_complete()
    assert tree.present_nodes() == list(range(tree.shape.node_count))
    if chunk_count:
        assert tree.is_genuine(tree.shape.piece_count - 1, bytes(CHUNK_SIZE - 7))
    assert {path.name for path in tmp_path.iterdir()} == {"tree"}


def test_a_stream_that_a_disk_turned_read_only_broke_off_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    spool = StreamSpool(tmp_path, "radio", StreamSigner(KEY, POOL, bytes(16)))
    spool.append([b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match="Read-only"):
            spool.abort()
    assert recover_streams(tmp_path) == [tmp_path / "radio"]
    assert list(tmp_path.iterdir()) == [tmp_path / "radio"], "what could not be removed went with the next start"


@pytest.mark.parametrize(("index", "offset"), [(1, 4), (1, 6), (0, 1)])
async def test_an_author_whose_pieces_contradict_each_other_is_found_out(
    index: int, offset: int, tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        watcher = await world.device()
        world.pool.offered.add(SIGNER.stream_id)
        async with watcher.streams.watch(SIGNER.stream_id, from_start=True) as reader:
            pieces = dict(make_pieces(2)) | {index: encode_stream_piece(SIGNER.sign(index, offset, b"other"))}
            reader.pieces_arrived(list(pieces.items()))
            with trio.fail_after(60), pytest.raises(ProtocolError):
                await read_to_end(reader)


@pytest.mark.parametrize("lie", ["the last piece", "the offer", "nothing"])
async def test_who_read_all_of_a_stream_compares_it_with_the_file_that_it_is_said_to_be(
    lie: str, tmp_path: Path, autojump: MockClock
) -> None:
    content = bytes(CHUNK_SIZE + 5)
    (tmp_path / "whole").write_bytes(content)
    true_id, other_id = file_id_of(tmp_path / "whole", tmp_path / "tree"), FileId(bytes([9]) * 32)
    said = other_id if lie == "the last piece" else true_id
    whole = SpooledFile(
        stream_id=SIGNER.stream_id,
        file_id=other_id if lie == "the offer" else true_id,
        name="whole",
        size_bytes=len(content),
        path=tmp_path / "whole",
        mtime_ns=0,
    )
    pieces = [
        SIGNER.sign(0, 0, content[:MAX_STREAM_PIECE_SIZE]),
        SIGNER.sign(1, MAX_STREAM_PIECE_SIZE, content[MAX_STREAM_PIECE_SIZE:], is_final=True, file_id=said),
    ]
    async with open_world(tmp_path) as world:
        watcher = await world.device()
        world.pool.offered.add(SIGNER.stream_id)
        async with watcher.streams.watch(SIGNER.stream_id, from_start=True) as reader:
            with trio.move_on_after(1):
                await anext(reader)
            world.pool.wholes[SIGNER.stream_id] = whole
            reader.pieces_arrived([(piece.index, encode_stream_piece(piece)) for piece in pieces])
            assert await anext(reader) + await anext(reader) == content
            assert reader.file_id == said
            with pytest.raises(StopAsyncIteration if lie == "nothing" else ProtocolError):
                await anext(reader)


async def test_the_rest_of_a_stream_that_is_read_from_a_file_must_fit_what_was_sent(
    tmp_path: Path, autojump: MockClock
) -> None:
    async with open_world(tmp_path) as world:
        author = await world.device()
        watcher = await world.device(author)
        async with (
            author.streams.open_stream("tail") as writer,
            watcher.streams.watch(writer.stream_id, from_start=True) as reader,
        ):
            await writer.send(b"first part, ")
            assert await anext(reader) == b"first part, "
            author.exchange.is_away = True
            await writer.send(b"second part")
            await writer.aclose()
            writer.path.write_bytes(b"first part, another part")
            assert await anext(reader) == b"another part"
            with pytest.raises(ProtocolError, match="not the file"):
                await anext(reader)


async def read_to_end(reader: StreamReader) -> None:
    async for _ in reader:
        pass


async def test_what_arrives_twice_or_too_early_is_not_kept(tmp_path: Path, autojump: MockClock) -> None:
    async with open_world(tmp_path) as world:
        watcher = await world.device()
        world.pool.offered.add(SIGNER.stream_id)
        pieces = make_pieces(3 * WINDOW)
        async with watcher.streams.watch(SIGNER.stream_id, from_start=True) as reader:
            with trio.move_on_after(1):
                await anext(reader)
            reader.pieces_arrived(pieces)
            reader.pieces_arrived(pieces[:5])
            for number in range(WINDOW):
                assert await anext(reader) == b"%05d" % number
            with trio.move_on_after(1) as waiting:
                await anext(reader)
            assert waiting.cancelled_caught  # the rest is asked for again when its turn comes


@given(st.lists(st.integers(0, 3 * CHUNK_SIZE), max_size=5))
def test_bytes_in_whatever_portions_make_the_file_that_they_are(sizes: list[int]) -> None:
    whole, content = StreamWhole(), bytearray()
    for number, size in enumerate(sizes):
        portion = bytes([number]) * size
        whole.add(portion)
        content += portion
    tree = TreeBuilder()
    for start in range(0, len(content), CHUNK_SIZE):
        tree.add(hash_chunk(content[start : start + CHUNK_SIZE]))
    assert whole.finish() == tree.finish(len(content))[0]
