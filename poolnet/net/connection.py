"""One QUIC connection: aioquic's state machine, first the proof of the device keys, then the link.

The endpoint feeds datagrams and deadlines in and collects datagrams; what aioquic reports goes to the proof
(protocol/link_auth.py) or to the link. This module knows which stream is which and how a connection ends; it has no
socket and waits for nothing.
"""

import logging
from typing import Protocol

import trio
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode

from poolnet.errors import PoolnetError, ProtocolError, Refused, Unreachable
from poolnet.limits import (
    MAX_FRAME_SIZE,
    MAX_PRE_AUTH_DATAGRAMS,
    MAX_PRE_AUTH_SIZE,
    MAX_REASON_CHARS,
    MAX_UNACKNOWLEDGED_CONTROL,
    QUIC_CLIENT_WINDOW,
)
from poolnet.net.addresses import SocketAddress
from poolnet.net.bounded_quic import CONTROL_STREAM, BoundedQuicConnection
from poolnet.net.link import Link
from poolnet.net.udp import Datagram
from poolnet.protocol.link_auth import (
    Effect,
    LinkAuth,
    Proven,
    Received,
    Rejected,
    SendBytes,
    Started,
    TurnedAway,
)
from poolnet.steady_time import SteadyTime
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import Goodbye, Hello, Purpose

log = logging.getLogger(__name__)

_UNIDIRECTIONAL = 2
#: Why a stream or connection is given up, as QUIC's application error codes.
_NOT_WANTED, _CLOSED = 1, 2
#: Control bytes that were written and not acknowledged by QUIC: those that the credit allows, and link frames.
_MAX_HELD_CONTROL = MAX_UNACKNOWLEDGED_CONTROL + MAX_FRAME_SIZE
#: aioquic sets a timer to `sent + delay` and then asks whether `sent <= now - delay`; on the dot, rounding says no.
_ROUNDING_S = 1e-6


class ConnectionHost(Protocol):
    """What a connection needs of its endpoint."""

    @property
    def time(self) -> SteadyTime:
        """This device's time."""

    def route(self, connection_id: bytes, connection: "Connection") -> None:
        """Give datagrams with this connection ID to `connection`."""

    def unroute(self, connection_id: bytes) -> None:
        """Stop that."""

    def touch(self, connection: "Connection") -> None:
        """Have `collect` called soon."""

    def arm(self, connection: "Connection") -> None:
        """Take note that its deadline may be earlier than before."""

    def flush(self, connection: "Connection") -> None:
        """Call `collect` now and send."""

    def proven(self, connection: "Connection", link: Link) -> None:
        """Take a link that just came up."""

    def ended(self, connection: "Connection") -> None:
        """Forget the connection."""


class Connection:
    """One connection and what it carries.

    Attributes:
        link: once both sides are proven.
        failure: why there will be no link.
        settled: set when either is known.
        is_dirty: kept by the endpoint: `collect` is due.
    """

    def __init__(
        self,
        quic: BoundedQuicConnection,
        auth: LinkAuth,
        host: ConnectionHost,
        *,
        is_dialler: bool,
        address: SocketAddress,
    ) -> None:
        self.link: Link | None = None
        self.failure: PoolnetError | None = None
        self.settled = trio.Event()
        self.is_dirty = False
        self.is_dialler = is_dialler
        self._quic = quic
        self._configuration = quic.configuration
        self._auth = auth
        self._host = host
        self._address = address
        self._is_shut = self._has_ended = self._is_forgotten = False
        self._has_control = False
        self._can_write = True
        self._timer: float | None = None
        self._early_size = self._early_datagrams = 0

    # --- for the endpoint -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Take a datagram; `pump` must follow before anything else."""
        if self._is_forgotten or (self.link is None and not self.is_dialler and not self._may_receive_early(len(data))):
            return
        self._quic.receive_datagram(data, address, now)
        if self.link is not None:
            self.link.datagrams_received(len(data), now)

    def pump(self, now: float) -> None:
        """Act on everything that aioquic has to report."""
        if self._is_forgotten:
            return
        link = self.link
        while not self._is_forgotten and (event := self._quic.next_event()) is not None:
            if type(event) is StreamDataReceived and link is not None and event.stream_id & _UNIDIRECTIONAL:
                link.chunk_received(event.stream_id, event.data, end=event.end_stream)
            else:
                self._handle(event, now)
                link = self.link
        if self._has_ended:
            self._release()

    def collect(self, now: float) -> list[Datagram]:
        """Return the datagrams to be sent now."""
        if self._is_forgotten or self._quic.get_peer_address() is None:
            return []
        if self._timer is not None and now >= self._timer:
            now += _ROUNDING_S
            self._quic.handle_timer(now)
            self.pump(now)
            if self._has_ended:
                return []
        datagrams: list[Datagram] = self._quic.datagrams_to_send(now)
        self._timer = self._quic.get_timer()
        if datagrams and self.link is not None:
            self.link.datagrams_sent(sum(len(data) for data, _ in datagrams), now)
        return datagrams

    def quic_deadline(self) -> float | None:
        """Return when QUIC wants to be collected again."""
        return self._timer

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        ours = self._auth.next_deadline() if self.link is None else self.link.next_deadline()
        if ours is None or self._is_shut:
            return self._timer
        return ours if self._timer is None else min(ours, self._timer)

    def tick(self, now: float) -> None:
        """Do what is due, but for QUIC's own timer, which `collect` sees to."""
        if self._is_shut:
            return
        if self.link is not None:
            self.link.tick(now)
        else:
            self._perform(self._auth.tick(now), now)

    def abandon(self) -> None:
        """Close at once, because nobody wants the link any more."""
        if self.link is not None:
            self.link.close_now(code="abandoned")
        else:
            self.fail(Unreachable(f"{self._address[0]} port {self._address[1]} did not answer in time"))
            self.shut("abandoned", "")

    def forget(self) -> None:
        """End before it is proven, without another word: its place is needed for somebody else."""
        self._is_shut = True
        self.fail(Unreachable("others needed the place"))
        self._host.ended(self)
        self._release()

    def _release(self) -> None:
        if self._is_forgotten:  # an event closed it, and it ended by that
            return
        self._address = self.remote_address
        self._is_forgotten = True
        self._timer = None
        self._quic.discard()

    # --- for the link -----------------------------------------------------------------------------------------------

    @property
    def remote_address(self) -> SocketAddress:
        """Where datagrams are sent at the moment."""
        address = None if self._is_forgotten else self._quic.get_peer_address()
        return self._address if address is None else (str(address[0]), int(address[1]))

    @property
    def datagram_size(self) -> int:
        """Bytes in one datagram that this side sends."""
        return self._configuration.max_datagram_size

    def write_control(self, data: bytes) -> None:
        """Queue bytes on the control stream. Who lets too many wait, whatever credit it gives, loses the link."""
        self.write(CONTROL_STREAM, data)
        if self._can_write and not self._is_shut and self._quic.held(CONTROL_STREAM) > _MAX_HELD_CONTROL:
            self._can_write = False
            if self.link is not None:
                self.link.close_now(code="too_slow", reason="the control stream was not taken in time")

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue bytes on a stream."""
        if self._is_shut or not self._can_write:
            return
        try:
            self._quic.send_stream_data(stream_id, data, end)
        except (RuntimeError, ValueError):  # the control stream: only the other side can have ended it
            self._can_write = False
            self._violated("the control stream was stopped")
        else:
            self._host.touch(self)

    def open_chunk_stream(self) -> int:
        """Return the id of the next unidirectional stream; it exists once it is written to."""
        return self._quic.get_next_available_stream_id(is_unidirectional=True)

    def may_open_chunk_stream(self) -> bool:
        """Return whether few enough earlier ones wait to be sent or acknowledged."""
        return not self._is_forgotten and self._quic.may_open_chunk_stream()

    def stop_stream(self, stream_id: int) -> None:
        """Ask the other side to send no more on a stream."""
        if not self._is_forgotten:
            self._quic.stop_stream(stream_id, _NOT_WANTED)
            self._host.touch(self)

    def rearm(self) -> None:
        """Take note that the link's deadline may be earlier than before."""
        self._host.arm(self)

    def shut(self, code: str, reason: str) -> None:
        """Send what can be sent now, then close. The code also travels in the closing packet."""
        if self._is_shut:
            return
        self._host.flush(self)
        if self._has_ended:  # of itself, as its time was over
            return
        self._is_shut = True
        text = f"{code}: {reason}"[:MAX_REASON_CHARS]
        self._quic.close(error_code=_CLOSED, reason_phrase=text)
        self._host.touch(self)

    # --- events -----------------------------------------------------------------------------------------------------

    def _handle(self, event: QuicEvent, now: float) -> None:
        match event:
            case StreamDataReceived():
                self._receive_stream(event, now)
            case StreamReset(stream_id=stream_id):
                self._receive_reset(stream_id)
            case ConnectionIdIssued(connection_id=connection_id):
                self._host.route(connection_id, self)
            case ConnectionIdRetired(connection_id=connection_id):
                self._host.unroute(connection_id)
            case HandshakeCompleted():
                self._has_control = self.is_dialler
                self._perform(self._auth.handle(Started(), now), now)
            case ConnectionTerminated():
                self._receive_end(event)
            case StopSendingReceived(stream_id=stream_id) if stream_id == CONTROL_STREAM:
                self._violated("the control stream was stopped")
            case _:  # acknowledged pings, stopped chunks: nothing to do
                pass

    def _receive_stream(self, event: StreamDataReceived, now: float) -> None:
        if self._is_shut:
            return
        if event.stream_id != CONTROL_STREAM or event.end_stream:
            if self.link is not None and event.stream_id & _UNIDIRECTIONAL:
                self.link.chunk_received(event.stream_id, event.data, end=event.end_stream)
            else:
                self._violated("a stream that has no meaning here")
        elif self.link is not None:
            self.link.control_received(event.data)
        elif not self._auth.is_done:
            self._has_control = True
            self._perform(self._auth.handle(Received(event.data), now), now)

    def _receive_reset(self, stream_id: int) -> None:
        if self._is_shut:
            return
        if self.link is not None and stream_id & _UNIDIRECTIONAL:
            self.link.chunk_reset(stream_id)
        else:
            self._violated("the control stream was given up")

    def _receive_end(self, event: ConnectionTerminated) -> None:
        self._is_shut = self._has_ended = True
        code, _, reason = event.reason_phrase.partition(": ")
        if event.frame_type is not None:  # closed by QUIC itself, not by a link
            code, reason = ("silent" if event.reason_phrase == "Idle timeout" else "quic"), event.reason_phrase
        if self.link is not None:
            self.link.connection_lost(code, reason)
        else:
            self.fail(_failure_of(event, code, reason))
        self._host.ended(self)

    # --- the proof --------------------------------------------------------------------------------------------------

    def fail(self, failure: PoolnetError) -> None:
        """Settle without a link."""
        if not self.settled.is_set():
            self.failure = failure
            self.settled.set()

    def _perform(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case SendBytes(data):
                    self.write_control(data)
                case Proven(hello, rest):
                    self._open_windows(hello)
                    self.link = Link(self, hello, is_dialler=self.is_dialler, now=now, time=self._host.time)
                    self._host.proven(self, self.link)
                    self.settled.set()
                    self.link.control_received(rest)
                case Rejected(code, reason):
                    self._reject(code, reason)
                case TurnedAway(code, reason):
                    self.fail(Refused(reason or "the other side refused the link", code=code))
                    self.shut(code, "")

    def _open_windows(self, hello: Hello) -> None:
        if hello.purpose == Purpose.POOL:
            self._quic.open_windows()
        else:
            size = MAX_UNACKNOWLEDGED_CONTROL if self.is_dialler else QUIC_CLIENT_WINDOW
            self._quic.open_control_window(size, lambda: 0 if self.link is None else self.link.unconsumed)

    def _reject(self, code: str, reason: str) -> None:
        log.info("connection with %s refused: %s (%s)", self._address[0], code, reason)
        if self._has_control:
            self.write_control(encode_frame(Goodbye(code=code, reason=reason)))
        error = Unreachable if code == "auth_timeout" else ProtocolError
        self.fail(error(reason))
        self.shut(code, reason)

    def _violated(self, reason: str) -> None:
        if self.link is not None:
            self.link.close_now(code="protocol", reason=reason)
        else:
            self._reject("protocol", reason)

    def _may_receive_early(self, size: int) -> bool:
        """Bound what a peer may send, in any form, before it is proven."""
        self._early_size += size
        self._early_datagrams += 1
        if self._early_size <= 2 * MAX_PRE_AUTH_SIZE and self._early_datagrams <= MAX_PRE_AUTH_DATAGRAMS:
            return True
        if not self._is_shut:
            self._reject("protocol", "too much was sent before the proof")
        return False


def _failure_of(event: ConnectionTerminated, code: str, reason: str) -> PoolnetError:
    """Return what a dialler is told about a connection that ended before the proof."""
    if event.frame_type is None:
        return Refused(reason or "the other side refused the link", code=code)
    if QuicErrorCode.CRYPTO_ERROR <= event.error_code < QuicErrorCode.CRYPTO_ERROR + 0x100:
        return ProtocolError("the other side does not hold the expected device key, or is not a poolnet endpoint")
    return Unreachable(f"the connection ended before it was proven ({event.reason_phrase})")
