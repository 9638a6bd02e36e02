"""How much of one author is taken as it comes: the machine against a plain model, in gossip, and in simulated pools."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId
from poolnet.limits import (
    AUTHOR_BURST,
    AUTHOR_RATE,
    DEFERRED_COMPARE_S,
    KIB,
    MAX_AUTHORS_LIMITED,
    MAX_MESSAGE_SIZE,
    OLD_BURST,
    OLD_RATE,
)
from poolnet.protocol import agreement, gossip, quota
from poolnet.protocol.agenda import Agenda
from poolnet.protocol.quota import AuthorQuota
from poolnet.testing import PathConditions, SimPool
from poolnet.testing.sim_node import SimNode

AUTHORS = [DeviceId(bytes([number]) * 32) for number in range(4)]
SIZES = st.integers(1, MAX_MESSAGE_SIZE)
BURST, RATE = 30.0, 2.0


class Model:
    """What is left of each author, worked out from all that it ever said."""

    def __init__(self) -> None:
        self.said: dict[DeviceId, list[tuple[float, int]]] = {}

    def left(self, author: DeviceId, now: float) -> float:
        tokens, at = BURST, 0.0
        for when, cost in self.said.get(author, []):
            tokens, at = min(BURST, tokens + (when - at) * RATE) - cost, when
        return min(BURST, tokens + (now - at) * RATE)


@given(st.lists(st.tuples(st.sampled_from(AUTHORS), st.integers(0, 60), st.integers(1, 20), SIZES), max_size=30))
def test_what_is_taken_is_what_a_plain_model_takes(steps: list[tuple[DeviceId, int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quota, "AUTHOR_BURST", BURST)
        patch.setattr(quota, "AUTHOR_RATE", RATE)
        machine, model, now, deferred = AuthorQuota(), Model(), 0.0, 0
        for author, pause, count, size in steps:
            now += pause / 4
            for _ in range(count):
                expected = model.left(author, now) >= 1
                assert machine.has_some(author, now) == expected
                if not expected:
                    deferred += 1
                    break
                machine.spend(author, size, now)
                model.said.setdefault(author, []).append((now, -(-size // KIB)))
        assert machine.deferred == deferred


@given(st.lists(st.tuples(st.integers(0, 200), SIZES), max_size=100))
def test_in_the_long_run_an_author_gets_its_rate_whatever_it_sends(sent: list[tuple[int, int]]) -> None:
    machine, now, taken = AuthorQuota(), 0.0, 0
    for pause, size in sent:
        now += pause / 10
        while machine.has_some(AUTHORS[0], now):
            machine.spend(AUTHORS[0], size, now)
            taken += -(-size // KIB)
        assert machine.has_some(AUTHORS[1], now), "what one says costs another nothing"
    assert taken <= AUTHOR_BURST + AUTHOR_RATE * now + MAX_MESSAGE_SIZE / KIB


def test_authors_who_are_many_are_not_all_remembered() -> None:
    machine = AuthorQuota()
    for number in range(2 * MAX_AUTHORS_LIMITED):
        machine.spend(DeviceId(number.to_bytes(32, "big")), 1, 0.0)
        machine.spend(AUTHORS[1], 1, 0.0)
    assert len(machine) == MAX_AUTHORS_LIMITED
    assert not machine.has_some(AUTHORS[1], 0.0), "who speaks now is remembered"


@given(st.lists(st.tuples(st.sampled_from(AUTHORS), st.booleans(), st.integers(0, 50)), max_size=60))
def test_what_is_stamped_long_ago_has_one_bucket_and_costs_no_author_anything(
    said: list[tuple[DeviceId, bool, int]],
) -> None:
    machine, without, now, old = AuthorQuota(), AuthorQuota(), 0.0, 0
    for author, is_old, pause in said:
        now += pause / 10
        for _ in range(100):
            if not is_old:
                assert machine.has_some(author, now) == without.has_some(author, now)
                without.spend(author, KIB, now)
            if machine.has_some(author, now, is_old=is_old):
                old += is_old
            elif is_old:
                break
            machine.spend(author, KIB, now, is_old=is_old)
    assert old <= OLD_BURST + OLD_RATE * now


# --- gossip and agreement ---------------------------------------------------------------------------------------


def test_what_is_deferred_is_not_passed_on_not_blamed_and_not_asked_for_but_taken_when_it_comes_again() -> None:
    verdicts = [gossip.Verdict.DEFER, gossip.Verdict.DEFER, gossip.Verdict.ACCEPT]
    machine = gossip.Gossip(Random(1), lambda encoded: encoded, lambda _id, _encoded: verdicts.pop(0))
    for peer in AUTHORS[:2]:
        machine.handle(gossip.LinkUp(peer), 0.0)
    said = bytes(32)
    machine.handle(gossip.Received(AUTHORS[1], gossip.frames.GossipHave(ids=(said,))), 0.0)
    push = gossip.frames.Gossip(hops=1, message=said)
    assert machine.handle(gossip.Received(AUTHORS[0], push), 0.1) == [gossip.Deferred(AUTHORS[0], said)]
    assert machine.next_deadline() is None, "nobody is asked for it"
    assert not machine.knows(said)
    assert machine.handle(gossip.Received(AUTHORS[0], push), 0.2) == [], "that was told just now"
    assert machine.statistics().deferred == 2
    effects = machine.handle(gossip.Received(AUTHORS[1], push), 0.2)
    assert gossip.Deliver(said, said, AUTHORS[1], 1) in effects
    assert [effect.peer for effect in effects if isinstance(effect, gossip.SendFrame)] == [AUTHORS[0]]


def test_whoever_brought_what_was_deferred_is_compared_with_in_a_while_and_only_once_for_all_of_it() -> None:
    agenda = Agenda(Random(1))
    for peer in AUTHORS[:2]:
        agenda.link_up(peer, 0.0, is_due=False)
    for number in range(100):
        agenda.deferred(AUTHORS[1], number / 100)
    assert agenda.next_job(DEFERRED_COMPARE_S - 0.1) is None
    job = agenda.next_job(DEFERRED_COMPARE_S)
    assert job is not None
    assert (job.peer, job.is_regular) == (AUTHORS[1], True)
    assert agenda.next_job(DEFERRED_COMPARE_S + 1) is None


def test_a_neighbour_that_is_gone_is_not_compared_with() -> None:
    machine = agreement.Agreement(
        Random(1), unix_ms=lambda: 0, is_pending=lambda _id: False, is_held=lambda _id: False, known_from=None
    )
    assert machine.handle(agreement.Deferred(AUTHORS[0]), 0.0) == []


# --- simulated pools --------------------------------------------------------------------------------------------


def slowest_s(pool: SimPool, nodes: list[SimNode], said: dict[bytes, float]) -> float:
    """Return how long the slowest of these messages took to the slowest of these nodes."""
    return max(node.delivered_at[msg_id] - at for node in nodes for msg_id, at in said.items())


def test_while_one_member_floods_what_others_say_is_heard_as_ever_and_in_the_end_all_have_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quota, "AUTHOR_BURST", 50.0)
    monkeypatch.setattr(quota, "AUTHOR_RATE", 5.0)
    pool = SimPool(7, 9, conditions=PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02))
    pool.run_for(15.0)
    flooder, *others = pool.nodes
    said: dict[bytes, float] = {}
    for second in range(12):
        for number in range(40):
            pool.publish(flooder, b"flood %d %d" % (second, number))
        speaker = others[second % len(others)]
        said[pool.publish(speaker, b"word %d" % second)] = pool.network.now
        pool.run_for(1.0)
    assert slowest_s(pool, others, said) < 2.0
    taken = [sum(node.hops[msg_id] > 0 for msg_id in node.history) - len(said) for node in others]
    assert max(taken) <= 50 + 5 * 12 + 5, "more of the flood came by gossip than its author's quota"
    assert pool.time_to_agree(pool.nodes, 120.0) <= 120.0
    assert all(len(node.history) == 12 * 41 for node in pool.nodes)
    assert not any(node.misbehaviour for node in pool.nodes)
