"""Streams in the swarm machine: files that grow, have no tree and no size, and are fetched in order."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_net import FILE, SimNode, SwarmNet
from test_swarm import ANN, BOB, Node, frames, have, pieces_of, promise

from poolnet.errors import LocalError
from poolnet.limits import HAVE_INTERVAL_S, INITIAL_WANT_WINDOW
from poolnet.protocol.hash_tree import OpenShape
from poolnet.protocol.swarm import (
    CancelDownload,
    Completed,
    Download,
    Follow,
    LinkUp,
    PieceStored,
    RelayBegan,
    Route,
    Serve,
    StreamEnded,
    StreamGrew,
)
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Interest, Relay, Unwant, Want

W = INITIAL_WANT_WINDOW


def want(pieces: Ranges, hops: int = 0) -> Want:
    return Want(file_id=FILE, pieces=pieces, count=len(RangeSet(pieces)), hops=hops)


def relay(hops: int, count: int) -> Relay:
    return Relay(file_id=FILE, hops=hops, count=count)


# --- one node ---------------------------------------------------------------------------------------------------


def test_pieces_of_a_window_are_asked_for_in_order_as_they_appear() -> None:
    node = Node(LinkUp(ANN), Follow(FILE, 2, 50))
    assert frames(node.hear(ANN, have(((0, 4),))), Want) == [want(((2, 4),))]
    node.hear(ANN, promise(((2, 4),)))
    assert frames(node.hear(ANN, have(((4, 40),))), Want) == [want(((4, W + 2),))]
    node.hear(ANN, promise(((4, W + 2),)))
    assert frames(node.fetch(ANN, 2), Want) == [want(((W + 2, W + 3),))]


def test_a_window_that_moves_calls_off_what_is_behind_it() -> None:
    node = Node(LinkUp(ANN), Follow(FILE, 0, 20))
    node.hear(ANN, have(((0, 100),)), promise(((0, W),)))
    effects = node.do(Follow(FILE, 5, 20))
    assert frames(effects, Unwant) == [Unwant(file_id=FILE, pieces=((0, 5),))]
    assert frames(effects, Want) == [want(((W, W + 5),))]
    assert not node.swarm.expects(ANN, FILE, 4)
    assert node.swarm.expects(ANN, FILE, 5)


def test_what_was_here_before_is_not_fetched_and_is_served() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, None, ((0, 3),)), Follow(FILE, 0, 5))
    assert frames(node.hear(ANN, have(((0, 10),))), Want) == [want(((3, 5),))]
    assert pieces_of(node.hear(ANN, want(((0, 9),)))) == [0, 1, 2]


def test_a_growing_stream_is_announced_and_given() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, None, ()))
    node.hear(ANN, Interest(file_id=FILE, interested=True))
    assert have(((0, 1),)) in frames(node.do(PieceStored(FILE, 0)), type(have()))
    assert pieces_of(node.hear(ANN, want(((0, 9),)))) == [0]
    node.do(PieceStored(FILE, 1), PieceStored(FILE, 2))
    assert frames(node.wait(HAVE_INTERVAL_S), type(have())) == [have(((1, 3),))]


def test_following_never_ends_by_itself_and_ends_with_the_stream() -> None:
    node = Node(LinkUp(ANN), Follow(FILE, 0, 3))
    node.hear(ANN, have(((0, 4),)), promise(((0, 3),)))
    assert Completed(FILE) not in node.fetch(ANN, 0, 1, 2)
    assert Completed(FILE) not in node.do(StreamEnded(FILE, 4)), "the window does not reach the end"
    assert frames(node.do(Follow(FILE, 3, 9)), Want) == [want(((3, 4),))]
    node.hear(ANN, promise(((3, 4),)))
    effects = node.fetch(ANN, 3)
    assert effects.count(Completed(FILE)) == 1
    assert Interest(file_id=FILE, interested=False) in frames(effects, Interest)
    assert node.swarm.held(FILE) == ((0, 4),)


def test_following_a_stream_that_has_ended_before_the_window_is_over_at_once() -> None:
    node = Node(LinkUp(ANN), Follow(FILE, 4, 9))
    assert Completed(FILE) in node.do(StreamEnded(FILE, 4))


def test_a_stream_that_is_not_followed_any_more_is_not_asked_for() -> None:
    node = Node(LinkUp(ANN), Follow(FILE, 0, 9))
    node.hear(ANN, have(((0, 2),)), promise(((0, 2),)))
    assert frames(node.do(CancelDownload(FILE)), Unwant) == [Unwant(file_id=FILE, pieces=((0, 2),))]
    assert frames(node.hear(ANN, have(((2, 9),))), Want) == []
    assert node.swarm.next_deadline() is None


def test_an_empty_window_only_listens() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Follow(FILE, 0, 0))
    assert StreamGrew(FILE, 7) in node.hear(ANN, have(((0, 7),)))
    assert StreamGrew(FILE, 8) in node.hear(BOB, have(((2, 8),)))
    assert StreamGrew(FILE, 8) in node.hear(ANN, have(((7, 8),)))
    effects = node.hear(BOB, have(((0, 2),)))
    assert not [effect for effect in effects if isinstance(effect, StreamGrew)]
    assert sorted(node.swarm.stream_ends(FILE)) == [8, 8]
    assert frames(node.do(Follow(FILE, 6, 8)), Want) == [want(((6, 7),)), want(((7, 8),))]


def test_who_claims_that_a_stream_is_longer_than_it_is_hides_nobody_else() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Follow(FILE, 0, 0))
    assert StreamGrew(FILE, 1000) in node.hear(ANN, have(((999, 1000),)))
    assert StreamGrew(FILE, 7) in node.hear(BOB, have(((0, 7),)))


def test_the_file_of_another_shape_is_refused() -> None:
    node = Node(Follow(FILE, 0, 9))
    with pytest.raises(LocalError):
        node.do(Download(FILE, 100))
    with pytest.raises(LocalError):
        node.do(Serve(FILE, 100, ()))


def test_a_relay_says_how_far_a_stream_is_and_is_asked_for_no_more() -> None:
    node = Node(LinkUp(ANN), Route(FILE, None, 3), Follow(FILE, 0, 50))
    assert frames(node.hear(ANN, relay(2, 0)), Want) == []
    assert frames(node.hear(ANN, relay(2, 3)), Want) == [want(((0, 3),), 3)]
    node.hear(ANN, promise(((0, 3),)))
    assert frames(node.hear(ANN, relay(2, 5)), Want) == [want(((3, 5),), 3)]


def test_a_relay_listens_to_a_stream_as_soon_as_somebody_is_interested_and_passes_on_how_far_it_is() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Route(FILE, None, 2))
    effects = node.hear(ANN, Interest(file_id=FILE, interested=True, hops=3))
    assert RelayBegan(FILE, None) in effects
    assert frames(effects, Interest, BOB) == [Interest(file_id=FILE, interested=True, hops=2)]
    effects = node.hear(BOB, relay(1, 4)) + node.wait(HAVE_INTERVAL_S)
    assert frames(effects, Relay, ANN) == [relay(2, 4)]
    assert frames(effects, Want) == [], "nobody asked yet"
    effects = node.hear(ANN, want(((2, 9),), 3))
    assert frames(effects, type(promise(()))) == [promise(((2, 4),))]
    assert frames(effects, Want, BOB) == [want(((2, 4),), 2)]
    node.hear(BOB, promise(((2, 4),)))
    assert pieces_of(node.fetch(BOB, 2, 3), ANN) == [2, 3]


def test_how_far_a_stream_is_is_not_told_with_every_piece() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Route(FILE, None, 1))
    node.hear(ANN, Interest(file_id=FILE, interested=True, hops=2))
    effects = [effect for n in range(100) for effect in node.hear(BOB, have(((n, n + 1),))) + node.wait(0.001)]
    effects += node.wait(1)
    told = frames(effects, Relay, ANN)
    assert 2 <= len(told) <= 5
    assert told[-1] == relay(1, 100)
    assert node.swarm.next_deadline() is None


# --- networks ---------------------------------------------------------------------------------------------------


class Publisher:
    """Publishes pieces at a rate; followers move their windows as pieces come."""

    def __init__(self, net: SwarmNet, author: SimNode, *, count: int, interval_s: float) -> None:
        net.shapes[FILE] = OpenShape()
        net.holders[FILE] = [author]
        author.stored[FILE] = set()
        author.feed(Serve(FILE, None, ()))
        self.net, self.author, self.count = net, author, count
        self.delays: list[float] = []
        for number in range(count):
            net.at(number * interval_s, lambda number=number: self.publish(number))
        self.interval_s = interval_s

    def publish(self, number: int) -> None:
        self.author.stored[FILE].add(number)
        self.author.feed(PieceStored(FILE, number))

    def follow(self, node: SimNode, *, width: int = 16) -> None:
        node.stored[FILE] = set()
        self.move(node, 0, width)
        self.net.tell_routes()

    def move(self, node: SimNode, start: int, width: int) -> None:
        node.feed(Follow(FILE, start, start + width))
        if start == self.count:
            return

        def look() -> None:
            position = start
            while position in node.stored[FILE]:
                self.delays.append(self.net.now - position * self.interval_s)
                position += 1
            if position == start:
                self.net.at(self.net.now + 0.01, look)
            else:
                self.move(node, position, width)
                if position == self.count:
                    node.feed(StreamEnded(FILE, self.count))

        look()


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_a_stream_is_followed_live_over_relays(hops: int) -> None:
    net = SwarmNet(1, latency=0.02)
    nodes = [net.add_node(upload=20e6) for _ in range(hops + 1)]
    for left, right in pairwise(nodes):
        net.link(left, right)
    publisher = Publisher(net, nodes[0], count=60, interval_s=0.2)
    publisher.follow(nodes[-1])
    net.run()
    assert FILE in nodes[-1].completed
    assert len(publisher.delays) == 60
    assert max(publisher.delays) < 0.3 * hops
    assert all(set(node.sent.values()) == {1} for node in nodes[:-1])
    assert all(node.swarm.next_deadline() is None for node in nodes)


def test_two_followers_behind_one_relay_cost_the_author_one_upload() -> None:
    net = SwarmNet(2)
    author, middle, one, other = (net.add_node() for _ in range(4))
    net.link(author, middle)
    net.link(middle, one)
    net.link(middle, other)
    publisher = Publisher(net, author, count=40, interval_s=0.1)
    publisher.follow(one)
    publisher.follow(other)
    net.run()
    assert FILE in one.completed
    assert FILE in other.completed
    assert set(author.sent.values()) == {1}


def test_a_stream_that_pauses_leaves_everything_quiet_and_goes_on() -> None:
    net = SwarmNet(3)
    nodes = [net.add_node() for _ in range(3)]
    for left, right in pairwise(nodes):
        net.link(left, right)
    publisher = Publisher(net, nodes[0], count=3, interval_s=60.0)
    publisher.follow(nodes[-1])
    net.run(limit=30)
    sent = sum(node.frames_sent for node in nodes)
    net.run(limit=59)
    assert sum(node.frames_sent for node in nodes) == sent
    net.run()
    assert FILE in nodes[-1].completed
    assert max(publisher.delays) < 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_breaks_a_stream_arrives_completely(seed: int) -> None:
    net = SwarmNet(seed, latency=0.01, frame_jitter=3.0)
    rng = net.rng
    nodes = [net.add_node(upload=rng.choice([3e6, 20e6])) for _ in range(6)]
    for left, right in pairwise(nodes):
        net.link(left, right)
    publisher = Publisher(net, nodes[0], count=30, interval_s=0.3)
    followers = rng.sample(nodes[1:], 2)
    for follower in followers:
        publisher.follow(follower)

    def disturb() -> None:
        one, other = rng.sample(nodes, 2)
        if (one.peer, other.peer) in net.links:
            net.unlink(one, other)
        else:
            net.link(one, other)
        if rng.random() < 0.8:
            net.tell_routes()

    def mend() -> None:
        for left, right in pairwise(nodes):
            if (left.peer, right.peer) not in net.links:
                net.link(left, right)
        net.tell_routes()

    for _ in range(15):
        net.at(10 * rng.random(), disturb)
    net.at(10.0, mend)
    net.run(until=lambda: net.now > 10 and all(FILE in node.completed for node in followers), limit=200)
    for follower in followers:
        assert follower.stored[FILE] == set(range(30))
