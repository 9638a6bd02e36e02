"""The keeper of links: which of two to one peer it keeps, and members and servers that send signals as they like."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from link_world import LinkWorld, device, open_world
from pool_builder import Pool, key_of

from poolnet.errors import BadSignature, LinkClosed, PoolnetError, ProtocolError, Refused, Unreachable, WireError
from poolnet.ids import DeviceId
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.pool.link_keeper import LinkKeeper
from poolnet.protocol.mesh import Mesh, RosterChanged, Shun
from poolnet.protocol.rings import Roster
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.link_frames import Hello, Purpose
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


async def serve(link: Link) -> None:
    """Do nothing on a link until it closes."""
    await link.wait_closed()
    raise LinkClosed("closed")


def keeper_of(
    self_id: DeviceId, nursery: trio.Nursery, endpoint: Any, *, pool: Pool, sent: list[DeviceId] | None = None
) -> LinkKeeper:
    """A member's keeper; to whom it signals is noted in `sent`."""
    return LinkKeeper(
        nursery=nursery,
        endpoint=endpoint,
        membership=pool.membership,
        self_id=self_id,
        machine=Mesh(self_id, Roster(), random.Random(1)),
        signal=lambda peer, _body: None if sent is None else sent.append(peer),
        serve=serve,
        unreachable=lambda _peer: None,
        changed=lambda: None,
        corrected_ms=lambda: pool.now_ms,
    )


@asynccontextmanager
async def open_keeper() -> AsyncIterator[World]:
    """A member's keeper whose endpoint finds nobody."""
    pool = Pool()
    members = ["ann", "bob", "cid", "dee", "eve"]
    for name in members:
        pool.bring(name)
    sent: list[DeviceId] = []
    endpoint = ProbingEndpoint()
    async with trio.open_nursery() as nursery:
        keeper = keeper_of(key_of("founder").device_id, nursery, endpoint, pool=pool, sent=sent)
        yield World(keeper, endpoint, sent)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[LinkWorld, "Side", "Side"]]:
    """Two devices that can be reached; the first has the smaller id."""
    first, second = sorted((1, 2), key=lambda number: device(number).device_id)
    async with open_world(MemoryNetwork(1)) as world, trio.open_nursery() as nursery:
        yield world, await open_side(world, first, nursery), await open_side(world, second, nursery)
        nursery.cancel_scope.cancel()


@attrs.define
class Side:
    """A device, and the keeper of its links."""

    number: int
    endpoint: Endpoint
    keeper: LinkKeeper
    nursery: trio.Nursery

    def link(self, other: int) -> Link:
        """The link to a device that is kept now."""
        return self.keeper.links[device(other).device_id]

    def adopt(self, link: Link) -> None:
        """Have a link kept or closed."""
        self.nursery.start_soon(self.keeper.adopt, link)


async def open_side(world: LinkWorld, number: int, nursery: trio.Nursery, *, port: int = 1000) -> Side:
    """Open a device."""
    endpoint = await world.open(number, port=port)
    return Side(number, endpoint, keeper_of(device(number).device_id, nursery, endpoint, pool=Pool()), nursery)


async def connect(world: LinkWorld, dialler: Side, acceptor: Side) -> tuple[Link, Link]:
    """Return both ends of a link, of which no keeper knows yet."""
    dialled = await world.dial(dialler.endpoint, acceptor.endpoint, key=acceptor.number)
    return dialled, await acceptor.endpoint.accept()


@pytest.mark.parametrize("is_first_first", [(True, True), (True, False), (False, True), (False, False)])
async def test_of_two_links_dialled_at_once_both_sides_keep_the_same_in_whatever_order_they_hear_of_them(
    is_first_first: tuple[bool, bool], autojump_clock: trio.abc.Clock
) -> None:
    async with open_pair() as (world, one, other):
        by_one, at_other = await connect(world, one, other)
        by_other, at_one = await connect(world, other, one)
        for side, links, in_order in ((one, [by_one, at_one], 0), (other, [at_other, by_other], 1)):
            for link in links if is_first_first[in_order] else reversed(links):
                side.adopt(link)
                await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        assert (one.link(other.number), other.link(one.number)) == (by_one, at_other)
        assert (by_one.close_reason, at_other.close_reason) == (None, None)
        assert by_other.close_reason == at_one.close_reason == "duplicate: another link between us is up"


async def test_a_peer_that_was_started_anew_gets_a_link_whoever_dialled_the_one_that_died(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_pair() as (world, one, other):
        dead, _ = await connect(world, one, other)
        one.adopt(dead)
        await trio.sleep(1)
        world.network.silence(other.endpoint.address)
        back = await open_side(world, other.number, one.nursery, port=1001)
        _, alive = await connect(world, back, one)
        one.adopt(alive)
        await trio.sleep(1)
        assert one.link(other.number) is alive
        assert (dead.is_closed, alive.is_closed) == (True, False)


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


async def test_who_is_shunned_is_neither_answered_nor_let_in_until_the_time_is_over(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with open_keeper() as world:
        ann = Hello(
            purpose=Purpose.POOL,
            pool_id=world.keeper._membership.pool_id,
            public_key=key_of("ann").public_key,
            nonce=bytes(32),
            credentials=(),
        )
        assert world.keeper.authorise(ann)
        world.keeper.feed(Shun(key_of("ann").device_id, trio.current_time() + 60))
        world.hear("ann", 1)
        world.hear("bob", 2)
        await trio.testing.wait_all_tasks_blocked()
        assert world.sent == [key_of("bob").device_id]
        with pytest.raises(Refused) as caught:
            world.keeper.authorise(ann)
        assert caught.value.code == "misbehaved"
        await trio.sleep(60)
        world.keeper.feed(RosterChanged())
        assert world.keeper.authorise(ann)


@pytest.mark.parametrize("error", [BadSignature("not signed"), ProtocolError("no"), WireError("what?")])
async def test_who_breaks_the_protocol_loses_the_link_and_is_told_of_and_who_only_leaves_is_not(
    autojump_clock: trio.abc.Clock, error: PoolnetError
) -> None:
    told: list[tuple[DeviceId, PoolnetError]] = []
    async with open_pair() as (world, one, other):
        one.keeper._faulted = lambda peer, fault: told.append((peer, fault))
        first, second = await connect(world, one, other)
        one.adopt(first)
        await trio.sleep(1)
        second.close_now()
        await trio.sleep(1)
        assert told == []

        async def find_fault(_link: Link) -> None:
            raise error

        one.keeper._serve = find_fault
        first, _ = await connect(world, one, other)
        one.adopt(first)
        await trio.sleep(1)
        assert told == [(device(other.number).device_id, error)]
        assert first.close_reason == f"protocol: {error}"


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
