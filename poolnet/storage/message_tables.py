"""Messages by key, kind and id: what is stored about each, and where in the volumes the rest of it is."""

import operator
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from poolnet.clock import MAX_HLC, Hlc
from poolnet.errors import StoreDamaged, WireError
from poolnet.ids import DeviceId, MsgId, PoolId
from poolnet.storage.message_schema import author_number, batches
from poolnet.storage.message_volumes import Entry, add_entries, read_bodies, time_place
from poolnet.storage.message_words import searchable_text
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message, MessageKey, decode_message_untrusted, encode_message

#: Parameters of one statement; old versions of SQLite take 999.
_MAX_PARAMETERS: Final = 500
#: How far messages of one time are spread: by these powers of two, one after the other, as their places are taken.
_SPREADS: Final = (4, 8, 12, 16, 20, 26)
#: Above all ids.
_AFTER_ALL_IDS: Final = b"\xff" * 33

#: Place and key of a stored message.
Found = tuple[int, Hlc, MsgId]


def sql_bound(bound: Bound) -> tuple[int, bytes]:
    """Return a bound that is among all keys where `bound` is, and that SQLite can take."""
    hlc, prefix = bound
    return (MAX_HLC, _AFTER_ALL_IDS) if hlc > MAX_HLC else (hlc, prefix)


def after_key(key: Bound) -> Bound:
    """Return the bound directly above `key`."""
    return (key[0], key[1] + b"\0")


def insert_messages(connection: sqlite3.Connection, messages: Sequence[Message]) -> dict[MessageKey, int]:
    """Store messages, none of which is there; return the numbers of their authors."""
    authors = {device: author_number(connection, device) for device in {message.author for message in messages}}
    entries = [
        Entry(
            _insert_row(connection, message, authors[message.author]),
            encode_message(message),
            searchable_text(message),
            authors[message.author],
        )
        for message in messages
    ]
    add_entries(connection, sorted(entries, key=lambda entry: entry.place))
    return {message.key: authors[message.author] for message in messages}


def select_page(
    connection: sqlite3.Connection,
    pool_id: PoolId,
    lower: Bound,
    upper: Bound,
    count: int,
    kinds: Collection[str] | None,
    *,
    newest: bool,
) -> list[Message]:
    """Return up to `count` messages (-1: all) from one end of a range, oldest first, of some kinds or of all."""
    return load(connection, pool_id, _select(connection, lower, upper, count, kinds, newest=newest))


def select_around(
    connection: sqlite3.Connection, pool_id: PoolId, msg_id: MsgId, count: int, kinds: Collection[str] | None
) -> list[Message]:
    """Return a message with up to `count` before and after it, of some kinds or of all; nothing if it is not there."""
    found = find_ids(connection, [msg_id])
    if not found:
        return []
    key = _key(found[0])
    earlier = _select(connection, LOWEST, key, count, kinds, newest=True)
    later = _select(connection, after_key(key), HIGHEST, count, kinds, newest=False)
    return load(connection, pool_id, earlier + found + later)


def load(connection: sqlite3.Connection, pool_id: PoolId, found: Sequence[Found]) -> list[Message]:
    """Return the messages found, in that order.

    Raises:
        StoreDamaged: one is not what was stored.
    """
    bodies = read_bodies(connection, [place for place, _, _ in found])
    return [_decode(bodies[place], msg_id, pool_id) for place, _, msg_id in found]


def find_ids(connection: sqlite3.Connection, ids: Iterable[MsgId]) -> list[Found]:
    """Return those of the messages with these ids that are stored, in order."""
    found: list[Found] = []
    for some in batches(list(ids), _MAX_PARAMETERS):
        marks = ", ".join("?" * len(some))
        found += connection.execute(f"SELECT place, hlc, msg_id FROM messages WHERE msg_id IN ({marks})", some)  # noqa: S608
    return sorted(found, key=_key)


def select_ids(connection: sqlite3.Connection, pool_id: PoolId, ids: Iterable[MsgId]) -> list[Message]:
    """Return those of the messages with these ids that are stored, in order."""
    return load(connection, pool_id, find_ids(connection, ids))


def find_between(connection: sqlite3.Connection, lowest: bytes, highest: bytes, limit: int) -> list[MsgId]:
    """Return up to `limit` ids in a range, both ends included."""
    query = "SELECT msg_id FROM messages WHERE msg_id BETWEEN ? AND ? ORDER BY msg_id LIMIT ?"
    return [msg_id for (msg_id,) in connection.execute(query, (lowest, highest, limit))]


def select_last_hlcs(connection: sqlite3.Connection, device: DeviceId) -> tuple[Hlc, Hlc]:
    """Return the highest stamps of a device and of others, 0 if there is none among the newest messages."""
    newest = "SELECT hlc, author FROM messages ORDER BY hlc DESC LIMIT 10000"
    found = connection.execute(
        f"SELECT device = ?, max(hlc) FROM ({newest}) JOIN authors ON author = number GROUP BY 1",  # noqa: S608
        (device,),
    )
    last = dict(found.fetchall())
    own, others = (Hlc(operator.index(last.get(is_own, 0))) for is_own in (1, 0))  # a damaged one is found here
    return own, others


def _key(found: Found) -> MessageKey:
    return found[1:]


def _insert_row(connection: sqlite3.Connection, message: Message, author: int) -> int:
    statement = "INSERT OR IGNORE INTO messages (place, hlc, msg_id, kind, author) VALUES (?, ?, ?, ?, ?)"
    content = message.content
    for place in _places(message.key):
        if connection.execute(statement, (place, content.hlc, message.msg_id, content.kind, author)).rowcount:
            return place
    raise AssertionError("67 million messages of one time")


def _places(key: MessageKey) -> Iterator[int]:
    """Yield where a message may be: at its time, then at chosen distances above it, then at every one there is."""
    hlc, msg_id = key
    lowest = time_place(hlc)
    yield lowest
    digits = int.from_bytes(msg_id, "big")
    for bits in _SPREADS:
        yield lowest + 1 + digits % 2**bits
        digits >>= bits
    yield from range(lowest + 1, lowest + 1 + 2 ** _SPREADS[-1])


def _select(
    connection: sqlite3.Connection,
    lower: Bound,
    upper: Bound,
    count: int,
    kinds: Collection[str] | None,
    *,
    newest: bool,
) -> list[Found]:
    if kinds is None:
        found = _select_range(connection, lower, upper, count, None, newest=newest)
    else:
        # one by one, because each kind is in order in its index, and only there
        each = (_select_range(connection, lower, upper, count, kind, newest=newest) for kind in set(kinds))
        found = sorted(chain.from_iterable(each), key=_key, reverse=newest)
        found = found if count < 0 else found[:count]
    return found[::-1] if newest else found


def _select_range(
    connection: sqlite3.Connection, lower: Bound, upper: Bound, count: int, kind: str | None, *, newest: bool
) -> list[Found]:
    direction = "DESC" if newest else "ASC"
    index, condition = ("messages_by_key", "") if kind is None else ("messages_of_kind", "kind = ? AND ")
    query = (
        f"SELECT place, hlc, msg_id FROM messages INDEXED BY {index}"  # noqa: S608 - only words from here
        f" WHERE {condition}(hlc, msg_id) >= (?, ?) AND (hlc, msg_id) < (?, ?)"
        f" ORDER BY hlc {direction}, msg_id {direction} LIMIT ?"
    )
    kinds = () if kind is None else (kind,)
    return connection.execute(query, (*kinds, *sql_bound(lower), *sql_bound(upper), count)).fetchall()


def _decode(encoded: bytes, msg_id: MsgId, pool_id: PoolId) -> Message:
    try:
        message = decode_message_untrusted(encoded, pool_id)
    except WireError as exc:
        raise StoreDamaged("a message in the history is damaged") from exc
    if message.msg_id != msg_id:
        raise StoreDamaged("a message in the history is not what was stored")
    return message
