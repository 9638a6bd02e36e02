"""The keeper of links against members and servers that send signals as they like."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from link_world import open_world
from pool_builder import Pool, key_of

from poolnet.errors import Unreachable
from poolnet.ids import DeviceId
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.pool.link_keeper import LinkKeeper
from poolnet.protocol.mesh import Mesh
from poolnet.protocol.rings import Roster
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.signal import Signal, encode_signal
from poolnet.wire.sync_frames import Address

NOWHERE = (Address(host="10.9.9.9", port=9),)


@attrs.define
class ProbingEndpoint:
    """Probes in vain for four seconds."""

    probed: list[bytes] = attrs.Factory(list)

    def candidates(self) -> tuple[Address, ...]:
        return NOWHERE

    async def probe(self, *, session: bytes, key: bytes, candidates: Sequence[Address], timeout_s: float) -> None:
        self.probed.append(session)
        await trio.sleep(timeout_s)
        raise Unreachable("nobody is there")


@attrs.define
class World:
    keeper: LinkKeeper
    endpoint: ProbingEndpoint
    sent: list[DeviceId]

    def hear(self, sender: str, number: int) -> None:
        """Have the keeper hear that a member wishes for a link."""
        signal = Signal(session=number.to_bytes(8, "big"), probe_key=bytes(32), candidates=NOWHERE, answer=False)
        self.keeper.signal_received(key_of(sender).device_id, encode_signal(signal))


@asynccontextmanager
async def open_keeper() -> AsyncIterator[World]:
    """A member's keeper whose endpoint finds nobody."""
    pool = Pool()
    members = ["ann", "bob", "cid", "dee", "eve"]
    for name in members:
        pool.bring(name)
    self_id = key_of("founder").device_id
    sent: list[DeviceId] = []

    async def serve(_link: Link) -> None:
        raise AssertionError("no link comes up")

    endpoint = ProbingEndpoint()
    async with trio.open_nursery() as nursery:
        keeper = LinkKeeper(
            nursery=nursery,
            endpoint=cast("Any", endpoint),
            membership=pool.membership,
            self_id=self_id,
            machine=Mesh(self_id, Roster(), random.Random(1)),
            signal=lambda peer, _body: sent.append(peer),
            serve=serve,
            unreachable=lambda _peer: None,
            changed=lambda: None,
            corrected_ms=lambda: pool.now_ms,
        )
        yield World(keeper, endpoint, sent)
        nursery.cancel_scope.cancel()


async def test_a_repeated_signal_is_answered_once(autojump_clock: trio.abc.Clock) -> None:
    async with open_keeper() as world:
        for _ in range(20):
            world.hear("ann", 1)
            world.hear("bob", 1)  # whoever repeats it
        await trio.testing.wait_all_tasks_blocked()
        assert world.endpoint.probed == [(1).to_bytes(8, "big")]
        assert world.sent == [key_of("ann").device_id]
        await trio.sleep(5)
        world.hear("ann", 1)  # long after: a new wish
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.endpoint.probed) == 2


async def test_one_flood_of_signals_leaves_room_for_others(autojump_clock: trio.abc.Clock) -> None:
    async with open_keeper() as world:
        for number in range(100):
            world.hear("ann", number)
        world.hear("bob", 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert world.sent.count(key_of("ann").device_id) == 4
        assert world.sent.count(key_of("bob").device_id) == 1
        assert len(world.endpoint.probed) == 5


async def test_all_floods_together_are_bounded(autojump_clock: trio.abc.Clock) -> None:
    async with open_keeper() as world:
        for number in range(100):
            world.hear(("ann", "bob", "cid", "dee", "eve")[number % 5], number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.endpoint.probed) == len(world.sent) == 16


async def test_who_is_no_member_is_not_answered(autojump_clock: trio.abc.Clock) -> None:
    async with open_keeper() as world:
        world.hear("zoe", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert world.endpoint.probed == world.sent == []


async def test_an_endpoint_does_not_search_one_session_twice(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(1)) as net, trio.open_nursery() as nursery:
        endpoint: Endpoint = await net.open(1)

        async def search() -> None:
            with pytest.raises(Unreachable, match="none of"):
                await endpoint.probe(session=b"8 bytes!", key=bytes(32), candidates=NOWHERE, timeout_s=2)

        nursery.start_soon(search)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unreachable, match="already"):
            await endpoint.probe(session=b"8 bytes!", key=b"k" * 32, candidates=NOWHERE, timeout_s=2)
