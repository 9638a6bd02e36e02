"""Chunks over QUIC: a unidirectional stream each, a `ChunkHeader` frame followed by the bytes of the piece.

aioquic's cost of every packet grows with the number of open streams, and a queue of written but unsent chunks only
delays whoever cancels. So a chunk is written when little is unsent (an estimate: what was written less what left as
datagrams), however much credit there is, and while few earlier ones wait for the other side to acknowledge them: it may
lie about what it has consumed. The credit (`MAX_CHUNKS_IN_TRANSIT` chunks not yet consumed by the other
side's application) is what bounds memory on both sides.

This way is always there. Where there is a faster one (bulk_lane.py), chunk_ways.py chooses.
"""

from collections.abc import Callable
from typing import Protocol

import attrs
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.errors import LinkClosed, ProtocolError, WireError
from poolnet.limits import CHUNK_SIZE, MAX_CHUNKS_IN_TRANSIT, MAX_DATAGRAMS_PER_TURN, MAX_UNSENT_CHUNK_BYTES
from poolnet.net.chunk_inbox import ChunkInbox, ReceivedChunk
from poolnet.protocol.flow_credit import ReceiveCredit, SendCredit
from poolnet.wire.framing import FrameBuffer, FrameSet, encode_frame
from poolnet.wire.swarm_frames import ChunkHeader

_HEADER_FRAME = FrameSet((ChunkHeader,))
#: A chunk header is 43 bytes at most.
_MAX_HEADER_SIZE = 128
#: Pieces of a chunk before they are joined. Small ones cost more than their bytes, and a peer chooses their size.
_MAX_PIECES = 512


class StreamWriter(Protocol):
    """What is needed of a connection."""

    @property
    def datagram_size(self) -> int:
        """Bytes in one datagram that we send."""

    def may_open_chunk_stream(self) -> bool:
        """Return whether few enough earlier ones wait to be sent or acknowledged."""

    def open_chunk_stream(self) -> int:
        """Return the id of a new unidirectional stream."""

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue bytes on a stream, and have them sent soon."""

    def stop_stream(self, stream_id: int) -> None:
        """Ask the other side to send no more on a stream."""


class ChunkSender:
    """The sending side of one link."""

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._max_unsent = min(MAX_UNSENT_CHUNK_BYTES, MAX_DATAGRAMS_PER_TURN * writer.datagram_size)
        self._room = ParkingLot()
        self._unsent = 0
        self._is_closed = False
        self.credit = SendCredit(MAX_CHUNKS_IN_TRANSIT)
        self.sent_bytes = 0

    async def send(self, header: ChunkHeader, payload: bytes) -> None:
        """Wait for room and write the chunk; when cancelled while waiting, nothing was written.

        Raises:
            LinkClosed: the link ended first.
        """
        await checkpoint()
        while not self._is_closed and not self._has_room():
            await self._room.park()
        if self._is_closed:
            raise LinkClosed("the link is closed")
        self.credit.take(1)
        self.sent_bytes += len(payload)
        stream_id = self._writer.open_chunk_stream()
        opening = encode_frame(header)
        self._unsent += len(opening) + len(payload)
        self._writer.write(stream_id, opening)
        self._writer.write(stream_id, payload, end=True)

    def acknowledge(self, chunks: int) -> None:
        """Take the other side's report. Raises ProtocolError."""
        self.credit.acknowledge(chunks)
        # What was consumed, or stopped by the other side, is not waiting to be sent.
        self._unsent = min(self._unsent, self.credit.under_way * (CHUNK_SIZE + _MAX_HEADER_SIZE))
        self.wake()

    def transmitted(self, size: int) -> None:
        """Take note of bytes that left as datagrams."""
        self._unsent = max(0, self._unsent - size)
        self.wake()

    def wake(self) -> None:
        """Let a waiting chunk go, if there is room now."""
        if self._room and self._has_room():
            self._room.unpark()

    def close(self) -> None:
        """Make every `send` raise LinkClosed."""
        self._is_closed = True
        self._room.unpark_all()

    def _has_room(self) -> bool:
        return self._unsent < self._max_unsent and self.credit.has_room(1) and self._writer.may_open_chunk_stream()


@attrs.define
class _Incoming:
    """A chunk stream in progress; `header` is None until it has arrived, `is_ignored` once it was stopped."""

    buffer: FrameBuffer
    header: ChunkHeader | None = None
    pieces: list[bytes] = attrs.Factory(list)
    size: int = 0
    is_ignored: bool = False


class ChunkReceiver:
    """The receiving side of one link: puts chunks together.

    Args:
        inbox: takes what is complete, and knows what is expected.
        tell: called when a report to the other side is due.
    """

    def __init__(self, writer: StreamWriter, inbox: ChunkInbox, *, tell: Callable[[], None]) -> None:
        self._writer = writer
        self._inbox = inbox
        self._tell = tell
        self._streams: dict[int, _Incoming] = {}
        self.credit = ReceiveCredit(MAX_CHUNKS_IN_TRANSIT)

    def data_received(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Take the next bytes of a chunk stream.

        Raises:
            ProtocolError: not a chunk, or beyond the credit.
        """
        incoming = self._streams.get(stream_id)
        if incoming is None:
            self.credit.arrive(1)
            incoming = self._streams[stream_id] = _Incoming(FrameBuffer(max_size=_MAX_HEADER_SIZE))
        if incoming.is_ignored:
            if end:
                del self._streams[stream_id]
            return
        if incoming.header is None:
            header, data = self._take_header(incoming, data)
            incoming.header = header
            if header is not None and not self._inbox.expects(header):
                self._ignore(stream_id, incoming, end=end)
                return
        incoming.pieces.append(data)
        if len(incoming.pieces) > _MAX_PIECES:
            incoming.pieces = [b"".join(incoming.pieces)]
        incoming.size += len(data)
        if incoming.header is not None and incoming.size > incoming.header.size:
            raise ProtocolError("a chunk longer than declared")
        if end:
            self._complete(stream_id, incoming)

    def stream_reset(self, stream_id: int) -> None:
        """Take note that the other side gave a stream up (or obeyed our stop)."""
        incoming = self._streams.pop(stream_id, None)
        if incoming is not None and not incoming.is_ignored:
            self._inbox.dropped += 1
            self._consumed(1)

    def close(self) -> None:
        """Forget what is incomplete."""
        self._streams.clear()

    def _take_header(self, incoming: _Incoming, data: bytes) -> tuple[ChunkHeader | None, bytes]:
        """Return the header, once it is complete, and what of `data` belongs to the payload."""
        incoming.buffer.feed_untrusted(data)
        try:
            payload = incoming.buffer.take()
            if payload is None:
                return None, b""
            header = _HEADER_FRAME.decode_untrusted(payload)
        except WireError as exc:
            raise ProtocolError(f"a malformed chunk: {exc}") from exc
        if not isinstance(header, ChunkHeader):
            raise ProtocolError("a chunk stream that does not begin with its header")
        return header, incoming.buffer.take_rest()

    def _ignore(self, stream_id: int, incoming: _Incoming, *, end: bool) -> None:
        """Stop and drop a chunk that nobody asked for (any more)."""
        incoming.is_ignored = True
        self._consumed(1)
        if end:
            del self._streams[stream_id]
        else:
            self._writer.stop_stream(stream_id)

    def _complete(self, stream_id: int, incoming: _Incoming) -> None:
        if incoming.header is None or incoming.size != incoming.header.size:
            raise ProtocolError("a chunk stream that ends too early")
        del self._streams[stream_id]
        self._inbox.put(ReceivedChunk(incoming.header, b"".join(incoming.pieces)), self._consumed)

    def _consumed(self, chunks: int) -> None:
        self.credit.consume(chunks)
        if self.credit.should_tell(drained=self._inbox.is_drained):
            self._tell()
