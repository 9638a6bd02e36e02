"""A simulated sync server: keeps the roster of one pool and tells it to its clients, in order and with delay.

It has no signals and no disk; what it shares with the real one is the roster, the drawing of places, the numbering of
events, and what it does about complaints. Where a pool has statements, it passes them on, and has no place for who is
no member. It can be reached by the hosts that are on its side of a partition.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement
from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_BURST,
    COMPLAINT_RATE,
    FULL_MESH_SIZE,
    IDLE_TIMEOUT_S,
    PING_INTERVAL_S,
    REATTACH_GRACE_S,
)
from poolnet.protocol.rings import Roster
from poolnet.protocol.token_bucket import RateLimit
from poolnet.server.complaints import Complaints, Verdict
from poolnet.server.places import Places
from poolnet.testing.sim_clock import START_UNIX_MS
from poolnet.testing.sim_network import SimHost, SimNetwork
from poolnet.wire.sync_frames import RosterEntry


class RosterClient(SimHost, Protocol):
    """A host that wants roster events, each at `network.now` and in order."""

    def server_says(self, unix_ms: int) -> None:
        """It is that time."""

    def statements(self) -> Sequence[Statement]:
        """Return all statements that it knows; asked only where a pool has any."""

    def statements_told(self, statements: Sequence[Statement]) -> None:
        """These are known to the server."""

    def roster_reset(self, epoch: int, entries: list[RosterEntry]) -> None:
        """This is the whole roster as of `epoch`."""

    def node_joined(self, epoch: int, entry: RosterEntry) -> None:
        """A node came, or has other places."""

    def node_left(self, epoch: int, node: DeviceId) -> None:
        """A node left."""


@attrs.frozen(kw_only=True)
class Judged:
    """A complaint led to something: a node was given other places (not in a full mesh), or removed.

    Attributes:
        node: about whom.
        verdict: `MOVE` or `REMOVE`.
        neighbours: those of the node, who could complain.
        present: all that were attached.
    """

    node: DeviceId
    verdict: Verdict
    neighbours: frozenset[DeviceId]
    present: frozenset[DeviceId]


@attrs.define(eq=False)
class _Attachment:
    client: RosterClient
    heard_at: float
    next_arrival: float = 0.0
    has_missed_events: bool = False


class SimSyncServer:
    """The server of one pool, at a place in the network where the first side of every partition is.

    Args:
        delay_s: what a roster event takes at least to a client; up to twice that.
    """

    def __init__(self, network: SimNetwork, *, delay_s: float = 0.05) -> None:
        self.roster = Roster()
        self.is_running = True
        #: Whether it tells nodes what time it is; if not, they have only each other to ask.
        self.tells_time = True
        #: What it knows of who is in the pool; None: everyone is.
        self.membership: Membership | None = None
        self.reports = 0
        #: What complaints have led to, in order.
        self.judged: list[Judged] = []
        self._network = network
        self._delay_s = delay_s
        self._rng = network.random_for("server")
        self._statements: list[Statement] = []
        self._attached: dict[DeviceId, _Attachment] = {}
        self._lost: dict[DeviceId, RosterClient] = {}  # clients that try to attach again
        self._places = Places(network.random_for("places"))
        self._complaints = Complaints(self._voice_of)
        self._complaint_limit = RateLimit(burst=COMPLAINT_BURST, rate=COMPLAINT_RATE)
        network.call_later(PING_INTERVAL_S, self._check)

    def attach(self, client: RosterClient) -> None:
        """Enter a client into the roster, or take it back without any event if it is there. Retried until possible."""
        self._network.call_later(self._delay(), lambda: self._attach_now(client))

    def detach(self, client: RosterClient) -> None:
        """Take a client out of the roster; it will not come back by itself."""
        self._lost.pop(client.host_id, None)
        attachment = self._attached.get(client.host_id)
        if self.is_running and attachment is not None and attachment.client is client:
            self._remove(client.host_id)

    def tell(self, client: RosterClient, statements: Sequence[Statement]) -> None:
        """Take statements from a client; what does not arrive now, it tells when it can be reached again."""
        self._network.call_later(self._delay(), lambda: self._told(client, statements))

    def report(self, reporter: DeviceId, node: DeviceId) -> None:
        """Count a report that no link from `reporter` to `node` comes up."""
        self.reports += self.is_running and reporter != node

    def complain(self, client: RosterClient, node: DeviceId) -> bool:
        """Hear a client's word that a node breaks the rules; return whether there was a server to tell."""
        if self._is_attached(client):
            self._network.call_later(self._delay(), lambda: self._judge(client, node))
            return True
        return False

    def is_expelled(self, node: DeviceId) -> bool:
        """Return whether a node was removed by its neighbours, and may not come back yet."""
        return self._complaints.is_out(node, self._network.now)

    def stop(self) -> None:
        """Kill the server: no events, nobody can attach. What was said of nodes is forgotten."""
        self.is_running = False
        self._complaints = Complaints(self._voice_of)
        self._lost.update((node, attachment.client) for node, attachment in self._attached.items())
        self._attached.clear()

    def start(self) -> None:
        """Start it again with the roster it had; who is not back after `REATTACH_GRACE_S` has left."""
        self.is_running = True
        self._network.call_later(REATTACH_GRACE_S, self._remove_absent)

    def _attach_now(self, client: RosterClient) -> None:
        if not self._network.is_up(client):
            return
        if not self.is_running or not self._reaches(client):
            self._lost[client.host_id] = client
            return
        self._lost.pop(client.host_id, None)
        attached = _Attachment(client, self._network.now)
        if not self._admits(attached):
            return
        self._attached[client.host_id] = attached
        if client.host_id not in self.roster:
            self._place(client.host_id, self._others(client.host_id))
        self._send_reset(self._attached[client.host_id])

    def _admits(self, attachment: _Attachment) -> bool:
        """Exchange statements with a client; return whether it may be here. If not, it tries again while it is up."""
        client = attachment.client
        if self.is_expelled(client.host_id):
            self._lost[client.host_id] = client
            return False
        if self.membership is None:
            return True
        self._take(client.statements())
        known = list(self._statements)
        self._send(attachment, lambda client: client.statements_told(known))
        if not self.membership.is_member(client.host_id):
            self._lost[client.host_id] = client
            return False
        return True

    def _told(self, client: RosterClient, statements: Sequence[Statement]) -> None:
        attachment = self._attached.get(client.host_id)
        if attachment is None or attachment.client is not client:
            return
        if self._reaches(client):
            self._take(statements)
        else:
            attachment.has_missed_events = True

    def _take(self, statements: Iterable[Statement]) -> None:
        """Pass on what is new, and take those out of the roster who are out by it."""
        if self.membership is None:
            return
        added = [statement for statement in statements if self.membership.add(statement)]
        if not added:
            return
        self._statements += added
        for attachment in self._attached.values():
            self._send(attachment, lambda client: client.statements_told(added))
        for node in sorted(node for node in self.roster.nodes if not self.membership.is_member(node)):
            self._dismiss(node)  # it may know that it is a member all the same

    def _judge(self, client: RosterClient, node: DeviceId) -> None:
        """Take a complaint, as poolnet/server/hosted_pool.py does, and do what follows."""
        now = self._network.now
        if not self._is_attached(client) or not self._complaint_limit.take(client.host_id, now):
            return
        neighbours = self.roster.neighbours(node)
        verdict = self._complaints.add(client.host_id, node, neighbours, self.roster.nodes, now)
        if verdict is Verdict.NOTHING:
            return
        present = frozenset(self._attached)
        self.judged.append(Judged(node=node, verdict=verdict, neighbours=neighbours, present=present))
        if verdict is Verdict.REMOVE:
            self._dismiss(node)
        elif len(self.roster) > FULL_MESH_SIZE:
            self._places.move(node)
            self._place(node, self._attached.values())

    def _voice_of(self, device: DeviceId) -> bytes:
        if self.membership is None:
            return device
        host = self.membership.let_in(device)
        member = self.membership.members().get(host)
        return host if member is None or member.user is None else member.user.user_id

    def _place(self, node: DeviceId, told: Iterable[_Attachment]) -> None:
        entry = RosterEntry(node=node, places=self._places.of(node))
        epoch = self.roster.epoch + 1
        self.roster.apply_joined(epoch, entry)
        for attachment in told:
            self._send(attachment, lambda client: client.node_joined(epoch, entry))

    def _dismiss(self, node: DeviceId) -> None:
        """Take a node out of the roster that may try to come back."""
        if (attached := self._attached.get(node)) is not None:
            self._lost[node] = attached.client
        self._remove(node)

    def _remove(self, node: DeviceId) -> None:
        self._attached.pop(node, None)
        epoch = self.roster.epoch + 1
        self.roster.apply_left(epoch, node)
        for attachment in self._others(node):
            self._send(attachment, lambda client: client.node_left(epoch, node))

    def _remove_absent(self) -> None:
        for node in sorted(self.roster.nodes - self._attached.keys()):
            self._remove(node)

    def _check(self) -> None:
        """Notice clients that went silent, and let those that can reach the server again come back."""
        now = self._network.now
        self._network.call_later(PING_INTERVAL_S, self._check)
        for node, client in list(self._lost.items()):
            if not self._network.is_up(client):
                del self._lost[node]
            elif self.is_running and self._reaches(client):
                self.attach(client)
        for node, attachment in list(self._attached.items()):
            if self._reaches(attachment.client):
                attachment.heard_at = now
                if attachment.has_missed_events:
                    attachment.has_missed_events = False
                    if self._admits(attachment):
                        self._send_reset(attachment)
            elif now - attachment.heard_at >= IDLE_TIMEOUT_S:
                self._remove(node)
                self._lost[node] = attachment.client

    def _is_attached(self, client: RosterClient) -> bool:
        attachment = self._attached.get(client.host_id)
        return attachment is not None and attachment.client is client and self._reaches(client)

    def _reaches(self, client: RosterClient) -> bool:
        return self._network.is_up(client) and self._network.side_of(client.host_id) == 0

    def _others(self, node: DeviceId) -> list[_Attachment]:
        return [attachment for other, attachment in self._attached.items() if other != node]

    def _delay(self) -> float:
        return self._delay_s * (1 + self._rng.random())

    def _send_reset(self, attachment: _Attachment) -> None:
        if self.tells_time:
            self._send(attachment, lambda client: client.server_says(START_UNIX_MS + round(self._network.now * 1000)))
        epoch, entries = self.roster.epoch, self.roster.entries()
        self._send(attachment, lambda client: client.roster_reset(epoch, entries))

    def _send(self, attachment: _Attachment, tell: Callable[[RosterClient], None]) -> None:
        client = attachment.client
        if not self._reaches(client):
            attachment.has_missed_events = True
            return

        def arrive() -> None:
            if self._network.is_up(client):
                tell(client)

        attachment.next_arrival = max(attachment.next_arrival, self._network.now + self._delay())
        self._network.call_at(attachment.next_arrival, arrive)
