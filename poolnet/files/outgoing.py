"""Pieces on their way out, on one link: read and verified a batch ahead, then sent.

Of one file they go in the order that the machine says, and files take turns. What was called off meanwhile is not sent.
Whoever limits the upload rate makes the sending wait, never the reading.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio

from poolnet.errors import LinkClosed
from poolnet.files.chunk_link import ChunkLink
from poolnet.ids import FileId
from poolnet.protocol.token_bucket import Throttle
from poolnet.ranges import RangeSet
from poolnet.service import open_service_nursery
from poolnet.wire.swarm_frames import ChunkHeader

#: Pieces read in one thread hop, which costs about as much as reading one; as many again are being sent: 4 MiB a link.
_READ_BATCH: Final = 8

#: Returns pieces of one file, in that order and verified, None for one that is damaged; fewer, from the end, if the
#: file cannot be served any more.
Read = Callable[[FileId, Sequence[int]], Awaitable[Sequence[bytes | None]]]


@attrs.define(eq=False)
class _Sending:
    """A piece to be sent."""

    file_id: FileId
    piece: int
    is_cancelled: bool = False


_Batch = list[tuple[_Sending, bytes]]


class Outgoing:
    """What is to be sent on one link.

    Args:
        read: gets pieces of a file.
        sent: called with each piece that was handed to the link, and its size.
        wait: waits until so many bytes may be sent.
    """

    def __init__(
        self,
        link: ChunkLink,
        *,
        read: Read,
        sent: Callable[[FileId, int, int], None],
        wait: Callable[[int], Awaitable[None]],
    ) -> None:
        self._link = link
        self._read = read
        self._sent = sent
        self._wait = wait
        self._unsent: dict[_Sending, None] = {}  # asked for and neither sent nor cancelled, in order
        self._unread: dict[FileId, deque[_Sending]] = {}  # in the order of their turns
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._unsent)

    def put(self, file_id: FileId, piece: int) -> None:
        """Send a piece after all others of its file."""
        sending = _Sending(file_id, piece)
        self._unsent[sending] = None
        self._unread.setdefault(file_id, deque()).append(sending)
        self._wake.set()

    def cancel(self, file_id: FileId, pieces: RangeSet) -> None:
        """Do not send these pieces, unless they are on their way."""
        for sending in [s for s in self._unsent if s.file_id == file_id and s.piece in pieces]:
            sending.is_cancelled = True
            del self._unsent[sending]

    async def run(self) -> None:
        """Read and send until the link closes or this is cancelled."""
        async with open_service_nursery() as nursery:
            to_send, batches = trio.open_memory_channel[_Batch](0)
            nursery.start_soon(self._read_ahead, to_send)
            await self._send(batches)
            nursery.cancel_scope.cancel()

    async def _take(self) -> list[_Sending]:
        """Return the next pieces to read, at least one, all of one file; its next turn comes after the others."""
        while True:
            while self._unread:
                file_id = next(iter(self._unread))
                queue = self._unread.pop(file_id)
                taken = [queue.popleft() for _ in range(min(_READ_BATCH, len(queue)))]
                if queue:
                    self._unread[file_id] = queue
                if taken := [sending for sending in taken if not sending.is_cancelled]:
                    return taken
            self._wake = trio.Event()
            await self._wake.wait()

    async def _read_ahead(self, to_send: trio.MemorySendChannel[_Batch]) -> None:
        while True:
            wanted = await self._take()
            found = await self._read(wanted[0].file_id, [sending.piece for sending in wanted])
            await to_send.send([(each, data) for each, data in zip(wanted, found, strict=False) if data is not None])

    async def _send(self, batches: trio.MemoryReceiveChannel[_Batch]) -> None:
        async for batch in batches:
            for sending, payload in batch:
                if not sending.is_cancelled:
                    await self._wait(len(payload))
                if sending.is_cancelled:
                    continue
                header = ChunkHeader(file_id=sending.file_id, piece=sending.piece, size=len(payload))
                try:
                    await self._link.send_chunk(header, payload)
                except LinkClosed:
                    return
                self._unsent.pop(sending, None)
                self._sent(sending.file_id, sending.piece, len(payload))


async def wait_for(throttle: Throttle, size_bytes: int) -> None:
    """Wait until a throttle lets so many bytes through; not even a checkpoint if it does at once."""
    while True:
        delay_s = throttle.delay_s(size_bytes, trio.current_time())
        if not delay_s:
            return
        await trio.sleep(delay_s)
