"""Members that give, or take, chunks as no honest one does, over both ways for chunks: lanes, and streams of QUIC.

Whole nodes and a real server. With lanes they have sockets on loopback, and the clock jumps when nothing moves for a
moment; without, a network in memory.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
from test_pool import Member, World
from trio.testing import MockClock

import poolnet
from poolnet.errors import LinkClosed
from poolnet.limits import CHUNK_SIZE, MAX_CHUNKS_IN_TRANSIT, MAX_WANT_WINDOW, PROMISE_TIMEOUT_S
from poolnet.net.bulk_lane import LaneBroken
from poolnet.net.link import Link
from poolnet.node import Node
from poolnet.protocol.conduct import Kind
from poolnet.storage.piece_store import FileSource
from poolnet.wire.framing import encode_frame
from poolnet.wire.swarm_frames import ChunkHeader

pytestmark = pytest.mark.timeout(240)

#: Pieces that a link has read and not begun to send: two batches of outgoing.py, and the tree nodes among them.
_READ_AHEAD = 2 * 8


class Loopback(World):
    """Devices with real sockets on loopback, whose links have lanes."""

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Node]:
        async with poolnet.open_node(self.directory / name, listen=("127.0.0.1", 0)) as node:
            yield node

    @asynccontextmanager
    async def server(self, port: int = 0) -> AsyncIterator[poolnet.SyncServer]:
        async with poolnet.open_sync_server(data_dir=self.directory / "server", listen=("127.0.0.1", port)) as server:
            yield server


@pytest.fixture(params=["quic", "tcp"])
def world(request: pytest.FixtureRequest, tmp_path: Path, jumping_clock: MockClock) -> World:
    """A world in which chunks go that way."""
    if request.param == "quic":
        return World(tmp_path)
    jumping_clock.autojump_threshold = 0.002  # what the kernel is doing, it has done by then
    return Loopback(tmp_path)


@pytest.fixture(autouse=True)
def small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few chunks have many tree nodes, on several levels."""
    monkeypatch.setattr("poolnet.protocol.hash_tree.TREE_FAN_OUT", 2)


def link_between(member: Member, other: Member) -> Link:
    return member.pool._links.links[other.node.device_id]


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - of things that tell nobody
            await trio.sleep(0.05)


@asynccontextmanager
async def three(world: World) -> AsyncIterator[tuple[Member, Member, Member]]:
    """Members that are linked with each other, with lanes where they are to have them."""
    async with world.pool("ada", "bob", "eve") as (ada, bob, eve):
        members = (ada, bob, eve)
        if isinstance(world, Loopback):
            pairs = [(one, other) for one in members for other in members if one is not other]
            await until(lambda: all(link_between(*pair).carrier == "tcp" for pair in pairs))
        yield ada, bob, eve


SendChunk = Callable[[ChunkHeader, bytes], Awaitable[None]]
#: Does something else than to send a chunk with `send`, which does not look whether the header is true.
Deed = Callable[[ChunkHeader, bytes, SendChunk], Awaitable[None]]


def changed(header: ChunkHeader, *, piece: int | None = None, size: int | None = None) -> ChunkHeader:
    return ChunkHeader(
        file_id=header.file_id,
        piece=header.piece if piece is None else piece,
        size=header.size if size is None else size,
    )


async def send_nothing(_header: ChunkHeader, _payload: bytes, _send: SendChunk) -> None:
    await trio.sleep(0.01)


async def send_other_bytes(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(header, payload[:-1] + bytes([payload[-1] ^ 1]))


async def send_false_nodes(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(header, bytes(len(payload)) if len(payload) < 1000 else payload)


async def send_as_the_next(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(changed(header, piece=header.piece + 1), payload)


async def send_of_another_file(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(ChunkHeader(file_id=poolnet.FileId(bytes(32)), piece=0, size=len(payload)), payload)


async def send_what_was_not_asked_for_first(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    for number in range(3):
        await send(ChunkHeader(file_id=poolnet.FileId(bytes([number]) * 32), piece=0, size=len(payload)), payload)
    await send(header, payload)


async def send_twice(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(header, payload)
    await send(header, payload)


async def send_less(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(changed(header, size=len(payload) - 1), payload[:-1])


async def send_nothing_of_it(header: ChunkHeader, _payload: bytes, send: SendChunk) -> None:
    await send(changed(header, size=0), b"")


async def send_more(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    padded = payload.ljust(CHUNK_SIZE, b"\0") if len(payload) < CHUNK_SIZE else payload[:-1] + b"\0"
    await send(changed(header, size=len(padded)), padded)


async def send_less_than_declared(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(header, payload[:-1])


async def send_more_than_declared(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(header, payload + b"\0")


async def send_more_than_a_chunk_can_have(header: ChunkHeader, payload: bytes, send: SendChunk) -> None:
    await send(changed(header, size=CHUNK_SIZE + 1), payload.ljust(CHUNK_SIZE + 1, b"\0"))


class Giver:
    """Does something else than to send a chunk, in the place of a node that promised it honestly."""

    def __init__(self, member: Member, deed: Deed, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried = 0
        send_chunk = Link.send_chunk

        async def send(link: Link, header: ChunkHeader, payload: bytes) -> None:
            if (
                link not in member.pool._links.links.values() or header.piece == 0
            ):  # which a wrong size makes wrong, too
                await send_chunk(link, header, payload)
                return
            self.tried += 1
            try:
                await deed(header, payload, (link.chunks._lane or link.chunks.streams_out).send)
            except LaneBroken:
                raise LinkClosed("the lane was closed, and with it the link") from None

        monkeypatch.setattr(Link, "send_chunk", send)


class Case:
    """What a member does, what it is remembered for, and whether it may keep the link."""

    def __init__(self, deed: Deed, *kinds: Kind, keeps_link: bool = True) -> None:
        self.deed = deed
        self.kinds = kinds
        self.keeps_link = keeps_link


CASES = {
    "nothing": Case(send_nothing, Kind.BROKEN_PROMISE),
    "other bytes": Case(send_other_bytes, Kind.BAD_CHUNK),
    "false tree nodes": Case(send_false_nodes, Kind.BAD_CHUNK),
    "it as the next piece": Case(send_as_the_next, Kind.BAD_CHUNK, Kind.BROKEN_PROMISE),
    "it as a piece of another file": Case(send_of_another_file, Kind.BROKEN_PROMISE),
    "first what nobody asked for": Case(send_what_was_not_asked_for_first),
    "everything twice": Case(send_twice),
    "pieces that are too short": Case(send_less, Kind.BAD_CHUNK),
    "pieces of no bytes": Case(send_nothing_of_it, Kind.BAD_CHUNK),
    "pieces that are too long": Case(send_more, Kind.BAD_CHUNK),
    "less than it declares": Case(
        send_less_than_declared, Kind.PROTOCOL, Kind.BAD_CHUNK, Kind.BROKEN_PROMISE, keeps_link=False
    ),
    "more than it declares": Case(send_more_than_declared, Kind.PROTOCOL, keeps_link=False),
    "more than a chunk can have": Case(send_more_than_a_chunk_can_have, Kind.PROTOCOL, keeps_link=False),
}


def content(chunks: int) -> bytes:
    return Random(chunks).randbytes(chunks * CHUNK_SIZE - 1000)


async def offered(ada: Member, path: Path, chunks: int) -> poolnet.FileId:
    """Have a member offer a file of random bytes; return its id."""
    path.write_bytes(content(chunks))  # noqa: ASYNC240  # what does not wait in a test
    offer = await ada.pool.files.offer(path)
    return offer.file_id


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_file_comes_whole_from_the_honest_whatever_another_holder_sends(
    world: World, jumping_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    async with three(world) as (ada, bob, eve):
        file_id = await offered(ada, tmp_path / "source.bin", 14)
        await eve.sees(poolnet.FileOffered)
        await eve.pool.files.download(file_id, tmp_path / "eve.bin")
        await bob.sees(poolnet.FileOffered)
        honest, hostile = link_between(bob, ada), link_between(bob, eve)
        ada.pool.files.set_limits(up=CHUNK_SIZE)  # so that it takes a while, and the other one is asked
        giver = Giver(eve, case.deed, monkeypatch)
        with trio.fail_after(120):
            path = await bob.pool.files.download(file_id, tmp_path / "bob.bin")
        assert path.read_bytes() == content(14)
        assert giver.tried > 0, "the hostile one was never asked"
        await trio.sleep(1)
        assert not honest.is_closed
        assert not hostile.is_closed or not case.keeps_link
        conduct = bob.pool._conduct.of(eve.node.device_id)
        noted = set() if conduct is None else set(conduct.counts)
        assert noted <= set(case.kinds)
        assert bool(noted) == bool(case.kinds)
        credit = bob.pool._conduct.credit_of(eve.node.device_id)
        assert credit < MAX_WANT_WINDOW or Kind.BAD_CHUNK not in noted
        assert credit == MAX_WANT_WINDOW or noted
        assert bob.pool._conduct.of(ada.node.device_id) is None


# --- a byte a second ----------------------------------------------------------------------------------------------


async def dribble(link: Link, header: ChunkHeader, payload: bytes) -> None:
    """Send a chunk, a byte of it a second."""
    opening = encode_frame(header)
    if (lane := link.chunks._lane) is not None:
        await lane._tls.write_all(opening)
        for byte in payload:
            await lane._tls.write_all(bytes([byte]))
            await trio.sleep(1)
        return
    streams = link.chunks.streams_out
    while not streams.credit.has_room(1):  # noqa: ASYNC110  # of things that tell nobody
        await trio.sleep(1)
    streams.credit.take(1)
    stream_id = streams._writer.open_chunk_stream()
    streams._writer.write(stream_id, opening)
    for byte in payload:
        streams._writer.write(stream_id, bytes([byte]))
        await trio.sleep(1)


async def test_a_file_is_not_held_up_by_a_holder_that_sends_a_byte_a_second(
    world: World, jumping_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(world) as (ada, bob, eve), trio.open_nursery() as nursery:
        file_id = await offered(ada, tmp_path / "source.bin", 24)
        await eve.sees(poolnet.FileOffered)
        await eve.pool.files.download(file_id, tmp_path / "eve.bin")
        await bob.sees(poolnet.FileOffered)
        honest, hostile = link_between(bob, ada), link_between(bob, eve)
        dribbled = 0

        async def send(header: ChunkHeader, payload: bytes, _send: SendChunk) -> None:
            nonlocal dribbled
            dribbled += 1
            if link_between(eve, bob).carrier == "quic":  # as many at a time as the credit allows
                nursery.start_soon(dribble, link_between(eve, bob), header, payload)
            else:
                await dribble(link_between(eve, bob), header, payload)

        if (lane := link_between(eve, bob).chunks._lane) is not None:
            monkeypatch.setattr(lane, "_report", lambda: None)  # it would be in the middle of what is dribbled
        Giver(eve, send, monkeypatch)
        ada.pool.files.set_limits(up=CHUNK_SIZE)
        started = trio.current_time()
        with trio.fail_after(24 + 3 * PROMISE_TIMEOUT_S):
            path = await bob.pool.files.download(file_id, tmp_path / "bob.bin")
        assert path.read_bytes() == content(24)
        assert trio.current_time() - started > PROMISE_TIMEOUT_S
        assert dribbled > 0
        conduct = bob.pool._conduct.of(eve.node.device_id)
        assert conduct is not None
        assert set(conduct.counts) == {Kind.BROKEN_PROMISE}
        assert not honest.is_closed
        assert not hostile.is_closed
        assert held_of_unfinished(hostile) <= 2 * CHUNK_SIZE
        nursery.cancel_scope.cancel()


def held_of_unfinished(link: Link) -> int:
    """Return how many bytes a link holds of chunks that are not complete."""
    streams = link.chunks.streams_in._streams.values()
    lane = link.chunks._lane
    assert len(streams) <= MAX_CHUNKS_IN_TRANSIT
    return sum(stream.size for stream in streams) + (0 if lane is None else len(lane._buffer))


async def for_a_second() -> None:
    await trio.sleep(1)


def takes_a_byte_a_second(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one end of a link take nothing from its lane but a byte a second, and hand out none of what came."""
    monkeypatch.setattr(link.chunks, "receive", trio.sleep_forever)
    if (lane := link.chunks._lane) is None:
        return
    read_into, next_at = lane._tls.read_into, trio.current_time()

    def read_a_byte(room: memoryview) -> int | None:
        nonlocal next_at
        if trio.current_time() < next_at:
            return None
        next_at = trio.current_time() + 1
        return read_into(room[:1])

    monkeypatch.setattr(lane._tls, "read_into", read_a_byte)
    monkeypatch.setattr(lane._tls, "wait_readable", for_a_second)


async def test_who_takes_chunks_at_a_byte_a_second_holds_up_nobody_and_makes_the_giver_hold_few(
    world: World, jumping_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, reads, read = 48, list[int](), FileSource.read_pieces

    def read_and_count(source: FileSource, pieces: Sequence[int]) -> list[bytes]:
        reads.extend(pieces)
        return read(source, pieces)

    monkeypatch.setattr(FileSource, "read_pieces", read_and_count)
    async with three(world) as (ada, bob, eve), trio.open_nursery() as nursery:
        file_id = await offered(ada, tmp_path / "source.bin", count)
        await eve.sees(poolnet.FileOffered)
        await bob.sees(poolnet.FileOffered)
        slow, other = link_between(ada, eve), link_between(ada, bob)
        takes_a_byte_a_second(link_between(eve, ada), monkeypatch)
        nursery.start_soon(eve.pool.files.download, file_id, tmp_path / "eve.bin")
        await until(lambda: slow.statistics().chunks_out > 0)
        await trio.sleep(4 * PROMISE_TIMEOUT_S)
        given = eve.pool.files.statistics().exchange.pieces_verified
        assert len(reads) - given <= MAX_CHUNKS_IN_TRANSIT + _READ_AHEAD, "what was read for it is held"
        with trio.fail_after(10):
            path = await bob.pool.files.download(file_id, tmp_path / "bob.bin")
        assert path.read_bytes() == content(count)
        assert not other.is_closed
        assert slow.statistics().chunks_out < count
        nursery.cancel_scope.cancel()
