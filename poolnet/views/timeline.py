"""Entries in the order of the pool, each once, and none that was retracted: what the live views keep. Pure."""

from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import MAX_REMEMBERED_RETRACTIONS
from poolnet.views.entries import HistoryEntry
from poolnet.wire.message import MessageKey

_by_key = attrgetter("key")


class Timeline:
    """Entries by key. Remembers what was retracted lately: an event or a page may tell of a message after that."""

    def __init__(self) -> None:
        self._entries: list[HistoryEntry] = []
        self._retracted: dict[MsgId, None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[HistoryEntry]:
        return iter(self._entries)

    @property
    def oldest_key(self) -> MessageKey | None:
        """The place of the first entry."""
        return self._entries[0].key if self._entries else None

    @property
    def newest_key(self) -> MessageKey | None:
        """The place of the last entry."""
        return self._entries[-1].key if self._entries else None

    def index(self, key: MessageKey) -> int:
        """Return the number of entries before a place."""
        return bisect_left(self._entries, key, key=_by_key)

    def key_before(self, key: MessageKey) -> MessageKey | None:
        """Return the place of the last entry before a place, if there is one."""
        index = self.index(key)
        return self._entries[index - 1].key if index else None

    def holds(self, entry: HistoryEntry) -> bool:
        """Return whether an entry is there."""
        index = self.index(entry.key)
        return index < len(self._entries) and self._entries[index].key == entry.key

    def add(self, entry: HistoryEntry) -> bool:
        """Put an entry in its place; return whether it is new, and was not retracted."""
        if entry.msg_id in self._retracted or self.holds(entry):
            return False
        self._entries.insert(self.index(entry.key), entry)
        return True

    def retract(self, msg_id: MsgId) -> HistoryEntry | None:
        """Take a message out for good; return its entry if it was there."""
        self._retracted[msg_id] = None
        if len(self._retracted) > MAX_REMEMBERED_RETRACTIONS:
            del self._retracted[next(iter(self._retracted))]
        return self.discard(msg_id)

    def is_retracted(self, msg_id: MsgId) -> bool:
        """Return whether a message was retracted lately."""
        return msg_id in self._retracted

    def discard(self, msg_id: MsgId) -> HistoryEntry | None:
        """Take an entry out; return it if it was there."""
        for index, entry in enumerate(self._entries):
            if entry.msg_id == msg_id:
                return self._entries.pop(index)
        return None

    def rename(self, node: DeviceId, name: str) -> bool:
        """Take the name that a device has from now on; return whether it changes an entry."""
        changed = False
        for index, entry in enumerate(self._entries):
            if entry.node == node and entry.name != name:
                self._entries[index] = attrs.evolve(entry, name=name)
                changed = True
        return changed

    def clear(self) -> None:
        """Take out all entries; what was retracted stays known."""
        self._entries.clear()

    def drop_oldest(self, count: int) -> list[HistoryEntry]:
        """Take out the first `count` entries and return them."""
        dropped, self._entries = self._entries[:count], self._entries[count:]
        return dropped

    def drop_newest(self, count: int) -> None:
        """Take out the last `count` entries."""
        del self._entries[len(self._entries) - count :]
