"""Relaying where something else comes between: too many routes, another size, the file itself, the same want again."""

import pytest
from swarm_net import FILE, peer_id
from test_swarm import ANN, DAN, OTHER_FILE, SIZE, Node, frames, have, pieces_of, promise
from test_swarm_relay import interest, relaying, want

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, PROMISE_TIMEOUT_S
from poolnet.protocol import swarm_aims, swarm_relay
from poolnet.protocol.swarm import Download, LinkDown, LinkUp, RelayEnded, Route, RouteWanted, Serve
from poolnet.wire.swarm_frames import Interest, Promise, Relay, Withdraw


def test_of_too_many_routes_that_nobody_wants_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_relay, "_MAX_SPARE_ROUTES", 2)
    ids = [FileId(bytes([number]) * 32) for number in range(1, 7)]
    node = Node(LinkUp(ANN), LinkUp(DAN), Download(ids[0], SIZE))
    for file_id in ids:
        node.do(Route(file_id, SIZE, 2))
    asked = [RouteWanted(file_id) in node.hear(ANN, interest(5, file_id)) for file_id in ids]
    assert asked == [False, True, True, True, False, False]


def test_what_others_wait_for_is_sent_when_the_file_turns_out_to_be_here() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 3),), 3))
    effects = node.do(Serve(FILE, SIZE, ((0, 2),)))
    assert pieces_of(effects, ANN) == [0, 1]
    assert frames(effects, Promise) == []


def test_nothing_is_relayed_of_a_file_that_is_here_with_another_size() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Serve(FILE, SIZE, ((0, 2),)), Route(FILE, SIZE - CHUNK_SIZE, 2))
    node.hear(ANN, interest())
    assert frames(node.hear(ANN, want(((0, 9),), 5)), Promise) == [promise(((0, 2),))]


def test_nothing_is_relayed_while_as_many_files_are_fetched_as_peers_put_up_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swarm_aims, "MAX_INTERESTS_PER_LINK", 1)
    node = Node(LinkUp(ANN), LinkUp(DAN), Download(OTHER_FILE, SIZE), Route(FILE, SIZE, 2))
    node.hear(ANN, interest())
    assert frames(node.hear(ANN, want(((0, 9),), 5)), Promise) == [promise(())]


def test_only_what_is_fetched_for_others_alone_makes_room_for_another_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_aims, "MAX_INTERESTS_PER_LINK", 2)
    monkeypatch.setattr(swarm_relay, "MAX_INTERESTS_PER_LINK", 2)
    only_asked_for, third = FileId(b"A" * 32), FileId(b"T" * 32)
    node = Node(LinkUp(ANN), LinkUp(DAN), *(Route(file_id, SIZE, 2) for file_id in (OTHER_FILE, FILE)))
    node.do(Download(OTHER_FILE, SIZE))
    node.hear(ANN, interest(5, only_asked_for), interest(5, OTHER_FILE), interest())
    for file_id in (OTHER_FILE, FILE):
        node.hear(ANN, want(((0, 1),), 1, 3, file_id))
    effects = node.do(Download(third, SIZE))
    assert [effect for effect in effects if isinstance(effect, RelayEnded)] == [RelayEnded(FILE)]
    assert frames(effects, Withdraw, ANN) == [Withdraw(file_id=FILE, pieces=((0, 1),))]


def test_a_relay_says_how_far_it_is_and_that_it_is_no_more() -> None:
    node = relaying(ANN, hops=3)
    (told,) = frames(node.do(Route(FILE, SIZE, 1)), Relay, ANN)
    assert isinstance(told, Relay)
    assert told.hops == 1
    (told,) = frames(node.do(Route(FILE, SIZE, None)), Relay, ANN)
    assert isinstance(told, Relay)
    assert told.hops == 0


def test_nothing_is_told_of_a_file_that_nobody_has_heard_of() -> None:
    swarm = Node(LinkUp(ANN)).swarm
    assert (swarm.missing_count(FILE), swarm.source_count(FILE), swarm.stream_ends(FILE)) == (0, 0, ())
    assert swarm.held(FILE) == ()


def test_a_link_that_comes_again_without_having_gone_begins_anew() -> None:
    node = Node(LinkUp(ANN), Download(FILE, SIZE))
    node.hear(ANN, have())
    assert node.swarm.source_count(FILE) == 1
    node.do(LinkUp(ANN))
    assert node.swarm.source_count(FILE) == 0
    node.do(LinkDown(ANN))
    node.do(LinkDown(peer_id(77)))
    assert node.swarm.source_count(FILE) == 0


def test_what_was_relayed_is_kept_when_the_file_turns_out_to_be_here_and_relaying_ends() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 1),), 1))
    node.do(Serve(FILE, SIZE, ((0, 2),)))
    effects = node.hear(ANN, Interest(file_id=FILE, interested=False))
    assert RelayEnded(FILE) in effects
    assert node.swarm.held(FILE) == ((0, 2),)
    assert sorted(pieces_of(node.hear(DAN, want(((0, 2),), 2, 0)))) == [0, 1]


def test_custody_is_given_up_only_when_nothing_has_come_for_long() -> None:
    node = relaying(ANN)
    node.hear(ANN, want(((0, 3),), 3))
    node.hear(DAN, have(), promise(((0, 1),)))
    node.wait(PROMISE_TIMEOUT_S - 1)
    node.fetch(DAN, 0)
    node.hear(DAN, promise(((1, 3),)))
    assert frames(node.wait(PROMISE_TIMEOUT_S - 1), Withdraw, ANN) == []
    node.fetch(DAN, 1)
    assert frames(node.wait(PROMISE_TIMEOUT_S - 1), Withdraw, ANN) == []
    assert pieces_of(node.fetch(DAN, 2), ANN) == [2]


def test_a_relay_that_has_been_idle_waits_for_what_is_asked_of_it_now() -> None:
    node = relaying(ANN)
    node.wait(1000)
    node.hear(ANN, want(((0, 1),), 1))
    assert frames(node.wait(1.5), Withdraw, ANN) == []
    node.hear(DAN, have())
    node.hear(DAN, promise(((0, 1),)))
    assert pieces_of(node.fetch(DAN, 0), ANN) == [0]


def test_nothing_is_relayed_with_another_size_of_a_file_that_is_fetched_here() -> None:
    node = Node(LinkUp(ANN), LinkUp(DAN), Serve(FILE, SIZE, ((0, 2),)), Download(FILE, SIZE, ((0, 2),)))
    node.do(Route(FILE, SIZE - CHUNK_SIZE, 2))
    node.hear(ANN, interest())
    assert frames(node.hear(ANN, want(((0, 9),), 5)), Promise) == [promise(((0, 2),))]
