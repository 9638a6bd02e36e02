"""Nodes that misbehave, behind the interface of an honest one: what honest machines have to survive.

A liar is a member like any other: it has a place on the rings, is dialled and dials. Inside it runs honest machines, so
that it takes part in everything; what they send is changed on its way out, or not sent, and it says things of its own.
It says nothing that a decoder would refuse: that is a matter for tests of decoders.

A lie that can be told from the truth is blamed on the liar (`SimNode.misbehaviour` of others): altered messages, wrong
pieces, some claims in comparisons. The others only cost what they may cost. A liar lies to each peer now and then and
not always, which is harder to bear.
"""

import contextlib
import enum
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import attrs

from poolnet.errors import StoreError
from poolnet.ids import ID_SIZE, DeviceId, FileId, MsgId
from poolnet.limits import CHUNK_SIZE, MAX_IDS_PER_FRAME
from poolnet.protocol.hash_tree import shape_of
from poolnet.ranges import Ranges, RangeSet
from poolnet.testing import sim_messages
from poolnet.testing.sim_files import SimPiece
from poolnet.testing.sim_network import SimNetwork
from poolnet.testing.sim_node import NodeSettings, SimNode
from poolnet.testing.sim_server import SimSyncServer
from poolnet.wire import pool_frames as frames
from poolnet.wire import swarm_frames
from poolnet.wire.claims import Claim, Equal, Fingerprint, Listing, More
from poolnet.wire.link_frames import Ping

#: How often a liar says something of its own.
_TURN_S = 1.0
#: What is said again later.
_MEMORY = 50
_DAY_MS = 86_400_000
#: Frames with which a node gives something to others, or says that it would.
_GIVING = (frames.Gossip, frames.GossipHave, frames.Messages)


class Lie(enum.Enum):
    """One way to misbehave."""

    #: Promises pieces and does not send them.
    EMPTY_PROMISES = enum.auto()
    #: Sends pieces that are not genuine.
    WRONG_PIECES = enum.auto()
    #: Announces pieces that it lacks, and promises them.
    FALSE_HAVES = enum.auto()
    #: Forwards messages that it has altered.
    ALTERED_MESSAGES = enum.auto()
    #: Sends once more what it sent before.
    REPLAYS = enum.auto()
    #: Sends announcements, interests, wants and pieces that nobody asked for, and messages without end.
    FLOOD = enum.auto()
    #: Claims in comparisons what is not so.
    FALSE_COMPARISONS = enum.auto()
    #: Dials whoever is there, and accepts everyone.
    CROWD = enum.auto()
    #: Says a wrong time, and another to each.
    WRONG_TIME = enum.auto()
    #: Offers files of others, with wrong sizes.
    FALSE_SIZES = enum.auto()
    #: Passes nothing on, gives nothing, and says in every comparison that all is equal: what it is told ends with it.
    SILENCE = enum.auto()
    #: Tells the server of all its neighbours that they break the rules.
    SLANDER = enum.auto()
    #: Links itself, with all others of its kind, to one node, so that this one has no other neighbours.
    SURROUND = enum.auto()


ALL_LIES = frozenset(Lie)


class SimLiar(SimNode):
    """A node that misbehaves.

    Args:
        lies: in which ways.
        rate: which part of what it could lie about it lies about.
    """

    is_liar = True

    def __init__(
        self,
        network: SimNetwork,
        server: SimSyncServer,
        settings: NodeSettings,
        *,
        lies: Collection[Lie] = ALL_LIES,
        rate: float = 0.3,
    ) -> None:
        self.lies = frozenset(lies)
        self.rate = rate
        self._lies_rng = network.random_for(f"lies of {settings.host_id.hex()}")
        self._said: deque[tuple[DeviceId, Any]] = deque(maxlen=_MEMORY)
        super().__init__(network, server, settings)

    def join(self) -> None:
        """Enter the network, and begin to lie."""
        super().join()
        self._network.call_later(_TURN_S, partial(self._take_turn, self.life))

    def may_accept(self, peer: DeviceId) -> bool:
        """Accept everyone, to be in the middle of everything."""
        return Lie.SURROUND in self.lies or self._lies(Lie.CROWD) or super().may_accept(peer)

    def received(self, peer: DeviceId, frame: Any) -> None:
        """Take a frame as an honest node does, unless there is something better to say."""
        match frame:
            case Ping():
                return  # it knows better than to believe other liars
            case swarm_frames.Interest(file_id=file_id, interested=True) if Lie.FALSE_HAVES in self.lies:
                self._claim_to_have(peer, file_id)
            case swarm_frames.Want() if Lie.FALSE_HAVES in self.lies and self._lies():
                self._promise_anything(peer, frame)
                return
        super().received(peer, frame)

    # --- what its machines say, and what becomes of it ----------------------------------------------------------

    def _send(self, peer: DeviceId, frame: Any) -> None:
        if Lie.SILENCE in self.lies:
            if isinstance(frame, _GIVING):
                return
            frame = _all_is_equal(frame)
        frame = self._alter(frame)
        if Lie.REPLAYS in self.lies:
            self._said.append((peer, frame))
        super()._send(peer, frame)

    def _alter(self, frame: Any) -> Any:
        match frame:
            case frames.Gossip() if self._lies(Lie.ALTERED_MESSAGES):
                return attrs.evolve(frame, message=self._altered(frame.message))
            case frames.Messages() if frame.messages and self._lies(Lie.ALTERED_MESSAGES):
                return attrs.evolve(frame, messages=tuple(self._altered(message) for message in frame.messages))
            case frames.Compare() if self._lies(Lie.FALSE_COMPARISONS):
                return attrs.evolve(frame, claims=tuple(self._false_claim(claim) for claim in frame.claims))
            case frames.OpenComparison() if self._lies(Lie.FALSE_COMPARISONS):
                return attrs.evolve(frame, fingerprint=self._lies_rng.randbytes(len(frame.fingerprint)))
            case Ping() if self._lies(Lie.WRONG_TIME):
                return attrs.evolve(frame, unix_ms=frame.unix_ms + self._lies_rng.randint(-_DAY_MS, _DAY_MS))
        return frame

    def _altered(self, message: bytes) -> bytes:
        return message[:-1] + bytes([message[-1] ^ 1])

    def _false_claim(self, claim: Claim) -> Claim:
        rng = self._lies_rng
        match claim:
            case Equal(upper):
                return Fingerprint(upper, rng.randbytes(16)) if rng.random() < 0.5 else More(upper, self._ids(3))
            case Fingerprint(upper):
                return Equal(upper) if rng.random() < 0.5 else Listing(upper, self._ids(5))
            case Listing(upper, ids):
                return Listing(upper, ids[::2] + self._ids(2))
            case More(upper, ids):
                return More(upper, ids[::2] + self._ids(2))

    def _send_piece(self, peer: DeviceId, item: SimPiece, size_bytes: int, sent: Callable[[], None]) -> None:
        if Lie.SILENCE in self.lies or self._lies(Lie.EMPTY_PROMISES):
            self._network.call_later(0.001, sent)
            return
        if self._lies(Lie.WRONG_PIECES):
            item = attrs.evolve(item, is_genuine=False)
        super()._send_piece(peer, item, size_bytes, sent)

    # --- what it says by itself ---------------------------------------------------------------------------------

    def _take_turn(self, life: Any) -> None:
        if life.is_over:
            return
        self._network.call_later(_TURN_S, partial(self._take_turn, life))
        peers = sorted(self.mesh.linked)
        if Lie.CROWD in self.lies:
            self._crowd()
        if Lie.SURROUND in self.lies:
            self._surround()
        if Lie.SLANDER in self.lies:
            self._slander()
        if self.store.offers and self._lies(Lie.FALSE_SIZES):
            self._offer_falsely()
        if not peers:
            return
        if self._said and self._lies(Lie.REPLAYS):
            _, frame = self._lies_rng.choice(self._said)
            super()._send(self._lies_rng.choice(peers), frame)
        if self._lies(Lie.FLOOD):
            self._flood(self._lies_rng.choice(peers))

    def _crowd(self) -> None:
        """Link itself to everyone, and never let go."""
        strangers = sorted(self.roster.nodes - self.mesh.linked - {self.host_id})
        if strangers:
            self._network.dial(self.host_id, self._lies_rng.choice(strangers))

    def _surround(self) -> None:
        """Link itself to the one that all of its kind choose, wherever it is on the rings: who spoke first."""
        first = next(iter(self.keys), None)
        victim = None if first is None else sim_messages.author_of(self.history[first[1]])
        if victim is not None and victim in self.roster.nodes - self.mesh.linked - {self.host_id}:
            self._network.dial(self.host_id, victim)

    def _slander(self) -> None:
        """Complain about all neighbours; the server hears as many complaints as it hears of anybody."""
        for peer in sorted(self.roster.neighbours(self.host_id)):
            self._server.complain(self, peer)

    def _offer_falsely(self) -> None:
        rng = self._lies_rng
        file_id = rng.choice(sorted(self.store.offers))
        with contextlib.suppress(StoreError):
            self.publish(sim_messages.offer_text(file_id, rng.choice((1, CHUNK_SIZE, rng.randrange(1, 2**40)))))

    def _flood(self, peer: DeviceId) -> None:
        """Make a peer keep and look up as much as the protocol lets it."""
        rng = self._lies_rng
        file_id = FileId(rng.randbytes(ID_SIZE))
        pieces = RangeSet.of(rng.randrange(10_000) for _ in range(100)).to_ranges()
        everything = (
            frames.GossipHave(ids=self._ids(MAX_IDS_PER_FRAME)),
            frames.Graft(ids=self._ids(32)),
            swarm_frames.Have(file_id=file_id, pieces=pieces),
            swarm_frames.Promise(file_id=file_id, pieces=pieces),
            swarm_frames.Withdraw(file_id=file_id, pieces=pieces),
            swarm_frames.Unwant(file_id=file_id, pieces=pieces),
            *(swarm_frames.Interest(file_id=FileId(each), interested=True, hops=9) for each in self._ids(20)),
            swarm_frames.Want(file_id=file_id, pieces=pieces, count=64, hops=9),
            swarm_frames.Relay(file_id=file_id, hops=1),
        )
        for frame in everything:
            super()._send(peer, frame)
        super()._send_piece(peer, SimPiece(file_id, 0), 1000, lambda: None)
        with contextlib.suppress(StoreError):
            for _ in range(5):
                self.publish(rng.randbytes(20))

    def _claim_to_have(self, peer: DeviceId, file_id: FileId) -> None:
        if (pieces := self._all_pieces(file_id)) is not None:
            super()._send(peer, swarm_frames.Have(file_id=file_id, pieces=pieces))

    def _promise_anything(self, peer: DeviceId, want: swarm_frames.Want) -> None:
        """Promise what is asked for, whether or not it is here, and send rubbish, if anything."""
        promised = RangeSet.from_ranges(want.pieces).first(want.count)
        super()._send(peer, swarm_frames.Promise(file_id=want.file_id, pieces=promised.to_ranges()))
        sizes = self.store.offers.get(want.file_id)
        if not sizes or Lie.WRONG_PIECES not in self.lies:
            return
        file_bytes = next(iter(sizes.values()))
        shape = shape_of(file_bytes)
        for piece in promised:
            if piece < shape.piece_count and self._lies():
                item = SimPiece(want.file_id, piece, is_genuine=False, file_bytes=file_bytes)
                super()._send_piece(peer, item, shape.piece_size(piece), lambda: None)

    # --- dice ---------------------------------------------------------------------------------------------------

    def _lies(self, lie: Lie | None = None) -> bool:
        return (lie is None or lie in self.lies) and self._lies_rng.random() < self.rate

    def _ids(self, count: int) -> tuple[MsgId, ...]:
        return tuple(MsgId(self._lies_rng.randbytes(ID_SIZE)) for _ in range(count))

    def _all_pieces(self, file_id: FileId) -> Ranges | None:
        sizes = self.store.offers.get(file_id)
        return ((0, shape_of(next(iter(sizes.values()))).piece_count),) if sizes else None


def _all_is_equal(frame: Any) -> Any:
    """Return a frame that claims, whatever is different, that nothing is."""
    if isinstance(frame, frames.Compare) and frame.claims:
        return attrs.evolve(frame, claims=(Equal(frame.claims[-1].upper),))
    return frame
