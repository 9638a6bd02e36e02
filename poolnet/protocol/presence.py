"""Who is here, by name: turns roster changes and profile messages into arrivals and departures.

The roster says at once that a node came; its name arrives a moment later, in a message of the pool. An arrival is
therefore held until the name is known, but never longer than `NAME_GRACE_S`; so is what the node says meanwhile, and
its arrival with it: the first thing it says comes over a link, and over that its name is on its way. A node that goes
before it was announced is never mentioned; one that is only moved on the rings, or is still there after a server
restart, neither.

When histories are compared, all names come that a node ever had, in any order and over several frames. A name is
therefore told only after it has stood for `NAME_SETTLE_S`, or before the next thing that its node says: of many only
the latest. It is news, a renaming, if this device had told of the node by another name and it is still here.
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
from poolnet.limits import MAX_HELD_TEXTS, NAME_GRACE_S, NAME_SETTLE_S

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
        self._told: dict[DeviceId, str] = {}  # who is here, by the name that was told
        self._waiting: dict[DeviceId, float] = {}  # node -> when its arrival is told
        self._held: dict[DeviceId, tuple[float, list[Said]]] = {}  # likewise, what it said
        self._renamed: dict[DeviceId, float] = {}  # likewise, its new name

    def name_of(self, node: DeviceId) -> str:
        """Return the display name of a node, or a short form of its id while it has none."""
        known = self._names.get(node)
        return short_id(node) if known is None else known[1]

    def set_name(self, node: DeviceId, name: str, key: tuple[Hlc, MsgId], now: float) -> list[NodeRenamed]:
        """Take a name from a profile message at place `key` in the order; the latest one counts.

        Of this device, another name is told at once; of others, `tick` tells what follows.
        """
        known = self._names.get(node)
        if known is not None and known[0] >= key:
            return []
        self._names[node] = (key, name)
        if node == self._self_id:
            is_new = known is not None and known[1] != name
            return [NodeRenamed(node=node, old_name=known[1], name=name)] if known and is_new else []
        self._settle(node, now + NAME_SETTLE_S)
        return []

    def _settle(self, node: DeviceId, at: float) -> None:
        if node in self._waiting:
            self._waiting[node] = min(self._waiting[node], at)
        if node in self._held:
            deadline, messages = self._held[node]
            self._held[node] = (min(deadline, at), messages)
        if node in self._told:
            self._renamed.setdefault(node, at)

    def said(self, message: Said, now: float) -> Sequence[Said | NodeRenamed]:
        """Take a message; return it, or nothing while its author's name may still come."""
        node = message.node
        if node == self._self_id or (node in self._names and node not in self._waiting and node not in self._held):
            return [*self._tell_renamed(node), message]
        if node not in self._held:
            self._hold(node, now)
        _, messages = self._held[node]
        messages.append(message)
        return self._release(node) if len(messages) >= MAX_HELD_TEXTS else []

    def _hold(self, node: DeviceId, now: float) -> None:
        """Begin to hold what a node says."""
        if node not in self._names and node in self._waiting:
            self._waiting[node] = now + NAME_GRACE_S
        self._held[node] = (self._waiting.get(node, now + NAME_GRACE_S), [])

    def retracted(self, msg_id: MsgId) -> None:
        """Forget what a message said that was taken back before it was told."""
        for node, (deadline, messages) in list(self._held.items()):
            self._held[node] = (deadline, [message for message in messages if message.msg_id != msg_id])

    def came(self, nodes: Iterable[DeviceId], now: float) -> list[NodeJoined]:
        """Take nodes that are in the roster now."""
        arrivals = []
        for node in nodes:
            if node == self._self_id or node in self._told or node in self._waiting:
                continue
            if node in self._names:
                arrivals.append(self._announce(node))
            else:
                self._waiting[node] = now + NAME_GRACE_S
        return arrivals

    def went(self, nodes: Iterable[DeviceId]) -> list[NodeLeft | NodeRenamed]:
        """Take nodes that are no longer there."""
        departures: list[NodeLeft | NodeRenamed] = []
        for node in nodes:
            self._waiting.pop(node, None)
            if node in self._told:
                departures += self._tell_renamed(node)
                del self._told[node]
                departures.append(NodeLeft(node=node, name=self.name_of(node)))
        return departures

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to tell."""
        held = (deadline for deadline, _ in self._held.values())
        return min((*self._waiting.values(), *held, *self._renamed.values()), default=None)

    def tick(self, now: float) -> list[NodeJoined | NodeRenamed | Said]:
        """Tell of names that have settled, of nodes whose names did not come in time, and what they said."""
        events: list[NodeJoined | NodeRenamed | Said] = []
        for node in [node for node, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[node]
            events.append(self._announce(node))
        for node in [node for node, deadline in self._renamed.items() if deadline <= now]:
            events += self._tell_renamed(node)
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
        self._told[node] = self.name_of(node)
        return NodeJoined(node=node, name=self._told[node])

    def _tell_renamed(self, node: DeviceId) -> list[NodeRenamed]:
        """Tell of a new name, if one waits to be told and there still is another."""
        old, name = self._told.get(node), self.name_of(node)
        if self._renamed.pop(node, None) is None or old is None or old == name:
            return []
        self._told[node] = name
        return [NodeRenamed(node=node, old_name=old, name=name)]
