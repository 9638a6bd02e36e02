"""What the swarm machine fetches, and what it tells of it: where it begins, who takes turns, and what it forgets."""

from random import Random

import pytest
from swarm_net import FILE
from test_swarm import ANN, BOB, DAN, OTHER_FILE, SIZE, Node, frames, have
from test_swarm_relay import interest, want

from poolnet.ids import FileId
from poolnet.protocol import swarm_aims, swarm_relay
from poolnet.protocol.swarm import (
    CancelDownload,
    Completed,
    Download,
    Follow,
    LinkUp,
    RelayEnded,
    Route,
    RouteWanted,
    Select,
    SourcesChanged,
    StopServing,
    Swarm,
    SwarmEvent,
)
from poolnet.wire.swarm_frames import Interest, Want, Withdraw


def test_several_receivers_begin_at_different_places() -> None:
    """So each has something to give to the others soon, and not all the same."""
    firsts = set()
    for seed in range(10):
        node = Node()
        node.swarm = Swarm(Random(seed))
        node.do(LinkUp(ANN), Download(FILE, SIZE, ((0, 1),)))
        (asked,) = frames(node.hear(ANN, have(((1, 40),))), Want)
        assert isinstance(asked, Want)
        firsts.add(asked.pieces)
    assert len(firsts) > 3


@pytest.mark.parametrize("event", [Download(OTHER_FILE, SIZE), Follow(OTHER_FILE, 0, 9)], ids=["file", "stream"])
def test_what_this_device_wants_takes_the_place_of_what_is_relayed(
    event: SwarmEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (swarm_aims, swarm_relay):
        monkeypatch.setattr(module, "MAX_INTERESTS_PER_LINK", 2)
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, SIZE, 1), Download(FileId(b"T" * 32), SIZE))
    node.hear(ANN, interest(2))
    node.hear(ANN, want(((0, 1),), 1, 2))
    effects = node.do(event)
    assert RelayEnded(FILE) in effects
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]
    assert node.swarm.is_downloading(OTHER_FILE)


def test_how_far_holders_are_is_forgotten_when_a_download_is_complete() -> None:
    """Nobody keeps it up to date any more, so the next download must not go by it."""
    node = Node(LinkUp(DAN), Route(FILE, SIZE, 3), Download(FILE, SIZE, ((0, 40),)))
    node.hear(DAN, have())
    assert Completed(FILE) in node.fetch(DAN, 40)
    node.do(StopServing(FILE))
    assert frames(node.do(Download(FILE, SIZE)), Interest) == [Interest(file_id=FILE, interested=True, hops=0)]


def test_a_route_is_asked_for_when_the_download_that_had_it_told_is_complete_and_others_ask() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Route(FILE, SIZE, 2), Download(FILE, SIZE, ((0, 1),)))
    assert RouteWanted(FILE) not in node.hear(ANN, interest())
    node.do(Select(FILE, ((1, 3),)))
    node.hear(DAN, have())
    assert RouteWanted(FILE) in node.fetch(DAN, 1, 2)


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "complete"])
@pytest.mark.parametrize("sources", [1, 2])
def test_a_download_that_goes_on_after_it_was_only_relayed_tells_how_many_sources_there_are(
    sources: int, *, is_cancelled: bool
) -> None:
    holders = (DAN, BOB)[:sources]
    node = Node(*map(LinkUp, (ANN, *holders)), Route(FILE, SIZE, 2))
    node.hear(ANN, interest())
    node.hear(ANN, want(((0, 9),), 5))
    node.do(Download(FILE, SIZE, ((0, 1),)), Select(FILE, ((1, 3),)))
    for holder in holders:
        node.hear(holder, have())
    if is_cancelled:
        node.do(CancelDownload(FILE))
    else:
        node.fetch(DAN, 1, 2)
    assert not node.swarm.is_downloading(FILE)
    effects = node.do(Download(FILE, SIZE, ((0, 1),)), Route(FILE, SIZE, 1))
    assert SourcesChanged(FILE, sources) in effects
