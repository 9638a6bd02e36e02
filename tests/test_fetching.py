"""Messages that are lacking here: who is asked for which, when, and what is given up."""

import pytest

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    MAX_IDS_PER_WANT,
    MAX_UNANSWERED_WANTS,
    MAX_WANTED_PER_LINK,
    RECONCILE_PATIENCE_S,
    RECONCILE_TIMEOUT_S,
    WANT_DELAY_S,
)
from poolnet.protocol import fetching
from poolnet.protocol.fetching import Fetching
from poolnet.wire.pool_frames import WantMessages

ANN, BOB, CID = (DeviceId(bytes([number]) * 32) for number in (1, 2, 3))


def ids(*numbers: int) -> tuple[MsgId, ...]:
    return tuple(MsgId(number.to_bytes(32, "big")) for number in numbers)


def linked(*peers: DeviceId) -> Fetching:
    machine = Fetching()
    for peer in peers:
        machine.link_up(peer)
    return machine


def test_what_gossip_may_still_bring_is_asked_for_a_moment_later() -> None:
    machine = linked(ANN)
    machine.note(ANN, ids(1), 5.0, is_old=False)
    assert machine.to_ask(5.0) == []
    assert machine.next_deadline() == 5.0 + WANT_DELAY_S
    assert machine.to_ask(5.0 + WANT_DELAY_S) == [(ANN, WantMessages(number=1, ids=ids(1)))]
    machine.note(ANN, ids(2), 9.0, is_old=True)
    assert machine.to_ask(9.0) == [(ANN, WantMessages(number=2, ids=ids(2)))]


def test_each_message_is_asked_of_one_and_each_link_for_so_many_at_a_time() -> None:
    machine = linked(ANN, BOB)
    numbers = ids(*range(3 * MAX_IDS_PER_WANT))
    machine.note(ANN, numbers, 0.0, is_old=True)
    machine.note(BOB, numbers, 0.0, is_old=True)
    asked = machine.to_ask(0.0)
    assert [(peer, want.number, len(want.ids)) for peer, want in asked] == [
        (ANN, 1, MAX_IDS_PER_WANT),
        (ANN, 2, MAX_IDS_PER_WANT),
        (BOB, 3, MAX_IDS_PER_WANT),
    ]
    assert MAX_UNANSWERED_WANTS == 2
    assert sorted(msg_id for _, want in asked for msg_id in want.ids) == sorted(numbers)
    assert len(machine) == len(numbers)
    assert machine.to_ask(0.0) == []


def test_an_answer_comes_in_parts_and_what_is_not_in_the_last_is_lost_if_nobody_else_has_it() -> None:
    machine = linked(ANN, BOB)
    machine.note(ANN, ids(1, 2, 3, 4), 0.0, is_old=True)
    ((_, want),) = machine.to_ask(0.0)
    machine.note(BOB, ids(4), 0.0, is_old=True)
    assert machine.arrived(ANN, want.number, ids(1, 99), 1.0, is_last=False) == (list(ids(1)), [])
    assert machine.arrived(ANN, want.number, ids(2), 1.0, is_last=True) == (list(ids(2)), list(ids(3)))
    assert machine.fetched == 2
    assert [msg_id in machine for msg_id in ids(1, 2, 3, 4)] == [False, False, False, True]
    assert machine.to_ask(1.0) == [(BOB, WantMessages(number=2, ids=ids(4)))]
    assert machine.arrived(ANN, 77, ids(4), 1.0, is_last=True) == (list(ids(4)), []), "of a want that nobody knows"


def test_who_brought_something_is_known_when_it_is_stored() -> None:
    machine = linked(ANN, BOB)
    machine.note(ANN, ids(1, 2), 0.0, is_old=True)
    machine.note(BOB, ids(3), 0.0, is_old=True)
    machine.to_ask(0.0)
    machine.arrived(ANN, 1, ids(1), 0.0, is_last=False)
    assert machine.stored(ids(1, 3)) == {ANN, BOB}, "stored before it was said that it came"
    assert machine.stored(ids(1, 3)) == set()
    assert machine.fetched == 2


def test_of_too_many_that_are_not_stored_yet_the_oldest_bringer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_REMEMBERED_FETCHES", 2)
    machine = linked(ANN)
    machine.note(ANN, ids(1, 2, 3), 0.0, is_old=True)
    machine.to_ask(0.0)
    machine.arrived(ANN, 1, ids(1, 2, 3), 0.0, is_last=True)
    assert machine.stored(ids(1)) == set()
    assert machine.stored(ids(2)) == machine.stored(ids(3)) == {ANN}


def test_who_owes_an_answer_for_too_long_is_not_asked_again_before_it_comes() -> None:
    machine = linked(ANN, BOB)
    machine.note(ANN, ids(1, 2), 0.0, is_old=True)
    machine.to_ask(0.0)
    machine.note(BOB, ids(2), 1.0, is_old=True)
    assert machine.tick(RECONCILE_PATIENCE_S) == []
    assert machine.next_deadline() == RECONCILE_TIMEOUT_S
    assert machine.tick(RECONCILE_TIMEOUT_S - 0.01) == []
    assert machine.tick(RECONCILE_TIMEOUT_S) == list(ids(1))
    machine.note(ANN, ids(3), 11.0, is_old=True)
    assert machine.to_ask(11.0) == [(BOB, WantMessages(number=2, ids=ids(2)))]
    assert machine.arrived(ANN, 1, ids(1), 12.0, is_last=True) == ([], [])
    assert machine.to_ask(12.0) == [(ANN, WantMessages(number=3, ids=ids(3)))]


def test_patience_begins_with_the_first_want_and_anew_with_each_part() -> None:
    machine = linked(ANN)
    machine.note(ANN, ids(*range(200)), 0.0, is_old=True)
    machine.to_ask(3.0)
    machine.note(ANN, ids(500), 4.0, is_old=True)
    assert machine.to_ask(4.0) == []
    assert machine.next_deadline() == 3.0 + RECONCILE_PATIENCE_S
    assert machine.tick(3.0 + RECONCILE_PATIENCE_S) == []
    assert machine.next_deadline() == 3.0 + RECONCILE_TIMEOUT_S
    machine.arrived(ANN, 1, ids(1), 8.0, is_last=False)
    assert machine.next_deadline() == 8.0 + RECONCILE_PATIENCE_S
    assert machine.tick(8.0 + RECONCILE_PATIENCE_S) == []
    assert machine.next_deadline() == 8.0 + RECONCILE_TIMEOUT_S


def test_what_somebody_slow_owes_is_asked_of_others_who_have_it_once_of_each() -> None:
    machine = linked(ANN, BOB, CID)
    for peer in (ANN, BOB):
        machine.note(peer, ids(1, 2), 0.0, is_old=True)
    machine.note(CID, ids(2), 0.0, is_old=True)
    assert machine.to_ask(0.0) == [(ANN, WantMessages(number=1, ids=ids(1, 2)))]
    machine.tick(RECONCILE_PATIENCE_S - 0.01)
    assert machine.to_ask(RECONCILE_PATIENCE_S - 0.01) == []
    machine.tick(RECONCILE_PATIENCE_S)
    assert machine.to_ask(RECONCILE_PATIENCE_S) == [(BOB, WantMessages(number=2, ids=ids(1, 2)))]
    assert machine.to_ask(RECONCILE_PATIENCE_S) == []
    machine.tick(2 * RECONCILE_PATIENCE_S)
    assert machine.to_ask(2 * RECONCILE_PATIENCE_S) == [(CID, WantMessages(number=3, ids=ids(2)))]
    for time_s in range(4, 9):
        machine.tick(float(time_s))
        assert machine.to_ask(float(time_s)) == [], "everybody was asked"
    assert machine.arrived(BOB, 2, ids(1, 2), 9.0, is_last=True) == (list(ids(1, 2)), [])
    assert machine.arrived(ANN, 1, ids(1, 2), 9.0, is_last=True) == ([], []), "they came twice, and count once"
    assert machine.fetched == 2
    assert len(machine) == 0


def test_frames_without_anything_that_was_asked_for_do_not_make_up_for_what_is_owed() -> None:
    machine = linked(ANN, BOB)
    for peer in (ANN, BOB):
        machine.note(peer, ids(1, 2), 0.0, is_old=True)
    machine.to_ask(0.0)
    for time_s in (0.5, 1.0, 1.4):
        machine.arrived(ANN, 1, (), time_s, is_last=False)
        machine.arrived(ANN, 1, ids(99), time_s, is_last=False)
        machine.arrived(ANN, 77, ids(99), time_s, is_last=True)
    machine.tick(RECONCILE_PATIENCE_S)
    assert machine.to_ask(RECONCILE_PATIENCE_S) == [(BOB, WantMessages(number=2, ids=ids(1, 2)))]


def test_who_brings_a_little_now_and_then_is_slow_after_a_while_and_no_longer_when_it_has_brought_all() -> None:
    machine = linked(ANN, BOB)
    many = ids(*range(20))
    for peer in (ANN, BOB):
        machine.note(peer, many, 0.0, is_old=True)
    machine.to_ask(0.0)
    for number in range(11):
        machine.tick(float(number))
        asked = machine.to_ask(float(number))
        assert [peer for peer, _ in asked] == [BOB] * (number >= RECONCILE_TIMEOUT_S)
        machine.arrived(ANN, 1, many[number : number + 1], number + 0.5, is_last=False)
    machine.arrived(ANN, 1, many[11:], 12.0, is_last=True)
    machine.arrived(BOB, 2, many, 12.0, is_last=True)
    for peer in (ANN, BOB):
        machine.note(peer, ids(50), 12.0, is_old=True)
    ((peer, _),) = machine.to_ask(12.0)
    assert peer == ANN
    assert machine.next_deadline() == 12.0 + RECONCILE_PATIENCE_S


def test_a_link_that_went_leaves_nothing_to_wait_for() -> None:
    machine = linked(ANN)
    machine.note(ANN, ids(1), 0.0, is_old=True)
    machine.to_ask(0.0)
    assert machine.link_down(ANN) == list(ids(1))
    assert machine.next_deadline() is None
    machine.link_up(BOB)
    machine.note(BOB, ids(1), 1.0, is_old=True)
    assert [peer for peer, _ in machine.to_ask(1.0)] == [BOB]


def test_what_only_a_link_that_went_had_is_lost() -> None:
    machine = linked(ANN, BOB)
    machine.note(ANN, ids(1, 2), 0.0, is_old=True)
    machine.note(BOB, ids(2), 0.0, is_old=True)
    machine.to_ask(0.0)
    assert machine.link_down(ANN) == list(ids(1))
    assert machine.to_ask(1.0) == [(BOB, WantMessages(number=2, ids=ids(2)))]


def test_there_is_room_for_so_much_of_one_link() -> None:
    machine = linked(ANN)
    machine.note(ANN, ids(*range(MAX_WANTED_PER_LINK - 1)), 0.0, is_old=True)
    assert machine.has_room(ANN)
    machine.note(ANN, ids(10**6), 0.0, is_old=True)
    assert not machine.has_room(ANN)
