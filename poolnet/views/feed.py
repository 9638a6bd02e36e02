"""The live view of a pool: a bounded window of the newest messages, with notices of who came and left between them.

Pure: events go in, `entries` is what to show. The window holds the newest `size` messages that people read, in the
order of the pool: one that comes late is put in its place and marked, one that was retracted is taken out. Notices come
on top of that, at most one between two messages, so they never push a message out, and there are never more than
``2 * size + 1`` entries.

Invariant: the window has no holes. It holds every message from a place on, `_floor` (None: every message), that was
loaded or heard of; what belongs before that place is for a `History`. After a retraction the window may be short;
then, as at the beginning, `wants_load` asks for the newest entries of the history.
"""

from collections.abc import Sequence

import attrs

from poolnet.events import EventsDropped, MessageRetracted, NodeJoined, NodeLeft, NodeRenamed, PoolEvent
from poolnet.ids import MsgId
from poolnet.views.entries import HistoryEntry, entry_of_event
from poolnet.views.notices import Notice, NoticeTally, Passing
from poolnet.views.timeline import Timeline
from poolnet.wire.bodies import AnnouncementBody
from poolnet.wire.message import MessageKey

FeedEntry = HistoryEntry | Notice


@attrs.frozen(kw_only=True)
class FeedChange:
    """What one event changed in a view: an entry that is there now, one that is not any more, or both if it changed.

    Entries that a new one pushed out are not told of. Names of other entries may have changed as well.
    """

    added: FeedEntry | None = None
    removed: FeedEntry | None = None
    is_pin_changed: bool = False


class Feed:
    """The newest messages of a pool as they come. All entries come oldest first.

    One task owns a feed: it applies the events of one subscription in their order, and loads between them. What happens
    while it reads waits in the subscription::

        async with pool.subscribe() as events:
            feed = Feed(size)
            while True:
                if feed.wants_load:
                    feed.load(await reader.latest(feed.size), await reader.announcement())
                show(feed.pinned, feed.entries)
                feed.apply(await anext(events))

    Args:
        size: messages in the window, at least one: as many as fit on the screen.
    """

    def __init__(self, size: int) -> None:
        self._size = _checked(size)
        self._timeline = Timeline()
        self._floor: MessageKey | None = None
        self._notices: dict[MessageKey | None, NoticeTally] = {}  # by the message before it; None: before all
        self._pinned: HistoryEntry | None = None
        self._unsure: set[MsgId] = set()  # what was here when events were dropped: it may have been retracted since
        self._is_stale = True

    @property
    def size(self) -> int:
        """How many messages the window holds at most."""
        return self._size

    @property
    def entries(self) -> tuple[FeedEntry, ...]:
        """What to show: messages, and notices between them."""
        shown: list[FeedEntry | None] = [self._notice_at(None)]
        for entry in self._timeline:
            shown += (entry, self._notice_at(entry.key))
        return tuple(entry for entry in shown if entry is not None)

    @property
    def messages(self) -> tuple[HistoryEntry, ...]:
        """The messages in the window, without notices."""
        return tuple(self._timeline)

    @property
    def pinned(self) -> HistoryEntry | None:
        """The announcement that counts, the latest in the order of the pool; it need not be in the window."""
        return self._pinned

    @property
    def is_full(self) -> bool:
        """Whether the window holds `size` messages."""
        return len(self._timeline) >= self._size

    @property
    def oldest_key(self) -> MessageKey | None:
        """The place of the oldest message in the window; None if there is none."""
        return self._timeline.oldest_key

    @property
    def newest_key(self) -> MessageKey | None:
        """The place of the newest message in the window; None if there is none."""
        return self._timeline.newest_key

    @property
    def wants_load(self) -> bool:
        """Whether the history may hold messages that belong into the window, or an announcement: `load` them."""
        return self._is_stale or (not self.is_full and self._floor is not None)

    def load(self, entries: Sequence[HistoryEntry], announcement: HistoryEntry | None = None) -> None:
        """Take the newest entries of the history.

        Args:
            entries: the newest `size`, or all if there are fewer, as the history has them after all events that were
                applied.
            announcement: the latest one of the whole history, if there is one.
        """
        loaded = {entry.msg_id for entry in entries}
        for msg_id in self._unsure - loaded:
            self._discard(msg_id)
        first = self._timeline.oldest_key
        for entry in entries:
            self._timeline.add(entry)
        self._settle_notice(first)
        self._floor = entries[0].key if len(entries) >= self._size else None
        self._cut()
        if self._pinned is not None and self._pinned.msg_id in self._unsure:
            self._pinned = None
        for entry in [*([announcement] if announcement else []), *self._timeline]:
            self._pin(entry)
        self._unsure.clear()
        self._is_stale = False

    def apply(self, event: PoolEvent) -> FeedChange | None:
        """Take an event of the pool; return what it changed, None if nothing that is shown."""
        match event:
            case NodeJoined() | NodeLeft() | NodeRenamed():
                return self._pass(event)
            case MessageRetracted(msg_id=msg_id):
                return self._retract(msg_id)
            case EventsDropped():
                self._unsure.update(entry.msg_id for entry in self._timeline)
                self._unsure.update([self._pinned.msg_id] if self._pinned else [])
                self._is_stale = True
                return None
            case _:
                entry = entry_of_event(event)
                return None if entry is None else self._add(entry)

    def resize(self, size: int) -> None:
        """Hold `size` messages from now on; if these are more than before, `wants_load` may ask for them."""
        self._size = _checked(size)
        self._cut()

    # --- messages -----------------------------------------------------------------------------------------------

    def _add(self, entry: HistoryEntry) -> FeedChange | None:
        is_pin_changed = self._pin(entry)
        is_shown = (self._floor is None or entry.key >= self._floor) and self._timeline.add(entry)
        if is_shown:
            self._cut()
            is_shown = self._timeline.holds(entry)
        if not is_shown and not is_pin_changed:
            return None
        return FeedChange(added=entry if is_shown else None, is_pin_changed=is_pin_changed)

    def _retract(self, msg_id: MsgId) -> FeedChange | None:
        is_pinned = self._pinned is not None and self._pinned.msg_id == msg_id
        removed = self._discard(msg_id)
        self._timeline.retract(msg_id)
        if is_pinned:
            self._pinned = None
            self._is_stale = True  # which one was before it, only the history knows for sure
            for entry in self._timeline:
                self._pin(entry)
        return FeedChange(removed=removed, is_pin_changed=is_pinned) if removed or is_pinned else None

    def _discard(self, msg_id: MsgId) -> HistoryEntry | None:
        entry = self._timeline.discard(msg_id)
        if entry is not None and (notice := self._notices.pop(entry.key, None)) is not None:
            self._place_notice(self._timeline.key_before(entry.key), notice)
        return entry

    def _pin(self, entry: HistoryEntry) -> bool:
        """Let an announcement count if it is the latest; return whether it does now and did not before."""
        if entry.kind != AnnouncementBody.KIND or self._timeline.is_retracted(entry.msg_id):
            return False
        if self._pinned is not None and entry.key <= self._pinned.key:
            return False
        self._pinned = entry
        return True

    def _cut(self) -> None:
        """Drop what is before the window, and the notices that were there."""
        below = 0 if self._floor is None else self._timeline.index(self._floor)
        above = len(self._timeline) - self._size
        if self._timeline.drop_oldest(max(below, above, 0)):
            oldest = self._timeline.oldest_key
            self._floor = oldest if oldest is not None else self._floor
            self._notices = {
                key: notice
                for key, notice in self._notices.items()
                if key is not None and (oldest is None or key >= oldest)
            }

    # --- notices ------------------------------------------------------------------------------------------------

    def _pass(self, event: Passing) -> FeedChange | None:
        if isinstance(event, NodeRenamed):
            self._timeline.rename(event.node, event.name)
            if self._pinned is not None and self._pinned.node == event.node:
                self._pinned = attrs.evolve(self._pinned, name=event.name)
        place = self._timeline.newest_key
        before = self._notice_at(place)
        self._notices.setdefault(place, NoticeTally()).add(event)
        after = self._notice_at(place)
        if before == after and not isinstance(event, NodeRenamed):
            return None
        return FeedChange(added=after, removed=before)

    def _notice_at(self, place: MessageKey | None) -> Notice | None:
        tally = self._notices.get(place)
        return None if tally is None else tally.notice()

    def _place_notice(self, place: MessageKey | None, notice: NoticeTally) -> None:
        """Put a notice behind the message at a place, joined to the one that is there."""
        if place in self._notices:
            self._notices[place].merge(notice)
        else:
            self._notices[place] = notice

    def _settle_notice(self, first: MessageKey | None) -> None:
        """Put the notice that came before any message behind those that were loaded before the `first` one."""
        place = self._timeline.newest_key if first is None else self._timeline.key_before(first)
        if place is not None and (notice := self._notices.pop(None, None)) is not None:
            self._place_notice(place, notice)


def _checked(size: int) -> int:
    if size < 1:
        raise ValueError("a feed holds at least one message")
    return size
