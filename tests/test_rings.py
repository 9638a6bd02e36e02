"""Rings: a roster against a plain model, and the properties that the overlay is built on."""

from collections import deque
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poolnet.errors import ProtocolError
from poolnet.ids import DeviceId
from poolnet.limits import FULL_MESH_SIZE, MAX_RING_LINKS, RING_COUNT
from poolnet.protocol.rings import Roster, RosterChange, draw_places
from poolnet.wire.sync_frames import RosterEntry

NODES = [DeviceId(bytes([number]) * 32) for number in range(14)]
# few different places, so that equal ones are met
PLACES = st.tuples(*[st.integers(0, 5)] * RING_COUNT)


def filled_roster(count: int, seed: int = 1) -> Roster:
    rng = Random(seed)
    roster = Roster()
    roster.reset(count, [RosterEntry(node=DeviceId(rng.randbytes(32)), places=draw_places(rng)) for _ in range(count)])
    return roster


def model_neighbours(places: dict[DeviceId, tuple[int, ...]], node: DeviceId, without: set[DeviceId]) -> set[DeviceId]:
    """The definition, as slowly as it can be written."""
    if node not in places:
        return set()
    if len(places) <= FULL_MESH_SIZE:
        return set(places) - {node} - without
    found = set()
    for ring in range(RING_COUNT):
        left = [other for other in places if other == node or other not in without]
        left.sort(key=lambda other: (places[other][ring], other))
        if len(left) > 1:
            index = left.index(node)
            found |= {left[index - 1], left[(index + 1) % len(left)]}
    return found


class RosterAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster()
        self.places: dict[DeviceId, tuple[int, ...]] = {}
        self.epoch = 0

    @rule(node=st.sampled_from(NODES), places=PLACES)
    def join(self, node: DeviceId, places: tuple[int, ...]) -> None:
        self.epoch += 1
        self.places[node] = places
        assert self.roster.apply_joined(self.epoch, RosterEntry(node=node, places=places))

    @rule(node=st.sampled_from(NODES))
    def leave(self, node: DeviceId) -> None:
        self.epoch += 1
        self.places.pop(node, None)
        assert self.roster.apply_left(self.epoch, node)

    @rule(node=st.sampled_from(NODES), places=PLACES, age=st.integers(0, 3))
    def hear_an_old_event(self, node: DeviceId, places: tuple[int, ...], age: int) -> None:
        assert self.roster.apply_joined(self.epoch - age, RosterEntry(node=node, places=places))
        assert self.roster.apply_left(self.epoch - age, node)

    @rule(node=st.sampled_from(NODES), places=PLACES, gap=st.integers(2, 5))
    def hear_an_event_after_a_gap(self, node: DeviceId, places: tuple[int, ...], gap: int) -> None:
        assert not self.roster.apply_joined(self.epoch + gap, RosterEntry(node=node, places=places))
        assert not self.roster.apply_left(self.epoch + gap, node)

    @rule(entries=st.dictionaries(st.sampled_from(NODES), PLACES), epoch=st.integers(1, 1000))
    def reset(self, entries: dict[DeviceId, tuple[int, ...]], epoch: int) -> None:
        change = self.roster.reset(epoch, [RosterEntry(node=node, places=places) for node, places in entries.items()])
        assert change == RosterChange(
            frozenset(entries.keys() - self.places.keys()), frozenset(self.places.keys() - entries.keys())
        )
        self.epoch, self.places = epoch, dict(entries)

    @rule(without=st.sets(st.sampled_from(NODES)))
    def neighbours_without_some(self, without: set[DeviceId]) -> None:
        for node in NODES:
            assert self.roster.neighbours(node, without=without) == model_neighbours(self.places, node, without)

    @invariant()
    def same_nodes_and_neighbours(self) -> None:
        assert set(self.roster.nodes) == self.places.keys()
        assert len(self.roster) == len(self.places)
        assert {entry.node: entry.places for entry in self.roster.entries()} == self.places
        for node in NODES:
            assert self.roster.neighbours(node) == model_neighbours(self.places, node, set())


RosterAgainstModel.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRosterAgainstModel = RosterAgainstModel.TestCase


def test_an_old_event_is_ignored_and_one_after_a_gap_says_that_something_is_missing() -> None:
    roster = filled_roster(5)
    before, entry = roster.entries(), RosterEntry(node=NODES[0], places=(1,) * RING_COUNT)
    for epoch, is_complete in ((4, True), (5, True), (7, False)):
        assert roster.apply_joined(epoch, entry) is is_complete
        assert roster.apply_left(epoch, before[0].node) is is_complete
    assert roster.entries() == before
    assert roster.epoch == 5


def test_neighbourhood_is_mutual_and_bounded() -> None:
    roster = filled_roster(200)
    for node in roster.nodes:
        neighbours = roster.neighbours(node)
        assert 2 <= len(neighbours) <= MAX_RING_LINKS
        assert all(node in roster.neighbours(other) for other in neighbours)


def test_a_small_pool_is_a_full_mesh_and_the_next_node_ends_it() -> None:
    roster = filled_roster(FULL_MESH_SIZE)
    assert all(len(roster.neighbours(node)) == FULL_MESH_SIZE - 1 for node in roster.nodes)
    larger = filled_roster(FULL_MESH_SIZE + 20)
    assert all(len(larger.neighbours(node)) <= MAX_RING_LINKS for node in larger.nodes)


def test_a_join_and_a_leave_change_at_most_six_links_of_the_joiner() -> None:
    roster = filled_roster(100)
    before = {node: roster.neighbours(node) for node in roster.nodes}
    rng = Random(5)
    newcomer = RosterEntry(node=DeviceId(rng.randbytes(32)), places=draw_places(rng))
    assert roster.apply_joined(101, newcomer)
    changed = [node for node in before if roster.neighbours(node) != before[node]]
    assert len(changed) <= MAX_RING_LINKS
    assert roster.apply_left(102, newcomer.node)
    assert {node: roster.neighbours(node) for node in roster.nodes} == before


@pytest.mark.parametrize("count", [27, 81, 243, 1000])
def test_every_node_is_few_hops_from_every_other(count: int) -> None:
    roster = filled_roster(count)
    links = {node: roster.neighbours(node) for node in roster.nodes}
    start = min(links)
    hops = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in links[node] - hops.keys():
            hops[other] = hops[node] + 1
            queue.append(other)
    assert len(hops) == count
    assert max(hops.values()) <= {27: 4, 81: 5, 243: 6, 1000: 7}[count]


def test_a_quarter_of_the_nodes_gone_leaves_the_others_connected() -> None:
    roster = filled_roster(100)
    nodes = sorted(roster.nodes)
    gone = frozenset(Random(3).sample(nodes, 25))
    left = [node for node in nodes if node not in gone]
    reached, queue = {left[0]}, [left[0]]
    while queue:
        for other in roster.neighbours(queue.pop(), without=gone) - reached:
            reached.add(other)
            queue.append(other)
    assert reached == set(left)


def test_a_node_outside_the_roster_has_no_neighbours_and_no_places() -> None:
    roster = filled_roster(10)
    assert roster.neighbours(NODES[0]) == frozenset()
    with pytest.raises(KeyError):
        roster.places(NODES[0])


def test_an_entry_without_a_place_on_every_ring_is_refused_and_changes_nothing() -> None:
    roster = filled_roster(3)
    before = roster.entries()
    bad = RosterEntry(node=NODES[0], places=(1, 2))
    with pytest.raises(ProtocolError):
        roster.apply_joined(roster.epoch + 1, bad)
    with pytest.raises(ProtocolError):
        roster.reset(9, [*before, bad])
    assert roster.entries() == before
    assert roster.epoch == 3
