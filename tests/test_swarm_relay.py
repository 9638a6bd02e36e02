"""Relaying: what is asked of a node that is nearer to a holder, alone and in networks where not everyone is linked."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_net import FILE, SimNode, SwarmNet, peer_id
from test_swarm import ALL, ANN, BOB, CID, DAN, OTHER_FILE, SIZE, Node, frames, have, pieces_of, promise

from poolnet.ids import DeviceId, FileId
from poolnet.limits import (
    CHUNK_SIZE,
    MAX_INTERESTS_PER_LINK,
    MAX_RELAYED_PIECES,
    MAX_WANT_WINDOW,
    PROMISE_TIMEOUT_S,
    TREE_FAN_OUT,
)
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.swarm import (
    CancelDownload,
    Completed,
    Download,
    LinkDown,
    LinkUp,
    Misbehaved,
    PieceArrived,
    PieceDropped,
    PieceStored,
    Prioritise,
    PromiseBroken,
    RelayBegan,
    RelayEnded,
    RelayFruitless,
    Route,
    RouteWanted,
    Select,
    SendFrame,
    Serve,
    SizeDoubted,
    StopServing,
    SwarmEffect,
)
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw


def interest(hops: int = 3, file_id: FileId = FILE) -> Interest:
    return Interest(file_id=file_id, interested=True, hops=hops)


def want(pieces: Ranges, count: int, hops: int = 3, file_id: FileId = FILE) -> Want:
    return Want(file_id=file_id, pieces=pieces, count=count, hops=hops)


def relay(hops: int, *, is_fetching: bool = False) -> Relay:
    return Relay(file_id=FILE, hops=hops, is_fetching=is_fetching)


def relaying(*peers: DeviceId, hops: int = 2) -> Node:
    """A node that is `hops` away from a holder; `peers` are farther away, and interested. DAN is linked, too."""
    node = Node(*(LinkUp(peer) for peer in (*peers, DAN)), Route(FILE, SIZE, hops))
    for peer in peers:
        node.hear(peer, interest())
    return node


def misbehaved(effects: list[SwarmEffect]) -> list[DeviceId]:
    return [effect.peer for effect in effects if isinstance(effect, Misbehaved)]


# --- routes and who relays --------------------------------------------------------------------------------------


def test_an_interest_says_how_far_away_its_sender_is_and_again_when_that_changes() -> None:
    node = Node(LinkUp(ANN), Route(FILE, SIZE, 3))
    assert frames(node.do(Download(FILE, SIZE)), Interest) == [interest(3)]
    assert frames(node.do(Route(FILE, SIZE, 2)), Interest) == [interest(2)]
    assert frames(node.do(Route(FILE, SIZE, 1)), Interest) == [interest(0)]
    assert frames(node.do(Route(FILE, SIZE, None)), Interest) == []
    assert node.do(LinkUp(BOB)) == [SendFrame(BOB, interest(0))]


def test_a_route_of_a_file_that_nobody_knows_is_asked_for_once() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB))
    assert node.hear(ANN, interest(2)) == [RouteWanted(FILE)]
    assert node.hear(BOB, interest(4)) == []
    assert frames(node.do(Route(FILE, SIZE, 3)), Relay) == [relay(3)]  # to Bob only


@pytest.mark.parametrize(
    ("asker", "own", "answer"), [(3, 2, 2), (3, 3, None), (3, 4, None), (2, 1, 1), (3, None, None)]
)
def test_only_who_is_nearer_relays(asker: int, own: int | None, answer: int | None) -> None:
    node = Node(LinkUp(ANN), Route(FILE, SIZE, own))
    assert frames(node.hear(ANN, interest(asker)), Relay) == ([] if answer is None else [relay(answer)])


def test_a_relay_that_is_not_nearer_any_more_says_so_and_withdraws_what_it_promised() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(Route(FILE, SIZE, 3))
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert frames(effects, Relay, ANN) == [relay(0)]
    assert frames(node.do(Route(FILE, SIZE, 1)), Relay, ANN) == [relay(1)]


def test_who_has_everything_does_not_relay() -> None:
    node = Node(LinkUp(ANN), Route(FILE, SIZE, 2), Serve(FILE, SIZE, ALL))
    assert node.hear(ANN, interest()) == [SendFrame(ANN, have())]


def test_who_asked_for_a_route_hears_when_nobody_asks_any_more_though_nothing_was_relayed() -> None:
    node = Node(LinkUp(ANN))
    node.hear(ANN, interest())
    assert node.hear(ANN, Interest(file_id=FILE, interested=False)) == [RelayEnded(FILE)]
    assert node.hear(ANN, interest()) == [RouteWanted(FILE)]
    assert node.do(LinkDown(ANN)) == [RelayEnded(FILE)]


def test_a_route_is_asked_for_when_the_own_download_that_had_it_told_is_over() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE), Route(FILE, SIZE, 2))
    assert RouteWanted(FILE) not in node.hear(ANN, interest())
    assert RouteWanted(FILE) in node.do(CancelDownload(FILE))


# --- custody ----------------------------------------------------------------------------------------------------


def test_a_relay_promises_what_it_lacks_and_asks_onwards_tree_first() -> None:
    node = relaying(ANN)
    effects = node.hear(ANN, want(((3, 6),), 3))
    assert frames(effects, Promise, ANN) == [promise(((3, 6),))]
    assert RelayBegan(FILE, SIZE) in effects
    assert frames(effects, Interest, DAN) == [interest(2)]
    assert frames(node.hear(DAN, have()), Want, DAN) == [want(((0, 1),), 1, 0)]
    node.hear(DAN, promise(((0, 1),)))
    (asked,) = frames(node.fetch(DAN, 0), Want, DAN)
    assert asked == want(((3, 6),), 3, 0)


def test_what_comes_is_sent_to_every_link_that_was_promised_it_and_asked_for_once() -> None:
    node = relaying(ANN, BOB)
    node.hear(ANN, want(((0, 3),), 3))
    node.hear(BOB, want(((1, 5),), 2))
    node.hear(DAN, have(), promise(((0, 1),)))
    (asked,) = frames(node.fetch(DAN, 0), Want, DAN)
    assert isinstance(asked, Want)
    assert RangeSet(asked.pieces) == RangeSet([(1, 3)]), "merged: Bob was promised what Ann waits for already"
    node.hear(DAN, promise(((1, 3),)))
    effects = node.fetch(DAN, 1, 2)
    assert pieces_of(effects, ANN) == [1, 2]
    assert pieces_of(effects, BOB) == [1, 2]
    assert node.swarm.statistics().pieces_relayed == 5
    assert node.swarm.held(FILE) == ((0, 3),)


def test_a_relay_asks_the_next_relay_with_its_own_hops() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    assert frames(node.hear(DAN, relay(1)), Want, DAN) == [want(((0, 1),), 1, 2)]


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_no_custody_is_taken_of_a_want_whose_hops_do_not_exceed_the_own(hops: int) -> None:
    node = relaying(ANN)
    assert node.hear(ANN, want(((0, 9),), 5, hops)) == [SendFrame(ANN, promise(()))]


def test_no_custody_is_taken_of_what_was_asked_onwards_with_as_many_hops() -> None:
    node = relaying(ANN, BOB, hops=2)
    node.hear(ANN, want(((0, 1),), 1, 3))
    node.hear(DAN, relay(1), promise(((0, 1),)))
    node.do(Route(FILE, SIZE, 1))
    assert frames(node.hear(BOB, want(((0, 1),), 1, 2)), Promise) == [promise(())]
    assert frames(node.hear(BOB, want(((0, 1),), 1, 3)), Promise) == [promise(((0, 1),))]


def test_what_a_relay_has_is_given_whatever_the_hops() -> None:
    node = Node(LinkUp(ANN), Route(FILE, SIZE, 2), Serve(FILE, SIZE, ((0, 3),)))
    node.hear(ANN, interest())
    effects = node.hear(ANN, want(((0, 9),), 5))
    assert frames(effects, Promise) == [promise(((0, 5),))]
    assert pieces_of(effects) == [0, 1, 2]


def test_what_nobody_could_be_asked_for_is_withdrawn() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    assert frames(node.wait(4), Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert node.swarm.next_deadline() is None


def test_what_brought_nothing_at_all_may_have_another_size_and_the_driver_hears_of_it() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    assert SizeDoubted(DAN, FILE) in node.hear(DAN, have(((0, 42),)))
    assert RelayFruitless(FILE) in node.wait(4)
    again = node.hear(ANN, want(((0, 1),), 1))
    assert [effect for effect in again if isinstance(effect, SizeDoubted)] == [], "that was counted"
    assert RelayFruitless(FILE) in node.wait(4)


def test_what_brought_something_has_the_size_that_it_has() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 2),), 2))
    node.hear(DAN, have(((0, 1),)), promise(((0, 1),)))
    node.fetch(DAN, 0)
    effects = node.wait(2 * PROMISE_TIMEOUT_S)
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((1, 2),))]
    assert RelayFruitless(FILE) not in effects


def test_what_a_source_does_not_bring_is_asked_of_another() -> None:
    node = relaying(ANN, BOB)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(DAN, have(((0, 1),)), promise(((0, 1),)))
    assert frames(node.hear(BOB, have(((0, 1),))), Want) == []
    effects = node.wait(PROMISE_TIMEOUT_S)
    assert frames(effects, Want, BOB) == [want(((0, 1),), 1, 0)]
    assert frames(effects, Withdraw) == []
    node.hear(BOB, promise(((0, 1),)))
    assert pieces_of(node.fetch(BOB, 0), ANN) == [0]


def test_what_is_not_wanted_any_more_is_called_off_onwards_unless_another_waits_for_it() -> None:
    node = relaying(ANN, BOB)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(BOB, want(((0, 1),), 1))
    node.hear(DAN, have(), promise(((0, 1),)))
    gone = Unwant(file_id=FILE, pieces=((0, 1),))
    assert node.hear(ANN, gone) == []
    assert frames(node.hear(BOB, gone), Unwant, DAN) == [gone]
    assert not node.swarm.expects(DAN, FILE, 0)


def test_who_needs_no_relay_any_more_hears_that_what_is_not_here_does_not_come() -> None:
    node = relaying(ANN)
    node.hear(DAN, have())
    node.hear(ANN, want(((0, 1),), 1))
    assert frames(node.hear(ANN, interest(0)), Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]


def test_relaying_ends_when_nobody_asks_and_what_is_kept_is_still_served() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    effects = node.hear(ANN, Interest(file_id=FILE, interested=False))
    assert RelayEnded(FILE) in effects
    assert frames(effects, Interest, DAN) == [Interest(file_id=FILE, interested=False)]
    assert node.swarm.held(FILE) == ((0, 1),)
    assert pieces_of(node.hear(DAN, want(((0, 1),), 1, 0))) == [0]
    assert node.swarm.next_deadline() is None


def test_who_is_not_farther_away_does_not_keep_a_relay_at_it() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(LinkUp(BOB)) + node.hear(BOB, interest(2))  # Bob relays as well
    effects += node.do(LinkDown(ANN))
    assert RelayEnded(FILE) in effects
    assert RouteWanted(FILE) in effects, "Bob still asks, and may be farther away later"
    assert frames(effects, Interest, BOB)[-1] == Interest(file_id=FILE, interested=False)


def test_what_could_not_be_verified_any_more_is_called_off() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1), (3, 6)), 4))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    node.hear(DAN, promise(((3, 6),)))
    effects = node.do(StopServing(FILE, ((0, 1),)))
    assert frames(effects, Unwant, DAN) == [Unwant(file_id=FILE, pieces=((3, 6),))]
    assert frames(effects, Want, DAN) == [want(((0, 1),), 1, 0)]
    assert not node.swarm.expects(DAN, FILE, 3)
    node.hear(DAN, promise(((0, 1),)))
    (asked,) = frames(node.fetch(DAN, 0), Want, DAN)
    assert asked == want(((3, 6),), 3, 0)


def test_what_is_asked_for_and_could_not_be_verified_any_more_is_not_expected() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1), (3, 6)), 4))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    assert node.swarm.expects(DAN, FILE, 3), "asked for: it may overtake its promise"
    node.do(StopServing(FILE, ((0, 1),)))
    assert not node.swarm.expects(DAN, FILE, 3)
    assert frames(node.hear(DAN, promise(((3, 6),))), Unwant) == [Unwant(file_id=FILE, pieces=((3, 6),))]


def test_a_piece_that_finds_no_room_in_the_cache_is_withdrawn_and_not_fetched_again() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.do(PieceArrived(DAN, FILE, 0))
    effects = node.do(PieceDropped(FILE, 0))
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert frames(effects + node.wait(20), Want) == []


def test_an_evicted_piece_is_withdrawn_and_fetched_again_only_if_somebody_asks() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 2),), 2))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    node.hear(DAN, promise(((1, 2),)))
    node.fetch(DAN, 1)
    effects = node.do(StopServing(FILE, ((0, 2),))) + node.wait(20)
    assert frames(effects, Want) == []
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 2),))]
    effects = node.hear(ANN, want(((1, 2),), 1))
    assert frames(effects, Promise) == [promise(((1, 2),))]
    assert frames(effects, Want, DAN) == [want(((0, 1),), 1, 0)], "it cannot be verified without the node above"


def test_all_links_and_files_together_have_bounded_custody_and_one_does_not_get_everything() -> None:
    size = 1000 * CHUNK_SIZE
    peers = [peer_id(number) for number in range(10, 30)]
    ids = [FileId(bytes([number]) * 32) for number in range(5)]
    node = Node(*(LinkUp(peer) for peer in peers), *(Route(file_id, size, 1) for file_id in ids))
    taken: dict[DeviceId, int] = {}
    for number, peer in enumerate(peers):
        file_id = ids[number % 5]
        start = 1 + 50 * number
        node.hear(peer, interest(2, file_id))
        (answer,) = frames(node.hear(peer, want(((start, start + 50),), MAX_WANT_WINDOW, 2, file_id)), Promise)
        assert isinstance(answer, Promise)
        taken[peer] = len(RangeSet(answer.pieces))
    assert sum(taken.values()) <= MAX_RELAYED_PIECES
    assert sum(taken.values()) > 0.8 * MAX_RELAYED_PIECES
    assert min(list(taken.values())[:5]) > 20


def test_a_relay_that_begins_to_download_the_file_keeps_its_promises() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((3, 6),), 3))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    node.hear(DAN, promise(((3, 6),)))
    node.fetch(DAN, 3)
    effects = node.do(Download(FILE, SIZE, ((0, 1), (3, 4))))
    assert frames(effects, Interest) == []
    assert frames(effects, Relay, ANN) == [relay(2, is_fetching=True)]
    assert node.swarm.missing_count(FILE) == 39
    assert pieces_of(node.fetch(DAN, 4, 5), ANN) == [4, 5]


def test_what_is_in_the_cache_and_not_in_the_file_is_fetched_for_a_download() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.fetch(DAN, 0)
    assert frames(node.do(Download(FILE, SIZE)), Want, DAN) == [want(((0, 1),), 1, 0)]


def test_a_cancelled_download_is_relayed_on() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Download(FILE, SIZE, ((0, 1),)), Route(FILE, SIZE, 2))
    node.hear(ANN, interest())
    node.hear(ANN, want(((3, 6),), 3))
    (asked,) = frames(node.hear(DAN, have()), Want, DAN)
    assert asked == want(((3, 6),), 3, 0), "what somebody waits for comes first"
    node.hear(DAN, promise(((3, 6),)), promise(((1, 3),)))
    effects = node.do(CancelDownload(FILE))
    assert frames(effects, Unwant, DAN) == [Unwant(file_id=FILE, pieces=((1, 3),))]
    assert not node.swarm.is_downloading(FILE)
    assert pieces_of(node.fetch(DAN, 3), ANN) == [3]


def test_own_downloads_are_asked_for_before_what_is_relayed() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, SIZE, 1))
    node.hear(ANN, interest(2))
    node.hear(ANN, want(((0, 1),), 1, 2))
    node.do(Download(OTHER_FILE, SIZE, ((0, 1),)))
    node.hear(DAN, Have(file_id=OTHER_FILE, pieces=((1, 9),)))
    node.hear(DAN, have())
    effects = node.hear(DAN, Promise(file_id=OTHER_FILE, pieces=((1, 9),)))
    assert frames(effects, Want) == [], "the window is full of the own download"
    effects = node.do(PieceArrived(DAN, OTHER_FILE, 1), PieceStored(OTHER_FILE, 1))
    assert [frame.file_id for frame in frames(effects, Want)] == [FILE]


def test_a_download_of_another_size_than_was_relayed_takes_over() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(Download(FILE, SIZE + CHUNK_SIZE))
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert RelayEnded(FILE) in effects
    assert node.swarm.missing_count(FILE) == 42


def test_a_route_with_another_size_begins_anew() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    effects = node.do(Route(FILE, SIZE + CHUNK_SIZE, 2))
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert RelayEnded(FILE) not in effects
    assert RelayBegan(FILE, SIZE + CHUNK_SIZE) in node.hear(ANN, want(((0, 1),), 1))


def test_no_more_files_are_fetched_at_once_than_peers_put_up_with() -> None:
    ids = [FileId(number.to_bytes(32, "big")) for number in range(MAX_INTERESTS_PER_LINK)]
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, SIZE, 1), *(Download(file_id, SIZE) for file_id in ids[1:]))
    node.hear(ANN, interest(2))
    assert frames(node.hear(ANN, want(((0, 1),), 1, 2)), Promise) == [promise(((0, 1),))]
    effects = node.do(Download(ids[0], SIZE))
    assert RelayEnded(FILE) in effects
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]


# --- asking a relay ---------------------------------------------------------------------------------------------


def asker(*peers: DeviceId, hops: int = 3) -> Node:
    return Node(Download(FILE, SIZE, ((0, 1),)), Route(FILE, SIZE, hops), *(LinkUp(peer) for peer in peers))


def test_a_relay_is_asked_for_what_no_neighbour_has() -> None:
    node = asker(ANN, BOB)
    node.hear(BOB, have(((1, 21),)), promise(((1, 9),)))
    (asked,) = frames(node.hear(ANN, relay(2)), Want, ANN)
    assert isinstance(asked, Want)
    assert asked.hops == 3
    assert asked.pieces == ((21, 41),)
    assert node.swarm.source_count(FILE) == 2


@pytest.mark.parametrize("hops", [3, 4, 16])
def test_a_relay_that_is_not_nearer_is_not_asked(hops: int) -> None:
    node = asker(ANN)
    assert frames(node.hear(ANN, relay(hops)), Want) == []


def test_a_relay_is_not_asked_while_a_neighbour_has_everything() -> None:
    node = asker(ANN, BOB)
    node.hear(BOB, have(), promise(((1, 9),)))
    assert frames(node.hear(ANN, relay(2)), Want) == []
    assert len(frames(node.wait(PROMISE_TIMEOUT_S), Want, ANN)) == 1, "but when that does not deliver"


def test_a_relay_that_fetches_everything_for_itself_is_asked_only_for_a_part() -> None:
    node = asker(ANN)
    assert frames(node.hear(ANN, relay(2, is_fetching=True)), Want) == []
    effects = node.do(Select(FILE, ((20, 25),)))
    assert frames(effects, Want) == [want(((20, 25),), 5, 3)]


def test_what_a_relay_withdraws_is_asked_of_another_and_not_at_once_of_it_again() -> None:
    node = asker(ANN, BOB)
    node.do(Select(FILE, ((20, 21),)))
    node.hear(ANN, relay(2), promise(((20, 21),)))
    node.hear(BOB, relay(1))
    effects = node.hear(ANN, Withdraw(file_id=FILE, pieces=((20, 21),)))
    assert frames(effects, Want) == [want(((20, 21),), 1, 3)]
    assert frames(effects, Want, BOB)
    node.hear(BOB, promise(()), Withdraw(file_id=FILE, pieces=((20, 21),)))
    wants = frames(node.wait(0.2), Want) + frames(node.wait(1), Want)
    assert len(wants) == 1


def test_a_relay_is_not_blamed_for_what_it_could_not_get_itself() -> None:
    node = asker(ANN)
    node.hear(ANN, relay(2), promise(((20, 21),)))
    assert PromiseBroken(ANN) not in node.wait(10 * PROMISE_TIMEOUT_S)
    assert node.swarm.statistics().promises_dropped == 1


def test_a_relay_that_always_withdraws_is_asked_ever_more_rarely() -> None:
    node = asker(ANN)
    node.do(Select(FILE, ((20, 21),)))
    is_asked, wants = bool(frames(node.hear(ANN, relay(2)), Want)), 1
    for _ in range(600):
        gone = Withdraw(file_id=FILE, pieces=((20, 21),))
        effects = node.hear(ANN, promise(((20, 21),)), gone) if is_asked else []
        effects += node.wait(0.1)
        is_asked = bool(frames(effects, Want))
        wants += is_asked
    assert 5 <= wants <= 16


def test_a_selection_fetches_only_what_is_selected_and_the_nodes_above() -> None:
    size = 3 * TREE_FAN_OUT * CHUNK_SIZE  # pieces 0, 1-3, then the chunks
    node = Node(LinkUp(ANN), Download(FILE, size), Select(FILE, ((5, 7),)))
    everything = have(((0, TreeShape(size).piece_count),))
    assert frames(node.hear(ANN, everything), Want) == [want(((0, 1),), 1, 0)]
    node.hear(ANN, promise(((0, 1),)))
    assert frames(node.fetch(ANN, 0), Want) == [want(((1, 2),), 1, 0)]
    node.hear(ANN, promise(((1, 2),)))
    assert frames(node.fetch(ANN, 1), Want) == [want(((5, 7),), 2, 0)]
    node.hear(ANN, promise(((5, 7),)))
    effects = node.fetch(ANN, 5, 6)
    assert effects.count(Completed(FILE)) == 1
    assert frames(effects, Interest) == [Interest(file_id=FILE, interested=False)]
    assert not node.swarm.is_downloading(FILE)


def test_more_can_be_selected_before_and_after_a_part_is_complete() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE, ((0, 6),)))
    assert Completed(FILE) in node.do(Select(FILE, ((2, 4),)))
    assert frames(node.do(Select(FILE, ((2, 8),))), Interest) == [interest(0)]
    assert frames(node.hear(ANN, have()), Want) == [want(((6, 8),), 2, 0)]
    node.hear(ANN, promise(((6, 8),)))
    assert node.swarm.missing_count(FILE) == 2
    assert frames(node.do(Select(FILE, ((2, 9),))), Want) == [want(((8, 9),), 1, 0)]
    assert Completed(FILE) not in node.fetch(ANN, 6, 7)
    node.hear(ANN, promise(((8, 9),)))
    assert Completed(FILE) in node.fetch(ANN, 8)
    node.do(Select(FILE, None))
    assert node.swarm.missing_count(FILE) == 41 - 9


def test_less_can_be_selected_and_what_was_promised_is_called_off() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE, ((0, 1),)))
    node.hear(ANN, have(), promise(((1, 9),)))
    effects = node.do(Select(FILE, ((7, 11),)))
    assert frames(effects, Unwant) == [Unwant(file_id=FILE, pieces=((1, 7),))]
    assert node.swarm.missing_count(FILE) == 4


def test_of_two_downloads_that_of_the_higher_priority_is_asked_for_first() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE, ((0, 1),)), Download(OTHER_FILE, SIZE, ((0, 1),)))
    node.do(Prioritise(OTHER_FILE, 5))
    node.hear(ANN, Have(file_id=OTHER_FILE, pieces=((1, 9),)), Promise(file_id=OTHER_FILE, pieces=((1, 9),)))
    node.hear(ANN, Have(file_id=OTHER_FILE, pieces=((9, 41),)), have())
    effects = node.do(PieceArrived(ANN, OTHER_FILE, 1), PieceStored(OTHER_FILE, 1))
    assert [frame.file_id for frame in frames(effects, Want)] == [OTHER_FILE]


# --- networks ---------------------------------------------------------------------------------------------------


def make_net(seed: int, *, chunks: int = 60, nodes: int = 4, **options: float) -> tuple[SwarmNet, list[SimNode]]:
    net = SwarmNet(seed, **options)
    net.shapes[FILE] = TreeShape(chunks * CHUNK_SIZE - 100)
    made = [net.add_node() for _ in range(nodes)]
    serve(made[0])
    return net, made


def serve(node: SimNode) -> None:
    net, count = node.net, node.net.shapes[FILE].piece_count
    net.holders.setdefault(FILE, []).append(node)
    node.stored[FILE] = set(range(count))
    node.feed(Serve(FILE, net.shapes[FILE].size_bytes, ((0, count),)))


def chain(nodes: Sequence[SimNode]) -> None:
    for left, right in pairwise(nodes):
        left.net.link(left, right)


def download(*nodes: SimNode, held: Ranges = ()) -> None:
    for node in nodes:
        size = node.net.shapes[FILE].size_bytes
        assert size is not None
        node.stored[FILE] = set(RangeSet(held))
        node.feed(Download(FILE, size, held))
        node.net.tell_routes([node])


def is_quiet(net: SwarmNet) -> bool:
    return all(node.swarm.next_deadline() is None for node in net.nodes.values())


@pytest.mark.parametrize("hops", [2, 3, 4, 5])
def test_a_file_comes_over_a_chain_of_nodes_that_do_not_want_it(hops: int) -> None:
    net, nodes = make_net(1, nodes=hops + 1)
    chain(nodes)
    download(nodes[-1])
    net.run()
    shape = net.shapes[FILE]
    assert FILE in nodes[-1].completed
    assert all(set(node.sent.values()) == {1} for node in nodes[:-1])
    assert all(len(node.sent) == shape.piece_count for node in nodes[:-1])
    assert is_quiet(net)
    assert not any(node.relaying or node.route_wanted for node in nodes)


def test_a_chain_of_relays_is_about_as_fast_as_one_link() -> None:
    net, nodes = make_net(2, chunks=400, nodes=5, latency=0.03)
    chain(nodes)
    download(nodes[-1])
    net.run()
    size_bytes = net.shapes[FILE].size_bytes
    assert size_bytes is not None
    assert nodes[-1].completed[FILE] < 1.3 * size_bytes / nodes[0].upload + 2


def test_two_requesters_behind_one_relay_cost_the_origin_one_upload() -> None:
    net, (origin, middle, one, other) = make_net(3)
    net.link(origin, middle)
    net.link(middle, one)
    net.link(middle, other)
    download(one, other)
    net.run()
    assert FILE in one.completed
    assert FILE in other.completed
    assert set(origin.sent.values()) == {1}
    assert is_quiet(net)


def test_two_relays_share_the_work() -> None:
    net, (origin, left, right, receiver) = make_net(4, chunks=200)
    for middle in (left, right):
        net.link(origin, middle)
        net.link(middle, receiver)
    download(receiver)
    net.run()
    assert FILE in receiver.completed
    assert sum(origin.sent.values()) < 1.05 * net.shapes[FILE].piece_count
    assert min(sum(left.sent.values()), sum(right.sent.values())) > 50


def test_a_requester_that_comes_later_is_served_from_the_cache() -> None:
    net, (origin, middle, one, other) = make_net(5, chunks=100)
    net.link(origin, middle)
    net.link(middle, one)
    net.link(middle, other)
    download(one)
    net.at(1.5, lambda: download(other))
    net.run()
    assert FILE in one.completed
    assert FILE in other.completed
    assert set(origin.sent.values()) == {1}


def test_a_relay_that_promises_and_never_sends_costs_a_timeout_each() -> None:
    net, (origin, deaf, good, receiver) = make_net(6)
    deaf.is_deaf = True
    for middle in (deaf, good):
        net.link(origin, middle)
        net.link(middle, receiver)
    download(receiver)
    net.run(until=lambda: FILE in receiver.completed)
    assert FILE in receiver.completed
    assert receiver.completed[FILE] < 30


def test_a_relay_that_sends_wrong_pieces_is_found_out() -> None:
    net, (origin, liar, good, receiver) = make_net(7)
    liar.is_liar = True
    for middle in (liar, good):
        net.link(origin, middle)
        net.link(middle, receiver)
    download(receiver, held=((0, 1),))
    net.run()
    assert FILE in receiver.completed
    assert {effect.peer for effect in receiver.misbehaved} == {liar.peer}
    assert receiver.swarm.statistics().pieces_rejected == 1


def test_an_origin_behind_a_relay_that_sends_wrong_pieces_does_not_spread_them() -> None:
    net, (origin, middle, receiver, other) = make_net(8)
    origin.is_liar = True
    serve(other)
    net.link(origin, middle)
    net.link(other, middle)
    net.link(middle, receiver)
    download(receiver, held=((0, 1),))
    net.run()
    assert FILE in receiver.completed
    assert receiver.misbehaved == []
    assert {effect.peer for effect in middle.misbehaved} <= {origin.peer}


def test_a_relay_that_leaves_is_replaced_by_another() -> None:
    net, (origin, first, second, receiver) = make_net(9, chunks=200)
    for middle in (first, second):
        net.link(origin, middle)
    net.link(first, receiver)
    download(receiver)

    def change() -> None:
        net.unlink(first, receiver)
        net.link(second, receiver)
        net.tell_routes()

    net.at(2.0, change)
    net.run()
    assert FILE in receiver.completed
    assert sum(origin.sent.values()) < 1.3 * net.shapes[FILE].piece_count
    assert is_quiet(net)


def test_when_there_is_no_way_any_more_everything_is_quiet_and_goes_on_when_there_is_one() -> None:
    net, nodes = make_net(10, chunks=200, nodes=4)
    chain(nodes)
    download(nodes[-1])
    net.at(1.0, lambda: (net.unlink(nodes[0], nodes[1]), net.tell_routes()))
    net.run(limit=100)
    assert FILE not in nodes[-1].completed
    assert sum(node.frames_sent for node in nodes) < 2000
    net.link(nodes[0], nodes[1])
    net.tell_routes()
    net.run(until=lambda: FILE in nodes[-1].completed, limit=net.now + 100)
    assert FILE in nodes[-1].completed


@pytest.mark.parametrize("routes", [(2, 3, 4, 5), (5, 4, 3, 2), (2, 3, 2, 3), (3, 3, 3, 3), (7, 2, 9, 4)])
def test_wrong_routes_in_a_circle_neither_loop_nor_flood(routes: tuple[int, ...]) -> None:
    net, nodes = make_net(11, nodes=5)
    ring = nodes[1:]
    chain([*ring, ring[0]])
    for node, believes in zip(ring, routes, strict=True):
        node.believes = believes
    download(ring[0], ring[2])
    net.run(limit=60)
    assert sum(node.frames_sent for node in ring) < 1500
    for node in ring:
        node.believes = None
    net.link(nodes[0], ring[1])
    net.tell_routes()
    net.run(limit=net.now + 120)
    assert FILE in ring[0].completed
    assert FILE in ring[2].completed


def run_trouble(seed: int) -> SwarmNet:
    """A sparse network in which links break, caches forget, routes are wrong and somebody lies; then all is mended."""
    rng = Random(seed)
    net, nodes = make_net(seed, chunks=rng.choice([3, 20]), nodes=8, latency=0.01, frame_jitter=3.0)
    for node in nodes:
        node.upload = rng.choice([0.5e6, 2e6, 10e6])
    nodes[6].is_liar, nodes[7].is_deaf = rng.random() < 0.5, rng.random() < 0.5
    for index, node in enumerate(nodes[1:], 1):
        net.link(node, nodes[rng.randrange(index)])
    receivers = rng.sample(nodes[1:6], 2)
    for receiver in receivers:
        net.at(3 * rng.random(), lambda receiver=receiver: download(receiver))

    def disturb() -> None:
        one, other = rng.sample(nodes, 2)
        if (one.peer, other.peer) in net.links:
            net.unlink(one, other)
        else:
            net.link(one, other)
        victim = rng.choice(nodes[1:])
        if victim not in receivers and victim.stored.get(FILE):
            victim.evict(FILE, rng.sample(sorted(victim.stored[FILE]), rng.randint(1, len(victim.stored[FILE]))))
        if rng.random() < 0.8:
            net.tell_routes()
        elif (node := rng.choice(nodes[1:])).swarm.is_downloading(FILE) or FILE in node.route_wanted:
            node.told_routes[FILE] = rng.choice([None, 1, 2, 3])
            node.feed(Route(FILE, net.shapes[FILE].size_bytes, node.told_routes[FILE]))

    def mend() -> None:
        for node in nodes[6:]:
            for other in nodes:
                net.unlink(node, other)
        for left, right in pairwise(nodes[:6]):
            if (left.peer, right.peer) not in net.links:
                net.link(left, right)
        net.tell_routes()

    for _ in range(40):
        net.at(20 * rng.random(), disturb)
    net.at(20.0, mend)
    net.run(until=lambda: net.now > 20 and all(FILE in node.completed for node in receivers), limit=400)
    for receiver in receivers:
        assert receiver.stored[FILE] == set(range(net.shapes[FILE].piece_count))
    for node in nodes:
        assert {effect.peer for effect in node.misbehaved} <= {nodes[6].peer}
    return net


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_breaks_everything_comes_and_then_all_is_quiet(seed: int) -> None:
    net = run_trouble(seed)
    net.run(limit=net.now + 300)
    assert is_quiet(net)
    assert not any(node.relaying or node.route_wanted for node in net.nodes.values())


# --- anything ---------------------------------------------------------------------------------------------------

peers = st.sampled_from([ANN, BOB, CID])
hops = st.integers(0, 4)
runs = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=3).map(
    lambda found: RangeSet((start, start + length) for start, length in found).to_ranges()
)
steps = st.one_of(
    st.tuples(st.just("want"), peers, runs, hops),
    st.tuples(st.just("unwant"), peers, runs, hops),
    st.tuples(st.just("interest"), peers, runs, hops),
    st.tuples(st.just("deliver"), peers, runs, hops),
    st.tuples(st.just("evict"), peers, runs, hops),
    st.tuples(st.just("relink"), peers, runs, hops),
    st.tuples(st.just("route"), peers, runs, hops),
    st.tuples(st.just("wait"), peers, runs, hops),
    st.tuples(st.just("download"), peers, runs, hops),
    st.tuples(st.just("cancel"), peers, runs, hops),
)


class PromiseModel:
    """What each peer was promised by a node, as it was told; DAN has everything, and gives what it is asked for."""

    def __init__(self) -> None:
        self.node = Node(LinkUp(ANN), LinkUp(BOB), LinkUp(CID), LinkUp(DAN), Route(FILE, SIZE, 1))
        self.owed: dict[DeviceId, set[int]] = {peer: set() for peer in (ANN, BOB, CID)}
        self.promised_here: set[int] = set()  # by DAN

    def held(self) -> set[int]:
        return set(RangeSet(self.node.swarm.held(FILE)))

    def take(self, kind: str, peer: DeviceId, pieces: Ranges, count: int) -> None:
        """Let something happen."""
        node = self.node
        match kind:
            case "want":
                self.check(node.hear(peer, want(pieces, 8, count)))
            case "unwant":
                self.owed[peer] -= set(RangeSet(pieces))
                self.check(node.hear(peer, Unwant(file_id=FILE, pieces=pieces)))
            case "interest":
                said = Interest(file_id=FILE, interested=count > 0 or bool(pieces), hops=count)
                self.check(node.hear(peer, said))
            case "deliver":
                self.deliver()
            case "evict":
                self.evict(pieces)
            case "relink":
                self.owed[peer] = set()
                self.check(node.do(LinkDown(peer), LinkUp(peer)))
            case "route":
                self.check(node.do(Route(FILE, SIZE, count or None)))
            case "wait":
                self.check(node.wait(0.5))
            case "download":
                self.check(node.do(Download(FILE, SIZE, node.swarm.held(FILE))))
            case "cancel":
                self.check(node.do(CancelDownload(FILE)))

    def check(self, effects: list[SwarmEffect]) -> None:
        """Take note of what peers are told."""
        for effect in effects:
            match effect:
                case SendFrame(peer, frame) if peer in self.owed:
                    self.told(peer, frame)
                case SendFrame(peer, frame) if peer == DAN:
                    self.asked(frame)

    def told(self, peer: DeviceId, frame: object) -> None:
        match frame:
            case Promise(pieces=pieces):
                self.owed[peer] |= set(RangeSet(pieces))
                assert len(self.owed[peer]) <= MAX_WANT_WINDOW
            case Withdraw(pieces=pieces):
                self.owed[peer] -= set(RangeSet(pieces))

    def asked(self, frame: object) -> None:
        match frame:
            case Want(pieces=pieces, count=count, hops=hops):
                assert hops == 0
                given_now = RangeSet(pieces).first(count)
                self.promised_here |= set(given_now)
                self.check(self.node.hear(DAN, promise(given_now.to_ranges())))
            case Unwant(pieces=pieces):
                self.promised_here -= set(RangeSet(pieces))
            case Interest(interested=True):
                self.check(self.node.hear(DAN, have()))

    def deliver(self) -> None:
        """Let what DAN has promised come; it goes to whoever was promised it, and to nobody else."""
        for piece in sorted(self.promised_here):
            self.promised_here.discard(piece)
            if not self.node.swarm.expects(DAN, FILE, piece):
                continue
            effects = self.node.fetch(DAN, piece)
            for peer in self.owed:
                sent = pieces_of(effects, peer)
                assert sent in ([], [piece])
                assert not sent or piece in self.owed[peer]
            self.check(effects)

    def evict(self, pieces: Ranges) -> None:
        gone = self.held().intersection(RangeSet(pieces))
        effects = self.node.do(StopServing(FILE, RangeSet.of(sorted(gone)).to_ranges()))
        for one in self.owed.values():
            one -= gone
        self.check(effects)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=50))
def test_a_promise_is_kept_or_withdrawn(script: list[tuple[str, DeviceId, Ranges, int]]) -> None:
    """Each peer gets exactly what it was promised, once, or hears that it will not."""
    model = PromiseModel()
    for step in script:
        model.take(*step)
    for _ in range(20):
        model.deliver()
        model.check(model.node.wait(1))
    held, swarm = model.held(), model.node.swarm
    for one in model.owed.values():
        assert one <= held, "promised, neither sent nor withdrawn"
    assert swarm.statistics().pieces_unexpected == 0
    if not swarm.is_downloading(FILE):
        assert swarm.next_deadline() is None
