"""Sums over the history: blocks of consecutive messages, each with its count, the sum of its ids and its authors.

Two sets are summed up, those that nodes keep in agreement: `HISTORY`, all messages from the floor on, where each block
is a run without a gap of a session in it; and `STANDING`, what stands however old it is. A block has at most
`BLOCK_SIZE` messages. They are kept exact in the transaction of every change. So what a long range comes to is the sum
of a few thousand rows, sessions are read from these rows too, nothing has to be computed again when a history is
opened, and nothing of it is in memory.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import attrs

from poolnet.clock import hlc_ms
from poolnet.errors import StoreDamaged
from poolnet.limits import SESSION_GAP_S
from poolnet.protocol.key_set import Summary
from poolnet.storage.message_schema import IS_STANDING
from poolnet.storage.message_tables import after_key, sql_bound
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import MessageKey

#: Messages in a block at most: sums of a million are then over 4000 rows, and a part of a block is 256 rows.
BLOCK_SIZE: Final = 256
_GAP_MS: Final = SESSION_GAP_S * 1000
_MODULUS: Final = 2**256
_COLUMNS: Final = "first_hlc, first_id, last_hlc, last_id, count, total, authors"


@attrs.frozen(kw_only=True)
class Sums:
    """A set of messages that is summed up.

    Attributes:
        table: of its blocks.
        messages: the messages in it: what follows ``FROM`` in a query, up to where a condition goes on.
        by_session: whether each block is of one session.
    """

    table: str
    messages: str
    by_session: bool

    def parts(self, before: MessageKey, after: MessageKey) -> bool:
        """Return whether a block must end between two consecutive messages."""
        return self.by_session and is_new_session(before, after)


HISTORY: Final = Sums(table="blocks", messages="messages INDEXED BY messages_by_key WHERE", by_session=True)
STANDING: Final = Sums(
    table="standing_blocks", messages=f"messages INDEXED BY messages_standing WHERE {IS_STANDING} AND", by_session=False
)


@attrs.define
class Block:
    """Consecutive messages of a set. `authors` are numbers."""

    first: MessageKey
    last: MessageKey
    count: int = 0
    total: int = 0
    authors: set[int] = attrs.Factory(set)

    @property
    def summary(self) -> Summary:
        """Count and sum of ids."""
        return Summary(self.count, self.total)

    def add(self, key: MessageKey, author: int) -> None:
        """Count one more message."""
        self.first, self.last = min(self.first, key), max(self.last, key)
        self.count += 1
        self.total = (self.total + int.from_bytes(key[1], "big")) % _MODULUS
        self.authors.add(author)


def is_new_session(before: MessageKey, after: MessageKey) -> bool:
    """Return whether a session ends between two consecutive messages."""
    return hlc_ms(after[0]) - hlc_ms(before[0]) > _GAP_MS


def add_keys(connection: sqlite3.Connection, authors: Mapping[MessageKey, int], sums: Sums = HISTORY) -> None:
    """Add messages, which are in their table, with the numbers of their authors."""
    adder = _Adder(connection, sums)
    for key in sorted(authors):
        adder.add(key, authors[key])
    adder.write()


def remove_keys(connection: sqlite3.Connection, keys: Collection[MessageKey], sums: Sums = HISTORY) -> None:
    """Take out messages, which are no longer in their table."""
    done = LOWEST
    for key in sorted(keys):
        if key >= done and (block := block_at(connection, key, sums)) is not None and key <= block.last:
            _rewrite(connection, sums, block, block.first)
            done = after_key(block.last)


def remove_below(connection: sqlite3.Connection, floor: Bound) -> None:
    """Take all messages below `floor` out of the history."""
    cut = block_at(connection, floor)
    connection.execute("DELETE FROM blocks WHERE (first_hlc, first_id) < (?, ?)", sql_bound(floor))
    if cut is not None and cut.first < floor <= cut.last:
        _rewrite(connection, HISTORY, cut, floor)


def sum_up_standing(connection: sqlite3.Connection) -> None:
    """Make the blocks of what stands, of which there are none."""
    rows = connection.execute(f"SELECT hlc, msg_id, author FROM {STANDING.messages} 1 ORDER BY hlc, msg_id")  # noqa: S608
    while some := rows.fetchmany(BLOCK_SIZE):
        _save_run(connection, STANDING, [((hlc, msg_id), author) for hlc, msg_id, author in some])


def block_at(connection: sqlite3.Connection, key: Bound, sums: Sums = HISTORY) -> Block | None:
    """Return the last block that begins at or before `key`."""
    return next(read_blocks(connection, LOWEST, after_key(key), sums, descending=True), None)


def read_blocks(
    connection: sqlite3.Connection, lower: Bound, upper: Bound, sums: Sums = HISTORY, *, descending: bool = False
) -> Iterator[Block]:
    """Yield the blocks that begin in a range. Nothing is to change meanwhile."""
    direction = "DESC" if descending else "ASC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {sums.table}"  # noqa: S608 - only words from here
        " WHERE (first_hlc, first_id) >= (?, ?) AND (first_hlc, first_id) < (?, ?)"
        f" ORDER BY first_hlc {direction}, first_id {direction}",
        (*sql_bound(lower), *sql_bound(upper)),
    )
    for first_hlc, first_id, last_hlc, last_id, count, total, authors in rows:
        yield Block(
            (first_hlc, first_id),
            (last_hlc, last_id),
            count,
            int.from_bytes(total, "big"),
            _author_numbers(authors),
        )


def _author_numbers(text: str) -> set[int]:
    numbers = text.split()
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise StoreDamaged("the sums over the history are damaged")
    return set(map(int, numbers))


class _Adder:
    """Adds ascending keys, with one look at each block that they touch."""

    def __init__(self, connection: sqlite3.Connection, sums: Sums) -> None:
        self._connection = connection
        self._sums = sums
        self._block: Block | None = None
        self._stored: MessageKey | None = None  # what the block began with when it was read
        self._next: Block | None = None
        self._is_placed = False

    def add(self, key: MessageKey, author: int) -> None:
        if not self._is_placed or (self._next is not None and key >= self._next.first):
            self._turn_to(key)
        if not self._takes(key):
            self.write()
            if self._next is not None and self._next.count < BLOCK_SIZE and not self._sums.parts(key, self._next.first):
                self._block, self._stored = self._next, self._next.first
                self._next = self._read_next(self._next.first)
            else:
                self._block, self._stored = Block(key, key), None
        assert self._block is not None
        self._block.add(key, author)

    def write(self) -> None:
        """Store the block at hand; all keys that lie in it have been added."""
        block = self._block
        if block is None:
            return
        if self._stored is not None and self._stored != block.first:
            _delete(self._connection, self._sums, self._stored)
        if block.count > BLOCK_SIZE:
            _rewrite(self._connection, self._sums, block, block.first)
        else:
            _save(self._connection, self._sums, block)

    def _turn_to(self, key: MessageKey) -> None:
        self.write()
        self._block = block_at(self._connection, key, self._sums)
        self._stored = None if self._block is None else self._block.first
        self._next = self._read_next(key)
        self._is_placed = True

    def _takes(self, key: MessageKey) -> bool:
        """Return whether a key is in the block at hand, or may be appended to it."""
        block = self._block
        return block is not None and (
            key <= block.last or (block.count < BLOCK_SIZE and not self._sums.parts(block.last, key))
        )

    def _read_next(self, key: MessageKey) -> Block | None:
        return next(read_blocks(self._connection, after_key(key), HIGHEST, self._sums), None)


def _rewrite(connection: sqlite3.Connection, sums: Sums, block: Block, lower: Bound) -> None:
    """Replace a block by blocks of what is in the table of messages between `lower` and where the block ends."""
    _delete(connection, sums, block.first)
    rows = connection.execute(
        f"SELECT hlc, msg_id, author FROM {sums.messages}"  # noqa: S608 - only words from here
        " (hlc, msg_id) >= (?, ?) AND (hlc, msg_id) <= (?, ?) ORDER BY hlc, msg_id",
        (*sql_bound(lower), *block.last),
    ).fetchall()
    run: list[tuple[MessageKey, int]] = []
    for hlc, msg_id, author in rows:
        key = (hlc, msg_id)
        if run and sums.parts(run[-1][0], key):
            _save_run(connection, sums, run)
            run = []
        run.append((key, author))
    _save_run(connection, sums, run)


def _save_run(connection: sqlite3.Connection, sums: Sums, run: list[tuple[MessageKey, int]]) -> None:
    """Store consecutive messages that may be in one block in as few as they need, of equal size."""
    pieces = -(-len(run) // BLOCK_SIZE)
    for piece in range(pieces):
        some = run[len(run) * piece // pieces : len(run) * (piece + 1) // pieces]
        block = Block(some[0][0], some[0][0])
        for key, author in some:
            block.add(key, author)
        _save(connection, sums, block)


def _save(connection: sqlite3.Connection, sums: Sums, block: Block) -> None:
    total, authors = block.total.to_bytes(32, "big"), " ".join(map(str, sorted(block.authors)))
    connection.execute(
        f"INSERT OR REPLACE INTO {sums.table} ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (*block.first, *block.last, block.count, total, authors),
    )


def _delete(connection: sqlite3.Connection, sums: Sums, first: MessageKey) -> None:
    connection.execute(f"DELETE FROM {sums.table} WHERE (first_hlc, first_id) = (?, ?)", first)  # noqa: S608
