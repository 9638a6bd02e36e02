"""How a message travels through this device: out from the application, in from the links, onto disk, to the events.

Drives the pure `Gossip` machine. Out: sign, store durably, push. In: the machine drops duplicates, `_judge` decides
once whether a new message is passed on, `run_inbox` stores in batches what was, and hands what is new to `apply`.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set

import attrs
import trio

from poolnet.clock import HybridClock
from poolnet.errors import DiskFull, LinkClosed, PoolnetError, ProtocolError, Unreachable, WireError
from poolnet.identity.authorship import sign_message, signature_is_valid
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import MAX_QUEUED_FRAMES, RECENT_MESSAGES
from poolnet.message_db import MessageDB
from poolnet.net.link import Link
from poolnet.protocol import gossip
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.randomness import RandomSource
from poolnet.timer import Timer
from poolnet.wire.bodies import (
    EPHEMERAL_KINDS,
    Body,
    OfferBody,
    ProfileBody,
    RetractOfferBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message, decode_message_untrusted, encode_message
from poolnet.wire.pool_frames import Gossip as GossipPush
from poolnet.wire.pool_frames import GossipHave, Graft, Prune

logger = logging.getLogger(__name__)

#: Kinds that a newcomer needs however old they are: who is called what, and what is on offer.
_STANDING_KINDS = (ProfileBody.KIND, OfferBody.KIND, RetractOfferBody.KIND)
_LARGEST_BATCH = 200
_DISK_FULL_RETRY_S = 5.0
#: How long `delivered` waits for messages of earlier sessions: two round trips of a slow path.
_BACKLOG_S = 1.0

GossipFrame = GossipPush | GossipHave | Graft | Prune


def now_ms() -> int:
    """Return this device's own idea of the time."""
    return time.time_ns() // 1_000_000


@attrs.frozen(kw_only=True)
class MessageStatistics:
    """Counts since the pool was joined."""

    sent: int
    received: int
    rejected: int
    held: int
    dropped: int


class MessageFlow:
    """Messages of one pool on this device.

    Args:
        nursery: owns the tasks that confirm delivery; outlives this object.
        correct_clock: called before a message is stamped, to bring `clock` up to date.
        apply: called with each message that is new here, in the order in which they were stored.
        apply_ephemeral: called with each message of a kind that is neither stored nor ordered.
        report: called with what goes wrong without anybody having asked.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        key: DeviceKey,
        membership: Membership,
        db: MessageDB,
        clock: HybridClock,
        correct_clock: Callable[[], None],
        rng: RandomSource,
        apply: Callable[[Message], None],
        apply_ephemeral: Callable[[Message], None],
        report: Callable[[PoolnetError], None],
    ) -> None:
        self._nursery = nursery
        self._key = key
        self._membership = membership
        self._db = db
        self._clock = clock
        self._correct_clock = correct_clock
        self._apply = apply
        self._apply_ephemeral = apply_ephemeral
        self._report = report
        self._gossip = gossip.Gossip(rng, self._judge)
        self._links: dict[DeviceId, Link] = {}
        self._judged: dict[MsgId, Message] = {}  # accepted and not yet delivered: nothing is decoded twice
        self._held = HeldMessages(clock)
        self._recent: deque[MsgId] = deque(maxlen=RECENT_MESSAGES)
        self._standing: dict[MsgId, None] = {}
        self._unconfirmed: set[MsgId] = set()  # own messages that no neighbour is known to have
        self._backlog: set[MsgId] = set()  # those of them from earlier sessions
        self._confirming: dict[DeviceId, set[MsgId]] = {}
        self._confirmed = trio.Condition()
        self._to_inbox, self._inbox = trio.open_memory_channel[Message](MAX_QUEUED_FRAMES)
        self._timer = Timer(self._next_deadline)
        self._sent = self._received = self._rejected = 0

    async def load(self) -> None:
        """Read from the database what was seen lately and what stands, and apply the latter."""
        standing = await self._db.of_kinds(_STANDING_KINDS)
        recent = await self._db.latest(RECENT_MESSAGES)
        self._clock.observe(await self._db.last_hlc())
        for message in [*standing, *recent]:
            self._remember(message)
            if message.author == self._key.device_id:
                self._unconfirmed.add(message.msg_id)
        self._backlog = self._unconfirmed.copy()
        self._gossip.mark_seen([*self._standing, *self._recent])
        for message in standing:
            self._apply(message)

    # --- out ----------------------------------------------------------------------------------------------------

    async def publish(self, body: Body) -> MsgId:
        """Sign, store (durably) and push a message; return its id once it is on this device's disk.

        Cancelling before it is stored leaves nothing; after, it is in the history and goes out with the next link.
        """
        message = self._sign(body)
        await self._db.append([message], durable=True)
        self._sent += 1
        self._remember(message)
        self._unconfirmed.add(message.msg_id)
        self._apply(message)
        self._push(message)
        return message.msg_id

    def publish_ephemeral(self, body: Body) -> None:
        """Sign and push a message that is not part of the history."""
        self._push(self._sign(body))

    async def delivered(self, timeout_s: float) -> None:
        """Wait until every message published so far has been consumed by at least one neighbour.

        Recent messages of earlier sessions are waited for as well, but only for a moment: a neighbour that has them may
        have no reason to say so.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        with trio.move_on_after(timeout_s):
            await self._wait_confirmed(self._unconfirmed - self._backlog)
            with trio.move_on_after(_BACKLOG_S):
                await self._wait_confirmed(self._backlog)
            return
        raise Unreachable(
            f"no other member confirmed the message within {round(timeout_s, 1):g} s; "
            "it is kept and goes out when one is there"
        )

    async def _wait_confirmed(self, messages: Set[MsgId]) -> None:
        async with self._confirmed:
            while messages & self._unconfirmed:
                await self._confirmed.wait()

    async def _confirm_all(self, messages: Iterable[MsgId]) -> None:
        if not self._unconfirmed.isdisjoint(messages):
            async with self._confirmed:
                self._unconfirmed.difference_update(messages)
                self._backlog &= self._unconfirmed
                self._confirmed.notify_all()

    def _sign(self, body: Body) -> Message:
        self._correct_clock()
        hlc = self._clock.tick(now_ms())
        return sign_message(self._key, pool_id=self._membership.pool_id, hlc=hlc, body=body)

    def _push(self, message: Message) -> None:
        self._feed(gossip.Publish(message.msg_id, encode_message(message)))

    # --- in -----------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """Begin to gossip with a peer that has all our statements."""
        self._links[link.peer] = link
        known = (*self._standing, *self._recent)
        self._feed(gossip.LinkUp(link.peer, tuple(dict.fromkeys(known))))

    def link_down(self, link: Link) -> None:
        """Stop gossiping over a link that closed."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._feed(gossip.LinkDown(link.peer))

    async def handle_frame(self, link: Link, frame: GossipFrame) -> None:
        """Take a gossip frame; waits while the inbox is full, which holds back that link.

        Raises:
            ProtocolError: the peer passed on something that no honest node passes on.
        """
        if isinstance(frame, GossipHave):
            await self._confirm_all(frame.ids)
        effects = self._feed(gossip.Received(link.peer, frame))
        await self._deliver(effects)
        for effect in effects:
            if isinstance(effect, gossip.Misbehaved) and effect.peer == link.peer:
                raise ProtocolError(effect.reason)

    async def _deliver(self, effects: Sequence[gossip.GossipEffect]) -> None:
        for effect in effects:
            match effect:
                case gossip.Deliver(msg_id=msg_id):
                    message = self._judged.pop(msg_id, None)
                    if message is not None:
                        await self._to_inbox.send(message)
                case gossip.Lookup(peer=peer, ids=ids):
                    found = tuple((m.msg_id, encode_message(m)) for m in await self._db.get(ids))
                    self._feed(gossip.Found(peer, found))
                case _:
                    pass  # frames are sent already, misbehaviour is the caller's business

    def _feed(self, event: gossip.GossipEvent) -> list[gossip.GossipEffect]:
        """Tell the machine something, send what it wants sent; return all that it said."""
        effects = self._gossip.handle(event, trio.current_time())
        self._send_frames(effects)
        self._timer.rearm()
        return effects

    def _send_frames(self, effects: Iterable[gossip.GossipEffect]) -> None:
        for effect in effects:
            if isinstance(effect, gossip.SendFrame) and (link := self._links.get(effect.peer)) is not None:
                try:
                    link.post_frame(effect.frame)
                except LinkClosed:
                    continue  # its own task notices and reports it
                if isinstance(effect.frame, GossipPush) and effect.frame.msg_id in self._unconfirmed:
                    self._confirm_later(link, effect.frame.msg_id)

    def _confirm_later(self, link: Link, msg_id: MsgId) -> None:
        if link.peer in self._confirming:
            self._confirming[link.peer].add(msg_id)
        else:
            self._confirming[link.peer] = {msg_id}
            self._nursery.start_soon(self._confirm, link)

    async def _confirm(self, link: Link) -> None:
        pending = self._confirming[link.peer]
        try:
            while pending:
                batch = frozenset(pending)
                pending.clear()
                await link.flushed()
                await self._confirm_all(batch)
        except LinkClosed:
            pass  # another link may confirm them
        finally:
            del self._confirming[link.peer]

    def _judge(self, msg_id: MsgId, encoded: bytes) -> gossip.Verdict:
        """Decide once about a message that is new here; called by the gossip machine."""
        try:
            message = decode_message_untrusted(encoded, self._membership.pool_id)
            if message.msg_id != msg_id:
                raise WireError("not the message it is said to be, or of another pool")
            if not self._membership.was_member(message.author):
                raise WireError("a message by somebody who never was a member")
            if not self._membership.may_have_written(message.author, message.content.hlc):
                return gossip.Verdict.DROP  # removed or left meanwhile, and the forwarder does not know yet
            if not signature_is_valid(message):
                raise WireError("a message that its author did not sign")
            decode_body_untrusted(message.content.kind, message.content.body)
        except WireError as exc:
            self._rejected += 1
            logger.info("rejected a message: %s", exc)
            return gossip.Verdict.REJECT
        if message.content.kind in EPHEMERAL_KINDS:
            self._apply_ephemeral(message)
        else:
            self._judged[msg_id] = message
        return gossip.Verdict.ACCEPT

    async def run_inbox(self) -> None:
        """Store what arrives, in batches, and apply what is new. Runs until cancelled."""
        async for first in self._inbox:
            batch = [first]
            while len(batch) < _LARGEST_BATCH:
                try:
                    batch.append(self._inbox.receive_nowait())
                except trio.WouldBlock:
                    break
            time_ms = now_ms()
            await self._store([message for message in batch if self._held.admit(message, time_ms)])
            self._timer.rearm()

    async def _store(self, messages: Sequence[Message]) -> None:
        for message in await self._append(messages):
            self._received += 1
            self._remember(message)
            self._apply(message)

    async def _append(self, messages: Sequence[Message]) -> list[Message]:
        """Append, trying again while the disk is full: meanwhile the inbox fills and holds back the links."""
        while True:
            try:
                return await self._db.append(messages)
            except DiskFull as exc:
                self._report(exc)
                await trio.sleep(_DISK_FULL_RETRY_S)

    def _remember(self, message: Message) -> None:
        if message.content.kind in _STANDING_KINDS:
            self._standing[message.msg_id] = None
        else:
            self._recent.append(message.msg_id)

    # --- time ---------------------------------------------------------------------------------------------------

    async def run_timer(self) -> None:
        """Graft what is missing, flush announcements, release held messages. Runs until cancelled."""
        while True:
            await self._timer.wait()
            effects = self._gossip.tick(trio.current_time())
            self._send_frames(effects)
            await self._deliver(effects)
            if due := self._held.release(now_ms()):
                await self._store(due)

    def _next_deadline(self) -> float | None:
        held_s = self._held.wait_s(now_ms())
        held = None if held_s is None else trio.current_time() + held_s
        return min((at for at in (self._gossip.next_deadline(), held) if at is not None), default=None)

    def statistics(self) -> MessageStatistics:
        """Return the counts since the pool was joined."""
        return MessageStatistics(
            sent=self._sent,
            received=self._received,
            rejected=self._rejected,
            held=len(self._held),
            dropped=self._held.dropped,
        )
