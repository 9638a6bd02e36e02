"""Messages that wait for the next transaction of their database, so that many share one."""

import sqlite3
from collections import deque

from poolnet.ids import PoolId
from poolnet.storage import message_changes as changes
from poolnet.wire.message import Message


class UnsavedMessages:
    """A `WriteBehind` of messages. Filled by one thread, emptied by that of the database."""

    def __init__(self, pool_id: PoolId) -> None:
        self._pool_id = pool_id
        self._waiting: deque[Message] = deque()
        self._written = 0  # of the first of them, in the transaction that is under way

    def add(self, message: Message) -> None:
        """Let a message wait; it must be no tombstone."""
        self._waiting.append(message)

    def __len__(self) -> int:
        return len(self._waiting)

    def is_due(self) -> bool:
        """Return whether messages wait."""
        return bool(self._waiting)

    def write(self, connection: sqlite3.Connection, *, is_expiry_due: bool = False) -> None:
        """Store those that wait now; they wait on until `written`."""
        waiting = list(self._waiting)
        self._written = len(waiting)
        batch = {message.msg_id: message for message in waiting}
        in_order = sorted(batch.values(), key=lambda message: message.key)
        changes.append(connection, self._pool_id, in_order, (), is_expiry_due=is_expiry_due)

    def written(self) -> None:
        """Forget those that were stored."""
        for _ in range(self._written):
            self._waiting.popleft()

    def flush(self, connection: sqlite3.Connection, *, is_expiry_due: bool = False) -> None:
        """Store what still waits: nothing, unless storing it first has failed. Then this fails the same way.

        It waits on until the next transaction, to which it is known already.
        """
        self.write(connection, is_expiry_due=is_expiry_due)
