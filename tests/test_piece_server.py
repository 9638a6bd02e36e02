"""The giving half of a swarm alone: what it holds back, what it puts off, and whom it forgets."""

import pytest
from swarm_net import FILE
from test_swarm import ANN, BOB, SIZE, frames, have, interest, pieces_of, want

from poolnet.ids import DeviceId
from poolnet.limits import CHUNK_SIZE, HAVE_INTERVAL_S
from poolnet.protocol.swarm_events import SwarmEffect
from poolnet.protocol.swarm_server import PieceServer
from poolnet.ranges import Ranges
from poolnet.wire.swarm_frames import Have


class Giver:
    """A server, and what it has had to say since it was asked last."""

    def __init__(self, held: Ranges, *peers: DeviceId, size: int = SIZE) -> None:
        self._effects: list[SwarmEffect] = []
        self.server = PieceServer(self._effects)
        self.server.serve(FILE, size, held, 0.0)
        for peer in peers:
            self.server.link_up(peer)

    def said(self) -> list[SwarmEffect]:
        said = self._effects.copy()
        self._effects.clear()
        return said

    def told(self, to: DeviceId) -> list[object]:
        return list(frames(self.said(), Have, to))


@pytest.mark.parametrize(("chunks", "is_held_back"), [(15, False), (16, True)])
def test_only_chunks_of_a_file_of_sixteen_or_more_are_held_back(chunks: int, is_held_back: bool) -> None:
    giver = Giver(((0, chunks + 1),), ANN, BOB, size=chunks * CHUNK_SIZE)
    giver.server.want(ANN, want(((1, 6),), 5), 0.0)
    assert pieces_of(giver.said(), ANN) == [1, 2, 3, 4, 5]
    giver.server.want(BOB, want(((1, 6),), 5), 0.0)
    assert pieces_of(giver.said(), BOB) == ([] if is_held_back else [1, 2, 3, 4, 5])


@pytest.mark.parametrize(("news", "intervals"), [(1, 1), (3, 1), (4, 2), (20, 2)])
def test_after_an_announcement_of_four_pieces_or_more_the_next_waits_two_intervals(news: int, intervals: int) -> None:
    giver = Giver((), ANN)
    giver.server.interest(ANN, interest())
    giver.server.serve(FILE, SIZE, ((0, news),), 10.0)
    assert giver.told(ANN) == [have(((0, news),))]
    giver.server.store(FILE, 30, 10.0)
    due_at = giver.server.next_deadline()
    assert due_at == pytest.approx(10 + intervals * HAVE_INTERVAL_S)
    assert due_at is not None
    assert giver.told(ANN) == []
    giver.server.tick(due_at)
    assert giver.told(ANN) == [have(((30, 31),))]


def test_the_last_piece_of_a_file_is_announced_at_once() -> None:
    giver = Giver(((0, 38),), ANN)
    giver.server.interest(ANN, interest())
    giver.server.store(FILE, 38, 10.0)
    assert giver.told(ANN) == [have(((0, 38),)), have(((38, 39),))]
    giver.server.store(FILE, 39, 10.0)
    assert giver.told(ANN) == []
    giver.server.store(FILE, 40, 10.0)
    assert giver.told(ANN) == [have(((39, 41),))]
    assert giver.server.next_deadline() is None


def test_a_peer_that_is_gone_is_told_nothing_even_if_it_comes_again() -> None:
    giver = Giver((), ANN, BOB)
    giver.server.interest(ANN, interest())
    giver.server.interest(BOB, interest())
    giver.server.link_down(ANN)
    assert not giver.server.is_interested(ANN, FILE)
    giver.server.link_up(ANN)
    giver.server.store(FILE, 3, 10.0)
    said = giver.said()
    assert frames(said, Have, BOB) == frames(said, Have) == [have(((3, 4),))]
