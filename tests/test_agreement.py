"""Histories that agree: runs, what interrupts them, whom to ask, windows, requests, and what a peer can do wrong."""

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from agreement_world import DAY_S, HIGHEST, LOWEST, START_MS, Node, World, encode_key, make_key, make_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from poolnet.clock import make_hlc
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    MAX_COMPARE_SIZE,
    MAX_IDS_PER_WANT,
    MAX_UNANSWERED_WANTS,
    MAX_WANTED_PER_LINK,
    RECENT_MESSAGES,
    RECONCILE_ALONE_S,
    RECONCILE_INTERVAL_S,
    RECONCILE_LAG_S,
    RECONCILE_NEWS_S,
    RECONCILE_PATIENCE_S,
    RECONCILE_RETRY_S,
    RECONCILE_TIMEOUT_S,
    RECONCILE_TURN_S,
    WANT_DELAY_S,
)
from poolnet.protocol import agreement
from poolnet.protocol.reconcile import Bound, MemoryKeys
from poolnet.wire import pool_frames as frames
from poolnet.wire.claims import Claim, Equal, Fingerprint, Listing, More
from poolnet.wire.message import MessageKey

PERIODS_S = 2 * 1.25 * RECONCILE_INTERVAL_S


def pass_time(world: World, duration_s: float, *, without: Callable[[], None]) -> None:
    """Let time pass in small steps in which everything happens but one thing."""
    end = world.now + duration_s
    while world.now < end:
        while moves := [move for move in world.moves() if move != without]:
            moves[0]()
        world.now += 0.05
        for node in world.nodes.values():
            node.tick()


def pair(
    one: list[MessageKey], other: list[MessageKey], *, known: tuple[Bound | None, Bound | None] = (LOWEST, LOWEST)
) -> tuple[World, Node, Node]:
    world = World()
    return world, world.add("a", one, known_from=known[0]), world.add("b", other, known_from=known[1])


def now_bound(*, age_s: float = 0.0) -> Bound:
    return (make_hlc(round(START_MS - age_s * 1000)), b"")


# --- two nodes --------------------------------------------------------------------------------------------------


def test_equal_histories_cost_one_round_trip_of_less_than_200_bytes() -> None:
    keys = make_keys(range(500))
    world, a, b = pair(keys, keys)
    world.link(a, b)
    world.run_for(1.0)
    assert world.frames_sent == 2
    assert world.bytes_sent < 200
    assert a.agreed[0].lower <= keys[0]
    assert a.agreed == [agreement.Agreed(b.name, a.agreed[0].lower, HIGHEST)]
    assert b.agreed == [agreement.Agreed(a.name, a.agreed[0].lower, HIGHEST)]
    assert a.machine.statistics().equal == 1
    assert b.machine.statistics().runs == 0


def test_one_run_brings_both_sides_what_they_lack_and_nothing_twice() -> None:
    keys = make_keys(range(500))
    world, a, b = pair(keys[:400], keys[100:])
    world.link(a, b)
    world.run_for(1.0)
    world.assert_all_have(keys)
    assert (a.payloads, b.payloads) == (100, 100)
    assert a.machine.statistics().completed == 1
    assert b.machine.statistics().runs == 0


def test_what_gossip_brings_in_a_moment_is_not_fetched() -> None:
    keys = make_keys(range(50))
    world, a, b = pair(keys, keys[:45])
    world.link(a, b)
    world.run_for(WANT_DELAY_S / 2)
    b.add(*keys[45:])
    world.run_for(1.0)
    assert b.payloads == 0
    assert b.machine.statistics().wanted == 0


def test_after_every_interval_there_is_a_run_with_one_neighbour() -> None:
    keys = make_keys(range(10))
    world, a, b = pair(keys, keys)
    world.link(a, b)
    world.run_for(10 * RECONCILE_INTERVAL_S)
    for node in (a, b):
        assert 7 <= node.machine.statistics().runs <= 15
    b.keys.add(make_key(99, age_s=100))  # missed by gossip, for whatever reason
    b.ids[make_key(99, age_s=100)[1]] = make_key(99, age_s=100)[0]
    world.run_for(PERIODS_S)
    assert make_key(99, age_s=100) in a.keys


def test_a_regular_run_leaves_out_what_gossip_may_be_bringing() -> None:
    world, a, b = pair([], [])
    world.link(a, b)
    world.run_for(1.0)
    moment = (make_hlc(round(START_MS + world.now * 1000)), make_key(1)[1])
    a.add(moment)
    world.run_for(RECONCILE_LAG_S - 0.1)
    for node, other in ((a, b), (b, a)):
        node.machine._agenda._regular_at = world.now  # have it now
        node.perform(node.machine.tick(world.now))
        world.settle()
        assert node.machine.statistics().equal == 1 + (node is a)
        assert moment not in b.keys, other
    world.run_for(PERIODS_S)
    assert moment in b.keys


def test_long_histories_are_fetched_in_steps_whoever_begins() -> None:
    keys = make_keys(range(7000))
    for starter_has in (True, False):
        world, a, b = pair(keys if starter_has else [], [] if starter_has else keys)
        most_wanted = 0
        world.link(a, b)
        while world.move() or (a.machine.next_deadline() or 99.0) < world.now + 1.0:
            world.now += 0.01
            for node in (a, b):
                node.tick()
                most_wanted = max(most_wanted, node.machine.statistics().wanted)
        world.run_for(PERIODS_S)
        world.assert_all_have(keys)
        assert a.payloads + b.payloads == 7000
        assert most_wanted <= MAX_WANTED_PER_LINK + MAX_COMPARE_SIZE // 32


def test_requests_are_of_bounded_size_and_number() -> None:
    keys = make_keys(range(3000))
    world, a, b = pair([], keys)
    world.link(a, b)
    most = 0
    while len(a.keys) < 3000:
        pass_time(world, 0.1, without=b.serve)
        most = max(most, len(b.served))
        assert all(len(effect.ids) <= MAX_IDS_PER_WANT for effect in b.served)
        if b.served:
            b.serve()
    assert most == MAX_UNANSWERED_WANTS
    assert a.payloads == 3000


# --- ways to miss a message -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_wherever_a_run_is_interrupted_a_later_one_completes_it(seed: int) -> None:
    keys = make_keys(range(400))
    rng = Random(seed)
    one, other = rng.sample(keys, 330), rng.sample(keys, 330)
    moves = 0
    while True:
        world = World(seed)
        a, b = world.add("a", one), world.add("b", other, known_from=None)
        world.link(a, b)
        world.now += WANT_DELAY_S
        for _ in range(moves):
            if not world.move():
                a.tick()
                b.tick()
                if not world.move():
                    break
        else:
            assert b.is_newcomer() or len(b.keys) == len({*one, *other})
            world.unlink(a, b)
            world.settle()
            if seed == 1:
                b.start()  # it crashed
            world.link(b, a)
            world.run_for(5.0)
            world.assert_all_have({*one, *other})
            assert not b.is_newcomer()
            moves += 3
            continue
        break
    assert moves > 20


def test_when_a_neighbour_goes_while_it_is_asked_another_that_has_the_same_is_asked() -> None:
    keys = make_keys(range(100))
    world = World()
    a, b, c = world.add("a"), world.add("b", keys), world.add("c", keys)
    world.link(a, b)
    world.settle()
    world.link(a, c)
    world.now += WANT_DELAY_S
    a.tick()
    while world.move():
        if b.served:
            break
    b.served.clear()
    world.unlink(a, b)
    world.run_for(2.0)
    world.assert_all_have(keys)
    assert a.payloads == 100


def test_what_only_a_lost_neighbour_has_is_forgotten_and_found_again() -> None:
    keys = make_keys(range(100))
    world, a, b = pair([], keys)
    world.link(a, b)
    world.settle()
    assert a.machine.statistics().wanted == 100
    world.unlink(a, b)
    assert a.machine.statistics().wanted == 0
    assert a.machine.next_deadline() is None
    world.link(b, a)
    world.run_for(2.0)
    world.assert_all_have(keys)


def test_a_message_that_is_pending_is_not_fetched_and_if_it_is_refused_then_it_is_fetched_later() -> None:
    keys = make_keys(range(20))
    world, a, b = pair(keys[:19], keys, known=(None, LOWEST))
    a.inbox[keys[19][1]] = keys[19]
    world.link(a, b)
    while len([*world.moves()]) > 1:  # all but to store it
        next(move for move in world.moves() if move != a.store)()
    world.now += 1.0
    a.tick()
    assert a.payloads == 0
    assert a.is_newcomer()  # not complete before it is on disk
    a.inbox.clear()
    a.handle(agreement.Stored((keys[19][1],)))  # the database did not take it
    assert not a.is_newcomer()
    world.run_for(PERIODS_S)
    world.assert_all_have(keys)
    assert a.payloads == 1


def test_a_run_waits_for_the_disk_only_so_long_and_nothing_is_lost() -> None:
    keys = make_keys(range(20))
    world, a, b = pair(keys[:19], keys, known=(None, LOWEST))
    a.inbox[keys[19][1]] = keys[19]  # the disk is full
    world.link(a, b)
    for _ in range(200):
        for move in [move for move in world.moves() if move != a.store]:
            move()
        world.now += 0.1
        a.tick()
    assert a.is_newcomer()
    world.run_for(2 * RECONCILE_RETRY_S)
    world.assert_all_have(keys)
    assert not a.is_newcomer()


def test_a_message_that_is_held_is_not_fetched_and_does_not_hold_up_a_run() -> None:
    keys = make_keys(range(20))
    world, a, b = pair(keys[:19], keys, known=(None, LOWEST))
    a.held.add(keys[19][1])
    world.link(a, b)
    world.run_for(1.0)
    assert a.payloads == 0
    assert not a.is_newcomer()
    a.held.clear()  # there was no room for it any more
    world.run_for(PERIODS_S)
    world.assert_all_have(keys)


def test_what_is_held_after_it_came_or_refused_is_waited_for_no_longer() -> None:
    keys = make_keys(range(20))
    world, a, b = pair(keys[:18], keys, known=(None, LOWEST))
    a.refused.add(keys[18][1])
    world.link(a, b)
    world.settle()
    world.now += WANT_DELAY_S
    a.tick()
    while world.moves() != [a.store]:
        next(move for move in world.moves() if move != a.store)()
    a.held.add(keys[19][1])
    a.store()
    world.run_for(1.0)
    assert not a.is_newcomer()
    assert list(a.keys) == keys[:18]


def test_two_newcomers_come_to_have_the_same_and_learn_from_a_third_where_history_begins() -> None:
    keys = make_keys(range(300), oldest_s=30 * DAY_S, step_s=2000)
    world = World()
    a, b = world.add("a", keys[:200], known_from=None), world.add("b", keys[100:], known_from=None)
    world.link(a, b)
    world.run_for(PERIODS_S)
    world.assert_all_have(keys)
    assert a.is_newcomer()
    assert b.is_newcomer()
    c = world.add("c", [])
    world.link(c, b)
    world.run_for(2.0)
    assert not b.is_newcomer()
    world.link(a, c)
    world.run_for(2.0)
    assert not a.is_newcomer()


def test_nothing_below_the_floor_is_wanted_and_the_rest_is_found_equal() -> None:
    keys = make_keys(range(200))
    world, a, b = pair(keys[100:], keys)
    a.floor = keys[100]
    a.start()
    world.link(a, b)
    world.run_for(2.0)
    world.link(b, a)
    world.run_for(2.0)
    assert list(a.keys) == keys[100:]
    assert a.payloads == 0
    assert a.machine.statistics().equal == b.machine.statistics().equal == 1


def test_a_floor_that_moved_counts_from_the_next_run_on() -> None:
    keys = make_keys(range(200))
    world, a, b = pair(keys, keys)
    world.link(a, b)
    world.run_for(1.0)
    for key in keys[:150]:
        a.remove(key)
    a.handle(agreement.FloorMoved(keys[150]))
    world.run_for(PERIODS_S)
    assert list(a.keys) == keys[150:]
    assert a.payloads == 0


@pytest.mark.parametrize("has_another", [False, True])
def test_what_is_retracted_between_listing_and_fetching_holds_up_nothing(has_another: bool) -> None:
    keys = make_keys(range(100))
    world = World()
    a, b = world.add("a", keys[:50], known_from=None), world.add("b", keys)
    world.link(a, b)
    world.settle()
    if has_another:
        world.link(a, world.add("c", keys))
        world.settle()
    b.remove(keys[70])
    world.run_for(5.0)
    expected = [key for key in keys if key != keys[70] or has_another]
    assert list(a.keys) == expected
    assert not a.is_newcomer()
    assert a.machine.statistics().wanted == 0


def test_a_run_of_which_something_was_lost_is_not_complete_and_there_is_another_soon() -> None:
    keys = make_keys(range(100))
    world, a, b = pair(keys[:50], keys, known=(None, LOWEST))
    world.link(a, b)
    world.settle()
    b.remove(keys[70])
    world.now += WANT_DELAY_S
    a.tick()
    world.settle()
    assert len(a.keys) == 99
    assert a.is_newcomer()
    world.run_for(1.0)
    assert not a.is_newcomer()
    assert a.machine.statistics().completed == 1


def test_messages_that_come_while_a_run_goes_on_are_not_lost() -> None:
    keys = make_keys(range(1000))
    rng = Random(5)
    world, a, b = pair([], [])
    waiting = keys.copy()
    rng.shuffle(waiting)
    for number, key in enumerate(waiting[:600]):
        (a, b)[number % 2].add(key)
    world.link(a, b)
    for number, key in enumerate(waiting[600:]):
        (a, b)[number % 2].add(key)
        world.move()
        world.now += 0.003
        a.tick()
        b.tick()
    world.run_for(PERIODS_S)
    world.assert_all_have(keys)


@pytest.mark.parametrize(("count", "requests"), [(300, MAX_UNANSWERED_WANTS), (20, 1)])
def test_a_neighbour_that_owes_an_answer_is_replaced_by_another_and_not_asked_before_it_has_answered(
    count: int, requests: int
) -> None:
    keys = make_keys(range(count))
    world = World()
    a, b, c = world.add("a"), world.add("b", keys), world.add("c", keys)
    world.link(a, b)
    world.link(a, c)
    pass_time(world, RECONCILE_PATIENCE_S, without=b.serve)
    asked = len(b.served)
    assert asked == requests
    assert len(a.keys) == 0
    pass_time(world, RECONCILE_PATIENCE_S + 1.0, without=b.serve)
    assert list(a.keys) == keys
    assert a.payloads == count
    pass_time(world, RECONCILE_TIMEOUT_S, without=b.serve)
    world.assert_all_have(keys)
    b.add(make_key(1000, age_s=500))
    pass_time(world, PERIODS_S, without=b.serve)
    assert len(b.served) == asked
    assert b.misbehaved == []


def test_a_neighbour_that_does_not_answer_a_comparison_does_not_keep_others_waiting_for_long() -> None:
    keys = make_keys(range(30))
    world = World()
    a, b, c = world.add("a"), world.add("b", keys), world.add("c", keys)
    world.link(a, b)
    world.link(a, c)
    pass_time(world, RECONCILE_PATIENCE_S + 1.0, without=b.step)
    assert list(a.keys) == keys
    world.run_for(RECONCILE_TIMEOUT_S + 1.5 * RECONCILE_RETRY_S)
    assert b.agreed != []


class Mute:
    """A neighbour that a test plays: it says nothing but what it is told to."""

    def __init__(self, world: World, node: Node, number: int) -> None:
        self.world = world
        self.node = node
        self.name = DeviceId(bytes([number]) * 32)
        self.frames: list[Any] = []

    def link(self) -> None:
        self.node.handle(agreement.LinkUp(self.name, is_dialler=True))

    def unlink(self) -> None:
        self.node.handle(agreement.LinkDown(self.name))

    def heard(self) -> list[Any]:
        """Return what the node said to it."""
        return self.frames


def with_mutes(count: int, *, honest_keys: list[MessageKey]) -> tuple[World, Node, Node, list[Mute]]:
    """Make a node with so many neighbours that say nothing, each of which it is to compare with first."""
    world = World()
    a, b = world.add("a"), world.add("b", honest_keys)
    mutes = [Mute(world, a, number) for number in range(1, count + 1)]
    real, by_name = world.send, {mute.name: mute for mute in mutes}

    def send(sender: Node, peer: DeviceId, frame: Any) -> None:
        if peer in by_name:
            by_name[peer].frames.append(frame)
        else:
            real(sender, peer, frame)

    world.send = send  # type: ignore[method-assign]
    for mute in mutes:
        mute.link()
    world.link(a, b)
    return world, a, b, mutes


def test_several_neighbours_that_say_nothing_delay_catching_up_by_a_moment_each_and_later_by_none() -> None:
    keys = make_keys(range(300))
    world, a, b, mutes = with_mutes(3, honest_keys=keys)
    world.run_for(3 * RECONCILE_PATIENCE_S + 1.0)
    assert list(a.keys) == keys
    assert a.payloads == 300
    world.run_for(RECONCILE_TIMEOUT_S)  # all three are known to be silent
    for turn in range(20):
        missed = make_key(1000 + turn, age_s=500)
        b.add(missed)
        a.handle(agreement.Deferred(b.name))
        for mute in mutes:
            a.handle(agreement.Deferred(mute.name))
        world.run_for(11.0)
        assert missed in a.keys
    openings = [len([frame for frame in mute.heard() if isinstance(frame, frames.OpenComparison)]) for mute in mutes]
    assert max(openings) <= 3 + 20 * 11.0 / (0.75 * RECONCILE_RETRY_S), "a silent one costs a frame now and then"
    assert all(isinstance(frame, frames.OpenComparison) for mute in mutes for frame in mute.heard())


def test_a_silent_neighbour_that_links_again_and_again_holds_up_the_others_for_a_moment_each_time() -> None:
    keys = make_keys(range(50))
    world, a, b, (mute,) = with_mutes(1, honest_keys=keys)
    world.run_for(RECONCILE_PATIENCE_S + 1.0)
    assert list(a.keys) == keys
    for turn in range(20):
        mute.unlink()
        mute.link()
        missed = make_key(1000 + turn, age_s=500)
        b.add(missed)
        world.link(a, b)
        world.run_for(RECONCILE_PATIENCE_S + 1.0)
        assert missed in a.keys
    assert a.payloads == 70


def test_a_neighbour_that_always_says_a_little_holds_up_the_others_for_seconds_and_no_more() -> None:
    keys = make_keys(range(50))
    world, a, _, (mute,) = with_mutes(1, honest_keys=keys)
    world.settle()
    (asked,) = mute.heard()
    turn = 0
    while not len(a.keys):
        world.run_for(0.9 * RECONCILE_PATIENCE_S)
        turn += 1
        upper: Bound = (turn, b"")
        answer = compare(Fingerprint(upper, bytes(16)), run=asked.run, is_answer=True, lower=asked.lower)
        a.handle(agreement.Received(mute.name, answer))
        world.settle()
        assert world.now < RECONCILE_ALONE_S + 2.0
    assert turn >= 3
    assert a.misbehaved == []
    world.run_for(1.0)
    assert list(a.keys) == keys


def test_what_a_neighbour_has_and_does_not_give_another_gives_within_moments() -> None:
    keys = make_keys(range(400))
    world, a, _, (mute,) = with_mutes(1, honest_keys=keys)
    world.settle()
    (asked,) = mute.heard()
    upper: Bound = (keys[-1][0] + 1, b"")
    listed = More(upper, tuple(key[1] for key in keys))  # it has them all, and answers no request
    a.handle(agreement.Received(mute.name, compare(listed, run=asked.run, is_answer=True, lower=asked.lower)))
    world.run_for(3 * RECONCILE_PATIENCE_S)
    assert list(a.keys) == keys
    assert a.payloads == 400
    wants = [frame for frame in mute.heard() if isinstance(frame, frames.WantMessages)]
    assert len(wants) == MAX_UNANSWERED_WANTS


def test_a_neighbour_that_fell_silent_is_tried_again_later_and_one_whose_turn_was_over_at_once() -> None:
    world, a, _, (mute,) = with_mutes(1, honest_keys=[])
    ended_at = RECONCILE_TIMEOUT_S
    world.run_for(ended_at + 0.74 * RECONCILE_RETRY_S)
    assert len(mute.heard()) == 1
    world.run_for(0.52 * RECONCILE_RETRY_S)
    assert len(mute.heard()) == 2
    began_at = world.now
    asked, turn = mute.heard()[-1], 0
    while len(mute.heard()) == 2 or not isinstance(mute.heard()[-1], frames.OpenComparison):
        turn += 1
        answer = compare(Fingerprint((turn, b""), bytes(16)), run=asked.run, is_answer=True, lower=asked.lower)
        a.handle(agreement.Received(mute.name, answer))
        world.run_for(1.0)
        assert world.now < began_at + RECONCILE_TURN_S + 2.0
    assert world.now > began_at + 0.7 * RECONCILE_TURN_S
    assert a.misbehaved == []


def test_a_run_whose_messages_are_stored_one_by_one_gets_on_and_is_not_given_up() -> None:
    keys = make_keys(range(8))
    world, a, b = pair([], keys, known=(None, LOWEST))
    for key in keys:
        a.inbox[key[1]] = key  # they came some other way, and the disk is slow
    world.link(a, b)
    pass_time(world, 1.0, without=a.store)
    for key in keys:
        assert a.is_newcomer()
        pass_time(world, 0.35 * RECONCILE_TIMEOUT_S, without=a.store)
        del a.inbox[key[1]]
        a.add(key)
    assert not a.is_newcomer(), "it was taken for stuck"
    assert a.machine.statistics().runs == 1
    assert a.machine.statistics().completed == 1


def test_a_run_whose_messages_come_one_by_one_while_the_disk_is_slow_gets_on_and_is_not_given_up() -> None:
    keys = make_keys(range(6))
    world, a, b = pair([], keys, known=(None, LOWEST))
    world.link(a, b)
    pass_time(world, 1.0, without=b.serve)
    request = b.served.popleft()
    assert sorted(request.ids) == sorted(msg_id for _, msg_id in keys)
    for key in keys:
        pass_time(world, 0.35 * RECONCILE_TIMEOUT_S, without=a.store)
        is_last = key == keys[-1]
        a.receive(b.name, frames.Messages(number=request.number, messages=(encode_key(key),), is_last=is_last))
    assert a.is_newcomer()
    world.run_for(1.0)
    assert not a.is_newcomer(), "it was taken for stuck"
    assert a.machine.statistics().runs == 1
    assert a.machine.statistics().completed == 1


def test_older_history_that_one_neighbour_does_not_give_another_gives_within_moments() -> None:
    world, a, _, (mute,) = with_mutes(1, honest_keys=OLD)
    a.handle(agreement.Cancel(1))
    world.run_for(20.0)
    a.handle(agreement.LinkDown(mute.name))
    a.handle(agreement.LinkUp(mute.name, is_dialler=False))
    a.handle(agreement.FetchOlder(1, OLD[800], 40))
    world.run_for(RECONCILE_PATIENCE_S + 1.0)
    assert a.finished == {1: True}
    assert [key for key in a.keys if key < OLD[800]] == OLD[760:800]


@pytest.mark.parametrize("who_fails", [0, 1])
def test_a_database_that_fails_ends_a_run_which_is_tried_again(who_fails: int) -> None:
    keys = make_keys(range(30))
    world, a, b = pair([], keys)
    node = (a, b)[who_fails]
    node.step = lambda: node.handle(agreement.Stepped(node.steps.popleft().step, None))  # type: ignore[method-assign]
    world.link(a, b)
    world.run_for(1.0)
    assert len(a.keys) == 0
    del node.step
    world.run_for(RECONCILE_TIMEOUT_S + 2 * RECONCILE_RETRY_S)
    world.assert_all_have(keys)


def test_a_long_run_is_broken_off_so_that_others_have_their_turn() -> None:
    world = World()
    keys, other = make_keys(range(3000)), make_key(5000, age_s=4000)
    a, b, c = world.add("a"), world.add("b", keys), world.add("c", [other])
    world.link(a, b)
    world.link(a, c)
    while world.now < RECONCILE_TURN_S + 5:
        moves = world.moves()
        if moves:
            moves[0]()
        world.now += 0.5  # everything is slow
        for node in (a, b, c):
            node.tick()
    assert other in a.keys or a.machine.statistics().runs > 1
    world.run_for(60.0)
    world.assert_all_have([*keys, other])


# --- more than two ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_quick", [False, True])
def test_what_was_fetched_reaches_the_other_neighbours_at_once(is_quick: bool) -> None:
    world = World()
    nodes = [world.add(name) for name in "abcde"]
    for node in nodes:
        node.is_quick = is_quick
    for one, other in pairwise(nodes):
        world.link(one, other)
    world.run_for(1.0)
    newcomer = world.add("n", make_keys(range(20)))
    world.link(newcomer, nodes[0])
    world.run_for(5 * (RECONCILE_NEWS_S + WANT_DELAY_S + 0.2))
    world.assert_all_have(make_keys(range(20)))
    assert [node.payloads for node in nodes] == [20] * 5
    assert [node.machine.statistics().fetched for node in nodes] == [20] * 5


def test_what_was_fetched_reaches_the_other_neighbours_though_the_clock_of_its_author_is_a_little_ahead() -> None:
    world = World()
    a, c = world.add("a"), world.add("c")
    world.link(c, a)
    world.run_for(1.0)
    fresh = [make_key(number, age_s=age_s - world.now) for number, age_s in enumerate((0.0, -0.5, -1.9))]
    b = world.add("b", fresh)
    world.link(b, a)
    world.run_for(2 * (RECONCILE_NEWS_S + WANT_DELAY_S + 0.2))
    world.assert_all_have(fresh)


def test_who_brought_the_news_is_not_compared_with_again() -> None:
    world, a, b = pair([], make_keys(range(20)))
    world.link(a, b)
    world.run_for(10.0)
    assert a.machine.statistics().runs == 1
    assert b.machine.statistics().runs == 0


def test_what_several_neighbours_have_is_fetched_once() -> None:
    keys = make_keys(range(1000))
    world = World()
    a = world.add("a")
    for name in "bcdefg":
        world.link(a, world.add(name, keys))
    world.run_for(3.0)
    world.assert_all_have(keys)
    assert a.payloads == 1000


# --- windows ----------------------------------------------------------------------------------------------------


def test_a_node_away_for_a_week_gets_all_of_it() -> None:
    keys = make_keys(range(700), oldest_s=7 * DAY_S, step_s=850)
    world, a, b = pair(make_keys([5000], oldest_s=8 * DAY_S), [*keys, *make_keys([5000], oldest_s=8 * DAY_S)])
    world.link(a, b)
    world.run_for(2.0)
    assert list(a.keys) == list(b.keys)


def test_at_least_a_hundred_messages_are_compared_however_old_and_no_more() -> None:
    keys = make_keys(range(300), oldest_s=90 * DAY_S, step_s=10_000)
    world, a, b = pair([], keys)
    world.link(a, b)
    world.run_for(2.0)
    assert list(a.keys) == keys[200:]
    world, a, b = pair(keys[:100], keys)
    c = world.add("c", keys[:50] + keys[200:])
    world.link(c, b)
    world.run_for(2.0)
    assert list(c.keys) == keys[:50] + keys[200:]  # both have their last hundred, and these are the same
    assert RECENT_MESSAGES == 100


def test_a_newcomer_gets_the_current_session_and_at_least_a_hundred_messages() -> None:
    old = make_keys(range(200), oldest_s=3 * DAY_S, step_s=1.0)
    for latest, expected in ((20, 100), (150, 150)):
        recent = make_keys(range(1000, 1000 + latest), oldest_s=3600 + 1000)
        for founder_dials in (True, False):
            world, a, b = pair([*old, *recent], [], known=(LOWEST, None))
            world.link(a, b) if founder_dials else world.link(b, a)
            world.run_for(2.0)
            assert list(b.keys) == [*old, *recent][-expected:]
            assert b.known_from == (next(iter(b.keys))[0], b"")


def test_a_newcomer_keeps_what_it_learned_in_agreement_from_then_on() -> None:
    old = make_keys(range(200), oldest_s=3 * DAY_S, step_s=1.0)
    world, a, b = pair(old, [], known=(LOWEST, None))
    world.link(a, b)
    world.run_for(2.0)
    b.start()
    late = make_key(7777, age_s=3 * DAY_S - 150)
    earlier = make_key(8888, age_s=4 * DAY_S)
    a.add(late, earlier)
    world.unlink(a, b)
    world.link(b, a)
    world.run_for(2.0)
    assert late in b.keys
    assert earlier not in b.keys


def test_a_node_gives_what_is_asked_for_and_takes_only_what_it_wants() -> None:
    keys = make_keys(range(400), oldest_s=60 * DAY_S, step_s=10_000)
    world, a, b = pair(keys[:250], keys[150:])
    b.known_from = keys[300]
    b.start()
    world.link(b, a)
    world.run_for(2.0)
    assert list(b.keys) == keys[150:]  # all that a has is older than what b wants
    a.handle(agreement.FetchOlder(1, keys[250], 100))
    world.run_for(2.0)
    assert a.finished == {1: True}
    assert list(b.keys) == keys[150:]


def test_a_neighbour_that_says_that_history_begins_in_the_future_is_not_believed() -> None:
    world, a, b = pair([], make_keys(range(5)), known=(None, (2**63 - 1, b"")))
    world.link(a, b)
    world.run_for(1.0)
    assert a.known_from is not None
    assert a.known_from <= now_bound(age_s=-1.0)


def test_what_stands_is_compared_as_a_whole() -> None:
    keys = make_keys(range(300), oldest_s=900 * DAY_S, step_s=100_000)
    world, a, b = pair(keys[:30], keys[20:])
    for node in (a, b):
        node.machine._start.is_whole = True
    world.link(a, b)
    world.run_for(2.0)
    world.assert_all_have(keys)
    assert a.agreed == []
    world.run_for(PERIODS_S)
    assert a.agreed[0].lower == LOWEST


# --- requests ---------------------------------------------------------------------------------------------------


OLD = make_keys(range(1000), oldest_s=30 * DAY_S, step_s=100.0)


def test_older_history_comes_in_pages_and_known_from_follows() -> None:
    world, a, b = pair([], OLD, known=(None, LOWEST))
    world.link(a, b)
    world.run_for(2.0)
    assert list(a.keys) == OLD[900:]
    for page in range(1, 4):
        before = next(iter(a.keys))
        a.handle(agreement.FetchOlder(page, before, 50))
        world.run_for(2.0)
        assert a.finished[page] is True
        assert list(a.keys) == OLD[900 - 50 * page :]
        assert a.known_from == (next(iter(a.keys))[0], b"")
    a.start()
    b.add(make_key(12345, age_s=30 * DAY_S - 82_000))
    world.unlink(a, b)
    world.link(a, b)
    world.run_for(2.0)
    assert make_key(12345, age_s=30 * DAY_S - 82_000) not in a.keys  # older than the automatic window


@pytest.mark.parametrize(("asked", "given"), [(-1, 1), (0, 1), (1, 1), (2, 2)])
def test_a_page_of_older_history_is_as_long_as_asked_for_and_at_least_one_message(asked: int, given: int) -> None:
    world, a, b = pair(OLD[900:], OLD)
    world.link(a, b)
    world.run_for(2.0)
    a.handle(agreement.FetchOlder(1, OLD[900], asked))
    world.run_for(2.0)
    assert a.finished == {1: True}
    assert list(a.keys) == OLD[900 - given :]


def test_a_page_of_older_history_has_no_holes_whatever_was_there_of_it() -> None:
    rng = Random(3)
    mine = sorted(rng.sample(OLD[:900], 300))
    world, a, b = pair([*mine, *OLD[900:]], [key for key in OLD if rng.random() < 0.7 or key in OLD[900:]])
    union = sorted({*a.keys, *b.keys})
    world.link(a, b)
    world.run_for(2.0)
    position = OLD[900]
    seen: list[MessageKey] = []
    for page in range(100):
        a.handle(agreement.FetchOlder(page, position, 37))
        world.run_for(1.0)
        found = [key for key in a.keys if key < position][-37:]
        if not found:
            break
        seen = found + seen
        position = found[0]
    assert seen == [key for key in union if key < OLD[900]]


def test_older_history_is_sought_with_those_who_keep_it() -> None:
    world = World()
    a = world.add("a", OLD[950:])
    a.known_from = OLD[950]
    a.start()
    b = world.add("b", OLD[900:], known_from=OLD[900])
    c = world.add("c", OLD)
    world.link(a, b)
    world.link(a, c)
    world.run_for(5.0)
    a.handle(agreement.FetchOlder(1, OLD[950], 100))
    world.run_for(2.0)
    assert a.finished == {1: True}
    assert list(a.keys) == OLD[850:]
    assert a.known_from == (OLD[850][0], b"")


def test_of_neighbours_that_keep_less_all_are_asked() -> None:
    world = World()
    a = world.add("a", OLD[950:], known_from=OLD[950])
    for name, keys in (("b", OLD[940:]), ("c", OLD[930:945] + OLD[950:]), ("d", OLD[920:935] + OLD[950:])):
        world.link(a, world.add(name, keys, known_from=OLD[950]))
    world.run_for(2.0)
    a.handle(agreement.FetchOlder(1, OLD[950], 100))
    world.run_for(3.0)
    assert a.finished == {1: True}
    assert list(a.keys) == OLD[920:]
    assert a.known_from == OLD[950]  # nobody keeps that part in agreement


def test_the_newest_messages_can_be_asked_for_as_well() -> None:
    world, a, b = pair([], OLD, known=(None, LOWEST))
    world.link(a, b)
    a.handle(agreement.FetchOlder(1, HIGHEST, 30))
    for _ in range(1000):
        if a.finished or not world.move():
            break
    world.settle()
    assert a.finished == {1: True}
    assert list(a.keys)[-30:] == OLD[-30:]


def test_without_neighbours_or_answers_older_history_is_not_there() -> None:
    world, a, b = pair([], OLD)
    a.handle(agreement.FetchOlder(1, HIGHEST, 30))
    assert a.finished == {1: False}
    world.link(a, b)
    a.handle(agreement.FetchOlder(2, HIGHEST, 30))
    world.unlink(a, b)
    assert a.finished == {1: False, 2: False}
    b.step = lambda: b.steps.clear()  # type: ignore[method-assign]
    world.link(a, b)
    a.handle(agreement.FetchOlder(3, HIGHEST, 30))
    world.run_for(RECONCILE_TIMEOUT_S + 1.0)
    assert a.finished == {1: False, 2: False, 3: False}


def test_a_request_for_older_history_does_not_wait_for_a_long_run() -> None:
    recent = make_keys(range(10_000, 13_000))
    world, a, b = pair([OLD[990]], [*OLD, *recent])
    a.known_from = OLD[990]
    a.start()
    world.link(a, b)
    for _ in range(20):
        world.move()
    assert a.machine.statistics().completed == 0
    a.handle(agreement.FetchOlder(1, OLD[990], 40))
    while not a.finished:
        assert world.move()
    assert [key for key in a.keys if key < OLD[990]] == OLD[950:990]
    world.run_for(5.0)
    assert list(a.keys)[-3000:] == recent


def test_a_check_is_fulfilled_when_all_neighbours_have_the_same() -> None:
    keys = make_keys(range(100))
    world = World()
    a = world.add("a", keys)
    others = [world.add("b", keys), world.add("c", keys[:50]), world.add("d", [*keys[60:], *make_keys([500])])]
    for other in others:
        world.link(other, a)
    a.handle(agreement.Check(1, HIGHEST))
    assert a.finished == {}
    world.run_for(3.0)
    assert a.finished == {1: True}
    world.assert_all_have([*keys, *make_keys([500])])


def test_a_check_goes_on_until_a_neighbour_has_stored_what_it_lacks_and_leaves_out_what_comes_after() -> None:
    keys = make_keys(range(100))
    world, a, b = pair(keys, keys[:50])
    world.link(a, b)
    a.handle(agreement.Check(1, now_bound()))
    pass_time(world, 20.0, without=b.store)
    assert a.finished == {}
    a.add(make_key(777, age_s=-10.0))  # said after the check began
    world.run_for(3.0)
    assert a.finished == {1: True}


def test_a_check_is_fulfilled_although_the_other_side_begins_later_and_a_bound_ends_in_zeros() -> None:
    keys = make_keys(range(200))
    world, a, b = pair(keys, keys[100:])
    b.floor = keys[100]
    b.start()
    world.link(a, b)
    world.run_for(1.0)
    a.handle(agreement.Check(1, (now_bound()[0], b"\1\0")))
    world.run_for(1.0)
    assert a.finished == {1: True}


def test_what_is_told_to_be_agreed_is_the_history_from_where_both_keep_it() -> None:
    keys = make_keys(range(200))
    lacking = keys[150]
    world, a, b = pair(keys, [key for key in keys if key != lacking])
    world.link(a, b)
    a.handle(agreement.FetchOlder(1, keys[50], 20))
    world.run_for(1.0)
    assert a.finished == {1: True}
    for node in (a, b):
        assert {effect.lower for effect in node.agreed} == {a.agreed[0].lower}
        assert a.agreed[0].lower <= keys[0]
        uppers = [effect.upper for effect in node.agreed]
        assert max(upper for upper in uppers if upper <= lacking) > keys[120]
    world.run_for(PERIODS_S)
    assert max(effect.upper for effect in a.agreed) > keys[-1]


def test_a_check_without_neighbours_fails_and_one_whose_neighbours_go_as_well() -> None:
    world, a, b = pair([], OLD)
    a.handle(agreement.Check(1, HIGHEST))
    assert a.finished == {1: False}
    world.link(a, b)
    a.handle(agreement.Check(2, HIGHEST))
    world.unlink(a, b)
    assert a.finished == {1: False, 2: False}


def test_neighbours_that_come_during_a_check_are_checked_too() -> None:
    keys = make_keys(range(100))
    world = World()
    a, b, c = world.add("a", keys), world.add("b", keys), world.add("c", keys[10:])
    world.link(a, b)
    world.settle()
    a.handle(agreement.Check(1, HIGHEST))
    world.link(c, a)
    world.settle()
    assert a.finished == {}
    world.run_for(3.0)
    assert a.finished == {1: True}
    world.assert_all_have(keys)


@pytest.mark.parametrize("event", [agreement.Check(1, HIGHEST), agreement.FetchOlder(1, HIGHEST, 10)])
def test_a_request_that_was_cancelled_is_not_answered_and_nothing_waits_for_it(
    event: agreement.AgreementEvent,
) -> None:
    for moves in range(0, 12, 2):
        world, a, b = pair(OLD[:900], OLD)
        world.link(a, b)
        a.handle(event)
        for _ in range(moves):
            world.move()
        answered = dict(a.finished)
        a.handle(agreement.Cancel(1))
        world.run_for(3.0)
        assert a.finished == answered
        a.handle(agreement.FetchOlder(2, HIGHEST, 10))
        world.run_for(3.0)
        assert a.finished[2] is True


# --- what a peer can do wrong -----------------------------------------------------------------------------------


def stranger(world: World, node: Node) -> DeviceId:
    """Link a node to somebody whose frames are made by the test."""
    name = DeviceId(b"x" * 32)
    node.handle(agreement.LinkUp(name, is_dialler=False))
    world.settle()
    return name


def opening(run: int = 1, lower: Bound = LOWEST, upper: Bound = HIGHEST, count: int = 0) -> frames.OpenComparison:
    return frames.OpenComparison(
        run=run, lower=lower, upper=upper, count=count, suggested=LOWEST, fingerprint=bytes(16)
    )


def compare(*claims: Claim, run: int = 1, is_answer: bool = False, lower: Bound = LOWEST) -> frames.Compare:
    return frames.Compare(run=run, is_answer=is_answer, lower=lower, claims=claims)


def test_claims_that_do_not_ascend_and_comparisons_that_end_before_they_begin_are_reported() -> None:
    world, a, _ = pair(OLD, [])
    peer = stranger(world, a)
    a.receive(peer, opening(lower=(5, b""), upper=(4, b"")))
    a.receive(peer, compare(Equal((5, b"")), Equal((5, b""))))
    assert len(a.misbehaved) == 2
    assert not a.steps


def test_claims_of_a_run_that_is_not_going_on_are_ignored() -> None:
    world, a, _ = pair(OLD, [])
    peer = stranger(world, a)
    a.receive(peer, compare(Listing(HIGHEST, ())))
    a.receive(peer, compare(Listing(HIGHEST, ()), is_answer=True))
    a.receive(peer, opening(run=7))
    a.receive(peer, compare(Listing(HIGHEST, ()), run=6))
    assert len(a.steps) == 1
    assert a.misbehaved == []


def test_who_does_not_wait_for_answers_is_reported_and_the_database_has_one_thing_to_do() -> None:
    world, a, _ = pair(OLD, [])
    peer = stranger(world, a)
    for run in range(100):
        a.receive(peer, opening(run=run))
    assert len(a.steps) == 1
    a.step()
    assert len(a.steps) == 1
    a.step()
    assert not a.steps
    a.receive(peer, compare(Fingerprint(HIGHEST, bytes(16)), run=99))
    a.receive(peer, compare(Fingerprint(HIGHEST, bytes(16)), run=99))
    assert len(a.misbehaved) == 1
    assert len(a.steps) == 1


def test_who_asks_for_too_much_at_once_is_reported() -> None:
    world, a, _ = pair(OLD, [])
    peer = stranger(world, a)
    for number in range(10):
        a.receive(peer, frames.WantMessages(number=number, ids=(OLD[0][1], OLD[0][1])))
    assert len(a.served) == 2 * MAX_UNANSWERED_WANTS
    assert all(effect.ids == (OLD[0][1],) for effect in a.served)
    assert len(a.misbehaved) == 10 - 2 * MAX_UNANSWERED_WANTS
    a.serve()
    a.receive(peer, frames.WantMessages(number=0, ids=()))
    assert len(a.misbehaved) == 10 - 2 * MAX_UNANSWERED_WANTS


def test_an_answer_about_something_else_is_reported() -> None:
    world, a, b = pair(OLD, [])
    a.known_from = OLD[900]
    a.start()
    world.link(a, b)
    a.step()
    a.receive(b.name, compare(Listing(HIGHEST, ()), is_answer=True, lower=LOWEST))
    assert [effect.peer for effect in a.misbehaved] == [b.name]


def test_what_is_listed_and_never_given_is_bounded_and_ends() -> None:
    world, a, _ = pair([], [])
    peer = stranger(world, a)
    a.receive(peer, opening())
    a.step()
    rng = Random(1)
    for turn in range(20):
        ids = tuple(MsgId(rng.randbytes(32)) for _ in range(500))
        a.receive(peer, compare(More((turn + 1, b""), ids), lower=(turn, b"")))
        if a.steps:
            a.step()
    assert a.machine.statistics().wanted <= MAX_WANTED_PER_LINK + 500
    world.run_for(2 * RECONCILE_TIMEOUT_S)
    assert a.machine.statistics().wanted <= MAX_WANTED_PER_LINK + 500
    a.handle(agreement.LinkDown(peer))
    assert a.machine.statistics().wanted == 0


def test_frames_of_a_peer_without_a_link_are_ignored() -> None:
    _, a, b = pair(OLD, [])
    for frame in (opening(), compare(), frames.WantMessages(number=1, ids=())):
        a.handle(agreement.Received(b.name, frame))
    a.handle(agreement.Arrived(b.name, 1, (), True))
    a.handle(agreement.Served(b.name, 1))
    assert not a.steps
    assert not a.served
    assert a.machine.next_deadline() is None


BOUNDS = st.one_of(
    st.sampled_from([LOWEST, HIGHEST, *OLD[::100]]), st.tuples(st.integers(0, 2**62), st.binary(max_size=2))
)
SOME_IDS = st.lists(st.sampled_from([key[1] for key in OLD[::50]]), max_size=5).map(tuple)
SOME_CLAIMS = st.one_of(
    st.builds(Equal, BOUNDS),
    st.builds(Fingerprint, BOUNDS, st.binary(min_size=16, max_size=16)),
    st.builds(Listing, BOUNDS, SOME_IDS),
    st.builds(More, BOUNDS, SOME_IDS),
)
SOME_FRAMES = st.one_of(
    st.builds(opening, st.integers(0, 2), BOUNDS, BOUNDS, st.integers(0, 3)),
    st.lists(SOME_CLAIMS, max_size=5).flatmap(
        lambda claims: st.builds(
            frames.Compare,
            run=st.integers(0, 2),
            is_answer=st.booleans(),
            lower=BOUNDS,
            claims=st.just(tuple(sorted(claims, key=lambda claim: claim.upper))),
            known_from=st.none() | BOUNDS,
        )
    ),
    st.builds(frames.WantMessages, number=st.integers(0, 5), ids=SOME_IDS),
    st.builds(frames.Messages, number=st.integers(0, 3), is_last=st.booleans(), messages=st.just(())),
)


@settings(max_examples=200)
@given(sent=st.lists(SOME_FRAMES, max_size=30), seed=st.integers(0, 1000))
def test_whatever_a_peer_sends_nothing_breaks_and_others_are_served(sent: list[Any], seed: int) -> None:
    world = World(seed)
    keys = OLD[:200]
    a, b = world.add("a", keys[:150]), world.add("b", keys[50:])
    peer = stranger(world, a)
    a.handle(agreement.FetchOlder(1, HIGHEST, 5))
    world.link(a, b)
    for frame in sent:
        a.receive(peer, frame)
        world.move()
        world.now += 0.05
        a.tick()
    world.run_for(2 * RECONCILE_TIMEOUT_S + RECONCILE_TURN_S)
    assert {*keys[100:]} <= {*a.keys}
    assert 1 in a.finished


# --- any number, any order --------------------------------------------------------------------------------------


class Model:
    """Some nodes to which anything happens, and the plain set of all that was ever said and not taken back."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = Random(seed)
        self.world = World(seed)
        self.universe = make_keys(range(150), oldest_s=5000.0, step_s=20.0)
        self.nodes = [
            self.world.add(f"node {number}", self.rng.sample(self.universe, self.rng.randrange(100)))
            for number in range(count)
        ]
        self.expected = {key for node in self.nodes for key in node.keys}
        for node in self.nodes:
            node.is_quick = self.rng.random() < 0.5

    def step(self) -> None:
        world, rng = self.world, self.rng
        one, other = rng.sample(self.nodes, 2)
        match rng.randrange(12):
            case 0 if not world.is_linked(one, other):
                world.link(one, other)
            case 1 if world.is_linked(one, other) and rng.random() < 0.3:
                world.unlink(one, other)
            case 2:
                key = rng.choice(self.universe)
                one.add(key)
                self.expected.add(key)
            case 3:
                world.now += rng.choice((0.05, 0.3, 3.0))
                for node in self.nodes:
                    node.tick()
            case 4:
                one.handle(agreement.FetchOlder(rng.getrandbits(60), rng.choice(self.universe), 10))
            case _:
                world.move()

    def heal(self) -> None:
        for one, other in pairwise(self.nodes):
            if not self.world.is_linked(one, other):
                self.world.link(*self.rng.sample([one, other], 2))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 4), steps=st.integers(0, 400))
def test_histories_become_the_union_of_all_in_any_interleaving(seed: int, count: int, steps: int) -> None:
    model = Model(seed, count)
    for _ in range(steps):
        model.step()
    model.heal()
    model.world.run_for(PERIODS_S)
    model.world.assert_all_have(model.expected)
    for node in model.nodes:
        assert node.misbehaved == []
        assert node.machine.statistics().wanted == 0
        assert list(node.keys) == list(MemoryKeys(model.expected))
