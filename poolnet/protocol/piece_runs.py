"""Lazy arithmetic on runs of pieces, and sets that count.

A want looks for a few pieces among many: the generators here walk over range sets from a starting point and stop as
soon as enough is found, so that choosing costs by what is chosen and not by the size of the file.

`CountedRanges` says how often each piece was counted (how many neighbours hold it, how often it was sent) and is kept
as one range set a level: level k holds what was counted at least k times. So memory goes with runs here, too.
"""

from collections.abc import Iterable, Iterator

from poolnet.ranges import RangeSet

Run = tuple[int, int]
_NOTHING = RangeSet()


def rotated(source: RangeSet, start: int) -> Iterator[Run]:
    """Yield the runs of `source` from `start` upwards, then those below `start`."""
    yield from source.ranges_from(start)
    for low, high in source.ranges():
        if low >= start:
            return
        yield low, min(high, start)


def within(runs: Iterable[Run], other: RangeSet) -> Iterator[Run]:
    """Yield those parts of `runs` that are in `other`."""
    for start, stop in runs:
        for low, high in other.ranges_from(start):
            if low >= stop:
                break
            yield low, min(high, stop)


def without(runs: Iterable[Run], other: RangeSet) -> Iterator[Run]:
    """Yield those parts of `runs` that are not in `other`."""
    for start, stop in runs:
        for low, high in other.ranges_from(start):
            if low >= stop:
                break
            if start < low:
                yield start, low
            start = high
            if start >= stop:
                break
        if start < stop:
            yield start, stop


def take(runs: Iterable[Run], count: int, *, max_runs: int) -> list[Run]:
    """Return `runs` up to `count` pieces and `max_runs` runs, in the order given."""
    taken: list[Run] = []
    for start, stop in runs:
        if count <= 0 or len(taken) >= max_runs:
            break
        stop = min(stop, start + count)
        taken.append((start, stop))
        count -= stop - start
    return taken


class CountedRanges:
    """How often each of many integers was counted.

    Args:
        max_count: counting stops there; what is counted more often looks the same.
    """

    __slots__ = ("_levels", "_max_count")

    def __init__(self, *, max_count: int = 32) -> None:
        self._levels: list[RangeSet] = []  # _levels[k]: counted more than k times
        self._max_count = max_count

    def add_range(self, start: int, stop: int) -> None:
        """Count every integer of ``range(start, stop)`` once more."""
        pending = [(start, stop)] if start < stop else []
        for level in self._levels:
            counted_already = list(within(pending, level))
            for run in pending:
                level.add_range(*run)
            pending = counted_already
            if not pending:
                return
        if pending and len(self._levels) < self._max_count:
            self._levels.append(RangeSet(pending))

    def discard_range(self, start: int, stop: int) -> None:
        """Count every integer of ``range(start, stop)`` once less, where it was counted."""
        pending = [(start, stop)]
        for level in reversed(self._levels):
            found = RangeSet(within(pending, level))
            level.difference_update(found)
            pending = list(without(pending, found))
        while self._levels and not self._levels[-1]:
            self._levels.pop()

    def drop_full_levels(self, size: int) -> None:
        """If all of ``range(size)`` was counted at least k times, count everything k times less."""
        while self._levels and len(self._levels[0]) >= size:
            del self._levels[0]

    def at_least(self, count: int) -> RangeSet:
        """Return what was counted `count` (≥ 1) times or more; not to be changed."""
        return self._levels[count - 1] if count <= len(self._levels) else _NOTHING

    def count_of(self, value: int) -> int:
        """Return how often one integer was counted."""
        count = len(self._levels)
        while count and value not in self._levels[count - 1]:
            count -= 1
        return count

    @property
    def highest(self) -> int:
        """The highest count of any integer."""
        return len(self._levels)
