"""An inbox over a real history, with a clock and a membership that tests set."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from pool_builder import Pool, key_of

from poolnet.clock import HybridClock, make_hlc
from poolnet.errors import PoolnetError
from poolnet.identity.authorship import sign_message
from poolnet.ids import MsgId
from poolnet.message_db import MessageDB, open_message_db
from poolnet.pool.inbox import Inbox
from poolnet.protocol.gossip import Verdict
from poolnet.wire.bodies import Body, RetractMessageBody, TextBody
from poolnet.wire.message import Message, encode_message


class InboxWorld:
    """What an inbox is made of, and what came out of it."""

    def __init__(self, pool: Pool, db: MessageDB) -> None:
        self.pool = pool
        self.db = db
        self.now_ms = 100_000
        self.applied: list[Message] = []
        self.ephemeral: list[Message] = []
        self.settled: list[MsgId] = []
        self.reported: list[str] = []
        #: What else is to happen with what takes effect, and with what is settled.
        self.then: Callable[[Message], None] = lambda _message: None
        self.finally_: Callable[[Sequence[MsgId]], None] = lambda _ids: None
        self.inbox = Inbox(
            membership=pool.membership,
            db=db,
            clock=HybridClock(),
            unix_ms=lambda: self.now_ms,
            apply=self._apply,
            apply_ephemeral=self.ephemeral.append,
            settled=self._settled,
            report=self.report,
        )

    def _apply(self, message: Message) -> None:
        self.applied.append(message)
        self.then(message)

    def _settled(self, ids: Sequence[MsgId]) -> None:
        self.settled += ids
        self.finally_(ids)

    def report(self, error: PoolnetError) -> None:
        """Take note of what went wrong."""
        self.reported.append(error.code)

    def say(self, unix_ms: int, body: Body | str, *, by: str = "ann") -> Message:
        """Return a message by a member."""
        said = TextBody(text=body) if isinstance(body, str) else body
        return sign_message(key_of(by), pool_id=self.pool.pool_id, hlc=make_hlc(unix_ms), body=said)

    def retract(self, unix_ms: int, message: Message, *, by: str = "ann") -> Message:
        """Return what takes a message back."""
        return self.say(unix_ms, RetractMessageBody(msg_id=message.msg_id), by=by)

    async def put(self, *messages: Message) -> None:
        """Judge messages and put them into the inbox."""
        for message in messages:
            assert self.inbox.judge(message.msg_id, encode_message(message)) is Verdict.ACCEPT
            await self.inbox.put(message.msg_id)

    async def quiet(self) -> None:
        """Let everything that is under way come to its end."""
        await trio.sleep(1)

    def fail_writes(self, *, fail: bool) -> None:
        """Let the database refuse to be written to, or not any more."""
        self.db._worker._connection.execute(f"PRAGMA query_only = {'ON' if fail else 'OFF'}")


@asynccontextmanager
async def open_inbox(directory: Path) -> AsyncIterator[InboxWorld]:
    """Run an inbox in a pool of founder, ann and bob."""
    pool = Pool()
    pool.bring("ann")
    pool.bring("bob")
    async with (
        open_message_db(directory / "m.db", pool.pool_id, was_admin=pool.membership.was_admin) as db,
        trio.open_nursery() as nursery,
    ):
        world = InboxWorld(pool, db)
        nursery.start_soon(world.inbox.run)
        yield world
        nursery.cancel_scope.cancel()
