"""The mesh: what is dialled when, who replaces whom, and which links are closed."""

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poolnet.ids import DeviceId
from poolnet.limits import (
    ACQUAINTANCE_DELAY_S,
    GLARE_WAIT_S,
    GONE_AFTER_DIALS,
    LINK_GRACE_S,
    MAX_BACKOFF_S,
    MAX_TEMPORARY_LINKS,
    MIN_BACKOFF_S,
)
from poolnet.protocol import mesh
from poolnet.protocol.mesh import (
    CloseLink,
    Dial,
    DialFailed,
    LinkDown,
    LinkUp,
    Mesh,
    MeshEffect,
    RosterChanged,
    Shun,
    Unreachable,
    WantDirect,
)
from poolnet.protocol.rings import Roster
from poolnet.wire.sync_frames import RosterEntry


def node_number(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


def ring_of(count: int) -> Roster:
    """Nodes 0 … count - 1 in the order of their numbers on all three rings: two neighbours each."""
    roster = Roster()
    roster.reset(1, [RosterEntry(node=node_number(n), places=(n, n, n)) for n in range(count)])
    return roster


def mesh_of(number: int, roster: Roster) -> Mesh:
    return Mesh(node_number(number), roster, Random(number), has_acquaintance=False)


def dialled(effects: list[MeshEffect]) -> set[int]:
    return {int.from_bytes(effect.peer, "big") for effect in effects if isinstance(effect, Dial)}


def numbers(peers: frozenset[DeviceId]) -> set[int]:
    return {int.from_bytes(peer, "big") for peer in peers}


def fail_until_gone(machine: Mesh, peer: DeviceId, now: float) -> tuple[float, list[MeshEffect]]:
    """Let the dial that is under way fail, and those after it, until the peer counts as gone."""
    effects: list[MeshEffect] = []
    for _ in range(GONE_AFTER_DIALS - 1):
        machine.handle(DialFailed(peer), now)
        now += MIN_BACKOFF_S * 2
        assert Dial(peer) in machine.tick(now)
    effects += machine.handle(DialFailed(peer), now)
    return now, effects


def test_of_a_pair_the_smaller_id_dials_at_once_and_the_larger_waits() -> None:
    machine = mesh_of(5, ring_of(10))
    assert dialled(machine.handle(RosterChanged(), 100.0)) == {6}
    assert machine.next_deadline() == 100.0 + GLARE_WAIT_S
    machine.handle(LinkUp(node_number(6), is_dialler=True), 100.1)
    assert dialled(machine.tick(100.0 + GLARE_WAIT_S)) == {4}


def test_who_has_just_come_dials_all_its_neighbours_at_once_whatever_their_ids() -> None:
    machine, roster = mesh_of(5, ring_of(10)), ring_of(10)
    came = machine.handle(RosterChanged(frozenset(roster.nodes)), 100.0)
    assert dialled(came) == {4, 6}


def test_to_whom_somebody_comes_waits_for_its_dial_and_then_dials() -> None:
    for newcomer in (4, 6):
        roster = ring_of(10)
        machine = mesh_of(5, roster)
        roster.apply_left(2, node_number(newcomer))
        machine.handle(RosterChanged(), 0.0)
        for peer in machine.wanted:
            machine.handle(LinkUp(peer, is_dialler=False), 0.0)
        roster.apply_joined(3, RosterEntry(node=node_number(newcomer), places=(newcomer,) * 3))
        assert dialled(machine.handle(RosterChanged(frozenset({node_number(newcomer)})), 100.0)) == set()
        assert machine.next_deadline() == 100.0 + GLARE_WAIT_S
        assert dialled(machine.tick(100.0 + GLARE_WAIT_S)) == {newcomer}


def test_who_is_moved_on_the_rings_dials_its_new_neighbours() -> None:
    roster = ring_of(20)
    machine = mesh_of(15, roster)
    machine.handle(RosterChanged(), 0.0)
    for peer in (14, 16):
        machine.handle(LinkUp(node_number(peer), is_dialler=False), 0.0)
    roster.apply_joined(2, RosterEntry(node=node_number(15), places=(5, 5, 5)))  # between 5 and 6
    assert dialled(machine.handle(RosterChanged(frozenset({node_number(15)})), 100.0)) == {5, 6}


def test_who_came_a_while_ago_is_treated_as_all_others() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(frozenset({node_number(5), node_number(4)})), 100.0)
    for peer in (4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 100.0)
    assert dialled(machine.handle(LinkDown(node_number(4)), 200.0)) == set()
    assert dialled(machine.handle(LinkDown(node_number(6)), 200.0)) == {6}


def test_who_is_shunned_loses_its_link_and_the_next_on_the_ring_takes_its_place_until_the_time_is_over() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 100.0)
    for number in (4, 6):
        machine.handle(LinkUp(node_number(number), is_dialler=True), 100.0)
    effects = machine.handle(Shun(node_number(6), 160.0), 101.0)
    assert CloseLink(node_number(6), mesh.SHUNNED) in effects
    assert dialled(effects) == {7}
    assert numbers(machine.wanted) == {4, 7}
    assert not machine.may_accept(node_number(6))
    assert machine.may_accept(node_number(3))
    machine.handle(LinkDown(node_number(6)), 101.0)
    machine.handle(LinkUp(node_number(7), is_dialler=True), 101.0)
    machine.handle(RosterChanged(frozenset({node_number(6)})), 130.0)  # other places are no amnesty
    machine.handle(WantDirect(frozenset({node_number(6)})), 140.0)
    assert dialled(machine.tick(159.0)) == set()
    assert machine.next_deadline() == 160.0
    assert dialled(machine.tick(160.0)) == {6}
    assert machine.may_accept(node_number(6))


def test_while_one_is_shunned_links_to_others_that_are_not_needed_are_closed_all_the_same() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    for peer in (2, 4, 6, 15):
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 0.0)
    effects = machine.handle(Shun(node_number(2), 100.0), LINK_GRACE_S)
    assert effects == [CloseLink(node_number(2), mesh.SHUNNED), CloseLink(node_number(15), mesh.NOT_A_NEIGHBOUR)]


def test_a_link_that_comes_up_with_somebody_who_was_shunned_meanwhile_is_closed() -> None:
    machine = mesh_of(5, ring_of(10))
    assert dialled(machine.handle(RosterChanged(), 100.0)) == {6}
    machine.handle(Shun(node_number(6), 160.0), 100.1)
    effects = machine.handle(LinkUp(node_number(6), is_dialler=True), 100.2)
    assert effects == [CloseLink(node_number(6), mesh.SHUNNED)]
    assert not [effect for effect in machine.tick(101.0) if isinstance(effect, CloseLink)]


def test_the_larger_does_not_dial_when_the_smaller_got_through() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(6), is_dialler=True), 0.1)
    machine.handle(LinkUp(node_number(4), is_dialler=False), 0.2)
    assert machine.next_deadline() is None
    assert machine.tick(1000.0) == []


def test_a_peer_that_cannot_be_dialled_is_reported_and_replaced_by_the_next_on_the_ring() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    _, effects = fail_until_gone(machine, node_number(6), 8.0)
    assert effects.count(Unreachable(node_number(6))) == 1
    assert numbers(machine.wanted) == {4, 7}
    assert dialled(effects) == {7}


def test_only_failures_in_a_row_make_a_peer_gone_and_waits_begin_small() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(4), is_dialler=False), 0.0)
    now = 0.0
    for _ in range(5):
        for _ in range(GONE_AFTER_DIALS - 1):
            assert machine.handle(DialFailed(node_number(6)), now) == []
            now = machine.next_deadline() or now
            assert machine.tick(now) == [Dial(node_number(6))]
        machine.handle(LinkUp(node_number(6), is_dialler=True), now)
        assert not machine.gone
        now += 60.0  # it was stable, so what was before is forgotten
        assert machine.handle(LinkDown(node_number(6)), now) == [Dial(node_number(6))]
    machine.handle(DialFailed(node_number(6)), now)
    deadline = machine.next_deadline()
    assert deadline is not None
    assert MIN_BACKOFF_S / 2 <= deadline - now <= MIN_BACKOFF_S


def test_links_that_are_meant_to_stay_are_those_to_who_is_wanted_or_in_no_roster() -> None:
    machine = Mesh(node_number(5), ring_of(30), Random(1))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(WantDirect(frozenset({node_number(20)})), 0.0)
    for peer in (4, 6, 15):
        machine.handle(LinkUp(node_number(peer), is_dialler=False), 0.0)
    assert [machine.is_steady(node_number(peer)) for peer in (4, 20, 15, 77)] == [True, True, False, True]
    machine.tick(1000.0)
    (acquaintance,) = numbers(machine.wanted) - {4, 6, 20}
    assert not machine.is_steady(node_number(acquaintance))


@pytest.mark.parametrize("seed", range(5))
def test_an_acquaintance_is_drawn_of_those_who_are_neither_linked_nor_lost_nor_shunned(seed: int) -> None:
    machine = Mesh(node_number(5), ring_of(10), Random(seed))
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 0, 1, 2):
        machine.handle(LinkUp(node_number(peer), is_dialler=False), 0.0)
    now, _ = fail_until_gone(machine, node_number(6), 0.0)
    machine.handle(LinkUp(node_number(7), is_dialler=True), now)
    machine.handle(Shun(node_number(3), 1e6), now)
    machine.handle(Shun(node_number(9), 1e6), now)
    machine.tick(machine.next_deadline() or now)  # 6 is tried again, and not there
    machine.handle(DialFailed(node_number(6)), now)
    machine.tick(now + 5 * ACQUAINTANCE_DELAY_S)
    assert numbers(machine.wanted) == {4, 7, 8}
    assert numbers(machine.shunned) == {3, 9}


def test_two_lost_nodes_in_a_row_are_stepped_over() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    now, _ = fail_until_gone(machine, node_number(6), 1.0)
    now, effects = fail_until_gone(machine, node_number(7), now)
    assert dialled(effects) == {8}
    assert numbers(machine.gone) == {6, 7}
    assert machine.statistics().failed_dials == 2 * GONE_AFTER_DIALS
    machine.handle(LinkUp(node_number(8), is_dialler=True), now)
    machine.handle(LinkUp(node_number(4), is_dialler=False), now)
    machine.handle(DialFailed(node_number(6)), now)  # it was tried again meanwhile
    assert dialled(machine.tick(now + MAX_BACKOFF_S)) == {6, 7}, "each would be the nearest if it were back"


def test_a_gone_peer_is_retried_with_growing_waits_and_takes_its_place_back() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(4), is_dialler=False), 0.0)
    now, _ = fail_until_gone(machine, node_number(6), 1.0)
    machine.handle(LinkUp(node_number(7), is_dialler=True), now)
    waits = []
    for _ in range(10):
        deadline = machine.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        assert machine.tick(now) == [Dial(node_number(6))]
        machine.handle(DialFailed(node_number(6)), now)
    assert all(MIN_BACKOFF_S / 2 <= wait <= MAX_BACKOFF_S for wait in waits)
    assert waits[-1] > MAX_BACKOFF_S / 2
    now = machine.next_deadline() or now
    machine.tick(now)
    machine.handle(LinkUp(node_number(6), is_dialler=True), now)
    assert numbers(machine.wanted) == {4, 6}
    assert machine.next_deadline() == now + LINK_GRACE_S
    assert machine.tick(now + LINK_GRACE_S) == [CloseLink(node_number(7), mesh.NOT_A_NEIGHBOUR)]
    assert machine.tick(now + LINK_GRACE_S + 1) == []


def test_a_gone_peer_that_comes_by_itself_is_a_neighbour_again() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    now, _ = fail_until_gone(machine, node_number(6), 1.0)
    assert machine.may_accept(node_number(6))
    machine.handle(LinkUp(node_number(6), is_dialler=False), now)
    assert numbers(machine.wanted) == {4, 6}
    assert not machine.gone


def test_a_peer_with_new_places_gets_a_fresh_chance() -> None:
    roster = ring_of(10)
    machine = mesh_of(5, roster)
    machine.handle(RosterChanged(), 0.0)
    now, _ = fail_until_gone(machine, node_number(6), 1.0)
    roster.apply_joined(2, RosterEntry(node=node_number(6), places=(6, 6, 6)))
    assert machine.handle(RosterChanged(frozenset({node_number(6)})), now) == []  # it dials first
    assert numbers(machine.wanted) == {4, 6}
    assert dialled(machine.tick(now + GLARE_WAIT_S)) == {4, 6}


def test_a_lost_link_is_dialled_again_and_one_that_flaps_less_and_less_often() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(4), is_dialler=False), 0.0)
    machine.handle(LinkUp(node_number(6), is_dialler=True), 0.0)
    assert machine.handle(LinkDown(node_number(6)), 60.0) == [Dial(node_number(6))]
    now = 60.0
    waits = []
    for _ in range(6):
        machine.handle(LinkUp(node_number(6), is_dialler=True), now)
        machine.handle(LinkDown(node_number(6)), now)
        deadline = machine.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        now = deadline
        assert machine.tick(now) == [Dial(node_number(6))]
    assert waits[0] >= MIN_BACKOFF_S / 2
    assert waits[-1] >= 8 * MIN_BACKOFF_S


def test_a_link_that_others_dialled_is_left_to_them() -> None:
    machine = mesh_of(5, ring_of(20))
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(12), is_dialler=False), 0.0)
    assert machine.tick(1000.0) == [Dial(node_number(4))]
    assert machine.statistics().guests == 1


def test_guests_make_room_for_neighbours_the_oldest_first() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    for guest in range(10, 10 + mesh.MAX_LINKS):
        assert machine.may_accept(node_number(guest))
        assert machine.handle(LinkUp(node_number(guest), is_dialler=False), float(guest)) in (
            [],
            [Dial(node_number(4))],
        )
    assert not machine.may_accept(node_number(25))
    assert machine.may_accept(node_number(6))
    effects = machine.handle(LinkUp(node_number(6), is_dialler=True), 100.0)
    assert effects == [CloseLink(node_number(10), mesh.TOO_MANY_LINKS)]
    assert machine.tick(101.0) == []


def test_a_link_to_a_node_that_left_the_roster_is_kept_as_a_guest_whoever_dialled_it() -> None:
    roster = ring_of(30)
    machine = mesh_of(5, roster)
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=peer == 6), 0.0)
        roster.apply_left(roster.epoch + 1, node_number(peer))
        machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(7), is_dialler=True), 1.0)
    machine.handle(LinkUp(node_number(3), is_dialler=False), 1.0)
    assert machine.tick(1.0 + 100 * LINK_GRACE_S) == []
    assert numbers(machine.linked) == {3, 4, 6, 7}
    assert numbers(machine.wanted) == {3, 7}
    for guest in range(10, 10 + mesh.MAX_LINKS - 4):
        assert machine.handle(LinkUp(node_number(guest), is_dialler=False), 2000.0) == []
    effects = machine.handle(LinkUp(node_number(25), is_dialler=False), 2000.0)
    assert effects == [CloseLink(node_number(4), mesh.TOO_MANY_LINKS)]


def test_a_link_to_a_node_that_came_back_elsewhere_is_closed_by_who_dialled_it() -> None:
    roster = ring_of(30)
    machine = mesh_of(5, roster)
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=peer == 6), 0.0)
    roster.apply_left(2, node_number(6))
    machine.handle(RosterChanged(), 1.0)
    machine.handle(LinkUp(node_number(7), is_dialler=True), 1.0)
    roster.apply_joined(3, RosterEntry(node=node_number(6), places=(20, 20, 20)))
    machine.handle(RosterChanged(frozenset({node_number(6)})), 50.0)
    assert machine.tick(50.0 + LINK_GRACE_S - 0.1) == []
    assert machine.tick(50.0 + LINK_GRACE_S) == [CloseLink(node_number(6), mesh.NOT_A_NEIGHBOUR)]


def test_a_node_that_is_back_within_the_grace_keeps_its_links() -> None:
    roster = ring_of(10)
    machine = mesh_of(5, roster)
    machine.handle(RosterChanged(), 0.0)
    for peer in (3, 4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=peer > 5), 0.0)
    roster.apply_left(2, node_number(6))
    machine.handle(RosterChanged(), 1.0)
    roster.apply_joined(3, RosterEntry(node=node_number(6), places=(6, 6, 6)))
    machine.handle(RosterChanged(frozenset({node_number(6)})), 5.0)
    effects = machine.tick(1.0 + LINK_GRACE_S)
    assert not any(isinstance(effect, CloseLink) for effect in effects)


def test_a_node_that_is_not_in_the_roster_itself_keeps_all_links_and_dials_nobody() -> None:
    roster = ring_of(10)
    machine = mesh_of(5, roster)
    machine.handle(RosterChanged(), 0.0)
    machine.handle(LinkUp(node_number(6), is_dialler=True), 0.0)
    roster.apply_left(2, node_number(5))
    machine.handle(RosterChanged(), 1.0)
    assert machine.next_deadline() is None
    assert machine.tick(1000.0) == []


def test_dials_failures_and_closed_links_are_counted() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 6, 15, 16):
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 0.0)
    machine.handle(WantDirect(frozenset({node_number(20)})), 0.0)
    machine.handle(DialFailed(node_number(20)), 0.0)
    machine.tick(LINK_GRACE_S)
    found = machine.statistics()
    assert (found.dials, found.failed_dials, found.closed) == (3, 1, 2)  # 6, and 20 twice
    assert (found.links, found.guests, found.gone) == (4, 2, 0)


def test_a_direct_link_is_dialled_at_once_kept_and_closed_after_it_is_dropped() -> None:
    machine = mesh_of(5, ring_of(20))
    machine.handle(RosterChanged(), 0.0)
    for peer in (4, 6):
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 0.0)
    assert machine.handle(WantDirect(frozenset({node_number(2)})), 1.0) == [Dial(node_number(2))]
    machine.handle(LinkUp(node_number(2), is_dialler=True), 1.1)
    assert machine.tick(500.0) == []
    machine.handle(WantDirect(frozenset()), 600.0)
    assert machine.tick(600.0 + LINK_GRACE_S) == [CloseLink(node_number(2), mesh.NOT_A_NEIGHBOUR)]


def direct(machine: Mesh) -> set[int]:
    """The peers that are wanted beyond the two neighbours in a ring."""
    return numbers(machine.wanted) - {4, 6}


def test_direct_links_are_bounded() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    effects = machine.handle(WantDirect(frozenset(map(node_number, [5, *range(10, 20)]))), 1.0)
    assert len(dialled(effects)) == MAX_TEMPORARY_LINKS
    assert machine.handle(WantDirect(frozenset({node_number(5)})), 1.0) == []


def test_which_of_many_are_linked_directly_follows_from_chance_and_not_from_their_ids() -> None:
    drawn: Counter[int] = Counter()
    for seed in range(500):
        machine = Mesh(node_number(5), ring_of(30), Random(seed), has_acquaintance=False)
        machine.handle(WantDirect(frozenset(map(node_number, range(10, 30)))), 1.0)
        drawn.update(direct(machine))
    assert set(drawn) == set(range(10, 30))
    assert all(60 < count < 140 for count in drawn.values()), drawn


def test_who_is_linked_directly_stays_while_others_come_and_go() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    holders = frozenset(map(node_number, range(10, 20)))
    machine.handle(WantDirect(holders), 1.0)
    first = direct(machine)
    for _ in range(20):
        assert machine.handle(WantDirect(holders), 1.0) == []
        assert machine.handle(WantDirect(frozenset(map(node_number, range(10, 30)))), 1.0) == []
        assert direct(machine) == first
    gone = min(first)
    machine.handle(WantDirect(holders - {node_number(gone)}), 1.0)
    assert direct(machine) >= first - {gone}
    assert len(direct(machine)) == MAX_TEMPORARY_LINKS
    assert gone not in direct(machine)


def test_who_cannot_be_linked_directly_is_replaced_unless_there_is_nobody_else() -> None:
    machine = mesh_of(5, ring_of(30))
    machine.handle(RosterChanged(), 0.0)
    holders = frozenset(map(node_number, range(10, 20)))
    machine.handle(WantDirect(holders), 1.0)
    lost, shunned, *kept = sorted(direct(machine))
    for peer in kept:
        machine.handle(LinkUp(node_number(peer), is_dialler=True), 1.0)
    fail_until_gone(machine, node_number(lost), 1.0)
    machine.handle(Shun(node_number(shunned), 500.0), 2.0)
    machine.handle(WantDirect(holders), 60.0)
    assert direct(machine) > set(kept)
    assert len(direct(machine)) == MAX_TEMPORARY_LINKS
    assert not direct(machine) & {lost, shunned}
    machine.handle(WantDirect(frozenset({node_number(lost)})), 60.0)
    assert direct(machine) == {lost}


def test_a_failed_dial_does_not_count_when_the_other_side_got_through() -> None:
    machine = mesh_of(5, ring_of(10))
    machine.handle(RosterChanged(), 0.0)
    for _ in range(GONE_AFTER_DIALS + 1):
        machine.handle(LinkUp(node_number(6), is_dialler=False), 1.0)
        assert machine.handle(DialFailed(node_number(6)), 1.0) == []
    assert not machine.gone


POOL = 12
PEERS = st.integers(0, POOL - 1).map(node_number)


class MeshInAnyOrder(RuleBasedStateMachine):
    """Any events in any order: at most one dial a peer, never to a linked one, and no timer that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = ring_of(POOL)
        self.mesh = Mesh(node_number(5), self.roster, Random(5))
        self.now = 0.0
        self.dialling: set[DeviceId] = set()
        self.linked: set[DeviceId] = set()
        self.take(self.mesh.handle(RosterChanged(), self.now))

    def take(self, effects: list[MeshEffect]) -> None:
        for effect in effects:
            match effect:
                case Dial(peer):
                    assert peer not in self.dialling
                    assert peer not in self.linked
                    assert peer != self.mesh.node
                    assert peer not in self.mesh.shunned
                    self.dialling.add(peer)
                case CloseLink(peer, _):
                    assert peer in self.linked
                case Unreachable(peer):
                    assert peer not in self.linked

    @rule(data=st.data())
    def answer_a_dial(self, data: st.DataObject) -> None:
        if self.dialling:
            peer = data.draw(st.sampled_from(sorted(self.dialling)))
            self.dialling.remove(peer)
            if data.draw(st.booleans()):
                self.linked.add(peer)
                self.take(self.mesh.handle(LinkUp(peer, is_dialler=True), self.now))
            else:
                self.take(self.mesh.handle(DialFailed(peer), self.now))

    @rule(peer=PEERS)
    def accept(self, peer: DeviceId) -> None:
        if peer != self.mesh.node and self.mesh.may_accept(peer):
            self.dialling.discard(peer)
            self.linked.add(peer)
            self.take(self.mesh.handle(LinkUp(peer, is_dialler=False), self.now))

    @rule(data=st.data())
    def lose_a_link(self, data: st.DataObject) -> None:
        if self.linked:
            peer = data.draw(st.sampled_from(sorted(self.linked)))
            self.linked.remove(peer)
            self.take(self.mesh.handle(LinkDown(peer), self.now))

    @rule(peer=PEERS, wait_s=st.floats(1, 100))
    def shun(self, peer: DeviceId, wait_s: float) -> None:
        if peer != self.mesh.node:
            self.take(self.mesh.handle(Shun(peer, self.now + wait_s), self.now))
            assert not self.mesh.may_accept(peer)

    @rule(peer=PEERS, places=st.tuples(*[st.integers(0, POOL)] * 3), joins=st.booleans())
    def change_the_roster(self, peer: DeviceId, places: tuple[int, ...], joins: bool) -> None:
        if joins:
            self.roster.apply_joined(self.roster.epoch + 1, RosterEntry(node=peer, places=places))
        else:
            self.roster.apply_left(self.roster.epoch + 1, peer)
        self.take(self.mesh.handle(RosterChanged(frozenset({peer}) if joins else frozenset()), self.now))

    @rule(peers=st.frozensets(PEERS))
    def want_direct(self, peers: frozenset[DeviceId]) -> None:
        self.take(self.mesh.handle(WantDirect(peers), self.now))

    @rule(wait_s=st.floats(0, 40))
    def wait(self, wait_s: float) -> None:
        self.now += wait_s
        self.take(self.mesh.tick(self.now))

    @invariant()
    def the_next_deadline_is_ahead(self) -> None:
        deadline = self.mesh.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def every_wanted_peer_is_linked_dialled_or_due(self) -> None:
        assert self.mesh.linked == self.linked
        if self.mesh.wanted - self.linked - self.dialling:
            assert self.mesh.next_deadline() is not None


MeshInAnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMeshInAnyOrder = MeshInAnyOrder.TestCase


@pytest.mark.parametrize("failures", [1, 5, 50, 5000])
def test_the_back_off_stays_in_its_bounds_however_often_a_dial_fails(failures: int) -> None:
    machine = mesh_of(0, ring_of(2))
    machine.handle(RosterChanged(), 0.0)
    now = 0.0
    for _ in range(failures):
        machine.handle(DialFailed(node_number(1)), now)
        deadline = machine.next_deadline()
        assert deadline is not None
        assert MIN_BACKOFF_S / 2 <= deadline - now <= MAX_BACKOFF_S
        now = deadline
        assert machine.tick(now) == [Dial(node_number(1))]
