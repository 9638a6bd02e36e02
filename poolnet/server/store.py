"""What a sync server keeps on disk: pools, their statements, and who was online when it stopped.

Never messages, files, or names of files: it does not get to see them. Statements are on the disk before anybody is told
that they are accepted; a roster may lose its last moments in a power cut, after which nodes attach anew.
"""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import assert_never

from poolnet.errors import StoreDamaged
from poolnet.ids import ID_SIZE, DeviceId, PoolId
from poolnet.limits import RING_COUNT
from poolnet.server.events import PruneStatements, SaveEffect, SaveJoined, SaveLeft, SaveStatements, StoredPool
from poolnet.storage.sqlite_worker import SqliteStatistics, SqliteWorker, open_sqlite
from poolnet.wire.sync_frames import RosterEntry

_PLACE_SIZE = 8
_SCHEMA = (
    """
    CREATE TABLE pools (
        pool_id BLOB PRIMARY KEY,
        epoch INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE statements (
        pool_id BLOB NOT NULL REFERENCES pools,
        statement_id BLOB NOT NULL,
        encoded BLOB NOT NULL,
        PRIMARY KEY (pool_id, statement_id)
    ) STRICT;
    CREATE TABLE roster (
        pool_id BLOB NOT NULL REFERENCES pools,
        node BLOB NOT NULL,
        places BLOB NOT NULL,
        PRIMARY KEY (pool_id, node)
    ) STRICT, WITHOUT ROWID;
    """,
)


class PoolStore:
    """The store of one server. Made by `open_pool_store`."""

    def __init__(self, worker: SqliteWorker) -> None:
        self._worker = worker

    async def load(self, pool_id: PoolId) -> StoredPool | None:
        """Return a pool, or None if it is not there.

        Raises:
            StoreError: it cannot be read.
        """
        return await self._worker.run_relaxed(_load, pool_id)

    async def save(self, effects: Sequence[SaveEffect]) -> None:
        """Perform `effects` in order: all or none. With statements among them, they are on the disk on return.

        Raises:
            StoreError: nothing was stored.
        """
        is_durable = any(isinstance(effect, SaveStatements) for effect in effects)
        run = self._worker.run if is_durable else self._worker.run_relaxed
        await run(_save, tuple(effects))

    def statistics(self) -> SqliteStatistics:
        """Return counts since opening."""
        return self._worker.statistics()


@asynccontextmanager
async def open_pool_store(path: Path) -> AsyncIterator[PoolStore]:
    """Open, or create, the database at `path`.

    Raises:
        StoreError: it cannot be opened.
    """
    async with open_sqlite(path, schema=_SCHEMA) as worker:
        yield PoolStore(worker)


def _load(connection: sqlite3.Connection, pool_id: PoolId) -> StoredPool | None:
    pool = connection.execute("SELECT epoch FROM pools WHERE pool_id = ?", (pool_id,)).fetchone()
    if pool is None:
        return None
    statements = connection.execute("SELECT encoded FROM statements WHERE pool_id = ? ORDER BY rowid", (pool_id,))
    roster = connection.execute("SELECT node, places FROM roster WHERE pool_id = ? ORDER BY node", (pool_id,))
    return StoredPool(
        statements=tuple(encoded for (encoded,) in statements),
        epoch=pool[0],
        roster=tuple(_roster_entry(node, places) for node, places in roster),
    )


def _save(connection: sqlite3.Connection, effects: tuple[SaveEffect, ...]) -> None:
    for effect in effects:
        match effect:
            case SaveStatements(pool_id, statements):
                connection.execute("INSERT OR IGNORE INTO pools VALUES (?, 0)", (pool_id,))
                connection.executemany(
                    "INSERT OR IGNORE INTO statements VALUES (?, ?, ?)",
                    [(pool_id, statement_id, encoded) for statement_id, encoded in statements],
                )
            case PruneStatements(pool_id, keep):
                _prune(connection, pool_id, frozenset(keep))
            case SaveJoined(pool_id, epoch, entry):
                row = (pool_id, entry.node, _pack(entry.places))
                connection.execute("INSERT OR REPLACE INTO roster VALUES (?, ?, ?)", row)
                connection.execute("UPDATE pools SET epoch = ? WHERE pool_id = ?", (epoch, pool_id))
            case SaveLeft(pool_id, epoch, node):
                connection.execute("DELETE FROM roster WHERE pool_id = ? AND node = ?", (pool_id, node))
                connection.execute("UPDATE pools SET epoch = ? WHERE pool_id = ?", (epoch, pool_id))
            case _:
                assert_never(effect)


def _prune(connection: sqlite3.Connection, pool_id: PoolId, keep: frozenset[bytes]) -> None:
    stored = connection.execute("SELECT statement_id FROM statements WHERE pool_id = ?", (pool_id,)).fetchall()
    connection.executemany(
        "DELETE FROM statements WHERE pool_id = ? AND statement_id = ?",
        [(pool_id, statement_id) for (statement_id,) in stored if statement_id not in keep],
    )


def _pack(places: tuple[int, ...]) -> bytes:
    return b"".join(place.to_bytes(_PLACE_SIZE, "big") for place in places)


def _roster_entry(node: bytes, places: bytes) -> RosterEntry:
    if len(node) != ID_SIZE or len(places) != RING_COUNT * _PLACE_SIZE:
        raise StoreDamaged("the roster of a pool is not what was stored")
    return RosterEntry(node=DeviceId(node), places=_unpack(places))


def _unpack(packed: bytes) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(packed[start : start + _PLACE_SIZE], "big") for start in range(0, len(packed), _PLACE_SIZE)
    )
