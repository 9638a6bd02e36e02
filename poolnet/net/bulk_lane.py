"""A lane: the chunks of one link over TLS on TCP, both ways, where QUIC would be ten times slower.

Bytes on it, after the welcome: frames with their length as on a control stream, `LaneReport` or `ChunkHeader`, the
latter followed by as many bytes as it declares. One task reads, one writes what did not fit at once, one sees to it
that what arrived is confirmed in time and that a lane that stalls is given up.

What is read goes into one buffer, again and again the same, since it stays in the processor's cache; only a complete
chunk that is wanted gets memory of its own. Frames of the link wait for nothing here but the work of one turn, of
about `LANE_TURN_SIZE`.
"""

from collections import deque
from collections.abc import Callable

import trio
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.errors import ProtocolError, WireError
from poolnet.limits import (
    CHUNK_SIZE,
    LANE_LIFETIME_SIZE,
    LANE_REPORT_S,
    LANE_STALL_S,
    LANE_TURN_SIZE,
    MAX_UNSENT_CHUNK_BYTES,
)
from poolnet.net.chunk_inbox import ChunkInbox, ReceivedChunk
from poolnet.net.lane_ledger import LaneLedger
from poolnet.net.tls_socket import TlsSocket
from poolnet.wire.framing import LENGTH_SIZE, FrameSet, encode_frame
from poolnet.wire.link_frames import LaneReport
from poolnet.wire.swarm_frames import ChunkHeader

_FRAMES = FrameSet((LaneReport, ChunkHeader))
_MAX_FRAME_SIZE = 128
#: Of TLS: the most that one read brings.
_RECORD_SIZE = 16 * 1024
#: A chunk and what one read may bring beyond it.
_BUFFER_SIZE = CHUNK_SIZE + 2 * _RECORD_SIZE


class LaneBroken(Exception):
    """The lane ended; what was to be sent goes another way."""


class BulkLane:
    """One lane, proven. It owns the socket; `run` moves the bytes.

    Args:
        tls: a connection that both sides have agreed on.
        ledger: of the link.
        inbox: takes chunks that arrive.
        count_in, count_out: told of bytes that were read or written.

    Attributes:
        violation: how the other side broke the protocol, once it did.
        is_worn_out: whether it ended because one key should not encrypt more; another lane should follow at once.
    """

    def __init__(
        self,
        tls: TlsSocket,
        ledger: LaneLedger,
        inbox: ChunkInbox,
        *,
        count_in: Callable[[int], None],
        count_out: Callable[[int], None],
    ) -> None:
        self.violation: ProtocolError | None = None
        self.is_worn_out = False
        self._tls = tls
        self._ledger = ledger
        self._inbox = inbox
        self._count_in, self._count_out = count_in, count_out
        self._scope = trio.CancelScope()
        self._is_over = False
        self._room = ParkingLot()

        self._chunks: deque[tuple[bytes, bytes]] = deque()  # encoded header and payload, not begun
        self._pieces: list[bytes | memoryview] = []  # of what is being written, the next one last
        self._unsent = self._written = 0
        self._is_blocked = False
        self._blocked = ParkingLot()

        self._buffer = memoryview(b"")
        self._filled = 0
        self._header: ChunkHeader | None = None
        self._to_skip = 0

        self._heard_at = 0.0
        self._is_report_due = False
        self._owes_report = True  # of chunks that came over an earlier lane and were consumed since
        self._busy = ParkingLot()

    async def run(self) -> None:
        """Move chunks until the lane ends, for whatever reason; then close it."""
        self._heard_at = trio.current_time()
        self._ledger.tell = self._consumption_changed
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_task)
                    nursery.start_soon(self._write_task)
                    nursery.start_soon(self._watch_task)
        finally:
            self._end()
            self._tls.close()
            self._buffer = memoryview(b"")  # whoever still knows the lane does not keep its memory
            self._chunks.clear()
            self._pieces.clear()

    async def send(self, header: ChunkHeader, payload: bytes) -> None:
        """Wait for room, then take a chunk; when cancelled while waiting, it was not taken.

        Raises:
            LaneBroken: the lane ended before it was taken.
        """
        await checkpoint()
        while not self._is_over and not self._has_room():
            await self._room.park()
        if self._is_over:
            raise LaneBroken
        if self._ledger.is_confirmed:
            self._heard_at = trio.current_time()  # from now on something is expected
        self._ledger.sent(header, payload)
        self._chunks.append((encode_frame(header), payload))
        self._unsent += len(payload)
        self._busy.unpark()
        self._write_now()

    # --- out --------------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._unsent < MAX_UNSENT_CHUNK_BYTES and self._ledger.outgoing.has_room(1)

    def _report(self) -> None:
        """Say what arrived and was consumed, before any chunk that is not begun."""
        self._is_report_due = True
        self._write_now()

    def _write_now(self) -> None:
        """Write as much as there is room for."""
        if self._is_blocked or self._is_over:
            return
        try:
            while self._pieces or self._begin_next():
                if not self._tls.write(self._pieces[-1]):
                    self._is_blocked = True
                    self._blocked.unpark()
                    return
                size = len(self._pieces.pop())
                self._written += size
                self._count_out(size)
        except OSError:
            self._end()
        if self._written > LANE_LIFETIME_SIZE:
            self.is_worn_out = True
            self._end()

    def _begin_next(self) -> bool:
        """Take up what is to be written next; return whether there was something."""
        if self._is_report_due:
            self._is_report_due = self._owes_report = False
            self._pieces.append(encode_frame(self._ledger.report()))
        elif self._chunks:
            opening, payload = self._chunks.popleft()
            self._unsent -= len(payload)
            first = _RECORD_SIZE - len(opening)  # with the header one record, so one system call
            if len(payload) > first:
                self._pieces.append(memoryview(payload)[first:])
            self._pieces.append(opening + payload[:first])
            self._wake_sender()
        return bool(self._pieces)

    def _wake_sender(self) -> None:
        if self._room and self._has_room():
            self._room.unpark()

    async def _write_task(self) -> None:
        while True:
            while not self._is_blocked:
                await self._blocked.park()
            await self._tls.wait_writable()
            self._is_blocked = False
            self._write_now()

    # --- in ---------------------------------------------------------------------------------------------------------

    async def _read_task(self) -> None:
        try:
            await self._tls.wait_readable()
            self._buffer = memoryview(bytearray(_BUFFER_SIZE))
            while not self._is_over:
                if self._read_turn():
                    await checkpoint()
                else:
                    await self._tls.wait_readable()
        except OSError:
            pass
        except ProtocolError as exc:
            self.violation = exc
        except WireError as exc:
            self.violation = ProtocolError(f"on the lane: {exc}")
        self._end()

    def _read_turn(self) -> bool:
        """Read and take up to about `LANE_TURN_SIZE`; return whether there may be more.

        Raises:
            OSError: the lane ended.
            ProtocolError, WireError: not what a lane carries.
        """
        size = 0
        count: int | None = None
        while size < LANE_TURN_SIZE and (count := self._tls.read_into(self._buffer[self._filled :])):
            size += count
            self._filled += count
            if self._header is None or self._filled >= self._header.size:
                self._take()
        if size:
            self._heard_at = trio.current_time()
            self._count_in(size)
        if count == 0:
            raise ConnectionResetError("the other side closed the lane")
        return count is not None

    def _take(self) -> None:
        """Take all that is complete out of the buffer, and move the rest to its beginning."""
        start = 0
        while (stop := self._take_next(start)) is not None:
            start = stop
        if start:
            rest = self._filled - start
            self._buffer[:rest] = self._buffer[start : self._filled]
            self._filled = rest

    def _take_next(self, start: int) -> int | None:
        """Take what begins at `start`; return where the next begins, or None if it is not complete."""
        there = self._filled - start
        if self._to_skip:
            skipped = min(self._to_skip, there)
            self._to_skip -= skipped
            return start + skipped if skipped else None
        if self._header is not None:
            return self._take_payload(self._header, start) if there >= self._header.size else None
        if there < LENGTH_SIZE:
            return None
        stop = start + LENGTH_SIZE + int.from_bytes(self._buffer[start : start + LENGTH_SIZE], "big")
        if stop - start > _MAX_FRAME_SIZE:
            raise ProtocolError("a frame too long for a lane")
        if stop > self._filled:
            return None
        self._take_frame(bytes(self._buffer[start + LENGTH_SIZE : stop]))
        return stop

    def _take_frame(self, payload: bytes) -> None:
        frame = _FRAMES.decode_untrusted(payload)
        if isinstance(frame, ChunkHeader):
            if self._inbox.expects(frame):
                self._header = frame
                return
            self._to_skip = frame.size
            self._arrived()
            self._ledger.consumed(1)
        elif isinstance(frame, LaneReport):
            self._ledger.reported(frame)
            self._wake_sender()

    def _take_payload(self, header: ChunkHeader, start: int) -> int:
        stop = start + header.size
        self._header = None
        self._arrived()
        self._inbox.put(ReceivedChunk(header, bytes(self._buffer[start:stop])), self._ledger.consumed)
        return stop

    def _arrived(self) -> None:
        self._ledger.incoming.arrive(1)
        self._owe_report()

    # --- what the other side knows ----------------------------------------------------------------------------------

    def _consumption_changed(self) -> None:
        """Report when a quarter of the room is free again, or soon."""
        if self._ledger.incoming.should_tell(drained=False):
            self._report()
        else:
            self._owe_report()

    def _owe_report(self) -> None:
        self._owes_report = True
        self._busy.unpark()

    async def _watch_task(self) -> None:
        """While something is under way, see that the other side is told of it, and that it goes on."""
        while True:
            while self._ledger.is_confirmed and not self._owes_report and not self._is_receiving():
                await self._busy.park()
            await trio.sleep(LANE_REPORT_S)
            if self._owes_report or self._is_receiving():
                self._report()
            if not self._ledger.is_confirmed and trio.current_time() - self._heard_at > LANE_STALL_S:
                self._end()

    def _is_receiving(self) -> bool:
        """Return whether a part of a chunk is here: on a slow path a report says no more than that it comes."""
        return self._header is not None or self._to_skip > 0

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._is_over = True
        self._room.unpark_all()
        self._scope.cancel()
