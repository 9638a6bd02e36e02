"""The history of one pool on this device: every message once, in the order that is the same on every node.

The order is that of ``Message.key``, (clock, id): late messages land in the middle, where they belong. What is stored
was decoded and its signature checked by whoever appends it; what comes out is exactly what went in. Here is the
asynchronous face of it; how it is stored is in storage/message_*.py, beginning with message_schema.py.
"""

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import attrs
import trio

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import StoreError, UnknownMessage, WireError
from poolnet.ids import DeviceId, MsgId, PoolId, id_prefix_range_untrusted
from poolnet.protocol.key_set import KeySet, Summary
from poolnet.storage import message_changes as changes
from poolnet.storage import message_settings as settings
from poolnet.storage import message_tables as tables
from poolnet.storage.message_blocks import STANDING, sum_up_standing
from poolnet.storage.message_changes import Tombstone, retraction_target
from poolnet.storage.message_export import ExportFormat, make_writer, names_of, open_export
from poolnet.storage.message_keys import DatabaseKeys, Session, read_sessions
from poolnet.storage.message_schema import STANDING_KINDS, VERSION_1, make_version_2, make_version_3
from poolnet.storage.message_search import search
from poolnet.storage.message_settings import Retention, State, read_state
from poolnet.storage.message_unsaved import UnsavedMessages
from poolnet.storage.message_volumes import count_messages
from poolnet.storage.sqlite_worker import SqliteWorker, open_sqlite
from poolnet.wire.bodies import ProfileBody
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message

logger = logging.getLogger(__name__)

__all__ = [
    "STANDING_KINDS",
    "ExportFormat",
    "MessageDB",
    "MessageStatistics",
    "Retention",
    "Session",
    "nobody",
    "open_message_db",
    "retraction_target",
]

P = ParamSpec("P")
T = TypeVar("T")
#: Asks neighbours for so many messages below a bound, and returns when what they have is stored.
Fetch = Callable[[Bound, int], Awaitable[None]]
WasAdmin = Callable[[DeviceId, Hlc], bool]
Retracted = Callable[[MsgId, Message], None]
FloorMoved = Callable[[Bound], None]

#: Messages of an export read at a time.
_EXPORT_PAGE = 200
#: By how much a history may outgrow its retention by count before messages expire: a share of it, or so many.
_EXPIRY_SLACK = 1 / 16
_MIN_EXPIRY_SLACK = 100


def nobody(_device: DeviceId, _hlc: Hlc) -> bool:
    """Return that nobody was an admin: for histories without a membership."""
    return False


@attrs.frozen(kw_only=True)
class MessageStatistics:
    """Messages stored in all; since opening: what became of those appended, those deleted, transactions.

    Refused are late copies of retracted messages, and those from before the floor.
    """

    messages: int
    appended: int
    duplicates: int
    refused: int
    retracted: int
    expired: int
    transactions: int
    failed_transactions: int
    peak_waiting: int


class MessageDB:
    """The history of one pool. Made by `open_message_db`.

    Lists come oldest first. A `kinds` argument limits a list to messages of these kinds (`KIND` of the body classes).
    Every method that waits raises `StoreError` when the database fails, and `StoreDamaged` when it is damaged: then it
    is set aside when it is closed, and opening it again begins a new one. A call that is cancelled either took place
    or did not.

    Example:
        ```python
        from pathlib import Path

        from poolnet.clock import make_hlc
        from poolnet.identity.authorship import sign_message
        from poolnet.identity.keys import DeviceKey
        from poolnet.message_db import open_message_db
        from poolnet.wire.bodies import RetractMessageBody, TextBody


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
                assert await history.search("any*") == [second]

                body = RetractMessageBody(msg_id=second.msg_id)
                tombstone = sign_message(key, pool_id=pool_id, hlc=make_hlc(3000), body=body)
                await history.append([tombstone])
                assert await history.latest(10) == [first, tombstone]
                assert await history.append([second]) == []
        ```
    """

    def __init__(
        self,
        worker: SqliteWorker,
        pool_id: PoolId,
        *,
        state: State,
        was_admin: WasAdmin,
        retracted: Retracted | None,
    ) -> None:
        self._worker = worker
        self._pool_id = pool_id
        self._was_admin = was_admin
        self._retracted = retracted
        self._state = state
        self._fetch: Fetch | None = None
        self._floor_moved: FloorMoved | None = None
        self._unsaved = UnsavedMessages(pool_id)
        worker.write_first(self._unsaved)
        self._unchecked = 0  # appended since the retention by count was looked at
        self._appended = self._duplicates = self._refused = self._deleted = self._expired = 0

    # --- changes ----------------------------------------------------------------------------------------------------

    async def append(self, messages: Iterable[Message], *, durable: bool = False) -> list[Message]:
        """Store messages and return those that were not there yet, in order.

        Not stored, and not returned: late copies of what was retracted, and what is from before the `floor` and not of
        a standing kind (profile, offer, retract_offer, retract_message). What a tombstone among them retracts is
        deleted, and nothing of it is in a file any more when this returns (on a full disk: once there is room).

        Args:
            messages: in any order, as a whole or not at all.
            durable: return only when they are on the disk: for what this device wrote, which nobody else has yet.

        Raises:
            StoreError: nothing was stored (`DiskFull` if that is why).
        """
        given = list(messages)
        batch = sorted({message.msg_id: message for message in given}.values(), key=lambda message: message.key)
        if not batch:
            return []
        tombstones = [tombstone for message in batch if (tombstone := self._tombstone(message)) is not None]
        is_due = self._is_expiry_due(len(batch))
        append = partial(changes.append, is_expiry_due=is_due)
        run = self._worker.run_erasing if tombstones else self._worker.run_relaxed
        done = await self._change(run, append, self._pool_id, batch, tombstones)
        self._unchecked = 0 if is_due else self._unchecked + len(done.added)
        self._appended += len(done.added)
        self._refused += done.refused
        self._duplicates += len(given) - len(done.added) - done.refused
        self._tell_retracted(done.retracted)
        if durable:
            await self.sync()
        return done.added

    async def sync(self) -> None:
        """Return when all that was appended so far is on the disk.

        Raises:
            StoreError: the system could not write it.
        """
        await self._worker.sync()

    def check_sync(self) -> None:
        """Return if `sync` may succeed.

        Raises:
            StoreError: it has failed, and will until the history is opened again.
        """
        self._worker.check_sync()

    async def close(self) -> None:
        """Store what waits; what cannot be stored now comes again from the neighbours."""
        if self._unsaved.is_due():
            try:
                await self.flush()
            except StoreError as exc:
                logger.warning("%d messages were not stored: %s", len(self._unsaved), exc)

    def append_soon(self, message: Message) -> None:
        """Store a message that is above all others in the order, and no tombstone, a moment later.

        For what can be told before the database has taken it: whatever is called next sees it in the history. `flush`
        waits until it is stored, and should be called soon.
        """
        self._unsaved.add(message)
        self._unchecked += 1
        self._appended += 1

    @property
    def unsaved(self) -> int:
        """How many messages given to `append_soon` are not stored yet."""
        return len(self._unsaved)

    async def flush(self) -> None:
        """Store what was given to `append_soon`.

        Raises:
            StoreError: it could not be stored now (`DiskFull` if that is why); it is tried again with the next call.
        """
        is_due = self._is_expiry_due(0)
        await self._change(self._worker.run_relaxed, self._unsaved.flush, is_expiry_due=is_due)
        self._unchecked = 0 if is_due else self._unchecked

    async def recheck_retractions(self) -> list[MsgId]:
        """Look again at who was an admin, and delete what is retracted now; return the ids.

        To be called when the membership has changed. What was retracted by somebody who turns out to have been no
        admin is taken again when it comes.
        """
        tombstones = await self._worker.run_relaxed(changes.select_tombstones)
        changed = {
            msg_id: is_admins
            for msg_id, author, hlc, was in tombstones
            if (is_admins := self._was_admin(author, hlc)) != was
        }
        if not changed:
            return []
        retracted = await self._change(self._worker.run_erasing, changes.recheck, self._pool_id, changed)
        self._tell_retracted(retracted)
        return [msg_id for msg_id, _ in retracted]

    async def delete_after(self, ends: Mapping[DeviceId, Hlc]) -> list[MsgId]:
        """Delete what each of these authors wrote after a time, and return the ids, in order.

        For members that were removed; what they write after it, nobody may append. What was retracted by a message
        that is deleted is taken again when it comes.
        """
        return await self._change(self._worker.run_erasing, changes.delete_after, ends)

    # --- lists ------------------------------------------------------------------------------------------------------

    async def latest(self, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the newest `count` messages."""
        return await self._page(LOWEST, HIGHEST, count, kinds, newest=True)

    async def before(self, key: Bound, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the `count` messages that come directly before `key`, which need not be a message's."""
        return await self._page(LOWEST, key, count, kinds, newest=True)

    async def after(self, key: Bound, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the `count` messages that come directly after `key`, which need not be a message's."""
        return await self._page(tables.after_key(key), HIGHEST, count, kinds, newest=False)

    async def around(self, msg_id: MsgId, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return a message with up to `count` before it and `count` after it.

        Raises:
            UnknownMessage: it is not in this history.
        """
        found = await self._worker.run_relaxed(tables.select_around, self._pool_id, msg_id, count, kinds)
        if not found:
            raise UnknownMessage("that message is not in this device's history")
        return found

    async def get(self, ids: Iterable[MsgId]) -> list[Message]:
        """Return those of the messages with these ids that are here."""
        return await self._worker.run_relaxed(tables.select_ids, self._pool_id, list(dict.fromkeys(ids)))

    async def of_kinds(self, kinds: Collection[str]) -> list[Message]:
        """Return all messages of some kinds: for those that make up a state, such as offers and profiles."""
        return await self._page(LOWEST, HIGHEST, -1, kinds, newest=False)

    async def find(self, prefix: str) -> list[MsgId]:
        """Return ids that begin, as people write them, with `prefix`: none, the only one, or two of several."""
        try:
            lowest, highest = id_prefix_range_untrusted(prefix)
        except WireError:
            return []
        return await self._worker.run_relaxed(tables.find_between, lowest, highest, 2)

    async def search(
        self,
        text: str,
        *,
        author: DeviceId | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 50,
        before: Bound | None = None,
    ) -> list[Message]:
        """Return the newest `limit` texts, announcements and offers (by file name) with all words of `text` in them.

        Args:
            text: words, in any case and with or without accents; ``word*`` is any word that begins so, ``"some words"``
                are words in a row. Whatever else it holds separates words. Without a word nothing is found.
            author: only what this device wrote.
            since_ms, until_ms: only what was written from then on, and before; in milliseconds since 1970.
            before: only what comes before this key, such as the first message of an earlier answer.
        """
        lower = LOWEST if since_ms is None else (make_hlc(max(0, since_ms)), b"")
        upper = HIGHEST if until_ms is None else (make_hlc(max(0, until_ms)), b"")
        upper = upper if before is None else min(upper, before)
        find = partial(search, author=author, lower=lower, upper=upper, limit=limit)
        return await self._worker.run_relaxed(find, self._pool_id, text)

    async def sessions(self, *, limit: int | None = None, before: Bound | None = None) -> list[Session]:
        """Return the newest `limit` sessions, or the newest of those that began before a key.

        A silence of more than `SESSION_GAP_S` between consecutive messages begins a new one. What is from before the
        `floor` is in none.
        """
        return await self._worker.run_relaxed(partial(read_sessions, limit=limit, before=before))

    async def last_hlc(self) -> Hlc:
        """Return the highest clock stamp stored, 0 if there is none."""
        return max(await self._worker.run_relaxed(tables.select_last_hlcs, DeviceId(b"")))

    async def last_hlcs(self, device: DeviceId) -> tuple[Hlc, Hlc]:
        """Return the highest clock stamps of a device and of others among the newest messages, 0 if there is none."""
        return await self._worker.run_relaxed(tables.select_last_hlcs, device)

    async def count(self) -> int:
        """Return the number of messages stored."""
        return await self._worker.run_relaxed(count_messages)

    # --- agreement with others --------------------------------------------------------------------------------------

    async def summary(self, lower: Bound, upper: Bound) -> Summary:
        """Return number and sum of ids of the messages in a range that are kept in agreement."""
        return await self.with_keys(lambda keys: keys.summary(lower, upper))

    async def with_keys(self, call: Callable[[KeySet], T]) -> T:
        """Return ``call(keys)``, run in the thread of the database, in one transaction; `keys` is of use only there.

        The set is that of all messages stored from the `floor` on.
        """
        return await self._worker.run_relaxed(_with_keys, call)

    async def with_standing_keys(self, call: Callable[[KeySet], T]) -> T:
        """The same with the set of all messages of standing kinds that are stored, however old."""
        return await self._worker.run_relaxed(_with_standing_keys, call)

    def bind(self, fetch: Fetch | None, *, floor_moved: FloorMoved | None = None) -> None:
        """From now on let `fetch_older` ask neighbours by means of `fetch`, and tell `floor_moved` of another `floor`.

        None: no longer.
        """
        self._fetch = fetch
        self._floor_moved = floor_moved

    async def fetch_older(self, before: Bound | None, count: int) -> list[Message]:
        """Return the `count` messages before a key (None: the newest), after asking the neighbours, if bound."""
        upper = HIGHEST if before is None else before
        if self._fetch is not None:
            await self._fetch(upper, count)
        return await self.before(upper, count)

    async def known_from(self) -> Bound | None:
        """Return from where on this history is kept in agreement with others; None if that was never set."""
        await trio.lowlevel.checkpoint()
        return self._state.known_from

    async def set_known_from(self, bound: Bound) -> None:
        """Set it, durably; to the `floor` if that is higher."""
        await self._change(self._worker.run, settings.write_known_from, bound)

    # --- retention --------------------------------------------------------------------------------------------------

    async def floor(self) -> Bound:
        """Return where the kept history begins: what is older is not taken, but for standing kinds."""
        await trio.lowlevel.checkpoint()
        return self._state.floor

    @property
    def retention(self) -> Retention:
        """How much is kept."""
        return self._state.retention

    async def set_retention(self, retention: Retention) -> None:
        """Keep so much from now on, also when opened again; `expire` deletes what is more.

        If it is another than before, the `floor` is forgotten: what it kept out is taken when it comes.
        """
        await self._change(self._worker.run, changes.set_retention, retention)

    async def expire(self, unix_ms: int) -> int:
        """Delete what is not to be kept at that time, and return how many messages that were.

        Kept in any case: standing kinds (profiles, offers of all kinds, retractions) and the newest message. The limit
        by count is also kept, about, by `append`; nothing expires by age unless this is called now and then.
        """
        expired, is_all = 0, False
        while not is_all:
            count, is_all = await self._change(self._worker.run_relaxed, changes.expire, unix_ms)
            self._expired += count
            expired += count
        return expired

    # --- the rest ---------------------------------------------------------------------------------------------------

    async def export(self, path: Path, *, format: ExportFormat = "jsonl") -> int:
        """Write the history to a new file, and return the number of messages in it.

        Args:
            path: where it is when this returns, whole; what is there is never overwritten.
            format: ``jsonl``, an object a line, all messages; or ``markdown``, what people read, by sessions.

        Raises:
            OutputExists: something is there.
            StoreError: it cannot be written.
        """
        names = names_of(await self.of_kinds((ProfileBody.KIND,)))
        writer = make_writer(format, names, self._was_admin)
        async with open_export(path) as file:
            key = LOWEST
            while page := await self.after(key, _EXPORT_PAGE):
                await file.write(writer.lines(page))
                key = page[-1].key
        return writer.count

    def statistics(self) -> MessageStatistics:
        """Return counts; costs nothing."""
        worker = self._worker.statistics()
        return MessageStatistics(
            messages=self._state.count,
            appended=self._appended,
            duplicates=self._duplicates,
            refused=self._refused,
            retracted=self._deleted,
            expired=self._expired,
            transactions=worker.transactions,
            failed_transactions=worker.failed,
            peak_waiting=worker.peak_waiting,
        )

    def _tombstone(self, message: Message) -> Tombstone | None:
        target = retraction_target(message)
        if target is None:
            return None
        return Tombstone(message, target, self._was_admin(message.author, message.content.hlc))

    def _tell_retracted(self, retracted: Iterable[tuple[MsgId, Message]]) -> None:
        for msg_id, tombstone in retracted:
            self._deleted += 1
            if self._retracted is not None:
                self._retracted(msg_id, tombstone)

    def _is_expiry_due(self, more: int) -> bool:
        """Return whether so many more messages are too many for the limit by count."""
        limit = self.retention.max_count
        return limit is not None and self._unchecked + more > max(_MIN_EXPIRY_SLACK, limit * _EXPIRY_SLACK)

    async def _change(
        self,
        run: Callable[[Callable[[sqlite3.Connection], tuple[T, State]]], Awaitable[tuple[T, State]]],
        transaction: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a transaction that changes something, and take note of what is there now."""
        result, state = await run(lambda c: (transaction(c, *args, **kwargs), read_state(c)))
        if state.version > self._state.version:  # tasks do not always wake up in the order of their transactions
            before, self._state = self._state, state
            if state.floor != before.floor and self._floor_moved is not None:
                self._floor_moved(state.floor)
        return result

    async def _page(
        self, lower: Bound, upper: Bound, count: int, kinds: Collection[str] | None, *, newest: bool
    ) -> list[Message]:
        select = partial(tables.select_page, newest=newest)
        return await self._worker.run_relaxed(select, self._pool_id, lower, upper, count, kinds)


@contextlib.asynccontextmanager
async def open_message_db(
    path: Path, pool_id: PoolId, *, was_admin: WasAdmin = nobody, retracted: Retracted | None = None
) -> AsyncIterator[MessageDB]:
    """Open the history of a pool at `path`, or begin one.

    Args:
        path: the database; its directory must exist.
        pool_id: the pool whose messages are in it.
        was_admin: says whether a device was an admin at a time, for what it retracts and announces; called in the task
            that calls a method.
        retracted: is told the id of each stored message that was deleted because of a tombstone, and the tombstone;
            after it is gone, and before the method that did it returns.

    Raises:
        StoreError: it cannot be opened.
        StoreDamaged: it is damaged or no history of poolnet's; it is kept aside, so that the next try begins a new one.
    """

    schema = (
        VERSION_1,
        lambda connection: make_version_2(connection, pool_id, changes.insert),
        lambda connection: make_version_3(connection, sum_up_standing),
    )
    async with open_sqlite(path, schema=schema, erase=True) as worker:
        state = await worker.run_relaxed(read_state)
        db = MessageDB(worker, pool_id, state=state, was_admin=was_admin, retracted=retracted)
        try:
            yield db
        finally:
            with trio.CancelScope(shield=True):  # no deadline needed: one transaction
                await db.close()


def _with_keys(connection: sqlite3.Connection, call: Callable[[KeySet], T]) -> T:
    return call(DatabaseKeys(connection, settings.read_floor(connection)))


def _with_standing_keys(connection: sqlite3.Connection, call: Callable[[KeySet], T]) -> T:
    return call(DatabaseKeys(connection, LOWEST, STANDING))
