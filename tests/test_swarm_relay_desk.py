"""What a relay promises, withdraws and says of itself when some of what it relies on changes, and for whom."""

import pytest
from swarm_net import FILE
from test_swarm import ALL, ANN, BOB, DAN, SIZE, Node, frames, have, pieces_of, promise
from test_swarm_relay import interest, relay, relaying, want

from poolnet.limits import CHUNK_SIZE, HAVE_INTERVAL_S
from poolnet.protocol.swarm import (
    CancelDownload,
    Download,
    LinkUp,
    RelayBegan,
    RelayEnded,
    Route,
    RouteWanted,
    Serve,
    StopServing,
    SwarmEffect,
)
from poolnet.wire.swarm_frames import Interest, Promise, Relay, Withdraw


def of_route(effects: list[SwarmEffect]) -> list[SwarmEffect]:
    """What the driver hears of relaying and of routes."""
    return [effect for effect in effects if isinstance(effect, RouteWanted | RelayBegan | RelayEnded)]


def withdrawal(start: int, stop: int) -> Withdraw:
    return Withdraw(file_id=FILE, pieces=((start, stop),))


def relaying_a_stream() -> Node:
    """A node that listens to a stream for Ann, and has heard of Dan that it has five pieces."""
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, None, 2))
    node.hear(ANN, interest(3))
    node.hear(DAN, have(((0, 5),)))
    node.wait(1)
    return node


def test_what_one_is_not_farther_away_for_any_more_is_withdrawn_from_it_alone() -> None:
    node = relaying(ANN)
    node.do(LinkUp(BOB))
    node.hear(BOB, interest(5))
    node.hear(ANN, want(((0, 2),), 2))
    node.hear(BOB, want(((0, 3),), 3, 5))
    effects = node.do(Route(FILE, SIZE, 3))
    assert frames(effects, Withdraw, ANN) == [withdrawal(0, 2)]
    assert frames(effects, Withdraw, BOB) == []
    node.hear(DAN, have(), promise(((0, 1),)))
    effects = node.fetch(DAN, 0)
    assert (pieces_of(effects, BOB), pieces_of(effects, ANN)) == ([0], [])


def test_a_piece_counts_as_not_to_be_had_two_seconds_after_it_was_promised_and_no_sooner() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.wait(1)
    node.hear(ANN, want(((1, 2),), 1))
    assert frames(effects + node.wait(0.9), Withdraw) == []
    assert frames(node.wait(0.2), Withdraw, ANN) == [withdrawal(0, 1)]
    assert frames(node.wait(0.8), Withdraw) == []
    assert frames(node.wait(0.2), Withdraw, ANN) == [withdrawal(1, 2)]


def test_of_a_want_all_is_promised_but_what_was_asked_onwards_with_as_many_hops() -> None:
    node = relaying(ANN, BOB)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(DAN, relay(1), promise(((0, 1),)))  # asked with two hops
    node.do(Route(FILE, SIZE, 1))
    assert frames(node.hear(BOB, want(((0, 4),), 4, 2)), Promise) == [promise(((1, 4),))]


@pytest.mark.parametrize("is_downloaded", [False, True])
def test_relaying_ends_when_all_of_the_file_is_here(is_downloaded: bool) -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(Download(FILE, SIZE, ALL) if is_downloaded else Serve(FILE, SIZE, ALL))
    assert pieces_of(effects, ANN) == [0]
    assert RelayEnded(FILE) in effects
    assert frames(effects, Relay, ANN) == [relay(0)]
    assert not of_route(node.hear(ANN, Interest(file_id=FILE, interested=False))), "that was told before"


def test_relaying_ends_when_the_last_piece_of_the_file_comes() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, 2 * CHUNK_SIZE, 2))
    node.hear(ANN, interest(), want(((0, 3),), 3))
    node.hear(DAN, have(((0, 3),)), promise(((0, 1),)))
    assert of_route(node.fetch(DAN, 0)) == []
    node.hear(DAN, promise(((1, 3),)))
    effects = node.fetch(DAN, 1, 2)
    assert pieces_of(effects, ANN) == [1, 2]
    assert of_route(effects) == [RelayEnded(FILE)]
    assert frames(effects, Relay, ANN) == [relay(0)]


def test_a_route_that_was_asked_for_is_asked_for_again_when_the_file_has_another_size() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN))
    assert of_route(node.hear(ANN, interest())) == [RouteWanted(FILE)]
    node.do(Route(FILE, SIZE, 2))
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(Serve(FILE, SIZE + CHUNK_SIZE, ()))
    assert of_route(effects) == [RelayEnded(FILE), RouteWanted(FILE)]
    assert frames(effects, Withdraw, ANN) == [withdrawal(0, 1)]


def test_a_route_that_nobody_had_to_ask_for_is_asked_for_after_a_download_of_another_size() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    assert of_route(node.do(Download(FILE, SIZE + CHUNK_SIZE))) == [RelayEnded(FILE)]
    assert of_route(node.do(CancelDownload(FILE))) == [RouteWanted(FILE)]


def test_a_stream_that_is_not_kept_any_more_is_listened_to_anew_for_those_who_ask() -> None:
    node = relaying_a_stream()
    effects = node.do(StopServing(FILE))
    assert of_route(effects) == [RelayEnded(FILE), RouteWanted(FILE), RelayBegan(FILE, None)]
    assert frames(effects, Interest, DAN)[-1] == Interest(file_id=FILE, interested=True, hops=2)
    assert frames(effects, Relay, ANN) == [Relay(file_id=FILE, hops=2, count=0)], "it knows of none now"


def test_how_far_a_stream_is_is_told_at_once_when_the_interval_has_just_passed() -> None:
    node = relaying_a_stream()
    for count, waited_s, is_at_once in ((6, 1.0, True), (7, HAVE_INTERVAL_S / 2, False), (8, 1.0, True)):
        node.wait(waited_s)
        told = frames(node.hear(DAN, have(((count - 1, count),))), Relay, ANN)
        assert told == ([Relay(file_id=FILE, hops=2, count=count)] if is_at_once else [])
    node.now += HAVE_INTERVAL_S
    assert frames(node.hear(DAN, have(((8, 9),))), Relay, ANN) == [Relay(file_id=FILE, hops=2, count=9)]
