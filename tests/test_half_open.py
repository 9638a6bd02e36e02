"""Floods of handshakes that nobody finishes: bounded memory, few answers, and whoever is honest gets in meanwhile."""

import gc
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
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
    MAX_FOUNDING_CLIENTS,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_NETWORK,
    MAX_UNATTACHED_CLIENTS,
    MIB,
    PRE_AUTH_TIMEOUT_S,
    RETRY_ABOVE_HALF_OPEN,
    UNATTACHED_GRACE_S,
)
from poolnet.net.addresses import SocketAddress
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
    is_shared = answers and draw is forged  # by more networks than there are places: whose turn it is is luck
    network = CountingNetwork(1)
    async with open_world(network) as world, trio.open_nursery() as nursery:
        first, second = await world.open(1), await world.open(2)
        network.watched = second.address
        before_link = await world.dial(first, second, key=2)
        earlier = await second.accept()
        network.brought.clear()
        network.taken.clear()
        gc.collect()
        before = resident_size()
        flood = Flood(network, second.address, FirstFlights(device(2).public_key), draw, answers)
        nursery.start_soon(flood.run, FLOOD)
        while flood.begun < FLOOD:
            await trio.sleep(0.5)
            assert second.statistics().half_open <= (MAX_HALF_OPEN if answers else RETRY_ABOVE_HALF_OPEN)
            if not is_shared:
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
