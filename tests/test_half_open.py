"""Floods of handshakes that nobody finishes: bounded memory, few answers, and whoever is honest gets in meanwhile."""

import gc
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from link_world import device, open_world
from sync_world import Node, PoolMaker, SyncWorld, device_key
from test_pool import World, enter
from trio.testing import MockClock

from poolnet.errors import Unreachable
from poolnet.identity.statements import encode_statement
from poolnet.ids import StatementId
from poolnet.limits import (
    KNOWN_AFTER_S,
    KNOWN_FOR_S,
    MAX_FOUNDING_CLIENTS,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_NETWORK,
    MAX_UNATTACHED_CLIENTS,
    MAX_UNATTACHED_PER_NETWORK,
    MIB,
    PRE_AUTH_TIMEOUT_S,
    RETRY_ABOVE_HALF_OPEN,
    UNATTACHED_GRACE_S,
)
from poolnet.net.addresses import SocketAddress
from poolnet.net.admission import HalfOpen
from poolnet.net.deadlines import Deadlines
from poolnet.testing.first_flights import FirstFlights
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.pool_frames import Prune, StatementIds, Statements

pytestmark = pytest.mark.timeout(240)

#: Beginnings of handshakes, and how many of them a second.
FLOOD, RATE = 10_000, 4000


class CountingNetwork(MemoryNetwork):
    """Knows what `watched` got from every address, and sent there; has ports for everybody."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, latency_s=0.01)
        self.ports = itertools.count(1024)
        self.watched: SocketAddress | None = None
        self.brought: Counter[SocketAddress] = Counter()
        self.taken: Counter[SocketAddress] = Counter()

    def carry(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        if target == self.watched:
            self.brought[source] += len(data)
        elif source == self.watched:
            self.taken[target] += len(data)
        super().carry(data, source, target)

    def check_amplification(self) -> None:
        """Nobody who only began got more than three times what it brought."""
        for address, taken in self.taken.items():
            assert taken <= 3 * self.brought[address], f"{address} brought {self.brought[address]} and got {taken}"


def forged(rng: random.Random) -> str:
    """Any host."""
    return f"203.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def of_one_network(_rng: random.Random) -> str:
    """Always the same."""
    return "198.51.100.7"


@attrs.define
class Flood:
    """Begins handshakes with `target`, never twice from one port.

    Args:
        draw: makes the host of each.
        answers: whether they return the token of a Retry.
        rate: how many begin a second.
    """

    network: CountingNetwork
    target: SocketAddress
    flights: FirstFlights
    draw: Callable[[random.Random], str]
    answers: bool
    rate: int = RATE
    begun: int = 0
    _rng: random.Random = attrs.Factory(lambda: random.Random(1))
    _asked: list["Answering"] = attrs.Factory(list)

    async def run(self, count: int) -> None:
        """Begin so many handshakes."""
        step = self.rate // 50
        while self.begun < count:
            for _ in range(step):
                self._begin()
            await trio.sleep(step / self.rate)
            self._answer()

    def _begin(self) -> None:
        data = self.flights.make(self._rng.randbytes(8))
        source = (self.draw(self._rng), next(self.network.ports))
        self.begun += 1
        if self.answers:
            self._asked.append(Answering(self.network, source, self.target))
            self._asked[-1].send(data)
        else:
            self.network.carry(data, source, self.target)

    def _answer(self) -> None:
        """Let those who have had a while for an answer return it, and go."""
        while len(self._asked) > self.rate // 10:
            self._asked.pop(0).finish(self.flights)


class Answering:
    """Somebody who receives at its address."""

    def __init__(self, network: CountingNetwork, source: SocketAddress, target: SocketAddress) -> None:
        self._target = target
        self._socket = network.open_socket(source)

    def send(self, data: bytes) -> None:
        self._socket.send_batch([(data, self._target)])

    def finish(self, flights: FirstFlights) -> None:
        for data, _ in self._socket.receive_batch():
            if (answer := flights.again(data)) is not None:
                self.send(answer)
        self._socket.close()


def resident_size() -> int:
    """Bytes of memory that this process has; 0 where nobody can tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


FLOODS = {
    "forged senders": (forged, False),
    "one network that answers": (of_one_network, True),
    "many networks that answer": (forged, True),
}


@pytest.mark.parametrize(("draw", "answers"), FLOODS.values(), ids=FLOODS.keys())
async def test_ten_thousand_half_open_handshakes_take_little_memory_and_let_a_link_through(
    autojump_clock: trio.abc.Clock, draw: Callable[[random.Random], str], answers: bool
) -> None:
    network = CountingNetwork(1)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)
        network.watched = second.address
        before_link = await world.dial(first, second, key=2)
        earlier = await second.accept()
        await trio.sleep(KNOWN_AFTER_S)
        network.brought.clear()
        network.taken.clear()
        gc.collect()
        before = resident_size()
        flood = Flood(network, second.address, FirstFlights(device(2).public_key), draw, answers)
        nursery.start_soon(flood.run, FLOOD)
        while flood.begun < FLOOD:
            await trio.sleep(0.5)
            assert second.statistics().half_open <= (MAX_HALF_OPEN if answers else RETRY_ABOVE_HALF_OPEN)
            with trio.fail_after(1):  # at the first try, whoever else asks
                link = await world.dial(first, second, key=2)
            accepted = await second.accept()
            link.post_frame(Prune())
            assert await accepted.receive_frame() == Prune()
            await link.aclose()
        before_link.post_frame(Prune())
        assert await earlier.receive_frame() == Prune()
        assert resident_size() - before < 50 * MIB
        await trio.sleep(PRE_AUTH_TIMEOUT_S + 5)
        statistics = second.statistics()
        assert statistics.connections == statistics.links == 1
        assert statistics.retries_sent > FLOOD // 2
        assert (statistics.displaced > 0) == answers
        network.check_amplification()


async def test_while_all_networks_of_the_world_want_places_there_are_places_all_the_time(
    autojump_clock: trio.abc.Clock,
) -> None:
    network = CountingNetwork(6)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)
        flood = Flood(network, second.address, FirstFlights(device(2).public_key), forged, True, rate=RATE // 8)
        nursery.start_soon(flood.run, FLOOD)
        await trio.sleep(2)
        for _ in range(5):
            with suppress(Unreachable):
                link = await world.dial(first, second, key=2)
                break
        else:
            pytest.fail("of twenty first datagrams none came to a place")
        assert flood.begun < FLOOD, "it was not meanwhile"
        assert not link.is_closed
        nursery.cancel_scope.cancel()


async def test_a_member_that_is_expected_gets_a_place_at_once_while_all_networks_of_the_world_want_one(
    autojump_clock: trio.abc.Clock,
) -> None:
    network = CountingNetwork(7)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)
        flood = Flood(network, second.address, FirstFlights(device(2).public_key), forged, True)
        nursery.start_soon(flood.run, FLOOD)
        await trio.sleep(0.5)
        assert second.statistics().half_open == MAX_HALF_OPEN
        probe = partial(second.probe, session=b"12345678", key=b"k" * 32, candidates=first.candidates(), timeout_s=4)
        nursery.start_soon(probe)
        path = await first.probe(session=b"12345678", key=b"k" * 32, candidates=second.candidates(), timeout_s=4)
        assert path.address == second.address
        with trio.fail_after(1):
            link = await world.dial(first, second, key=2)
        assert flood.begun < FLOOD, "it was not meanwhile"
        assert not link.is_closed
        nursery.cancel_scope.cancel()


def test_who_is_known_has_places_of_its_own_and_takes_its_turn_with_strangers_when_these_are_taken() -> None:
    expected = {("192.0.2.1", 4000)}
    places: HalfOpen[int] = HalfOpen(expected.__contains__)
    numbers = itertools.count()
    for host in range(MAX_HALF_OPEN):
        assert places.take(next(numbers), (f"203.0.113.{host}", 4000), 0.0) is None
    assert not places.has_room(("192.0.2.2", 4000), 0.0)
    assert places.has_room(("192.0.2.1", 4000), 0.0)
    assert not places.has_room(("192.0.2.1", 4001), 0.0), "somebody else behind that address"
    for _ in range(MAX_HALF_OPEN_PER_NETWORK):
        assert places.take(next(numbers), ("192.0.2.1", 4000), 0.0) is None
    assert len(places) == len(places.holders()) == MAX_HALF_OPEN + MAX_HALF_OPEN_PER_NETWORK
    assert not places.has_room(("192.0.2.1", 4000), 0.0)
    places.ended(0, 0.1)
    assert places.has_room(("192.0.2.1", 4000), 0.1)
    assert places.take(next(numbers), ("192.0.2.1", 4000), 0.1) is None
    assert not places.has_room(("192.0.2.2", 4000), 0.1), "it took that of a stranger"


def test_a_network_is_known_by_a_link_that_lasted_while_it_is_up_and_for_a_while_after() -> None:
    places: HalfOpen[int] = HalfOpen(lambda _: False)
    member, other = ("192.0.2.1", 4000), ("192.0.2.1", 5000)
    places.take(1, member, 0.0)
    places.proven(1, member, 1.0)
    assert len(places) == 0
    for number in range(MAX_HALF_OPEN):
        places.take(100 + number, (f"203.0.113.{number}", 4000), KNOWN_AFTER_S)
    assert not places.has_room(member, KNOWN_AFTER_S + 0.9)
    assert places.has_room(other, KNOWN_AFTER_S + 1)
    end = 3 * KNOWN_AFTER_S
    places.ended(1, end)
    for number in range(MAX_HALF_OPEN):  # strangers, all the time
        places.ended(100 + number, end)
        places.take(300 + number, (f"203.0.113.{number}", 4000), end + KNOWN_FOR_S - 0.1)
    assert places.has_room(member, end + KNOWN_FOR_S - 0.1)
    assert not places.has_room(member, end + KNOWN_FOR_S)


async def test_one_network_has_only_its_share_of_the_places(autojump_clock: trio.abc.Clock) -> None:
    network = CountingNetwork(2)
    async with open_world(network) as world:
        second = await world.open(2)
        flood = Flood(network, second.address, FirstFlights(device(2).public_key), of_one_network, True)
        await flood.run(RATE)
        assert second.statistics().half_open == MAX_HALF_OPEN_PER_NETWORK < MAX_HALF_OPEN


async def test_a_single_beginning_gets_no_more_than_three_times_what_it_brought_until_it_is_forgotten(
    autojump_clock: trio.abc.Clock,
) -> None:
    network = CountingNetwork(3)
    async with open_world(network) as world:
        second = await world.open(2)
        network.watched = second.address
        data = FirstFlights(device(2).public_key).make(b"12345678")
        network.carry(data, ("203.0.113.1", 4000), second.address)
        await trio.sleep(PRE_AUTH_TIMEOUT_S + 5)
        assert second.statistics().connections == 0
        assert network.taken.total() > len(data), "it was answered"
        network.check_amplification()


async def test_who_had_to_make_room_is_not_listened_to_any_more(autojump_clock: trio.abc.Clock) -> None:
    async with open_world(MemoryNetwork(5)) as world:
        first, second = await world.open(1), await world.open(2)
        network, target = world.network, second.address
        data = FirstFlights(device(2).public_key).make(b"12345678")
        network.carry(data, ("203.0.113.1", 4000), target)
        await trio.sleep(0.1)
        [connection] = second._half_open.holders()
        connection.receive(data, ("203.0.113.1", 4000), trio.current_time())  # and in the same turn
        connection.forget()
        connection.pump(trio.current_time())
        second.touch(connection)
        assert connection.collect(trio.current_time() + 100) == []
        await trio.sleep(PRE_AUTH_TIMEOUT_S + 5)
        assert second.statistics().connections == second.statistics().half_open == 0
        link = await world.dial(first, second, key=2)
        assert not link.is_closed


def test_what_has_no_deadline_any_more_is_not_held_until_then() -> None:
    class Item:
        pass

    deadlines, items = Deadlines[Item](), [Item() for _ in range(1000)]
    kept = items[500]
    for number, item in enumerate(items):
        deadlines.set(item, 100.0 + number)
    references = [weakref.ref(item) for item in items]
    for item in items:
        if item is not kept:
            deadlines.set(item, None)
    del item, items
    gc.collect()
    assert sum(reference() is not None for reference in references) < 100
    assert deadlines.due(1000.0) == [kept]


async def test_a_device_joins_a_pool_while_its_server_and_its_members_are_flooded(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    network = world.network = CountingNetwork(4)
    async with world.server() as server, world.node("ada") as ada, trio.open_nursery() as nursery:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(ada, "garden", "ada") as member:
            gc.collect()
            before = resident_size()
            floods = [
                Flood(network, target, FirstFlights(server.address.key), draw, answers, RATE // 8)
                for target in ((server.address.host, server.address.port), ada._endpoint.address)
                for draw, answers in ((of_one_network, True), (forged, False))
            ]
            for flood in floods:
                nursery.start_soon(flood.run, FLOOD)
            await trio.sleep(1.5)
            async with world.node("bob") as node, enter(node, invite, "bob") as bob:
                await bob.pool.send("may I come in?")
                await member.hears("may I come in?")
                assert all(RATE // 8 < flood.begun < FLOOD for flood in floods), "it was not meanwhile"
            assert resident_size() - before < 50 * MIB
            nursery.cancel_scope.cancel()


def test_clients_that_show_nothing_to_a_server_make_room_for_one_that_does() -> None:
    pool, world = PoolMaker(), SyncWorld()
    world.attach(founder := Node(pool.founder, pool.pool_id, [pool.genesis]))
    silent = []
    for number in range(2 * MAX_UNATTACHED_CLIENTS):
        world._advance(world.now + 0.02)
        silent.append(Node(device_key(100 + number), pool.pool_id, [], host=f"2001:db8:0:{number // 2:x}::1"))
        world.to_server[world.connect(silent[-1])].clear()
        assert world.core.statistics().clients <= MAX_UNATTACHED_CLIENTS + 1
    secret, invite = pool.invite()
    world.learn(founder, invite)
    world.run()
    key = device_key(2)
    honest = Node(key, pool.pool_id, [invite, pool.join(key, secret)], host="203.0.113.9")
    world.attach(honest)
    assert honest.is_attached
    assert founder.is_attached, "who is attached has nothing to do with it"
    codes = Counter(code for node in silent for code in node.closed)
    assert codes["busy"] > 0
    assert codes.keys() == {"busy"}


def test_a_member_is_attached_while_strangers_hold_all_places_and_none_had_its_time() -> None:
    pool, world = PoolMaker(), SyncWorld()
    world.attach(founder := Node(pool.founder, pool.pool_id, [pool.genesis]))
    secret, invite = pool.invite()
    world.learn(founder, invite)
    keys = [device_key(number) for number in range(2, 2 + MAX_UNATTACHED_PER_NETWORK + 1)]
    members = [
        Node(key, pool.pool_id, [invite, pool.join(key, secret)], host=f"198.51.100.{number}")
        for number, key in enumerate(keys)
    ]
    world.attach(*members)
    assert all(node.is_attached for node in members)
    for node in members:
        world.drop(node)
    strangers = [
        Node(device_key(1000 + number), pool.pool_id, [], host=f"2001:db8:0:{number:x}::1")
        for number in range(2 * MAX_UNATTACHED_CLIENTS)
    ]
    for node in strangers:
        world.to_server[world.connect(node)].clear()
    late = device_key(999)
    joiner = Node(late, pool.pool_id, [pool.join(late, secret)], host="203.0.113.9")
    world.attach(joiner)
    assert joiner.closed == ["busy"], "who is not known takes its turn"
    world.attach(members[0], founder)
    assert members[0].is_attached
    silent = members[1:]  # members that come and do not go on have no more than the share of their pool
    for node in silent:
        world.to_server[world.connect(node)].clear()
    world.run()
    assert not silent[-1].closed
    assert len(world.core._clients.members) == MAX_UNATTACHED_PER_NETWORK
    founder.closed.clear()
    world.drop(members[0])
    world.attach(members[0])
    assert members[0].closed == ["busy"]
    assert founder.is_attached


def test_pools_that_are_begun_and_never_brought_hold_no_more_than_a_few_places() -> None:
    world = SyncWorld()
    begun = []
    for number in range(3 * MAX_FOUNDING_CLIENTS):
        pool = PoolMaker(founder=device_key(100 + number))
        begun.append(Node(pool.founder, pool.pool_id, [pool.genesis], host=f"198.51.100.{number}"))
        client = world.connect(begun[-1])
        world.to_server[client].clear()
        world.send(client, Statements(statements=(encode_statement(pool.genesis),)))
        world.send(client, StatementIds(ids=(StatementId(bytes(32)),)))  # which it never shows
        world.run()
        assert len(world.core._clients.founders) <= MAX_FOUNDING_CLIENTS
    assert [node.closed for node in begun[-2 * MAX_FOUNDING_CLIENTS :]] == [["busy"]] * 2 * MAX_FOUNDING_CLIENTS
    world.pass_time(UNATTACHED_GRACE_S)
    maker = PoolMaker(founder=device_key(1))
    honest = Node(maker.founder, maker.pool_id, [maker.genesis], host="203.0.113.9")
    world.attach(honest)
    assert honest.is_attached
