"""Search in the words of a history, from its end, volume by volume (message_volumes.py)."""

import sqlite3

from poolnet.ids import DeviceId, PoolId
from poolnet.storage.message_tables import Found, load
from poolnet.storage.message_volumes import Volume, read_volumes, time_place
from poolnet.storage.message_words import match_expression
from poolnet.wire.claims import Bound
from poolnet.wire.message import Message


def search(
    connection: sqlite3.Connection,
    pool_id: PoolId,
    typed: str,
    *,
    author: DeviceId | None,
    lower: Bound,
    upper: Bound,
    limit: int,
) -> list[Message]:
    """Return the newest `limit` messages in a range that match what somebody typed, oldest first."""
    words = match_expression(typed)
    if words is None or limit < 1:
        return []
    expression = f"text : ({words})"
    if author is not None:
        number = connection.execute("SELECT number FROM authors WHERE device = ?", (author,)).fetchone()
        if number is None:
            return []
        expression += f' AND author : "{number[0]}"'
    return load(connection, pool_id, _find(connection, expression, lower, upper, limit))


def _find(connection: sqlite3.Connection, expression: str, lower: Bound, upper: Bound, limit: int) -> list[Found]:
    found: list[Found] = []
    for volume in reversed(read_volumes(connection)):
        oldest = found[0][1] if len(found) == limit else lower[0]
        if volume.last < time_place(oldest):
            break  # here and in the volumes before it everything is older
        matching = [row for row in _find_in(connection, volume, expression) if lower <= row[1:] < upper]
        found = sorted([*matching, *found], key=lambda row: row[1:])
        found = found[max(0, len(found) - limit) :]
    return found


def _find_in(connection: sqlite3.Connection, volume: Volume, expression: str) -> list[Found]:
    return connection.execute(
        f"SELECT place, hlc, msg_id FROM {volume.words} AS words"  # noqa: S608 - only words from here
        f" CROSS JOIN messages ON place = words.rowid WHERE {volume.words} MATCH ?",
        (expression,),
    ).fetchall()
