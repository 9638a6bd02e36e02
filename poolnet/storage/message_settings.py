"""What is kept beside the messages of a history: how much of it to keep, where it begins, since when it is complete.

The *floor* is where the kept history begins: older messages are not taken, except those of standing kinds, and none is
compared with others' histories.
"""

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import attrs

from poolnet.errors import LocalError, StoreDamaged, WireError
from poolnet.json_text import decode_json_untrusted
from poolnet.storage.message_volumes import count_messages
from poolnet.wire.claims import HIGHEST, LOWEST, Bound

_FLOOR: Final = "floor"
_KNOWN_FROM: Final = "known_from"
_RETENTION: Final = "retention"
_NOT_OURS: Final = "a setting of the history is damaged"


@attrs.frozen(kw_only=True)
class Retention:
    """What a device keeps of a history: messages that are not older, and the newest so many. None: all."""

    max_age_s: float | None = attrs.field(default=None)
    max_count: int | None = attrs.field(default=None)

    @max_age_s.validator
    @max_count.validator
    def _is_positive(self, attribute: "attrs.Attribute[float | None]", value: float | None) -> None:
        if value is not None and not 0 < value < math.inf:  # NaN is neither
            raise LocalError(f"{attribute.name} must be more than 0 and finite, or None")


@attrs.frozen(kw_only=True)
class State:
    """What is to be known of a history without asking for it. A later one has a higher version."""

    version: int
    count: int
    floor: Bound
    known_from: Bound | None
    retention: Retention


def read_state(connection: sqlite3.Connection) -> State:
    """Return what is there now."""
    return State(
        version=connection.total_changes,
        count=count_messages(connection),
        floor=read_floor(connection),
        known_from=read_known_from(connection),
        retention=read_retention(connection),
    )


def read_floor(connection: sqlite3.Connection) -> Bound:
    """Return where the kept history begins."""
    return _read_bound(connection, _FLOOR) or LOWEST


def move_floor(connection: sqlite3.Connection, floor: Bound) -> None:
    """Let the history begin at `floor`; what is known of it does not begin earlier."""
    _write_bound(connection, _FLOOR, floor)
    known_from = read_known_from(connection)
    if known_from is not None:
        write_known_from(connection, known_from)


def read_known_from(connection: sqlite3.Connection) -> Bound | None:
    """Return from where on this history is kept in agreement with others, None if that was never said."""
    return _read_bound(connection, _KNOWN_FROM)


def write_known_from(connection: sqlite3.Connection, bound: Bound) -> Bound:
    """Keep it, or the floor if that is higher; return which."""
    known_from = max(bound, read_floor(connection))
    _write_bound(connection, _KNOWN_FROM, known_from)
    return known_from


def read_retention(connection: sqlite3.Connection) -> Retention:
    """Return what was set, or that everything is kept."""
    match _read(connection, _RETENTION):
        case None:
            return Retention()
        case {"max_age_s": int() | float() | None as max_age_s, "max_count": int() | None as max_count}:
            with _damaged_if(LocalError, ValueError):
                return Retention(max_age_s=max_age_s, max_count=max_count)
    raise StoreDamaged(_NOT_OURS)


def write_retention(connection: sqlite3.Connection, retention: Retention) -> None:
    """Keep it."""
    _write(connection, _RETENTION, attrs.asdict(retention))


def _read_bound(connection: sqlite3.Connection, name: str) -> Bound | None:
    match _read(connection, name):
        case None:
            return None
        case [int(stamp), str(prefix)]:
            with _damaged_if(ValueError):
                bound = (stamp, bytes.fromhex(prefix))
                if LOWEST <= bound <= HIGHEST:
                    return bound
    raise StoreDamaged(_NOT_OURS)


def _write_bound(connection: sqlite3.Connection, name: str, bound: Bound) -> None:
    _write(connection, name, [bound[0], bound[1].hex()])


def _read(connection: sqlite3.Connection, name: str) -> Any:
    found = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    if found is None:
        return None
    if not isinstance(found[0], str):
        raise StoreDamaged(_NOT_OURS)
    with _damaged_if(WireError):
        return decode_json_untrusted(found[0])


def _write(connection: sqlite3.Connection, name: str, value: Any) -> None:
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))


@contextlib.contextmanager
def _damaged_if(*errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as exc:
        raise StoreDamaged(_NOT_OURS) from exc
