"""Chunks that arrived, by whatever way, and wait for the application; and which ones it wants at all.

Each way for chunks bounds what it brings by its own credit, so it is told when the application is done with some of its
chunks: when it asks for more.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs
import trio
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.errors import LinkClosed
from poolnet.ids import FileId
from poolnet.wire.swarm_frames import ChunkHeader

#: Decides whether a piece was asked for.
ChunkFilter = Callable[[FileId, int], bool]
#: While chunks come fast, so many are handed out together, or what came within that time: who verifies and writes them
#: in a thread pays for each hop about as much as for a chunk. Those on their way meanwhile need credit as well.
_BATCH: Final = 6
_GATHER_S: Final = 0.004
#: Told how many chunks of one way the application has consumed.
Consumed = Callable[[int], None]


@attrs.frozen
class ReceivedChunk:
    """A chunk as it arrived: complete, of the declared size, not verified."""

    header: ChunkHeader
    payload: bytes


class ChunkInbox:
    """The chunks of one link.

    Attributes:
        received_bytes: payload of all that arrived.
        dropped: chunks that nobody asked for, or that were given up.
        peak_queued: the most that waited at once.
    """

    def __init__(self) -> None:
        self._expects: ChunkFilter = _expect_nothing
        self._queue: list[ReceivedChunk] = []
        self._ways: Counter[Consumed] = Counter()
        self._handed_out: Counter[Consumed] = Counter()
        self._arrived = ParkingLot()
        self._awaited = 1
        self._returned_at = -math.inf
        self._is_closed = False
        self.received_bytes = 0
        self.dropped = 0
        self.peak_queued = 0

    @property
    def is_drained(self) -> bool:
        """Whether nothing waits."""
        return not self._queue

    def set_filter(self, expects: ChunkFilter) -> None:
        """Set who decides what was asked for; nothing was, before."""
        self._expects = expects

    def expects(self, header: ChunkHeader) -> bool:
        """Return whether a chunk was asked for; one that was not is counted as dropped."""
        if self._expects(header.file_id, header.piece):
            return True
        self.dropped += 1
        return False

    def put(self, chunk: ReceivedChunk, consumed: Consumed) -> None:
        """Queue a complete chunk; `consumed` is told when the application is done with it, others together with it."""
        self.received_bytes += len(chunk.payload)
        self._queue.append(chunk)
        self._ways[consumed] += 1
        self.peak_queued = max(self.peak_queued, len(self._queue))
        if len(self._queue) >= self._awaited:
            self._arrived.unpark()

    async def receive(self) -> list[ReceivedChunk]:
        """Return all chunks that wait, at least one. Those of the call before count as consumed.

        Raises:
            LinkClosed: the link ended and nothing is left.
        """
        handed_out, self._handed_out = self._handed_out, Counter()
        for consumed, count in handed_out.items():
            consumed(count)
        await checkpoint()
        while not self._queue:
            if self._is_closed:
                raise LinkClosed("the link is closed")
            await self._arrived.park()
        await self._gather()
        batch, self._queue = self._queue, []
        self._handed_out, self._ways = self._ways, Counter()
        return batch

    async def _gather(self) -> None:
        """Wait a moment for more, if they come fast."""
        if trio.current_time() - self._returned_at < _GATHER_S and len(self._queue) < _BATCH and not self._is_closed:
            self._awaited = _BATCH
            try:
                with trio.move_on_after(_GATHER_S):
                    await self._arrived.park()
            finally:
                self._awaited = 1
        self._returned_at = trio.current_time()

    def close(self) -> None:
        """Let `receive` return what is queued, then raise LinkClosed."""
        self._is_closed = True
        self._arrived.unpark_all()


def _expect_nothing(file_id: FileId, piece: int) -> bool:
    return False
