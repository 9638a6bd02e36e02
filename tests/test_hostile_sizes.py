"""Frames, streams, ids, tokens and datagrams that are far too large, before and after the proof of a link."""

import tracemalloc

import pytest
import trio
from hostile_quic import HostileQuic, crypto_frame, reset_frame, stream_frame
from link_world import device, open_world
from stranger import Stranger, connection_of, hello_of, quic_of, still_serves

from poolnet.limits import (
    MAX_CLIENT_FRAME_SIZE,
    MAX_PRE_AUTH_SIZE,
    MAX_SIGNAL_SIZE,
    MAX_STATEMENT_SIZE,
    MAX_UNACKNOWLEDGED_CONTROL,
    PRE_AUTH_TIMEOUT_S,
    QUIC_CLIENT_WINDOW,
)
from poolnet.net.link import Link
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.framing import Frame, encode_frame
from poolnet.wire.link_frames import Purpose
from poolnet.wire.pool_frames import Prune, Statements
from poolnet.wire.sync_frames import Detach, SendSignal

_HUGE = 2**62 - 1
#: Where memory for frames is taken that nobody has dealt with.
_WHAT_WAITS = [
    tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{name}.py") for name in ("frame_inbox", "framing", "link")
]
_OVERSIZED: dict[str, list[tuple[int, bytes]]] = {
    "a stream far away": [stream_frame(_HUGE - 3, 0, b"x")],
    "a chunk stream far away": [stream_frame(_HUGE - 1, 0, b"x")],
    "the end of the control stream": [stream_frame(0, _HUGE - 1, b"x")],
    "beyond the end of all streams": [stream_frame(0, _HUGE, b"x")],
    "a reset far away": [reset_frame(0, _HUGE)],
    "a handshake far away": [crypto_frame(_HUGE - 1, b"x")],
    "a handshake that goes on": [
        crypto_frame(0, b"\x0b\xff\xff\xff"),
        crypto_frame(4, bytes(1000)),
        crypto_frame(17_000, b"x"),
    ],
    "a connection id of 255 bytes": [(0x18, b"\x01\x00\xff" + bytes(255 + 16))],
    "connection ids without end": [(0x18, bytes([n, 0, 8]) + bytes([n] * 8) + bytes(16)) for n in range(1, 60)],
    "a frame of no kind": [(0x3F, b"")],
    "a token": [(0x07, b"\x40\xc8" + bytes(200))],
    "a frame that is cut off": [(0x0A, b"\x00\xbf\xff\xff\xff")],
}


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection can be made to say anything."""
    monkeypatch.setattr("poolnet.net.endpoint.BoundedQuicConnection", HostileQuic)


@pytest.mark.parametrize("frames", _OVERSIZED.values(), ids=_OVERSIZED.keys())
async def test_oversized_things_before_the_proof_end_the_connection(
    autojump_clock: trio.abc.Clock, frames: list[tuple[int, bytes]]
) -> None:
    async with open_world(MemoryNetwork(6)) as world:
        first, second = await world.open(1), await world.open(2)
        stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
        stranger.quic.say(*frames)
        await stranger.turn(0.5)
        await stranger.say(encode_frame(hello_of(device(3))))
        assert stranger.heard == []
        await still_serves(world, first, second)
        await stranger.turn(PRE_AUTH_TIMEOUT_S + 3)
        assert second.statistics().half_open == 0
        assert second.statistics().udp.bytes_out < 3 * second.statistics().udp.bytes_in


@pytest.mark.parametrize("frames", _OVERSIZED.values(), ids=_OVERSIZED.keys())
async def test_oversized_things_after_the_proof_end_that_link_and_no_other(
    autojump_clock: trio.abc.Clock, hostile: None, frames: list[tuple[int, bytes]]
) -> None:
    async with open_world(MemoryNetwork(7)) as world:
        first, second, third = await world.open(1), await world.open(2), await world.open(3)
        good, bad = await world.dial(first, second, key=2), await world.dial(third, second, key=2)
        accepted = {link.peer: link for link in (await second.accept(), await second.accept())}
        quic_of(bad).say(*frames)
        connection_of(bad)._host.touch(connection_of(bad))
        with trio.fail_after(20):
            await accepted[device(3).device_id].wait_closed()
        good.post_frame(Prune())
        assert await accepted[device(1).device_id].receive_frame() == Prune()


@pytest.mark.parametrize("size", [MAX_PRE_AUTH_SIZE + 1, 2**31, 2**32 - 1])
async def test_a_frame_that_says_it_is_too_large_ends_it_before_and_after_the_proof(
    autojump_clock: trio.abc.Clock, size: int
) -> None:
    async with open_world(MemoryNetwork(8)) as world:
        first, second = await world.open(1), await world.open(2)
        stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
        await stranger.say(size.to_bytes(4, "big"))
        assert [frame.code for frame in stranger.heard] == ["protocol"]
        link = await world.dial(first, second, key=2)
        accepted = await second.accept()
        link._transport.write_control(size.to_bytes(4, "big") + b"x")
        with trio.fail_after(5):
            await accepted.wait_closed()
        assert (accepted.close_reason or "").startswith("protocol")


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\xc0\x00\x00\x00\x01\xff" + bytes(255) + b"\xff" + bytes(255), id="ids of 255 bytes"),
        pytest.param(
            b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x44\x00" + b"t" * 1024, id="a token"
        ),
        pytest.param(b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\xff" * 8, id="a token of 2^62"),
        pytest.param(b"\xc0\x1a\x2a\x3a\x4a\xff" + bytes(255) + b"\xff" + bytes(255), id="another version"),
        pytest.param(b"\x40" + bytes(8), id="of no connection"),
    ],
)
async def test_datagrams_of_any_size_that_begin_badly_leave_nothing_and_get_less_than_they_brought(
    autojump_clock: trio.abc.Clock, packet: bytes
) -> None:
    async with open_world(MemoryNetwork(9)) as world:
        first, second = await world.open(1), await world.open(2)
        sender = world.network.open_socket(("::", 0))
        for size in (600, 1200, 9000, 65_507):
            sender.send_batch([(packet.ljust(size, b"\0")[:size], second.address)])
        await trio.sleep(1)
        answered = sum(len(data) for data, _ in sender.receive_batch())
        assert answered <= second.statistics().udp.bytes_in
        assert second.statistics().connections == 0
        await still_serves(world, first, second)


@pytest.mark.parametrize(
    "frame",
    [stream_frame(2, 0, b"x"), stream_frame(0, QUIC_CLIENT_WINDOW + MAX_PRE_AUTH_SIZE, b"x")],
    ids=["a chunk", "a gap"],
)
async def test_a_client_of_a_sync_server_can_make_it_hold_little(
    autojump_clock: trio.abc.Clock, hostile: None, frame: tuple[int, bytes]
) -> None:
    async with open_world(MemoryNetwork(13)) as world:
        first, second = await world.open(1), await world.open(2)
        link = await world.dial(first, second, key=2, purpose=Purpose.SYNC)
        accepted = await second.accept()
        for start in range(10_000, QUIC_CLIENT_WINDOW - 10_000, 10_000):
            quic_of(link).say(stream_frame(0, start, b"x"))
        await trio.sleep(1)
        assert not accepted.is_closed
        assert len(quic_of(accepted)._streams[0].receiver._buffer) <= QUIC_CLIENT_WINDOW
        quic_of(link).say(frame)
        connection_of(link)._host.touch(connection_of(link))
        with trio.fail_after(20):
            await accepted.wait_closed()
        assert (accepted.close_reason or "").startswith("quic")


async def test_a_client_of_a_sync_server_may_send_more_than_its_window(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(14)) as world:
        first, second = await world.open(1), await world.open(2)
        link = await world.dial(first, second, key=2, purpose=Purpose.SYNC)
        accepted = await second.accept()
        frame = SendSignal(to=device(3).device_id, body=bytes(MAX_SIGNAL_SIZE))
        count = 4 * MAX_UNACKNOWLEDGED_CONTROL // MAX_SIGNAL_SIZE

        async def send(sender: Link) -> None:
            for _ in range(count):
                await sender.send_frame(frame)

        async def receive(receiver: Link) -> None:
            for _ in range(count):
                assert await receiver.receive_frame() == frame

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for end in (link, accepted):
                    nursery.start_soon(send, end)
                    nursery.start_soon(receive, end)


@pytest.mark.parametrize("frame", [Detach(), SendSignal(to=device(3).device_id, body=bytes(MAX_SIGNAL_SIZE))])
async def test_what_clients_of_a_sync_server_say_takes_little_memory_until_it_is_dealt_with(
    autojump_clock: trio.abc.Clock, frame: Frame
) -> None:
    clients, count = 3, 3 * QUIC_CLIENT_WINDOW // len(encode_frame(frame))
    async with open_world(MemoryNetwork(15)) as world:
        server = await world.open(100)
        links = [
            await world.dial(await world.open(number), server, key=100, purpose=Purpose.SYNC)
            for number in range(clients)
        ]
        accepted = [await server.accept() for _ in links]
        for link in links:
            for _ in range(count):
                link.post_frame(frame)
        tracemalloc.start()
        try:
            await trio.sleep(5)
            snapshot = tracemalloc.take_snapshot().filter_traces(_WHAT_WAITS)
        finally:
            tracemalloc.stop()
        assert QUIC_CLIENT_WINDOW // 2 < max(link.unconsumed for link in accepted) <= QUIC_CLIENT_WINDOW
        assert sum(entry.size for entry in snapshot.statistics("filename")) < 1.2 * clients * QUIC_CLIENT_WINDOW
        with trio.fail_after(30):
            for _ in range(count):  # who is heard goes on
                assert await accepted[0].receive_frame() == frame


async def test_a_frame_that_is_too_large_for_a_sync_server_ends_the_link_of_its_client(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_world(MemoryNetwork(16)) as world:
        first, second = await world.open(1), await world.open(2)
        link = await world.dial(first, second, key=2, purpose=Purpose.SYNC)
        accepted = await second.accept()
        largest = Statements(statements=(bytes(MAX_STATEMENT_SIZE),))
        link.post_frame(largest)
        assert await accepted.receive_frame() == largest
        connection_of(link).write_control((MAX_CLIENT_FRAME_SIZE + 1).to_bytes(4, "big"))
        with trio.fail_after(5):
            await accepted.wait_closed()
        assert (accepted.close_reason or "").startswith("protocol")
