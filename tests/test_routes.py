"""How far a node is from a holder."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId
from poolnet.limits import FULL_MESH_SIZE
from poolnet.protocol.rings import Roster, draw_places
from poolnet.protocol.routes import hops_to_holder
from poolnet.wire.sync_frames import RosterEntry


def node(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


def make_roster(count: int, seed: int = 1) -> Roster:
    rng = Random(seed)
    roster = Roster()
    roster.reset(1, [RosterEntry(node=node(number), places=draw_places(rng)) for number in range(count)])
    return roster


def links_of(roster: Roster, number: int) -> frozenset[DeviceId]:
    return roster.neighbours(node(number))


def test_who_is_linked_to_a_holder_is_one_link_away() -> None:
    roster = make_roster(30)
    neighbour = min(links_of(roster, 0))
    assert hops_to_holder(roster, node(0), links_of(roster, 0), [neighbour]) == 1


def test_a_holder_outside_the_roster_counts_while_it_is_linked() -> None:
    assert hops_to_holder(make_roster(30), node(0), {node(99)}, [node(99)]) == 1
    assert hops_to_holder(make_roster(30), node(0), {node(1)}, [node(99)]) is None


def test_this_node_is_no_holder_for_itself_and_nobody_is_none() -> None:
    roster = make_roster(30)
    assert hops_to_holder(roster, node(0), links_of(roster, 0), [node(0)]) is None
    assert hops_to_holder(roster, node(0), links_of(roster, 0), []) is None


def test_in_a_full_mesh_a_holder_to_which_no_link_comes_up_is_two_links_away() -> None:
    roster = make_roster(FULL_MESH_SIZE)
    assert hops_to_holder(roster, node(0), links_of(roster, 0) - {node(3)}, [node(3)]) == 2


def test_without_links_there_is_no_way() -> None:
    assert hops_to_holder(make_roster(30), node(0), frozenset(), [node(5)]) is None


def test_the_way_never_leads_through_this_node_itself() -> None:
    roster = make_roster(FULL_MESH_SIZE + 1, seed=3)
    holder = next(iter(links_of(roster, 0)))
    others = links_of(roster, 0) - {holder}
    hops = hops_to_holder(roster, node(0), others, [holder])
    assert hops is not None
    assert hops >= 2


@given(seed=st.integers(0, 1000), count=st.integers(9, 60), holders=st.sets(st.integers(1, 8), min_size=1))
def test_somebody_nearer_is_always_among_the_links_and_each_step_is_one_nearer(
    seed: int, count: int, holders: set[int]
) -> None:
    roster = make_roster(count, seed)
    having = [node(holder) for holder in holders]
    hops = hops_to_holder(roster, node(0), links_of(roster, 0), having)
    assert hops is not None
    if hops > 1:
        distances = [hops_to_holder(roster, link, roster.neighbours(link), having) for link in links_of(roster, 0)]
        assert min(distance for distance in distances if distance is not None) == hops - 1
