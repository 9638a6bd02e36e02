"""RangeSet against a plain set."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poolnet.ranges import Ranges, RangeSet

LIMIT = 60
bounds = st.integers(0, LIMIT)
values = st.sets(st.integers(0, LIMIT - 1), max_size=LIMIT)


def runs_of(numbers: set[int]) -> Ranges:
    """The wire form of a plain set, found the slow way."""
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    stops = sorted(n + 1 for n in numbers if n + 1 not in numbers)
    return tuple(zip(starts, stops, strict=True))


class RangeSetBehavesLikeASet(RuleBasedStateMachine):
    """Every operation on both, then compared in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.real = RangeSet()
        self.model: set[int] = set()

    @rule(start=bounds, stop=bounds)
    def add_range(self, start: int, stop: int) -> None:
        self.real.add_range(start, stop)
        self.model |= set(range(start, stop))

    @rule(start=bounds, stop=bounds)
    def discard_range(self, start: int, stop: int) -> None:
        self.real.discard_range(start, stop)
        self.model -= set(range(start, stop))

    @rule(value=bounds)
    def add(self, value: int) -> None:
        self.real.add(value)
        self.model.add(value)

    @rule(value=bounds)
    def discard(self, value: int) -> None:
        self.real.discard(value)
        self.model.discard(value)

    @rule(other=values, as_ranges=st.booleans())
    def update(self, other: set[int], as_ranges: bool) -> None:
        self.real.update(runs_of(other) if as_ranges else RangeSet.of(other))
        self.model |= other

    @rule(other=values, as_ranges=st.booleans())
    def difference_update(self, other: set[int], as_ranges: bool) -> None:
        self.real.difference_update(runs_of(other) if as_ranges else RangeSet.of(other))
        self.model -= other

    @rule()
    def update_with_itself(self) -> None:
        self.real.update(self.real)

    @rule(other=values)
    def intersection(self, other: set[int]) -> None:
        assert set(self.real.intersection(RangeSet.of(other))) == self.model & other
        self.check_whole(self.real.intersection(runs_of(other)), self.model & other)

    @rule(other=values)
    def difference(self, other: set[int]) -> None:
        self.check_whole(self.real.difference(RangeSet.of(other)), self.model - other)

    @rule(count=st.integers(-1, LIMIT))
    def first(self, count: int) -> None:
        self.check_whole(self.real.first(count), set(sorted(self.model)[: max(0, count)]))

    @rule(start=bounds)
    def from_a_start(self, start: int) -> None:
        rest = {value for value in self.model if value >= start}
        assert tuple(self.real.ranges_from(start)) == runs_of(rest)

    @rule(value=bounds)
    def a_copy_is_independent(self, value: int) -> None:
        copy = self.real.copy()
        copy.add(value)
        copy.discard_range(0, value)

    @invariant()
    def both_are_the_same(self) -> None:
        self.check_whole(self.real, self.model)

    def check_whole(self, real: RangeSet, model: set[int]) -> None:
        assert real.to_ranges() == runs_of(model)
        assert list(real) == sorted(model)
        assert len(real) == len(model)
        assert bool(real) == bool(model)
        assert real == RangeSet.of(model) == RangeSet.from_ranges(runs_of(model))
        assert real.run_count() == len(runs_of(model))
        assert [value in real for value in range(-1, LIMIT + 2)] == [value in model for value in range(-1, LIMIT + 2)]


RangeSetBehavesLikeASet.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestRangeSetBehavesLikeASet = RangeSetBehavesLikeASet.TestCase


@given(st.lists(st.tuples(bounds, bounds)))
def test_ranges_in_any_order_that_touch_and_overlap_make_one_set(pairs: list[tuple[int, int]]) -> None:
    model = {value for start, stop in pairs for value in range(start, stop)}
    assert RangeSet(pairs).to_ranges() == runs_of(model)


def test_a_negative_number_is_refused_and_is_in_no_set() -> None:
    with pytest.raises(ValueError, match="negative"):
        RangeSet().add(-1)
    assert -1 not in RangeSet.up_to(3)
    assert "1" not in RangeSet.up_to(3)


def test_a_set_of_many_numbers_in_one_run_stays_small() -> None:
    numbers = RangeSet.up_to(2**40)
    numbers.discard(2**39)
    assert len(numbers) == 2**40 - 1
    assert numbers.run_count() == 2
    assert repr(RangeSet([(1, 3)])) == "RangeSet([(1, 3)])"


def test_a_range_set_is_not_equal_to_other_things() -> None:
    assert RangeSet.of([1]) != {1}
