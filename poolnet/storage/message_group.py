"""Group commit: appends that come while the disk is busy with another one share the next transaction.

An fsync costs the same for one message as for many, so whoever sends hundreds a second waits for a few of them at once.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

from poolnet.errors import StoreError
from poolnet.storage.message_changes import Appended
from poolnet.wire.message import Message


@attrs.define(eq=False)
class _Call:
    """One that waits, and what came of it."""

    batch: list[Message]
    is_expiry_due: bool
    done: Appended | None = None
    failure: StoreError | None = None


class GroupCommit:
    """Appends together.

    Args:
        append: stores messages durably, as a whole or not at all; is never cancelled.
    """

    def __init__(self, append: Callable[[list[Message], bool], Awaitable[Appended]]) -> None:
        self._append = append
        self._waiting: list[_Call] = []
        self._turn = trio.Lock()

    async def run(self, batch: list[Message], *, is_expiry_due: bool) -> Appended:
        """Append `batch`, maybe with others'; return what became of its messages.

        Cancelled before its turn, it stores nothing; after, it is stored.

        Raises:
            StoreError: nothing of it was stored, nor of what shared its transaction.
        """
        call = _Call(batch, is_expiry_due)
        self._waiting.append(call)
        try:
            async with self._turn:
                if call in self._waiting:
                    await self._commit()
        finally:
            if call in self._waiting:
                self._waiting.remove(call)
        if call.failure is not None:
            raise call.failure
        assert call.done is not None
        return call.done

    async def _commit(self) -> None:
        calls, self._waiting = self._waiting, []
        together = [message for call in calls for message in call.batch]
        try:
            with trio.CancelScope(shield=True):  # no deadline needed: one transaction, and it is the others' as well
                done = await self._append(together, any(call.is_expiry_due for call in calls))
        except StoreError as exc:
            for call in calls:
                call.failure = exc
            return
        added = {message.msg_id: message for message in done.added}
        refused = done.refused
        for call in calls:  # of two calls with the same message the first has added it
            own = [added.pop(message.msg_id) for message in call.batch if message.msg_id in added]
            call.done = Appended(own, refused, [])
            refused = 0
