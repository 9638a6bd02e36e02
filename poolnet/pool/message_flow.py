"""How a message travels through this device: out from the application, in from the links, onto disk, to the events.

Out: sign, store durably, push along the gossip tree. In: gossip drops duplicates and pushes on what the `Inbox`
accepts; the inbox stores it in batches and hands what is new to `apply`. What gossip cannot bring, because one side was
not there, the `AgreementKeeper` finds by comparing histories, and it goes through the same inbox.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import attrs
import trio

from poolnet.errors import BadSignature, LinkClosed, PoolnetError, StoreError, Unreachable
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import EXPIRY_INTERVAL_S, RECENT_MESSAGES
from poolnet.message_db import STANDING_KINDS, MessageDB
from poolnet.net.link import Link
from poolnet.pool.agreement_keeper import AgreementFrame, AgreementKeeper
from poolnet.pool.clock_keeper import ClockKeeper
from poolnet.pool.delivery import DeliveryBook
from poolnet.pool.inbox import Inbox
from poolnet.pool.publish_pace import PublishPace
from poolnet.pool.storing import until_stored
from poolnet.protocol import gossip
from poolnet.protocol.randomness import RandomSource
from poolnet.timer import Timer
from poolnet.wire.bodies import Body
from poolnet.wire.claims import LOWEST, Bound
from poolnet.wire.message import Message, MessageKey, encode_message, message_id_untrusted
from poolnet.wire.pool_frames import Gossip as GossipPush
from poolnet.wire.pool_frames import GossipHave, Graft, Prune

logger = logging.getLogger(__name__)

GossipFrame = GossipPush | GossipHave | Graft | Prune


@attrs.frozen(kw_only=True)
class MessageStatistics:
    """Counts since the pool was joined."""

    sent: int
    received: int
    rejected: int
    deferred: int
    held: int
    dropped: int
    runs: int
    fetched: int


class MessageFlow:
    """Messages of one pool on this device.

    Args:
        nursery: owns the tasks that confirm delivery and answer peers; outlives this object.
        time: what time it is, for stamping and judging messages.
        apply: called with each message that is new here, in the order in which they were stored.
        apply_ephemeral: called with each message of a kind that is neither stored nor ordered.
        restore: called once with what stands in the history from earlier sessions, in its order.
        report: called with what goes wrong without anybody having asked.
        room: waits until applications have heard most of what came, before more of the history is taken.
        is_steady: returns whether a link is meant to stay; messages are only announced on others.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        key: DeviceKey,
        membership: Membership,
        db: MessageDB,
        time: ClockKeeper,
        rng: RandomSource,
        apply: Callable[[Message], None],
        apply_ephemeral: Callable[[Message], None],
        restore: Callable[[Sequence[Message]], None],
        report: Callable[[PoolnetError], None],
        room: Callable[[], Awaitable[None]],
        is_steady: Callable[[DeviceId], bool] = lambda _peer: True,
    ) -> None:
        self._key = key
        self._membership = membership
        self._db = db
        self._time = time
        self._apply = apply
        self._restore = restore
        self._report = report
        self._is_steady = is_steady
        self._links: dict[DeviceId, Link] = {}
        self._book = DeliveryBook(nursery)
        self._inbox = Inbox(
            membership=membership,
            db=db,
            clock=time.clock,
            unix_ms=time.unix_ms,
            apply=apply,
            apply_ephemeral=apply_ephemeral,
            settled=lambda ids: self._agreement.settled(ids),
            report=report,
        )
        self._gossip = gossip.Gossip(rng, partial(message_id_untrusted, pool_id=membership.pool_id), self._inbox.judge)
        self._agreement = AgreementKeeper(
            nursery=nursery,
            db=db,
            rng=rng,
            corrected_ms=time.corrected_ms,
            inbox=self._inbox,
            book=self._book,
            pool_id=membership.pool_id,
            report=report,
            room=room,
        )
        self._pace = PublishPace(self._links, lambda: self._gossip.statistics().eager_links)
        self._timer = Timer(self._gossip.next_deadline)
        self._membership_changed = trio.Event()
        self._sent = 0

    async def load(self) -> MessageKey | None:
        """Read from the database what was seen lately and what stands, restore the latter.

        Returns the place of the newest message that is for people or programs, None if there is none lately.
        """
        await self._db.delete_after(self._membership.gone())
        await self._db.recheck_retractions()
        founder = next((member.device_id for member in self._membership.members().values() if member.rank == 0), None)
        if founder == self._key.device_id and await self._db.known_from() is None:
            await self._db.set_known_from(LOWEST)
        made, seen = await self._db.last_hlcs(self._key.device_id)
        self._time.clock.resume(made)
        self._time.clock.observe(seen)
        standing = await self._db.of_kinds(STANDING_KINDS)
        recent = await self._db.latest(RECENT_MESSAGES)
        for message in recent:
            if message.author == self._key.device_id:
                self._book.add(message)
            self._inbox.begin_after(message.key)
        self._gossip.mark_seen([message.msg_id for message in recent])
        await self._agreement.load()
        self._db.bind(self.fetch_older, floor_moved=self._agreement.floor_moved)
        for message in standing:
            self._inbox.expect_tombstone(message)
        self._restore(standing)
        return max((message.key for message in recent if message.content.kind not in STANDING_KINDS), default=None)

    async def run(self) -> None:
        """Store what arrives and do what is due. Runs until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._inbox.run)
                nursery.start_soon(self._run_timer)
                nursery.start_soon(self._agreement.run)
                nursery.start_soon(self._follow_membership)
                nursery.start_soon(self._expire)
        finally:
            self._db.bind(None)  # whoever has the history still reads what is there

    # --- out ----------------------------------------------------------------------------------------------------

    async def publish(self, body: Body) -> MsgId:
        """Sign, store (durably) and push a message; return its id once it is on this device's disk.

        Waits first while the links take less than is published (publish_pace.py). Cancelling then, and before it is
        stored, leaves nothing; after, it is in the history and on its way to the others.

        Raises:
            StoreError: it could not be stored, and is nowhere. Or, once, at the moment when the disk fails, it is
                stored and on its way, but may be gone from here after a power cut.
        """
        await self._time.told()
        async with self._pace.turn():
            self._db.check_sync()
            message = self._sign(body)
            self._inbox.expect_tombstone(message)
            await self._db.append([message])
            self._sent += 1
            self._book.add(message)
            self._inbox.begin_after(message.key)
            self._push(message)  # it is in the history now, and takes less time to the neighbours than to the disk
            self._apply(message)
        await self._db.sync()
        return message.msg_id

    def publish_ephemeral(self, body: Body) -> None:
        """Sign and push a message that is not part of the history."""
        self._push(self._sign(body))

    async def delivered(self, timeout_s: float) -> None:
        """Wait until every message published so far, lately or now, is known to be at some neighbour.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._agreement.keep_checking)
                await self._book.delivered()
                nursery.cancel_scope.cancel()
            return
        raise Unreachable("no other member confirmed the message in time; it is kept and goes out when one is there")

    def _sign(self, body: Body) -> Message:
        hlc = self._time.clock.tick(self._time.unix_ms())
        return sign_message(self._key, pool_id=self._membership.pool_id, hlc=hlc, body=body)

    def _push(self, message: Message) -> None:
        self._feed(gossip.Publish(message.msg_id, encode_message(message)))

    # --- agreement ----------------------------------------------------------------------------------------------

    async def fetch_older(self, before: Bound, count: int) -> None:
        """Ask neighbours for the `count` messages before a place in the order, and store what is new."""
        await self._agreement.fetch_older(before, count)

    async def synced(self, timeout_s: float) -> None:
        """Wait until all neighbours have the same history as this node, up to this moment.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        await self._agreement.synced((self._time.clock.tick(self._time.unix_ms()), b""), timeout_s)

    def retracted(self, msg_id: MsgId) -> None:
        """Take note that the database deleted a message."""
        self._book.forget(msg_id)

    def membership_changed(self) -> None:
        """Take note that statements came: a member may be gone, or another be an admin."""
        self._membership_changed.set()

    async def _follow_membership(self) -> None:
        while True:
            await self._membership_changed.wait()
            self._membership_changed = trio.Event()
            await until_stored(self._obey_membership, self._report)

    async def _obey_membership(self) -> None:
        """Delete what members wrote after they were removed, and what retractions by admins retract."""
        for msg_id in await self._db.delete_after(self._membership.gone()):
            self.retracted(msg_id)
        await self._db.recheck_retractions()

    async def _expire(self) -> None:
        """Delete now and then what is older than this device keeps."""
        await self._time.told()  # by a clock that is far ahead, everything is old
        while True:
            try:
                await self._db.expire(self._time.corrected_ms())
            except StoreError as exc:
                self._report(exc)
            await trio.sleep(EXPIRY_INTERVAL_S)

    def clock_changed(self) -> None:
        """Take note that it is another time now: messages that were held may be due."""
        self._inbox.clock_changed()

    # --- in -----------------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """Begin to gossip and to compare with a peer that has all our statements."""
        self._links[link.peer] = link
        self._feed(gossip.LinkUp(link.peer, self._is_steady(link.peer)))
        self._agreement.link_up(link)

    def link_down(self, link: Link) -> None:
        """Stop with a link that closed."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._feed(gossip.LinkDown(link.peer))
            self._agreement.link_down(link)

    async def handle_frame(self, link: Link, frame: GossipFrame | AgreementFrame) -> None:
        """Take a frame about messages; waits while the inbox is full, which holds back that link.

        Raises:
            ProtocolError: the peer passed on something that no honest node passes on (`BadSignature`), or asked for too
                much.
        """
        if not isinstance(frame, GossipFrame):
            await self._agreement.handle_frame(link, frame)
            return
        effects = self._feed(gossip.Received(link.peer, frame))
        await self._deliver(effects)
        for effect in effects:
            if isinstance(effect, gossip.Misbehaved) and effect.peer == link.peer:
                raise BadSignature(effect.reason)

    async def _deliver(self, effects: Sequence[gossip.GossipEffect]) -> None:
        for effect in effects:
            match effect:
                case gossip.Deliver(msg_id=msg_id):
                    await self._inbox.put(msg_id)
                case gossip.Lookup(peer=peer, ids=ids):
                    self._feed(gossip.Found(peer, await self._look_up(ids)))
                case gossip.Deferred(peer=peer):
                    self._agreement.deferred(peer)
                case _:
                    pass  # frames are sent already, misbehaviour is the caller's business

    async def _look_up(self, ids: Sequence[MsgId]) -> tuple[tuple[MsgId, bytes], ...]:
        try:
            return tuple((message.msg_id, encode_message(message)) for message in await self._db.get(ids))
        except StoreError as exc:
            self._report(exc)
            return ()  # the peer asks others

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
                if effect.msg_id is not None:
                    self._book.sent(link, effect.msg_id)

    async def _run_timer(self) -> None:
        """Graft what is missing, flush announcements. Runs until cancelled."""
        while True:
            await self._timer.wait()
            self._send_frames(self._gossip.tick(trio.current_time()))

    def statistics(self) -> MessageStatistics:
        """Return the counts since the pool was joined."""
        return MessageStatistics(
            sent=self._sent,
            received=self._inbox.received,
            rejected=self._inbox.rejected,
            deferred=self._inbox.deferred,
            held=self._inbox.held,
            dropped=self._inbox.dropped,
            runs=self._agreement.runs,
            fetched=self._agreement.fetched,
        )
