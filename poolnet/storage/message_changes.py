"""Every way in which a history changes, each a transaction: append, retract, purge, expire.

A tombstone (a message of kind `RetractMessageBody`) deletes its target if both have the same author, or if its author
was an admin then. The second is for others to say, and may change with what is known of the pool; so it is kept with
each tombstone. A tombstone is a message like others, and cannot be retracted. Since it is looked at whenever a message
comes, it makes no difference which of the two is first: equal sets of tombstones, and equal beliefs about admins, make
equal histories.

*Standing* kinds make up a state, such as names and offers, or are tombstones: they stay when all around them expire.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId, PoolId
from poolnet.storage.message_blocks import STANDING, add_keys, remove_below, remove_keys
from poolnet.storage.message_keys import DatabaseKeys
from poolnet.storage.message_schema import STANDING_KINDS, author_number, batches
from poolnet.storage.message_settings import Retention, move_floor, read_floor, read_retention, write_retention
from poolnet.storage.message_tables import find_ids, insert_messages, load, sql_bound
from poolnet.storage.message_volumes import erase_entries
from poolnet.wire.bodies import RetractMessageBody, decode_body_untrusted
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message, MessageKey

#: Parameters of one statement; old versions of SQLite take 999.
_MAX_PARAMETERS: Final = 500
#: Messages that expire in one transaction, about.
_EXPIRY_BATCH: Final = 10_000


@attrs.frozen
class Tombstone:
    """What a message retracts, and whether its author was an admin."""

    message: Message
    target: MsgId
    is_admins: bool


#: Ids of deleted messages, each with the tombstone because of which.
Retractions = list[tuple[MsgId, Message]]


@attrs.frozen
class Appended:
    """What became of a batch: the new messages, in order; how many were refused; what was deleted."""

    added: list[Message]
    refused: int
    retracted: Retractions


def retraction_target(message: Message) -> MsgId | None:
    """Return what a message retracts, None if it is no tombstone."""
    if message.content.kind != RetractMessageBody.KIND:
        return None
    try:
        body = decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version
    return body.msg_id if isinstance(body, RetractMessageBody) else None


def append(
    connection: sqlite3.Connection,
    pool_id: PoolId,
    batch: Sequence[Message],
    tombstones: Sequence[Tombstone],
    *,
    is_expiry_due: bool = False,
) -> Appended:
    """Store what is new of a batch, which is in order and without duplicates, and delete what it retracts.

    Args:
        tombstones: those of the batch.
        is_expiry_due: let some of what is too much by count expire.
    """
    floor = read_floor(connection)
    there = {msg_id for _, _, msg_id in find_ids(connection, [message.msg_id for message in batch])}
    new = [message for message in batch if message.msg_id not in there]
    fresh = [tombstone for tombstone in tombstones if tombstone.message.msg_id not in there]
    _insert_tombstones(connection, fresh)
    refused = _retracted_among(connection, new)
    refused |= {m.msg_id for m in new if m.key < floor and m.content.kind not in STANDING_KINDS}
    added = [message for message in new if message.msg_id not in refused]
    authors = insert(connection, added, floor)
    add_keys(connection, {m.key: authors[m.key] for m in added if m.content.kind in STANDING_KINDS}, STANDING)
    retracted = _retract(connection, pool_id, [tombstone.target for tombstone in fresh])
    if is_expiry_due:
        expire(connection, None)
    return Appended(added, len(refused), retracted)


def insert(connection: sqlite3.Connection, messages: Sequence[Message], floor: Bound = LOWEST) -> dict[MessageKey, int]:
    """Store messages, none of which is there, and sum them up but for what stands; return the numbers of their authors.

    A history of the first version is brought to the second with it, which has no sums of what stands.
    """
    authors = insert_messages(connection, messages)
    add_keys(connection, {key: author for key, author in authors.items() if key >= floor})
    return authors


def select_tombstones(connection: sqlite3.Connection) -> list[tuple[MsgId, DeviceId, Hlc, bool]]:
    """Return id, author and time of all tombstones, and whether they count as an admin's."""
    rows = connection.execute(
        "SELECT msg_id, device, hlc, is_admins FROM tombstones JOIN authors ON number = author ORDER BY hlc, msg_id"
    )
    return [(msg_id, device, hlc, bool(is_admins)) for msg_id, device, hlc, is_admins in rows]


def recheck(connection: sqlite3.Connection, pool_id: PoolId, by_admins: Mapping[MsgId, bool]) -> Retractions:
    """Take note of whether tombstones are admins', and delete what they retract now."""
    targets = []
    for msg_id, is_admins in by_admins.items():
        update = "UPDATE tombstones SET is_admins = ? WHERE msg_id = ? RETURNING target"
        targets += [target for (target,) in connection.execute(update, (is_admins, msg_id)).fetchall()]
    return _retract(connection, pool_id, targets)


def delete_after(connection: sqlite3.Connection, ends: Mapping[DeviceId, Hlc]) -> list[MsgId]:
    """Delete what these authors wrote after a time; return the ids, in order."""
    if not ends:
        return []
    after = {author_number(connection, device): hlc for device, hlc in ends.items()}
    rows = connection.execute(
        "SELECT hlc, msg_id, author FROM messages INDEXED BY messages_by_key WHERE hlc > ? ORDER BY hlc, msg_id",
        (min(after.values()),),
    )
    ids = [msg_id for hlc, msg_id, author in rows if author in after and hlc > after[author]]
    _delete(connection, ids)
    return ids


def expire(connection: sqlite3.Connection, unix_ms: int | None) -> tuple[int, bool]:
    """Delete some of what is not to be kept, by age if it is told the time; return how many, and whether that is all.

    The floor moves up to what is left.
    """
    old, due = read_floor(connection), _due_floor(connection, unix_ms)
    first = DatabaseKeys(connection, old).keys(old, due, _EXPIRY_BATCH + 1)
    is_all = len(first) <= _EXPIRY_BATCH
    floor = due if is_all else first[-1]
    if floor <= old:
        return 0, True
    ids = _passing_between(connection, old, floor)
    move_floor(connection, floor)
    remove_below(connection, floor)
    _delete_rows(connection, ids)
    return len(ids), is_all


def set_retention(connection: sqlite3.Connection, retention: Retention) -> None:
    """Keep so much from now on. If it is news, the floor is forgotten, and what is left below it counts again."""
    if retention == read_retention(connection):
        return
    write_retention(connection, retention)
    rows = connection.execute(
        "SELECT hlc, msg_id, author FROM messages INDEXED BY messages_by_key WHERE (hlc, msg_id) < (?, ?)",
        sql_bound(read_floor(connection)),
    ).fetchall()
    move_floor(connection, LOWEST)
    add_keys(connection, {(hlc, msg_id): author for hlc, msg_id, author in rows})


def _due_floor(connection: sqlite3.Connection, unix_ms: int | None) -> Bound:
    """Return where the history is to begin: where both rules say, but not after its newest message."""
    retention, keys = read_retention(connection), DatabaseKeys(connection, read_floor(connection))
    newest = keys.nth_newest(HIGHEST, 1)
    if newest is None:
        return LOWEST
    due = LOWEST
    if retention.max_age_s is not None and unix_ms is not None:
        due = (make_hlc(max(0, unix_ms - round(retention.max_age_s * 1000))), b"")
    if retention.max_count is not None:
        due = max(due, keys.nth_newest(HIGHEST, retention.max_count) or LOWEST)
    return min(due, newest)


def _passing_between(connection: sqlite3.Connection, lower: Bound, upper: Bound) -> list[MsgId]:
    """Return the messages in a range that are not of a standing kind."""
    rows = connection.execute(
        "SELECT msg_id, kind FROM messages WHERE (hlc, msg_id) >= (?, ?) AND (hlc, msg_id) < (?, ?)",
        (*sql_bound(lower), *sql_bound(upper)),
    )
    return [msg_id for msg_id, kind in rows if kind not in STANDING_KINDS]


def _insert_tombstones(connection: sqlite3.Connection, tombstones: Iterable[Tombstone]) -> None:
    for tombstone in tombstones:
        message = tombstone.message
        author = author_number(connection, message.author)
        connection.execute(
            "INSERT INTO tombstones (msg_id, target, author, hlc, is_admins) VALUES (?, ?, ?, ?, ?)",
            (message.msg_id, tombstone.target, author, message.content.hlc, tombstone.is_admins),
        )


def _retracted_among(connection: sqlite3.Connection, messages: Iterable[Message]) -> set[MsgId]:
    """Return which of these messages, not stored yet, are retracted."""
    by_id = {message.msg_id: message for message in messages if message.content.kind != RetractMessageBody.KIND}
    retracted = set()
    for some in batches(list(by_id), _MAX_PARAMETERS):
        rows = connection.execute(
            "SELECT target, device, is_admins FROM tombstones JOIN authors ON number = author"  # noqa: S608 - only ?
            f" WHERE target IN ({', '.join('?' * len(some))})",
            some,
        )
        retracted |= {target for target, device, is_admins in rows if is_admins or device == by_id[target].author}
    return retracted


def _retract(connection: sqlite3.Connection, pool_id: PoolId, targets: Sequence[MsgId]) -> Retractions:
    """Delete those of the messages that are stored and retracted; return each with its first tombstone."""
    tombstone_of: dict[MsgId, MsgId] = {}
    for some in batches(list(targets), _MAX_PARAMETERS):
        rows = connection.execute(
            "SELECT m.msg_id, t.msg_id FROM messages m JOIN tombstones t ON t.target = m.msg_id"  # noqa: S608 - only ?
            f" WHERE m.msg_id IN ({', '.join('?' * len(some))}) AND m.kind != ?"
            " AND (t.author = m.author OR t.is_admins) ORDER BY t.hlc DESC, t.msg_id DESC",
            (*some, RetractMessageBody.KIND),
        )
        tombstone_of.update(rows)
    if not tombstone_of:
        return []
    _delete(connection, list(tombstone_of))
    found = load(connection, pool_id, find_ids(connection, set(tombstone_of.values())))
    tombstones = {message.msg_id: message for message in found}
    return [(target, tombstones[msg_id]) for target, msg_id in tombstone_of.items()]


def _delete(connection: sqlite3.Connection, ids: Sequence[MsgId]) -> None:
    """Delete stored messages."""
    standing = _standing_among(connection, ids)
    remove_keys(connection, _delete_rows(connection, ids))
    remove_keys(connection, standing, STANDING)


def _standing_among(connection: sqlite3.Connection, ids: Sequence[MsgId]) -> list[MessageKey]:
    """Return the keys of those of these messages that stand."""
    found: list[MessageKey] = []
    for some in batches(list(ids), _MAX_PARAMETERS):
        rows = connection.execute(
            f"SELECT hlc, msg_id, kind FROM messages WHERE msg_id IN ({', '.join('?' * len(some))})",  # noqa: S608
            some,
        )
        found += [(hlc, msg_id) for hlc, msg_id, kind in rows if kind in STANDING_KINDS]
    return found


def _delete_rows(connection: sqlite3.Connection, ids: Sequence[MsgId]) -> list[MessageKey]:
    """Delete stored messages, but leave them in the blocks; return their keys."""
    found = find_ids(connection, ids)
    erase_entries(connection, [place for place, _, _ in found])
    connection.executemany("DELETE FROM messages WHERE place = ?", [(place,) for place, _, _ in found])
    connection.executemany("DELETE FROM tombstones WHERE msg_id = ?", [(msg_id,) for _, _, msg_id in found])
    return [(hlc, msg_id) for _, hlc, msg_id in found]
