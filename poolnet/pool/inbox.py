"""From a message off a link to one in the history: judged once, held while ahead of its time, stored in batches.

Of one author only so much is taken as it comes (protocol/quota.py), and of all that is stamped long ago; what is
fetched, because it is lacking, is not counted.

A message above all others in the order is new for sure, and takes effect at once; the database stores it a moment
later, with what came meanwhile. Of any other, and of one that is said to be retracted, the database says whether it is
new.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio

from poolnet.clock import Hlc, HybridClock
from poolnet.errors import PoolnetError, WireError
from poolnet.identity.authorship import signature_is_valid
from poolnet.identity.membership import Membership
from poolnet.ids import MsgId
from poolnet.limits import MAX_QUEUED_FRAMES, OLD_AFTER_S
from poolnet.message_db import MessageDB, retraction_target
from poolnet.pool.storing import until_stored
from poolnet.protocol.gossip import Verdict
from poolnet.protocol.holding import HeldMessages
from poolnet.protocol.quota import AuthorQuota
from poolnet.timer import Timer
from poolnet.wire.bodies import EPHEMERAL_KINDS, decode_body_untrusted
from poolnet.wire.message import Message, MessageKey, decode_message_untrusted

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 200
#: Messages that are said to be retracted and are remembered; with more the database is asked about each message.
_MAX_RETRACTED = 100_000
#: How long messages that have taken effect wait for others, to be stored together.
_GATHER_S = 0.25


class Inbox:
    """Messages of others between links and database.

    While the database fails, what was accepted is kept and tried again; meanwhile the links are held back.

    Args:
        unix_ms: this device's time, uncorrected; `clock` corrects it.
        apply: called with each message that is new here, in the order in which they were stored.
        apply_ephemeral: called with each message of a kind that is neither stored nor ordered.
        settled: called with the ids of messages that were dealt with, stored or not.
        report: called with what goes wrong without anybody having asked.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        db: MessageDB,
        clock: HybridClock,
        unix_ms: Callable[[], int],
        apply: Callable[[Message], None],
        apply_ephemeral: Callable[[Message], None],
        settled: Callable[[Sequence[MsgId]], None],
        report: Callable[[PoolnetError], None],
    ) -> None:
        self._membership = membership
        self._db = db
        self._clock = clock
        self._unix_ms = unix_ms
        self._apply = apply
        self._apply_ephemeral = apply_ephemeral
        self._settled = settled
        self._report = report
        self._quota = AuthorQuota()
        self._judged: dict[MsgId, Message] = {}  # accepted and not yet put: nothing is decoded twice
        self._waiting: set[MsgId] = set()  # put and not yet stored
        self._held = HeldMessages(clock)
        self._due = Timer(self._next_release)
        self._newest: MessageKey = (Hlc(0), MsgId(b""))  # of all that took effect or were stored
        self._retracted: set[MsgId] = set()  # what tombstones name, stored or about to be, whether they count or not
        self._knows_retracted = True  # whether these are all
        self._told: list[MsgId] = []  # took effect, not stored
        self._has_told = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Message](MAX_QUEUED_FRAMES)
        self.received = 0
        self.rejected = 0

    def judge(self, msg_id: MsgId, encoded: bytes) -> Verdict:
        """Decide once about a message that is new here; called by the gossip machine. If accepted, `put` it next."""
        return self._judge(msg_id, encoded, is_fetched=False)

    def judge_fetched(self, msg_id: MsgId, encoded: bytes) -> Verdict:
        """Like `judge`, for a message out of a history, in which nothing ephemeral is; there is no quota of them."""
        return self._judge(msg_id, encoded, is_fetched=True)

    def _judge(self, msg_id: MsgId, encoded: bytes, *, is_fetched: bool) -> Verdict:
        try:
            message = decode_message_untrusted(encoded, self._membership.pool_id)
            if not self._membership.was_member(message.author):
                if self._membership.may_lack_members:
                    return Verdict.DROP  # the forwarder may know better
                raise WireError("a message by somebody who never was a member")
            if not self._may_stay(message):
                return Verdict.DROP  # removed or left meanwhile, and the forwarder does not know yet
            is_old = self._clock.ahead_s(message.content.hlc, self._unix_ms()) < -OLD_AFTER_S
            if not is_fetched and not self._quota.has_some(message.author, trio.current_time(), is_old=is_old):
                return Verdict.DEFER
            _verify(message, is_fetched=is_fetched)
        except WireError as exc:
            self.rejected += 1
            logger.info("rejected a message: %s", exc)
            return Verdict.REJECT
        if not is_fetched:
            self._quota.spend(message.author, len(encoded), trio.current_time(), is_old=is_old)
        self._judged[msg_id] = message
        return Verdict.ACCEPT

    def is_pending(self, msg_id: MsgId) -> bool:
        """Return whether a message was accepted and is about to be stored."""
        return msg_id in self._judged or msg_id in self._waiting

    def is_held(self, msg_id: MsgId) -> bool:
        """Return whether a message waits for its time."""
        return msg_id in self._held

    def begin_after(self, key: MessageKey) -> None:
        """Take note of a message that is in the history and did not come through here."""
        self._newest = max(self._newest, key)

    def expect_tombstone(self, message: Message) -> None:
        """Take note of a message that is in the history or about to be, in case it is a tombstone."""
        if (target := retraction_target(message)) is not None:
            self._retracted.add(target)
            if len(self._retracted) > _MAX_RETRACTED:
                self._retracted.discard(target)
                self._knows_retracted = False

    async def put(self, msg_id: MsgId) -> None:
        """Take a message that was accepted; waits while too many wait to be stored, which holds back its link.

        When cancelled while waiting, it is not taken: the link closes, and comparing histories brings it again.
        """
        message = self._judged.pop(msg_id, None)
        if message is None or msg_id in self._waiting:
            return
        if message.content.kind in EPHEMERAL_KINDS:
            self._apply_ephemeral(message)
        elif not self._held.admit(message, self._unix_ms()):
            self._due.rearm()
            self._settle([msg_id])
        elif self._is_surely_new(message):
            self._waiting.add(msg_id)
            self._tell(message)
            if self._db.unsaved >= _LARGEST_BATCH:
                await self._save()
        else:
            self.expect_tombstone(message)
            await self._queue(message)

    async def _queue(self, message: Message) -> None:
        self._waiting.add(message.msg_id)
        try:
            try:  # without yielding, so that what came together is stored together
                self._send.send_nowait(message)
            except trio.WouldBlock:
                await self._send.send(message)
        except trio.Cancelled:
            self._waiting.discard(message.msg_id)
            raise

    def _is_surely_new(self, message: Message) -> bool:
        return (
            message.key > self._newest
            and self._knows_retracted
            and message.msg_id not in self._retracted
            and retraction_target(message) is None
        )

    def _may_stay(self, message: Message) -> bool:
        return self._membership.may_have_written(message.author, message.content.hlc)

    def _tell(self, message: Message) -> None:
        """Let a new message take effect; it is stored with the next transaction."""
        self._newest = message.key
        self._db.append_soon(message)
        self._told.append(message.msg_id)
        self._has_told.set()
        self.received += 1
        self._apply(message)

    async def run(self) -> None:
        """Store what arrives, in batches, and apply what is new. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_queue)
            nursery.start_soon(self._run_saving)
            nursery.start_soon(self._run_release)

    async def _run_saving(self) -> None:
        """Store soon what took effect already."""
        while True:
            await self._has_told.wait()
            await trio.sleep(_GATHER_S)
            await self._save()

    async def _save(self) -> None:
        """Store what took effect."""
        told, self._told, self._has_told = self._told, [], trio.Event()
        try:
            await until_stored(self._db.flush, self._report)
        except trio.Cancelled:  # whoever saves next has to do it
            self._told = told + self._told
            self._has_told.set()
            raise
        self._settle(told)

    def _settle(self, ids: Sequence[MsgId]) -> None:
        self._waiting.difference_update(ids)
        self._settled(ids)

    async def _run_queue(self) -> None:
        async for first in self._receive:
            batch = [first]
            while len(batch) < _LARGEST_BATCH:
                try:
                    batch.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await self._store(batch)

    async def _run_release(self) -> None:
        """Store the messages whose time has come."""
        while True:
            await self._due.wait()
            due = self._held.release(self._unix_ms())  # maybe none yet: the clock may have been corrected
            self._waiting.update(message.msg_id for message in due)
            for message in due:
                self.expect_tombstone(message)
            await self._store(due)

    def clock_changed(self) -> None:
        """Take note that it is another time now: messages that were held may be due."""
        self._due.rearm()

    def _next_release(self) -> float | None:
        wait_s = self._held.wait_s(self._unix_ms()) if self._held else None
        return None if wait_s is None else trio.current_time() + wait_s

    @property
    def deferred(self) -> int:
        """Messages that were not taken as they came, because of their authors' quota."""
        return self._quota.deferred

    @property
    def held(self) -> int:
        """Messages that wait for their time."""
        return len(self._held)

    @property
    def dropped(self) -> int:
        """Messages ahead of their time for which there was no room."""
        return self._held.dropped

    async def _store(self, messages: Sequence[Message]) -> None:
        """Store messages that waited, except by authors who are gone now; those new to the database take effect."""
        for message in await until_stored(partial(self._append, messages), self._report):
            self._newest = max(self._newest, message.key)
            self.received += 1
            self._apply(message)
        self._settle([message.msg_id for message in messages])

    async def _append(self, messages: Iterable[Message]) -> list[Message]:
        return await self._db.append(list(filter(self._may_stay, messages)))


def _verify(message: Message, *, is_fetched: bool) -> None:
    if not signature_is_valid(message):
        raise WireError("a message that its author did not sign")
    if is_fetched and message.content.kind in EPHEMERAL_KINDS:
        raise WireError("a message that is no part of the history")
    decode_body_untrusted(message.content.kind, message.content.body)
