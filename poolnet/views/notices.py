"""Notices: who came, left and took another name between two messages, folded into one entry. Pure.

A notice tells what became of it all, not each step: who came and left again is not mentioned, whoever changed names
twice is told of once. It has its own bound, so that a large pool that reconnects is one line.
"""

from collections.abc import Iterable
from typing import TypeVar

import attrs

from poolnet.events import NodeJoined, NodeLeft, NodeRenamed
from poolnet.ids import DeviceId
from poolnet.limits import MAX_NAMES_IN_NOTICE, MAX_NODES_IN_NOTICE

#: What notices tell of.
Passing = NodeJoined | NodeLeft | NodeRenamed
_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Notice:
    """Who came, left, and was renamed since the message before it.

    Names are listed up to `MAX_NAMES_IN_NOTICE` each, the first ones; the counts are of all. `renamed` are pairs of an
    old name and the new one.
    """

    joined: tuple[str, ...] = ()
    joined_count: int = 0
    left: tuple[str, ...] = ()
    left_count: int = 0
    renamed: tuple[tuple[str, str], ...] = ()
    renamed_count: int = 0


@attrs.frozen(kw_only=True)
class _Passage:
    """What happened to one device. `was_here` and `is_here` are None while it neither came nor left."""

    old_name: str
    name: str
    was_here: bool | None = None
    is_here: bool | None = None

    @property
    def has_joined(self) -> bool:
        return self.was_here is False and self.is_here is True

    @property
    def has_left(self) -> bool:
        return self.was_here is True and self.is_here is False

    @property
    def is_renamed(self) -> bool:
        stayed = self.was_here == self.is_here and self.was_here is not False
        return stayed and self.name != self.old_name

    @property
    def is_news(self) -> bool:
        return self.has_joined or self.has_left or self.is_renamed

    def then(self, later: "_Passage") -> "_Passage":
        """Return both, one after the other."""
        return _Passage(
            old_name=self.old_name,
            name=later.name,
            was_here=later.was_here if self.was_here is None else self.was_here,
            is_here=self.is_here if later.is_here is None else later.is_here,
        )


class NoticeTally:
    """What goes into one notice: each device up to `MAX_NODES_IN_NOTICE` of them, numbers beyond."""

    def __init__(self) -> None:
        self._passages: dict[DeviceId, _Passage] = {}
        self._joined = self._left = self._renamed = 0  # of devices that are not kept apart

    def add(self, event: Passing) -> None:
        """Take note of an event that comes after all others."""
        match event:
            case NodeJoined(name=name):
                passage = _Passage(old_name=name, name=name, was_here=False, is_here=True)
            case NodeLeft(name=name):
                passage = _Passage(old_name=name, name=name, was_here=True, is_here=False)
            case NodeRenamed(old_name=old_name, name=name):
                passage = _Passage(old_name=old_name, name=name)
        self._add(event.node, passage)

    def merge(self, later: "NoticeTally") -> None:
        """Take over what another one holds, all of which comes after this."""
        for node, passage in later._passages.items():
            self._add(node, passage)
        self._joined += later._joined
        self._left += later._left
        self._renamed += later._renamed

    def notice(self) -> Notice | None:
        """Return the notice, or None if there is no news."""
        passages = self._passages.values()
        joined = [passage.name for passage in passages if passage.has_joined]
        left = [passage.name for passage in passages if passage.has_left]
        renamed = [(passage.old_name, passage.name) for passage in passages if passage.is_renamed]
        notice = Notice(
            joined=_first(joined),
            joined_count=len(joined) + self._joined,
            left=_first(left),
            left_count=len(left) + self._left,
            renamed=_first(renamed),
            renamed_count=len(renamed) + self._renamed,
        )
        return None if notice == Notice() else notice

    def _add(self, node: DeviceId, passage: _Passage) -> None:
        earlier = self._passages.get(node)
        if earlier is None and len(self._passages) >= MAX_NODES_IN_NOTICE:
            self._joined += passage.has_joined
            self._left += passage.has_left
            self._renamed += passage.is_renamed
            return
        if earlier is not None:
            passage = earlier.then(passage)
        self._passages[node] = passage
        if not passage.is_news and passage.name == passage.old_name:
            del self._passages[node]  # as if nothing had happened


def _first(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(items)[:MAX_NAMES_IN_NOTICE]
