"""SQLite for trio: one connection, used by one thread at a time, in WAL mode, with versioned schemas.

A transaction is a plain function that gets the connection; it runs in a thread, alone, and is committed as a whole or
not at all. What it raises of SQLite's errors becomes `StoreError`, `DiskFull` and `StoreDamaged`.

A database that turns out to be damaged is renamed when it is closed, so that opening it again begins a new one.
"""

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import attrs
import trio

from poolnet.errors import DiskFull, StoreDamaged, StoreError
from poolnet.limits import MIB
from poolnet.storage.durable import PRIVATE_FILE, keep_aside, store_errors, sync_directory, sync_file
from poolnet.storage.sqlite_types import blaming_wrong_values

_logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

#: What brings a database from one version of its schema to the next: an SQL script, or a function in a transaction.
Upgrade = str | Callable[[sqlite3.Connection], None]

#: "pool" in ASCII: tells our databases from other programs'.
APPLICATION_ID = 0x706F6F6C
#: How large a WAL may become: a batch of a thousand rows touches thousands of pages of a large index.
_LOG_SIZE = 16 * MIB
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_FAILED_SYNCS = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: Primary result code: the low byte of an extended one.
_PRIMARY = 0xFF


@attrs.frozen(kw_only=True)
class SqliteStatistics:
    """Transactions run, how many failed, and the most that waited at once."""

    transactions: int
    failed: int
    peak_waiting: int


class WriteBehind(Protocol):
    """Writes that wait for the next transaction; called in the thread of the database."""

    def is_due(self) -> bool:
        """Return whether there is something to write."""

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it, in a transaction."""

    def written(self) -> None:
        """Take note that the transaction is committed."""


class SqliteWorker:
    """A database and the thread that works on it. Made by `open_sqlite`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._log = path.with_name(path.name + "-wal")
        self._connection = connection
        self._turn = trio.CapacityLimiter(1)
        self._is_durable: bool | None = None
        self._transactions = 0
        self._failed = 0
        self._peak_waiting = 0
        self._behind: WriteBehind | None = None
        self._sync_turn = trio.Lock()
        self._sync_limiter = trio.CapacityLimiter(1)
        self._committed = 0  # transactions: they are in the log
        self._synced = 0  # of these, the first so many are on the disk
        self._sync_failure: StoreError | None = None
        self._is_damaged = False
        self._has_erased = False  # and the log is not emptied yet

    def write_first(self, behind: WriteBehind) -> None:
        """Before each transaction, have what waits in `behind` written, in a relaxed transaction of its own.

        If that fails, it is logged, and the other transaction takes place all the same.
        """
        self._behind = behind

    async def run(
        self, transaction: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``transaction(connection, *args)`` in a thread, in one transaction, and return its result.

        When it returns, what was written is on the disk. Transactions run one at a time, in order of their calls. Once
        one has begun it is finished, even if the caller is cancelled.

        Raises:
            StoreError: SQLite failed (`DiskFull` for want of space), or a `sync` has; nothing of it was stored.
            StoreDamaged: the database is damaged, or the transaction says so of what it read; it is set aside when it
                is closed.
        """
        return await self._in_turn(True, lambda: transaction(self._connection, *args, **kwargs))

    async def run_relaxed(
        self, transaction: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `run`, without waiting for the disk: a power cut (not a crash) may undo the last few of them."""
        return await self._in_turn(False, lambda: transaction(self._connection, *args, **kwargs))

    async def run_erasing(
        self, transaction: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `run`; and if opened with `erase`, what was deleted is in no file any more when it returns.

        If there is no space left for that, it is done after a later transaction, as soon as there is.
        """
        return await self._in_turn(True, lambda: transaction(self._connection, *args, **kwargs), erasing=True)

    async def sync(self) -> None:
        """Return when everything that transactions have written so far, relaxed ones too, is on the disk.

        Transactions go on meanwhile; calls that come meanwhile share the next sync, because it costs the same for all.

        Raises:
            StoreError: the system could not write it. From then on this fails until the database is opened again,
                because a system forgets what it could not write.
        """
        number = self._committed
        async with self._sync_turn:
            self.check_sync()
            if self._synced < number:
                reached = self._committed  # not what is under way: it may reach the log only after this sync
                try:
                    await trio.to_thread.run_sync(self._sync_log, limiter=self._sync_limiter)
                except StoreError as exc:
                    self._sync_failure = exc
                    raise
                self._synced = reached

    def check_sync(self) -> None:
        """Return if `sync` may succeed.

        Raises:
            StoreError: it has failed before.
        """
        if self._sync_failure is not None:
            raise StoreError(f"{self._sync_failure}; start again") from self._sync_failure

    def statistics(self) -> SqliteStatistics:
        """Return counts since opening."""
        return SqliteStatistics(transactions=self._transactions, failed=self._failed, peak_waiting=self._peak_waiting)

    async def _in_turn(self, durable: bool, call: Callable[[], T], *, erasing: bool = False) -> T:
        self._peak_waiting = max(self._peak_waiting, self._turn.statistics().tasks_waiting + 1)
        return await trio.to_thread.run_sync(self._transact, durable, call, erasing, limiter=self._turn)

    def _transact(self, durable: bool, call: Callable[[], T], erasing: bool) -> T:
        if durable:
            self.check_sync()
        self._transactions += 1
        try:
            with _sqlite_errors(self.path), blaming_wrong_values(self._connection):
                self._write_behind()
                self._set_durable(durable)
                result = _in_transaction(self._connection, call)
        except BaseException as exc:
            self._failed += 1
            self._is_damaged |= isinstance(exc, StoreDamaged)
            self._note_failed_sync(exc.__cause__)
            raise
        self._committed += 1
        self._has_erased |= erasing
        if self._has_erased or self._is_log_large():
            self._empty_log()
        return result

    def _write_behind(self) -> None:
        behind = self._behind
        if behind is not None and behind.is_due():
            try:
                self._set_durable(False)
                _in_transaction(self._connection, lambda: behind.write(self._connection))
            except sqlite3.Error as exc:
                self._note_failed_sync(exc)
                _logger.warning("cannot write to %s yet: %s", self.path, exc)
            else:
                self._committed += 1
                behind.written()

    def _sync_log(self) -> None:
        """Do what SQLite does in a durable transaction: commits are in the WAL, and it need only be synced.

        SQLite holds no locks on that file, so that closing it here does no harm; of the others it does.
        """
        with store_errors("write", self._log):
            sync_file(self._log)

    def _note_failed_sync(self, error: BaseException | None) -> None:
        """See `sync`: what earlier transactions wrote may be lost, even if the next sync says that all is well."""
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _FAILED_SYNCS:
            self._sync_failure = self._sync_failure or _translated(error, self.path)

    def _is_log_large(self) -> bool:
        try:
            return self._log.stat().st_size > _LOG_SIZE
        except OSError:
            return False

    def _empty_log(self) -> None:
        """Bring all that is in the WAL, old pages among it, to the database, and cut it to nothing."""
        try:
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._has_erased = bool(is_busy)
        except sqlite3.Error as exc:  # the transaction took place all the same
            self._note_failed_sync(exc)
            if self._has_erased:
                _logger.warning("what was deleted is still in the log of %s: %s", self.path, exc)
            else:
                _logger.warning("the log of %s cannot be emptied yet: %s", self.path, exc)

    def _close(self) -> None:
        self._connection.close()
        if self._is_damaged:
            _set_aside(self.path, "is damaged")

    def _set_durable(self, durable: bool) -> None:
        """Choose whether a commit waits for the disk; SQLite takes this only between transactions."""
        if durable != self._is_durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable


@contextlib.asynccontextmanager
async def open_sqlite(path: Path, *, schema: Sequence[Upgrade], erase: bool = False) -> AsyncIterator[SqliteWorker]:
    """Open, or create, the database at `path` and bring its schema up to date.

    Args:
        path: the database file; its directory must exist.
        schema: one `Upgrade` a version, the oldest first. The database remembers how many it has run; the rest is run
            now, each in a transaction. One that was released is never changed.
        erase: overwrite what is deleted with zeros. What an earlier process left in the WAL is gone when this has
            opened.

    Raises:
        StoreError: it cannot be opened, or a newer poolnet wrote it.
        StoreDamaged: it is damaged, or not ours; it is kept aside, so that the next try creates a new one.
    """
    connection = await trio.to_thread.run_sync(_open, path, tuple(schema), erase)
    worker = SqliteWorker(path, connection)
    try:
        yield worker
    finally:
        with trio.CancelScope(shield=True):  # no deadline needed: at most one transaction and a checkpoint
            await trio.to_thread.run_sync(worker._close, limiter=worker._turn)


class _Foreign(Exception):
    """The database belongs to another program."""


def _open(path: Path, schema: Sequence[Upgrade], erase: bool) -> sqlite3.Connection:
    with store_errors("open", path):
        path.touch(mode=PRIVATE_FILE)
    try:
        connection = _connect(path, schema, erase)
    except _Foreign:
        raise StoreDamaged(_set_aside(path, "is not a poolnet database")) from None
    except StoreDamaged as exc:
        raise StoreDamaged(_set_aside(path, "is damaged")) from exc
    except UnicodeDecodeError as exc:  # what SQLite says of a damaged schema quotes it, and that is no text
        raise StoreDamaged(_set_aside(path, "is damaged")) from exc
    except sqlite3.Error as exc:
        if not _is_damaged(exc):
            raise _translated(exc, path) from exc
        raise StoreDamaged(_set_aside(path, "is damaged")) from exc
    try:
        with store_errors("open", path):
            sync_directory(path.parent)  # it and its log have names that stay; SQLite does not tell if that fails
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, schema: Sequence[Upgrade], erase: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=128)
    try:
        _check_ours(connection)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":  # SQLite goes on without, in a way in which a power cut takes back what was committed
            raise StoreError(f"{path} cannot have a log beside it; try again, or choose a home on a local disk")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # SQLite would not tell if a sync failed there
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA secure_delete = {'ON' if erase else 'OFF'}")
        _migrate(connection, path, schema)
        # Of what an earlier process left in the log, a part may be there only as long as the system runs.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _check_ours(connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise _Foreign


def _migrate(connection: sqlite3.Connection, path: Path, schema: Sequence[Upgrade]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema):
        raise StoreError(f"{path} was written by a newer version of poolnet; please update")
    for number, upgrade in enumerate(schema[version:], start=version + 1):
        marks = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {number}")
        if isinstance(upgrade, str):
            connection.executescript(f"BEGIN; {upgrade}; {'; '.join(marks)}; COMMIT;")
        else:
            _in_transaction(connection, partial(_run_upgrade, connection, upgrade, marks))


def _run_upgrade(
    connection: sqlite3.Connection, upgrade: Callable[[sqlite3.Connection], None], marks: Sequence[str]
) -> None:
    upgrade(connection)
    for mark in marks:
        connection.execute(mark)


def _in_transaction(connection: sqlite3.Connection, call: Callable[[], T]) -> T:
    connection.execute("BEGIN")
    try:
        result = call()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise
    return result


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise _translated(exc, path) from exc


def _translated(exc: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(exc, "sqlite_errorcode", None)
    if code in _NO_SPACE:
        return DiskFull(f"no space left to write {path}; free some and try again")
    if _is_damaged(exc):
        return StoreDamaged(f"{path} is damaged: {exc}; it is kept aside when it is closed, so open it again")
    return StoreError(f"cannot use {path}: {exc}")


def _is_damaged(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in _DAMAGED


def _set_aside(path: Path, what: str) -> str:
    """Keep a database and its WAL aside; return the sentence that says so."""
    aside = keep_aside(path)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            keep_aside(companion)
    return f"{path} {what}; it is kept as {aside.name}, and the next start goes without it"
