"""Links in memory for tests of files: what one end sends, the other receives, in order, with limits like a real link's.

No sockets, no encryption; time is trio's, so a test's clock can jump. Frames and pieces travel in lanes of their own,
as on a real link.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import attrs
import trio

from poolnet.errors import LinkClosed
from poolnet.files.chunk_link import ChunkLink
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_CHUNKS_IN_TRANSIT, MAX_QUEUED_CHUNKS
from poolnet.service import open_service_nursery
from poolnet.wire.swarm_frames import ChunkHeader

#: Gets what is sent and returns what arrives.
Tamper = Callable[[ChunkHeader, bytes], bytes]


@attrs.frozen(kw_only=True)
class MemoryPiece:
    """A piece that arrived."""

    header: ChunkHeader
    payload: bytes


class Uplink:
    """What limits how fast one device sends, over all its links."""

    def __init__(self, rate_bytes_per_s: float = math.inf) -> None:
        self.sent_bytes = 0
        self._rate = rate_bytes_per_s
        self._turn = trio.Lock()

    async def send(self, size_bytes: int) -> None:
        """Wait until `size_bytes` have gone out, after those before."""
        self.sent_bytes += size_bytes
        async with self._turn:
            if self._rate < math.inf:
                await trio.sleep(size_bytes / self._rate)


class MemoryLink:
    """One end of a link in memory; a `ChunkLink`. Made by `memory_link_pair`.

    Attributes:
        peer: who is at the other end.
        is_closed: by either end.
    """

    def __init__(self, peer: DeviceId, uplink: Uplink, tamper: Tamper) -> None:
        self.peer = peer
        self.is_closed = False
        self.other = self
        self._uplink = uplink
        self._tamper = tamper
        self._expects: Callable[[FileId, int], bool] = lambda file_id, piece: True
        self._frames_in, self._frames = trio.open_memory_channel[Any](math.inf)
        self._pieces_in, self._pieces = trio.open_memory_channel[MemoryPiece](MAX_QUEUED_CHUNKS)
        self._room = trio.Semaphore(MAX_CHUNKS_IN_TRANSIT)

    def post_frame(self, frame: Any) -> None:
        """See `ChunkLink`."""
        self._check_open()
        self.other._frames_in.send_nowait(frame)

    async def receive_frame(self) -> Any:
        """Return the next frame.

        Raises:
            LinkClosed: the link has ended.
        """
        try:
            return await self._frames.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise LinkClosed("the link was closed") from None

    async def send_chunk(self, header: ChunkHeader, payload: bytes) -> None:
        """See `ChunkLink`."""
        async with self._room:
            self._check_open()
            await self._uplink.send(len(payload))
            self._check_open()
            if not self.other._expects(header.file_id, header.piece):
                return
            try:
                await self.other._pieces_in.send(MemoryPiece(header=header, payload=self._tamper(header, payload)))
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                raise LinkClosed("the link was closed") from None

    async def receive_chunks(self) -> list[MemoryPiece]:
        """See `ChunkLink`."""
        try:
            received = [await self._pieces.receive()]
            with contextlib.suppress(trio.WouldBlock):
                while len(received) < MAX_QUEUED_CHUNKS:
                    received.append(self._pieces.receive_nowait())
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise LinkClosed("the link was closed") from None
        return received

    def set_chunk_filter(self, expects: Callable[[FileId, int], bool]) -> None:
        """See `ChunkLink`."""
        self._expects = expects

    def close(self) -> None:
        """Cut the link, at once and at both ends; what is under way is lost."""
        for end in (self, self.other):
            end.is_closed = True
            for channel in (end._frames_in, end._frames, end._pieces_in, end._pieces):
                channel.close()

    def _check_open(self) -> None:
        if self.is_closed:
            raise LinkClosed("the link was closed")


class FileService(Protocol):
    """The part of `FileManager` that a link talks to."""

    def handle_frame(self, peer: DeviceId, frame: Any) -> None:
        """Take a frame."""

    async def serve_link(self, link: ChunkLink, task_status: trio.TaskStatus[None]) -> None:
        """Exchange pieces until the link closes."""


@attrs.frozen(eq=False)
class FileNode:
    """A device in a test: its id, its files, and what limits its sending."""

    node: DeviceId
    files: FileService
    uplink: Uplink = attrs.field(factory=Uplink)


def memory_link_pair(
    a: DeviceId, b: DeviceId, *, uplinks: tuple[Uplink, Uplink] | None = None, tamper: Tamper | None = None
) -> tuple[MemoryLink, MemoryLink]:
    """Return both ends of a link: that of `a` and that of `b`.

    Args:
        a: one device.
        b: the other.
        uplinks: what limits the sending of `a` and of `b`.
        tamper: changes what `a` sends.
    """
    uplink_a, uplink_b = uplinks or (Uplink(), Uplink())
    end_a = MemoryLink(b, uplink_a, tamper or (lambda header, payload: payload))
    end_b = MemoryLink(a, uplink_b, lambda header, payload: payload)
    end_a.other, end_b.other = end_b, end_a
    return end_a, end_b


@contextlib.asynccontextmanager
async def linked(a: FileNode, b: FileNode, *, tamper: Tamper | None = None) -> AsyncIterator[MemoryLink]:
    """Link two devices until the end of the block, or until the link yielded (that of `a`) is closed."""
    end_a, end_b = memory_link_pair(a.node, b.node, uplinks=(a.uplink, b.uplink), tamper=tamper)
    async with open_service_nursery() as nursery:
        for device, end in ((a, end_a), (b, end_b)):
            await nursery.start(device.files.serve_link, end)
            nursery.start_soon(_pass_frames, device, end)
        try:
            yield end_a
        finally:
            end_a.close()


async def _pass_frames(device: FileNode, end: MemoryLink) -> None:
    with contextlib.suppress(LinkClosed):
        while True:
            device.files.handle_frame(end.peer, await end.receive_frame())
