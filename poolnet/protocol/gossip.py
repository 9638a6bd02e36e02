"""Spreading messages to everyone: Plumtree over the links that the mesh keeps.

Source: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (2007). A message is pushed over *eager* links and only
announced over *lazy* ones. Links start eager; one that brings a duplicate is pruned to lazy, so the eager links become
a tree. A message that was announced and does not come is grafted: asked for, and its link made eager again, which
mends the tree. So a message costs one payload a node, and a lost link or node costs a delay, not the message.

Additions to the paper: a message is neither pushed nor announced to a peer known to have it; an answer that was asked
for is never pruned; asking is paced and bounded (missing.py).

What was said while somebody was away does not come this way: histories are compared (agreement.py), and what is fetched
then is told here (`Fetched`), so that it is judged like any message, but it is not spread along the tree.

Ids are compared before a message is decoded; `judge` decodes and verifies, once for each message. History is not kept
here beyond a cache: older messages that are grafted come from the database through `Lookup` and `Found`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import assert_never

import attrs

from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    GRAFT_RETRY_S,
    GRAFT_WINDOW,
    GUEST_FLUSH_S,
    MAX_GOSSIP_CACHE,
    MAX_GOSSIP_FLUSH_S,
    MAX_IDS_PER_FRAME,
    MAX_SEEN_IDS,
    MIN_GOSSIP_FLUSH_S,
)
from poolnet.protocol.gossip_events import (
    Deferred,
    Deliver,
    Fetched,
    Found,
    GossipEffect,
    GossipEvent,
    GossipFrame,
    LinkDown,
    LinkUp,
    Lookup,
    Misbehaved,
    Publish,
    Received,
    SendFrame,
    Verdict,
)
from poolnet.protocol.missing import MissingMessages
from poolnet.protocol.randomness import RandomSource
from poolnet.wire import pool_frames as frames

__all__ = [
    "Deferred",
    "Deliver",
    "Fetched",
    "Found",
    "Gossip",
    "GossipEffect",
    "GossipEvent",
    "GossipFrame",
    "GossipStatistics",
    "LinkDown",
    "LinkUp",
    "Lookup",
    "Misbehaved",
    "Publish",
    "Received",
    "SendFrame",
    "Verdict",
]

_MAX_HOPS = 255
#: How soon it is told again that a peer brings what is not taken now.
_DEFERRED_AGAIN_S = 1.0


@attrs.frozen
class GossipStatistics:
    """Counts since the machine was made, and sizes now."""

    eager_links: int
    lazy_links: int
    published: int
    delivered: int
    duplicates: int
    refused: int
    deferred: int
    grafts: int
    prunes: int
    missing: int
    given_up: int
    ignored_announcements: int


@attrs.define
class _Peer:
    is_eager: bool = True
    is_lasting: bool = True
    pruned_at: float = float("-inf")
    deferred_at: float = float("-inf")  # when that was told last
    to_announce: dict[MsgId, None] = attrs.Factory(dict)


class Gossip:
    """The gossip of one node in one pool.

    Args:
        rng: for the order in which links are served, so that no neighbour is always the first, and for when
            announcements go out.
        identify: returns the id of an encoded message, without checking more of it than that takes. Raises `WireError`
            if it is none.
        judge: decodes and verifies a message; called for each copy of a message until one is accepted or dropped. Must
            not raise.
        judge_fetched: the same for what was asked for because the history lacks it; without it, `judge`.
    """

    def __init__(
        self,
        rng: RandomSource,
        identify: Callable[[bytes], MsgId],
        judge: Callable[[MsgId, bytes], Verdict],
        *,
        judge_fetched: Callable[[MsgId, bytes], Verdict] | None = None,
    ) -> None:
        self._rng = rng
        self._identify = identify
        self._judge = judge
        self._judge_fetched = judge_fetched or judge
        self._peers: dict[DeviceId, _Peer] = {}
        self._missing = MissingMessages()
        self._seen: OrderedDict[MsgId, None] = OrderedDict()  # the least recently met first
        self._cache: OrderedDict[MsgId, tuple[bytes, int]] = OrderedDict()  # message and its hops; the oldest first
        self._flush_at: dict[bool, float] = {}  # of links that last, and of others: when to announce next
        self._published = self._delivered = self._duplicates = self._refused = self._deferred = 0
        self._grafts = self._prunes = 0

    def handle(self, event: GossipEvent, now: float) -> list[GossipEffect]:
        """Take note of an event and return what to do, in order."""
        match event:
            case Received(peer, frame):
                return self._on_frame(peer, frame, now) if peer in self._peers else []
            case Publish(msg_id, message):
                return self._on_publish(msg_id, message, now)
            case LinkUp(peer, is_eager):
                self._drop_link(peer)
                self._peers[peer] = _Peer(is_eager=is_eager, is_lasting=is_eager)
                self._missing.link_up(peer)
                return self._ask(now)
            case LinkDown(peer):
                self._drop_link(peer)
                return self._ask(now)
            case Fetched(peer, msg_id, message):
                return self._on_fetched(peer, msg_id, message, now)
            case Found(peer, messages):
                if peer not in self._peers:
                    return []
                return [_push(peer, msg_id, message, 0) for msg_id, message in messages]
            case _:
                assert_never(event)

    def mark_seen(self, ids: Iterable[MsgId]) -> None:
        """Take note of messages that this node has from elsewhere: they are not fetched, and served when grafted."""
        for msg_id in ids:
            self._missing.arrived(msg_id)
            self._remember(msg_id)

    def knows(self, msg_id: MsgId) -> bool:
        """Return whether a message was met, or told by `mark_seen`, not too many others ago."""
        return msg_id in self._seen

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        asking_at = self._missing.next_deadline()
        deadlines = [*self._flush_at.values(), *([] if asking_at is None else [asking_at])]
        return min(deadlines, default=None)

    def tick(self, now: float) -> list[GossipEffect]:
        """Do what is due."""
        effects: list[GossipEffect] = []
        for is_lasting in [is_lasting for is_lasting, flush_at in self._flush_at.items() if flush_at <= now]:
            del self._flush_at[is_lasting]
            for peer, state in self._peers.items():
                if state.is_lasting == is_lasting:
                    self._announce(peer, effects)
        return effects + self._ask(now)

    def statistics(self) -> GossipStatistics:
        """Return counts and sizes."""
        eager = sum(state.is_eager for state in self._peers.values())
        return GossipStatistics(
            eager_links=eager,
            lazy_links=len(self._peers) - eager,
            published=self._published,
            delivered=self._delivered,
            duplicates=self._duplicates,
            refused=self._refused,
            deferred=self._deferred,
            grafts=self._grafts,
            prunes=self._prunes,
            missing=len(self._missing),
            given_up=self._missing.given_up,
            ignored_announcements=self._missing.ignored,
        )

    def _drop_link(self, peer: DeviceId) -> None:
        if self._peers.pop(peer, None) is not None:
            self._missing.link_down(peer)

    # --- frames -------------------------------------------------------------------------------------------------

    def _on_frame(self, peer: DeviceId, frame: GossipFrame, now: float) -> list[GossipEffect]:
        match frame:
            case frames.Gossip():
                return self._on_gossip(peer, frame, now)
            case frames.GossipHave(ids=ids):
                self._on_have(peer, ids, now)
                return []
            case frames.Graft(ids=ids):
                self._peers[peer].is_eager = True
                return self._on_graft(peer, ids)
            case frames.Prune():
                self._peers[peer].is_eager = False
                return []
            case _:
                assert_never(frame)

    def _on_gossip(self, peer: DeviceId, frame: frames.Gossip, now: float) -> list[GossipEffect]:
        state = self._peers[peer]
        try:
            msg_id = self._identify(frame.message)
        except WireError as exc:
            self._refused += 1
            return [Misbehaved(peer, str(exc))]
        state.to_announce.pop(msg_id, None)
        was_asked = self._missing.answered(peer, msg_id, now)
        if msg_id in self._seen:
            self._duplicates += 1
            self._seen.move_to_end(msg_id)
            effects = [] if was_asked else self._prune(peer, now)
        else:
            match self._judge(msg_id, frame.message):
                case Verdict.REJECT:
                    self._refused += 1
                    self._missing.spoiled(peer, msg_id)
                    return [Misbehaved(peer, "a message that is not acceptable"), *self._ask(now)]
                case Verdict.DROP:
                    self._refused += 1
                    self._missing.arrived(msg_id)
                    self._remember(msg_id)
                    effects = []
                case Verdict.DEFER:
                    self._missing.arrived(msg_id)
                    effects = self._defer(peer, msg_id, now)
                case Verdict.ACCEPT:
                    state.is_eager |= not was_asked  # it pushes to us, so we push to it
                    effects = self._on_new(peer, msg_id, frame, now)
        if was_asked and self._missing.has_room(peer):
            effects += self._ask(now)
        return effects

    def _on_new(self, peer: DeviceId, msg_id: MsgId, frame: frames.Gossip, now: float) -> list[GossipEffect]:
        self._delivered += 1
        knowing = {peer, *self._missing.arrived(msg_id)}
        effects: list[GossipEffect] = [Deliver(msg_id, frame.message, peer, frame.hops)]
        return effects + self._spread(msg_id, frame.message, frame.hops, knowing, now)

    def _defer(self, peer: DeviceId, msg_id: MsgId, now: float) -> list[GossipEffect]:
        """Count a message that was not taken; tell of the first of many, which cost next to nothing then."""
        self._deferred += 1
        state = self._peers.get(peer)
        if state is not None:
            if now < state.deferred_at + _DEFERRED_AGAIN_S:
                return []
            state.deferred_at = now
        return [Deferred(peer, msg_id)]

    def _on_fetched(self, peer: DeviceId, msg_id: MsgId, message: bytes, now: float) -> list[GossipEffect]:
        match self._judge_fetched(msg_id, message):
            case Verdict.REJECT:
                self._refused += 1
                return [Misbehaved(peer, "a message that is not acceptable")]
            case Verdict.DROP:
                self._refused += 1
                self.mark_seen([msg_id])
                return []
            case Verdict.DEFER:
                return self._defer(peer, msg_id, now)
            case Verdict.ACCEPT:
                self._delivered += 1
                self.mark_seen([msg_id])
                return [Deliver(msg_id, message, peer, 0)]

    def _on_publish(self, msg_id: MsgId, message: bytes, now: float) -> list[GossipEffect]:
        if msg_id in self._seen:
            return []
        self._published += 1
        return self._spread(msg_id, message, 0, self._missing.arrived(msg_id), now)

    def _on_have(self, peer: DeviceId, ids: tuple[MsgId, ...], now: float) -> None:
        state = self._peers[peer]
        for msg_id in ids:
            state.to_announce.pop(msg_id, None)
        lacking = [msg_id for msg_id in ids if msg_id not in self._seen]
        self._missing.announced(peer, lacking, now)

    def _on_graft(self, peer: DeviceId, ids: tuple[MsgId, ...]) -> list[GossipEffect]:
        """Answer the first `GRAFT_WINDOW` ids; whoever asks for more at once does not keep to the protocol."""
        effects: list[GossipEffect] = []
        elsewhere: list[MsgId] = []
        for msg_id in ids[:GRAFT_WINDOW]:
            self._peers[peer].to_announce.pop(msg_id, None)
            cached = self._cache.get(msg_id)
            if cached is not None:
                effects.append(_push(peer, msg_id, *cached))
            elif msg_id in self._seen:
                elsewhere.append(msg_id)
        if elsewhere:
            effects.append(Lookup(peer, tuple(elsewhere)))
        return effects

    # --- the tree -----------------------------------------------------------------------------------------------

    def _spread(
        self, msg_id: MsgId, message: bytes, hops: int, knowing: Iterable[DeviceId], now: float
    ) -> list[GossipEffect]:
        """Remember a message, push it over eager links and note it for the next announcement on lazy ones."""
        self._remember(msg_id)
        self._cache[msg_id] = (message, hops)
        if len(self._cache) > MAX_GOSSIP_CACHE:
            self._cache.popitem(last=False)
        effects: list[GossipEffect] = []
        frame = frames.Gossip(hops=min(hops + 1, _MAX_HOPS), message=message)
        peers = [peer for peer in self._peers if peer not in knowing]
        self._rng.shuffle(peers)
        for peer in peers:
            state = self._peers[peer]
            if state.is_eager:
                effects.append(SendFrame(peer, frame, msg_id))
                continue
            state.to_announce[msg_id] = None
            if len(state.to_announce) >= MAX_IDS_PER_FRAME:
                self._announce(peer, effects)
            elif state.is_lasting not in self._flush_at:
                wait_s = MIN_GOSSIP_FLUSH_S + (MAX_GOSSIP_FLUSH_S - MIN_GOSSIP_FLUSH_S) * self._rng.random()
                self._flush_at[state.is_lasting] = now + (wait_s if state.is_lasting else GUEST_FLUSH_S)
        return effects

    def _announce(self, peer: DeviceId, effects: list[GossipEffect]) -> None:
        state = self._peers[peer]
        if state.to_announce:
            effects.append(SendFrame(peer, frames.GossipHave(ids=tuple(state.to_announce))))
            state.to_announce.clear()

    def _prune(self, peer: DeviceId, now: float) -> list[GossipEffect]:
        """Ask `peer` to announce only; not again for what was under way when it was asked."""
        state = self._peers[peer]
        if not state.is_eager and now < state.pruned_at + GRAFT_RETRY_S:
            return []
        state.is_eager = False
        state.pruned_at = now
        self._prunes += 1
        return [SendFrame(peer, frames.Prune())]

    def _ask(self, now: float) -> list[GossipEffect]:
        effects: list[GossipEffect] = []
        for ask in self._missing.to_ask(now):
            self._grafts += 1
            self._peers[ask.peer].is_eager = True
            effects.append(SendFrame(ask.peer, frames.Graft(ids=ask.ids)))
        return effects

    def _remember(self, msg_id: MsgId) -> None:
        self._seen[msg_id] = None
        self._seen.move_to_end(msg_id)
        if len(self._seen) > MAX_SEEN_IDS:
            self._seen.popitem(last=False)


def _push(peer: DeviceId, msg_id: MsgId, message: bytes, hops: int) -> SendFrame:
    return SendFrame(peer, frames.Gossip(hops=min(hops + 1, _MAX_HOPS), message=message), msg_id)
