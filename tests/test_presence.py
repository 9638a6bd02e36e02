"""Arrivals and departures as an application hears of them."""

from poolnet.clock import Hlc, make_hlc
from poolnet.events import MessageReceived, NodeJoined, NodeLeft
from poolnet.ids import DeviceId, MsgId, short_id
from poolnet.limits import MAX_HELD_TEXTS, NAME_GRACE_S
from poolnet.protocol.presence import Presence

ME, ADA, BOB = (DeviceId(bytes([n]) * 32) for n in (1, 2, 3))


def key(n: int) -> tuple:
    return (make_hlc(n), MsgId(bytes([n]) * 32))


def test_an_arrival_waits_for_its_name() -> None:
    presence = Presence(self_id=ME)
    assert presence.came([ADA], 0.0) == []
    assert presence.set_name(ADA, "Ada", key(1)) == [NodeJoined(node=ADA, name="Ada")]
    assert presence.next_deadline() is None


def test_a_node_without_a_name_is_announced_by_its_id_after_the_grace() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 10.0)
    assert presence.next_deadline() == 10.0 + NAME_GRACE_S
    assert presence.tick(10.0 + NAME_GRACE_S / 2) == []
    assert presence.tick(10.0 + NAME_GRACE_S) == [NodeJoined(node=ADA, name=short_id(ADA))]


def test_a_node_that_is_only_told_again_is_no_news() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(ADA, "Ada", key(1))
    assert presence.came([ADA, ME], 0.0) == [NodeJoined(node=ADA, name="Ada")]
    assert presence.came([ADA, ME], 1.0) == []


def test_a_node_that_went_before_it_was_announced_is_never_mentioned() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    assert presence.went([ADA]) == []
    assert presence.tick(100.0) == []


def test_departures_carry_the_latest_name_whatever_order_names_came_in() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(BOB, "Robert", key(5))
    presence.set_name(BOB, "Bob", key(2))
    presence.came([BOB], 0.0)
    assert presence.went([BOB, ADA]) == [NodeLeft(node=BOB, name="Robert")]
    assert presence.names() == {BOB: "Robert"}


def text(node: DeviceId, words: str, name: str) -> MessageReceived:
    return MessageReceived(
        msg_id=MsgId(bytes(32)), node=node, name=name, text=words, unix_ms=0, key=(Hlc(0), MsgId(bytes(32)))
    )


def test_what_a_node_says_before_its_name_is_known_comes_with_the_name_after_its_arrival() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    assert presence.said(text(ADA, "one", "?"), 0.1) == presence.said(text(ADA, "two", "?"), 0.2) == []
    assert presence.set_name(ADA, "Ada", key(1)) == [
        NodeJoined(node=ADA, name="Ada"),
        text(ADA, "one", "Ada"),
        text(ADA, "two", "Ada"),
    ]
    assert presence.said(text(ADA, "three", "Ada"), 0.3) == [text(ADA, "three", "Ada")]


def test_words_do_not_wait_for_a_name_for_ever_nor_without_bound() -> None:
    presence = Presence(self_id=ME)
    presence.said(text(ADA, "one", "?"), 5.0)
    assert presence.next_deadline() == 5.0 + NAME_GRACE_S
    assert presence.tick(5.0 + NAME_GRACE_S) == [text(ADA, "one", short_id(ADA))]
    released = [presence.said(text(BOB, "again", "?"), 9.0) for _ in range(MAX_HELD_TEXTS)]
    assert [len(events) for events in released] == [0] * (MAX_HELD_TEXTS - 1) + [MAX_HELD_TEXTS]
    assert presence.said(text(ME, "mine", "me"), 9.0) == [text(ME, "mine", "me")]
