"""A view of the history somewhere else than at its end: opened at a message or a time, paged both ways, and left again.

It holds at most `MAX_HISTORY_PAGES` pages: whoever pages on loses what is farthest away. The live feed goes on
meanwhile; when both overlap (`has_met`) an interface can switch back to it without anything on the screen moving.

Invariant: between `_lower` and `_upper` the view holds every message that people read, as far as this device has them
and `apply` was told of what changed. Each method decides after it has read: one that is cancelled changed nothing.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import attrs
import trio

from poolnet.events import EventsDropped, MessageRetracted, NodeRenamed, PoolEvent
from poolnet.ids import MsgId
from poolnet.limits import MAX_HEARD_WHILE_READING, MAX_HISTORY_PAGES, MIN_FEED_OVERLAP
from poolnet.message_db import nobody
from poolnet.views.entries import (
    HistoryEntry,
    NameOf,
    WasAdmin,
    entry_of_event,
    place_after,
    place_of_time,
)
from poolnet.views.feed import Feed, FeedChange
from poolnet.views.pages import EntryPages, MessageSource
from poolnet.views.timeline import Timeline
from poolnet.wire.message import MessageKey

_T = TypeVar("_T")


@attrs.define(kw_only=True)
class _Heard:
    """Messages that were stored while a page was read, which may lack them."""

    entries: list[HistoryEntry] = attrs.field(factory=list)
    is_all: bool = True

    def add(self, entry: HistoryEntry) -> None:
        self.is_all = self.is_all and len(self.entries) < MAX_HEARD_WHILE_READING
        if self.is_all:
            self.entries.append(entry)


class History:
    """Pages of a pool's history. Events may be applied while a page is read, by another task.

    Args:
        db: the database of a pool; if the pool is joined, `older` lets neighbours fill what is missing here.
        was_admin: whose announcements count; without it none is shown.
        name_of: what devices are called; without it, by the names in the history.
    """

    def __init__(self, db: MessageSource, *, was_admin: WasAdmin = nobody, name_of: NameOf | None = None) -> None:
        self._pages = EntryPages(db, was_admin=was_admin, name_of=name_of)
        self._timeline = Timeline()
        self._page_size = 0  # 0: not open
        self._lower: MessageKey | None = None  # None: the beginning of the history
        self._upper: MessageKey | None = None  # None: its end
        self._is_stale = False
        self._heard: _Heard | None = None  # while a page is read
        self._times_left = 0
        self._reading = trio.Lock()

    # --- what to show -------------------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[HistoryEntry, ...]:
        """The messages held, oldest first; none unless it is open."""
        return tuple(self._timeline)

    @property
    def is_open(self) -> bool:
        """Whether the view is somewhere in the history: since `open_at`, until `latest`."""
        return self._page_size > 0

    @property
    def is_at_start(self) -> bool:
        """Whether this device has nothing older. Its neighbours may: `older` asks them."""
        return self.is_open and self._lower is None

    @property
    def is_at_end(self) -> bool:
        """Whether there is nothing newer."""
        return self.is_open and self._upper is None

    @property
    def is_stale(self) -> bool:
        """Whether events were missed; `refresh` reads again."""
        return self._is_stale

    def has_met(self, feed: Feed) -> bool:
        """Return whether the newest messages held here are in the feed: `MIN_FEED_OVERLAP`, or all of either."""
        if not self.is_open:
            return False
        if feed.oldest_key is None:
            return self.is_at_end
        common = len(self._timeline) - self._timeline.index(feed.oldest_key)
        needed = min(MIN_FEED_OVERLAP, len(feed.messages), len(self._timeline))
        return common >= needed and (common > 0 or self.is_at_end)

    # --- moving -------------------------------------------------------------------------------------------------

    async def open_at(self, at: MsgId | int, page_size: int) -> None:
        """Go to a message, or to a time in milliseconds since 1970: a page with that in the middle.

        `latest` in the meantime has the last word: then the view stays closed.

        Raises:
            UnknownMessage: the message is not in this history.
            StoreError: the database failed.
        """
        if page_size < 1:
            raise ValueError("a page holds at least one message")
        async with self._reading:
            place = place_of_time(at) if isinstance(at, int) else place_after(await self._pages.key_of(at))
            await self._open_around(place, page_size, page_size=page_size)

    async def older(self) -> int:
        """Add the page before; return how many messages are held now before those that were: 0 at the beginning.

        Raises:
            StoreError: the database failed.
        """
        async with self._reading:
            if not self.is_open:
                return 0
            found = await self._read(self._read_older)
            if found is None:
                return 0
            (place, page), heard = found
            if self._lower is not None:
                self._lower = page[0].key if len(page) >= self._page_size else None
            self._put([*page, *heard])
            added = len(self._timeline) if place is None else self._timeline.index(place)
            self._drop_newest()
            return added

    async def newer(self) -> int:
        """Add the page after; return how many messages are held now after those that were: 0 at the end.

        Raises:
            StoreError: the database failed.
        """
        async with self._reading:
            if not self.is_open or self._upper is None:
                return 0
            found = await self._read(self._read_newer)
            if found is None:
                return 0
            (place, page), heard = found
            self._upper = place_after(page[-1].key) if len(page) >= self._page_size else None
            self._put([*page, *heard])
            added = len(self._timeline) - self._timeline.index(place)
            self._drop_oldest()
            return added

    async def refresh(self) -> None:
        """Read again what is held, from its middle on: after events were missed.

        Raises:
            StoreError: the database failed.
        """
        async with self._reading:
            if not self.is_open:
                return
            held = self.entries
            place = place_after(held[len(held) // 2].key) if held else self._lower or place_of_time(0)
            await self._open_around(place, max(len(held), self._page_size), page_size=self._page_size)

    def latest(self) -> None:
        """Leave the history for the feed: drop all that is held, and a page that is being read."""
        self._timeline.clear()
        self._page_size = 0
        self._lower = self._upper = None
        self._is_stale = False
        self._times_left += 1

    # --- events -------------------------------------------------------------------------------------------------

    def apply(self, event: PoolEvent) -> FeedChange | None:
        """Take an event of the pool; return what it changed, None if nothing that is shown."""
        match event:
            case MessageRetracted(msg_id=msg_id):
                removed = self._timeline.retract(msg_id)
                return None if removed is None else FeedChange(removed=removed)
            case NodeRenamed(node=node, name=name):
                return FeedChange() if self._timeline.rename(node, name) else None
            case EventsDropped():
                self._is_stale = self.is_open
                if self._heard is not None:
                    self._heard.is_all = False
                return None
            case _:
                entry = entry_of_event(event)
                return None if entry is None else self._add(entry)

    def _add(self, entry: HistoryEntry) -> FeedChange | None:
        if self._heard is not None:
            self._heard.add(entry)
        if not self._put([entry]):
            return None
        if 2 * self._timeline.index(entry.key) >= len(self._timeline):
            self._drop_newest()
        else:
            self._drop_oldest()
        return FeedChange(added=entry) if self._timeline.holds(entry) else None

    # --- inside -------------------------------------------------------------------------------------------------

    async def _read_older(self) -> tuple[MessageKey | None, list[HistoryEntry]]:
        place = self._lower or self._timeline.oldest_key or self._upper
        return place, await self._pages.before(place, self._page_size, fetch=True)

    async def _read_newer(self) -> tuple[MessageKey, list[HistoryEntry]]:
        assert self._upper is not None
        return self._upper, await self._pages.after(self._upper, self._page_size)

    async def _open_around(self, place: MessageKey, count: int, *, page_size: int) -> None:
        later_count = count // 2
        earlier_count = count - later_count
        found = await self._read(lambda: self._pages.around(place, earlier_count, later_count))
        if found is None:
            return
        (earlier, later), heard = found
        self._timeline.clear()
        self._page_size = page_size
        self._is_stale = False
        self._lower = earlier[0].key if len(earlier) >= earlier_count else None
        self._upper = place_after(later[-1].key if later else place) if len(later) >= later_count else None
        self._put([*earlier, *later, *heard])
        self._drop_newest()

    async def _read(self, read: Callable[[], Awaitable[_T]]) -> tuple[_T, list[HistoryEntry]] | None:
        """Read, and return also what was heard of meanwhile; None if the view was left meanwhile.

        Where the view begins and ends may change while it reads, by what is applied. Then the page does not fit any
        more, and is read again.
        """
        left = self._times_left
        while True:
            bounds = (self._lower, self._upper)
            heard = self._heard = _Heard()
            try:
                page = await read()
            finally:
                self._heard = None
            if self._times_left != left:
                return None
            if heard.is_all and (self._lower, self._upper) == bounds:
                return page, heard.entries

    def _put(self, entries: Iterable[HistoryEntry]) -> bool:
        """Take those of `entries` that lie within the view; return whether one is new."""
        is_new = False
        for entry in entries:
            is_new |= self._covers(entry.key) and self._timeline.add(entry)
        return is_new

    def _covers(self, key: MessageKey) -> bool:
        return (
            self.is_open and (self._lower is None or key >= self._lower) and (self._upper is None or key < self._upper)
        )

    def _drop_newest(self) -> None:
        if (excess := self._excess()) > 0:
            self._timeline.drop_newest(excess)
            newest = self._timeline.newest_key
            self._upper = None if newest is None else place_after(newest)

    def _drop_oldest(self) -> None:
        if (excess := self._excess()) > 0:
            self._timeline.drop_oldest(excess)
            self._lower = self._timeline.oldest_key

    def _excess(self) -> int:
        return len(self._timeline) - MAX_HISTORY_PAGES * self._page_size
