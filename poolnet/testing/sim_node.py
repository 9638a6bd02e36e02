"""A simulated node: roster, mesh and gossip, composed as a real node composes them, over a `SimNetwork`.

Its messages are bare bytes whose hash is their id; its database is a dict. `perform` methods show what a driver does
with the effects: nothing but that.
"""

from collections import deque
from typing import Any, assert_never

from blake3 import blake3

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import RECENT_MESSAGES
from poolnet.protocol import gossip, mesh
from poolnet.protocol.rings import Roster
from poolnet.testing.sim_network import SimNetwork
from poolnet.testing.sim_server import SimSyncServer
from poolnet.wire.sync_frames import RosterEntry


class SimNode:
    """One node of a simulated pool. `join` brings it into the network, `leave` or `crash` takes it out for good."""

    def __init__(self, network: SimNetwork, server: SimSyncServer, host_id: DeviceId) -> None:
        self.host_id = host_id
        self.roster = Roster()
        rng = network.random_for(host_id.hex())
        self.mesh = mesh.Mesh(host_id, self.roster, rng)
        self.gossip = gossip.Gossip(rng, _judge)
        #: Everything that is here, own messages too, and over how many links it came (0: own).
        self.history: dict[MsgId, bytes] = {}
        self.hops: dict[MsgId, int] = {}
        self.delivered_at: dict[MsgId, float] = {}
        self.misbehaviour: list[gossip.Misbehaved] = []
        self._network = network
        self._server = server
        self._recent: deque[MsgId] = deque(maxlen=RECENT_MESSAGES)
        self._timer_at: float | None = None

    @property
    def is_up(self) -> bool:
        """Whether it is in the network."""
        return self._network.is_up(self)

    def join(self) -> None:
        """Enter the network and attach to the server."""
        self._network.add_host(self)
        self._server.attach(self)

    def leave(self) -> None:
        """Say goodbye to the server and on all links."""
        self._server.detach(self)
        self._network.remove_host(self.host_id)

    def crash(self) -> None:
        """Vanish without a word."""
        self._network.crash(self.host_id)

    def publish(self, message: bytes) -> MsgId:
        """Send a message to everyone."""
        msg_id = MsgId(blake3(message).digest())
        self._keep(msg_id, message, 0)
        self._handle_gossip(gossip.Publish(msg_id, message))
        return msg_id

    # --- what the network says ----------------------------------------------------------------------------------

    def may_accept(self, peer: DeviceId) -> bool:
        """Ask the mesh."""
        return self.mesh.may_accept(peer)

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """Tell the mesh, then gossip."""
        self._handle_mesh(mesh.LinkUp(peer, is_dialler))
        self._handle_gossip(gossip.LinkUp(peer, tuple(self._recent)))

    def link_down(self, peer: DeviceId) -> None:
        """Tell gossip, then the mesh."""
        self._handle_gossip(gossip.LinkDown(peer))
        self._handle_mesh(mesh.LinkDown(peer))

    def dial_failed(self, peer: DeviceId) -> None:
        """Tell the mesh."""
        self._handle_mesh(mesh.DialFailed(peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Give a frame to the machine that it is for."""
        self._handle_gossip(gossip.Received(peer, frame))

    # --- what the server says -----------------------------------------------------------------------------------

    def roster_reset(self, epoch: int, entries: list[RosterEntry]) -> None:
        """Take over the whole roster."""
        change = self.roster.reset(epoch, entries)
        self._handle_mesh(mesh.RosterChanged(change.joined))

    def node_joined(self, epoch: int, entry: RosterEntry) -> None:
        """Apply an event, or ask for the whole roster after a gap."""
        if not self.roster.apply_joined(epoch, entry):
            self._server.attach(self)
        self._handle_mesh(mesh.RosterChanged(frozenset((entry.node,))))

    def node_left(self, epoch: int, node: DeviceId) -> None:
        """Apply an event, or ask for the whole roster after a gap."""
        if not self.roster.apply_left(epoch, node):
            self._server.attach(self)
        self._handle_mesh(mesh.RosterChanged())

    # --- machines -----------------------------------------------------------------------------------------------

    def _handle_mesh(self, event: mesh.MeshEvent) -> None:
        self._perform_mesh(self.mesh.handle(event, self._network.now))
        self._arm_timer()

    def _handle_gossip(self, event: gossip.GossipEvent) -> None:
        self._perform_gossip(self.gossip.handle(event, self._network.now))
        self._arm_timer()

    def _perform_mesh(self, effects: list[mesh.MeshEffect]) -> None:
        for effect in effects:
            match effect:
                case mesh.Dial(peer):
                    self._network.dial(self.host_id, peer)
                case mesh.CloseLink(peer):
                    self._network.close_link(self.host_id, peer)
                case mesh.Unreachable(peer):
                    self._server.report(self.host_id, peer)
                case _:
                    assert_never(effect)

    def _perform_gossip(self, effects: list[gossip.GossipEffect]) -> None:
        for effect in effects:
            match effect:
                case gossip.SendFrame(peer, frame):
                    self._network.send(self.host_id, peer, frame)
                case gossip.Deliver(msg_id, message, _, hops):
                    self._keep(msg_id, message, hops)
                case gossip.Lookup(peer, ids):
                    found = tuple((msg_id, self.history[msg_id]) for msg_id in ids if msg_id in self.history)
                    self._perform_gossip(self.gossip.handle(gossip.Found(peer, found), self._network.now))
                case gossip.Misbehaved():
                    self.misbehaviour.append(effect)
                case _:
                    assert_never(effect)

    def _keep(self, msg_id: MsgId, message: bytes, hops: int) -> None:
        self.history[msg_id] = message
        self.hops[msg_id] = hops
        self.delivered_at[msg_id] = self._network.now
        self._recent.append(msg_id)

    def _arm_timer(self) -> None:
        """Have `_tick` called when the first machine has something to do, with one pending timer at most in use."""
        deadlines = [at for at in (self.mesh.next_deadline(), self.gossip.next_deadline()) if at is not None]
        earliest = min(deadlines, default=None)
        if earliest is not None and (self._timer_at is None or earliest < self._timer_at):
            self._timer_at = earliest
            self._network.call_at(earliest, lambda: self._tick(earliest))

    def _tick(self, armed_for: float) -> None:
        if self._timer_at != armed_for or not self.is_up:
            return
        self._timer_at = None
        now = self._network.now
        self._perform_mesh(self.mesh.tick(now))
        self._perform_gossip(self.gossip.tick(now))
        self._arm_timer()


def _judge(msg_id: MsgId, message: bytes) -> gossip.Verdict:
    return gossip.Verdict.ACCEPT if blake3(message).digest() == msg_id else gossip.Verdict.REJECT
