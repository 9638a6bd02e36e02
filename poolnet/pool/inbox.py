"""From a message off a link to one in the history: judged once, held while ahead of its time, stored in batches.

A message above all others in the order is new for sure, and takes effect at once; the database stores it a moment
later, with what came meanwhile. Of any other the database says whether it is new.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

import trio

from poolnet.clock import Hlc, HybridClock
from poolnet.errors import DiskFull, PoolnetError, WireError
from poolnet.identity.authorship import signature_is_valid
from poolnet.identity.membership import Membership
from poolnet.ids import MsgId
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.message_db import MessageDB
from poolnet.protocol.gossip import Verdict
from poolnet.protocol.holding import HeldMessages
from poolnet.wire.bodies import EPHEMERAL_KINDS, RetractMessageBody, decode_body_untrusted
from poolnet.wire.message import Message, MessageKey, decode_message_untrusted

logger = logging.getLogger(__name__)

_LARGEST_BATCH = 200
#: How long messages that have taken effect wait for others, to be stored together.
_GATHER_S = 0.25
_DISK_FULL_RETRY_S = 5.0


class Inbox:
    """Messages of others between links and database.

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
        self._unix_ms = unix_ms
        self._apply = apply
        self._apply_ephemeral = apply_ephemeral
        self._settled = settled
        self._report = report
        self._judged: dict[MsgId, Message] = {}  # accepted and not yet delivered: nothing is decoded twice
        self._waiting: set[MsgId] = set()  # delivered and not yet stored
        self._held = HeldMessages(clock)
        self._newest: MessageKey = (Hlc(0), MsgId(b""))  # of all that took effect or were stored
        self._told: list[MsgId] = []  # took effect, not stored
        self._has_told = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Message](MAX_QUEUED_FRAMES)
        self.received = 0
        self.rejected = 0

    def judge(self, msg_id: MsgId, encoded: bytes) -> Verdict:
        """Decide once about a message that is new here; called by the gossip machine."""
        try:
            message = decode_message_untrusted(encoded, self._membership.pool_id)
            if not self._membership.was_member(message.author):
                raise WireError("a message by somebody who never was a member")
            if not self._membership.may_have_written(message.author, message.content.hlc):
                return Verdict.DROP  # removed or left meanwhile, and the forwarder does not know yet
            if not signature_is_valid(message):
                raise WireError("a message that its author did not sign")
            decode_body_untrusted(message.content.kind, message.content.body)
        except WireError as exc:
            self.rejected += 1
            logger.info("rejected a message: %s", exc)
            return Verdict.REJECT
        if message.content.kind in EPHEMERAL_KINDS:
            self._apply_ephemeral(message)
        else:
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

    async def put(self, msg_id: MsgId) -> None:
        """Take a message that was accepted; waits while too many wait to be stored, which holds back its link."""
        message = self._judged.pop(msg_id, None)
        if message is None:
            return
        self._waiting.add(msg_id)
        if self._is_surely_new(message):
            self._tell(message)
            if self._db.unsaved >= _LARGEST_BATCH:
                await self._save()
        else:
            try:
                try:  # without yielding, so that what came together is stored together
                    self._send.send_nowait(message)
                except trio.WouldBlock:
                    await self._send.send(message)
            except BaseException:  # cancelled: the link closes; reconciliation brings the message again
                self._waiting.discard(msg_id)
                raise

    def _is_surely_new(self, message: Message) -> bool:
        return (
            message.key > self._newest
            and message.content.kind != RetractMessageBody.KIND
            and self._held.admit(message, self._unix_ms())
        )

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

    async def _run_saving(self) -> None:
        """Store soon what took effect already."""
        while True:
            await self._has_told.wait()
            await trio.sleep(_GATHER_S)
            await self._save()

    async def _save(self) -> None:
        """Store what took effect, trying again while the disk is full."""
        while True:
            told, self._told, self._has_told = self._told, [], trio.Event()
            try:
                await self._db.flush()
            except DiskFull as exc:
                self._told = told + self._told
                self._report(exc)
                await trio.sleep(_DISK_FULL_RETRY_S)
            except BaseException:
                self._told = told + self._told
                self._has_told.set()
                raise
            else:
                self._settle(told)
                return

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
            time_ms = self._unix_ms()
            await self._store([message for message in batch if self._held.admit(message, time_ms)])
            self._settle([message.msg_id for message in batch])

    async def release(self) -> None:
        """Store the messages whose time has come."""
        if due := self._held.release(self._unix_ms()):
            await self._store(due)

    def wait_s(self) -> float | None:
        """Return in how many seconds `release` has something, or None."""
        return self._held.wait_s(self._unix_ms()) if self._held else None

    @property
    def held(self) -> int:
        """Messages that wait for their time."""
        return len(self._held)

    @property
    def dropped(self) -> int:
        """Messages ahead of their time for which there was no room."""
        return self._held.dropped

    async def _store(self, messages: Sequence[Message]) -> None:
        for message in await self._append(messages):
            self._newest = max(self._newest, message.key)
            self.received += 1
            self._apply(message)

    async def _append(self, messages: Iterable[Message]) -> list[Message]:
        """Append, trying again while the disk is full: meanwhile the queue fills and holds back the links."""
        while True:
            try:
                return await self._db.append(messages)
            except DiskFull as exc:
                self._report(exc)
                await trio.sleep(_DISK_FULL_RETRY_S)
