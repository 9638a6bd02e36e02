"""Plumtree: the tree, its repair, what is fetched otherwise, and what a peer can do wrong."""

from random import Random

import pytest
from blake3 import blake3

from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    GRAFT_DELAY_S,
    GRAFT_RETRY_S,
    GRAFT_TRIES,
    GRAFT_WINDOW,
    GUEST_FLUSH_S,
    MAX_GOSSIP_CACHE,
    MAX_GOSSIP_FLUSH_S,
    MAX_IDS_PER_FRAME,
    MAX_MISSING_PER_LINK,
    MIN_GOSSIP_FLUSH_S,
)
from poolnet.protocol import gossip as gossip_module
from poolnet.protocol.gossip import (
    Deliver,
    Fetched,
    Found,
    Gossip,
    GossipEffect,
    GossipFrame,
    LinkDown,
    LinkUp,
    Lookup,
    Misbehaved,
    Publish,
    Received,
    SendFrame,
    Verdict,
)
from poolnet.wire import pool_frames as frames

A, B, C, D = (DeviceId(bytes([letter]) * 32) for letter in b"ABCD")


def message_number(number: int) -> bytes:
    return b"message %d" % number


def id_of(message: bytes) -> MsgId:
    """The id of a message without its signature, which is what follows a colon."""
    if not message.startswith(b"message "):
        raise WireError("not a message")
    return MsgId(blake3(message.partition(b":")[0]).digest())


def id_number(number: int) -> MsgId:
    return id_of(message_number(number))


def forged_number(number: int) -> bytes:
    return message_number(number) + b":not signed by its author"


def push(number: int, hops: int = 1) -> frames.Gossip:
    return frames.Gossip(hops=hops, message=message_number(number))


def have(*numbers: int) -> frames.GossipHave:
    return frames.GossipHave(ids=tuple(id_number(number) for number in numbers))


def sent(effects: list[GossipEffect], peer: DeviceId) -> list[GossipFrame]:
    return [effect.frame for effect in effects if isinstance(effect, SendFrame) and effect.peer == peer]


class Node:
    """A machine with links to A, B, …"""

    def __init__(self, *peers: DeviceId) -> None:
        self.checked: list[MsgId] = []
        self.verdicts: dict[MsgId, Verdict] = {}
        self.machine = Gossip(Random(1), id_of, self.accept)
        self.now = 0.0
        for peer in peers:
            assert self.link_up(peer) == []

    def accept(self, msg_id: MsgId, message: bytes) -> Verdict:
        self.checked.append(msg_id)
        default = Verdict.REJECT if b":" in message else Verdict.ACCEPT
        return self.verdicts.get(msg_id, default)

    def link_up(self, peer: DeviceId) -> list[GossipEffect]:
        return self.machine.handle(LinkUp(peer), self.now)

    def hear(self, peer: DeviceId, frame: GossipFrame) -> list[GossipEffect]:
        return self.machine.handle(Received(peer, frame), self.now)

    def fetch(self, peer: DeviceId, message: bytes) -> list[GossipEffect]:
        return self.machine.handle(Fetched(peer, id_of(message), message), self.now)

    def publish(self, number: int) -> list[GossipEffect]:
        return self.machine.handle(Publish(id_number(number), message_number(number)), self.now)

    def wait(self, duration_s: float) -> list[GossipEffect]:
        """Let time pass as a driver does: tick at every deadline on the way."""
        effects: list[GossipEffect] = []
        end = self.now + duration_s
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            effects += self.machine.tick(self.now)
            assert self.machine.next_deadline() != deadline
        self.now = end
        return effects

    def make_lazy(self, *peers: DeviceId) -> None:
        for peer in peers:
            self.hear(peer, frames.Prune())


# --- the tree ---------------------------------------------------------------------------------------------------


def test_what_is_published_delivered_and_refused_is_counted_once_each() -> None:
    node = Node(A, B)
    node.publish(1)
    node.publish(1)
    node.publish(2)
    node.hear(A, push(3))
    node.hear(A, frames.Gossip(hops=1, message=b"garbage"))
    node.hear(B, frames.Gossip(hops=1, message=forged_number(4)))
    statistics = node.machine.statistics()
    assert (statistics.published, statistics.delivered, statistics.refused) == (2, 1, 2)


def test_a_message_is_delivered_once_and_pushed_to_all_but_the_one_who_brought_it() -> None:
    node = Node(A, B, C)
    effects = node.hear(A, push(1, hops=3))
    assert effects[0] == Deliver(id_number(1), message_number(1), A, 3)
    assert sent(effects, A) == []
    assert sent(effects, B) == sent(effects, C) == [push(1, hops=4)]
    assert node.checked == [id_number(1)]


def test_an_own_message_is_pushed_and_not_delivered_back() -> None:
    node = Node(A, B)
    effects = node.publish(1)
    assert not any(isinstance(effect, Deliver) for effect in effects)
    assert sent(effects, A) == sent(effects, B) == [push(1)]
    assert node.publish(1) == []


def test_the_same_frame_object_goes_to_all_eager_peers() -> None:
    node = Node(A, B, C)
    pushed = [effect.frame for effect in node.publish(1) if isinstance(effect, SendFrame)]
    assert len(pushed) == 3
    assert all(frame is pushed[0] for frame in pushed)


def test_a_duplicate_is_pruned_without_being_checked_again() -> None:
    node = Node(A, B)
    node.hear(A, push(1))
    assert node.hear(B, push(1)) == [SendFrame(B, frames.Prune())]
    assert node.checked == [id_number(1)]
    assert sent(node.hear(A, push(2)), B) == []
    assert sent(node.wait(MAX_GOSSIP_FLUSH_S), B) == [have(2)]


def test_duplicates_that_were_under_way_do_not_bring_more_prunes() -> None:
    node = Node(A, B)
    for number in range(20):
        node.hear(A, push(number))
    answers = [effect for number in range(20) for effect in node.hear(B, push(number))]
    assert answers == [SendFrame(B, frames.Prune())]


def test_a_peer_that_keeps_pushing_duplicates_is_told_again() -> None:
    node = Node(A, B)
    for number in range(2):
        node.hear(A, push(number))
    assert node.hear(B, push(0)) == [SendFrame(B, frames.Prune())]
    node.wait(GRAFT_RETRY_S)
    assert node.hear(B, push(1)) == [SendFrame(B, frames.Prune())]


def test_who_will_not_stay_hears_of_messages_late_and_together_and_gets_what_it_asks_for() -> None:
    node = Node(A)
    node.machine.handle(LinkUp(B, is_eager=False), node.now)
    node.make_lazy(A)
    assert sent(node.publish(1), B) == []
    assert node.wait(MAX_GOSSIP_FLUSH_S) == [SendFrame(A, have(1))]
    node.publish(2)
    assert sent(node.wait(GUEST_FLUSH_S), B) == [have(1, 2)]
    assert sent(node.hear(B, frames.Graft(ids=(id_number(1),))), B) == [push(1)]


def test_a_pruned_peer_is_told_of_messages_in_batches_and_without_delay_above_a_frame() -> None:
    node = Node(A, B)
    node.make_lazy(B)
    for number in range(3):
        assert sent(node.publish(number), B) == []
    assert node.wait(MAX_GOSSIP_FLUSH_S) == [SendFrame(B, have(0, 1, 2))]
    announced = [frame for number in range(100, 100 + MAX_IDS_PER_FRAME) for frame in sent(node.publish(number), B)]
    assert announced == [have(*range(100, 100 + MAX_IDS_PER_FRAME))]
    assert node.wait(1.0) == []


def test_a_peer_known_to_have_a_message_is_not_told_of_it() -> None:
    node = Node(A, B, C)
    node.make_lazy(C)
    node.hear(B, have(1))
    effects = node.hear(A, push(1))
    assert sent(effects, B) == []
    node.hear(C, have(1))  # before our own announcement went out
    assert node.wait(MAX_GOSSIP_FLUSH_S) == []


def test_a_lazy_peer_that_pushes_something_new_is_eager_again() -> None:
    node = Node(A, B)
    node.make_lazy(A)
    node.hear(A, push(1))
    assert sent(node.publish(2), A) == [push(2)]


# --- repair -----------------------------------------------------------------------------------------------------


def test_an_announced_message_that_comes_in_time_is_not_asked_for() -> None:
    node = Node(A, B)
    node.hear(B, have(1))
    node.now = GRAFT_DELAY_S - 0.01
    node.hear(A, push(1))
    assert node.machine.next_deadline() is None
    assert node.wait(10.0) == []


def test_a_message_that_does_not_come_is_grafted_and_the_link_is_eager_again() -> None:
    node = Node(A, B)
    node.make_lazy(B)
    node.hear(B, have(1))
    assert node.wait(GRAFT_DELAY_S - 0.01) == []
    assert node.machine.statistics().grafts == 0
    assert node.wait(0.01) == [SendFrame(B, frames.Graft(ids=(id_number(1),)))]
    assert node.machine.statistics().grafts == 1
    assert Deliver(id_number(1), message_number(1), B, 1) in node.hear(B, push(1))
    assert sent(node.publish(2), B) == [push(2)]


def test_all_announcers_are_asked_in_turn_thrice_each_and_then_the_message_is_given_up() -> None:
    node = Node(A, B)
    node.hear(A, have(1))
    node.hear(B, have(1))
    asked = [effect.peer for effect in node.wait(60.0) if isinstance(effect, SendFrame)]
    assert asked == [A, B] * GRAFT_TRIES
    assert node.machine.statistics().given_up == 1
    assert node.machine.statistics().missing == 0
    node.hear(A, have(1))
    assert sent(node.wait(GRAFT_DELAY_S), A) != []


def test_when_the_asked_peer_is_lost_another_is_asked_at_once() -> None:
    node = Node(A, B)
    node.hear(A, have(1))
    node.hear(B, have(1))
    assert sent(node.wait(GRAFT_DELAY_S), A) != []
    effects = node.machine.handle(LinkDown(A), node.now)
    assert effects == [SendFrame(B, frames.Graft(ids=(id_number(1),)))]


def test_a_message_that_only_a_lost_peer_announced_is_forgotten() -> None:
    node = Node(A)
    node.hear(A, have(1, 2, 3))
    node.machine.handle(LinkDown(A), 0.1)
    assert node.machine.statistics().missing == 0
    assert node.machine.next_deadline() is None


def test_a_late_answer_is_not_pruned() -> None:
    node = Node(A, B)
    node.hear(B, have(1))
    node.wait(GRAFT_DELAY_S)
    node.hear(A, push(1))
    assert node.hear(B, push(1)) == []
    assert node.machine.statistics().duplicates == 1


# --- serving grafts ---------------------------------------------------------------------------------------------


def test_a_graft_is_answered_and_makes_the_link_eager() -> None:
    node = Node(A, B)
    node.make_lazy(A, B)
    node.publish(1)
    assert node.hear(A, frames.Graft(ids=(id_number(1),))) == [SendFrame(A, push(1))]
    assert node.wait(MAX_GOSSIP_FLUSH_S) == [SendFrame(B, have(1))]
    effects = node.publish(2)
    assert sent(effects, A) == [push(2)]
    assert sent(effects, B) == []


def test_what_is_no_longer_in_memory_is_looked_up_and_what_was_never_here_is_not() -> None:
    node = Node(A)
    node.machine.mark_seen([id_number(1)])
    asked = frames.Graft(ids=(id_number(1), id_number(99)))
    assert node.hear(A, asked) == [Lookup(A, (id_number(1),))]
    found = Found(A, ((id_number(1), message_number(1)),))
    assert node.machine.handle(found, 0.0) == [SendFrame(A, push(1))]
    node.machine.handle(LinkDown(A), 0.0)
    assert node.machine.handle(found, 0.0) == []


def test_the_cache_is_bounded_and_the_oldest_messages_come_from_the_database() -> None:
    node = Node(A)
    for number in range(MAX_GOSSIP_CACHE + 1):
        node.publish(number)
    assert node.hear(A, frames.Graft(ids=(id_number(0),))) == [Lookup(A, (id_number(0),))]
    assert node.hear(A, frames.Graft(ids=(id_number(1),))) == [SendFrame(A, push(1))]


def test_one_graft_gets_at_most_a_window_of_answers() -> None:
    node = Node(A)
    for number in range(3 * GRAFT_WINDOW):
        node.publish(number)
    greedy = frames.Graft(ids=tuple(id_number(number) for number in range(3 * GRAFT_WINDOW)))
    assert len(node.hear(A, greedy)) == GRAFT_WINDOW


# --- much at once -----------------------------------------------------------------------------------------------


def test_much_that_is_missing_is_grafted_window_by_window_each_message_from_one_peer() -> None:
    node = Node(A, B)
    numbers = range(100)
    asked: list[MsgId] = []
    for peer in (A, B):
        node.hear(peer, have(*numbers))
    effects = node.wait(GRAFT_DELAY_S)
    while effects:
        following: list[GossipEffect] = []
        for effect in effects:
            if isinstance(effect, SendFrame) and isinstance(effect.frame, frames.Graft):
                assert len(effect.frame.ids) <= GRAFT_WINDOW
                asked += effect.frame.ids
                for msg_id in effect.frame.ids:
                    number = [id_number(number) for number in numbers].index(msg_id)
                    following += node.hear(effect.peer, push(number))
        effects = following
    assert sorted(asked) == sorted(id_number(number) for number in numbers)
    assert node.machine.statistics().delivered == 100
    assert node.machine.statistics().duplicates == 0


def test_a_peer_that_keeps_answering_slowly_is_not_given_up() -> None:
    node = Node(A, B)
    node.hear(A, have(*range(20)))
    assert len(sent(node.wait(GRAFT_DELAY_S), A)) == 1
    node.hear(B, have(*range(20)))
    for number in range(20):
        assert node.wait(0.9 * GRAFT_RETRY_S) == []
        node.hear(A, push(number))
    assert node.machine.statistics().delivered == 20


def test_a_peer_that_answers_nothing_is_replaced_by_another() -> None:
    node = Node(A, B)
    node.hear(A, have(1))
    node.hear(B, have(1))
    assert sent(node.wait(GRAFT_DELAY_S), A) != []
    assert sent(node.wait(GRAFT_RETRY_S), B) != []


def test_a_link_that_comes_up_again_starts_anew() -> None:
    node = Node(A)
    node.make_lazy(A)
    node.hear(A, have(1))
    assert node.link_up(A) == []
    assert node.machine.statistics().missing == 0
    assert sent(node.publish(2), A) == [push(2)]


def test_of_the_two_sides_of_a_lazy_link_the_second_to_announce_has_nothing_to_say() -> None:
    node = Node(A)
    node.make_lazy(A)
    node.publish(1)
    assert node.wait(MIN_GOSSIP_FLUSH_S) == []
    node.hear(A, have(1))
    assert node.wait(MAX_GOSSIP_FLUSH_S) == []


def test_announcements_go_out_at_times_that_differ() -> None:
    node = Node(A)
    node.make_lazy(A)
    waits = set()
    for number in range(20):
        node.publish(number)
        deadline = node.machine.next_deadline()
        assert deadline is not None
        waits.add(round(deadline - node.now, 2))
        node.wait(MAX_GOSSIP_FLUSH_S)
    assert min(waits) >= MIN_GOSSIP_FLUSH_S
    assert max(waits) <= MAX_GOSSIP_FLUSH_S
    assert len(waits) > 5


# --- what was fetched otherwise ---------------------------------------------------------------------------------


def test_what_was_fetched_is_judged_and_delivered_and_not_spread() -> None:
    node = Node(A, B, C)
    node.make_lazy(C)
    assert node.fetch(A, message_number(1)) == [Deliver(id_number(1), message_number(1), A, 0)]
    assert node.checked == [id_number(1)]
    assert node.machine.knows(id_number(1))
    assert node.machine.statistics().delivered == 1
    assert node.wait(60.0) == []


def test_what_was_fetched_and_is_pushed_as_well_is_a_duplicate() -> None:
    node = Node(A, B)
    node.fetch(A, message_number(1))
    assert node.hear(B, push(1)) == [SendFrame(B, frames.Prune())]


def test_what_is_fetched_although_it_was_met_before_is_judged_again_and_prunes_nobody() -> None:
    node = Node(A, B)
    node.verdicts[id_number(1)] = Verdict.DROP  # its author seems to have left
    node.hear(A, push(1))
    node.verdicts[id_number(1)] = Verdict.ACCEPT  # but it was not so
    assert node.fetch(B, message_number(1)) == [Deliver(id_number(1), message_number(1), B, 0)]
    assert sent(node.publish(2), B) == [push(2)]


def test_what_was_announced_and_is_fetched_is_not_grafted() -> None:
    node = Node(A, B)
    node.hear(A, have(1))
    node.fetch(B, message_number(1))
    assert node.machine.next_deadline() is None


def test_a_forged_message_that_was_fetched_is_reported_and_a_good_copy_still_comes_through() -> None:
    node = Node(A, B)
    assert [type(effect) for effect in node.fetch(A, forged_number(1))] == [Misbehaved]
    assert not node.machine.knows(id_number(1))
    assert Deliver(id_number(1), message_number(1), B, 1) in node.hear(B, push(1))


# --- what a peer can do wrong -----------------------------------------------------------------------------------


def test_what_is_no_message_is_reported() -> None:
    node = Node(A)
    effects = node.hear(A, frames.Gossip(hops=1, message=b"nonsense"))
    assert [type(effect) for effect in effects] == [Misbehaved]
    assert node.checked == []


def test_a_message_that_is_not_acceptable_is_reported_and_a_good_copy_still_comes_through() -> None:
    node = Node(A, B)
    forged = frames.Gossip(hops=1, message=forged_number(1))
    effects = node.hear(A, forged)
    assert [type(effect) for effect in effects] == [Misbehaved]
    assert Deliver(id_number(1), message_number(1), B, 1) in node.hear(B, push(1))


def test_a_message_to_be_dropped_is_neither_delivered_nor_blamed_nor_asked_for_again() -> None:
    node = Node(A, B)
    node.verdicts[id_number(1)] = Verdict.DROP
    node.hear(B, have(1))
    assert node.hear(A, push(1)) == []
    assert node.wait(60.0) == []
    assert node.hear(B, push(1)) == [SendFrame(B, frames.Prune())]
    assert node.checked == [id_number(1)]


def test_after_a_forged_answer_another_announcer_is_asked_at_once() -> None:
    node = Node(A, B)
    node.hear(A, have(1))
    node.hear(B, have(1))
    node.wait(GRAFT_DELAY_S)
    effects = node.hear(A, frames.Gossip(hops=1, message=forged_number(1)))
    assert effects[1:] == [SendFrame(B, frames.Graft(ids=(id_number(1),)))]
    later = node.wait(60.0)
    assert sent(later, A) == []


def test_announcements_are_bounded_a_link_and_do_not_crowd_out_those_of_others() -> None:
    node = Node(A, B)
    for start in range(0, 5 * MAX_MISSING_PER_LINK, 500):
        node.hear(A, have(*range(start, start + 500)))
    assert node.machine.statistics().missing == MAX_MISSING_PER_LINK
    assert node.machine.statistics().ignored_announcements == 4 * MAX_MISSING_PER_LINK
    node.hear(B, have(999_999))
    assert node.machine.statistics().missing == MAX_MISSING_PER_LINK + 1


def test_a_link_that_comes_and_goes_cannot_make_announcements_pile_up() -> None:
    node = Node(A, B)
    for turn in range(5):
        numbers = range(turn * MAX_MISSING_PER_LINK, (turn + 1) * MAX_MISSING_PER_LINK)
        node.hear(A, have(*numbers))
        node.hear(B, have(*numbers))
        node.link_up(A)
        assert node.machine.statistics().missing <= 2 * MAX_MISSING_PER_LINK


def test_frames_of_a_peer_without_a_link_are_ignored() -> None:
    node = Node(A)
    for frame in (push(1), have(2), frames.Graft(ids=(id_number(1),)), frames.Prune()):
        assert node.hear(D, frame) == []
    assert node.machine.next_deadline() is None
    assert node.checked == []


def test_the_ids_remembered_are_bounded_and_the_least_recently_met_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_module, "MAX_SEEN_IDS", 3)
    node = Node(A, B)
    for number in (1, 2, 3):
        node.hear(A, push(number))
    node.hear(B, push(1))  # met again
    node.hear(A, push(4))  # 2 is forgotten
    delivered = [number for number in (1, 3, 4, 2) if any(isinstance(e, Deliver) for e in node.hear(A, push(number)))]
    assert delivered == [2]


def test_hops_do_not_grow_beyond_their_field() -> None:
    node = Node(A, B)
    assert sent(node.hear(A, push(1, hops=255)), B) == [push(1, hops=255)]
