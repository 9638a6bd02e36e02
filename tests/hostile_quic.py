"""A QUIC peer that says what it wants: frames made by hand, and no acknowledgements if it likes."""

from typing import Any

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicReceiveContext
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from poolnet.net.bounded_quic import BoundedQuicConnection


class HostileQuic(BoundedQuicConnection):
    """Says frames, given as type and body, between its own; does not stop when asked to. Else like any other.

    Attributes:
        acknowledges: whether it ever says what arrived.
        grants: whether it lets the other side send more than at first.
    """

    acknowledges = True
    grants = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._to_say: list[tuple[int, bytes]] = []

    def say(self, *frames: tuple[int, bytes]) -> None:
        """Send these frames in the next packets, after the handshake."""
        self._to_say.extend(frames)
        self.send_ping(0)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        while self._to_say:
            frame_type, body = self._to_say[0]
            builder.start_frame(frame_type, capacity=1 + len(body)).push_bytes(body)
            del self._to_say[0]
        if self.grants:
            super()._write_connection_limits(builder, space)

    def _handle_stop_sending_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        buf.pull_uint_var()
        buf.pull_uint_var()  # and go on

    def _write_ack_frame(self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float) -> None:
        if self.acknowledges or space is not self._spaces[Epoch.ONE_RTT]:
            super()._write_ack_frame(builder, space, now)
        else:
            space.ack_at = None


def stream_frame(stream_id: int, offset: int, data: bytes, *, end: bool = False) -> tuple[int, bytes]:
    """Bytes of a stream, anywhere."""
    frame_type = QuicFrameType.STREAM_BASE | 4 | 2 | end
    return frame_type, encode_uint_var(stream_id) + encode_uint_var(offset) + encode_uint_var(len(data)) + data


def reset_frame(stream_id: int, final_size: int) -> tuple[int, bytes]:
    """The end of a stream that had `final_size` bytes, as its sender claims."""
    return QuicFrameType.RESET_STREAM, encode_uint_var(stream_id) + encode_uint_var(7) + encode_uint_var(final_size)


def crypto_frame(offset: int, data: bytes) -> tuple[int, bytes]:
    """Bytes of the handshake, anywhere."""
    return QuicFrameType.CRYPTO, encode_uint_var(offset) + encode_uint_var(len(data)) + data
