"""The simulated network itself, and the overlay in it: a hundred nodes, loss, churn, partitions, a dead server."""

import doctest
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import poolnet.testing
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import IDLE_TIMEOUT_S, RECENT_MESSAGES
from poolnet.testing import PathConditions, SimNetwork, SimNode, SimPool
from poolnet.wire.link_frames import Ping

BAD_PATHS = PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02)
A, B, C = (DeviceId(bytes([letter]) * 32) for letter in b"ABC")


# --- the network ------------------------------------------------------------------------------------------------


class Recorder:
    """A host that accepts everything and writes down what it hears and when."""

    def __init__(self, network: SimNetwork, host_id: DeviceId, *, accepts: bool = True) -> None:
        self.host_id = host_id
        self.heard: list[tuple[Any, ...]] = []
        self._network = network
        self._accepts = accepts
        network.add_host(self)

    def may_accept(self, peer: DeviceId) -> bool:
        return self._accepts

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        self.heard.append(("up", peer, is_dialler))

    def link_down(self, peer: DeviceId) -> None:
        self.heard.append(("down", peer))

    def dial_failed(self, peer: DeviceId) -> None:
        self.heard.append(("failed", peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        self.heard.append((self._network.now, frame.number))

    def numbers(self) -> list[int]:
        return [entry[1] for entry in self.heard if isinstance(entry[0], float)]


def linked_pair(conditions: PathConditions | None = None) -> tuple[SimNetwork, Recorder, Recorder]:
    network = SimNetwork(1, conditions=conditions)
    a, b = Recorder(network, A), Recorder(network, B)
    network.dial(A, B)
    network.run_for(5.0)
    assert a.heard == [("up", B, True)]
    assert b.heard == [("up", A, False)]
    return network, a, b


def test_one_path_may_be_slower_than_the_others() -> None:
    network = SimNetwork(1, conditions=PathConditions(latency_s=0.01))
    network.set_conditions(B, A, PathConditions(latency_s=1.0))
    a, b, c = (Recorder(network, host_id) for host_id in (A, B, C))
    network.dial(A, B)
    network.dial(A, C)
    network.run_for(10.0)
    start = network.now
    for peer in (B, C):
        network.send(A, peer, Ping(number=1, unix_ms=0))
    network.run_for(5.0)
    assert [entry[0] - start for entry in (b.heard[-1], c.heard[-1])] == pytest.approx([1.0, 0.01], abs=0.005)
    assert a.heard[1:] == [("up", B, True)]


def send_numbers(network: SimNetwork, sender: DeviceId, receiver: DeviceId, *numbers: int) -> None:
    for number in numbers:
        network.send(sender, receiver, Ping(number=number, unix_ms=0))


def test_a_lossy_link_delivers_everything_in_order_only_later() -> None:
    network, _, b = linked_pair(PathConditions(latency_s=0.05, jitter_s=0.01, loss=0.3))
    start = network.now
    send_numbers(network, A, B, *range(200))
    network.run_for(30.0)
    assert b.numbers() == list(range(200))
    assert b.heard[1][0] >= start + 0.05
    assert b.heard[-1][0] > start + 0.15  # something was sent again


def test_what_was_on_its_way_when_its_sender_left_does_not_get_to_the_other_side_of_a_split() -> None:
    network, _, b = linked_pair()
    network.partition([B])
    send_numbers(network, A, B, 1)
    network.remove_host(A)
    network.run_for(IDLE_TIMEOUT_S)
    assert b.numbers() == []


def test_bandwidth_of_a_path_and_uplink_of_a_host_set_the_pace() -> None:
    network, a, b = linked_pair(PathConditions(latency_s=0.01, jitter_s=0.0, bandwidth_bytes_per_s=1000))
    c = Recorder(network, C)
    network.dial(A, C)
    network.run_for(1.0)
    start = network.now
    network.send(A, B, Ping(number=1, unix_ms=0), size_bytes=2000)
    network.run_for(10.0)
    assert b.heard[-1] == (pytest.approx(start + 2.01), 1)
    network.set_uplink(a.host_id, 500)
    start = network.now
    for peer in (B, C):
        network.send(A, peer, Ping(number=2, unix_ms=0), size_bytes=1000)
    network.run_for(10.0)
    assert b.heard[-1] == (pytest.approx(start + 2 + 1 + 0.01), 2)
    assert c.heard[-1] == (pytest.approx(start + 4 + 1 + 0.01), 2)


def test_a_reset_loses_what_is_under_way_and_both_sides_hear_of_it() -> None:
    network, a, b = linked_pair()
    send_numbers(network, A, B, 1, 2)
    network.reset_link(A, B)
    send_numbers(network, A, B, 3)
    network.run_for(5.0)
    assert a.heard[-1] == ("down", B)
    assert b.heard[1:] == [("down", A)]


def test_a_link_closed_in_good_order_delivers_what_was_sent_before() -> None:
    network, a, b = linked_pair()
    send_numbers(network, A, B, 1, 2)
    send_numbers(network, B, A, 3)
    network.close_link(A, B)
    network.run_for(5.0)
    assert b.numbers() == [1, 2]
    assert b.heard[-1] == ("down", A)
    assert a.heard[1:] == [("down", B)]


def test_a_short_partition_delays_frames_and_keeps_the_link() -> None:
    network, a, b = linked_pair()
    send_numbers(network, A, B, 1, 2)
    network.partition([A])
    network.run_for(IDLE_TIMEOUT_S / 2)
    send_numbers(network, A, B, 3)
    assert b.numbers() == []
    network.heal()
    send_numbers(network, A, B, 4)
    network.run_for(IDLE_TIMEOUT_S)
    assert b.numbers() == [1, 2, 3, 4]
    assert ("down", B) not in a.heard


def test_a_long_partition_breaks_the_link_and_new_dials_fail() -> None:
    network, a, b = linked_pair()
    network.partition([A])
    network.run_for(IDLE_TIMEOUT_S + 1)
    assert a.heard[-1] == ("down", B)
    assert b.heard[-1] == ("down", A)
    network.dial(A, B)
    network.run_for(20.0)
    assert a.heard[-1] == ("failed", B)


def test_a_crash_is_noticed_by_silence_and_the_same_host_can_come_back_before_that() -> None:
    network, a, b = linked_pair()
    network.crash(A)
    network.run_for(1.0)
    assert b.heard == [("up", A, False)]
    reborn = Recorder(network, A)
    network.dial(A, B)
    network.run_for(1.0)
    send_numbers(network, B, A, 7)
    network.run_for(IDLE_TIMEOUT_S * 2)
    assert reborn.heard[0] == ("up", B, True)
    assert reborn.numbers() == [7]
    assert b.heard[1:] == [("up", A, False)]
    network.crash(A)
    network.run_for(IDLE_TIMEOUT_S)
    assert b.heard[-1] == ("down", A)
    assert a.heard == [("up", B, True)]  # the first life heard nothing of the second


def test_a_dial_can_be_refused_or_blocked() -> None:
    network = SimNetwork(1)
    a = Recorder(network, A)
    Recorder(network, B, accepts=False)
    Recorder(network, C)
    network.block(A, C)
    network.dial(A, B)
    network.run_for(1.0)
    assert a.heard == [("failed", B)]
    network.dial(A, C)
    network.run_for(20.0)
    assert a.heard[1:] == [("failed", C)]


# --- the overlay in it ------------------------------------------------------------------------------------------


def settled_pool(seed: int, count: int, conditions: PathConditions = BAD_PATHS) -> SimPool:
    pool = SimPool(seed, count, conditions=conditions)
    pool.run_for(20.0)
    return pool


def assert_every_link_is_a_neighbour(pool: SimPool) -> None:
    for node in pool.online():
        assert node.mesh.linked >= node.roster.neighbours(node.host_id)


def publish_rounds(pool: SimPool, mode: str, rounds: int) -> list[MsgId]:
    rng = Random(pool.network.seed)
    messages = []
    for number in range(rounds):
        senders = {"one": pool.nodes[:1], "random": [rng.choice(pool.nodes)], "all": pool.nodes}[mode]
        messages += [pool.publish(node, b"%d from %s" % (number, node.host_id)) for node in senders]
        pool.run_for(2.0)
    return messages


@pytest.mark.parametrize(
    ("mode", "rounds", "most_hops", "most_redundancy"),
    [("one", 30, 15, 0.2), ("random", 30, 18, 1.0), ("all", 4, 30, 3.0)],
)
def test_a_hundred_nodes_hear_everything_in_few_hops_at_little_cost(
    mode: str, rounds: int, most_hops: int, most_redundancy: float
) -> None:
    pool = settled_pool(1, 100)
    assert_every_link_is_a_neighbour(pool)
    messages = publish_rounds(pool, mode, rounds)
    pool.run_for(2.0)  # what was lost in the last round is announced, and asked for
    figures = pool.figures(messages, pool.nodes)
    redundancy = pool.duplicates() / figures.deliveries
    print(
        f"\n100 nodes, {mode} sender(s), 2 % loss: last hop {figures.last_hop_mean:.1f}"
        f" (worst {figures.last_hop_worst}), redundancy {redundancy:.2f}, slowest {figures.last_delivery_s:.2f} s"
    )
    assert figures.missed == 0
    assert figures.last_hop_worst < most_hops
    assert redundancy < most_redundancy


class Churn:
    """Nodes that come, leave and crash, and links that break, while others stay and talk."""

    def __init__(self, pool: SimPool, stay: list[SimNode]) -> None:
        self.pool = pool
        self.stay = stay
        self.rng = Random(pool.network.seed)
        self.messages: list[MsgId] = []

    def step(self, number: int) -> None:
        for sender in (self.rng.choice(self.stay), self.rng.choice(self.pool.online())):
            self.messages.append(self.pool.publish(sender, b"%d from %s" % (number, sender.host_id)))
        links = self.pool.network.links()
        self.pool.network.reset_link(*self.rng.choice(links))
        passing = [node for node in self.pool.online() if node not in self.stay]
        match self.rng.randrange(4):
            case 0 if passing:
                self.rng.choice(passing).leave()
            case 1 if passing:
                self.rng.choice(passing).crash()
            case _:
                self.pool.add_node()


def test_nodes_that_stay_miss_nothing_while_others_come_leave_and_crash() -> None:
    pool = settled_pool(2, 100)
    churn = Churn(pool, stay=pool.nodes[:50])
    for number in range(60):
        churn.step(number)
        pool.run_for(0.5)
    pool.run_for(40.0)
    figures = pool.figures(churn.messages, churn.stay)
    gone = sum(not node.is_up for node in pool.nodes)
    print(
        f"\n100 nodes, {len(pool.nodes) - 100} more come and {gone} go within 30 s, 60 links break, 2 % loss: last hop"
        f" {figures.last_hop_mean:.1f} (worst {figures.last_hop_worst}), redundancy"
        f" {pool.duplicates() / figures.deliveries:.2f}, slowest {figures.last_delivery_s:.2f} s"
    )
    assert gone >= 15
    assert pool.missed(churn.stay) == []
    assert not any(node.misbehaviour for node in pool.nodes)
    assert_every_link_is_a_neighbour(pool)


def test_a_newcomer_gets_the_recent_messages_and_does_not_disturb_the_tree() -> None:
    pool = settled_pool(3, 30)
    publish_rounds(pool, "one", 40)
    before = pool.duplicates()
    newcomer = pool.add_node()
    pool.run_for(10.0)
    assert len(newcomer.history) == 40
    assert pool.duplicates() == before
    for number in range(20):
        pool.publish(pool.nodes[0], b"after %d" % number)
    pool.run_for(5.0)
    assert pool.missed(pool.nodes) == []


def test_a_healed_partition_agrees_again() -> None:
    pool = settled_pool(4, 60)
    one_side, other_side = pool.nodes[:40], pool.nodes[40:]
    pool.network.partition(node.host_id for node in other_side)
    rng = Random(4)
    for number in range(RECENT_MESSAGES // 4):
        for side in (one_side, other_side):
            pool.publish(rng.choice(side), b"%d in a side of %d" % (number, len(side)))
        pool.run_for(1.0)
    pool.run_for(90.0)  # the smaller side has no server and two thirds of its neighbours are gone
    assert pool.missed(one_side) == []
    assert pool.missed(other_side) == []
    assert len(pool.missed(pool.nodes)) > 1000
    assert len(pool.server.roster) == 40
    pool.network.heal()
    before = pool.duplicates()
    pool.run_for(60.0)
    print(f"\nhealing 40 + 20 nodes, 50 messages: {pool.duplicates() - before} duplicate payloads")
    assert pool.missed(pool.nodes) == []
    assert len(pool.server.roster) == 60
    assert pool.duplicates() - before < 60 * 50  # less than flooding one side with the messages of the other


def test_without_a_server_the_mesh_heals_and_the_talk_goes_on() -> None:
    pool = settled_pool(5, 60)
    pool.server.stop()
    lost, left = pool.nodes[::4], [node for index, node in enumerate(pool.nodes) if index % 4]
    for node in lost:
        node.crash()
    pool.run_for(120.0)  # three gone in a row on one ring are found out one after the other
    gone = frozenset(node.host_id for node in lost)
    for node in left:
        assert node.mesh.linked >= node.roster.neighbours(node.host_id, without=gone)
    for number in range(10):
        pool.publish(left[number], b"%d" % number)
    pool.run_for(5.0)
    assert pool.missed(left) == []
    dials = sum(node.mesh.statistics().dials for node in left)
    pool.server.start()
    pool.run_for(60.0)
    assert len(pool.server.roster) == len(left)
    assert all(node.roster.nodes == pool.server.roster.nodes for node in left)
    assert sum(node.mesh.statistics().dials for node in left) - dials < 20 * len(left)


def test_a_server_that_restarts_disturbs_nobody() -> None:
    pool = settled_pool(6, 40)
    epoch = pool.server.roster.epoch
    closed = [node.mesh.statistics().closed for node in pool.nodes]
    neighbours = [node.links & node.roster.neighbours(node.host_id) for node in pool.nodes]
    pool.server.stop()
    pool.run_for(20.0)
    pool.server.start()
    pool.run_for(20.0)  # sooner than anybody draws another acquaintance twice
    assert [node.links & node.roster.neighbours(node.host_id) for node in pool.nodes] == neighbours
    assert pool.server.roster.epoch == epoch
    assert sum(node.mesh.statistics().closed for node in pool.nodes) - sum(closed) <= len(pool.nodes)


def test_pairs_that_cannot_reach_each_other_are_bridged_by_others() -> None:
    pool = SimPool(7, 40, conditions=BAD_PATHS)
    rng = Random(7)
    hosts = [node.host_id for node in pool.nodes]
    for index, one in enumerate(hosts):
        for other in hosts[:index]:
            if rng.random() < 0.3:
                pool.network.block(one, other)
    pool.run_for(90.0)
    for number in range(20):
        pool.publish(rng.choice(pool.nodes), b"%d" % number)
        pool.run_for(0.5)
    pool.run_for(5.0)
    assert pool.missed(pool.nodes) == []
    assert pool.server.reports > 0


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_small_pool_misses_nothing_whatever_the_seed(seed: int) -> None:
    pool = settled_pool(seed, 8, PathConditions(latency_s=0.05, jitter_s=0.1, loss=0.1))
    churn = Churn(pool, stay=pool.nodes[:4])
    for number in range(15):
        churn.step(number)
        pool.run_for(0.5)
    pool.run_for(60.0)
    assert pool.missed(churn.stay) == [], f"seed {seed}"


def churned_trace(seed: int) -> str:
    pool = settled_pool(seed, 20)
    churn = Churn(pool, stay=pool.nodes[:10])
    for number in range(10):
        churn.step(number)
        pool.run_for(0.5)
    return pool.network.trace_digest()


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert churned_trace(8) == churned_trace(8)
    assert churned_trace(8) != churned_trace(9)


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(poolnet.testing).failed == 0
