"""Events from a service to whoever subscribes: publishing never waits, and a slow subscriber bounds only itself.

Every subscriber has a queue of its own. One that lags loses what does not fit and is told how much, at the place where
it is missing, by `EventsDropped`. Where there is much to be told that is in no hurry, such as an old history that is
fetched, its source waits for `room` meanwhile; not for those who do not read at all.
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import attrs
import trio

from poolnet.events import EventsDropped
from poolnet.limits import MAX_QUEUED_EVENTS

E = TypeVar("E")

#: A subscriber whose queue is fuller than that share waits for room before more is told that is in no hurry.
_ROOMY = 1 / 4
#: Who has taken nothing for so long does not read.
_STALLED_S = 1.0


@attrs.frozen(kw_only=True)
class EventStatistics:
    """Subscribers now; events published, and dropped at slow subscribers; the longest queue there was."""

    subscribers: int
    published: int
    dropped: int
    peak_queued: int


class EventStream(Generic[E]):
    """Passes on every published event to all who are subscribed at that moment.

    Args:
        max_queued: events that one subscriber may lag behind.
        keep_for_first: whether what happens before anybody has subscribed is kept for the first who does, so that a
            program misses nothing between opening a service and listening to it.
    """

    def __init__(self, *, max_queued: int = MAX_QUEUED_EVENTS, keep_for_first: bool = False) -> None:
        self._max_queued = max_queued
        self._first = _Subscription[E](max_queued) if keep_for_first else None
        self._subscriptions: dict[_Subscription[E], None] = {} if self._first is None else {self._first: None}
        self._is_closed = False
        self._published = 0
        self._dropped = 0
        self._peak_queued = 0

    def publish(self, event: E) -> None:
        """Give `event` to every subscriber. Never waits, never fails; after `close` it does nothing."""
        if self._is_closed:
            return
        self._published += 1
        for subscription in self._subscriptions:
            if subscription.put(event):
                self._peak_queued = max(self._peak_queued, subscription.queued)
            else:
                self._dropped += 1

    async def room(self) -> None:
        """Return when all subscribers have room for many more events, except those who do not read."""
        for subscription in tuple(self._subscriptions):
            await subscription.room()

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[E | EventsDropped]]:
        """Yield an iterator over the events published from now on; it ends when the service closes."""
        subscription, self._first = self._first or _Subscription[E](self._max_queued), None
        self._subscriptions[subscription] = None
        if self._is_closed:
            subscription.close()
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]
            subscription.abandon()

    def close(self) -> None:
        """End every subscription after the events that it has queued."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def statistics(self) -> EventStatistics:
        """Return counts since the stream was made."""
        return EventStatistics(
            subscribers=len(self._subscriptions) - (self._first is not None),
            published=self._published,
            dropped=self._dropped,
            peak_queued=self._peak_queued,
        )


class _Subscription(Generic[E]):
    """One subscriber's queue: events, and counts of those missing between them."""

    def __init__(self, max_queued: int) -> None:
        self._max_queued = max_queued
        self._queue: deque[E | EventsDropped] = deque()
        self._missing = 0
        self._has_room = trio.Event()
        self._taken = 0
        self._is_read = False
        # Carries no events, only "there is something"; one token is enough.
        self._wake_send, self._wake = trio.open_memory_channel[None](1)
        self._is_closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    def put(self, event: E) -> bool:
        """Queue an event; return False if there is no room (it is counted)."""
        if len(self._queue) >= self._max_queued:
            self._missing += 1
            return False
        self._flush_missing()
        self._queue.append(event)
        self._notify()
        return True

    async def room(self) -> None:
        while self._is_read and not self._is_roomy():
            if self._has_room.is_set():
                self._has_room = trio.Event()
            taken = self._taken
            with trio.move_on_after(_STALLED_S):
                await self._has_room.wait()
            self._is_read = self._taken > taken

    def abandon(self) -> None:
        self._is_read = False
        self._has_room.set()

    def _is_roomy(self) -> bool:
        return len(self._queue) <= self._max_queued * _ROOMY

    def close(self) -> None:
        self._is_closed = True
        self._notify()

    def _flush_missing(self) -> None:
        if self._missing:
            self._queue.append(EventsDropped(count=self._missing))
            self._missing = 0

    def _notify(self) -> None:
        with contextlib.suppress(trio.WouldBlock):
            self._wake_send.send_nowait(None)

    def __aiter__(self) -> "_Subscription[E]":
        return self

    async def __anext__(self) -> E | EventsDropped:
        while not self._queue:
            if self._missing:
                self._flush_missing()
            elif self._is_closed:
                raise StopAsyncIteration
            else:
                await self._wake.receive()
        await trio.lowlevel.checkpoint_if_cancelled()
        event = self._queue.popleft()
        self._taken += 1
        self._is_read = True
        if self._is_roomy():
            self._has_room.set()
        return event
