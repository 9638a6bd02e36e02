"""Where the end of a stream is believed to be, and when somebody who follows it live is too late."""

import math

from poolnet.protocol.live_edge import MAX_LIVE_DELAY_S, LiveEdge


def test_the_highest_claim_is_the_end_and_no_claim_is_none() -> None:
    edge = LiveEdge()
    assert edge.end is None
    for count, end in ((0, None), (-3, None), (1, 1), (7, 7), (5, 7)):
        edge.heard(count, 0.0)
        assert edge.end == end


def test_a_piece_is_late_so_long_after_something_behind_it_was_known_to_exist() -> None:
    edge = LiveEdge()
    assert edge.late_at(0) == math.inf
    edge.heard(1, 5.0)
    edge.heard(1, 6.0)  # says nothing new
    edge.heard(3, 7.0)
    edge.heard(2, 8.0)
    assert edge.late_at(0) == 5.0 + MAX_LIVE_DELAY_S
    assert edge.late_at(1) == edge.late_at(2) == 7.0 + MAX_LIVE_DELAY_S
    assert edge.late_at(3) == math.inf


def test_moments_close_together_are_one_that_began_with_the_first() -> None:
    edge = LiveEdge()
    edge.heard(1, 1.0)
    edge.heard(2, 1.2)
    edge.heard(3, 1.25)
    assert edge.late_at(1) == 1.0 + MAX_LIVE_DELAY_S
    assert edge.late_at(2) == 1.25 + MAX_LIVE_DELAY_S


def test_what_nobody_delivers_is_not_believed_until_it_is_there() -> None:
    edge = LiveEdge()
    edge.heard(10, 0.0)
    assert not edge.doubt(3), "nobody claims less: the stream is only slow"
    edge.heard(4, 1.0)
    assert not edge.doubt(3)
    assert edge.doubt(4)
    assert edge.end == 4
    assert edge.late_at(0) == math.inf
    edge.heard(5, 2.0)
    assert edge.end == 4
    edge.passed(3)
    assert edge.end == 4
    edge.passed(4)
    assert edge.end == 10


def test_claims_below_the_doubt_are_followed_again() -> None:
    edge = LiveEdge()
    edge.heard(2, 0.0)
    edge.heard(90, 0.0)
    assert edge.doubt(2)
    edge.heard(3, 5.0)
    assert edge.late_at(2) == math.inf, "the doubted place itself"
    edge.passed(2)
    edge.heard(4, 6.0)
    assert edge.late_at(2) == 6.0 + MAX_LIVE_DELAY_S


def test_only_the_latest_claims_are_remembered() -> None:
    edge = LiveEdge()
    edge.heard(1000, 0.0)
    for _ in range(100):
        edge.heard(5, 0.0)
    assert edge.end == 1000, "who repeats itself pushes nothing out"
    for number in range(64):
        edge.heard(10 + number % 2, 0.0)
    assert edge.end == 11
