"""Links against members and strangers that break the rules on purpose. Real QUIC over a network in memory."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
import trio.testing
from hostile_quic import HostileQuic, stream_frame
from link_world import FILE, chunk, device, open_world, send_chunks

from poolnet.errors import LinkClosed
from poolnet.limits import (
    CHUNK_SIZE,
    MAX_CHUNK_STREAMS,
    MAX_CHUNKS_IN_TRANSIT,
    PING_INTERVAL_S,
    PRE_AUTH_TIMEOUT_S,
    QUIC_STREAM_WINDOW,
)
from poolnet.net.chunk_inbox import ChunkInbox
from poolnet.net.chunk_streams import ChunkReceiver
from poolnet.net.connection import Connection
from poolnet.net.link import Link
from poolnet.net.quic_settings import dialling_settings
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import Credit, Goodbye, Ping
from poolnet.wire.pool_frames import Prune
from poolnet.wire.swarm_frames import ChunkHeader


@pytest.fixture(autouse=True)
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every connection can be made to say anything."""
    monkeypatch.setattr("poolnet.net.endpoint.BoundedQuicConnection", HostileQuic)
    return


def quic_of(link: Link) -> HostileQuic:
    connection = link._transport
    assert isinstance(connection, Connection)
    assert isinstance(connection._quic, HostileQuic)
    return connection._quic


def say(link: Link, *frames: tuple[int, bytes]) -> None:
    """Have the QUIC connection under a link send these frames."""
    connection = link._transport
    assert isinstance(connection, Connection)
    quic_of(link).say(*frames)
    connection._host.touch(connection)


async def closed_with(link: Link) -> str:
    with trio.fail_after(20):
        await link.wait_closed()
    assert link.close_reason is not None
    return link.close_reason


async def test_a_member_that_lies_about_its_credit_fills_no_memory(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostileQuic, "grants", False)
    async with open_world(MemoryNetwork(1)) as world, trio.open_nursery() as nursery:
        honest, liar = await world.pair()
        nursery.start_soon(send_chunks, honest, range(10 * MAX_CHUNK_STREAMS))
        for _ in range(200):
            liar._write(Credit(control_bytes=0, chunks=honest.statistics().chunks_out))
            await trio.sleep(0.05)
        assert honest.statistics().chunks_out <= MAX_CHUNK_STREAMS
        assert not honest.is_closed
        nursery.cancel_scope.cancel()


async def test_a_member_that_makes_us_answer_and_takes_no_answers_loses_the_link(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostileQuic, "grants", False)
    monkeypatch.setattr("poolnet.net.quic_settings.PRE_AUTH_WINDOW", 2048)
    monkeypatch.setattr("poolnet.net.connection._MAX_HELD_CONTROL", 4096)
    async with open_world(MemoryNetwork(2)) as world, trio.open_nursery() as nursery:
        hostile, honest = await world.pair()

        async def consume() -> None:
            with suppress(LinkClosed):
                while True:
                    await honest.receive_frame()

        nursery.start_soon(consume)
        for _ in range(2000):
            if not hostile.is_closed and not honest.is_closed:
                hostile.post_frame(Prune())
                await trio.sleep(0.001)
        assert (await closed_with(honest)).startswith("too_slow")


@pytest.mark.parametrize("chunks", [[5, 4], [6], [2**63]], ids=["taken back", "never sent", "absurd"])
async def test_credit_that_cannot_be_closes_the_link(autojump_clock: trio.abc.Clock, chunks: list[int]) -> None:
    async with open_world(MemoryNetwork(3)) as world:
        hostile, honest = await world.pair()
        await send_chunks(honest, range(5), 10)
        for number in chunks:
            hostile._write(Credit(control_bytes=0, chunks=number))
        assert (await closed_with(honest)).startswith("protocol: credit")


async def test_chunks_that_never_end_are_as_few_as_the_credit_allows(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(4)) as world:
        hostile, honest = await world.pair()
        honest.set_chunk_filter(lambda _file_id, _piece: True)
        header = encode_frame(ChunkHeader(file_id=FILE, piece=1, size=CHUNK_SIZE))
        for index in range(MAX_CHUNKS_IN_TRANSIT):
            say(hostile, stream_frame(2 + 4 * index, 0, header))
        await trio.sleep(1)
        hostile.post_frame(Prune())
        assert await honest.receive_frame() == Prune()
        say(hostile, stream_frame(2 + 4 * MAX_CHUNKS_IN_TRANSIT, 0, header))
        assert (await closed_with(honest)).startswith("protocol: more was sent than the credit")


async def test_unwanted_chunks_that_never_end_are_bounded_too(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(5)) as world:
        hostile, honest = await world.pair()
        header = encode_frame(ChunkHeader(file_id=FILE, piece=1, size=CHUNK_SIZE))
        for index in range(MAX_CHUNK_STREAMS + 1):
            hostile.chunks.streams_out.credit.take(1)
            say(hostile, stream_frame(2 + 4 * index, 0, header))
            await trio.sleep(0.1)
        assert "streams" in await closed_with(honest)
        assert honest.statistics().chunks_dropped == MAX_CHUNK_STREAMS


async def test_a_chunk_in_crumbs_takes_no_more_memory_than_a_chunk() -> None:
    class Writer:
        datagram_size = 1200

        def may_open_chunk_stream(self) -> bool:
            return True

        def open_chunk_stream(self) -> int:
            return 2

        def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
            raise AssertionError("nothing is sent")

        def stop_stream(self, stream_id: int) -> None:
            raise AssertionError("it is wanted")

    inbox = ChunkInbox()
    receiver = ChunkReceiver(Writer(), inbox, tell=lambda: None)
    inbox.set_filter(lambda _file_id, _piece: True)
    header, payload = chunk(1)
    receiver.data_received(3, encode_frame(header), end=False)
    most = 0
    for start in range(0, CHUNK_SIZE, 2):
        receiver.data_received(3, payload[start : start + 2], end=start + 2 == CHUNK_SIZE)
        if 3 in receiver._streams:
            most = max(most, len(receiver._streams[3].pieces))
    assert most <= 512
    assert (await inbox.receive())[0].payload == payload


async def test_gaps_of_a_member_end_its_connection_and_no_other(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(6)) as world:
        first, second = await world.open(1), await world.open(2)
        bad, good = [await world.dial(first, second, key=2) for _ in range(2)]
        accepted, other = await second.accept(), await second.accept()
        await trio.sleep(1)
        say(bad, stream_frame(2, QUIC_STREAM_WINDOW, b"x"))
        assert (await closed_with(accepted)).startswith("quic")
        good.post_frame(Prune())
        assert await other.receive_frame() == Prune()


@pytest.mark.parametrize("by_dialler", [True, False])
async def test_a_second_bidirectional_stream_closes_the_link(autojump_clock: trio.abc.Clock, by_dialler: bool) -> None:
    async with open_world(MemoryNetwork(7)) as world:
        dialled, accepted = await world.pair()
        bad, good = (dialled, accepted) if by_dialler else (accepted, dialled)
        say(bad, stream_frame(4 if by_dialler else 1, 0, b"hello"))
        assert (await closed_with(good)).startswith("quic")


async def test_a_flood_of_pings_is_hardly_answered(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(8)) as world:
        hostile, honest = await world.pair()
        before = honest.statistics().frames_out
        for number in range(20_000):
            hostile._transport.write_control(encode_frame(Ping(number=number, unix_ms=0)))
        await trio.sleep(2 * PING_INTERVAL_S)
        assert honest.statistics().frames_in > 20_000
        assert honest.statistics().frames_out - before < 40
        assert not honest.is_closed


async def test_a_ping_that_is_due_while_closing_is_passed_over(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(12)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair()
        world.network.silence(accepted.remote_address)
        nursery.start_soon(dialled.aclose)
        await trio.testing.wait_all_tasks_blocked()
        due = dialled.next_deadline()
        dialled.tick(due)
        assert dialled.next_deadline() > due  # or the endpoint would be busy with it until the link is closed


async def test_after_a_goodbye_nothing_more_is_taken_or_said(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(9)) as world:
        hostile, honest = await world.pair()
        await trio.sleep(0.1)
        before = honest.statistics()
        flood = encode_frame(Goodbye(code="bye", reason="")) * 500 + encode_frame(Prune()) * 500
        hostile._transport.write_control(flood)
        assert (await closed_with(honest)) == "bye"
        assert honest.statistics().frames_in - before.frames_in == 1
        assert honest.statistics().frames_out - before.frames_out == 1
        with pytest.raises(LinkClosed):
            await honest.receive_frame()


async def test_who_sends_a_byte_a_second_is_not_waited_for(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(10)) as world:
        second = await world.open(2)
        socket = world.network.open_socket(("::", 0))
        quic = HostileQuic(configuration=dialling_settings(device(2).public_key, datagram_size=1200))
        quic.connect(second.address, trio.current_time())
        started = trio.current_time()
        for _ in range(200):
            quic.send_stream_data(0, b"\x00")
            socket.send_batch(quic.datagrams_to_send(trio.current_time()))
            await trio.sleep(0.05)
            for data, address in socket.receive_batch():
                quic.receive_datagram(data, address, trio.current_time())
        assert trio.current_time() - started > PRE_AUTH_TIMEOUT_S
        assert second.statistics().half_open == 0


async def test_a_link_moves_more_than_its_windows_in_both_directions(autojump_clock: trio.abc.Clock) -> None:
    """The other side of the coin: what is honest is not held back."""
    async with open_world(MemoryNetwork(11)) as world, trio.open_nursery() as nursery:
        dialled, accepted = await world.pair(datagram_size=16370)
        for sender, receiver in ((dialled, accepted), (accepted, dialled)):
            receiver.set_chunk_filter(lambda _file_id, _piece: True)
            nursery.start_soon(send_chunks, sender, range(3 * MAX_CHUNK_STREAMS))
        with trio.fail_after(30):
            for link in (dialled, accepted):
                received = 0
                while received < 3 * MAX_CHUNK_STREAMS:
                    received += len(await link.receive_chunks())
