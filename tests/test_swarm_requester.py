"""The taking half of a swarm alone: how one link is asked for several files, and what it is asked after a refusal."""

import pytest
from swarm_net import FILE
from test_swarm import ANN, OTHER_FILE

from poolnet.ids import FileId
from poolnet.limits import (
    CHUNK_SIZE,
    INITIAL_WANT_WINDOW,
    MAX_PROMISE_PATIENCE_S,
    MAX_WANT_WINDOW,
    MIN_WANT_WINDOW,
)
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_events import SendFrame, SwarmEffect
from poolnet.protocol.swarm_requester import Requester
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Have, Promise, Relay, Want, Withdraw


class Taker:
    """A requester with a clock, linked to Ann, that wants the chunks of files whose trees are here."""

    def __init__(self, *file_ids: FileId, chunks: int = 40, route: int | None = None) -> None:
        self._effects: list[SwarmEffect] = []
        self.requester = Requester(self._effects)
        self.now = 100.0
        self.requester.link_up(ANN)
        for file_id in file_ids:
            size = chunks * CHUNK_SIZE
            download = FileDownload(file_id, size, ((0, shape_of(size).node_count),), cursor=0)
            download.is_own, download.route = True, route
            self.requester.add(download)

    def wants(self) -> list[Want]:
        """Return what was asked for since this was called last."""
        said = [effect.frame for effect in self._effects if isinstance(effect, SendFrame)]
        self._effects.clear()
        return [frame for frame in said if isinstance(frame, Want)]

    def asked(self) -> list[tuple[FileId, int]]:
        return [(want.file_id, want.count) for want in self.wants()]

    def have(self, pieces: Ranges, file_id: FileId = FILE) -> None:
        self.requester.have(ANN, Have(file_id=file_id, pieces=pieces), self.now)

    def promise(self, pieces: Ranges, file_id: FileId = FILE) -> None:
        self.requester.promise(ANN, Promise(file_id=file_id, pieces=pieces), self.now)

    def promise_first(self, want: Want) -> list[int]:
        """Promise as many of what a want names as it asks for; return which."""
        pieces = list(RangeSet.from_ranges(want.pieces))[: want.count]
        self.promise(RangeSet.of(pieces).to_ranges())
        return pieces

    def relay(self, hops: int, file_id: FileId = FILE) -> None:
        self.requester.relay(ANN, Relay(file_id=file_id, hops=hops), self.now)

    def fetch(self, piece: int) -> None:
        self.requester.arrive(ANN, FILE, piece, self.now)
        self.requester.store(FILE, piece, self.now)

    def wait_until(self, end: float) -> None:
        """Let time pass, with a tick whenever the machine wants one."""
        while (deadline := self.requester.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.requester.tick(self.now)
        self.now = end


def test_before_anything_has_come_the_last_free_place_of_a_window_is_used() -> None:
    taker = Taker(FILE, OTHER_FILE)
    taker.have(((1, INITIAL_WANT_WINDOW),))
    taker.have(((1, 41),), OTHER_FILE)
    assert taker.asked() == [(FILE, INITIAL_WANT_WINDOW - 1), (OTHER_FILE, 1)]


def test_what_one_file_leaves_of_a_window_goes_to_the_next_to_the_last_piece() -> None:
    taker = Taker(FILE, OTHER_FILE)
    taker.have(((1, 9),))
    taker.have(((1, 8),), OTHER_FILE)
    taker.have(((20, 41),))
    assert taker.asked() == [(FILE, INITIAL_WANT_WINDOW)]
    taker.promise(((1, 9),))
    taker.requester.withdraw(ANN, Withdraw(file_id=FILE, pieces=((1, 9),)), taker.now)
    assert taker.asked() == [(OTHER_FILE, INITIAL_WANT_WINDOW - 1), (FILE, 1)]


def test_each_file_is_asked_for_again_when_its_own_rest_is_over() -> None:
    taker = Taker(FILE, OTHER_FILE)
    taker.have(((1, 3),))
    taker.have(((1, 3),), OTHER_FILE)
    taker.promise(())
    taker.wait_until(100.1)
    taker.promise((), OTHER_FILE)
    assert taker.asked() == [(FILE, 2), (OTHER_FILE, 2)]
    taker.wait_until(100.3)
    assert taker.asked() == [(FILE, 2)]
    taker.wait_until(100.4)
    assert taker.asked() == [(OTHER_FILE, 2)]
    assert taker.requester.wants_sent == 4


def test_each_file_is_asked_of_a_relay_again_when_its_own_rest_is_over() -> None:
    taker = Taker(FILE, OTHER_FILE, chunks=3, route=3)
    taker.relay(2)
    taker.relay(2, OTHER_FILE)
    taker.promise(())
    taker.wait_until(100.1)
    taker.promise((), OTHER_FILE)
    assert taker.asked() == [(FILE, 3), (OTHER_FILE, 3)]
    taker.wait_until(100.3)
    assert taker.asked() == [(FILE, 3)]
    taker.wait_until(100.4)
    assert taker.asked() == [(OTHER_FILE, 3)]


def test_promises_that_were_not_kept_may_come_late_and_are_remembered_up_to_a_limit() -> None:
    chunks = 700
    tree_nodes, piece_count = shape_of(chunks * CHUNK_SIZE).node_count, shape_of(chunks * CHUNK_SIZE).piece_count
    taker = Taker(FILE, chunks=chunks)
    taker.have(((tree_nodes, piece_count),))
    remembered = []
    for turn in range(300):
        (want,) = taker.wants()
        taker.promise_first(want)
        taker.wait_until(taker.now + 2 * MAX_PROMISE_PATIENCE_S)
        if turn % 5 == 0:
            remembered.append(sum(taker.requester.expects(ANN, FILE, piece) for piece in range(piece_count)))
    assert remembered[1] == remembered[0] + 5 * MIN_WANT_WINDOW
    assert 256 - MAX_WANT_WINDOW < max(remembered) <= 256 + MAX_WANT_WINDOW


@pytest.mark.parametrize(("rate", "together"), [(4, 1), (128, 8)])
def test_what_comes_fast_is_soon_asked_for_several_at_a_time(rate: int, together: int) -> None:
    taker = Taker(FILE, chunks=200)
    taker.have(((1, 201),))
    wants: list[tuple[float, int]] = []
    promised: list[int] = []
    while taker.now < 101:
        for want in taker.wants():
            promised += taker.promise_first(want)
            wants.append((taker.now, want.count))
        taker.now += 1 / rate
        taker.fetch(promised.pop(0))
    assert {count for at, count in wants if at > 100.25} == {together}
