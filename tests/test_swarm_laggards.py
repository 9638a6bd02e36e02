"""Slow peers and slow links: what laggards hold is had from others as well, and little waits in queues.

One machine at a time, by hand; whole swarms with slow uplinks are in test_swarm_at_scale.py.
"""

import pytest
from swarm_net import FILE, SwarmNet
from test_swarm import ALL, ANN, BOB, CID, SIZE, Node, frames, have, interest, promise, want

from poolnet.limits import CHUNK_SIZE, HAVE_INTERVAL_S, MIN_WANT_WINDOW
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.swarm import Download, LinkUp, PieceStored, Serve
from poolnet.protocol.swarm_choice import choose
from poolnet.protocol.swarm_download import FileDownload, Source
from poolnet.protocol.swarm_pace import Pace
from poolnet.wire.swarm_frames import Have, Want

ROOM = 20  # more than any window in these tests


class Fetch:
    """A download of 40 chunks: Ann has them all, Bob 1 to 10, and Cid 11 to 20."""

    def __init__(self) -> None:
        self.download = FileDownload(FILE, SIZE, ((0, 1),), cursor=0)
        self.origin, self.fast, self.slow = (self.download.add_source(peer, Pace()) for peer in (ANN, BOB, CID))
        self.download.learn(self.origin, ALL)
        self.download.learn(self.fast, ((1, 11),))
        self.download.learn(self.slow, ((11, 21),))
        self.now = 100.0

    def deliver(self, source: Source, pieces: range, *, seconds: float) -> None:
        """A peer promises these pieces, and one comes every so many seconds."""
        self.download.promise(source, pieces, self.now, again=False)
        for piece in pieces:
            self.now += seconds
            self.download.arrive(source, piece, self.now)
            self.download.store(piece)

    def asked_of(self, source: Source, room: int = ROOM) -> set[int]:
        choice = choose(self.download, source, room)
        return set(choice[0]) if choice is not None else set()

    def count_asked_of(self, source: Source, room: int = ROOM) -> int:
        choice = choose(self.download, source, room)
        return choice[1] if choice is not None else 0


def with_a_laggard() -> Fetch:
    fetch = Fetch()
    fetch.deliver(fetch.fast, range(1, 5), seconds=0.1)
    fetch.deliver(fetch.slow, range(11, 12), seconds=5)
    return fetch


def test_what_only_a_laggard_holds_is_asked_of_an_origin_too() -> None:
    fetch = Fetch()
    assert fetch.asked_of(fetch.origin) == set(range(21, 41))
    fetch = with_a_laggard()
    assert fetch.asked_of(fetch.origin) == {*range(12, 21), *range(21, 41)}


def test_what_a_laggard_announces_later_stays_with_the_origin() -> None:
    fetch = with_a_laggard()
    fetch.download.learn(fetch.slow, ((21, 31),))
    assert fetch.asked_of(fetch.origin) == set(range(12, 41))


def test_a_laggard_that_becomes_faster_is_left_to_spread_what_it_has() -> None:
    fetch = with_a_laggard()
    fetch.deliver(fetch.slow, range(12, 20), seconds=0.02)
    assert fetch.asked_of(fetch.origin) == set(range(21, 41))


def test_partial_holders_that_are_all_slow_are_no_laggards() -> None:
    fetch = Fetch()
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.02)
    fetch.deliver(fetch.fast, range(1, 2), seconds=5)
    fetch.deliver(fetch.slow, range(11, 12), seconds=5)
    assert fetch.asked_of(fetch.origin) == set(range(25, 41))


def test_nothing_is_asked_of_a_laggard_that_others_bring_sooner() -> None:
    fetch = with_a_laggard()
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.1)
    assert fetch.count_asked_of(fetch.slow) == 0


def test_a_laggard_is_asked_when_nobody_else_may_have_its_pieces() -> None:
    fetch = with_a_laggard()
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.1)
    fetch.download.remove_source(fetch.origin)
    assert fetch.count_asked_of(fetch.slow) == 1


def test_a_laggard_is_asked_when_an_origin_has_nothing_to_give_again_and_again() -> None:
    fetch = with_a_laggard()
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.1)
    fetch.origin.empty_answers = 3
    assert fetch.count_asked_of(fetch.slow) == 1


def test_while_a_file_spreads_a_slow_link_is_asked_for_one_piece_at_a_time() -> None:
    fetch = Fetch()
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.2)
    assert fetch.count_asked_of(fetch.origin, room=2) == 2  # nobody passes anything on yet
    fetch.deliver(fetch.fast, range(1, 5), seconds=0.2)
    assert fetch.count_asked_of(fetch.origin, room=2) == 1
    fetch.download.promise(fetch.origin, [30], fetch.now, again=False)
    assert fetch.count_asked_of(fetch.origin, room=1) == 0


def test_a_link_with_a_long_turn_is_asked_ahead_even_while_a_file_spreads() -> None:
    fetch = Fetch()
    fetch.origin.pace.asked(1, fetch.now)
    fetch.origin.pace.answered(1, 0.2)
    fetch.deliver(fetch.origin, range(21, 25), seconds=0.2)
    fetch.deliver(fetch.fast, range(1, 5), seconds=0.2)
    assert fetch.count_asked_of(fetch.origin, room=2) == 2


@pytest.mark.parametrize(("news", "waits_long"), [(2, False), (5, True), (20, True)])
def test_pieces_are_announced_sooner_where_they_are_few(news: int, waits_long: bool) -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ((0, 1),)))
    node.hear(ANN, interest())
    node.wait(1)
    node.do(PieceStored(FILE, 1), *(PieceStored(FILE, piece) for piece in range(2, 2 + news)))
    assert frames(node.wait(HAVE_INTERVAL_S), Have) == [have(((2, 2 + news),))]
    node.do(PieceStored(FILE, 30))
    node.do(PieceStored(FILE, 31))
    assert (frames(node.wait(HAVE_INTERVAL_S), Have) == []) == waits_long
    node.do(PieceStored(FILE, 32))
    later = frames(node.wait(2 * HAVE_INTERVAL_S), Have)
    assert later == [have(((30, 33),))] if waits_long else [have(((32, 33),))]


def test_pieces_that_come_one_by_one_are_announced_at_once() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ((0, 1),)))
    node.hear(ANN, interest())
    for piece in range(1, 5):
        node.wait(HAVE_INTERVAL_S)
        assert frames(node.do(PieceStored(FILE, piece)), Have) == [have(((piece, piece + 1),))]


def test_a_laggard_gives_back_what_it_promised_before_it_was_known_to_be_one() -> None:
    pace = Pace()
    pace.promised(8, 0.0)
    pace.arrived(1.0, was_promised=True)
    assert pace.window == MIN_WANT_WINDOW
    assert pace.surplus(is_laggard=False) == 0
    assert pace.surplus(is_laggard=True) == 7 - MIN_WANT_WINDOW


def deliver(pace: Pace, count: int, *, seconds: float, now: float) -> float:
    """A link brings so many pieces, one every so many seconds; returns when it is done."""
    for _ in range(count):
        now += seconds
        pace.arrived(now, was_promised=True)
    return now


def test_a_rate_that_falls_to_a_fraction_is_believed_after_half_a_second() -> None:
    pace = Pace()
    pace.promised(164, 0.0)
    now = deliver(pace, 100, seconds=0.005, now=0.0)
    assert pace.rate == pytest.approx(200)
    assert pace.surplus(is_laggard=False) == 0
    now = deliver(pace, 4, seconds=0.1, now=now)
    assert pace.rate is not None
    assert pace.rate > 100  # a busy host pauses for so long
    deliver(pace, 3, seconds=0.1, now=now)
    assert pace.rate < 20
    assert pace.surplus(is_laggard=False) == pace.promised_count - pace.window


def test_a_rate_that_falls_a_little_is_averaged() -> None:
    pace = Pace()
    pace.promised(164, 0.0)
    now = deliver(pace, 100, seconds=0.005, now=0.0)
    deliver(pace, 5, seconds=0.0125, now=now)
    assert pace.rate is not None
    assert pace.rate > 150
    assert pace.surplus(is_laggard=False) == 0


@pytest.mark.parametrize("speed", [0.25e6, 1e6, 2.5e6])
def test_of_a_holder_that_is_suddenly_slow_little_is_waited_for(speed: float) -> None:
    net = SwarmNet(1, latency=0.001)
    net.shapes[FILE] = shape = TreeShape(800 * CHUNK_SIZE)
    holders, receiver = [net.add_node(upload=60e6) for _ in range(3)], net.add_node()
    for holder in holders:
        holder.stored[FILE] = set(range(shape.piece_count))
        holder.feed(Serve(FILE, shape.size_bytes, ((0, shape.piece_count),)))
        net.link(holder, receiver)
    receiver.feed(Download(FILE, shape.size_bytes, ()))
    net.run(until=lambda: receiver.swarm.missing_count(FILE) < 500)
    slowed_at, holders[0].upload = net.now, speed
    net.run(until=lambda: FILE in receiver.completed)
    rest_s = 500 * CHUNK_SIZE / 120e6
    print(f"\n{speed / 1e6} MB/s: {net.now - slowed_at:.2f} s where the others alone would take {rest_s:.2f} s")
    assert net.now - slowed_at < rest_s + 1.1


def test_what_a_second_holder_refuses_near_the_end_is_asked_for_again_later() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Download(FILE, SIZE, ((0, 40),)))
    node.hear(ANN, have(((0, 41),)), promise(((40, 41),)))
    node.hear(BOB, have(((0, 39), (40, 41))))
    assert frames(node.wait(1), Want, BOB) == [want(((40, 41),), 1)]
    assert frames(node.hear(BOB, promise(())), Want) == []
    assert frames(node.wait(1), Want, BOB) == [want(((40, 41),), 1)]
    node.hear(BOB, promise(((40, 41),)))
    assert node.swarm.expects(BOB, FILE, 40)
