"""A link: frames and chunks between this device and another one, both proven.

Frames go over the control stream, in order, with credit: at most `MAX_UNACKNOWLEDGED_CONTROL` bytes that the other
side's application has not consumed. Chunks have ways of their own (chunk_ways.py) and never delay frames. Link frames
(1-15: credit, ping, goodbye; those about lanes by lane_keeper.py) are handled here, at once and outside the credit, so
that a slow application cannot block its own acknowledgements; all others wait for `receive_frame` (frame_inbox.py).

A link belongs to its endpoint and is used from one trio thread. A peer that breaks the protocol gets a Goodbye and
loses the link; the application sees `LinkClosed` with the code in `close_reason`.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import trio
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.errors import LinkClosed, PoolnetError, ProtocolError, WireError
from poolnet.identity.keys import device_id_of
from poolnet.ids import DeviceId, FileId, PoolId, PublicKey, short_id
from poolnet.limits import (
    CLOSE_TIMEOUT_S,
    MAX_CLIENT_FRAME_SIZE,
    MAX_FRAME_SIZE,
    MAX_REASON_CHARS,
    MAX_UNACKNOWLEDGED_CONTROL,
    MAX_UNANSWERED_PINGS,
    QUIC_CLIENT_WINDOW,
)
from poolnet.net.chunk_inbox import ReceivedChunk
from poolnet.net.chunk_streams import StreamWriter
from poolnet.net.chunk_ways import Carrier, ChunkWays
from poolnet.net.frame_inbox import FrameInbox
from poolnet.net.frame_outlet import ControlWriter, FrameOutlet
from poolnet.net.link_pings import LinkPings
from poolnet.net.link_statistics import LinkStatistics
from poolnet.net.rate_meter import RateMeter
from poolnet.steady_time import SteadyTime
from poolnet.wire.framing import Frame, FrameBuffer, FrameSet, UnknownFrame, encode_frame
from poolnet.wire.framing import frame_number_untrusted as frame_number
from poolnet.wire.link_frames import (
    LINK_FRAMES,
    Credit,
    Goodbye,
    Hello,
    LaneEnded,
    LaneOffer,
    LanePass,
    Ping,
    Pong,
    Purpose,
)
from poolnet.wire.pool_frames import POOL_FRAMES
from poolnet.wire.swarm_frames import SWARM_FRAMES, ChunkHeader
from poolnet.wire.sync_frames import SYNC_FRAMES

__all__ = ["Link", "LinkStatistics", "ReceivedChunk"]

log = logging.getLogger(__name__)

_FRAMES = {
    Purpose.POOL: FrameSet((*POOL_FRAMES, *SWARM_FRAMES)),
    Purpose.SYNC: FrameSet(SYNC_FRAMES),
}
_LINK_FRAMES = FrameSet(LINK_FRAMES)
_LAST_LINK_FRAME = 15

#: Frames that arrange a lane.
LaneFrame = LaneOffer | LanePass | LaneEnded


class LinkTransport(StreamWriter, ControlWriter, Protocol):
    """What a link needs of its connection."""

    @property
    def remote_address(self) -> tuple[str, int]:
        """Where the other side is at the moment."""

    def shut(self, code: str, reason: str) -> None:
        """Send what can be sent now, then close the connection."""


class Link:
    """A proven link. Made by the endpoint only.

    Attributes:
        peer: the device at the other end.
        peer_key: its public key.
        pool_id: the pool that the link is for.
        purpose: what it is for.
        is_dialler: whether this side dialled.
        peer_credentials: the statements that the other side showed.
        peer_incarnation: another one than on an earlier link means that the other side was started anew since.
        close_reason: `None` while it is open; then "code: reason".
        violation: how the peer broke the protocol, if this link was closed for what it found itself.
        chunks: how chunks travel; for who keeps its lane.
    """

    def __init__(
        self, transport: LinkTransport, hello: Hello, *, is_dialler: bool, now: float, time: SteadyTime
    ) -> None:
        self.peer_key: PublicKey = hello.public_key
        self.peer: DeviceId = device_id_of(hello.public_key)
        self.pool_id: PoolId = hello.pool_id
        self.purpose = Purpose(hello.purpose)
        self.is_dialler = is_dialler
        self.peer_credentials = hello.credentials
        self.peer_incarnation = hello.incarnation
        self.close_reason: str | None = None
        self.violation: PoolnetError | None = None
        self.chunks = ChunkWays(transport, tell=self._tell_credit)

        self._transport = transport
        is_of_client = self.purpose == Purpose.SYNC and not is_dialler
        self._buffer = FrameBuffer(max_size=MAX_CLIENT_FRAME_SIZE if is_of_client else MAX_FRAME_SIZE)
        self._in = FrameInbox(
            _FRAMES[self.purpose],
            report=self._tell_credit,
            rearm=transport.rearm,
            window=QUIC_CLIENT_WINDOW if is_of_client else MAX_UNACKNOWLEDGED_CONTROL,
        )
        self._out = FrameOutlet(transport, now=now)
        self._pings = LinkPings(time, now=now)
        self._acknowledged = ParkingLot()
        self._closed = trio.Event()
        self._is_closing = False
        self._take_lane_frame: Callable[[LaneFrame], None] = _ignore_lane_frame
        self._rate_in, self._rate_out = RateMeter(now), RateMeter(now)
        self._frames_in = self._unknown_frames = 0

    @property
    def remote_address(self) -> tuple[str, int]:
        """Where the other side is: a numeric host and a port."""
        return self._transport.remote_address

    @property
    def datagram_size(self) -> int:
        """Bytes in one datagram that this side sends."""
        return self._transport.datagram_size

    @property
    def carrier(self) -> Carrier:
        """What carries chunks at the moment: "tcp" while there is a lane, else "quic"."""
        return self.chunks.carrier

    @property
    def unconsumed(self) -> int:
        """Bytes of frames that arrived and that the application is not done with; parts of frames are among them."""
        return len(self._buffer) + self._in.unconsumed

    @property
    def is_closed(self) -> bool:
        """Whether it ended."""
        return self.close_reason is not None

    @property
    def rtt_s(self) -> float | None:
        """The last round trip of a ping through both applications' event loops, once known."""
        return self._pings.rtt_s

    @property
    def clock_offset_ms(self) -> int | None:
        """By how many milliseconds the other side's clock is ahead of ours; asked with every ping."""
        return self._pings.clock_offset_ms

    @property
    def behind(self) -> int:
        """Bytes of frames that were sent and that the other side's application has not consumed."""
        return self._out.credit.under_way

    async def caught_up(self, size_bytes: int) -> None:
        """Wait until the other side is at most so many bytes behind.

        Raises:
            LinkClosed: it closed before.
        """
        await checkpoint()
        while self._out.credit.under_way > size_bytes:
            self._check_open()
            await self._acknowledged.park()

    def post_frame(self, frame: Frame) -> None:
        """Send a frame without waiting.

        A peer that is `MAX_UNACKNOWLEDGED_CONTROL` behind gets the link closed: whoever posts cannot wait for it.

        Raises:
            LinkClosed: it is closed, or was closed because of that.
            WireError: the frame is too large.
        """
        data = encode_frame(frame)
        self._check_open()
        if not self._out.credit.has_room(len(data)):
            self.close_now(code="too_slow", reason="frames were not consumed in time")
            self._check_open()
        self._out.post(frame, data)

    async def send_frame(self, frame: Frame) -> None:
        """Send a frame, waiting while the other side is behind; when cancelled while waiting, it is not sent.

        Raises:
            LinkClosed: it is closed.
            WireError: the frame is too large.
        """
        data = encode_frame(frame)
        await checkpoint()
        self._check_open()
        while not self._out.credit.has_room(len(data)):
            await self._acknowledged.park()
            self._check_open()
        self._out.send(data)

    async def flushed(self) -> None:
        """Wait until the other side's application has consumed every frame sent so far.

        Raises:
            LinkClosed: it closed before.
        """
        target = self._out.credit.sent
        await checkpoint()
        while self._out.credit.acknowledged < target:
            self._check_open()
            await self._acknowledged.park()

    async def receive_frame(self) -> Frame:
        """Return the next frame; the one before counts as consumed. One task at a time.

        Of frames that are there already, a few are returned without letting other tasks run between them.

        Raises:
            LinkClosed: the link ended, and every frame that came before its end was returned.
        """
        try:
            return await self._in.take(self._check_open)
        except WireError as exc:
            self._violated(exc)
            raise self._gone() from exc

    async def send_chunk(self, header: ChunkHeader, payload: bytes) -> None:
        """Wait for room, then hand a chunk over; when cancelled while waiting, it is not sent.

        Raises:
            LinkClosed: it is closed.
            ValueError: the payload is not as long as the header says.
        """
        await self.chunks.send(header, payload)

    async def receive_chunks(self) -> list[ReceivedChunk]:
        """Return all chunks that have arrived, at least one; those of the call before count as consumed.

        Raises:
            LinkClosed: it is closed, and every chunk was returned.
        """
        return await self.chunks.receive()

    def set_chunk_filter(self, expects: Callable[[FileId, int], bool]) -> None:
        """Set who decides, by file and piece, which chunks were asked for; others are stopped, dropped and counted.

        Until it is set, nothing is expected.
        """
        self.chunks.set_filter(expects)

    async def aclose(self, *, code: str = "done", reason: str = "") -> None:
        """Say Goodbye after everything that was sent, and close once the other side took note. Idempotent.

        Waits at most `CLOSE_TIMEOUT_S`, also when cancelled.
        """
        if not self._is_closing and not self.is_closed:
            self._is_closing = True
            self._say_goodbye(code, reason)
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self._closed.wait()
        self._end(code, reason)

    def close_now(self, *, code: str = "done", reason: str = "") -> None:
        """Say Goodbye as far as that can be done without waiting, and close. Idempotent."""
        if not self.is_closed:
            if not self._is_closing:
                self._say_goodbye(code, reason)
            self._end(code, reason)

    async def wait_closed(self) -> None:
        """Wait until it has ended, by either side."""
        await self._closed.wait()

    def statistics(self) -> LinkStatistics:
        """Return counts and rates."""
        now = trio.current_time()
        return LinkStatistics(
            carrier=self.carrier,
            bytes_in=self._rate_in.total,
            bytes_out=self._rate_out.total,
            rate_in=self._rate_in.rate(now),
            rate_out=self._rate_out.rate(now),
            frames_in=self._frames_in,
            frames_out=self._out.frames,
            unknown_frames=self._unknown_frames + self._in.unknown,
            chunks_in=self.chunks.chunks_in,
            chunks_out=self.chunks.chunks_out,
            chunk_bytes_in=self.chunks.inbox.received_bytes,
            chunk_bytes_out=self.chunks.sent_bytes,
            chunks_dropped=self.chunks.inbox.dropped,
            peak_queued_frames=self._in.peak_queued,
            peak_queued_chunks=self.chunks.inbox.peak_queued,
            unacknowledged_control=self._out.credit.under_way,
            rtt_s=self.rtt_s,
            datagram_size=self.datagram_size,
        )

    # --- for the connection only ------------------------------------------------------------------------------------

    def control_received(self, data: bytes) -> None:
        """Take the next bytes of the control stream."""
        self._buffer.feed_untrusted(data)
        try:
            while not self.is_closed and (payload := self._buffer.take()) is not None:
                self._take_payload(payload)
        except (WireError, ProtocolError) as exc:
            self._violated(exc)

    def chunk_received(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Take the next bytes of a chunk stream."""
        if self.close_reason is not None:
            return
        try:
            self.chunks.streams_in.data_received(stream_id, data, end=end)
        except ProtocolError as exc:
            self._violated(exc)

    def chunk_reset(self, stream_id: int) -> None:
        """Take note that the other side gave a chunk stream up."""
        self.chunks.streams_in.stream_reset(stream_id)

    def datagrams_received(self, size: int, now: float) -> None:
        """Count bytes that arrived; what they acknowledge may make room for a chunk."""
        self._rate_in.add(size, now)
        self.chunks.streams_out.wake()

    def datagrams_sent(self, size: int, now: float) -> None:
        """Count bytes that left; chunks may follow them."""
        self._rate_out.add(size, now)
        self.chunks.streams_out.transmitted(size)

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called."""
        return min(self._pings.due_at, self._in.next_deadline(), self._out.next_deadline())

    def tick(self, now: float) -> None:
        """Send what was gathered, the credit and the ping that are due; no ping while the link is closing."""
        self._out.tick(now)
        self._in.tick(now)
        if now >= self._pings.due_at:
            if self._pings.unanswered >= MAX_UNANSWERED_PINGS:
                self.close_now(code="timeout", reason="its program answers no more")
                return
            ping = self._pings.next_ping(now)
            if not self._is_closing:
                self._write(ping)

    def connection_lost(self, code: str, reason: str) -> None:
        """Take note that the connection ended under the link."""
        self._end(code, reason)

    # --- for the keeper of its lane ---------------------------------------------------------------------------------

    def set_lane_handler(self, handle: Callable[[LaneFrame], None]) -> None:
        """Set who takes frames about lanes, and may raise ProtocolError; they are ignored before."""
        self._take_lane_frame = handle

    def tell_lane(self, frame: LaneFrame) -> None:
        """Send a frame about lanes, at once and outside the credit; nothing happens if the link is closed."""
        self._write(frame)

    def lane_read(self, size: int) -> None:
        """Count bytes that arrived on the lane."""
        self._rate_in.add(size, trio.current_time())

    def lane_written(self, size: int) -> None:
        """Count bytes that left on the lane."""
        self._rate_out.add(size, trio.current_time())

    def violated(self, error: PoolnetError) -> None:
        """Close the link: the peer broke the protocol."""
        self._violated(error)

    # --- frames -----------------------------------------------------------------------------------------------------

    def _take_payload(self, payload: bytes) -> None:
        self._frames_in += 1
        if frame_number(payload) > _LAST_LINK_FRAME:
            self._in.put(payload)
            return
        match _LINK_FRAMES.decode_untrusted(payload):
            case Credit(control_bytes=control_bytes, chunks=chunks):
                self._out.credit.acknowledge(control_bytes)
                self._acknowledged.unpark_all()
                self.chunks.streams_out.acknowledge(chunks)
            case Ping() as ping:
                if (pong := self._pings.answer(ping, trio.current_time())) is not None:
                    self._write(pong)
            case Pong() as pong:
                self._pings.answered(pong, trio.current_time())
            case Goodbye(code=code, reason=reason):
                if not self._is_closing:
                    self._is_closing = True
                    self._say_goodbye(code, "")
                self._end(code, reason)
            case LaneOffer() | LanePass() | LaneEnded() as frame:
                self._take_lane_frame(frame)
            case UnknownFrame():
                self._unknown_frames += 1
            case _:
                raise ProtocolError("a frame of the proof, after the proof")

    def _write(self, frame: Frame) -> None:
        """Send a link frame."""
        if not self.is_closed:
            self._out.send_uncounted(frame)

    def _tell_credit(self) -> None:
        self._write(Credit(control_bytes=self._in.report_consumed(), chunks=self.chunks.streams_in.credit.tell()))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.close_reason is not None or self._is_closing:
            raise self._gone()

    def _gone(self) -> LinkClosed:
        return LinkClosed(f"the link to {short_id(self.peer)} is closed ({self.close_reason or 'closing'})")

    def _violated(self, error: PoolnetError) -> None:
        log.warning("link to %s: protocol violation: %s", short_id(self.peer), error)
        self.violation = error
        self.close_now(code="protocol", reason=str(error))

    def _say_goodbye(self, code: str, reason: str) -> None:
        self._write(Goodbye(code=code[:MAX_REASON_CHARS], reason=reason[:MAX_REASON_CHARS]))

    def _end(self, code: str, reason: str) -> None:
        if self.close_reason is not None:
            return
        self.close_reason = f"{code}: {reason}" if reason else code
        log.debug("link to %s ended (%s)", short_id(self.peer), self.close_reason)
        self._transport.shut(code, reason)
        self.chunks.close()
        self._in.wake()
        self._acknowledged.unpark_all()
        self._closed.set()


def _ignore_lane_frame(frame: LaneFrame) -> None:
    pass
