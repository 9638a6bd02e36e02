"""Runs of pieces against plain sets and counters."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from poolnet.protocol.piece_runs import CountedRanges, rotated, take, within, without
from poolnet.ranges import RangeSet

numbers = st.frozensets(st.integers(0, 60))
spans = st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def flat(runs: object) -> list[int]:
    return [number for start, stop in runs for number in range(start, stop)]  # type: ignore[attr-defined]


@given(numbers, st.integers(0, 70))
def test_rotated_begins_at_the_cursor_and_wraps(values: frozenset[int], cursor: int) -> None:
    expected = sorted(values, key=lambda value: (value < cursor, value))
    assert flat(rotated(RangeSet.of(values), cursor)) == expected


@given(numbers, numbers)
def test_within_and_without_split_a_set_in_two(values: frozenset[int], other: frozenset[int]) -> None:
    runs = RangeSet.of(values).to_ranges()
    assert flat(within(runs, RangeSet.of(other))) == sorted(values & other)
    assert flat(without(runs, RangeSet.of(other))) == sorted(values - other)


@given(numbers, st.integers(0, 30), st.integers(1, 5))
def test_take_stops_at_both_limits(values: frozenset[int], count: int, max_runs: int) -> None:
    taken = take(RangeSet.of(values).ranges(), count, max_runs=max_runs)
    assert len(taken) <= max_runs
    assert flat(taken) == sorted(values)[: len(flat(taken))]
    assert len(flat(taken)) == min(count, len(values)) or len(taken) == max_runs


@given(st.lists(st.tuples(st.booleans(), spans), max_size=40))
def test_counted_ranges_count_like_a_counter(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    counted, model = CountedRanges(), Counter[int]()
    for is_added, (start, stop) in steps:
        for value in range(start, stop):
            model[value] = max(0, model[value] + (1 if is_added else -1))
        (counted.add_range if is_added else counted.discard_range)(start, stop)
    assert all(counted.count_of(value) == model[value] for value in range(80))
    assert counted.highest == max(model.values(), default=0)
    for count in range(1, 5):
        assert list(counted.at_least(count)) == sorted(value for value, times in model.items() if times >= count)


def test_counting_stops_at_the_limit() -> None:
    counted = CountedRanges(max_count=2)
    for _ in range(5):
        counted.add_range(0, 3)
    assert counted.count_of(1) == 2


def test_levels_that_everything_has_reached_are_dropped() -> None:
    counted = CountedRanges()
    counted.add_range(0, 10)
    counted.add_range(0, 10)
    counted.add_range(3, 5)
    counted.drop_full_levels(10)
    assert [counted.count_of(value) for value in (0, 3, 4, 9)] == [0, 1, 1, 0]


@given(numbers, st.integers(0, 70))
def test_a_set_is_walked_from_anywhere_and_read_back_from_its_wire_form(values: frozenset[int], start: int) -> None:
    numbers_set = RangeSet.of(values)
    assert flat(numbers_set.ranges_from(start)) == sorted(value for value in values if value >= start)
    again = RangeSet.from_ranges(numbers_set.to_ranges())
    assert again == numbers_set
    assert len(again) == len(values)
