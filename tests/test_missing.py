"""What is announced and not here: whoever announces thousands of messages and sends none costs little."""

import pytest

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import GRAFT_DELAY_S, GRAFT_WINDOW, MAX_MISSING_PER_LINK
from poolnet.protocol.missing import MissingMessages

LIAR, FRIEND = DeviceId(b"L" * 32), DeviceId(b"F" * 32)


def test_what_cannot_be_asked_for_now_is_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[MsgId] = []
    choose = MissingMessages._choose

    def counting(self: MissingMessages, msg_id: MsgId) -> DeviceId:
        looks.append(msg_id)
        return choose(self, msg_id)

    monkeypatch.setattr(MissingMessages, "_choose", counting)
    missing = MissingMessages()
    missing.link_up(LIAR)
    missing.link_up(FRIEND)
    missing.announced(LIAR, (MsgId(b"%032d" % number) for number in range(MAX_MISSING_PER_LINK)), 0.0)
    for step in range(50):
        missing.to_ask(GRAFT_DELAY_S + step / 1000)
    assert len(looks) == GRAFT_WINDOW
    genuine = MsgId(b"g" * 32)
    missing.announced(FRIEND, [genuine], 0.4)
    asks = missing.to_ask(0.4 + GRAFT_DELAY_S)
    assert [(ask.peer, ask.ids) for ask in asks] == [(FRIEND, (genuine,))]


def test_what_waits_for_room_is_given_up_when_the_only_one_left_to_ask_is_gone() -> None:
    missing = MissingMessages()
    missing.link_up(LIAR)
    missing.link_up(FRIEND)
    ids = [MsgId(b"%032d" % number) for number in range(GRAFT_WINDOW + 1)]
    missing.announced(LIAR, ids, 0.0)
    missing.announced(FRIEND, ids, 0.0)
    for msg_id in ids:
        missing.spoiled(FRIEND, msg_id)
    asks = missing.to_ask(GRAFT_DELAY_S)
    assert [(ask.peer, len(ask.ids)) for ask in asks] == [(LIAR, GRAFT_WINDOW)]
    missing.link_down(LIAR)
    assert len(missing) == 0
    assert missing.given_up == len(ids)
    assert missing.next_deadline() is None


def test_what_somebody_who_went_had_announced_first_counts_against_others_who_did_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poolnet.protocol.missing.MAX_MISSING_PER_LINK", 4)
    ids = [MsgId(b"%032d" % number) for number in range(8)]
    missing = MissingMessages()
    missing.link_up(LIAR)
    missing.link_up(FRIEND)
    missing.announced(LIAR, ids[:4], 0.0)
    missing.announced(FRIEND, [ids[4], *ids[:4]], 0.0)
    missing.link_down(LIAR)
    assert [msg_id in missing for msg_id in ids[:5]] == [True, True, True, False, True]
    missing.announced(FRIEND, ids[5:], 0.0)
    assert missing.ignored == 3, "all its room is taken"
    for msg_id in ids[:2]:
        missing.arrived(msg_id)
    missing.announced(FRIEND, ids[5:], 0.0)
    assert [msg_id in missing for msg_id in ids[5:]] == [True, True, False]


def test_whoever_spoiled_a_message_is_not_asked_for_it_even_if_it_waits_for_room() -> None:
    missing = MissingMessages()
    missing.link_up(LIAR)
    missing.link_up(FRIEND)
    msg_id = MsgId(b"m" * 32)
    missing.announced(LIAR, [msg_id], 0.0)
    missing.announced(FRIEND, [msg_id], 0.0)
    missing.spoiled(LIAR, msg_id)
    assert [(ask.peer, ask.ids) for ask in missing.to_ask(0.1)] == [(FRIEND, (msg_id,))]
