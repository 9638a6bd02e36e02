"""Where this node stands in its pool: the roster, the links that follow from it, and the ways to who has a file.

Takes what the sync server says (`ServerListener`) and keeps presence, links, time and routes up to date with it.
"""

from collections.abc import Callable, Collection, Sequence

from poolnet.event_stream import EventStream
from poolnet.events import PoolEvent, ServerAttached, ServerLost
from poolnet.identity.invite_link import ServerAddress
from poolnet.ids import DeviceId
from poolnet.net.addresses import format_address, is_loopback
from poolnet.pool.clock_keeper import ClockKeeper
from poolnet.pool.link_keeper import LinkKeeper
from poolnet.pool.message_effects import MessageEffects
from poolnet.protocol import mesh
from poolnet.protocol.rings import Roster
from poolnet.protocol.routes import hops_to_holder
from poolnet.wire.sync_frames import Address, RosterEntry


class Placement:
    """The node among the others.

    Args:
        roster: who is online; shared with the mesh machine.
        take_statements: called with statements from the server; raises WireError if one is malformed.
        ask_for_roster: called when events of the roster are missing.
        routes_changed: called when the distance to the holders of a file may have changed.
    """

    def __init__(
        self,
        *,
        self_id: DeviceId,
        roster: Roster,
        links: LinkKeeper,
        effects: MessageEffects,
        time: ClockKeeper,
        events: EventStream[PoolEvent],
        take_statements: Callable[[Sequence[bytes]], None],
        ask_for_roster: Callable[[], None],
        routes_changed: Callable[[], None],
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._links = links
        self._effects = effects
        self._time = time
        self._events = events
        self._take_statements = take_statements
        self._ask_for_roster = ask_for_roster
        self._routes_changed = routes_changed
        self._holders: frozenset[DeviceId] = frozenset()

    def hops_to(self, holders: Collection[DeviceId]) -> int | None:
        """Return how many links away the nearest of these nodes is, or None if there is no way to any."""
        return hops_to_holder(self._roster, self._self_id, self._links.links.keys(), holders)

    def want_holders(self, holders: frozenset[DeviceId]) -> None:
        """Link to those of these nodes that are online, as far as there is room: none of the neighbours may have it."""
        self._holders = holders
        self._links.want_direct(self._holders & self._roster.nodes)

    # --- what the server says (ServerListener) ------------------------------------------------------------------

    def statements_received(self, encoded: Sequence[bytes]) -> None:
        """Take statements."""
        self._take_statements(encoded)

    def roster_reset(self, epoch: int, entries: Sequence[RosterEntry]) -> None:
        """Take the whole roster."""
        change = self._roster.reset(epoch, entries)
        self._effects.went(change.left)
        self._effects.came(self._roster.nodes)
        self._roster_changed(change.joined)

    def roster_joined(self, epoch: int, entry: RosterEntry) -> None:
        """Take a node that came or moved."""
        if not self._roster.apply_joined(epoch, entry):
            self._ask_for_roster()
            return
        self._effects.came([entry.node])
        self._roster_changed(frozenset({entry.node}))

    def roster_left(self, epoch: int, node: DeviceId) -> None:
        """Take a node that left."""
        if not self._roster.apply_left(epoch, node):
            self._ask_for_roster()
            return
        self._effects.went([node])
        self._roster_changed(frozenset())

    def observed(self, address: Address, unix_ms: int) -> None:
        """Take our address and the time as the server sees them."""
        if not is_loopback(address.host):  # seen by a server on this machine: no use to others
            self._links.observed = address
        self._time.server_says(unix_ms)

    def signal_received(self, sender: DeviceId, body: bytes) -> None:
        """Take a signal."""
        self._links.signal_received(sender, body)

    def server_attached(self, server: ServerAddress) -> None:
        """Tell subscribers."""
        self._events.publish(ServerAttached(address=format_address((server.host, server.port))))

    def server_lost(self, server: ServerAddress, reason: str) -> None:
        """Tell subscribers."""
        self._events.publish(ServerLost(address=format_address((server.host, server.port)), reason=reason))

    def _roster_changed(self, joined: frozenset[DeviceId]) -> None:
        self._links.feed(mesh.RosterChanged(joined))
        self.want_holders(self._holders)
        self._routes_changed()
