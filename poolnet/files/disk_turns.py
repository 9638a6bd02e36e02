"""Work on the pieces of a file in threads, where several links have some at the same time.

To hand work to a thread and to hear of its end costs about as much as reading or writing a piece. So what is asked for
while such work is under way is done together when it is over: the busier the device, the more at a time.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from poolnet.errors import SourceUnavailable, StoreError
from poolnet.storage.files import run_on_disk

#: Pieces in one thread hop, unless one call has more: 4 MiB.
_MOST: Final = 16

#: Does something with pieces; returns what came of each, in order. Two bound methods are the same if their objects are.
Work = Callable[[Sequence[Any]], Sequence[Any]]


class _Call:
    """What one caller wants done, and what came of it."""

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces
        self.found: Sequence[Any] | None = None
        self.error: StoreError | SourceUnavailable | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None or self.error is not None


class _Queue:
    """The calls of one kind of work, and who does them: always the first in the queue."""

    def __init__(self) -> None:
        self.turn = trio.Lock()  # fair, so its order is that of `calls`
        self.calls: deque[_Call] = deque()

    def take(self) -> list[_Call]:
        """Return what is done together: at least one call."""
        taken = [self.calls.popleft()]
        count = len(taken[0].pieces)
        while self.calls and count + len(self.calls[0].pieces) <= _MOST:
            count += len(self.calls[0].pieces)
            taken.append(self.calls.popleft())
        return taken


class DiskTurns:
    """One thread hop at a time for each kind of work on each file, and everybody's pieces in it."""

    def __init__(self) -> None:
        self._queues: dict[Work, _Queue] = {}

    async def do(self, work: Work, pieces: Sequence[Any]) -> Sequence[Any]:
        """Return ``work(pieces)``, done in a thread, perhaps together with pieces of other callers.

        Once begun it is finished, even if the caller is cancelled.

        Raises:
            StoreError, SourceUnavailable: as `work` does for these pieces alone.
        """
        call = _Call(pieces)
        queue = self._queues.setdefault(work, _Queue())
        queue.calls.append(call)
        try:
            async with queue.turn:
                if not call.is_done:
                    with trio.CancelScope(shield=True):  # others wait for it as well
                        await _do_together(work, queue.take())
        finally:
            if call in queue.calls:
                queue.calls.remove(call)
            if not queue.calls and not queue.turn.locked():
                self._queues.pop(work, None)
        if call.error is not None:
            raise call.error
        assert call.found is not None, "whoever has the turn does the first call of the queue"
        return call.found


async def _do_together(work: Work, calls: list[_Call]) -> None:
    """Do the work of all calls at once; if that fails, each for itself, because each has its own outcome."""
    pieces = [piece for call in calls for piece in call.pieces]
    try:
        found = await run_on_disk(work, pieces)
    except (StoreError, SourceUnavailable) as exc:
        if len(calls) == 1:
            calls[0].error = exc
            return
        for call in calls:
            await _do_together(work, [call])
        return
    start = 0
    for call in calls:
        stop = start + len(call.pieces)
        call.found = found[start:stop]
        start = stop
