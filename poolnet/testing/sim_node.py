"""A simulated node: roster, mesh, gossip and agreement, composed as a real node composes them, over a `SimNetwork`.

Its messages are a stamp, an author and a text, unsigned; their id is the hash of that. Its database is a dict, and the
keys in it (`MemoryKeys`). Its clock may be wrong, and jump. `perform` methods show what a driver does with the effects:
nothing but that.
"""

from functools import partial
from typing import Any, assert_never

from blake3 import blake3

from poolnet.clock import Hlc, HybridClock, agreed_offset_ms
from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId, PoolId, PublicKey
from poolnet.protocol import agreement, gossip, mesh
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.reconcile import LOWEST, Bound, MemoryKeys
from poolnet.protocol.rings import Roster
from poolnet.steady_time import MeasuredClock, SteadyTime, WallClock
from poolnet.testing.sim_network import SimNetwork
from poolnet.testing.sim_server import SimSyncServer
from poolnet.wire import pool_frames as frames
from poolnet.wire.link_frames import Ping
from poolnet.wire.message import Message, MessageContent
from poolnet.wire.sync_frames import RosterEntry

#: What a right clock shows when a network begins.
START_UNIX_MS = 1_750_000_000_000
#: How often neighbours tell each other what time it is.
CLOCK_INTERVAL_S = 60.0
#: A look into a database takes up to this.
_LONGEST_STEP_S = 0.002

_POOL = PoolId(bytes(32))
_STAMP_SIZE = 8
_HEADER_SIZE = _STAMP_SIZE + 32


class SimNode:
    """One node of a simulated pool. `join` brings it into the network, `leave` or `crash` takes it out.

    It may join again: what is on its disk (`history`, `keys`, `known_from`) is still there.

    Args:
        clock_error_ms: by how much its clock is ahead.
        is_founder: has the history from the beginning; others are newcomers at first.
    """

    def __init__(
        self,
        network: SimNetwork,
        server: SimSyncServer,
        host_id: DeviceId,
        *,
        clock_error_ms: int = 0,
        is_founder: bool = False,
    ) -> None:
        self.host_id = host_id
        self.clock_error_ms = clock_error_ms
        #: Everything that is here, own messages too, and over how many links it came (0: own, or fetched).
        self.history: dict[MsgId, bytes] = {}
        self.keys = MemoryKeys()
        self.known_from: Bound | None = LOWEST if is_founder else None
        self.hops: dict[MsgId, int] = {}
        self.delivered_at: dict[MsgId, float] = {}
        self.misbehaviour: list[gossip.Misbehaved | agreement.Misbehaved] = []
        #: Requests that are answered, and how.
        self.finished: dict[int, bool] = {}
        #: Payloads that were fetched although they were here.
        self.fetched_twice = 0
        self._network = network
        self._server = server
        self._start()

    @property
    def is_up(self) -> bool:
        """Whether it is in the network."""
        return self._network.is_up(self)

    def join(self) -> None:
        """Enter the network and attach to the server."""
        self._start()
        self._network.add_host(self)
        self._server.attach(self)

    def leave(self) -> None:
        """Say goodbye to the server and on all links."""
        self._server.detach(self)
        self._network.remove_host(self.host_id)

    def crash(self) -> None:
        """Vanish without a word."""
        self._network.crash(self.host_id)

    def publish(self, text: bytes) -> MsgId:
        """Send a message to everyone."""
        hlc = self.clock.tick(self._unix_ms())
        message = hlc.to_bytes(_STAMP_SIZE, "big") + self.host_id + text
        msg_id = _identify(message)
        self._store(msg_id, message, 0)
        self._handle_gossip(gossip.Publish(msg_id, message))
        return msg_id

    def ask(self, event: agreement.FetchOlder | agreement.Check | agreement.Cancel) -> None:
        """Make a request of the agreement machine; the answer goes to `finished`."""
        self._handle_agreement(event)

    def _start(self) -> None:
        """Begin a life in the network with what is on disk."""
        network = self._network
        rng = network.random_for(self.host_id.hex())
        self.roster = Roster()
        self.mesh = mesh.Mesh(self.host_id, self.roster, rng)
        self.gossip = gossip.Gossip(rng, _identify, _judge)
        self.gossip.mark_seen(self.history)
        self._rng = network.random_for(f"agreement of {self.host_id.hex()}")
        self._time = SteadyTime(WallClock(read_unix_ms=self._wall_ms, read_elapsed_s=lambda: network.now))
        last = self.keys.nth_newest((2**63, b""), 1)
        self.clock = HybridClock(last=Hlc(0) if last is None else last[0])
        self.held = HeldMessages(self.clock)
        self.agreement = agreement.Agreement(
            self._rng,
            unix_ms=lambda: self.clock.now_ms(self._unix_ms()),
            is_pending=lambda msg_id: False,  # what is accepted is stored or held at once
            is_held=self.held.__contains__,
            known_from=self.known_from,
        )
        self._neighbour_clocks: dict[DeviceId, MeasuredClock] = {}
        self._tell_time_at = network.now + CLOCK_INTERVAL_S
        self._timer_at: float | None = None

    # --- what the network says ----------------------------------------------------------------------------------

    def may_accept(self, peer: DeviceId) -> bool:
        """Ask the mesh."""
        return self.mesh.may_accept(peer)

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """Tell the mesh, the time, then gossip and agreement."""
        self._handle_mesh(mesh.LinkUp(peer, is_dialler))
        self._neighbour_clocks[peer] = MeasuredClock(self._time)
        self._tell_time(peer)
        self._handle_gossip(gossip.LinkUp(peer))
        self._handle_agreement(agreement.LinkUp(peer, is_dialler))

    def link_down(self, peer: DeviceId) -> None:
        """Tell agreement and gossip, then the mesh."""
        self._neighbour_clocks.pop(peer, None)
        self._handle_agreement(agreement.LinkDown(peer))
        self._handle_gossip(gossip.LinkDown(peer))
        self._handle_mesh(mesh.LinkDown(peer))

    def dial_failed(self, peer: DeviceId) -> None:
        """Tell the mesh."""
        self._handle_mesh(mesh.DialFailed(peer))

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Give a frame to the machine that it is for."""
        match frame:
            case Ping(unix_ms=unix_ms):
                if (clock := self._neighbour_clocks.get(peer)) is not None:
                    clock.says(unix_ms, at_elapsed_ms=self._time.elapsed_ms())
            case frames.Messages():
                self._take(peer, frame)
            case frames.OpenComparison() | frames.Compare() | frames.WantMessages():
                self._handle_agreement(agreement.Received(peer, frame))
            case _:
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

    def _handle_agreement(self, event: agreement.AgreementEvent) -> None:
        self._perform_agreement(self.agreement.handle(event, self._network.now))
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

    def _perform_agreement(self, effects: list[agreement.AgreementEffect]) -> None:
        for effect in effects:
            match effect:
                case agreement.SendFrame(peer, frame):
                    self._network.send(self.host_id, peer, frame)
                case agreement.Step():
                    delay_s = _LONGEST_STEP_S * self._rng.random()
                    self._network.call_later(delay_s, partial(self._step, self.agreement, effect))
                case agreement.Serve():
                    self._serve(effect)
                case agreement.Finished(request, ok):
                    self.finished[request] = ok
                case agreement.KnownFrom(bound):
                    self.known_from = bound
                case agreement.Agreed():
                    pass
                case agreement.Misbehaved():
                    self.misbehaviour.append(effect)
                case _:
                    assert_never(effect)

    def _step(self, machine: agreement.Agreement, effect: agreement.Step) -> None:
        if self.is_up and machine is self.agreement:
            self._handle_agreement(agreement.Stepped(effect.step, effect.call(self.keys)))

    def _serve(self, effect: agreement.Serve) -> None:
        messages = [self.history[msg_id] for msg_id in effect.ids if msg_id in self.history]
        for frame in agreement.pack_messages(effect.number, messages):
            self._network.send(self.host_id, effect.peer, frame)
        self._handle_agreement(agreement.Served(effect.peer, effect.number))

    # --- messages -----------------------------------------------------------------------------------------------

    def _take(self, peer: DeviceId, frame: frames.Messages) -> None:
        """Take messages that were asked for: they are judged and kept like any others, then told to have arrived."""
        ids = tuple(_identify(message) for message in frame.messages)
        for msg_id, message in zip(ids, frame.messages, strict=True):
            self.fetched_twice += msg_id in self.history
            self._handle_gossip(gossip.Fetched(peer, msg_id, message))
        self._handle_agreement(agreement.Arrived(peer, frame.number, ids, frame.is_last))

    def _keep(self, msg_id: MsgId, encoded: bytes, hops: int) -> None:
        """Store a message, or hold it until its time comes."""
        self.hops.setdefault(msg_id, hops)
        if self.held.admit(_decode(msg_id, encoded), self._unix_ms()):
            self._store(msg_id, encoded, self.hops[msg_id])

    def _store(self, msg_id: MsgId, encoded: bytes, hops: int) -> None:
        if msg_id not in self.history:
            self.history[msg_id] = encoded
            self.keys.add((Hlc(int.from_bytes(encoded[:_STAMP_SIZE], "big")), msg_id))
            self.hops[msg_id] = hops
            self.delivered_at[msg_id] = self._network.now
        self._handle_agreement(agreement.Stored((msg_id,)))

    # --- time ---------------------------------------------------------------------------------------------------

    def _wall_ms(self) -> int:
        return START_UNIX_MS + round(self._network.now * 1000) + self.clock_error_ms

    def _unix_ms(self) -> int:
        """Return this node's time, for `clock`, which corrects it by what the neighbours say."""
        now_ms = self._time.now_ms()
        offsets = [clock.ahead_ms for clock in self._neighbour_clocks.values()]
        known = [offset for offset in offsets if offset is not None]
        if known:
            self.clock.correct(agreed_offset_ms(known, unix_ms=now_ms), now_ms)
        return now_ms

    def _tell_time(self, peer: DeviceId) -> None:
        self._network.send(self.host_id, peer, Ping(number=0, unix_ms=self._time.now_ms()))

    def _arm_timer(self) -> None:
        """Have `_tick` called when the first machine has something to do, with one pending timer at most in use."""
        earliest = self._next_deadline()
        if self._timer_at is None or earliest < self._timer_at:
            self._timer_at = earliest
            self._network.call_at(earliest, lambda: self._tick(earliest))

    def _next_deadline(self) -> float:
        machines = (self.mesh, self.gossip, self.agreement)
        deadlines = [at for machine in machines if (at := machine.next_deadline()) is not None]
        if self.held:
            wait_s = self.held.wait_s(self._unix_ms())
            deadlines += [] if wait_s is None else [self._network.now + wait_s + 0.001]
        return min([self._tell_time_at, *deadlines])

    def _tick(self, armed_for: float) -> None:
        if self._timer_at != armed_for or not self.is_up:
            return
        self._timer_at = None
        now = self._network.now
        if self._tell_time_at <= now:
            self._tell_time_at = now + CLOCK_INTERVAL_S
            for peer in self._neighbour_clocks:
                self._tell_time(peer)
        for message in self.held.release(self._unix_ms()) if self.held else ():
            self._store(message.msg_id, message.signed, self.hops[message.msg_id])
        self._perform_mesh(self.mesh.tick(now))
        self._perform_gossip(self.gossip.tick(now))
        self._perform_agreement(self.agreement.tick(now))
        self._arm_timer()


def _identify(encoded: bytes) -> MsgId:
    if len(encoded) < _HEADER_SIZE:
        raise WireError("not a message")
    return MsgId(blake3(encoded).digest())


def _judge(msg_id: MsgId, encoded: bytes) -> gossip.Verdict:
    return gossip.Verdict.ACCEPT


def _decode(msg_id: MsgId, encoded: bytes) -> Message:
    content = MessageContent(
        pool_id=_POOL,
        kind="text",
        hlc=Hlc(int.from_bytes(encoded[:_STAMP_SIZE], "big")),
        author_key=PublicKey(encoded[_STAMP_SIZE:_HEADER_SIZE]),
        body=encoded[_HEADER_SIZE:],
    )
    return Message(msg_id=msg_id, content=content, signed=encoded, signature=b"")
