"""Peers that take nothing, or say a byte at a time: they are let go in time, and hold little until then."""

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from hostile_quic import HostileQuic
from link_world import device, filler, open_world, wait_until
from stranger import Stranger, hello_of, still_serves
from sync_world import Node, PoolMaker, device_key
from test_bulk_lane import offer_for, open_listener
from test_sync_server import HandLink, attach_by_hand, founder_and_newcomer, server_by_hand
from trio.testing import MockClock

from poolnet.errors import LinkClosed
from poolnet.ids import PoolId
from poolnet.limits import (
    CLIENT_STALL_S,
    CLOSE_TIMEOUT_S,
    MAX_HALF_OPEN_LANES_PER_ADDRESS,
    MAX_UNACCEPTED_LINKS,
    MAX_UNACKNOWLEDGED_CONTROL,
    PRE_AUTH_TIMEOUT_S,
)
from poolnet.net.lane_dialler import dial_lane
from poolnet.net.tls_socket import TlsSocket, dialling_context
from poolnet.server.events import StoredPool
from poolnet.server.store import PoolStore
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import LaneHello
from poolnet.wire.pool_frames import Prune
from poolnet.wire.sync_frames import Attach, SendSignal
from poolnet_cli import control
from poolnet_cli.lines import Input
from poolnet_cli.reporter import Reporter


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection can be made to say anything."""
    monkeypatch.setattr("poolnet.net.endpoint.BoundedQuicConnection", HostileQuic)


@pytest.mark.parametrize("begun", [0, 3, 100], ids=["from the beginning", "in the length", "in a frame"])
async def test_a_dialler_of_a_byte_a_second_is_let_go_in_time(autojump_clock: trio.abc.Clock, begun: int) -> None:
    async with open_world(MemoryNetwork(11)) as world:
        first, second = await world.open(1), await world.open(2)
        stranger = await Stranger.dial(world.network, second.address, peer=device(2).public_key)
        data = encode_frame(hello_of(device(3)))
        await stranger.say(data[:begun])
        for index in range(begun, begun + round(PRE_AUTH_TIMEOUT_S) - 1):
            assert second.statistics().half_open == 1
            await stranger.say(data[index : index + 1])
            await stranger.turn(0.8)
        await still_serves(world, first, second)
        await stranger.turn(4)
        assert [frame.code for frame in stranger.heard] == ["auth_timeout"]
        assert second.statistics().connections == 0


async def test_who_lets_frames_wait_holds_no_more_than_the_credit_and_no_place(
    autojump_clock: trio.abc.Clock, hostile: None
) -> None:
    async with open_world(MemoryNetwork(12)) as world:
        first, second, third = await world.open(1), await world.open(2), await world.open(3)
        good = await world.dial(first, second, key=2)
        await world.dial(third, second, key=2)  # its application takes nothing, whatever its QUIC acknowledges
        accepted = {link.peer: link for link in (await second.accept(), await second.accept())}
        slow, waiting = accepted[device(3).device_id], [0]

        async def post_without_end() -> None:
            for number in range(2 * MAX_UNACKNOWLEDGED_CONTROL // 1000):
                slow.post_frame(filler(1000, number))
                waiting.append(slow.statistics().unacknowledged_control)
                await trio.sleep(0.001)

        with pytest.raises(LinkClosed, match="too_slow"):
            await post_without_end()
        assert MAX_UNACKNOWLEDGED_CONTROL // 2 < max(waiting) <= MAX_UNACKNOWLEDGED_CONTROL
        await wait_until(lambda: second.statistics().links == 1)
        good.post_frame(Prune())
        assert await accepted[device(1).device_id].receive_frame() == Prune()


async def test_a_byte_a_moment_on_the_port_of_the_lanes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.lane_listener.PRE_AUTH_TIMEOUT_S", 0.4)
    listener, arrived = open_listener(), list[TlsSocket]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        offer = offer_for(listener)
        listener.expect(offer, arrived.append)
        connected = socket.create_connection(("127.0.0.1", listener.port))
        tls = TlsSocket(connected, dialling_context(device(2).public_key), server_side=False)
        await tls.handshake()
        in_handshake = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(3)]
        token = encode_frame(LaneHello(lane_id=offer.lane_id, token=offer.token))

        async def dribble() -> None:
            for index in range(len(token)):
                for stranger in in_handshake:
                    stranger.send(b"\x16\x03\x01\x02"[index % 4 : index % 4 + 1])
                await tls.write_all(token[index : index + 1])
                await trio.sleep(0.02)

        with pytest.raises(OSError), trio.fail_after(10):  # closed before the token is whole
            await dribble()
        assert len(in_handshake) + 1 <= MAX_HALF_OPEN_LANES_PER_ADDRESS
        with trio.fail_after(10):
            while listener._half_open:  # noqa: ASYNC110  # of things that tell nobody
                await trio.sleep(0.01)
        honest = await dial_lane(offer, "127.0.0.1", device(2).public_key)
        with trio.fail_after(10):
            while not arrived:  # noqa: ASYNC110  # of things that tell nobody
                await trio.sleep(0.01)
        for end in (tls, honest, *arrived, *in_handshake):
            end.close()
        nursery.cancel_scope.cancel()


async def test_a_byte_a_moment_on_the_control_socket_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.3)

    async def execute(_name: str, _params: dict[str, Any], reporter: Reporter, _given: Input) -> None:
        await reporter.record({"done": True})

    async with control.open_control_server(tmp_path, execute) as server:
        slow = [await control.connect_control(tmp_path) for _ in range(control.MAX_CLIENTS)]
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(20):
            await _dribble(slow, b'{"command": "anything", ' + b" " * 1000)
        with trio.fail_after(20):
            while server.clients:  # noqa: ASYNC110  # of things that tell nobody
                await trio.sleep(0.01)
        honest = await control.connect_control(tmp_path)
        assert honest is not None
        await honest.send_all(b'{"command": "anything"}\n')
        with trio.fail_after(20):
            assert b"done" in await honest.receive_some()
        for stream in (*slow, honest):
            assert stream is not None
            await stream.aclose()


async def _dribble(streams: list[trio.SocketStream | None], data: bytes) -> None:
    for index in range(len(data)):
        for stream in streams:
            assert stream is not None
            await stream.send_all(data[index : index + 1])
        await trio.sleep(0.02)


async def test_a_client_of_a_sync_server_that_takes_nothing_is_closed_in_time_and_disturbs_nobody(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    _, founder, newcomer = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (server, links):
        first = await attach_by_hand(founder, links)
        second = await attach_by_hand(newcomer, links)
        second.stalled = True
        first.say(SendSignal(to=newcomer.device, body=b"x"))
        await trio.sleep(CLIENT_STALL_S - 1)
        assert second.closed_as is None
        await trio.sleep(2)
        assert second.closed_as == "too_slow"
        assert first.closed_as is None
        assert server.statistics().too_slow == 1
        assert server.statistics().core.attached == 1


async def test_while_a_server_waits_for_its_disk_it_takes_in_only_so_many_links_and_then_all(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, load = trio.Event(), PoolStore.load

    async def wait_and_load(store: PoolStore, pool_id: PoolId) -> StoredPool | None:
        await goes_on.wait()
        return await load(store, pool_id)

    monkeypatch.setattr(PoolStore, "load", wait_and_load)
    monkeypatch.setattr("poolnet.server.core.ATTACH_BURST", 1000)
    pool_id = PoolMaker().pool_id
    async with server_by_hand(tmp_path) as (server, links):
        strangers = [HandLink(Node(device_key(number), pool_id, [])) for number in range(MAX_UNACCEPTED_LINKS + 20)]
        for stranger in strangers:
            stranger.remote_address = (f"192.0.2.{strangers.index(stranger)}", 4000)
            stranger.say(Attach(last_epoch=0))
            links.send_nowait(stranger)
        await trio.sleep(1)
        assert len(server._sessions) == MAX_UNACCEPTED_LINKS
        goes_on.set()
        await trio.sleep(CLOSE_TIMEOUT_S + 1)
        assert {stranger.closed_as for stranger in strangers} == {"unknown_pool"}
