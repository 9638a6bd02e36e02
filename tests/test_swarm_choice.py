"""What is asked of whom, and who counts as faster: the choices of one download, by rates that are given."""

import pytest
from swarm_net import FILE
from test_swarm import ALL, ANN, BOB, CID, DAN, SIZE, Node, frames, have, promise
from test_swarm_relay import relay, want

from poolnet.limits import PROMISE_TIMEOUT_S
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.swarm import Download, LinkUp, PromiseBroken, Route
from poolnet.protocol.swarm_choice import choose
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_end_game import has_faster_source
from poolnet.protocol.swarm_goal import Goal
from poolnet.protocol.swarm_pace import Pace
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Want, Withdraw


class Fetch:
    """A download of 40 chunks: Ann had them all from the beginning, Bob has 1 to 20 and Cid 21 to 40."""

    def __init__(self) -> None:
        self.download = FileDownload(FILE, SIZE, ((0, 1),), cursor=0)
        self.origin = self.add(ALL)
        self.bob, self.cid = self.add(((1, 21),)), self.add(((21, 41),))

    def add(self, pieces: Ranges) -> Source:
        source = self.download.add_source((ANN, BOB, CID, DAN)[len(self.download.sources)], Pace())
        self.download.learn(source, pieces)
        return source

    def asked_of(self, source: Source, room: int = 1) -> set[int]:
        choice = choose(self.download, source, room)
        return set(choice[0]) if choice is not None else set()


def test_each_want_names_what_comes_after_the_last_one_and_begins_anew_at_the_end() -> None:
    fetch = Fetch()
    first, second = fetch.asked_of(fetch.bob, room=2), fetch.asked_of(fetch.bob, room=2)
    assert (first, second) == (set(range(1, 9)), set(range(9, 17)))
    assert fetch.asked_of(fetch.bob, room=2) == {*range(17, 21), *range(1, 5)}


@pytest.mark.parametrize(("others", "is_asked"), [(10.0, True), (19.0, True), (21.0, False), (100.0, False)])
def test_a_laggard_is_asked_unless_the_others_bring_everything_before_its_next_piece(
    others: float, is_asked: bool
) -> None:
    fetch = Fetch()
    fetch.bob.pace.rate, fetch.origin.pace.rate = others, others
    fetch.cid.pace.rate, fetch.cid.is_laggard = 1.0, True  # 40 pieces are open, and two others bring them
    assert bool(fetch.asked_of(fetch.cid)) is is_asked


@pytest.mark.parametrize(("rate", "helps"), [(3.0, False), (8.0, False), (8.5, True), (50.0, True)])
def test_an_origin_helps_partial_holders_only_if_it_is_more_than_four_times_as_fast(rate: float, helps: bool) -> None:
    fetch = Fetch()
    fetch.bob.pace.rate = fetch.cid.pace.rate = 1.0  # 40 pieces would take them 20 s
    fetch.origin.pace.rate = rate
    assert bool(fetch.asked_of(fetch.origin)) is helps


@pytest.mark.parametrize(("rate", "helps"), [(9.0, True), (10.0, False), (11.0, False)])
def test_an_origin_helps_partial_holders_only_if_they_would_take_more_than_two_seconds(
    rate: float, helps: bool
) -> None:
    fetch = Fetch()
    fetch.bob.pace.rate = fetch.cid.pace.rate = rate
    fetch.origin.pace.rate = 1000.0
    assert bool(fetch.asked_of(fetch.origin)) is helps


@pytest.mark.parametrize(
    ("rate", "is_stalled", "is_faster"),
    [(None, False, False), (0.0, True, False), (100.0, True, False), (1.0, False, False), (100.0, False, True)],
)
def test_another_is_faster_only_if_it_is_known_to_deliver_much_faster(
    rate: float | None, is_stalled: bool, is_faster: bool
) -> None:
    fetch = Fetch()
    del fetch.download.sources[ANN]
    fetch.download.promise(fetch.bob, [1], 100.0, again=False)
    fetch.bob.pace.rate = 1.0
    fetch.cid.pace.rate, fetch.cid.pace.is_stalled = rate, is_stalled
    assert has_faster_source(fetch.download, fetch.bob) is is_faster


def test_nobody_else_is_no_faster_source() -> None:
    fetch = Fetch()
    del fetch.download.sources[ANN], fetch.download.sources[CID]
    fetch.download.add_source(DAN, Pace()).pace.rate = 100.0  # and has nothing of the file
    fetch.bob.pace.rate = 1.0
    assert not has_faster_source(fetch.download, fetch.bob)


def test_nothing_is_wanted_of_a_file_before_somebody_says_what() -> None:
    goal = Goal(TreeShape(SIZE), RangeSet())
    assert (goal.is_whole, set(goal.missing())) == (False, set())
    goal.want(None)
    assert (goal.is_whole, goal.missing()) == (True, RangeSet(ALL))
    goal.want(((5, 6),))
    assert (goal.is_whole, set(goal.missing())) == (False, {0, 5})


# --- who breaks a promise ---------------------------------------------------------------------------------------


def silent(node: Node) -> bool:
    """Nothing comes of what Dan promised; return whether it is held against it."""
    return PromiseBroken(DAN) in node.wait(PROMISE_TIMEOUT_S)


def test_a_relay_that_has_meanwhile_what_it_promises_to_fetch_is_held_to_it() -> None:
    for has_it in (False, True):
        node = Node(LinkUp(DAN), Route(FILE, SIZE, 2), Download(FILE, SIZE))
        assert frames(node.hear(DAN, relay(1)), Want) == [want(((0, 1),), 1, 2)]
        if has_it:
            node.hear(DAN, have(((0, 1),)))
        node.hear(DAN, promise(((0, 1),)))
        assert silent(node) is has_it


def test_a_holder_that_promises_what_it_said_that_it_has_no_more_is_held_to_it() -> None:
    node = Node(LinkUp(DAN), Download(FILE, SIZE))
    assert frames(node.hear(DAN, have()), Want) == [want(((0, 1),), 1, 0)]
    node.hear(DAN, Withdraw(file_id=FILE, pieces=((0, 1),)), promise(((0, 1),)))
    assert silent(node)
