"""What simulated nodes remember of each other, and what neighbours achieve together: liars out, the slandered in."""

from collections.abc import Callable

import pytest

from poolnet.ids import DeviceId
from poolnet.limits import (
    CONDUCT_CHECK_INTERVAL_S,
    FAULTS_PER_SHUNNING,
    MAX_SHUN_S,
    MAX_WANT_WINDOW,
    MIN_SHUN_S,
    REMOVAL_S,
    STRIKE_INTERVAL_S,
    STRIKES_PER_REMOVAL,
)
from poolnet.protocol.conduct import Kind
from poolnet.server.complaints import Verdict
from poolnet.testing import PathConditions, SimLiar, SimNode, SimPool
from poolnet.testing.sim_liars import Lie

MIB = 2**20
PATHS = PathConditions(latency_s=0.02, jitter_s=0.01, bandwidth_bytes_per_s=10e6)


def pool_with_liar(count: int, *lies: Lie, seed: int = 1) -> tuple[SimPool, SimLiar]:
    """Return a pool of so many and one more, which lies whenever it can."""
    pool = SimPool(seed, count, conditions=PATHS)
    liar = pool.add_node(is_liar=lies)
    assert isinstance(liar, SimLiar)
    liar.rate = 1.0
    pool.run_for(10.0)
    return pool, liar


def talk_until(pool: SimPool, is_so: Callable[[], bool], *, timeout_s: float) -> None:
    """Let the honest ones talk until something is so."""
    talkers = [node for node in pool.nodes if not node.is_liar]
    end = pool.network.now + timeout_s
    number = 0
    while not is_so():
        assert pool.network.now < end
        pool.publish(talkers[number % len(talkers)], b"%d" % number)
        pool.run_for(1.0)
        number += 1


def shunning(pool: SimPool, peer: DeviceId) -> list[SimNode]:
    return [node for node in pool.nodes if peer in node.mesh.shunned]


def test_who_passes_on_altered_messages_loses_its_links_to_whoever_saw_it_and_to_no_others() -> None:
    pool, liar = pool_with_liar(6, Lie.ALTERED_MESSAGES)
    talk_until(pool, lambda: bool(shunning(pool, liar.host_id)), timeout_s=60.0)
    (first, *_), others = shunning(pool, liar.host_id), pool.nodes[:-1]
    assert len(first.misbehaviour) >= FAULTS_PER_SHUNNING
    assert {blame.peer for blame in first.misbehaviour} == {liar.host_id}
    until = pool.network.now + MIN_SHUN_S - 2.0
    while pool.network.now < until:
        pool.run_for(1.0)
        assert not pool.network.is_linked(first.host_id, liar.host_id)
    innocent = [node for node in others if len(node.misbehaviour) < FAULTS_PER_SHUNNING]
    assert all(liar.host_id not in node.mesh.shunned for node in innocent)


def test_a_liar_that_has_reformed_is_linked_again_when_the_time_is_over_and_the_next_time_is_longer() -> None:
    pool, liar = pool_with_liar(5, Lie.ALTERED_MESSAGES)
    talk_until(pool, lambda: bool(shunning(pool, liar.host_id)), timeout_s=120.0)
    victim = shunning(pool, liar.host_id)[0]

    def is_shunned() -> bool:
        return liar.host_id in victim.mesh.shunned

    lies, liar.lies = liar.lies, frozenset()
    began_at = pool.network.now
    pool.run_for(MIN_SHUN_S - 2.0)
    assert is_shunned()
    assert liar.host_id not in victim.links
    pool.run_for(12.0)
    assert victim.host_id in liar.links
    assert liar.host_id in victim.links
    liar.lies = lies
    talk_until(pool, is_shunned, timeout_s=300.0)
    again_at = pool.network.now
    assert again_at > began_at + MIN_SHUN_S
    until = victim.conduct.machine.of(liar.host_id, again_at)
    assert until is not None
    assert until.shunned_until is not None
    assert again_at + MIN_SHUN_S < until.shunned_until <= again_at + 2 * MIN_SHUN_S < again_at + MAX_SHUN_S


def test_who_starts_anew_has_forgotten_what_others_did() -> None:
    pool, liar = pool_with_liar(5, Lie.ALTERED_MESSAGES)
    talk_until(pool, lambda: bool(shunning(pool, liar.host_id)), timeout_s=60.0)
    node = shunning(pool, liar.host_id)[0]
    liar.lies = frozenset()
    node.crash()
    node.join()
    pool.run_for(10.0)
    assert liar.host_id in node.links


def test_a_wrong_piece_and_broken_promises_cost_credit_and_not_the_link() -> None:
    caught: dict[Lie, set[Kind]] = {}
    for lie, rate in ((Lie.WRONG_PIECES, 0.3), (Lie.EMPTY_PROMISES, 1.0)):
        pool, liar = pool_with_liar(5, lie, seed=3)
        file_id = pool.offer(pool.nodes[0], 16 * MIB)
        liar.fetch(file_id)
        pool.run_for(15.0)
        pool.nodes[0].leave()  # nobody but the liar has it all
        lacking = pool.nodes[1:5]
        for node in lacking:
            node.fetch(file_id)
        liar.rate = rate  # the root of the tree must come: until it is here, nobody knows who is wrong
        pool.run_for(90.0)
        assert min(node.conduct.machine.credit_of(liar.host_id) for node in lacking) < MAX_WANT_WINDOW
        seen = [node.conduct.machine.of(liar.host_id, pool.network.now) for node in lacking]
        caught[lie] = {kind for conduct in seen if conduct is not None for kind in conduct.counts}
        assert shunning(pool, liar.host_id) == []
    assert caught[Lie.WRONG_PIECES] == {Kind.BAD_CHUNK}
    assert caught[Lie.EMPTY_PROMISES] == {Kind.BROKEN_PROMISE}


def test_a_clock_that_is_wrong_by_minutes_is_noted_and_costs_nothing() -> None:
    pool = SimPool(1, 5, conditions=PATHS)
    late = pool.add_node(clock_error_ms=-5 * 60_000)
    pool.run_for(3 * CONDUCT_CHECK_INTERVAL_S)
    for node in pool.nodes[:-1]:
        seen = node.conduct.machine.of(late.host_id, pool.network.now)
        assert seen is not None
        assert seen.counts.keys() == {Kind.CLOCK}
        assert late.host_id in node.links
    assert pool.server.judged == []


def test_neighbours_that_complain_again_and_again_put_a_node_out_of_the_roster_for_a_while() -> None:
    pool = SimPool(2, 6, conditions=PATHS)
    bad, *others = pool.nodes
    pool.run_for(10.0)
    for _ in range(STRIKES_PER_REMOVAL):
        assert bad.host_id in pool.server.roster
        for node in others:
            pool.server.complain(node, bad.host_id)
        pool.run_for(STRIKE_INTERVAL_S + 1.0)
    verdicts = [Verdict.MOVE] * (STRIKES_PER_REMOVAL - 1) + [Verdict.REMOVE]
    assert [(judged.node, judged.verdict) for judged in pool.server.judged] == [(bad.host_id, it) for it in verdicts]
    assert all(bad.host_id not in node.roster for node in others)
    pool.run_for(REMOVAL_S)
    assert all(bad.host_id in node.links for node in others)


def test_a_node_of_a_larger_pool_that_is_caught_by_most_of_its_neighbours_gets_others() -> None:
    pool, liar = pool_with_liar(16, Lie.ALTERED_MESSAGES, seed=2)
    before = liar.roster.neighbours(liar.host_id)
    talk_until(pool, lambda: bool(pool.server.judged), timeout_s=180.0)
    pool.run_for(2.0)
    assert [(judged.node, judged.verdict) for judged in pool.server.judged] == [(liar.host_id, Verdict.MOVE)]
    assert liar.roster.neighbours(liar.host_id) != before


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_liar_in_a_larger_pool_is_out_of_the_roster_after_some_minutes(seed: int) -> None:
    pool, liar = pool_with_liar(24, Lie.ALTERED_MESSAGES, seed=seed)
    talk_until(pool, lambda: pool.server.is_expelled(liar.host_id), timeout_s=600.0)
    assert {judged.node for judged in pool.server.judged} == {liar.host_id}
    assert len(pool.server.judged) == STRIKES_PER_REMOVAL


@pytest.mark.parametrize("seed", range(3))
def test_a_third_that_slanders_all_its_neighbours_puts_nobody_out_and_costs_nobody_a_link(seed: int) -> None:
    pool = SimPool(seed, 20, conditions=PATHS)
    for _ in range(10):
        pool.add_node(is_liar=[Lie.SLANDER])
    honest, liars = pool.nodes[:20], {node.host_id for node in pool.nodes[20:]}
    for _ in range(4):
        pool.run_for(60.0)
        assert {node.host_id for node in honest} <= pool.server.roster.nodes
        for node in honest:
            ring = node.roster.neighbours(node.host_id)
            assert ring <= node.links
            assert not node.mesh.shunned
    for judged in pool.server.judged:
        assert judged.verdict is Verdict.MOVE
        assert 2 * len(judged.neighbours & liars) > len(judged.neighbours)


def test_two_slanderers_in_a_full_mesh_and_two_of_sixteen_change_nothing() -> None:
    for count, liars in ((5, 2), (16, 2)):
        pool = SimPool(1, count, conditions=PATHS)
        for _ in range(liars):
            pool.add_node(is_liar=[Lie.SLANDER])
        pool.run_for(120.0)
        assert pool.server.judged == []


def test_a_server_that_is_away_hears_of_a_liar_when_it_is_back() -> None:
    pool, liar = pool_with_liar(6, Lie.ALTERED_MESSAGES, seed=4)
    pool.server.stop()
    talk_until(pool, lambda: len(shunning(pool, liar.host_id)) >= 4, timeout_s=120.0)
    pool.server.start()
    liar.lies = frozenset()
    pool.run_for(2 * CONDUCT_CHECK_INTERVAL_S)
    assert [(judged.node, judged.verdict) for judged in pool.server.judged] == [(liar.host_id, Verdict.MOVE)]
