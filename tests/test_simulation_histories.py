"""Whole pools in the simulator whose histories must come to agree: partitions, absence, wrong clocks, newcomers."""

from random import Random

import pytest

from poolnet.clock import hlc_ms
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import AUTOMATIC_WINDOW_S, RECENT_MESSAGES, RECONCILE_INTERVAL_S
from poolnet.protocol import agreement
from poolnet.protocol.reconcile import HIGHEST, LOWEST
from poolnet.testing import NodeSettings, PathConditions, SimNode, SimPool
from poolnet.testing.sim_clock import START_UNIX_MS

BAD_PATHS = PathConditions(latency_s=0.03, jitter_s=0.02, loss=0.02)
HOUR_S = 3600.0
HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS


def talk(pool: SimPool, nodes: list[SimNode], count: int, *, interval_s: float) -> list[MsgId]:
    """Let one of the nodes after another say something."""
    rng = Random(f"talk {pool.network.seed} {pool.network.now}")
    said = []
    for number in range(count):
        said.append(pool.publish(rng.choice(nodes), b"%d" % number))
        pool.run_for(interval_s)
    return said


def bytes_of(pool: SimPool) -> int:
    return sum(pool.network.bytes_sent.values())


def assert_nothing_is_wrong(pool: SimPool) -> None:
    for node in pool.online():
        assert node.misbehaviour == []
        assert node.agreement.statistics().wanted == 0
        assert len(node.held) == 0


def test_fifty_nodes_split_for_an_hour_agree_within_two_periods_after_that() -> None:
    pool = SimPool(1, 50, conditions=BAD_PATHS)
    pool.run_for(30.0)
    talk(pool, pool.nodes, 20, interval_s=5.0)
    sides = pool.nodes[::2], pool.nodes[1::2]
    pool.network.partition(node.host_id for node in sides[1])
    rng = Random(1)
    said = 0
    while said < 120:
        for side in sides:
            pool.publish(rng.choice(side), b"%d" % said)
            said += 1
        pool.run_for(HOUR_S / 60)
    for side in sides:
        assert pool.agree(side)
        assert pool.missed(side) == []
    assert len(pool.missed(pool.nodes)) == 25 * said
    pool.network.heal()
    duration_s = pool.time_to_agree(pool.nodes, 2 * RECONCILE_INTERVAL_S)
    duplicates = sum(node.fetched_twice for node in pool.nodes)
    fetched = sum(node.agreement.statistics().fetched for node in pool.nodes)
    print(
        f"\n50 nodes, an hour in two halves, {said} messages: the same {duration_s:.0f} s after the heal;"
        f" {fetched} fetched, {duplicates} of them twice"
    )
    assert duration_s <= 2 * RECONCILE_INTERVAL_S
    assert pool.missed(pool.nodes) == []
    assert len(pool.nodes[0].keys) == 20 + said
    assert duplicates < fetched / 10
    pool.run_for(1.0)
    assert_nothing_is_wrong(pool)


def test_wrong_clocks_and_one_that_jumps_change_nothing_in_the_order() -> None:
    pool = SimPool(2, 0, conditions=BAD_PATHS)
    errors_ms = [0, 0, 0, 0, 0, DAY_MS, -DAY_MS, 0, 0]
    nodes = [pool.add_node(clock_error_ms=error_ms) for error_ms in errors_ms]
    pool.run_for(20.0)
    said: list[MsgId] = []
    for number in range(120):
        jumping = nodes[-1]
        if number % 30 == 15:
            jumping.clock_error_ms += (5, -9, 48, -7)[number // 30] * HOUR_MS
        said.append(pool.publish(nodes[number % len(nodes)], b"%d" % number))
        pool.run_for(2.0)
    pool.run_for(5.0)
    assert pool.missed(nodes) == []
    assert pool.agree(nodes)
    assert [msg_id for _, msg_id in nodes[0].keys] == said  # each after those that its author had seen
    stamps = [hlc_ms(hlc) for hlc, _ in nodes[0].keys]
    assert START_UNIX_MS <= stamps[0] <= stamps[-1] <= START_UNIX_MS + pool.network.now * 1000 + 1000
    assert_nothing_is_wrong(pool)


def test_what_was_said_alone_by_a_clock_that_is_ahead_is_held_everywhere_and_then_in_its_place() -> None:
    pool = SimPool(3, 8, conditions=BAD_PATHS)
    pool.run_for(20.0)
    settings = NodeSettings(host_id=DeviceId(pool.nodes[0].host_id[::-1]), clock_error_ms=HOUR_MS)
    ahead = SimNode(pool.network, pool.server, settings)
    early = ahead.publish(b"from the future")  # nobody is there to say what time it is
    ahead.join()
    pool.nodes.append(ahead)
    others = pool.nodes[:-1]
    pool.run_for(20.0)
    later = pool.publish(ahead, b"now it knows what time it is")
    talk(pool, pool.nodes, 20, interval_s=60.0)
    assert all(later in node.history for node in pool.nodes)
    assert not any(early in node.history for node in others)
    pool.run_for(HOUR_S - 1000)
    assert pool.time_to_agree(pool.nodes, HOUR_S) < HOUR_S
    assert all(next(reversed([*node.keys]))[1] == early for node in pool.nodes)
    assert_nothing_is_wrong(pool)


def test_a_node_that_was_away_for_a_week_gets_all_of_it() -> None:
    pool = SimPool(4, 3)
    pool.run_for(20.0)
    talk(pool, pool.nodes, 5, interval_s=1.0)
    absent, others = pool.nodes[-1], pool.nodes[:-1]
    absent.leave()
    left_at = pool.network.now
    talk(pool, others, 168, interval_s=AUTOMATIC_WINDOW_S / 168)
    assert pool.network.now - left_at == pytest.approx(AUTOMATIC_WINDOW_S)
    assert len(pool.missed(pool.nodes)) == 168
    assert pool.agree(others)
    absent.join()
    duration_s = pool.time_to_agree(pool.nodes, 30.0)
    print(f"\na week away: the same {duration_s:.0f} s after coming back")
    assert duration_s < 30.0
    assert pool.missed(pool.nodes) == []
    pool.run_for(1.0)
    assert_nothing_is_wrong(pool)


def test_what_was_said_while_nobody_was_there_reaches_everyone_later() -> None:
    pool = SimPool(5, 12, conditions=BAD_PATHS)
    pool.run_for(20.0)
    alone = pool.nodes[3]
    alone.leave()
    pool.run_for(20.0)
    for number in range(30):
        pool.publish(alone, b"%d" % number)
    alone.join()
    duration_s = pool.time_to_agree(pool.nodes, 30.0)
    assert duration_s < 30.0
    assert pool.missed(pool.nodes) == []
    assert sum(node.fetched_twice for node in pool.nodes) == 0


def test_a_message_comes_back_by_the_only_one_who_was_there() -> None:
    pool = SimPool(6, 3)
    pool.run_for(20.0)
    a, b, c = pool.nodes
    c.leave()
    talk(pool, [a, b], 10, interval_s=1.0)
    a.leave()
    pool.run_for(20.0)
    c.join()
    pool.run_for(5.0)
    b.leave()
    pool.run_for(20.0)
    a.join()
    pool.run_for(5.0)
    assert len(c.keys) == len(a.keys) == 10


def test_a_newcomer_gets_the_window_and_the_rest_when_it_asks() -> None:
    pool = SimPool(7, 6)
    pool.run_for(20.0)
    talk(pool, pool.nodes, 150, interval_s=1.0)
    pool.run_for(2 * HOUR_S)
    talk(pool, pool.nodes, 30, interval_s=1.0)
    newcomer = pool.add_node()
    pool.run_for(20.0)
    everything = list(pool.nodes[0].keys)
    assert len(everything) == 180
    assert list(newcomer.keys) == everything[-RECENT_MESSAGES:]
    assert newcomer.known_from == (everything[-RECENT_MESSAGES][0], b"")
    newcomer.ask(agreement.FetchOlder(1, everything[-RECENT_MESSAGES], 50))
    pool.run_for(2.0)
    assert newcomer.finished == {1: True}
    assert list(newcomer.keys) == everything[-RECENT_MESSAGES - 50 :]
    newcomer.ask(agreement.FetchOlder(2, everything[-RECENT_MESSAGES - 50], 50))
    pool.run_for(2.0)
    assert list(newcomer.keys) == everything
    assert newcomer.known_from == LOWEST or newcomer.known_from <= everything[0]
    assert newcomer.fetched_twice == 0


def test_a_check_is_answered_when_all_neighbours_agree() -> None:
    pool = SimPool(8, 6, conditions=BAD_PATHS)
    pool.run_for(20.0)
    talk(pool, pool.nodes, 30, interval_s=0.1)
    node = pool.nodes[2]
    node.ask(agreement.Check(1, HIGHEST))
    pool.run_for(5.0)
    assert node.finished == {1: True}
    assert pool.agree(pool.nodes)


def test_a_busy_pool_spends_little_on_comparing() -> None:
    pool = SimPool(9, 10)
    pool.run_for(20.0)
    talk(pool, pool.nodes, 100, interval_s=0.1)
    before, said = bytes_of(pool), 400
    talk(pool, pool.nodes, said, interval_s=0.3)
    runs = sum(node.agreement.statistics().runs for node in pool.nodes)
    equal = sum(node.agreement.statistics().equal for node in pool.nodes)
    print(f"\n10 nodes: {(bytes_of(pool) - before) / said:.0f} bytes a message in all, {runs} runs, {equal} equal")
    assert pool.missed(pool.nodes) == []
    assert sum(node.agreement.statistics().fetched for node in pool.nodes) == 0
    assert sum(node.gossip.statistics().grafts for node in pool.nodes) == 0
    assert (bytes_of(pool) - before) / said < 4000


@pytest.mark.parametrize("seed", range(6))
def test_links_that_break_at_any_moment_of_catching_up_lose_nothing(seed: int) -> None:
    pool = SimPool(100 + seed, 6, conditions=PathConditions(latency_s=0.05, jitter_s=0.1, loss=0.1))
    pool.run_for(20.0)
    absent = pool.nodes[4:]
    for node in absent:
        node.crash()
    pool.run_for(10.0)
    talk(pool, pool.nodes[:4], 300, interval_s=0.02)
    for node in absent:
        node.join()
    rng = Random(seed)
    for _ in range(60):
        pool.run_for(0.1 * rng.random())
        links = [pair for pair in pool.network.links() if {*pair} & {node.host_id for node in absent}]
        if links:
            pool.network.reset_link(*rng.choice(links))
    assert pool.time_to_agree(pool.nodes, 2 * RECONCILE_INTERVAL_S) <= 2 * RECONCILE_INTERVAL_S
    assert pool.missed(pool.nodes) == []
    pool.run_for(1.0)
    assert_nothing_is_wrong(pool)
