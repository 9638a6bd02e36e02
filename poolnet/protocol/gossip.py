"""Spreading messages to everyone: Plumtree over the links that the mesh keeps.

Source: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (2007). A message is pushed over *eager* links and only
announced over *lazy* ones. Links start eager; one that brings a duplicate is pruned to lazy, so the eager links become
a tree. A message that was announced and does not come is grafted: asked for, and its link made eager again, which
mends the tree. So a message costs one payload a node, and a lost link or node costs a delay, not the message.

Additions to the paper:

- Each side begins a new link with `GossipHave` frames that list what it has of late; the first that is not full ends
  the list (it may be empty). A newcomer and the two halves of a healed partition catch up by it. What is known only
  from such lists is pulled without touching the tree.
- A message is neither pushed nor announced to a peer known to have it; an answer that was asked for is never pruned.
- Asking is paced and bounded (missing.py).

Ids are compared before anything is decoded; `judge` decodes and verifies, once for each message. History is not kept
here beyond a cache: older messages that are grafted come from the database through `Lookup` and `Found`.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import assert_never

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    GOSSIP_FLUSH_S,
    GRAFT_RETRY_S,
    GRAFT_WINDOW,
    MAX_GOSSIP_CACHE,
    MAX_IDS_PER_FRAME,
    MAX_MISSING_PER_LINK,
    MAX_SEEN_IDS,
)
from poolnet.protocol.missing import MissingMessages
from poolnet.protocol.randomness import RandomSource
from poolnet.wire import pool_frames as frames

GossipFrame = frames.Gossip | frames.GossipHave | frames.Graft | frames.Prune

_MAX_HOPS = 255


class Verdict(enum.Enum):
    """What becomes of a message that is new here."""

    #: Delivered and passed on.
    ACCEPT = enum.auto()
    #: Ignored without blame: true once, but not any more, and whoever passed it on may not know yet.
    DROP = enum.auto()
    #: Ignored, and whoever passed it on broke the protocol. It may still come, unspoiled, from others.
    REJECT = enum.auto()


# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class LinkUp:
    """A proven link to `peer`; replaces an earlier one.

    `recent`: what this node has of late, in the order in which others should fetch it. Of more than
    `MAX_MISSING_PER_LINK`, which is what others take note of, the last are announced.
    """

    peer: DeviceId
    recent: tuple[MsgId, ...] = ()


@attrs.frozen
class LinkDown:
    """The link to `peer` is gone, and with it everything sent that has not arrived."""

    peer: DeviceId


@attrs.frozen
class Received:
    """A gossip frame from `peer`. Ignored from a peer without a link."""

    peer: DeviceId
    frame: GossipFrame


@attrs.frozen
class Publish:
    """Spread this node's own message. It is not delivered back."""

    msg_id: MsgId
    message: bytes


@attrs.frozen
class Found:
    """The answer to `Lookup`: those of the messages that the database has."""

    peer: DeviceId
    messages: tuple[tuple[MsgId, bytes], ...]


# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class SendFrame:
    """Send a frame. The same object goes to several peers where it can, so that it need be encoded only once."""

    peer: DeviceId
    frame: GossipFrame


@attrs.frozen
class Deliver:
    """A message of another node, accepted, for the first time. `peer` brought it, over `hops` links in all."""

    msg_id: MsgId
    message: bytes
    peer: DeviceId
    hops: int


@attrs.frozen
class Lookup:
    """`peer` asks for messages that are no longer in memory: look in the database and answer with `Found`."""

    peer: DeviceId
    ids: tuple[MsgId, ...]


@attrs.frozen
class Misbehaved:
    """`peer` sent a message that no honest node passes on. It was ignored, and may come again from others."""

    peer: DeviceId
    reason: str


GossipEvent = LinkUp | LinkDown | Received | Publish | Found
GossipEffect = SendFrame | Deliver | Lookup | Misbehaved


@attrs.frozen
class GossipStatistics:
    """Counts since the machine was made, and sizes now."""

    eager_links: int
    lazy_links: int
    published: int
    delivered: int
    duplicates: int
    refused: int
    grafts: int
    prunes: int
    missing: int
    given_up: int
    ignored_announcements: int


@attrs.define
class _Peer:
    is_eager: bool = True
    has_announced: bool = False  # the list that begins a link has come
    pruned_at: float = float("-inf")
    to_announce: dict[MsgId, None] = attrs.Factory(dict)


class Gossip:
    """The gossip of one node in one pool.

    Args:
        rng: for the order in which links are served, so that no neighbour is always the first.
        judge: decodes and verifies a message; called for each copy of a message until one is accepted or dropped. Must
            not raise.
    """

    def __init__(self, rng: RandomSource, judge: Callable[[MsgId, bytes], Verdict]) -> None:
        self._rng = rng
        self._judge = judge
        self._peers: dict[DeviceId, _Peer] = {}
        self._missing = MissingMessages()
        self._seen: OrderedDict[MsgId, None] = OrderedDict()  # the least recently met first
        self._cache: OrderedDict[MsgId, tuple[bytes, int]] = OrderedDict()  # message and its hops; the oldest first
        self._flush_at: float | None = None
        self._published = self._delivered = self._duplicates = self._refused = self._grafts = self._prunes = 0

    def handle(self, event: GossipEvent, now: float) -> list[GossipEffect]:
        """Take note of an event and return what to do, in order."""
        match event:
            case Received(peer, frame):
                return self._on_frame(peer, frame, now) if peer in self._peers else []
            case Publish(msg_id, message):
                return self._on_publish(msg_id, message, now)
            case LinkUp(peer, recent):
                return self._on_link_up(peer, recent)
            case LinkDown(peer):
                self._drop_link(peer)
                return self._ask(now)
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

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        asking_at = self._missing.next_deadline()
        if asking_at is None or self._flush_at is None:
            return self._flush_at if asking_at is None else asking_at
        return min(asking_at, self._flush_at)

    def tick(self, now: float) -> list[GossipEffect]:
        """Do what is due."""
        effects: list[GossipEffect] = []
        if self._flush_at is not None and self._flush_at <= now:
            self._flush_at = None
            for peer in self._peers:
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
            grafts=self._grafts,
            prunes=self._prunes,
            missing=len(self._missing),
            given_up=self._missing.given_up,
            ignored_announcements=self._missing.ignored,
        )

    # --- links --------------------------------------------------------------------------------------------------

    def _on_link_up(self, peer: DeviceId, recent: tuple[MsgId, ...]) -> list[GossipEffect]:
        self._drop_link(peer)
        self._peers[peer] = _Peer()
        self._missing.link_up(peer)
        recent = recent[-MAX_MISSING_PER_LINK:]
        for msg_id in recent:
            self._remember(msg_id)
        starts = range(0, len(recent) + 1, MAX_IDS_PER_FRAME)
        return [SendFrame(peer, frames.GossipHave(ids=recent[start : start + MAX_IDS_PER_FRAME])) for start in starts]

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
            case frames.Graft(ids=ids, eager=eager):
                self._peers[peer].is_eager |= eager
                return self._on_graft(peer, ids)
            case frames.Prune():
                self._peers[peer].is_eager = False
                return []
            case _:
                assert_never(frame)

    def _on_gossip(self, peer: DeviceId, frame: frames.Gossip, now: float) -> list[GossipEffect]:
        state = self._peers[peer]
        msg_id = frame.msg_id
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
                case Verdict.ACCEPT:
                    state.is_eager |= not was_asked  # it pushes to us, so we push to it
                    effects = self._on_new(peer, frame, now)
        if was_asked and self._missing.has_room(peer):
            effects += self._ask(now)
        return effects

    def _on_new(self, peer: DeviceId, frame: frames.Gossip, now: float) -> list[GossipEffect]:
        self._delivered += 1
        knowing = {peer, *self._missing.arrived(frame.msg_id)}
        effects: list[GossipEffect] = [Deliver(frame.msg_id, frame.message, peer, frame.hops)]
        return effects + self._spread(frame.msg_id, frame.message, frame.hops, knowing, now)

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
        self._missing.announced(peer, lacking, now, is_catch_up=not state.has_announced)
        state.has_announced |= len(ids) < MAX_IDS_PER_FRAME

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
        frame = frames.Gossip(msg_id=msg_id, hops=min(hops + 1, _MAX_HOPS), message=message)
        peers = [peer for peer in self._peers if peer not in knowing]
        self._rng.shuffle(peers)
        for peer in peers:
            state = self._peers[peer]
            if state.is_eager:
                effects.append(SendFrame(peer, frame))
                continue
            state.to_announce[msg_id] = None
            if len(state.to_announce) >= MAX_IDS_PER_FRAME:
                self._announce(peer, effects)
            elif self._flush_at is None:
                self._flush_at = now + GOSSIP_FLUSH_S
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
            self._peers[ask.peer].is_eager |= ask.is_repair
            effects.append(SendFrame(ask.peer, frames.Graft(ids=ask.ids, eager=ask.is_repair)))
        return effects

    def _remember(self, msg_id: MsgId) -> None:
        self._seen[msg_id] = None
        self._seen.move_to_end(msg_id)
        if len(self._seen) > MAX_SEEN_IDS:
            self._seen.popitem(last=False)


def _push(peer: DeviceId, msg_id: MsgId, message: bytes, hops: int) -> SendFrame:
    return SendFrame(peer, frames.Gossip(msg_id=msg_id, hops=min(hops + 1, _MAX_HOPS), message=message))
