"""Who is here, by name: turns roster changes and profile messages into arrivals and departures.

The roster says at once that a node came; its name arrives a moment later, in a message of the pool. An arrival is
therefore held until the name is known, but never longer than `NAME_GRACE_S`; so is what the node says meanwhile. A node
that goes before it was announced is never mentioned; one that is only moved on the rings, or is still there after a
server restart, neither.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from poolnet.clock import Hlc
from poolnet.events import (
    AnnouncementReceived,
    AppMessageReceived,
    Mentioned,
    MessageReceived,
    NodeJoined,
    NodeLeft,
    NodeRenamed,
    UnknownMessageReceived,
)
from poolnet.ids import DeviceId, MsgId, short_id
from poolnet.limits import MAX_HELD_TEXTS, NAME_GRACE_S

#: What somebody said: events with a name that may still be unknown.
Said = MessageReceived | Mentioned | AnnouncementReceived | AppMessageReceived | UnknownMessageReceived


class Presence:
    """The nodes that are online, as an application should hear of them.

    Args:
        self_id: this device, whose comings and goings are no news to itself.
    """

    def __init__(self, *, self_id: DeviceId) -> None:
        self._self_id = self_id
        self._names: dict[DeviceId, tuple[tuple[Hlc, MsgId], str]] = {}
        self._announced: set[DeviceId] = set()
        self._waiting: dict[DeviceId, float] = {}  # node -> when it is announced without a name
        self._held: dict[DeviceId, tuple[float, list[Said]]] = {}  # likewise, what it said

    def name_of(self, node: DeviceId) -> str:
        """Return the display name of a node, or a short form of its id while it has none."""
        known = self._names.get(node)
        return short_id(node) if known is None else known[1]

    def set_name(self, node: DeviceId, name: str, key: tuple[Hlc, MsgId]) -> list[NodeJoined | NodeRenamed | Said]:
        """Take a name from a profile message at place `key` in the order; the latest one counts.

        Of a device that is here and had another name, it is news.
        """
        known = self._names.get(node)
        if known is not None and known[0] >= key:
            return []
        self._names[node] = (key, name)
        events: list[NodeJoined | NodeRenamed | Said] = []
        if known is not None and known[1] != name and (node in self._announced or node == self._self_id):
            events.append(NodeRenamed(node=node, old_name=known[1], name=name))
        if self._waiting.pop(node, None) is not None:
            events.append(self._announce(node))
        return [*events, *self._release(node)]

    def said(self, message: Said, now: float) -> Sequence[Said]:
        """Take a message; return it, or nothing while its author's name may still come."""
        node = message.node
        if node == self._self_id or node in self._names:
            return [message]
        _, messages = self._held.setdefault(node, (now + NAME_GRACE_S, []))
        messages.append(message)
        return self._release(node) if len(messages) >= MAX_HELD_TEXTS else []

    def came(self, nodes: Iterable[DeviceId], now: float) -> list[NodeJoined]:
        """Take nodes that are in the roster now."""
        arrivals = []
        for node in nodes:
            if node == self._self_id or node in self._announced or node in self._waiting:
                continue
            if node in self._names:
                arrivals.append(self._announce(node))
            else:
                self._waiting[node] = now + NAME_GRACE_S
        return arrivals

    def went(self, nodes: Iterable[DeviceId]) -> list[NodeLeft]:
        """Take nodes that are no longer there."""
        departures = []
        for node in nodes:
            self._waiting.pop(node, None)
            if node in self._announced:
                self._announced.remove(node)
                departures.append(NodeLeft(node=node, name=self.name_of(node)))
        return departures

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to announce."""
        held = (deadline for deadline, _ in self._held.values())
        return min((*self._waiting.values(), *held), default=None)

    def tick(self, now: float) -> list[NodeJoined | Said]:
        """Announce the nodes whose names did not come in time, and what they said."""
        events: list[NodeJoined | Said] = []
        for node in [node for node, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[node]
            events.append(self._announce(node))
        for node in [node for node, (deadline, _) in self._held.items() if deadline <= now]:
            events += self._release(node)
        return events

    def names(self) -> Mapping[DeviceId, str]:
        """Return all display names that are known."""
        return {node: name for node, (_, name) in self._names.items()}

    def _release(self, node: DeviceId) -> list[Said]:
        _, messages = self._held.pop(node, (0.0, []))
        return [attrs.evolve(message, name=self.name_of(node)) for message in messages]

    def _announce(self, node: DeviceId) -> NodeJoined:
        self._announced.add(node)
        return NodeJoined(node=node, name=self.name_of(node))
