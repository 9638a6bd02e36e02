"""What messages say, in volumes of a few thousand: each a table of encoded messages, and an FTS5 index of their words.

A volume is what is rewritten to erase something. SQLite overwrites a deleted row with zeros if asked to, but copies of
it may remain in the unused parts of pages that it once moved through, and a full-text index keeps a deleted word until
it is merged. Only a table that is dropped is overwritten as a whole. So what is to stay is copied to new tables and the
old ones are dropped: the cost depends on the size of a volume, not on that of the history.

A *place* is the time of a message, or a little more where several have the same. So places are nearly in the order of
the pool, and what is close in time is close on the disk; but only the key of a message says what comes first. Volumes
cover ranges of places that do not overlap: ``first`` to ``last``, ``count`` messages in it.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from poolnet.errors import StoreDamaged
from poolnet.storage.message_schema import batches

#: Messages in a volume. Rewriting one takes some 50 ms; a search looks into each.
VOLUME_SIZE: Final = 4096
#: Times later than this, in the year 4199, share their places, so that those with what is added fit into 63 bits.
MAX_TIME_PLACE: Final = 2**62
#: A volume that has grown in its middle is split at this.
_SPLIT_SIZE: Final = 2 * VOLUME_SIZE
#: Parameters of one statement; old versions of SQLite take 999.
_MAX_PARAMETERS: Final = 500


@attrs.frozen
class Entry:
    """A message to be stored. `text` is what a search finds it by, None for nothing; `author` is a number."""

    place: int
    encoded: bytes
    text: str | None
    author: int


@attrs.define
class Volume:
    """A row of the table of volumes."""

    number: int
    first: int
    last: int
    count: int

    @property
    def bodies(self) -> str:
        """Name of the table of encoded messages."""
        return f"bodies_{self.number}"

    @property
    def words(self) -> str:
        """Name of the full-text index."""
        return f"words_{self.number}"


def time_place(hlc: int) -> int:
    """Return the lowest place that a message of this time can have."""
    return min(hlc, MAX_TIME_PLACE)


def add_entries(connection: sqlite3.Connection, entries: list[Entry]) -> None:
    """Store messages, whose places are new, in ascending order of places."""
    volumes = read_volumes(connection)
    inside: dict[int, list[Entry]] = {}
    for entry in entries:
        volume = _choose(connection, volumes, entry.place)
        volume.first, volume.last = min(volume.first, entry.place), max(volume.last, entry.place)
        volume.count += 1
        inside.setdefault(volume.number, []).append(entry)
    for volume in volumes:
        if volume.number in inside:
            _insert(connection, volume, inside[volume.number])
            _save(connection, volume)
            if volume.count >= _SPLIT_SIZE:
                _rewrite(connection, volume)


def read_bodies(connection: sqlite3.Connection, places: Iterable[int]) -> dict[int, bytes]:
    """Return the encoded messages at these places.

    Raises:
        StoreDamaged: one is not there.
    """
    found: dict[int, bytes] = {}
    wanted = sorted(places)
    for volume, some in _by_volume(connection, wanted):
        for few in batches(some, _MAX_PARAMETERS):
            marks = ", ".join("?" * len(few))
            found.update(
                connection.execute(f"SELECT place, encoded FROM {volume.bodies} WHERE place IN ({marks})", few)  # noqa: S608
            )
    if len(found) != len(set(wanted)):
        raise StoreDamaged("a message of the history is missing")
    return found


def erase_entries(connection: sqlite3.Connection, places: Iterable[int]) -> None:
    """Remove messages such that nothing of them is left in the database file, once the WAL is emptied."""
    for volume, some in _by_volume(connection, sorted(places)):
        where = [(place,) for place in some]
        connection.executemany(f"DELETE FROM {volume.bodies} WHERE place = ?", where)  # noqa: S608
        connection.executemany(f"DELETE FROM {volume.words} WHERE rowid = ?", where)  # noqa: S608
        _rewrite(connection, volume)


def count_messages(connection: sqlite3.Connection) -> int:
    """Return the number of all messages."""
    (count,) = connection.execute("SELECT sum(count) FROM volumes").fetchone()
    return int(count or 0)


def read_volumes(connection: sqlite3.Connection) -> list[Volume]:
    """Return all volumes, ascending."""
    return [Volume(*row) for row in connection.execute("SELECT number, first, last, count FROM volumes ORDER BY first")]


def _choose(connection: sqlite3.Connection, volumes: list[Volume], place: int) -> Volume:
    """Return the volume for a new place: the one around it, or one beside it with room, or a new one."""
    index = bisect_right(volumes, place, key=lambda volume: volume.first)
    before = volumes[index - 1] if index else None
    if before and (place <= before.last or before.count < VOLUME_SIZE):
        return before
    if index < len(volumes) and volumes[index].count < VOLUME_SIZE:
        return volumes[index]
    volume = _create(connection, place)
    volumes.insert(index, volume)
    return volume


def _by_volume(connection: sqlite3.Connection, places: list[int]) -> Iterator[tuple[Volume, list[int]]]:
    """Yield ascending places volume by volume. Volumes may be rewritten meanwhile, each once its turn has come."""
    start = 0
    while start < len(places):
        volume = _volume_before(connection, places[start])
        end = start if volume is None else bisect_right(places, volume.last, lo=start)
        if volume is None or end == start:
            raise StoreDamaged("a message of the history is missing")
        yield volume, places[start:end]
        start = end


def _volume_before(connection: sqlite3.Connection, place: int) -> Volume | None:
    """Return the last volume that begins at or before a place."""
    query = "SELECT number, first, last, count FROM volumes WHERE first <= ? ORDER BY first DESC LIMIT 1"
    found = connection.execute(query, (place,)).fetchone()
    return None if found is None else Volume(*found)


def _create(connection: sqlite3.Connection, first: int, *, beside: int = 0) -> Volume:
    """Make an empty volume; `beside` is the number of one whose tables are still there."""
    (highest,) = connection.execute("SELECT max(number) FROM volumes").fetchone()
    volume = Volume(max(highest or 0, beside) + 1, first, first, 0)
    connection.execute(f"CREATE TABLE {volume.bodies} (place INTEGER PRIMARY KEY, encoded BLOB NOT NULL)")
    connection.execute(
        f"CREATE VIRTUAL TABLE {volume.words}"
        " USING fts5 (text, author, columnsize = 0, tokenize = 'unicode61 remove_diacritics 2')"
    )
    _save(connection, volume)
    return volume


def _save(connection: sqlite3.Connection, volume: Volume) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO volumes (number, first, last, count) VALUES (?, ?, ?, ?)", attrs.astuple(volume)
    )


def _insert(connection: sqlite3.Connection, volume: Volume, entries: list[Entry]) -> None:
    connection.executemany(
        f"INSERT INTO {volume.bodies} VALUES (?, ?)",  # noqa: S608
        [(entry.place, entry.encoded) for entry in entries],
    )
    connection.executemany(
        f"INSERT INTO {volume.words} (rowid, text, author) VALUES (?, ?, ?)",  # noqa: S608
        [(entry.place, entry.text, str(entry.author)) for entry in entries if entry.text is not None],
    )


def _rewrite(connection: sqlite3.Connection, volume: Volume) -> None:
    """Copy what is in a volume to fresh ones of the right size, or to that before it if it fits, and drop it."""
    kept = [place for (place,) in connection.execute(f"SELECT place FROM {volume.bodies} ORDER BY place")]  # noqa: S608
    connection.execute("DELETE FROM volumes WHERE number = ?", (volume.number,))
    for places in batches(kept, VOLUME_SIZE):
        before = _volume_before(connection, places[0])
        fits = before is not None and before.count + len(places) <= VOLUME_SIZE
        target = before if before and fits else _create(connection, places[0], beside=volume.number)
        between = "BETWEEN ? AND ?"
        ends = (places[0], places[-1])
        connection.execute(
            f"INSERT INTO {target.bodies} SELECT place, encoded FROM {volume.bodies} WHERE place {between}",  # noqa: S608
            ends,
        )
        connection.execute(
            f"INSERT INTO {target.words} (rowid, text, author)"  # noqa: S608
            f" SELECT rowid, text, author FROM {volume.words} WHERE rowid {between}",
            ends,
        )
        target.last, target.count = places[-1], target.count + len(places)
        _save(connection, target)
    connection.execute(f"DROP TABLE {volume.bodies}")
    connection.execute(f"DROP TABLE {volume.words}")
