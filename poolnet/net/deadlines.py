"""The deadlines of many things behind one timer.

Most deadlines only ever move later (every packet moves an idle timeout), so a heap entry that turns out to be early is
put back with the real time, instead of being replaced each time the deadline moves.
"""

import heapq
import math
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

#: Entries that are not worth looking through.
_FEW = 32


class Deadlines(Generic[T]):
    """At most one deadline for each item."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._when: dict[T, float] = {}
        self._queued: dict[T, float] = {}
        self._order = count()

    def set(self, item: T, when: float | None) -> None:
        """Set, move or (None) remove the deadline of `item`."""
        if when is None:
            if self._when.pop(item, None) is not None:
                self._forget_removed()
            return
        self._when[item] = when
        if when < self._queued.get(item, math.inf):
            self._queued[item] = when
            heapq.heappush(self._heap, (when, next(self._order), item))

    def next(self) -> float:
        """Return when `due` should be called: the earliest deadline, infinity if there is none."""
        while self._heap:
            queued, _, item = self._heap[0]
            if self._queued.get(item) == queued == self._when.get(item):
                return queued
            heapq.heappop(self._heap)
            if self._queued.get(item) == queued:  # else replaced by an earlier entry, which was popped before
                self._requeue(item)
        return math.inf

    def due(self, now: float) -> list[T]:
        """Return, and remove, the items whose deadline has come."""
        items = []
        while self._heap and self._heap[0][0] <= now:
            queued, _, item = heapq.heappop(self._heap)
            if self._queued.get(item) != queued:
                continue  # replaced by an earlier entry, which was popped before
            if self._when.get(item, math.inf) <= now:
                del self._queued[item], self._when[item]
                items.append(item)
            else:
                self._requeue(item)
        return items

    def _forget_removed(self) -> None:
        """Let go of items without a deadline, when most are; else the heap would hold each until its deadline."""
        if len(self._heap) > 2 * len(self._when) + _FEW:
            self._queued = {item: queued for item, queued in self._queued.items() if item in self._when}
            self._heap = [entry for entry in self._heap if self._queued.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def _requeue(self, item: T) -> None:
        """Replace an entry that was popped by one for the real deadline, if there still is one."""
        del self._queued[item]
        if item in self._when:
            self.set(item, self._when[item])
