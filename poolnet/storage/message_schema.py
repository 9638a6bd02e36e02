"""The tables of a history, and their versions.

``messages`` holds what every message has, but not what it says: that is in volumes (message_volumes.py). ``place`` is
the key there: a number that grows with the time, nearly in the order of the pool (message_tables.py). ``blocks`` sum up
runs of messages, ``standing_blocks`` those of standing kinds (message_blocks.py), ``tombstones`` are the retractions
(message_changes.py), ``authors`` give devices short numbers, ``settings`` hold values in JSON (message_settings.py).
"""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from poolnet.errors import StoreDamaged, WireError
from poolnet.ids import DeviceId, PoolId
from poolnet.limits import MAX_MESSAGE_SIZE
from poolnet.wire.bodies import OFFER_KINDS, ProfileBody, RetractMessageBody, RetractOfferBody
from poolnet.wire.cbor import decode_cbor_untrusted
from poolnet.wire.message import Message, MessageContent, message_id
from poolnet.wire.schema import decode_fields_untrusted

VERSION_1: Final = """
    CREATE TABLE messages (
        row INTEGER PRIMARY KEY,
        hlc INTEGER NOT NULL,
        msg_id BLOB NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        encoded BLOB NOT NULL
    );
    CREATE INDEX messages_in_order ON messages (hlc, msg_id);
    CREATE INDEX messages_by_kind ON messages (kind, hlc, msg_id)
    """
_VERSION_2: Final = """
    CREATE TABLE messages (
        place INTEGER PRIMARY KEY,
        hlc INTEGER NOT NULL,
        msg_id BLOB NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        author INTEGER NOT NULL REFERENCES authors
    );
    CREATE INDEX messages_by_key ON messages (hlc, msg_id, author);
    CREATE INDEX messages_of_kind ON messages (kind, hlc, msg_id);
    CREATE TABLE authors (number INTEGER PRIMARY KEY, device BLOB NOT NULL UNIQUE);
    CREATE TABLE volumes (
        number INTEGER PRIMARY KEY,
        first INTEGER NOT NULL UNIQUE,
        last INTEGER NOT NULL,
        count INTEGER NOT NULL
    );
    CREATE TABLE blocks (
        first_hlc INTEGER NOT NULL,
        first_id BLOB NOT NULL,
        last_hlc INTEGER NOT NULL,
        last_id BLOB NOT NULL,
        count INTEGER NOT NULL,
        total BLOB NOT NULL,
        authors TEXT NOT NULL,
        PRIMARY KEY (first_hlc, first_id)
    ) WITHOUT ROWID;
    CREATE TABLE tombstones (
        msg_id BLOB PRIMARY KEY,
        target BLOB NOT NULL,
        author INTEGER NOT NULL REFERENCES authors,
        hlc INTEGER NOT NULL,
        is_admins INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX tombstones_by_target ON tombstones (target);
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """
STANDING_KINDS: Final = OFFER_KINDS | {ProfileBody.KIND, RetractOfferBody.KIND, RetractMessageBody.KIND}
#: The same as a condition. It is part of an index: another kind needs another version.
IS_STANDING: Final = "kind IN ('" + "', '".join(sorted(STANDING_KINDS)) + "')"
_VERSION_3: Final = f"""
    CREATE INDEX messages_standing ON messages (hlc, msg_id, author, kind) WHERE {IS_STANDING};
    CREATE TABLE standing_blocks (
        first_hlc INTEGER NOT NULL,
        first_id BLOB NOT NULL,
        last_hlc INTEGER NOT NULL,
        last_id BLOB NOT NULL,
        count INTEGER NOT NULL,
        total BLOB NOT NULL,
        authors TEXT NOT NULL,
        PRIMARY KEY (first_hlc, first_id)
    ) WITHOUT ROWID
    """
T = TypeVar("T")

#: Messages brought to the new version at a time.
_UPGRADE_BATCH: Final = 1000


def make_version_2(
    connection: sqlite3.Connection, pool_id: PoolId, insert: Callable[[sqlite3.Connection, list[Message]], object]
) -> None:
    """Bring a history of version 1 to version 2, in which messages no longer hold what all of a pool have in common.

    Raises:
        StoreDamaged: it holds something that is no message of this pool.
    """
    connection.execute("ALTER TABLE messages RENAME TO messages_1")
    _execute_all(connection, _VERSION_2)
    old = connection.execute("SELECT encoded FROM messages_1 ORDER BY hlc, msg_id")
    while batch := old.fetchmany(_UPGRADE_BATCH):
        insert(connection, [_decode_version_1(encoded, pool_id) for (encoded,) in batch])
    connection.execute("DROP TABLE messages_1")


def make_version_3(connection: sqlite3.Connection, sum_up: Callable[[sqlite3.Connection], None]) -> None:
    """Bring a history of version 2 to version 3, in which what stands is summed up by itself."""
    _execute_all(connection, _VERSION_3)
    sum_up(connection)


def _execute_all(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):
        connection.execute(statement)


def author_number(connection: sqlite3.Connection, device: DeviceId) -> int:
    """Return the short number of a device, a new one if it has none."""
    found = connection.execute("SELECT number FROM authors WHERE device = ?", (device,)).fetchone()
    if found is not None:
        return int(found[0])
    return int(connection.execute("INSERT INTO authors (device) VALUES (?)", (device,)).lastrowid or 0)


def batches(items: list[T], size: int) -> Iterator[list[T]]:
    """Yield a list in slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _decode_version_1(encoded: object, pool_id: PoolId) -> Message:
    """Return a message from its old form, ``[all signed bytes, signature]``."""
    try:
        signed, signature = _two_byte_strings(encoded)
        content = decode_fields_untrusted(MessageContent, decode_cbor_untrusted(signed, max_size=MAX_MESSAGE_SIZE))
    except WireError as exc:
        raise StoreDamaged("a message in the history is damaged") from exc
    if content.pool_id != pool_id:
        raise StoreDamaged("a message in the history is of another pool")
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=signature)


def _two_byte_strings(encoded: object) -> tuple[bytes, bytes]:
    if isinstance(encoded, bytes):
        match decode_cbor_untrusted(encoded, max_size=MAX_MESSAGE_SIZE):
            case [bytes(signed), bytes(signature)]:
                return signed, signature
    raise WireError("not a message")
