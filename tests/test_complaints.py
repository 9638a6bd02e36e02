"""Complaints of neighbours: who is believed, about whom, for how long."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_LIFETIME_S,
    MAX_RING_LINKS,
    MIN_COMPLAINTS,
    REMOVAL_S,
    STRIKE_INTERVAL_S,
    STRIKE_LIFETIME_S,
    STRIKES_PER_REMOVAL,
)
from poolnet.server.complaints import Complaints, Verdict


def device(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


NODE = device(0)


class Case:
    """A node, its neighbours, how many others there are, and whose devices they are (each one's own, unless said)."""

    def __init__(self, *neighbours: int, users: dict[int, str] | None = None, others: int = 100) -> None:
        self.users = {device(number): name.encode() for number, name in (users or {}).items()}
        self.complaints = Complaints(lambda member: self.users.get(member, member))
        self.neighbours = [device(number) for number in neighbours]
        self.others = {device(number) for number in range(1000, 1000 + others)}
        self.now = 0.0

    def say(self, *reporters: int, about: DeviceId = NODE) -> Verdict:
        """Have these complain, one after the other; return what the last one led to."""
        verdict = Verdict.NOTHING
        everyone = {about, *self.neighbours, *self.others}
        for number in reporters:
            assert verdict is Verdict.NOTHING
            verdict = self.complaints.add(device(number), about, self.neighbours, everyone, self.now)
        return verdict


@pytest.mark.parametrize(("neighbours", "needed"), [(3, 3), (4, 3), (5, 3), (6, 4)])
def test_it_takes_more_than_half_of_the_neighbours_and_three_at_least(neighbours: int, needed: int) -> None:
    case = Case(*range(1, neighbours + 1))
    assert case.say(*range(1, needed)) is Verdict.NOTHING
    assert case.say(needed) is Verdict.MOVE


def test_two_neighbours_are_not_believed_even_if_there_are_no_others() -> None:
    case = Case(1, 2)
    assert case.say(1, 2) is Verdict.NOTHING


def test_the_same_neighbour_over_and_over_is_one_voice() -> None:
    case = Case(1, 2, 3)
    for _ in range(100):
        assert case.say(1) is Verdict.NOTHING


def test_who_is_no_neighbour_does_not_count() -> None:
    case = Case(1, 2, 3, 4, 5)
    assert case.say(*range(1000, 1100)) is Verdict.NOTHING
    assert case.say(1, 2) is Verdict.NOTHING


def test_what_was_said_before_one_became_a_neighbour_counts_from_then_on() -> None:
    case = Case(1, 2, 3, 4, 5)
    assert case.say(1000, 1001) is Verdict.NOTHING
    case.neighbours[3:] = [device(1000), device(1001)]
    assert case.say(1) is Verdict.MOVE


def test_who_is_not_in_the_pool_is_not_heard_and_nobody_complains_about_such() -> None:
    case = Case(1, 2, 3)
    assert case.say(0, 10, 11) is Verdict.NOTHING
    case.complaints.add(device(1), device(10), [device(1)], {device(1), NODE}, case.now)
    assert len(case.complaints) == 0


def test_a_former_neighbour_does_not_count_any_more() -> None:
    case = Case(1, 2, 3, 4, 5)
    assert case.say(1, 2) is Verdict.NOTHING
    case.neighbours[0] = device(6)
    assert case.say(3) is Verdict.NOTHING
    assert case.say(4) is Verdict.MOVE


def test_complaints_do_not_count_for_ever() -> None:
    case = Case(1, 2, 3)
    assert case.say(1, 2) is Verdict.NOTHING
    case.now = COMPLAINT_LIFETIME_S
    assert case.say(3) is Verdict.NOTHING
    assert case.say(1, 2) is Verdict.MOVE


def test_devices_of_one_user_are_one_voice_and_only_if_they_agree() -> None:
    case = Case(1, 2, 3, 4, 5, users={1: "eve", 2: "eve", 3: "eve"})
    assert case.say(1, 2, 3) is Verdict.NOTHING
    assert case.say(4) is Verdict.NOTHING
    assert case.say(5) is Verdict.MOVE
    case = Case(1, 2, 3, 4, 5, users={1: "ann", 2: "ann"})
    assert case.say(1, 3, 4) is Verdict.NOTHING  # one of Ann's devices has no complaint
    assert case.say(2) is Verdict.MOVE


def test_other_devices_of_its_user_neither_defend_nor_accuse_a_node() -> None:
    case = Case(1, 2, 3, 4, 5, 6, users={0: "eve", 1: "eve", 2: "eve", 3: "eve"})
    assert case.say(1, 2, 3) is Verdict.NOTHING
    assert case.say(4, 5) is Verdict.NOTHING
    assert case.say(6) is Verdict.MOVE


def test_at_the_third_verdict_a_node_is_out_for_a_while() -> None:
    case = Case()
    for strike in range(STRIKES_PER_REMOVAL):
        assert not case.complaints.is_out(NODE, case.now)
        first = 10 * strike + 1
        case.neighbours = [device(number) for number in range(first, first + 3)]
        is_last = strike == STRIKES_PER_REMOVAL - 1
        case.now += STRIKE_INTERVAL_S
        assert case.say(first, first + 1, first + 2) is (Verdict.REMOVE if is_last else Verdict.MOVE)
    assert case.complaints.is_out(NODE, case.now + REMOVAL_S - 1)
    assert not case.complaints.is_out(NODE, case.now + REMOVAL_S)
    assert not case.complaints.is_out(device(1), case.now)


def test_who_judged_a_node_once_does_not_judge_it_again() -> None:
    case = Case(1, 2, 3)
    assert case.say(1, 2, 3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S
    case.neighbours += [device(4), device(5)]
    for _ in range(10):
        assert case.say(1, 2, 3) is Verdict.NOTHING
    assert case.say(4, 5) is Verdict.NOTHING  # of those who are left these are all, but too few
    case.now = STRIKE_LIFETIME_S
    assert case.say(1, 2, 3) is Verdict.MOVE


def test_who_asked_for_other_places_is_not_believed_for_a_while_and_counts_as_content() -> None:
    case = Case(1, 2, 3, 4, 5)
    assert case.say(1) is Verdict.NOTHING
    for number in (1, 2, 3):
        case.complaints.silence(device(number), case.now)
    assert case.say(1, 2, 3, 4, 5) is Verdict.NOTHING
    case.now += STRIKE_LIFETIME_S
    assert case.say(1, 2, 3) is Verdict.MOVE


def test_who_judged_once_may_do_so_again_if_more_than_half_of_all_in_the_pool_complain() -> None:
    case = Case(1, 2, 3, others=12)
    assert case.say(1, 2, 3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S
    assert case.say(*range(1000, 1005)) is Verdict.NOTHING
    assert case.say(1, 2) is Verdict.NOTHING  # 7 of 15
    assert case.say(1005, 3) is Verdict.MOVE
    assert case.say(*range(1006, 1012)) is Verdict.NOTHING
    case.now += STRIKE_INTERVAL_S
    assert case.say(1, *range(1000, 1012)) is Verdict.NOTHING  # most of all, but not of the neighbours


def test_half_of_all_are_counted_by_voices() -> None:
    case = Case(1, 2, 3, others=12, users=dict.fromkeys(range(1000, 1006), "eve"))
    assert case.say(1, 2, 3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S
    assert case.say(*range(1000, 1006), 1, 2, 3) is Verdict.NOTHING
    assert case.say(1006) is Verdict.NOTHING  # 10 of 15 nodes, and 5 of 10 voices
    assert case.say(1007) is Verdict.MOVE


def test_in_a_full_mesh_where_there_are_no_others_the_same_may_judge_again() -> None:
    case = Case(1, 2, 3, 4, others=0)
    for expected in [Verdict.MOVE] * (STRIKES_PER_REMOVAL - 1) + [Verdict.REMOVE]:
        case.now += STRIKE_INTERVAL_S
        assert case.say(1, 2, 3) is expected


def test_who_agree_for_a_moment_give_a_node_one_strike_and_no_more() -> None:
    case = Case(1, 2, 3, others=0)  # the others are not there yet
    assert case.say(1, 2, 3) is Verdict.MOVE
    for _ in range(20):
        case.now += STRIKE_INTERVAL_S / 21
        assert case.say(1, 2, 3) is Verdict.NOTHING
    case.neighbours += [device(number) for number in (4, 5, 6)]
    case.now += STRIKE_INTERVAL_S
    assert case.say(1, 2, 3) is Verdict.NOTHING


def test_what_is_said_soon_after_a_verdict_counts_for_the_next() -> None:
    case = Case(1, 2, 3, others=0)
    assert case.say(1, 2, 3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S - 1
    assert case.say(1, 2) is Verdict.NOTHING
    case.now += 1
    assert case.say(3) is Verdict.MOVE


def test_verdicts_are_forgotten_after_a_while() -> None:
    case = Case(1, 2, 3, others=0)
    for _ in range(5):
        assert case.say(1, 2, 3) is Verdict.MOVE
        case.now += STRIKE_LIFETIME_S / (STRIKES_PER_REMOVAL - 1)


def test_a_node_that_comes_back_is_judged_by_old_complaints_and_verdicts() -> None:
    case = Case(1, 2, 3, others=0)
    assert case.say(1, 2, 3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S
    assert case.say(1, 2) is Verdict.NOTHING
    assert case.complaints.add(device(3), NODE, (), set(case.neighbours), case.now) is Verdict.NOTHING  # it is away
    assert case.say(3) is Verdict.MOVE
    case.now += STRIKE_INTERVAL_S
    assert case.say(1, 2, 3) is Verdict.REMOVE


def test_the_tables_do_not_grow_with_complaints_that_are_over() -> None:
    case = Case(1, 2, 3, 4, 5, 6)
    for number in range(20_000):
        case.now += 10
        case.say(1 + number % 3, about=device(100 + number))
    assert len(case.complaints) < 1000
    for number in range(20_000):
        case.now += 10
        case.others = {device(1000 + number)}
        case.say(1000 + number)
    assert len(case.complaints) < 1000


@given(st.integers(0, 2**32), st.integers(3, 3 * MAX_RING_LINKS), st.integers(0, 2))
def test_false_words_of_a_minority_change_nothing(seed: int, neighbours: int, too_few: int) -> None:
    rng = Random(seed)
    case = Case(*range(1, neighbours + 1))
    liars = max(1, (neighbours // 2 if neighbours >= 2 * MIN_COMPLAINTS else MIN_COMPLAINTS - 1) - too_few)
    for _ in range(200):
        case.now += rng.uniform(0, 100)
        assert case.say(rng.randint(1, liars)) is Verdict.NOTHING
