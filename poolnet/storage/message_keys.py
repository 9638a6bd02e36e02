"""The keys of a history for reconciliation, and its sessions: both read from blocks (message_blocks.py)."""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

import attrs

from poolnet.clock import hlc_ms
from poolnet.errors import StoreDamaged
from poolnet.ids import DeviceId, MsgId
from poolnet.protocol.key_set import Summary, separator, summary_of
from poolnet.storage.message_blocks import HISTORY, Block, Sums, block_at, is_new_session, read_blocks
from poolnet.storage.message_tables import after_key, sql_bound
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import MessageKey

#: A part of a range may end with a block, rather than in it, if it is by this share of it longer or shorter then.
_TOLERANCE: Final = 1 / 4


@attrs.frozen(kw_only=True)
class Session:
    """Talk without a pause of half an hour: `count` messages from `start` to `end`, by `participants` (by id)."""

    start: MessageKey
    end: MessageKey
    count: int
    participants: tuple[DeviceId, ...]

    @property
    def start_ms(self) -> int:
        """When it began, in milliseconds since 1970."""
        return hlc_ms(self.start[0])

    @property
    def end_ms(self) -> int:
        """When its last message was written."""
        return hlc_ms(self.end[0])


class _Run(NamedTuple):
    """A block, or the part of one that is in a range."""

    first: MessageKey
    last: MessageKey
    length: int
    total: int


class DatabaseKeys:
    """The `KeySet` (protocol/reconcile.py) of a database: its messages of a set, from the floor on.

    For use within one transaction.
    """

    def __init__(self, connection: sqlite3.Connection, floor: Bound, sums: Sums = HISTORY) -> None:
        self._connection = connection
        self._floor = floor
        self._sums = sums

    def summary(self, lower: Bound, upper: Bound) -> Summary:
        """Return the summary of a range: of whole blocks, and of the messages in the two that it cuts."""
        start, end = self._whole_blocks(lower, upper)
        if start >= end:
            return summary_of(self._ids(lower, upper))
        inside = self._connection.execute(
            f"SELECT count, total FROM {self._sums.table}"  # noqa: S608 - only words from here
            " WHERE (first_hlc, first_id) >= (?, ?) AND (first_hlc, first_id) < (?, ?)",
            (*sql_bound(start), *sql_bound(end)),
        ).fetchall()
        whole = Summary(sum(count for count, _ in inside), sum(int.from_bytes(total, "big") for _, total in inside))
        return whole + summary_of(self._ids(lower, start)) + summary_of(self._ids(end, upper))

    def keys(self, lower: Bound, upper: Bound, limit: int) -> list[MessageKey]:
        """Return the first `limit` keys of a range (-1: all), ascending."""
        return self._connection.execute(
            f"SELECT hlc, msg_id FROM {self._sums.messages}"  # noqa: S608 - only words from here
            " (hlc, msg_id) >= (?, ?) AND (hlc, msg_id) < (?, ?) ORDER BY hlc, msg_id LIMIT ?",
            (*sql_bound(max(lower, self._floor)), *sql_bound(upper), limit),
        ).fetchall()

    def parts(self, lower: Bound, upper: Bound, count: int) -> list[tuple[Bound, Summary]]:
        """Cut a range into at most `count` parts of about as many keys each, none of them empty if any has a key.

        Each part is where it ends and its summary; the last ends at `upper`.
        """
        cutter = _Cutter(self, self._runs(lower, upper))
        parts: list[tuple[Bound, Summary]] = []
        before = Summary()
        for place in cutter.places(count):
            bound, below = cutter.cut(place)
            parts.append((bound, below - before))
            before = below
        return [*parts, (upper, cutter.all - before)]

    def nth_newest(self, upper: Bound, n: int) -> MessageKey | None:
        """Return the `n`th key below `upper` from the end (1: the last), or None if there are fewer."""
        found: MessageKey | None = self._connection.execute(
            f"SELECT hlc, msg_id FROM {self._sums.messages}"  # noqa: S608 - only words from here
            " (hlc, msg_id) >= (?, ?) AND (hlc, msg_id) < (?, ?)"
            " ORDER BY hlc DESC, msg_id DESC LIMIT 1 OFFSET ?",
            (*sql_bound(self._floor), *sql_bound(upper), n - 1),
        ).fetchone()
        return found

    def session_start(self, upper: Bound) -> MessageKey | None:
        """Return the first key of the session that the last key below `upper` is in, or None if there is none."""
        last = self.nth_newest(upper, 1)
        if last is None or self._sums.by_session:
            return None if last is None else _session_start(self._connection, last)
        return self._session_start(last)

    def _session_start(self, key: MessageKey) -> MessageKey:
        """Return the first key of the session of `key`, where blocks do not tell."""
        earlier = self._connection.execute(
            f"SELECT hlc, msg_id FROM {self._sums.messages}"  # noqa: S608 - only words from here
            " (hlc, msg_id) >= (?, ?) AND (hlc, msg_id) < (?, ?) ORDER BY hlc DESC, msg_id DESC",
            (*sql_bound(self._floor), *key),
        )
        for before in earlier:
            if is_new_session(before, key):
                break
            key = before
        return key

    def _whole_blocks(self, lower: Bound, upper: Bound) -> tuple[Bound, Bound]:
        """Return a smaller range that cuts no block, with what is of a block that `lower` or `upper` cuts outside."""
        lower = max(lower, self._floor)
        left, right = (block_at(self._connection, bound, self._sums) for bound in (lower, upper))
        start = after_key(left.last) if left is not None and left.first < lower <= left.last else lower
        end = right.first if right is not None and right.first < upper <= right.last else upper
        return start, end

    def _runs(self, lower: Bound, upper: Bound) -> list[_Run]:
        start, end = self._whole_blocks(lower, upper)
        if start >= end:
            return self._run(lower, upper)
        inside = self._connection.execute(
            f"SELECT first_hlc, first_id, last_hlc, last_id, count, total FROM {self._sums.table}"  # noqa: S608
            " WHERE (first_hlc, first_id) >= (?, ?) AND (first_hlc, first_id) < (?, ?)"
            " ORDER BY first_hlc, first_id",
            (*sql_bound(start), *sql_bound(end)),
        )
        whole = [
            _Run((first_hlc, first_id), (last_hlc, last_id), count, int.from_bytes(total, "big"))
            for first_hlc, first_id, last_hlc, last_id, count, total in inside
        ]
        return [*self._run(lower, start), *whole, *self._run(end, upper)]

    def _run(self, lower: Bound, upper: Bound) -> list[_Run]:
        """Return the part of a block that is between two bounds, if there is something."""
        keys = self.keys(lower, upper, -1)
        if not keys:
            return []
        summary = summary_of(msg_id for _, msg_id in keys)
        return [_Run(keys[0], keys[-1], summary.count, summary.total)]

    def _ids(self, lower: Bound, upper: Bound) -> list[MsgId]:
        return [msg_id for _, msg_id in self.keys(lower, upper, -1)]


class _Cutter:
    """Cuts a range, given as runs, after so many of its messages. `all` is the summary of the range."""

    def __init__(self, keys: DatabaseKeys, runs: list[_Run]) -> None:
        self._keys = keys
        self._runs = runs
        self._ends = [0, *accumulate(run.length for run in runs)]
        self._totals = [0, *accumulate(run.total for run in runs)]
        self.all = self._before(len(runs))
        self._read: tuple[int, list[MessageKey]] = (-1, [])

    def places(self, count: int) -> list[int]:
        """Return after how many messages to cut, for `count` parts about equal, between runs where that will do."""
        total = self._ends[-1]
        count = min(count, total)
        leeway = total / count * _TOLERANCE if count else 0
        return [self._shift(total * number // count, leeway) for number in range(1, count)]

    def cut(self, place: int) -> tuple[Bound, Summary]:
        """Return the bound after so many messages, and the summary of what is below it."""
        index = bisect_right(self._ends, place) - 1
        skipped = place - self._ends[index]
        if not skipped:
            return separator(self._runs[index - 1].last, self._runs[index].first), self._before(index)
        keys = self._keys_of(index)
        below = summary_of(msg_id for _, msg_id in keys[:skipped])
        return separator(keys[skipped - 1], keys[skipped]), self._before(index) + below

    def _before(self, index: int) -> Summary:
        """Return the summary of the runs before one."""
        return Summary() + Summary(self._ends[index], self._totals[index])  # the sum is modulo 2^256

    def _shift(self, place: int, leeway: float) -> int:
        index = bisect_right(self._ends, place) - 1
        nearest = min(self._ends[index : index + 2], key=lambda end: abs(end - place))
        return nearest if abs(nearest - place) <= leeway else place

    def _keys_of(self, index: int) -> list[MessageKey]:
        if self._read[0] != index:
            run = self._runs[index]
            self._read = index, self._keys.keys(run.first, after_key(run.last), -1)
        return self._read[1]


def read_sessions(connection: sqlite3.Connection, *, limit: int | None, before: Bound | None) -> list[Session]:
    """Return the newest `limit` sessions, or of those that began before a key, oldest first."""
    found: list[Session] = []
    session: list[Block] = []  # from its end
    for block in _blocks_from_end(connection, before):
        if session and is_new_session(block.last, session[-1].first):
            found.append(_make_session(connection, session))
            session = []
            if limit is not None and len(found) >= limit:
                break
        session.append(block)
    if session and (limit is None or len(found) < limit):
        found.append(_make_session(connection, session))
    return found[::-1]


def _blocks_from_end(connection: sqlite3.Connection, before: Bound | None) -> Iterator[Block]:
    """Yield the blocks of all sessions that began before a key, from the last one."""
    if before is None:
        yield from read_blocks(connection, LOWEST, HIGHEST, descending=True)
        return
    begun = next(read_blocks(connection, LOWEST, before, descending=True), None)
    if begun is None:
        return
    later: list[Block] = []
    for block in read_blocks(connection, before, HIGHEST):
        if is_new_session((later[-1] if later else begun).last, block.first):
            break
        later.append(block)
    yield from reversed(later)
    yield from read_blocks(connection, LOWEST, before, descending=True)


def _session_start(connection: sqlite3.Connection, key: MessageKey) -> MessageKey:
    start: MessageKey | None = None
    for block in read_blocks(connection, LOWEST, after_key(key), descending=True):
        if start is not None and is_new_session(block.last, start):
            break
        start = block.first
    return key if start is None else start


def _make_session(connection: sqlite3.Connection, blocks: list[Block]) -> Session:
    """Return the session of these blocks, the last one first."""
    numbers = set().union(*(block.authors for block in blocks))
    devices = [_device(connection, number) for number in numbers]
    return Session(
        start=blocks[-1].first,
        end=blocks[0].last,
        count=sum(block.count for block in blocks),
        participants=tuple(sorted(devices)),
    )


def _device(connection: sqlite3.Connection, number: int) -> DeviceId:
    found = connection.execute("SELECT device FROM authors WHERE number = ?", (number,)).fetchone()
    if found is None:
        raise StoreDamaged("an author of the history is missing")
    return DeviceId(found[0])
