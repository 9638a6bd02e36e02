"""QUIC with a short way for the packets that bulk consists of; all others go through aioquic as ever.

aioquic treats every packet as if it could be any packet, in Python: of the time that a packet of a chunk takes, more
than half goes into questions whose answer is always the same once a connection is settled (which key, which path,
which of twenty kinds of frame, what else could be written). Here they are asked once a turn, or answered by one
comparison:

- A datagram that is one short-header packet with today's key, for today's connection ID, over the path that is in use,
  is opened here. If it holds nothing but the next bytes of a stream, they are delivered here; else aioquic handles the
  frames. What is different in any way is left to aioquic untouched, before anything was changed: `receive_datagram`
  decides this once, and a packet is never handled by both.
- Chunk streams that have something to send are kept away from aioquic's writer, which has written acknowledgements,
  limits and the control stream by then, and fill whole packets here: the oldest chunk first, so that it is complete
  first.

What congestion control, loss recovery and flow control are told is what aioquic would tell them. There is one
difference: the pacer may be overdrawn by `_LEAD_S`, because kernels do not wake us up for each packet; by twice that
for all that is not bulk, so that it never waits for bulk to be paced.

Like bounded_quic.py, which is built on this, it uses private names of aioquic; tests/test_bulk_quic.py fails when a
newer version no longer has them, and compares both ways with each other.
"""

from collections import deque
from typing import Any

from aioquic import tls
from aioquic._crypto import CryptoError
from aioquic.buffer import (  # type: ignore[attr-defined]  # they are public, but not re-exported by name
    Buffer,
    BufferReadError,
    size_uint_var,
)
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoContext, CryptoPair
from aioquic.quic.packet import (
    PACKET_FIXED_BIT,
    QuicFrameType,
    QuicPacketType,
    QuicStreamFrame,
    decode_packet_number,
    get_spin_bit,
)
from aioquic.quic.packet_builder import QuicDeliveryHandler, QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from poolnet.limits import MAX_DATAGRAMS_PER_TURN

#: How far the pacer may be overdrawn: what would be sent within this time is sent at once.
_LEAD_S = 0.001
#: Of a first byte: a QUIC packet with a short header; what header protection leaves of the first byte of such a one.
_FORM_BITS, _PROTECTED_BITS = 0xC0, 0x1F
_RESERVED_BITS, _PHASE_BIT = 0x18, 0x04
#: Bytes of a packet number, as aioquic sends it, of the sample for header protection, and of a tag.
_NUMBER_SIZE, _SAMPLE_SIZE, _TAG_SIZE = 2, 16, 16
#: Header protection samples as if a packet number had four bytes.
_SAMPLE_OFFSET = 4
_STREAM_KIND, _STREAM_KIND_BITS = QuicFrameType.STREAM_BASE, 0xF8
_HAS_OFFSET, _HAS_LENGTH, _IS_END = 4, 2, 1
_TWO_BYTES = 0x4000
#: The header of a stream frame: type, stream, offset, and a length of two bytes.
_MAX_FRAME_HEADER = 1 + 8 + 8 + 2
#: A packet with less room than this is complete.
_MIN_ROOM = 64
_UNIDIRECTIONAL = 2

#: Who is told of the fate of a packet, and with which words.
Handlers = list[tuple[QuicDeliveryHandler, Any]]


class BulkQuicConnection(QuicConnection):
    """A QUIC connection that spends less on each packet of a chunk. Same interface, same protocol."""

    __frame_header = Buffer(capacity=_MAX_FRAME_HEADER)
    __keys: CryptoPair | None = None
    __space: QuicPacketSpace | None = None
    __idle_from: float | None = None

    def application_space(self) -> QuicPacketSpace | None:
        """Return what is known of packets after the handshake, once there are some."""
        if self.__space is None and self._handshake_confirmed:
            self.__space = self._spaces[tls.Epoch.ONE_RTT]
            self.__keys = self._cryptos[tls.Epoch.ONE_RTT]
        return self.__space

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Take a datagram."""
        space = self.application_space()
        if space is None or not self.__is_ordinary(data, addr):
            super().receive_datagram(data, addr, now)
            return
        try:
            opened = self.__open(data, space)
        except CryptoError:
            return  # damaged, forged or of another connection: as if it had not arrived
        if opened is None:
            super().receive_datagram(data, addr, now)
        elif opened[0] not in space.received_packets:
            self.__receive_packet(*opened, space, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return datagrams to send."""
        space = self.application_space()
        if space is None or self._loss._pacer.packet_time is None or not self.__may_send_bulk():
            return super().datagrams_to_send(now)
        bulk = list(filter(_is_bulk, self._streams_queue))
        self._streams_queue = [stream for stream in self._streams_queue if stream not in bulk]
        pacer = self._loss._pacer
        pacer.update_bucket(now)
        pacer.bucket_time += 2 * _LEAD_S  # what is not bulk does not wait for bulk
        try:
            datagrams = super().datagrams_to_send(now)
        finally:
            pacer.bucket_time -= 2 * _LEAD_S
            self._streams_queue += bulk
        address = self._network_paths[0].addr
        return datagrams + [(data, address) for data in self.__bulk_datagrams(deque(bulk), space, now)]

    # --- receiving --------------------------------------------------------------------------------------------------

    def __is_ordinary(self, data: bytes, addr: NetworkAddress) -> bool:
        """Return whether a datagram can be opened here."""
        path = self._network_paths[0]
        return (
            self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and len(data) >= 1 + len(self.host_cid) + _SAMPLE_OFFSET + _SAMPLE_SIZE
            and data[0] & _FORM_BITS == PACKET_FIXED_BIT
            and data.startswith(self.host_cid, 1)
            and path.addr == addr
            and path.is_validated
        )

    def __open(self, data: bytes, space: QuicPacketSpace) -> tuple[int, int, bytes] | None:
        """Return packet number, first byte and payload; None if it is not what we know how to open.

        Raises:
            CryptoError: it was not made with the key of the other side.
        """
        assert self.__keys is not None
        keys = self.__keys.recv
        number_at = 1 + len(self.host_cid)
        payload_at = number_at + _NUMBER_SIZE
        sample_at = number_at + _SAMPLE_OFFSET
        mask = keys.hp._mask(data[sample_at : sample_at + _SAMPLE_SIZE])  # type: ignore[union-attr]
        first = data[0] ^ mask[0] & _PROTECTED_BITS
        if first & 0x03 != _NUMBER_SIZE - 1 or first & _RESERVED_BITS or first & _PHASE_BIT != keys.key_phase << 2:
            return None
        high, low = data[number_at] ^ mask[1], data[number_at + 1] ^ mask[2]
        number = decode_packet_number(high << 8 | low, 8 * _NUMBER_SIZE, space.expected_packet_number)
        header = b"%c%b%c%c" % (first, self.host_cid, high, low)
        return number, first, keys.aead.decrypt(data[payload_at:], header, number)  # type: ignore[union-attr]

    def __receive_packet(self, number: int, first: int, payload: bytes, space: QuicPacketSpace, now: float) -> None:
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = get_spin_bit(first) != self._is_client
            self._spin_highest_pn = number
        asks = self.__receive_stream_bytes(payload) or self.__receive_frames(payload, now)
        if self._close_pending or self._state is not QuicConnectionState.CONNECTED:
            return
        if now != self.__idle_from:
            self.__idle_from = now
            self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if asks and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def __receive_stream_bytes(self, payload: bytes) -> bool:
        """Deliver a payload that is the next bytes of a stream that exists; return False if it is anything else."""
        kind = payload[0] if payload else 0
        if kind & _STREAM_KIND_BITS != _STREAM_KIND:
            return False
        buf = Buffer(data=payload)
        try:
            buf.seek(1)
            stream = self._streams.get(buf.pull_uint_var())
            offset = buf.pull_uint_var() if kind & _HAS_OFFSET else 0
            size = buf.pull_uint_var() if kind & _HAS_LENGTH else buf.capacity - buf.tell()
            data = buf.pull_bytes(size)
        except BufferReadError:
            return False
        if stream is None or not buf.eof():
            return False
        receiver, end = stream.receiver, offset + size
        new = max(0, end - receiver.highest_offset)
        used = self._local_max_data.used + new
        if (
            offset != receiver.starting_offset()
            or receiver.is_finished
            or (kind & _IS_END and end < receiver.highest_offset)
            or (receiver._final_size is not None and end > receiver._final_size)
            or end > stream.max_stream_data_local
            or used > self._local_max_data.value
        ):
            return False
        event = receiver.handle_frame(QuicStreamFrame(data=data, fin=bool(kind & _IS_END), offset=offset))
        if event is not None:
            self._events.append(event)
        self._local_max_data.used = used
        return True

    def __receive_frames(self, payload: bytes, now: float) -> bool:
        """Let aioquic handle the frames of a packet; return whether it asks for an acknowledgement."""
        context = QuicReceiveContext(
            epoch=tls.Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        try:
            return self._payload_received(context, payload)[0]
        except QuicConnectionError as exc:
            self._logger.warning(exc)
            self.close(error_code=exc.error_code, frame_type=exc.frame_type, reason_phrase=exc.reason_phrase)
            return False

    # --- sending ----------------------------------------------------------------------------------------------------

    def __may_send_bulk(self) -> bool:
        """Return whether nothing extraordinary is going on."""
        return (
            self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and not self._probe_pending  # it may exceed the congestion window, and should carry what is missing
            and self._network_paths[0].is_validated
            and self.__keys is not None
            and not self.__keys._update_key_requested
        )

    def __bulk_datagrams(self, streams: deque[QuicStream], space: QuicPacketSpace, now: float) -> list[bytes]:
        """Return what may be sent of `streams` now, of each as much as possible, a bounded number of datagrams."""
        pacer, size = self._loss._pacer, self._max_datagram_size
        packet_time = pacer.packet_time or 0.0
        datagrams: list[bytes] = []
        while streams and self._loss.congestion_window - self._loss.bytes_in_flight >= size:
            if len(datagrams) == MAX_DATAGRAMS_PER_TURN:
                self._pacing_at = now
                break
            if pacer.bucket_time <= -_LEAD_S:
                self._pacing_at = now + packet_time - pacer.bucket_time
                break
            handlers: Handlers = []
            payload = self.__bulk_payload(streams, handlers)
            if payload:
                datagrams.append(self.__bulk_packet(payload, handlers, space, now))
                pacer.bucket_time -= packet_time
        if datagrams and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return datagrams

    def __bulk_payload(self, streams: deque[QuicStream], handlers: Handlers) -> bytes:
        """Return stream frames for a packet; a stream that has no more to send now is taken out of `streams`."""
        room = self._max_datagram_size - 1 - len(self._peer_cid.cid) - _NUMBER_SIZE - _TAG_SIZE
        frames: list[bytes] = []
        while streams and room >= _MIN_ROOM:
            stream = streams[0]
            sender, offset = stream.sender, stream.sender.next_offset
            header_size = 3 + size_uint_var(stream.stream_id or 0) + (size_uint_var(offset) if offset else 0)
            highest = sender.highest_offset
            credit = highest + self._remote_max_data - self._remote_max_data_used
            frame = sender.get_frame(room - header_size, min(credit, stream.max_stream_data_remote))
            if frame is None:
                streams.popleft()
                continue
            self._remote_max_data_used += sender.highest_offset - highest
            handlers.append((sender.on_data_delivery, (frame.offset, frame.offset + len(frame.data), frame.fin)))
            frames += (self.__header_of(stream, frame), frame.data)
            room -= header_size + len(frame.data)
        return b"".join(frames)

    def __header_of(self, stream: QuicStream, frame: QuicStreamFrame) -> bytes:
        buf = self.__frame_header
        buf.seek(0)
        buf.push_uint8(_STREAM_KIND | _HAS_LENGTH | (_HAS_OFFSET if frame.offset else 0) | frame.fin)
        buf.push_uint_var(stream.stream_id or 0)
        if frame.offset:
            buf.push_uint_var(frame.offset)
        buf.push_uint16(len(frame.data) | _TWO_BYTES)
        return buf.data

    def __bulk_packet(self, payload: bytes, handlers: Handlers, space: QuicPacketSpace, now: float) -> bytes:
        """Return the datagram with `payload`, which counts as sent."""
        assert self.__keys is not None
        first = PACKET_FIXED_BIT | self._spin_bit << 5 | self.__keys.key_phase << 2 | _NUMBER_SIZE - 1
        datagram = _protect(self.__keys.send, first, self._peer_cid.cid, self._packet_number, payload)
        packet = QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=self._packet_number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=len(datagram),
            delivery_handlers=handlers,
        )
        self._packet_number += 1
        self._loss.on_packet_sent(packet=packet, space=space)
        self._network_paths[0].bytes_sent += len(datagram)
        return datagram


def _is_bulk(stream: QuicStream) -> bool:
    """Return whether a stream is a chunk of ours with something to send."""
    sender = stream.sender
    return bool(
        not sender.buffer_is_empty
        and (stream.stream_id or 0) & _UNIDIRECTIONAL
        and not stream.is_blocked
        and not sender.reset_pending
        and not sender.is_finished
    )


def _protect(keys: CryptoContext, first: int, connection_id: bytes, number: int, payload: bytes) -> bytes:
    """Return a packet with a short header (RFC 9001, section 5)."""
    high, low = number >> 8 & 0xFF, number & 0xFF
    header = b"%c%b%c%c" % (first, connection_id, high, low)
    sealed = keys.aead.encrypt(payload, header, number)  # type: ignore[union-attr]
    sample_at = _SAMPLE_OFFSET - _NUMBER_SIZE
    mask = keys.hp._mask(sealed[sample_at : sample_at + _SAMPLE_SIZE])  # type: ignore[union-attr]
    first ^= mask[0] & _PROTECTED_BITS
    return b"%c%b%c%c%b" % (first, connection_id, high ^ mask[1], low ^ mask[2], sealed)
