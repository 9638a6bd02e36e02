"""The swarm machine: one node at a time, by events and effects. Whole swarms are in test_swarm_net.py."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_net import FILE, peer_id

from poolnet.errors import LocalError
from poolnet.ids import FileId
from poolnet.limits import (
    CHUNK_SIZE,
    HAVE_INTERVAL_S,
    INITIAL_WANT_WINDOW,
    MAX_INTERESTS_PER_LINK,
    MAX_PROMISE_PATIENCE_S,
    MAX_RANGES_PER_FRAME,
    MAX_RANGES_PER_WANT,
    MAX_WANT_WINDOW,
    MIN_WANT_WINDOW,
    PROMISE_TIMEOUT_S,
    TREE_FAN_OUT,
)
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.swarm import (
    CancelDownload,
    CancelSend,
    Completed,
    Download,
    Follow,
    LinkDown,
    LinkUp,
    Misbehaved,
    PieceArrived,
    PieceDropped,
    PieceRejected,
    PieceSent,
    PieceStored,
    Prioritise,
    PromiseBroken,
    Received,
    RelayBegan,
    RelayEnded,
    Route,
    RouteWanted,
    Select,
    SendFrame,
    SendPiece,
    Serve,
    SetCredit,
    SizeDoubted,
    SourcesChanged,
    StopServing,
    StreamEnded,
    Swarm,
    SwarmEffect,
    SwarmEvent,
    SwarmFrame,
)
from poolnet.protocol.swarm_pace import Pace
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.framing import encode_frame
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw

ANN, BOB, CID, DAN = (peer_id(number) for number in range(1, 5))
OTHER_FILE = FileId(b"O" * 32)
SIZE = 40 * CHUNK_SIZE  # piece 0 is the only node, 1-40 are the chunks
ALL: Ranges = ((0, 41),)


class Node:
    """A swarm machine with a clock of its own."""

    def __init__(self, *events: SwarmEvent) -> None:
        self.swarm = Swarm(Random(1))
        self.now = 100.0
        self.do(*events)

    def do(self, *events: SwarmEvent) -> list[SwarmEffect]:
        return [effect for event in events for effect in self.swarm.handle(event, self.now)]

    def hear(self, peer: object, *frames: SwarmFrame) -> list[SwarmEffect]:
        return self.do(*(Received(peer, frame) for frame in frames))  # type: ignore[arg-type]

    def wait(self, seconds: float) -> list[SwarmEffect]:
        """Let time pass, ticking when the machine asks for it."""
        end, effects = self.now + seconds, []
        while (deadline := self.swarm.next_deadline()) is not None and deadline <= end:
            assert deadline >= self.now, "a deadline in the past that tick did not see to"
            self.now = max(self.now, deadline)
            effects += self.swarm.tick(self.now)
        self.now = end
        return effects

    def fetch(self, peer: object, *pieces: int) -> list[SwarmEffect]:
        """Pieces come and are stored."""
        return [
            effect
            for piece in pieces
            for effect in self.do(PieceArrived(peer, FILE, piece), PieceStored(FILE, piece))  # type: ignore[arg-type]
        ]


def frames(effects: list[SwarmEffect], kind: type, to: object = None) -> list[SwarmFrame]:
    return [
        effect.frame
        for effect in effects
        if isinstance(effect, SendFrame) and isinstance(effect.frame, kind) and to in (None, effect.peer)
    ]


def pieces_of(effects: list[SwarmEffect], to: object = None) -> list[int]:
    return [effect.piece for effect in effects if isinstance(effect, SendPiece) and to in (None, effect.peer)]


def have(pieces: Ranges = ALL) -> Have:
    return Have(file_id=FILE, pieces=pieces)


def want(pieces: Ranges, count: int) -> Want:
    return Want(file_id=FILE, pieces=pieces, count=count)


def promise(pieces: Ranges) -> Promise:
    return Promise(file_id=FILE, pieces=pieces)


def interest(file_id: FileId = FILE, *, interested: bool = True) -> Interest:
    return Interest(file_id=file_id, interested=interested)


def downloader(*peers: object) -> Node:
    """A node that has the tree node and wants the chunks; nobody has said yet what it has."""
    return Node(Download(FILE, SIZE, ((0, 1),)), *(LinkUp(peer) for peer in peers))  # type: ignore[arg-type]


# --- giving -----------------------------------------------------------------------------------------------------


def test_an_interested_peer_hears_what_is_held_and_what_comes_later() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ((0, 3),)))
    assert frames(node.hear(ANN, interest()), Have) == [have(((0, 3),))]
    node.wait(1)
    assert frames(node.do(PieceStored(FILE, 9)), Have, ANN) == [have(((9, 10),))]


def test_interest_from_before_the_file_is_known_is_remembered() -> None:
    node = Node(LinkUp(ANN))
    assert node.hear(ANN, interest()) == []
    assert frames(node.do(Serve(FILE, SIZE, ALL)), Have, ANN) == [have()]


def test_new_pieces_are_announced_together() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ()))
    node.hear(ANN, interest())
    first = node.do(*(PieceStored(FILE, piece) for piece in range(5)))
    later = node.wait(HAVE_INTERVAL_S)
    assert frames(first, Have) == [have(((0, 1),))]
    assert frames(later, Have) == [have(((1, 5),))]
    assert node.swarm.next_deadline() is None


def test_who_is_not_interested_any_more_hears_nothing() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ()))
    node.hear(ANN, interest(), interest(interested=False))
    assert node.do(PieceStored(FILE, 3)) == []
    assert node.wait(1) == []


def test_a_file_held_in_many_runs_is_told_in_frames_of_bounded_size() -> None:
    held = tuple((2 * index, 2 * index + 1) for index in range(2 * MAX_RANGES_PER_FRAME + 1))
    node = Node(LinkUp(ANN), Serve(FILE, 10_000 * CHUNK_SIZE, held))
    told = frames(node.hear(ANN, interest()), Have)
    assert [len(frame.pieces) for frame in told] == [MAX_RANGES_PER_FRAME, MAX_RANGES_PER_FRAME, 1]  # type: ignore[union-attr]
    assert tuple(run for frame in told for run in frame.pieces) == held  # type: ignore[union-attr]
    assert all(encode_frame(frame) for frame in told)


def test_a_want_is_answered_at_once_and_the_promise_comes_before_the_pieces() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ((0, 10),)))
    effects = node.hear(ANN, want(((4, 30),), 8))
    assert effects[0] == SendFrame(ANN, promise(((4, 10),)))
    assert effects[1:] == [SendPiece(ANN, FILE, piece) for piece in range(4, 10)]


@pytest.mark.parametrize("asked", [((10, 20),), ((41, 50),), ()])
def test_a_want_for_what_is_not_held_gets_an_empty_promise(asked: Ranges) -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ((0, 10),)))
    assert node.hear(ANN, want(asked, 8)) == [SendFrame(ANN, promise(()))]
    assert node.hear(ANN, Want(file_id=OTHER_FILE, pieces=((0, 1),), count=1)) == [
        SendFrame(ANN, Promise(file_id=OTHER_FILE, pieces=()))
    ]


def test_a_complete_holder_sends_nothing_beyond_the_end_of_the_file() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ALL))
    assert pieces_of(node.hear(ANN, want(((39, 60),), 8))) == [39, 40]


def test_receivers_that_ask_for_the_same_get_different_pieces() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), LinkUp(CID), Serve(FILE, SIZE, ALL))
    got = [pieces_of(node.hear(peer, want(ALL, 10))) for peer in (ANN, BOB, CID)]
    assert sorted(got[0] + got[1] + got[2]) == list(range(30))


def test_what_was_sent_least_is_sent_first() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ((0, 10),)))
    node.hear(ANN, want(((0, 10),), 7))
    assert pieces_of(node.hear(BOB, want(((0, 10),), 5))) == [7, 8, 9, 0, 1]


def test_a_piece_that_was_not_sent_after_all_does_not_count_as_sent() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ((0, 10),)))
    node.hear(ANN, want(((0, 10),), 10))
    node.hear(ANN, Unwant(file_id=FILE, pieces=((3, 5),)))
    assert pieces_of(node.hear(BOB, want(((0, 10),), 2))) == [3, 4]
    node.do(LinkDown(ANN))
    assert pieces_of(node.hear(BOB, want(((5, 9),), 4))) == [5, 6, 7, 8]


def test_who_had_the_file_from_the_beginning_does_not_send_at_once_what_another_is_getting() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL))
    sent = pieces_of(node.hear(ANN, want(((1, 6),), 5)))
    assert node.hear(BOB, want(((1, 6),), 5)) == [SendFrame(BOB, promise(()))]
    node.do(*(PieceSent(ANN, FILE, piece) for piece in sent))
    assert node.hear(BOB, want(((1, 6),), 5)) == [SendFrame(BOB, promise(()))]
    node.wait(15)
    assert len(pieces_of(node.hear(BOB, want(((1, 6),), 5)))) == 5


def test_what_is_held_back_is_given_when_the_other_receiver_is_gone() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL))
    node.hear(ANN, want(((1, 6),), 5))
    node.do(LinkDown(ANN))
    assert len(pieces_of(node.hear(BOB, want(((1, 6),), 5)))) == 5


def test_tree_nodes_are_not_held_back() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL))
    assert pieces_of(node.hear(ANN, want(((0, 1),), 1))) == [0]
    assert pieces_of(node.hear(BOB, want(((0, 1),), 1))) == [0]


def test_no_more_than_the_largest_window_is_queued_for_a_peer() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, 500 * CHUNK_SIZE, ((0, 501),)))
    assert len(pieces_of(node.hear(ANN, want(((0, 500),), MAX_WANT_WINDOW)))) == MAX_WANT_WINDOW
    assert node.hear(ANN, want(((100, 500),), 1)) == [SendFrame(ANN, promise(()))]
    node.do(PieceSent(ANN, FILE, 0))
    assert len(pieces_of(node.hear(ANN, want(((100, 500),), 5)))) == 1


def test_a_piece_that_is_queued_already_is_promised_again_but_sent_once() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ALL))
    node.hear(ANN, want(((1, 4),), 3))
    effects = node.hear(ANN, want(((2, 6),), 4))
    assert frames(effects, Promise) == [promise(((2, 6),))]
    assert pieces_of(effects) == [4, 5]


def test_unwanted_pieces_are_cancelled_and_only_those() -> None:
    node = Node(LinkUp(ANN), Serve(FILE, SIZE, ALL))
    node.hear(ANN, want(((1, 9),), 8))
    assert node.hear(ANN, Unwant(file_id=FILE, pieces=((3, 5), (20, 30)))) == [CancelSend(ANN, FILE, ((3, 5),))]
    assert node.hear(ANN, Unwant(file_id=FILE, pieces=((3, 5),))) == []


def test_pieces_that_are_not_held_any_more_are_withdrawn_and_cancelled() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL))
    node.hear(BOB, interest())
    node.hear(ANN, want(((1, 9),), 8))
    effects = node.do(StopServing(FILE, ((5, 12),)))
    assert frames(effects, Withdraw, BOB) == [Withdraw(file_id=FILE, pieces=((5, 12),))]
    assert CancelSend(ANN, FILE, ((5, 9),)) in effects
    assert node.swarm.held(FILE) == ((0, 5), (12, 41))
    effects = node.do(StopServing(FILE))
    assert frames(effects, Withdraw, BOB) == [Withdraw(file_id=FILE, pieces=((0, 5), (12, 41)))]
    assert node.swarm.held(FILE) == ()


def test_interest_in_too_many_files_is_misbehaviour() -> None:
    node = Node(LinkUp(ANN))
    for number in range(MAX_INTERESTS_PER_LINK):
        assert node.hear(ANN, interest(FileId(number.to_bytes(32, "big")))) == []
    (effect,) = node.hear(ANN, interest(FileId(b"x" * 32)))
    assert isinstance(effect, Misbehaved)


def test_a_file_known_with_another_size_is_refused() -> None:
    node = Node(Serve(FILE, SIZE, ALL), Download(OTHER_FILE, SIZE))
    with pytest.raises(LocalError):
        node.do(Serve(FILE, SIZE + 1, ()))
    with pytest.raises(LocalError):
        node.do(Download(FILE, SIZE + 1))
    with pytest.raises(LocalError):
        node.do(Download(OTHER_FILE, SIZE + 1))
    assert node.do(Download(FILE, SIZE, ALL)) == [Completed(FILE)]


# --- taking -----------------------------------------------------------------------------------------------------


def test_every_link_is_asked_what_it_has_whichever_comes_first() -> None:
    node = Node(LinkUp(ANN))
    assert frames(node.do(Download(FILE, SIZE)), Interest) == [interest()]
    assert node.do(LinkUp(BOB)) == [SendFrame(BOB, interest())]


def test_a_tree_node_is_asked_for_before_the_chunks_below_it() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE))
    assert frames(node.hear(ANN, have()), Want) == [want(((0, 1),), 1)]
    node.hear(ANN, promise(((0, 1),)))
    (asked,) = frames(node.fetch(ANN, 0), Want)
    assert isinstance(asked, Want)
    assert asked.pieces == ((1, 41),)


def test_nodes_that_are_open_are_asked_for_before_open_chunks() -> None:
    size = 3 * TREE_FAN_OUT * CHUNK_SIZE  # pieces 0, 1-3, then the chunks
    node = Node(LinkUp(ANN), Download(FILE, size, ((0, 2),)))
    assert frames(node.hear(ANN, have(((0, TreeShape(size).piece_count),))), Want) == [want(((2, 4),), 2)]


def test_one_want_is_on_its_way_at_a_time_and_no_more_than_the_window_is_outstanding() -> None:
    node = downloader(ANN)
    (asked,) = frames(node.hear(ANN, have()), Want)
    assert asked == want(((1, 41),), INITIAL_WANT_WINDOW)
    assert frames(node.hear(ANN, have(((0, 3),))), Want) == []
    assert frames(node.hear(ANN, promise(((1, 9),))), Want) == []
    assert frames(node.fetch(ANN, 1), Want) == [want(((9, 41),), 1)]


def test_only_what_was_promised_is_expected_and_once() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(), promise(((1, 9),)))
    assert node.swarm.expects(ANN, FILE, 1)
    assert not node.swarm.expects(BOB, FILE, 1)
    assert not node.swarm.expects(ANN, FILE, 9)
    node.do(PieceArrived(ANN, FILE, 1))
    assert not node.swarm.expects(ANN, FILE, 1)
    assert node.do(PieceArrived(BOB, FILE, 2)) == []
    assert node.do(PieceArrived(ANN, OTHER_FILE, 2)) == []
    assert node.swarm.statistics().pieces_unexpected == 2


def test_a_piece_may_overtake_its_promise() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(((1, 5),)))
    assert node.swarm.expects(ANN, FILE, 2)
    assert not node.swarm.expects(ANN, FILE, 7)
    node.do(PieceArrived(ANN, FILE, 2))
    assert not node.swarm.expects(ANN, FILE, 2)
    effects = node.do(PieceStored(FILE, 2)) + node.hear(ANN, promise(((1, 5),)))
    assert frames(effects, Unwant) == []
    assert [piece for piece in range(6) if node.swarm.expects(ANN, FILE, piece)] == [1, 3, 4]


def test_what_one_peer_is_asked_for_is_not_asked_of_another_until_it_answers() -> None:
    node = downloader(ANN, BOB)
    (first,) = frames(node.hear(ANN, have(((1, 5),))), Want)
    assert isinstance(first, Want)
    assert first.pieces == ((1, 5),)
    assert frames(node.hear(BOB, have(((1, 5),))), Want) == []
    (second,) = frames(node.hear(ANN, promise(((1, 2),))), Want, BOB)
    assert isinstance(second, Want)
    assert second.pieces == ((2, 5),)


def test_partial_holders_are_preferred_to_an_origin() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(((1, 21),)))
    (asked,) = frames(node.hear(BOB, have()), Want, BOB)
    assert isinstance(asked, Want)
    assert asked.pieces == ((21, 41),)


def test_the_rarest_pieces_are_asked_for_first() -> None:
    node = downloader(ANN, BOB, CID)
    node.hear(BOB, have(((1, 31),)))
    node.hear(BOB, promise(()))
    node.hear(CID, have(((1, 21), (31, 36))))
    node.hear(CID, promise(()))
    asked = frames(node.hear(ANN, have(((1, 40),))), Want, ANN)
    assert isinstance(asked[0], Want)
    assert set(RangeSet(asked[0].pieces)) >= set(range(36, 40))


def test_a_want_names_a_bounded_number_of_ranges() -> None:
    chunks = 4000
    held = ((0, TreeShape(chunks * CHUNK_SIZE).node_count), *((2 * n, 2 * n + 1) for n in range(20, 1500)))
    node = Node(LinkUp(ANN), Download(FILE, chunks * CHUNK_SIZE, held))
    (asked,) = frames(node.hear(ANN, have(((0, TreeShape(chunks * CHUNK_SIZE).piece_count),))), Want)
    assert isinstance(asked, Want)
    assert len(asked.pieces) <= MAX_RANGES_PER_WANT


def test_a_link_that_goes_down_gives_its_pieces_to_others() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(((1, 5),)))
    node.hear(ANN, promise(((1, 2),)))
    node.hear(BOB, have(((1, 5),)))
    node.hear(BOB, promise(((2, 5),)))
    effects = node.do(LinkDown(ANN))
    assert SourcesChanged(FILE, 1) in effects
    assert frames(effects, Want, BOB) == [want(((1, 2),), 1)]


def test_a_withdrawn_piece_is_asked_of_another() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(((1, 2),)), promise(((1, 2),)))
    node.hear(BOB, have(((1, 2),)))
    effects = node.hear(ANN, Withdraw(file_id=FILE, pieces=((1, 2),)))
    assert frames(effects, Want, BOB) == [want(((1, 2),), 1)]
    assert not node.swarm.expects(ANN, FILE, 1)


def test_a_promise_that_brings_nothing_is_asked_elsewhere_but_welcome_when_it_comes_late() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(((1, 5),)), promise(((1, 2),)))
    node.hear(BOB, have(((1, 2),)))
    effects = node.wait(PROMISE_TIMEOUT_S)
    assert frames(effects, Want, BOB) == [want(((1, 2),), 1)]
    node.hear(BOB, promise(((1, 2),)))
    assert node.swarm.expects(ANN, FILE, 1)
    late = node.fetch(ANN, 1)
    assert frames(late, Unwant, BOB) == [Unwant(file_id=FILE, pieces=((1, 2),))]
    assert not node.swarm.expects(BOB, FILE, 1)


def test_who_was_never_asked_comes_before_those_that_broke_a_promise_however_many_they_are() -> None:
    node = downloader(ANN, BOB, CID, DAN)
    for peer in (ANN, BOB, CID, DAN):
        node.hear(peer, have(((1, 2),)))
    asked = [ANN]
    for _ in range(3):
        node.hear(asked[-1], promise(((1, 2),)))
        effects = node.wait(PROMISE_TIMEOUT_S)
        asked += [peer for peer in (ANN, BOB, CID, DAN) if frames(effects, Want, peer)]
    assert asked == [ANN, BOB, CID, DAN]


def test_progress_keeps_a_slow_promise_alive() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(((1, 9),)), promise(((1, 9),)))
    for piece in range(1, 8):
        node.wait(PROMISE_TIMEOUT_S * 0.9)
        node.fetch(ANN, piece)
    assert node.swarm.statistics().promises_dropped == 0


def test_the_only_source_is_asked_again_after_it_stalled() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(((1, 2),)), promise(((1, 2),)))
    effects = node.wait(PROMISE_TIMEOUT_S + 2)
    assert frames(effects, Want, ANN) == [want(((1, 2),), 1)]


def test_a_promise_of_what_a_peer_has_that_brings_nothing_is_broken() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(((1, 2),)), promise(((1, 2),)))
    assert PromiseBroken(ANN) not in node.wait(PROMISE_TIMEOUT_S - 0.1)
    assert node.wait(1).count(PromiseBroken(ANN)) == 1


def test_who_has_promised_nothing_breaks_no_promise() -> None:
    node = downloader(ANN)
    assert frames(node.hear(ANN, have(((1, 2),))), Want)
    assert PromiseBroken(ANN) not in node.wait(10 * PROMISE_TIMEOUT_S)


def test_a_peer_with_little_credit_is_asked_for_little() -> None:
    node = downloader(ANN)
    node.do(SetCredit(ANN, MIN_WANT_WINDOW), SetCredit(BOB, MIN_WANT_WINDOW))  # Bob is not there
    (asked,) = frames(node.hear(ANN, have()), Want)
    assert isinstance(asked, Want)
    assert asked.count == MIN_WANT_WINDOW


def test_an_unanswered_want_does_not_keep_its_pieces_for_ever() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(((1, 2),)))
    node.hear(BOB, have(((1, 2),)))
    assert frames(node.wait(PROMISE_TIMEOUT_S), Want, BOB) == [want(((1, 2),), 1)]


def test_a_piece_that_overtakes_the_late_answer_to_a_want_is_welcome() -> None:
    node = downloader(ANN)
    (asked,) = frames(node.hear(ANN, have()), Want)
    assert isinstance(asked, Want)
    node.wait(PROMISE_TIMEOUT_S + 0.1)  # the network is down; frames and pieces are sent again, in any order
    first = asked.pieces[0][0]
    assert node.swarm.expects(ANN, FILE, first)
    assert frames(node.fetch(ANN, first), Unwant) == []
    effects = node.hear(ANN, promise(((first, first + 1),)))
    assert frames(effects, Unwant) == []
    assert not node.swarm.expects(ANN, FILE, first)


def test_empty_answers_are_not_followed_by_the_next_want_at_once() -> None:
    node = downloader(ANN)
    node.hear(ANN, have())
    wants, is_asked = 1, True
    for _ in range(200):
        effects = node.hear(ANN, promise(())) if is_asked else []
        effects += node.wait(0.05)
        is_asked = bool(frames(effects, Want))
        wants += is_asked
    assert 5 <= wants <= 15


def test_a_wrong_piece_is_held_against_its_sender_for_that_file_on_that_link() -> None:
    node = downloader(ANN, BOB)
    node.hear(ANN, have(), promise(((1, 3),)))
    node.do(PieceArrived(ANN, FILE, 1))
    effects = node.do(PieceRejected(ANN, FILE, 1))
    assert [effect.peer for effect in effects if isinstance(effect, Misbehaved)] == [ANN]
    assert frames(effects, Unwant, ANN) == [Unwant(file_id=FILE, pieces=((2, 3),))]
    assert frames(node.hear(ANN, have()), Want) == []
    assert not node.swarm.expects(ANN, FILE, 2)
    (asked,) = frames(node.hear(BOB, have()), Want)
    assert isinstance(asked, Want)
    assert asked.pieces == ((1, 41),)


def test_a_wrong_top_may_be_the_fault_of_who_told_the_size_and_is_only_not_asked_for_again() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE))
    node.hear(ANN, have(), promise(((0, 1),)))
    effects = node.do(PieceArrived(ANN, FILE, 0), PieceRejected(ANN, FILE, 0))
    assert not [effect for effect in effects if isinstance(effect, Misbehaved)]
    assert SizeDoubted(ANN, FILE) in effects
    assert node.hear(ANN, have()) == []


def test_a_peer_that_means_a_larger_file_is_not_asked() -> None:
    node = downloader(ANN)
    effects = node.hear(ANN, have(((0, 42),)))
    assert frames(effects, Want) == []
    assert SizeDoubted(ANN, FILE) not in effects, "piece 0 has proved the size"
    assert node.hear(ANN, have()) == []


def test_a_peer_that_doubts_a_size_is_asked_when_another_is_believed() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE))
    assert SizeDoubted(ANN, FILE) in node.hear(ANN, have(((0, 42),)))
    again = node.do(CancelDownload(FILE), StopServing(FILE), Download(FILE, SIZE))
    assert again[-1] == SizeDoubted(ANN, FILE)
    assert frames(again, Interest) == []
    other = node.do(CancelDownload(FILE), StopServing(FILE), Download(FILE, SIZE + CHUNK_SIZE))
    assert frames(other, Interest, ANN) == [interest()]
    assert len(frames(node.hear(ANN, have(((0, 42),))), Want)) == 1


def test_a_piece_that_could_not_be_stored_is_fetched_again() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(((1, 2),)), promise(((1, 2),)))
    node.do(PieceArrived(ANN, FILE, 1))
    assert frames(node.do(PieceDropped(FILE, 1)), Want) == [want(((1, 2),), 1)]


def test_pieces_lost_during_a_download_are_fetched_again_tree_first() -> None:
    node = downloader(ANN)
    node.hear(ANN, have())
    node.hear(ANN, promise(((1, 9),)))
    node.fetch(ANN, *range(1, 9))
    node.do(StopServing(FILE, ((0, 3),)))
    effects = node.hear(ANN, promise(()))
    assert frames(effects + node.wait(1), Want, ANN) == [want(((0, 1),), 1)]
    assert node.swarm.missing_count(FILE) == 41 - 6


def test_what_is_promised_and_not_needed_any_more_is_called_off() -> None:
    node = downloader(ANN)
    node.hear(ANN, have(), promise(((1, 9),)))
    effects = node.do(CancelDownload(FILE))
    assert frames(effects, Unwant) == [Unwant(file_id=FILE, pieces=((1, 9),))]
    assert frames(effects, Interest) == [interest(interested=False)]
    assert not node.swarm.is_downloading(FILE)
    assert frames(node.hear(ANN, promise(((9, 12),))), Unwant) == [Unwant(file_id=FILE, pieces=((9, 12),))]
    assert node.swarm.next_deadline() is None


def test_more_than_was_asked_for_is_not_accepted() -> None:
    node = downloader(ANN)
    node.hear(ANN, have())
    effects = node.hear(ANN, promise(((1, 2**31),)))
    assert frames(effects, Unwant) == [Unwant(file_id=FILE, pieces=((1, 2**31),))]
    assert not node.swarm.expects(ANN, FILE, 1)


def test_a_download_starts_again_after_it_was_cancelled() -> None:
    node = downloader(ANN)
    node.hear(ANN, have())
    node.do(CancelDownload(FILE))
    assert frames(node.do(Download(FILE, SIZE, ((0, 1),))), Interest) == [interest()]
    assert len(frames(node.hear(ANN, have()), Want)) == 1


def test_an_empty_file_and_a_file_that_is_there_are_complete_at_once() -> None:
    node = Node(LinkUp(ANN))
    assert node.do(Download(FILE, 0)) == [Completed(FILE)]
    assert node.do(Download(OTHER_FILE, SIZE, ALL)) == [Completed(OTHER_FILE)]


def test_when_the_last_piece_is_stored_the_download_is_over_and_the_file_served_on() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Download(FILE, 10))
    node.hear(ANN, have(((0, 1),)), promise(((0, 1),)))
    effects = node.fetch(ANN, 0)
    assert effects.count(Completed(FILE)) == 1
    assert frames(effects, Interest, ANN) == [interest(interested=False)]
    assert node.do(PieceStored(FILE, 0)) == []
    assert pieces_of(node.hear(BOB, want(((0, 1),), 1))) == [0]


def test_the_root_of_the_tree_is_asked_of_a_second_holder_since_all_waits_for_it() -> None:
    node = Node(Download(FILE, SIZE), LinkUp(ANN), LinkUp(BOB))
    node.hear(ANN, have(((0, 20),)), promise(((0, 1),)))
    assert frames(node.hear(BOB, have(((0, 20),))), Want) == []
    assert frames(node.wait(1.1), Want, BOB) == [want(((0, 1),), 1)]


def test_the_last_pieces_are_asked_of_a_second_holder_once_and_the_slower_is_called_off() -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Download(FILE, SIZE, ((0, 39),)))
    node.hear(ANN, have(((0, 40),)), promise(((39, 40),)))
    node.hear(BOB, have(((0, 39), (40, 41))), promise(((40, 41),)))
    assert frames(node.hear(BOB, have(((39, 40),))), Want) == []
    effects = node.wait(1)
    assert frames(effects, Want) == [want(((39, 40),), 1)]
    node.hear(BOB, promise(((39, 40),)))
    assert frames(node.wait(2), Want) == []
    assert node.swarm.expects(ANN, FILE, 39)
    assert node.swarm.expects(BOB, FILE, 39)
    assert frames(node.fetch(BOB, 39), Unwant, ANN) == [Unwant(file_id=FILE, pieces=((39, 40),))]
    assert not node.swarm.expects(ANN, FILE, 39)


def test_a_window_is_shared_by_all_files() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE, ((0, 1),)), Download(OTHER_FILE, SIZE, ((0, 1),)))
    node.hear(ANN, have(((1, 5),)), promise(((1, 5),)))
    (asked,) = frames(node.hear(ANN, Have(file_id=OTHER_FILE, pieces=ALL)), Want)
    assert isinstance(asked, Want)
    assert asked.count == INITIAL_WANT_WINDOW - 4


def test_the_number_of_sources_is_told_when_it_changes() -> None:
    node = downloader(ANN, BOB)
    assert SourcesChanged(FILE, 1) in node.hear(ANN, have(((1, 2),)))
    assert not [e for e in node.hear(ANN, have(((2, 3),))) if isinstance(e, SourcesChanged)]
    assert SourcesChanged(FILE, 2) in node.hear(BOB, have())
    assert SourcesChanged(FILE, 1) in node.hear(BOB, Withdraw(file_id=FILE, pieces=ALL))
    assert node.swarm.source_count(FILE) == 1


def test_too_many_downloads_at_once_are_refused() -> None:
    node = Node(*(Download(FileId(n.to_bytes(32, "big")), SIZE) for n in range(MAX_INTERESTS_PER_LINK)))
    with pytest.raises(LocalError):
        node.do(Download(FILE, SIZE, ALL))
    assert node.swarm.held(FILE) == ()


# --- windows ----------------------------------------------------------------------------------------------------


def run_pace(pace: Pace, *, rate: float, delay: float, seconds: float) -> None:
    """A link that answers an ask after `delay` and meanwhile delivers what is promised at `rate`."""
    now, answer_at, asked = 0.0, 0.0, 0
    while now < seconds:
        if not asked and (room := pace.room()):
            pace.asked(room, now)
            answer_at, asked = now + delay, room
        now += min(1 / rate, delay)
        if asked and now >= answer_at:
            pace.answered(asked, delay)
            pace.promised(asked, now)
            asked = 0
        if pace.promised_count:
            now += max(0.0, 1 / rate - delay)
            pace.arrived(now, was_promised=True)


@pytest.mark.parametrize(
    ("rate", "delay", "expected"),
    [(1, 0.01, MIN_WANT_WINDOW), (200, 0.005, 21), (200, 0.1, 40), (5000, 0.05, MAX_WANT_WINDOW)],
)
def test_a_window_is_what_a_link_delivers_in_a_turn_and_a_tenth_of_a_second(
    rate: float, delay: float, expected: int
) -> None:
    pace = Pace()
    run_pace(pace, rate=rate, delay=delay, seconds=30)
    assert pace.window == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("rate", "least"), [(25, 8), (6, 2), (1, 1)])
def test_where_others_are_fast_a_link_is_asked_for_several_at_once_unless_they_take_long_there(
    rate: float, least: int
) -> None:
    pace = Pace()
    run_pace(pace, rate=rate, delay=0.005, seconds=30)
    pace.promised_count = pace.asked_count = 0
    assert pace.room(8) == max(pace.window, least)
    pace.promised_count = max(pace.window, least) - least + 1
    assert pace.room(8) == (0 if least > 1 else max(pace.window, least) - pace.promised_count)


def test_a_stall_brings_the_window_down_and_makes_more_patient_up_to_a_limit() -> None:
    pace = Pace()
    run_pace(pace, rate=1000, delay=0.01, seconds=5)
    assert pace.window > MIN_WANT_WINDOW
    patience = pace.patience_s
    pace.stall(10.0)
    assert pace.window == MIN_WANT_WINDOW
    assert pace.patience_s == 2 * patience
    for _ in range(10):
        pace.stall(20.0)
    assert pace.patience_s == MAX_PROMISE_PATIENCE_S


@pytest.mark.parametrize(
    ("limits", "window"), [((), 64), ((8,), 8), ((8, MAX_WANT_WINDOW), 64), ((0,), MIN_WANT_WINDOW)]
)
def test_the_window_of_a_peer_grows_no_further_than_its_credit(limits: tuple[int, ...], window: int) -> None:
    pace = Pace()
    for limit in limits:
        pace.set_limit(limit)
    run_pace(pace, rate=1000, delay=0.05, seconds=5)
    assert pace.window == window


def test_less_credit_counts_at_once() -> None:
    pace = Pace()
    run_pace(pace, rate=1000, delay=0.05, seconds=5)
    pace.set_limit(8)
    assert pace.window == 8


# --- anything ---------------------------------------------------------------------------------------------------

peers = st.sampled_from([ANN, BOB, CID, DAN])
STREAM = FileId(b"S" * 32)
sized = st.sampled_from([FILE, OTHER_FILE, FileId(b"?" * 32)])
files = st.one_of(sized, st.just(STREAM))
hops = st.integers(0, 4)
pieces = st.integers(0, 45)
piece_sets = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=4).map(
    lambda runs: RangeSet((start, start + length) for start, length in runs).to_ranges()
)
swarm_frames = st.one_of(
    st.builds(Have, file_id=files, pieces=piece_sets),
    st.builds(Want, file_id=files, pieces=piece_sets, count=st.integers(1, MAX_WANT_WINDOW), hops=hops),
    st.builds(Relay, file_id=files, hops=hops, is_fetching=st.booleans(), count=st.integers(0, 60)),
    st.builds(Promise, file_id=files, pieces=piece_sets),
    st.builds(Withdraw, file_id=files, pieces=piece_sets),
    st.builds(Unwant, file_id=files, pieces=piece_sets),
    st.builds(Interest, file_id=files, interested=st.booleans(), hops=hops),
)
swarm_events = st.one_of(
    st.builds(Received, peers, swarm_frames),
    st.builds(Received, peers, swarm_frames),
    st.builds(Received, peers, swarm_frames),
    st.builds(LinkUp, peers),
    st.builds(SetCredit, peers, st.integers(0, MAX_WANT_WINDOW)),
    st.builds(LinkDown, peers),
    st.builds(Serve, sized, st.just(SIZE), piece_sets),
    st.builds(Serve, st.just(STREAM), st.none(), piece_sets),
    st.builds(StopServing, files, st.one_of(st.none(), piece_sets)),
    st.builds(Download, sized, st.just(SIZE), piece_sets),
    st.builds(Select, files, st.one_of(st.none(), piece_sets)),
    st.builds(Prioritise, files, st.integers(-3, 3)),
    st.builds(Follow, st.just(STREAM), pieces, st.integers(0, 70)),
    st.builds(StreamEnded, st.just(STREAM), pieces),
    st.builds(Route, sized, st.sampled_from([SIZE, SIZE, SIZE, SIZE + CHUNK_SIZE]), st.one_of(st.none(), hops)),
    st.builds(Route, st.just(STREAM), st.none(), st.one_of(st.none(), hops)),
    st.builds(CancelDownload, files),
    st.builds(PieceArrived, peers, files, pieces),
    st.builds(PieceStored, files, pieces),
    st.builds(PieceDropped, files, pieces),
    st.builds(PieceRejected, peers, files, pieces),
    st.builds(PieceSent, peers, files, pieces),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(swarm_events, st.sampled_from([0.0, 0.0, 0.01, 0.3, 6.0])), max_size=60))
def test_nothing_that_peers_or_drivers_do_breaks_the_machine(steps: list[tuple[SwarmEvent, float]]) -> None:
    node = Node(LinkUp(ANN), LinkUp(BOB), Serve(FILE, SIZE, ALL), Download(OTHER_FILE, SIZE))
    linked, queued = {ANN, BOB}, dict[object, set[tuple[FileId, int]]]()
    relayed: set[FileId] = set()
    routes_wanted: set[FileId] = set()

    def check(effects: list[SwarmEffect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame(peer, frame):
                    assert peer in linked
                    assert encode_frame(frame)
                case SendPiece(peer, file_id, piece):
                    assert (file_id, piece) not in queued.setdefault(peer, set())
                    queued[peer].add((file_id, piece))
                    assert len(queued[peer]) <= MAX_WANT_WINDOW
                    assert piece in RangeSet(node.swarm.held(file_id))
                case RouteWanted(file_id):
                    assert file_id not in routes_wanted
                    routes_wanted.add(file_id)
                case RelayBegan(file_id):
                    relayed.add(file_id)
                case RelayEnded(file_id):
                    assert file_id in relayed | routes_wanted
                    relayed.discard(file_id)
                    routes_wanted.discard(file_id)
                case CancelSend(peer, file_id, gone):
                    queued[peer] -= {(file_id, piece) for piece in RangeSet(gone)}

    for event, seconds in steps:
        match event:
            case LinkUp(peer):
                linked.add(peer)
                queued.pop(peer, None)
            case LinkDown(peer):
                linked.discard(peer)
                queued.pop(peer, None)
            case PieceSent(peer, file_id, piece):
                queued.get(peer, set()).discard((file_id, piece))
        check(node.do(event))
        check(node.wait(seconds))
