"""Whether a database holds what its columns are declared to hold.

SQLite takes a value of any type into any column of a table that is not STRICT, and a damaged page may still be a
well-formed one. What reads such a row fails in a way of its own. Looking at every value beforehand would cost more than
the reading; so it is looked at when something failed, to tell a damaged database from a fault of the program.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from poolnet.errors import StoreDamaged

_TYPES: Final = {"INTEGER": ("integer",), "TEXT": ("text",), "BLOB": ("blob",), "REAL": ("real", "integer")}
#: What comes of computing with a value of the wrong type.
_CONFUSED: Final = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError)


@contextlib.contextmanager
def blaming_wrong_values(connection: sqlite3.Connection) -> Iterator[None]:
    """Raise `StoreDamaged` where the block fails over values that are not of the type of their column.

    Without such values in the database, what the block raised is a fault of the program and goes on as it is.
    """
    try:
        yield
    except _CONFUSED as exc:
        place = find_wrong_value(connection)
        if place is None:
            raise
        raise StoreDamaged(f"there is a value of a wrong type in {place}") from exc


def find_wrong_value(connection: sqlite3.Connection) -> str | None:
    """Return a column, as ``table.column``, that holds a value of another type than it is declared with, if one does.

    Looks at the whole database.
    """
    tables = connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'").fetchall()
    for (table,) in tables:
        for _, column, declared, _, _, _ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            allowed = ", ".join(f"'{name}'" for name in ("null", *_TYPES.get(declared, ())))
            query = f'SELECT 1 FROM "{table}" WHERE typeof("{column}") NOT IN ({allowed}) LIMIT 1'  # noqa: S608 - names of ours
            if declared in _TYPES and connection.execute(query).fetchone():
                return f"{table}.{column}"
    return None
