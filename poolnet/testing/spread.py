"""How messages spread over a hundred nodes, beside figures that have to be beaten, and over a thousand.

The figures to beat are those that iroh-gossip's own simulator asserts for its Plumtree over HyParView, with as many
nodes: nothing missed, at most so many links for the slowest copy of a message, at most so many payloads in vain for
each that was new.
"""

import time
from collections.abc import Callable, Iterator

import attrs

from poolnet.testing.sim_network import PathConditions
from poolnet.testing.sim_node import SimNode
from poolnet.testing.sim_pool import SimPool

_CONDITIONS = PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02)
_NODE_COUNT = 100
#: Of the file that a crowd fetches, and of everyone's uplink: 10 Mbit/s.
_FILE_SIZE = 8_000_000
_UPLINK_BYTES_PER_S = 1_250_000.0

#: Lets some nodes of a pool say something, in the round of that number.
Speak = Callable[[SimPool, int], list[SimNode]]


@attrs.frozen(kw_only=True)
class Spread:
    """What was measured of one way of sending, and what it must stay below.

    Attributes:
        redundancy: payloads that came in vain for each that was new.
        bytes_a_node: sent by each node on the average, for each message.
    """

    name: str
    missed: int
    last_hop_worst: int
    last_hop_limit: int
    redundancy: float
    redundancy_limit: float
    last_delivery_s: float
    bytes_a_node: float
    took_s: float

    @property
    def is_good(self) -> bool:
        """Whether nothing was missed and both limits are kept."""
        return (
            self.missed == 0 and self.last_hop_worst < self.last_hop_limit and self.redundancy < self.redundancy_limit
        )

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.missed} missed; last hop {self.last_hop_worst} (to beat: {self.last_hop_limit}),"
            f" redundancy {self.redundancy:.2f} (to beat: {self.redundancy_limit}), slowest"
            f" {self.last_delivery_s:.2f} s, {self.bytes_a_node:.0f} bytes a node and message; took {self.took_s:.1f} s"
        )


def measure_spread(seed: int) -> Iterator[Spread]:
    """Measure a hundred nodes with a single sender, with random ones, and with everyone sending at once."""
    yield _measure(seed, "one sender", lambda pool, _: pool.nodes[:1], rounds=30, last_hop=15, redundancy=0.2)
    yield _measure(seed, "random senders", _someone, rounds=30, last_hop=18, redundancy=1.0)
    yield _measure(seed, "all at once", lambda pool, _: pool.nodes, rounds=4, last_hop=30, redundancy=3.0)


def measure_speed(seed: int, node_count: int = 50, *, virtual_s: float = 120.0) -> str:
    """Let so many nodes talk, somebody once a second; say how much faster than real time that is, joining not counted.

    What it takes of the processor counts, not what else goes on in the machine.
    """
    pool = SimPool(seed, node_count, conditions=_CONDITIONS)
    pool.run_for(20.0)
    started_at, end = time.process_time(), pool.network.now + virtual_s
    for number in range(int(virtual_s)):
        (speaker,) = _someone(pool, number)
        pool.publish(speaker, b"%d" % number)
        pool.run_for(1.0)
    pool.network.run_until(end)
    took_s = time.process_time() - started_at
    return f"{node_count} nodes, a message a second: {virtual_s / took_s:.0f} times as fast as real time"


def measure_crowd(seed: int, node_count: int) -> Iterator[str]:
    """Let so many nodes join at once, say something each, and fetch a file; yield what is found, a line each."""
    stopwatch = _Stopwatch(SimPool(seed, node_count, conditions=_CONDITIONS))
    pool = stopwatch.pool
    while not _has_gathered(pool):
        pool.run_for(1.0)
    yield f"{node_count} nodes, all joining at once: linked, and known to each other; {stopwatch.read()}"
    messages = [pool.publish(node, b"%d" % number) for number, node in enumerate(pool.nodes)]
    pool.time_to_agree(pool.nodes, timeout_s=300.0)
    figures = pool.figures(messages, pool.nodes)
    yield (
        f"a message from each of them: {figures.missed} missed of {figures.deliveries + figures.missed}, last hop"
        f" {figures.last_hop_worst}, redundancy {pool.duplicates() / max(1, figures.deliveries):.2f}, slowest"
        f" {figures.last_delivery_s:.1f} s; {stopwatch.read()}"
    )
    yield _measure_file(pool, stopwatch)


def _measure_file(pool: SimPool, stopwatch: "_Stopwatch") -> str:
    """Let everyone fetch a file of the first node, over slow uplinks."""
    owner, *others = pool.nodes
    for node in pool.nodes:
        pool.network.set_uplink(node.host_id, _UPLINK_BYTES_PER_S)
    sent_before = dict(pool.network.bytes_sent)
    begun_at = pool.network.now
    file_id = pool.offer(owner, _FILE_SIZE)
    for node in others:
        node.fetch(file_id)
    while not all(file_id in node.completed for node in others) and pool.network.now < begun_at + 300.0:
        pool.run_for(1.0)
    done = [node.completed[file_id] - begun_at for node in others if file_id in node.completed]
    upload_s = _FILE_SIZE / _UPLINK_BYTES_PER_S
    sent = {host_id: count - sent_before.get(host_id, 0) for host_id, count in pool.network.bytes_sent.items()}
    return (
        f"a file of {_FILE_SIZE / 1e6:.0f} MB for each of them: {1 + len(done)} of {len(pool.nodes)} have it, the last"
        f" after the time of {max(done, default=0.0) / upload_s:.2f} uploads; its owner sent"
        f" {sent[owner.host_id] / _FILE_SIZE:.2f} files, the busiest node {max(sent.values()) / _FILE_SIZE:.2f};"
        f" {stopwatch.read()}"
    )


class _Stopwatch:
    """Says how much time has passed in a pool and here, and how much was sent, since it was read last."""

    def __init__(self, pool: SimPool) -> None:
        self.pool = pool
        self._begin()

    def read(self) -> str:
        """Return all of it in words, and begin again."""
        virtual_s, took_s = self.pool.network.now - self._now, time.perf_counter() - self._started_at
        busy_s = time.process_time() - self._busy_at
        sent = (_bytes_of(self.pool) - self._sent) / len(self.pool.nodes)
        self._begin()
        taken = f"took {took_s:.0f} s ({busy_s:.0f} of the processor)"
        return f"{sent / 1e6:.2f} MB a node, {virtual_s:.0f} virtual seconds, {taken}"

    def _begin(self) -> None:
        self._now, self._started_at = self.pool.network.now, time.perf_counter()
        self._busy_at = time.process_time()
        self._sent = _bytes_of(self.pool)


def _measure(seed: int, name: str, speakers: Speak, *, rounds: int, last_hop: int, redundancy: float) -> Spread:
    started_at = time.perf_counter()
    pool = SimPool(seed, _NODE_COUNT, conditions=_CONDITIONS)
    pool.run_for(20.0)
    duplicates, before = pool.duplicates(), _bytes_of(pool)
    messages = []
    for number in range(rounds):
        messages += [pool.publish(node, b"%d" % number) for node in speakers(pool, number)]
        pool.run_for(2.0)
    pool.run_for(5.0)
    figures = pool.figures(messages, pool.nodes)
    return Spread(
        name=name,
        missed=figures.missed,
        last_hop_worst=figures.last_hop_worst,
        last_hop_limit=last_hop,
        redundancy=(pool.duplicates() - duplicates) / max(1, figures.deliveries),
        redundancy_limit=redundancy,
        last_delivery_s=figures.last_delivery_s,
        bytes_a_node=(_bytes_of(pool) - before) / _NODE_COUNT / len(messages),
        took_s=time.perf_counter() - started_at,
    )


def _someone(pool: SimPool, number: int) -> list[SimNode]:
    return [pool.network.random_for(f"speaker {number}").choice(pool.nodes)]


def _has_gathered(pool: SimPool) -> bool:
    """Return whether everyone knows everyone, and has its neighbours."""
    count = len(pool.nodes)
    return all(
        len(node.roster) == count and node.mesh.linked >= node.roster.neighbours(node.host_id) for node in pool.nodes
    )


def _bytes_of(pool: SimPool) -> int:
    return sum(pool.network.bytes_sent.values())
