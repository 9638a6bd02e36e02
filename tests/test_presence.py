"""Arrivals and departures as an application hears of them."""

from poolnet.clock import Hlc, make_hlc
from poolnet.events import MessageReceived, NodeJoined, NodeLeft, NodeRenamed
from poolnet.ids import DeviceId, MsgId, short_id
from poolnet.limits import MAX_HELD_TEXTS, NAME_GRACE_S, NAME_SETTLE_S
from poolnet.protocol.presence import Presence

ME, ADA, BOB = (DeviceId(bytes([n]) * 32) for n in (1, 2, 3))


def key(n: int) -> tuple:
    return (make_hlc(n), MsgId(bytes([n]) * 32))


def test_an_arrival_waits_for_its_name() -> None:
    presence = Presence(self_id=ME)
    assert presence.came([ADA], 0.0) == []
    assert presence.set_name(ADA, "Ada", key(1), 0.5) == []
    assert presence.next_deadline() == 0.5 + NAME_SETTLE_S
    assert presence.tick(0.5 + NAME_SETTLE_S) == [NodeJoined(node=ADA, name="Ada")]
    assert presence.next_deadline() is None


def test_a_node_without_a_name_is_announced_by_its_id_after_the_grace() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 10.0)
    assert presence.next_deadline() == 10.0 + NAME_GRACE_S
    assert presence.tick(10.0 + NAME_GRACE_S / 2) == []
    assert presence.tick(10.0 + NAME_GRACE_S) == [NodeJoined(node=ADA, name=short_id(ADA))]


def test_a_node_that_is_only_told_again_is_no_news() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(ADA, "Ada", key(1), 0.0)
    assert presence.came([ADA, ME], 0.0) == [NodeJoined(node=ADA, name="Ada")]
    assert presence.came([ADA, ME], 1.0) == []


def test_a_node_that_went_before_it_was_announced_is_never_mentioned() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    assert presence.went([ADA]) == []
    assert presence.tick(100.0) == []


def test_departures_carry_the_latest_name_whatever_order_names_came_in() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(BOB, "Robert", key(5), 0.0)
    presence.set_name(BOB, "Bob", key(2), 0.0)
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
    presence.set_name(ADA, "Ada", key(1), 0.3)
    assert presence.said(text(ADA, "three", "Ada"), 0.4) == [], "it does not overtake the others"
    assert presence.tick(0.3 + NAME_SETTLE_S) == [
        NodeJoined(node=ADA, name="Ada"),
        text(ADA, "one", "Ada"),
        text(ADA, "two", "Ada"),
        text(ADA, "three", "Ada"),
    ]
    assert presence.said(text(ADA, "four", "Ada"), 1.0) == [text(ADA, "four", "Ada")]


def test_a_node_that_speaks_when_its_arrival_is_nearly_due_still_gets_its_name() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    assert presence.said(text(ADA, "hello", "?"), NAME_GRACE_S - 0.1) == []
    assert presence.tick(NAME_GRACE_S) == []
    presence.set_name(ADA, "Ada", key(1), NAME_GRACE_S + 0.2)
    assert presence.tick(NAME_GRACE_S + 0.2 + NAME_SETTLE_S) == [
        NodeJoined(node=ADA, name="Ada"),
        text(ADA, "hello", "Ada"),
    ]


def test_of_the_names_that_a_node_once_had_a_newcomer_hears_only_the_last() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    presence.set_name(ADA, "vm", key(1), 0.1)
    presence.set_name(ADA, "Ada", key(3), 0.2)
    presence.set_name(ADA, "ada", key(2), 0.3)
    assert presence.tick(0.1 + NAME_SETTLE_S) == [NodeJoined(node=ADA, name="Ada")]
    assert presence.tick(100.0) == []


def test_names_of_nodes_that_are_not_here_are_no_news() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(ADA, "vm", key(1), 0.1)
    presence.set_name(ADA, "Ada", key(2), 0.2)
    assert presence.next_deadline() is None
    presence.came([ADA], 1.0)
    presence.went([ADA])
    presence.set_name(ADA, "Lovelace", key(3), 2.0)
    assert presence.next_deadline() is None


def test_a_node_that_was_told_by_another_name_is_renamed_once_however_many_names_come() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(ADA, "Ada", key(1), 0.0)
    presence.came([ADA], 0.0)
    presence.set_name(ADA, "A", key(2), 1.0)
    presence.set_name(ADA, "Lovelace", key(3), 1.1)
    assert presence.tick(1.0 + NAME_SETTLE_S) == [NodeRenamed(node=ADA, old_name="Ada", name="Lovelace")]
    presence.set_name(ADA, "A", key(4), 2.0)
    presence.set_name(ADA, "Lovelace", key(5), 2.1)
    assert presence.tick(100.0) == [], "it is called the same as before"
    assert presence.next_deadline() is None


def test_a_new_name_is_told_before_its_node_speaks_or_leaves() -> None:
    presence = Presence(self_id=ME)
    presence.set_name(ADA, "Ada", key(1), 0.0)
    presence.came([ADA], 0.0)
    presence.set_name(ADA, "A", key(2), 1.0)
    assert presence.said(text(ADA, "hi", "A"), 1.1) == [
        NodeRenamed(node=ADA, old_name="Ada", name="A"),
        text(ADA, "hi", "A"),
    ]
    presence.set_name(ADA, "B", key(3), 2.0)
    assert presence.went([ADA]) == [NodeRenamed(node=ADA, old_name="A", name="B"), NodeLeft(node=ADA, name="B")]
    assert presence.tick(100.0) == []


def test_a_node_that_was_announced_by_its_id_gets_its_name_when_it_comes() -> None:
    presence = Presence(self_id=ME)
    presence.came([ADA], 0.0)
    presence.tick(NAME_GRACE_S)
    presence.set_name(ADA, "Ada", key(1), 5.0)
    assert presence.tick(5.0 + NAME_SETTLE_S) == [NodeRenamed(node=ADA, old_name=short_id(ADA), name="Ada")]


def test_another_name_of_this_device_is_told_at_once_but_not_its_first() -> None:
    presence = Presence(self_id=ME)
    assert presence.set_name(ME, "vm", key(1), 0.0) == []
    assert presence.set_name(ME, "me", key(2), 0.0) == [NodeRenamed(node=ME, old_name="vm", name="me")]
    assert presence.set_name(ME, "vm", key(1), 0.0) == []


def test_words_do_not_wait_for_a_name_for_ever_nor_without_bound() -> None:
    presence = Presence(self_id=ME)
    presence.said(text(ADA, "one", "?"), 5.0)
    assert presence.next_deadline() == 5.0 + NAME_GRACE_S
    assert presence.tick(5.0 + NAME_GRACE_S) == [text(ADA, "one", short_id(ADA))]
    released = [presence.said(text(BOB, "again", "?"), 9.0) for _ in range(MAX_HELD_TEXTS)]
    assert [len(events) for events in released] == [0] * (MAX_HELD_TEXTS - 1) + [MAX_HELD_TEXTS]
    assert presence.said(text(ME, "mine", "me"), 9.0) == [text(ME, "mine", "me")]
