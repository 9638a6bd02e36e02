"""Changes to SQLite databases: to what is in their cells, and to what tables there are. Drawn from a seed."""

import contextlib
import sqlite3
from random import Random
from typing import Final

_VALUES: Final = (
    None,
    0,
    -1,
    2**63 - 1,
    0.5,
    float("inf"),
    "",
    "text",
    "1 x",
    "[]",
    "[" * 5000,
    "NaN",
    "[1, 2]",
    '{"max_age_s": "x", "max_count": 0}',
    b"",
    b"\x00",
    b"\xff" * 32,
    b"\x81" * 5000,
)


def mutate_database(seed: int, content: bytes) -> bytes:
    """Return a database with a few cells, or a table, changed; its schema may then not be ours any more."""
    rng = Random(seed)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(_without_log(content))
        for _ in range(rng.choice((1, 1, 2, 4))):
            with contextlib.suppress(sqlite3.Error):  # the schema does not let it: then it cannot happen either
                _change(rng, database)
        return bytes(database.serialize())


def _change(rng: Random, database: sqlite3.Connection) -> None:
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    tables = [name for (name,) in database.execute(names)]
    table = rng.choice(tables)
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    column = rng.choice(columns)
    way = rng.random()
    if way < 0.04:
        database.execute(f"DROP TABLE {table}")
    elif way < 0.08:
        database.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    elif way < 0.12:
        database.execute(f"PRAGMA user_version = {rng.choice((0, 1, 2, 3))}")
    elif way < 0.2:
        database.execute(f"DELETE FROM {table}")
    else:
        where = f"rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET {rng.randrange(5)})" if rng.random() < 0.5 else "1"
        value = rng.choice(_VALUES)
        with contextlib.suppress(sqlite3.OperationalError):  # a table without row ids
            database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
            return
        database.execute(f"UPDATE {table} SET {column} = ?", (value,))


def _without_log(content: bytes) -> bytes:
    """Return a database that is not in WAL mode, which one in memory cannot be (file format, bytes 18 and 19)."""
    return content[:18] + b"\x01\x01" + content[20:]
