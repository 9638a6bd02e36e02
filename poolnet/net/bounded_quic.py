"""QUIC whose memory is bounded by what arrived in order, and not by what its peer claims to have sent.

Why aioquic has to be held back: it doubles a flow-control window as soon as half of it was *reached*, and its
reassembly buffers fill the gaps below the highest offset with zeros. A peer that leaves everything out but the last
byte of each window makes it hold 256 MiB with three dozen small datagrams, before it has proven anything; one that
sends every second byte makes it keep, and search, a hundred thousand ranges. The rules here instead:

- A connection begins with the small `PRE_AUTH_WINDOW`, no chunk stream, and one bidirectional stream of the dialler's.
  That does not change before `open_windows`, which is called when the peer is proven. Between a sync server and its
  client, who may be anybody, it is `open_control_window`: no chunks, and a window beyond what was *consumed*, which is
  then all that the peer can make us hold.
- Then the connection may have `QUIC_CONNECTION_WINDOW` beyond the bytes that were *delivered* to us, in order, or given
  up by a reset; the control stream `MAX_UNACKNOWLEDGED_CONTROL` beyond what it delivered. The window of a chunk stream
  never moves: a chunk with its header fits. `MAX_CHUNK_STREAMS` of them exist at a time.
- What arrived beyond a gap is in at most `MAX_FRAGMENTS` pieces, for each stream. A handshake has at most
  `MAX_HANDSHAKE_SIZE` bytes under each kind of keys, gaps or not: there is no flow control for it, and aioquic collects
  whatever calls itself one message of TLS, 16 MiB if it says so, also after the proof.
- A peer that does not acknowledge packets loses the connection at `MAX_UNACKNOWLEDGED_PACKETS`.
- An address that may be forged gets at most three times what came from it; aioquic forgets that for the packet that
  closes a connection.

Acknowledgements are held back as well: aioquic sends one of its own, 1 ms after the first packet that asks for it, even
if something else is sent meanwhile. For a link that carries a small frame now and then this is every second datagram
and every second wake-up of the process. Here they go with whatever is sent next, and alone after at most `_ACK_STEP_S`;
the peer is told to reckon with that (RFC 9000, section 13.2.1), so that a lost last packet is repaired so much later.
As before after 1 ms if much has arrived or something is missing: bulk and other losses are not slowed down.

For the sending side, `held` and `may_open_chunk_stream` tell what waits for the peer, whatever credit it pretends to
give (protocol/flow_credit.py).

None of this can be had from aioquic's public interface, so this module and bulk_quic.py, and no others, use private
names of aioquic. tests/test_bounded_quic.py fails when a newer version no longer has them or no longer calls what is
overridden here.
"""

import math
from collections.abc import Callable

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is public, but not re-exported by name
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnectionError, QuicReceiveContext
from aioquic.quic.events import QuicEvent, StreamDataReceived, StreamReset
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from poolnet.limits import (
    MAX_CHUNK_STREAMS,
    MAX_FRAGMENTS,
    MAX_HANDSHAKE_SIZE,
    MAX_UNACKNOWLEDGED_CONTROL,
    MAX_UNACKNOWLEDGED_PACKETS,
    QUIC_CONNECTION_WINDOW,
)
from poolnet.net.bulk_quic import BulkQuicConnection

#: The first bidirectional stream of the dialler.
CONTROL_STREAM = 0
_DIALLERS_CHUNKS, _ACCEPTORS_CHUNKS = 2, 3
#: Acknowledgements of a few small datagrams leave at multiples of this, those of all connections in one turn ...
_ACK_STEP_S = 0.05
#: ... which is on time for a peer that reckons with this; aioquic would say 25 ms.
_MAX_ACK_DELAY_MS = 60
#: ... or leave as soon as aioquic would send them.
_SOON_S = 0.001
_MAX_PARAMETERS_SIZE = 1024
#: A datagram of this size is part of something large: it, and all that follows within a moment, is acknowledged soon.
#: So is the last of many small ones.
_LARGE_DATAGRAM, _MOMENT_S, _MANY_DATAGRAMS = 1000, 0.2, 10
#: What an address gets that may not have asked for anything, in terms of what came from there (RFC 9000, section 8.1).
_MAX_AMPLIFICATION = 3
#: A window moves when it would move by this part of it, to spare frames.
_STEPS = 4


class BoundedQuicConnection(BulkQuicConnection):
    """A QUIC connection with windows that follow what was delivered. To be made with the small windows."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.__is_open = False
        self.__window = self.__control_window = 0
        self.__delivered = 0
        self.__unconsumed = _nothing
        self.__unacknowledged = 0  # datagrams since the last acknowledgement
        self.__bulk_until = -math.inf
        self.__chunk_kind = _DIALLERS_CHUNKS if configuration.is_client else _ACCEPTORS_CHUNKS
        bidirectional, unidirectional = self._local_max_streams_bidi, self._local_max_streams_uni
        bidirectional.value = bidirectional.sent = 0 if configuration.is_client else 1
        unidirectional.value = unidirectional.sent = 0

    def open_windows(self) -> None:
        """Let the peer send chunks, and as much as a link between members needs: it is proven."""
        if not self.__is_open:
            self._local_max_streams_uni.value += MAX_CHUNK_STREAMS
            self.__open(QUIC_CONNECTION_WINDOW, MAX_UNACKNOWLEDGED_CONTROL)

    def open_control_window(self, size: int, unconsumed: Callable[[], int]) -> None:
        """Let the peer send frames, and no chunks: it is proven, and not among equals.

        Args:
            size: what it may have sent on the control stream that nobody has dealt with.
            unconsumed: how much was delivered and not dealt with; when that falls, something is to be sent soon.
        """
        if not self.__is_open:
            self.__unconsumed = unconsumed
            self.__open(size, size)

    def __open(self, window: int, control_window: int) -> None:
        self.__is_open = True
        self.__window, self.__control_window = window, control_window

    def held(self, stream_id: int) -> int:
        """Return how many bytes written to a stream the peer has not acknowledged; unsent ones are among them."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else len(stream.sender._buffer)

    def may_open_chunk_stream(self) -> bool:
        """Return whether fewer than `MAX_CHUNK_STREAMS` chunks wait to be sent or acknowledged."""
        kind = self.__chunk_kind
        unfinished = sum(
            stream_id & 3 == kind and not stream.sender.is_finished for stream_id, stream in self._streams.items()
        )
        return unfinished < MAX_CHUNK_STREAMS

    def discard(self) -> None:
        """Free what this holds, now and not when somebody collects its cycles. Of no use afterwards."""
        self.__dict__.clear()

    # --- public methods of aioquic ----------------------------------------------------------------------------------

    def next_event(self) -> QuicEvent | None:
        """Return the next event, and count the bytes in it as delivered."""
        event = super().next_event()
        if type(event) is StreamDataReceived:
            self.__delivered += len(event.data)
        elif type(event) is StreamReset and (stream := self._streams.get(event.stream_id)) is not None:
            self.__delivered += stream.receiver.highest_offset - stream.receiver.starting_offset()
        return event

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Take a datagram; hold back its acknowledgement if that may wait."""
        space = self.application_space()
        ack_at = None if space is None else space.ack_at
        super().receive_datagram(data, addr, now)
        if self.__is_open and space is not None and space.ack_at is not None:
            self.__delay_ack(space, len(data), now, is_first=ack_at is None)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return datagrams to send; close if too many were never acknowledged."""
        space = self.application_space()
        if space is not None:
            if len(space.sent_packets) > MAX_UNACKNOWLEDGED_PACKETS:
                self.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.ACK, "packets are not acknowledged")
            if space.ack_at is not None and space.ack_at > now and self.__has_stream_data():
                space.ack_at = now  # it goes with the data
        datagrams = super().datagrams_to_send(now)
        path = self._network_paths[0]
        if not path.is_validated and path.bytes_sent > _MAX_AMPLIFICATION * path.bytes_received:
            return []  # the last packet of a connection; aioquic holds all others back by itself
        return datagrams

    def __delay_ack(self, space: QuicPacketSpace, size: int, now: float, *, is_first: bool) -> None:
        self.__unacknowledged = 1 if is_first else self.__unacknowledged + 1
        if size >= _LARGE_DATAGRAM:
            self.__bulk_until = now + _MOMENT_S
        has_gap = len(space.ack_queue) > 1
        if has_gap or now < self.__bulk_until or self.__unacknowledged >= _MANY_DATAGRAMS:
            space.ack_at = now + _SOON_S if space.ack_at is None else min(space.ack_at, now + _SOON_S)
        elif is_first:
            space.ack_at = math.ceil((now + _SOON_S) / _ACK_STEP_S) * _ACK_STEP_S

    def __has_stream_data(self) -> bool:
        return any(not stream.sender.buffer_is_empty for stream in self._streams_queue)

    # --- private methods of aioquic ---------------------------------------------------------------------------------

    def _serialize_transport_parameters(self) -> bytes:
        parameters = pull_quic_transport_parameters(Buffer(data=super()._serialize_transport_parameters()))
        parameters.max_ack_delay = _MAX_ACK_DELAY_MS
        buf = Buffer(capacity=_MAX_PARAMETERS_SIZE)
        push_quic_transport_parameters(buf, parameters)
        return buf.data

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit = self._local_max_data
        if self.__is_open:
            limit.value = _moved(limit.value, self.__delivered - self.__unconsumed(), self.__window)
        used, limit.used = limit.used, 0  # aioquic doubles what is half used
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.stream_id != CONTROL_STREAM or not self.__is_open:
            return  # as large as it was from the beginning
        receiver = stream.receiver
        stream.max_stream_data_local = _moved(
            stream.max_stream_data_local, receiver.starting_offset() - self.__unconsumed(), self.__control_window
        )
        highest, receiver.highest_offset = receiver.highest_offset, 0  # the same
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None and len(stream.receiver._ranges) > MAX_FRAGMENTS:
            raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, frame_type, "a stream in too many fragments")

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        receiver = self._crypto_streams[context.epoch].receiver
        if end > MAX_HANDSHAKE_SIZE or len(receiver._ranges) > MAX_FRAGMENTS:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "an endless handshake")
        super()._handle_crypto_frame(context, frame_type, buf)


def _nothing() -> int:
    return 0


def _moved(limit: int, done: int, window: int) -> int:
    """Return where a limit should be: `window` beyond what is done with, or left alone if that is a small step."""
    target = done + window
    return target if _STEPS * (target - limit) >= window else limit
