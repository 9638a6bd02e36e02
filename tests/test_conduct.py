"""The record of what peers did: what is held against whom, for how long, and what follows."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_BURST,
    COMPLAINT_LIFETIME_S,
    CONDUCT_CHECK_INTERVAL_S,
    CONDUCT_HALF_LIFE_S,
    CONDUCT_MEMORY_S,
    FAULTS_PER_SHUNNING,
    MAX_CONDUCT_RECORDS,
    MAX_SHUN_S,
    MAX_WANT_WINDOW,
    MIN_SHUN_S,
    MIN_WANT_WINDOW,
)
from poolnet.protocol.conduct import Conduct, ConductEffect, CreditChanged, Kind, Noted, Report, Shun, Untold

FAULTS = [kind for kind in Kind if kind.is_fault]
SIGNS = [kind for kind in Kind if not kind.is_fault]


def peer(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


ANN = peer(1)


def note(machine: Conduct, kind: Kind, now: float, *, times: int = 1, who: DeviceId = ANN) -> list[ConductEffect]:
    effects: list[ConductEffect] = []
    for _ in range(times):
        effects += machine.handle(Noted(who, kind), now)
    return effects


def shunnings(effects: list[ConductEffect]) -> list[Shun]:
    return [effect for effect in effects if isinstance(effect, Shun)]


@pytest.mark.parametrize("kind", FAULTS)
def test_the_third_fault_has_a_peer_shunned_and_the_server_told(kind: Kind) -> None:
    machine = Conduct()
    for second in range(FAULTS_PER_SHUNNING - 1):
        assert not shunnings(note(machine, kind, 10.0 + second))
    effects = note(machine, kind, 13.0)
    assert [effect for effect in effects if not isinstance(effect, CreditChanged)] == [
        Shun(ANN, 13.0 + MIN_SHUN_S),
        Report(ANN, kind),
    ]
    assert machine.is_shunned(ANN, 13.0 + MIN_SHUN_S - 1)
    assert not machine.is_shunned(ANN, 13.0 + MIN_SHUN_S)
    assert not machine.is_shunned(peer(2), 13.0)


@pytest.mark.parametrize("kind", SIGNS)
def test_what_an_honest_device_may_show_never_costs_it_a_link(kind: Kind) -> None:
    machine = Conduct()
    effects = note(machine, kind, 1.0, times=1000)
    assert all(isinstance(effect, CreditChanged) for effect in effects)
    assert machine.of(ANN, 1.0).counts == {kind: 1000}  # type: ignore[union-attr]


def test_each_time_a_peer_is_shunned_for_twice_as_long_up_to_a_limit() -> None:
    machine, now, lengths = Conduct(), 0.0, []
    for _ in range(10):
        (shunning,) = shunnings(note(machine, Kind.FLOOD, now, times=FAULTS_PER_SHUNNING))
        lengths.append(shunning.until - now)
        now = shunning.until
    assert lengths == pytest.approx([min(MAX_SHUN_S, MIN_SHUN_S * 2**number) for number in range(10)])


def test_who_comes_back_from_being_shunned_and_does_it_again_is_shunned_at_once() -> None:
    machine = Conduct()
    note(machine, Kind.BAD_CHUNK, 0.0, times=3)
    assert shunnings(note(machine, Kind.BAD_CHUNK, MIN_SHUN_S)) == [Shun(ANN, 3 * MIN_SHUN_S)]


def test_while_a_peer_is_shunned_further_faults_do_not_make_it_longer() -> None:
    machine = Conduct()
    note(machine, Kind.BAD_CHUNK, 0.0, times=3)
    assert not shunnings(note(machine, Kind.BAD_CHUNK, 1.0, times=60))
    # ... and what was on its way then is not held against it for longer than the rest
    assert not shunnings(note(machine, Kind.BAD_CHUNK, MIN_SHUN_S + 3 * CONDUCT_HALF_LIFE_S, times=1))


def test_a_fault_now_and_then_has_nobody_shunned() -> None:
    machine = Conduct()
    for number in range(100):
        assert not shunnings(note(machine, Kind.PROTOCOL, number * CONDUCT_HALF_LIFE_S))


def test_wrong_pieces_and_broken_promises_lower_the_credit_and_time_restores_it() -> None:
    machine = Conduct()
    assert machine.credit_of(ANN) == MAX_WANT_WINDOW
    assert note(machine, Kind.BROKEN_PROMISE, 0.0) == []
    assert note(machine, Kind.BROKEN_PROMISE, 0.0) == [CreditChanged(ANN, MAX_WANT_WINDOW // 2)]
    note(machine, Kind.BAD_CHUNK, 0.0, times=9)
    assert machine.credit_of(ANN) == MIN_WANT_WINDOW
    seen, now = [], 0.0
    while machine.credit_of(ANN) < MAX_WANT_WINDOW:
        due_at = machine.next_deadline()
        assert due_at is not None
        assert due_at > now
        now = due_at
        seen += [effect.pieces for effect in machine.tick(now) if isinstance(effect, CreditChanged)]
    assert seen == [4, 8, 16, 32, 64]
    assert now < 3 * CONDUCT_HALF_LIFE_S


def test_a_wrong_clock_has_nothing_to_do_with_files() -> None:
    machine = Conduct()
    assert note(machine, Kind.CLOCK, 0.0, times=100) == []
    assert machine.credit_of(ANN) == MAX_WANT_WINDOW


def test_a_fault_is_shown_rather_than_a_sign_and_the_latest_of_faults() -> None:
    machine = Conduct()
    for kind, shown in (
        (Kind.CLOCK, Kind.CLOCK),
        (Kind.FLOOD, Kind.FLOOD),
        (Kind.BROKEN_PROMISE, Kind.FLOOD),
        (Kind.PROTOCOL, Kind.PROTOCOL),
    ):
        note(machine, kind, 0.0)
        assert machine.of(ANN, 0.0).kind is shown  # type: ignore[union-attr]


def test_what_is_long_past_is_forgotten() -> None:
    machine = Conduct()
    note(machine, Kind.BAD_CHUNK, 0.0)
    assert machine.of(ANN, CONDUCT_MEMORY_S - 1) is not None
    assert machine.of(ANN, CONDUCT_MEMORY_S) is None
    while (due_at := machine.next_deadline()) is not None:
        machine.tick(due_at)
    assert machine.statistics(CONDUCT_MEMORY_S).peers == 0
    assert machine.statistics(CONDUCT_MEMORY_S).noted == {"bad_chunk": 1}


def test_a_crowd_pushes_out_nobody_who_is_shunned_and_fills_no_memory() -> None:
    machine = Conduct()
    note(machine, Kind.BAD_SIGNATURE, 0.0, times=3)
    for number in range(2, MAX_CONDUCT_RECORDS + 100):
        note(machine, Kind.PROTOCOL, 1.0, who=peer(number))
    assert machine.statistics(1.0).peers == MAX_CONDUCT_RECORDS
    assert machine.is_shunned(ANN, 1.0)


def test_whoever_is_forgotten_for_others_gets_its_credit_back() -> None:
    machine = Conduct()
    note(machine, Kind.BAD_CHUNK, 0.0)
    told: dict[DeviceId, int] = {}
    for number in range(2, 2 + MAX_CONDUCT_RECORDS):
        for effect in note(machine, Kind.BAD_CHUNK, 1.0, who=peer(number)):
            if isinstance(effect, CreditChanged):
                told[effect.peer] = effect.pieces
    assert told[ANN] == MAX_WANT_WINDOW == machine.credit_of(ANN)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(Kind), st.floats(0, 500)), max_size=60),
)
def test_credit_is_what_was_told_last_and_shunning_follows_from_faults_alone(
    steps: list[tuple[int, Kind, float]],
) -> None:
    machine, now = Conduct(), 0.0
    told: dict[DeviceId, int] = {}
    counts: Counter[DeviceId] = Counter()
    for number, kind, wait_s in steps:
        now += wait_s
        effects: list[ConductEffect] = []
        while (due_at := machine.next_deadline()) is not None and due_at <= now:
            effects += machine.tick(due_at)
        who = peer(number)
        counts[who] += kind.is_fault
        effects += machine.handle(Noted(who, kind), now)
        told.update((effect.peer, effect.pieces) for effect in effects if isinstance(effect, CreditChanged))
        for shunning in shunnings(effects):
            assert counts[shunning.peer] >= FAULTS_PER_SHUNNING
            assert now + MIN_SHUN_S <= shunning.until <= now + MAX_SHUN_S
        for other in range(1, 5):
            assert machine.credit_of(peer(other)) == told.get(peer(other), MAX_WANT_WINDOW)
            assert MIN_WANT_WINDOW <= machine.credit_of(peer(other)) <= MAX_WANT_WINDOW


# --- reports that nobody could be told ---------------------------------------------------------------------------


def shun(machine: Conduct, now: float, *, who: DeviceId = ANN, kind: Kind = Kind.BAD_CHUNK) -> None:
    """Have a peer shunned, while no server is there to be told."""
    effects = note(machine, kind, now, times=FAULTS_PER_SHUNNING, who=who)
    assert Report(who, kind) in effects
    assert machine.handle(Untold(who), now) == []


def reports(machine: Conduct, now: float) -> list[Report]:
    return [effect for effect in machine.tick(now) if isinstance(effect, Report)]


def test_what_no_server_was_there_for_is_tried_again_until_it_is_told_and_then_no_more() -> None:
    machine = Conduct()
    shun(machine, 0.0)
    assert reports(machine, CONDUCT_CHECK_INTERVAL_S - 1) == []
    assert machine.next_deadline() == CONDUCT_CHECK_INTERVAL_S
    for number in range(1, 4):
        now = number * CONDUCT_CHECK_INTERVAL_S
        assert reports(machine, now) == [Report(ANN, Kind.BAD_CHUNK)]
        machine.handle(Untold(ANN), now)
    assert reports(machine, 5 * CONDUCT_CHECK_INTERVAL_S) == [Report(ANN, Kind.BAD_CHUNK)]
    assert reports(machine, 6 * CONDUCT_CHECK_INTERVAL_S) == []


def test_of_a_peer_that_goes_on_only_the_last_is_told() -> None:
    machine = Conduct()
    shun(machine, 0.0)
    again_at = MIN_SHUN_S + 1
    assert Report(ANN, Kind.FLOOD) in note(machine, Kind.FLOOD, again_at)
    machine.handle(Untold(ANN), again_at)
    assert reports(machine, again_at + CONDUCT_CHECK_INTERVAL_S) == [Report(ANN, Kind.FLOOD)]
    assert reports(machine, again_at + 3 * CONDUCT_CHECK_INTERVAL_S) == []


def test_what_would_not_count_with_the_server_any_more_is_not_told() -> None:
    machine = Conduct()
    shun(machine, 0.0)
    assert reports(machine, COMPLAINT_LIFETIME_S) == []
    assert reports(machine, COMPLAINT_LIFETIME_S + CONDUCT_CHECK_INTERVAL_S) == []


def test_no_more_is_told_at_once_than_a_server_hears_and_nothing_of_who_is_forgotten() -> None:
    machine = Conduct()
    peers = [peer(number) for number in range(1, 2 * COMPLAINT_BURST)]
    for who in peers:
        shun(machine, 0.0, who=who)
    told: set[DeviceId] = set()
    for number, count in ((1, COMPLAINT_BURST), (2, COMPLAINT_BURST - 1), (3, 0)):
        said = reports(machine, number * CONDUCT_CHECK_INTERVAL_S)
        assert len(said) == count
        told.update(report.peer for report in said)
    assert told == set(peers)
    assert machine.handle(Untold(peer(10_000)), 0.0) == []


def test_when_there_is_more_to_tell_than_a_server_hears_the_gravest_comes_first() -> None:
    machine = Conduct()
    peers = [peer(number) for number in range(1, COMPLAINT_BURST + 3)]
    grave = {peers[0], peers[-1], peers[4]}
    for who in grave:
        shun(machine, 0.0, who=who)
    again_at = MIN_SHUN_S + 1
    for who in peers:
        shun(machine, again_at, who=who)
    first = reports(machine, again_at + CONDUCT_CHECK_INTERVAL_S)
    assert {report.peer for report in first[: len(grave)]} == grave, "they are shunned for longer"
    second = reports(machine, again_at + 2 * CONDUCT_CHECK_INTERVAL_S)
    assert sorted(report.peer for report in first + second) == peers
