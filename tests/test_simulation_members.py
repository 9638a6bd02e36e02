"""Members that are promoted and removed in the simulator, and such as conspire against one of them."""

import pytest

from poolnet.identity.statements import Role
from poolnet.limits import ACQUAINTANCE_S
from poolnet.protocol.acquaintance import Acquaintance
from poolnet.testing import PathConditions, SimNode, SimPool
from poolnet.testing.runner import run_seed
from poolnet.testing.sim_liars import Lie

PATHS = PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02)
CONSPIRACY = (Lie.SURROUND, Lie.SILENCE, Lie.FALSE_HAVES)


def pool_of(count: int, *, seed: int = 1) -> SimPool:
    """Return a pool with statements: the founder has made the second an admin, and that one the third."""
    pool = SimPool(seed, count, conditions=PATHS, has_statements=True)
    pool.run_for(10.0)
    for admin, node in zip(pool.nodes[:2], pool.nodes[1:3], strict=True):
        admin.set_role(node.host_id, Role.ADMIN)
        pool.run_for(2.0)
    return pool


def members_as_known_to(node: SimNode) -> dict[bytes, Role]:
    assert node.standing is not None
    return {member.device_id: member.role for member in node.standing.membership.members().values()}


def test_everyone_learns_who_joined_and_who_was_promoted() -> None:
    pool = pool_of(9)
    known = [members_as_known_to(node) for node in pool.nodes]
    assert known == [known[0]] * 9
    assert [known[0][node.host_id] for node in pool.nodes] == [Role.ADMIN] * 3 + [Role.MEMBER] * 6


def test_a_removed_member_goes_and_only_what_it_said_before_stays() -> None:
    pool = pool_of(9)
    ann, bob, *_, eve = pool.nodes
    before = pool.publish(eve, b"hello")
    pool.run_for(2.0)
    pool.network.partition([bob.host_id])
    bob.remove(eve.host_id)
    pool.run_for(1.0)
    after = pool.publish(eve, b"still here")
    pool.run_for(2.0)
    assert after in ann.history
    pool.network.heal()
    pool.run_for(15.0)
    assert not eve.is_up
    for node in pool.nodes[:-1]:
        assert eve.host_id not in node.roster
        assert eve.host_id not in node.links
        assert before in node.history
        assert after not in node.history
    eve.join()
    assert not eve.is_up


@pytest.mark.parametrize("seed", range(4))
def test_a_removal_wins_over_what_the_removed_one_does_at_the_same_time_and_all_see_it_so(seed: int) -> None:
    pool = pool_of(10, seed=seed)
    first, second, third, fourth = pool.nodes[1:5]
    pool.network.partition(node.host_id for node in (second, *pool.nodes[6:9]))
    pool.run_for(1.0)
    for node, others in ((second, (first, third)), (first, (second, fourth))):
        for other in others:
            node.remove(other.host_id)
        pool.publish(node, b"they are out")
    pool.run_for(20.0)
    assert second.host_id not in members_as_known_to(first)
    assert third.host_id not in members_as_known_to(second)
    pool.network.heal()
    pool.run_for(60.0)
    truth = pool.membership()
    assert truth is not None
    rest = [node for node in pool.online() if truth.is_member(node.host_id)]
    known = [members_as_known_to(node) for node in rest]
    assert known == [{member.device_id: member.role for member in truth.members().values()}] * len(rest)
    assert truth.is_member(first.host_id)
    assert not truth.is_member(second.host_id)
    assert truth.is_member(third.host_id)
    assert not truth.is_member(fourth.host_id)
    assert pool.agree(rest)
    assert {node.host_id for node in rest} == pool.server.roster.nodes


def test_a_removed_liar_that_stays_finds_nobody_who_talks_to_it() -> None:
    pool = pool_of(8)
    liar = pool.add_node(is_liar=[Lie.CROWD, Lie.FLOOD, Lie.REPLAYS])
    pool.run_for(10.0)
    assert any(liar.host_id in node.links for node in pool.nodes)
    pool.nodes[2].remove(liar.host_id)
    pool.run_for(15.0)
    assert liar.is_up
    assert not any(liar.host_id in node.links for node in pool.nodes)
    assert liar.host_id not in pool.server.roster
    said = {msg_id for node in pool.nodes for msg_id in node.history}
    pool.run_for(15.0)
    assert {msg_id for node in pool.nodes for msg_id in node.history} == said


def test_liars_that_offer_wrong_sizes_cost_time_and_nobody_its_file_or_its_name() -> None:
    pool = SimPool(5, 8, conditions=PATHS)
    pool.run_for(10.0)
    file_id = pool.offer(pool.nodes[0], 3_000_000)
    pool.run_for(1.0)
    liars = [pool.add_node(is_liar=[Lie.FALSE_SIZES]) for _ in range(4)]
    pool.run_for(20.0)
    assert max(len(set(node.files.sizes(file_id))) for node in pool.nodes[:8]) > 2
    for node in pool.nodes[1:8]:
        node.fetch(file_id)
    pool.run_for(60.0)
    assert all(file_id in node.completed for node in pool.nodes[1:8])
    assert [blame for node in pool.nodes[:8] for blame in node.misbehaviour] == []
    assert all(liar.is_up for liar in liars)


def surrounded_pool(seed: int) -> tuple[SimPool, list[SimNode]]:
    """Return twelve honest nodes and six that conspire against the first of them."""
    pool = SimPool(seed, 12, conditions=PATHS)
    honest = list(pool.nodes)
    pool.run_for(5.0)
    pool.publish(honest[0], b"I spoke first")
    pool.run_for(2.0)
    for _ in range(6):
        pool.add_node(is_liar=CONSPIRACY)
    pool.run_for(10.0)
    return pool, honest


def test_whoever_has_only_liars_for_neighbours_is_not_left_with_them() -> None:
    pool, honest = surrounded_pool(3)
    victim = honest[0]
    roster = victim.roster
    surroundings = {node.host_id for node in honest if node.host_id in roster.neighbours(victim.host_id)}
    for host_id in surroundings:  # as if none of its places had been beside an honest one's
        pool.network.block(victim.host_id, host_id)
        pool.network.reset_link(victim.host_id, host_id)
    pool.run_for(1.0)
    messages = [pool.publish(node, b"does it hear?") for node in honest[1:]]
    pool.run_for(3 * ACQUAINTANCE_S)
    assert all(msg_id in victim.history for msg_id in messages)


def test_colluders_take_all_places_for_guests_and_honest_nodes_miss_nothing() -> None:
    pool, honest = surrounded_pool(4)
    liars = {node.host_id for node in pool.nodes if node.is_liar}
    assert len(liars & honest[0].links) >= 3
    for number in range(30):
        pool.publish(honest[number % 12], b"%d" % number)
        pool.run_for(4.0)
    pool.run_for(60.0)
    assert pool.missed(honest) == []
    assert [blame for node in honest for blame in node.misbehaviour if blame.peer not in liars] == []


def test_without_acquaintances_a_third_that_conspires_leaves_somebody_with_one_honest_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Acquaintance, "update", lambda self, known, now: None)
    outcomes = (run_seed("surround", seed) for seed in (20, 32, 36, 43))
    assert any("links to honest nodes" in wrong for outcome in outcomes for wrong in outcome.violations)


@pytest.mark.parametrize("seed", [1, 122, 190])
def test_a_conspiracy_that_once_kept_a_file_away_does_not_any_more(seed: int) -> None:
    assert run_seed("surround", seed).violations == ()
