"""What is announced and not here: whoever announces thousands of messages and sends none costs little."""

import pytest

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import GRAFT_DELAY_S, GRAFT_WINDOW, MAX_MISSING_PER_LINK
from poolnet.protocol.missing import MissingMessages

LIAR, FRIEND = DeviceId(b"L" * 32), DeviceId(b"F" * 32)


def test_what_cannot_be_asked_for_now_is_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[MsgId] = []
    choose = MissingMessages._choose

    def counting(self: MissingMessages, msg_id: MsgId) -> DeviceId | None:
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
