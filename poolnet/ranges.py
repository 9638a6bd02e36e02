"""Sets of integers kept as sorted, disjoint, half-open ranges.

Chunks of a file are held, wanted and promised in runs; a set of runs stays small where a set of integers would grow
with the file. All operations cost O(log n) or O(n) in the number of *runs*.

On the wire a set is a tuple of ``(start, stop)`` pairs, ascending, with a gap of at least one between them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

#: Wire and storage form: ascending, disjoint, non-adjacent, ``start < stop``.
Ranges = tuple[tuple[int, int], ...]


class RangeSet:
    """A mutable set of non-negative integers.

    Args:
        ranges: half-open ``(start, stop)`` pairs in any order; they may touch or overlap.
    """

    __slots__ = ("_size", "_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._size = 0
        for start, stop in ranges:
            self.add_range(start, stop)

    @classmethod
    def of(cls, values: Iterable[int]) -> "RangeSet":
        """Return the set of `values`."""
        return cls((value, value + 1) for value in values)

    @classmethod
    def up_to(cls, stop: int) -> "RangeSet":
        """Return {0, …, stop - 1}."""
        return cls([(0, stop)])

    @classmethod
    def from_ranges(cls, ranges: Ranges) -> "RangeSet":
        """Return the set of ranges that are in wire form already, in O(runs)."""
        result = cls()
        result._starts = [start for start, _ in ranges]
        result._stops = [stop for _, stop in ranges]
        result._size = sum(result._stops) - sum(result._starts)
        return result

    def add(self, value: int) -> None:
        """Add one integer."""
        self.add_range(value, value + 1)

    def add_range(self, start: int, stop: int) -> None:
        """Add all integers of ``range(start, stop)``."""
        if start < 0:
            raise ValueError("a RangeSet holds no negative numbers")
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        removed = sum(self._stops[i] - self._starts[i] for i in range(first, last))
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        self._size += stop - start - removed

    def discard(self, value: int) -> None:
        """Remove one integer if it is there."""
        self.discard_range(value, value + 1)

    def discard_range(self, start: int, stop: int) -> None:
        """Remove all integers of ``range(start, stop)``."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        removed = sum(self._stops[i] - self._starts[i] for i in range(first, last))
        kept = [
            (low, high) for low, high in ((self._starts[first], start), (stop, self._stops[last - 1])) if low < high
        ]
        self._starts[first:last] = [low for low, _ in kept]
        self._stops[first:last] = [high for _, high in kept]
        self._size += sum(high - low for low, high in kept) - removed

    def update(self, other: "RangeSet | Ranges") -> None:
        """Add every integer of `other`."""
        for start, stop in _pairs(other):
            self.add_range(start, stop)

    def difference_update(self, other: "RangeSet | Ranges") -> None:
        """Remove every integer of `other`."""
        for start, stop in _pairs(other):
            self.discard_range(start, stop)

    def intersection(self, other: "RangeSet | Ranges") -> "RangeSet":
        """Return the integers that are in both; costs O(runs of the smaller · log, plus the result)."""
        small, large = self, other if isinstance(other, RangeSet) else RangeSet(other)
        if len(large._starts) < len(small._starts):
            small, large = large, small
        result = RangeSet()
        for start, stop in small.ranges():
            index = bisect_right(large._stops, start)
            while index < len(large._starts) and large._starts[index] < stop:
                result._append(max(start, large._starts[index]), min(stop, large._stops[index]))
                index += 1
        return result

    def difference(self, other: "RangeSet | Ranges") -> "RangeSet":
        """Return the integers that are here and not in `other`."""
        result = self.copy()
        result.difference_update(other)
        return result

    def first(self, count: int) -> "RangeSet":
        """Return the `count` smallest integers (fewer if there are fewer)."""
        result = RangeSet()
        for start, stop in self.ranges():
            if count <= 0:
                break
            taken = min(count, stop - start)
            result._append(start, start + taken)
            count -= taken
        return result

    def copy(self) -> "RangeSet":
        """Return an independent copy."""
        result = RangeSet()
        result._starts, result._stops, result._size = self._starts[:], self._stops[:], self._size
        return result

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Iterate over the runs as ascending ``(start, stop)`` pairs."""
        return zip(self._starts, self._stops, strict=True)

    def to_ranges(self) -> Ranges:
        """Return the wire form."""
        return tuple(self.ranges())

    def ranges_from(self, start: int) -> Iterator[tuple[int, int]]:
        """Iterate over the runs of what is at least `start`; finding the first costs O(log runs).

        The set must not be changed meanwhile.
        """
        index = bisect_right(self._stops, start)
        if index < len(self._starts):
            yield max(start, self._starts[index]), self._stops[index]
        for later in range(index + 1, len(self._starts)):
            yield self._starts[later], self._stops[later]

    def run_count(self) -> int:
        """Return the number of runs."""
        return len(self._starts)

    def _append(self, start: int, stop: int) -> None:
        """Add a run that lies after all others, in O(1)."""
        if self._stops and self._stops[-1] == start:
            self._stops[-1] = stop
        else:
            self._starts.append(start)
            self._stops.append(stop)
        self._size += stop - start

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int):
            return False
        index = bisect_right(self._starts, value) - 1
        return index >= 0 and value < self._stops[index]

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.ranges():
            yield from range(start, stop)

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return self._size > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self.ranges())!r})"


def _pairs(source: "RangeSet | Ranges") -> Iterable[tuple[int, int]]:
    return list(source.ranges()) if isinstance(source, RangeSet) else source
