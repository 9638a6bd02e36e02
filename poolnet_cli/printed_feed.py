"""What to print of a pool's `Feed` when lines that were printed stay where they are. Pure; time comes in.

A message that is new is printed at once. One that has its place before what was printed comes late: late ones are
gathered for a moment, then the feed is printed again from the first of them on, so that they are seen where they
belong. One that is late by a moment only is printed at the end, marked. Older messages that arrive in bulk (this device
was away) are gathered as well, so that they come out in order. What belongs above the whole window is only counted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from poolnet import Feed, HistoryEntry, MsgId, PoolEvent
from poolnet.clock import Hlc
from poolnet.events import AnnouncementReceived, FileOffered, MessageReceived, MessageRetracted, UnknownMessageReceived

#: How long to wait for more, once there is something that did not come as it was said.
GATHER_S: Final = 0.3
#: What is not older than this comes as it was said; what is not later than this need not be seen in its place.
FRESH_MS: Final = 2000

Key = tuple[Hlc, MsgId]


@attrs.frozen(kw_only=True)
class Printout:
    """What to print now, oldest first.

    Attributes:
        is_again: some of it stands above already; it is printed again because some came late.
        further_up: how many messages came that belong above everything that the window holds.
    """

    entries: tuple[HistoryEntry, ...] = ()
    is_again: bool = False
    further_up: int = 0


class PrintedFeed:
    """Decides what is printed. One task owns it.

    Args:
        size: messages in the window: as many as fit on the screen.
    """

    def __init__(self, size: int) -> None:
        self.feed = Feed(size)
        self._waiting: dict[MsgId, HistoryEntry] = {}
        self._late: set[MsgId] = set()
        self._further_up = 0
        self._newest: HistoryEntry | None = None  # of those that were printed
        self._due_at: float | None = None

    @property
    def due_at(self) -> float:
        """When `flush` has something to print, by the clock of `apply`; infinite if nothing waits."""
        return float("inf") if self._due_at is None else self._due_at

    def load(self, entries: Sequence[HistoryEntry], announcement: HistoryEntry | None, now: float) -> None:
        """Give what `Feed.load` takes, when the feed wants it. What of it is new is due at once."""
        known = {entry.msg_id for entry in self.feed.messages}
        oldest = self.feed.oldest_key
        self.feed.load(entries, announcement)
        for entry in self.feed.messages:
            is_above = oldest is not None and entry.key < oldest  # makes the window full again, and is no news
            is_before_all = self._newest is None or entry.key > self._newest.key
            if entry.msg_id not in known and (is_before_all or (oldest is not None and not is_above)):
                self._wait(entry, now)

    def apply(self, event: PoolEvent, *, now: float, unix_ms: int) -> Printout | None:
        """Take an event; return what to print at once.

        Args:
            now: a clock for `due_at`.
            unix_ms: what time it is.
        """
        change = self.feed.apply(event)
        if isinstance(event, MessageRetracted):
            self._waiting.pop(event.msg_id, None)
            return None
        added = None if change is None else change.added
        if not isinstance(added, HistoryEntry):
            self._count_further_up(event, now)
            return None
        is_late = self._newest is not None and added.key < self._newest.key
        if is_late:
            self._late.add(added.msg_id)
        if self._waiting or not self._is_as_said(added, unix_ms, is_late=is_late):
            self._wait(added, now + GATHER_S)
            return None
        return self._print([added])

    def flush(self) -> Printout | None:
        """Return what was gathered."""
        waiting = sorted(self._waiting.values(), key=lambda entry: entry.key)
        further_up, self._further_up, self._due_at = self._further_up, 0, None
        self._waiting.clear()
        if not waiting and not further_up:
            return None
        if not any(entry.msg_id in self._late for entry in waiting):
            return self._print(waiting, further_up=further_up)
        first = min(entry.key for entry in waiting if entry.msg_id in self._late)
        again = [entry for entry in self.feed.messages if entry.key >= first]
        unseen = {entry.msg_id for entry in waiting}.difference(entry.msg_id for entry in again)
        return self._print(again, is_again=True, further_up=further_up + len(unseen))

    # --- inside -------------------------------------------------------------------------------------------------

    def _is_as_said(self, entry: HistoryEntry, unix_ms: int, *, is_late: bool) -> bool:
        """Return whether an entry came as it was said, or so little later that nobody minds where it stands."""
        if is_late and self._newest is not None:
            return self._newest.unix_ms - entry.unix_ms < FRESH_MS
        return unix_ms - entry.unix_ms < FRESH_MS

    def _wait(self, entry: HistoryEntry, due_at: float) -> None:
        self._waiting[entry.msg_id] = entry
        self._due_at = min(self.due_at, due_at)

    def _count_further_up(self, event: PoolEvent, now: float) -> None:
        """Take note of a message that belongs above the window."""
        match event:
            case MessageReceived(key=key) | AnnouncementReceived(key=key) | UnknownMessageReceived(key=key):
                place: Key | None = key
            case FileOffered(key=key):
                place = key
            case _:
                return
        oldest = self.feed.oldest_key
        if place is not None and oldest is not None and place < oldest:
            self._further_up += 1
            self._due_at = min(self.due_at, now + GATHER_S)

    def _print(self, entries: Iterable[HistoryEntry], *, is_again: bool = False, further_up: int = 0) -> Printout:
        marked = tuple(attrs.evolve(entry, is_late=entry.msg_id in self._late) for entry in entries)
        for entry in marked:
            if self._newest is None or entry.key > self._newest.key:
                self._newest = entry
        self._late.intersection_update(entry.msg_id for entry in self.feed.messages)
        return Printout(entries=marked, is_again=is_again, further_up=further_up)
