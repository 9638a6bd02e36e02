"""The history of one pool on this device: every message once, in the order that is the same on every node.

The order is that of ``Message.key``, (clock, id): late messages land in the middle, where they belong. What is stored
was decoded and its signature checked by whoever appends it; what comes out is exactly what went in.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from pathlib import Path

import attrs

from poolnet.clock import Hlc
from poolnet.errors import StoreError, UnknownMessage, WireError
from poolnet.ids import MsgId, PoolId
from poolnet.storage.sqlite_worker import SqliteWorker, open_sqlite
from poolnet.wire.message import Message, MessageKey, decode_message_untrusted, encode_message

_SCHEMA = (
    """
    CREATE TABLE messages (
        row INTEGER PRIMARY KEY,
        hlc INTEGER NOT NULL,
        msg_id BLOB NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        encoded BLOB NOT NULL
    );
    CREATE INDEX messages_in_order ON messages (hlc, msg_id);
    CREATE INDEX messages_by_kind ON messages (kind, hlc, msg_id)
    """,
)
#: Ids in one SELECT; SQLite takes 32766 parameters, older ones 999.
_IDS_PER_SELECT = 500


@attrs.frozen(kw_only=True)
class MessageStatistics:
    """Messages stored in all; since opening: appended, and given again although stored; transactions."""

    messages: int
    appended: int
    duplicates: int
    transactions: int
    failed_transactions: int
    peak_waiting: int


class MessageDB:
    """The history of one pool. Made by `open_message_db`.

    Lists come oldest first. A `kinds` argument limits a list to messages of these kinds (`KIND` of the body classes).
    Every method raises `StoreError` when the database fails; a call that is cancelled either took place or did not.

    Example:
        ```python
        from pathlib import Path

        from poolnet.clock import make_hlc
        from poolnet.identity.authorship import sign_message
        from poolnet.identity.keys import DeviceKey
        from poolnet.message_db import open_message_db
        from poolnet.wire.bodies import TextBody


        async def main():
            key, pool_id = DeviceKey.from_seed(bytes(32)), bytes(32)
            first, second = (
                sign_message(key, pool_id=pool_id, hlc=make_hlc(ms), body=TextBody(text=text))
                for ms, text in [(1000, "hello"), (2000, "anyone here?")]
            )
            async with open_message_db(Path("messages.db"), pool_id) as history:
                assert await history.append([second, first]) == [first, second]
                assert await history.append([first]) == []
                assert await history.latest(1) == [second]
                assert await history.before(second.key, 10) == [first]
        ```
    """

    def __init__(self, worker: SqliteWorker, pool_id: PoolId, stored: int) -> None:
        self._worker = worker
        self._pool_id = pool_id
        self._stored = stored
        self._appended = 0
        self._duplicates = 0

    async def append(self, messages: Iterable[Message], *, durable: bool = False) -> list[Message]:
        """Store messages and return those that were not there yet, in order.

        Args:
            messages: in any order, as a whole or not at all.
            durable: return only when they are on the disk: for what this device wrote, which nobody else has yet.

        Raises:
            StoreError: nothing was stored (`DiskFull` if that is why).
        """
        batch = sorted(messages, key=lambda message: message.key)
        if not batch:
            return []
        run = self._worker.run if durable else self._worker.run_relaxed
        new = await run(_insert, batch)
        self._stored += len(new)
        self._appended += len(new)
        self._duplicates += len(batch) - len(new)
        return new

    async def latest(self, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the newest `count` messages."""
        return await self._page("", (), count, kinds, newest=True)

    async def before(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the `count` messages that come directly before `key`, which need not be a message's."""
        return await self._page("(hlc, msg_id) < (?, ?)", key, count, kinds, newest=True)

    async def after(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the `count` messages that come directly after `key`, which need not be a message's."""
        return await self._page("(hlc, msg_id) > (?, ?)", key, count, kinds, newest=False)

    async def around(self, msg_id: MsgId, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return a message with up to `count` before it and `count` after it.

        Raises:
            UnknownMessage: it is not in this history.
        """
        found = await self.get([msg_id])
        if not found:
            raise UnknownMessage("that message is not in this device's history")
        key = found[0].key
        earlier = await self.before(key, count, kinds=kinds)
        return earlier + found + await self.after(key, count, kinds=kinds)

    async def get(self, ids: Iterable[MsgId]) -> list[Message]:
        """Return those of the messages with these ids that are here."""
        return await self._worker.run_relaxed(_select_ids, self._pool_id, list(dict.fromkeys(ids)))

    async def of_kinds(self, kinds: Collection[str]) -> list[Message]:
        """Return all messages of some kinds: for those that make up a state, such as offers and profiles."""
        return await self._page("", (), -1, kinds, newest=False)

    async def last_hlc(self) -> Hlc:
        """Return the highest clock stamp stored, 0 if there is none."""
        return await self._worker.run_relaxed(_select_last_hlc)

    def statistics(self) -> MessageStatistics:
        """Return counts; costs nothing."""
        worker = self._worker.statistics()
        return MessageStatistics(
            messages=self._stored,
            appended=self._appended,
            duplicates=self._duplicates,
            transactions=worker.transactions,
            failed_transactions=worker.failed,
            peak_waiting=worker.peak_waiting,
        )

    async def _page(
        self, where: str, parameters: Sequence[object], count: int, kinds: Collection[str] | None, *, newest: bool
    ) -> list[Message]:
        """Return up to `count` messages from one end of those that match (-1: all)."""
        conditions = [where] if where else []
        if kinds is not None:
            conditions.append(f"kind IN ({', '.join('?' * len(kinds))})")
            parameters = (*parameters, *kinds)
        query = "SELECT encoded FROM messages"
        if conditions:
            query += " WHERE " + " AND ".join(conditions)
        direction = "DESC" if newest else "ASC"
        query += f" ORDER BY hlc {direction}, msg_id {direction} LIMIT ?"
        found = await self._worker.run_relaxed(_select, self._pool_id, query, (*parameters, count))
        return found[::-1] if newest else found


@contextlib.asynccontextmanager
async def open_message_db(path: Path, pool_id: PoolId) -> AsyncIterator[MessageDB]:
    """Open the history of a pool at `path`, or begin one.

    Raises:
        StoreError: it cannot be opened. A damaged one is kept aside, so that the next try begins a new one.
    """
    async with open_sqlite(path, schema=_SCHEMA) as worker:
        yield MessageDB(worker, pool_id, await worker.run_relaxed(_count))


def _insert(connection: sqlite3.Connection, batch: list[Message]) -> list[Message]:
    statement = "INSERT INTO messages (hlc, msg_id, kind, encoded) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    return [
        message
        for message in batch
        if connection.execute(
            statement, (message.content.hlc, message.msg_id, message.content.kind, encode_message(message))
        ).rowcount
    ]


def _select(connection: sqlite3.Connection, pool_id: PoolId, query: str, parameters: Sequence[object]) -> list[Message]:
    return [_decode(encoded, pool_id) for (encoded,) in connection.execute(query, parameters)]


def _select_ids(connection: sqlite3.Connection, pool_id: PoolId, ids: list[MsgId]) -> list[Message]:
    found = []
    for start in range(0, len(ids), _IDS_PER_SELECT):
        some = ids[start : start + _IDS_PER_SELECT]
        query = f"SELECT encoded FROM messages WHERE msg_id IN ({', '.join('?' * len(some))})"  # noqa: S608 - only ?
        found += _select(connection, pool_id, query, some)
    return sorted(found, key=lambda message: message.key)


def _select_last_hlc(connection: sqlite3.Connection) -> Hlc:
    (hlc,) = connection.execute("SELECT max(hlc) FROM messages").fetchone()
    return Hlc(hlc or 0)


def _count(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    return int(count)


def _decode(encoded: bytes, pool_id: PoolId) -> Message:
    try:
        return decode_message_untrusted(encoded, pool_id)
    except WireError as exc:
        raise StoreError("a message in the history is damaged; move messages.db away to start a new one") from exc
