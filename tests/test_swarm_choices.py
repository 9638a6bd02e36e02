"""Which piece, of whom, and when: choices of the swarm machine that are as good as they look only in the long run."""

import pytest
from swarm_net import FILE, peer_id
from test_swarm import ALL, ANN, BOB, CID, DAN, OTHER_FILE, SIZE, Node, frames, have, pieces_of, promise, want

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, INITIAL_WANT_WINDOW, MAX_RELAYED_PIECES
from poolnet.protocol import swarm_requester
from poolnet.protocol.swarm import (
    CancelDownload,
    Download,
    LinkDown,
    LinkUp,
    PieceArrived,
    PieceRejected,
    PieceSent,
    PieceStored,
    Received,
    Route,
    Serve,
    StopServing,
)
from poolnet.protocol.swarm_choice import choose
from poolnet.protocol.swarm_custody import Custody
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_end_game import second_holder
from poolnet.protocol.swarm_pace import Pace
from poolnet.ranges import Ranges
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want

# --- giving -----------------------------------------------------------------------------------------------------


def test_what_was_queued_for_a_peer_that_is_gone_counts_as_not_sent() -> None:
    node = Node(*map(LinkUp, (ANN, BOB, DAN)), Serve(FILE, SIZE, ((0, 10),)))
    node.hear(DAN, want(((5, 10),), 5))
    node.hear(ANN, want(((0, 5),), 5))
    node.do(LinkDown(ANN))
    assert pieces_of(node.hear(BOB, want(((0, 10),), 3))) == [0, 1, 2]


def test_of_what_is_called_off_only_that_counts_as_not_sent() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ((0, 10),)))
    node.hear(ANN, want(((6, 7),), 1), want(((5, 6),), 1), Unwant(file_id=FILE, pieces=((5, 6),)))
    assert pieces_of(node.hear(BOB, want(((5, 7),), 1))) == [5]


def test_what_was_sent_least_is_sent_first_however_often_all_was_sent() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, 2 * CHUNK_SIZE, ((0, 3),)))

    def send(*pieces: int) -> None:
        for piece in pieces:
            assert pieces_of(node.hear(ANN, want(((piece, piece + 1),), 1))) == [piece]
            node.do(PieceSent(ANN, FILE, piece))

    for _ in range(40):
        send(0, 1, 2)
    send(1, 0)
    assert pieces_of(node.hear(ANN, want(((1, 3),), 1))) == [2]


def test_the_slower_a_link_is_the_longer_what_it_got_is_held_back_from_others() -> None:
    for seconds, is_given in ((0.1, True), (2.0, False)):
        node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL))
        node.hear(ANN, want(((1, 12),), 11))
        for piece in range(1, 11):
            node.wait(seconds)
            node.do(PieceSent(ANN, FILE, piece))
        node.wait(5.0)
        assert bool(pieces_of(node.hear(BOB, want(((10, 11),), 1)))) is is_given


def test_who_lost_a_piece_of_what_it_had_complete_relays_it_to_who_is_farther_away() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Serve(FILE, SIZE, ALL), Route(FILE, SIZE, 2))
    assert frames(node.hear(ANN, Interest(file_id=FILE, interested=True, hops=3)), Relay) == []
    assert frames(node.do(StopServing(FILE, ((5, 6),))), Relay, ANN) == [Relay(file_id=FILE, hops=2, is_fetching=False)]


def test_a_single_peer_has_half_of_the_custody_and_a_second_one_a_quarter() -> None:
    custody = Custody()

    def fill(peer: int, file: object) -> int:
        count = 0
        while custody.has_room(peer_id(peer), file):  # type: ignore[arg-type]
            custody.add(file, count, peer_id(peer), 3, 0.0)  # type: ignore[arg-type]
            count += 1
        return count

    assert fill(1, FILE) == MAX_RELAYED_PIECES // 2
    assert fill(2, OTHER_FILE) == MAX_RELAYED_PIECES // 4


# --- taking -----------------------------------------------------------------------------------------------------


class Fetch:
    """A download of 40 chunks, from three that have something of it: Bob, Cid and Dan."""

    def __init__(self) -> None:
        self.download = FileDownload(FILE, SIZE, ((0, 1),), cursor=0)
        self.bob, self.cid, self.dan = (self.download.add_source(peer, Pace()) for peer in (BOB, CID, DAN))


def test_of_a_partial_holder_the_rarest_of_what_it_has_is_asked_for_first() -> None:
    fetch = Fetch()
    fetch.download.learn(fetch.bob, ((1, 3), (5, 7), (9, 11), (13, 15)))
    fetch.download.learn(fetch.cid, ((1, 3), (5, 7)))
    choice = choose(fetch.download, fetch.bob, 1)
    assert choice is not None
    assert set(choice[0]) == {9, 10, 13, 14}


def test_a_second_holder_is_found_behind_one_that_rests_and_one_that_is_no_faster() -> None:
    fetch = Fetch()
    eve = fetch.download.add_source(peer_id(5), Pace())
    for source in (fetch.cid, fetch.dan, eve):
        fetch.download.learn(source, ((1, 10),))
    fetch.download.promise(fetch.bob, [1], 100.0, again=False)
    fetch.bob.pace.rate, fetch.dan.pace.rate = 1.0, 1.0  # Dan would be no sooner
    fetch.cid.rest_until = 200.0
    assert second_holder(fetch.download, 1, fetch.bob, 103.0, with_origins=False) is eve


def test_near_the_end_a_second_holder_is_asked_only_when_the_first_takes_long() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Download(FILE, SIZE, ((0, 40),)))
    node.hear(ANN, have(((0, 41),)), promise(((40, 41),)))
    assert frames(node.hear(BOB, have(((0, 39), (40, 41)))), Want) == []
    assert frames(node.wait(0.4), Want) == []
    assert frames(node.wait(0.6), Want, BOB) == [want(((40, 41),), 1)]


def test_a_piece_that_two_have_promised_is_not_asked_of_a_third_when_one_of_them_is_gone() -> None:
    node = Node(*map(LinkUp, (ANN, BOB)), Download(FILE, SIZE, ((0, 40),)))
    node.hear(ANN, have(((0, 41),)), promise(((40, 41),)))
    node.hear(BOB, have(((0, 39), (40, 41))))
    assert frames(node.wait(1), Want, BOB) == [want(((40, 41),), 1)]
    node.hear(BOB, promise(((40, 41),)))
    node.do(LinkUp(CID))
    node.hear(CID, have(((40, 41),)))
    assert frames(node.do(LinkDown(ANN)), Want) == []
    assert frames(node.do(LinkDown(BOB)), Want, CID) == [want(((40, 41),), 1)]


def test_what_is_wanted_here_is_asked_for_before_what_was_relayed_first() -> None:
    third = FileId(b"T" * 32)
    full: Ranges = ((1, 1 + INITIAL_WANT_WINDOW),)
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, SIZE, 2), Download(third, SIZE, ((0, 1),)))
    node.hear(DAN, Have(file_id=third, pieces=full), Promise(file_id=third, pieces=full))
    node.hear(ANN, Interest(file_id=FILE, interested=True, hops=3))
    node.hear(ANN, Want(file_id=FILE, pieces=((0, 3),), count=3, hops=3))
    node.do(Download(OTHER_FILE, SIZE, ((0, 1),)))
    assert frames(node.hear(DAN, have(((0, 3),)), Have(file_id=OTHER_FILE, pieces=ALL)), Want) == []  # no room
    effects = []
    for piece in range(*full[0]):
        effects += node.do(PieceArrived(DAN, third, piece), PieceStored(third, piece))
    first, second, *_ = (frame for frame in frames(effects, Want) if isinstance(frame, Want))
    assert (first.file_id, second.file_id) == (OTHER_FILE, FILE)


def test_files_of_which_a_link_sent_something_wrong_are_remembered_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swarm_requester, "MAX_INTERESTS_PER_LINK", 3)
    node = Node(LinkUp(ANN))

    def try_size(size: int) -> bool:
        """Return whether Ann, who sends a wrong top, is asked for a file of that size at all."""
        asked = frames(node.do(Download(FILE, size)), Interest, ANN)
        node.do(Received(ANN, have(((0, 1),))), Received(ANN, promise(((0, 1),))))
        node.do(PieceRejected(ANN, FILE, 0))
        node.do(CancelDownload(FILE), StopServing(FILE))
        return bool(asked)

    sizes = [chunks * CHUNK_SIZE for chunks in range(10, 15)]
    assert [try_size(size) for size in sizes] == [True] * 5
    assert [try_size(size) for size in sizes[:1:-1]] == [False] * 3
    assert try_size(sizes[0])
