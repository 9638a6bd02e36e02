"""Where lanes are dialled: one TCP port for all links of an endpoint.

Nothing is known of who connects until it shows, inside TLS, the token of a link that expects it. So nobody is heard
while no link expects a lane, strangers are few, in all and from one address, and each gets `MAX_LANE_PRE_AUTH_SIZE`
bytes and `PRE_AUTH_TIMEOUT_S`. A wrong token costs a handshake and leaves nothing behind.
"""

import errno
import hmac
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from poolnet.errors import WireError
from poolnet.limits import (
    MAX_HALF_OPEN_LANES,
    MAX_HALF_OPEN_LANES_PER_ADDRESS,
    MAX_LANE_PRE_AUTH_SIZE,
    PRE_AUTH_TIMEOUT_S,
)
from poolnet.net.addresses import SocketAddress, from_kernel
from poolnet.net.tls_socket import TlsSocket
from poolnet.protocol.fair_slots import network_of
from poolnet.wire.framing import LENGTH_SIZE, FrameSet, encode_frame
from poolnet.wire.link_frames import LaneHello, LaneOffer, LaneWelcome

log = logging.getLogger(__name__)

_HELLO = FrameSet((LaneHello,))
_BACKLOG = 64
_ACCEPTED_PER_TURN = 16
#: The system has no descriptor or memory left for another connection; it may have after this.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE_S = 0.2


@attrs.define(kw_only=True)
class ListenerStatistics:
    """Connections since it was opened: all, those that became lanes, those turned away at once."""

    accepted: int = 0
    welcomed: int = 0
    turned_away: int = 0


@attrs.frozen
class _Expected:
    token: bytes
    arrived: Callable[[TlsSocket], None]


def listening_socket(udp: SocketAddress) -> socket.socket | None:
    """Return a TCP socket at the host of a UDP one, with its port number if that is free; None if there can be none.

    One number for both is one opening in a firewall.
    """
    family = socket.AF_INET6 if ":" in udp[0] else socket.AF_INET
    for port in (udp[1], 0):
        try:
            return socket.create_server(
                (udp[0], port),
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=udp[0] == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as exc:
            log.debug("no TCP port %d: %s", port, exc)
    return None


class LaneListener:
    """Takes lanes for the links that expect them. It owns the socket; `run` serves it.

    Args:
        listening: from `listening_socket`.
        context: from `listening_context`.
    """

    def __init__(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        self.statistics = ListenerStatistics()
        self._socket = listening
        self._context = context
        self._expected: dict[bytes, _Expected] = {}
        self._half_open: Counter[str] = Counter()

    def expect(self, offer: LaneOffer, arrived: Callable[[TlsSocket], None]) -> None:
        """Hand the first connection that shows the token of `offer` to `arrived`, which then owns it."""
        self._expected[offer.lane_id] = _Expected(offer.token, arrived)

    def forget(self, offer: LaneOffer) -> None:
        """Expect it no more. Idempotent."""
        self._expected.pop(offer.lane_id, None)

    async def run(self) -> None:
        """Serve until cancelled, then close the port."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(self._socket)
                    try:
                        self._accept(nursery)
                    except OSError as exc:
                        if exc.errno in _EXHAUSTED:
                            log.warning("cannot take TCP connections: %s", exc)
                            await trio.sleep(_EXHAUSTED_PAUSE_S)
        finally:
            self._socket.close()

    def _accept(self, nursery: trio.Nursery) -> None:
        """Take the connections that wait. Raises OSError."""
        for _ in range(_ACCEPTED_PER_TURN):
            try:
                connected, address = self._socket.accept()
            except BlockingIOError:
                return
            self.statistics.accepted += 1
            network = network_of(from_kernel(address)[0])
            if self._has_room(network):
                self._half_open[network] += 1
                nursery.start_soon(self._receive, connected, network)
            else:
                self.statistics.turned_away += 1
                connected.close()

    def _has_room(self, network: str) -> bool:
        return (
            bool(self._expected)
            and self._half_open.total() < MAX_HALF_OPEN_LANES
            and self._half_open[network] < MAX_HALF_OPEN_LANES_PER_ADDRESS
        )

    async def _receive(self, connected: socket.socket, network: str) -> None:
        """See who connected; close the connection unless it is expected."""
        expected, tls = None, None
        try:
            with trio.move_on_after(PRE_AUTH_TIMEOUT_S):
                tls = TlsSocket(connected, self._context, server_side=True)
                expected = await self._greet(tls)
        except (OSError, WireError) as exc:
            log.debug("a TCP connection from %s came to nothing: %s", network, exc)
        finally:
            self._half_open[network] -= 1
            if not self._half_open[network]:
                del self._half_open[network]
            if expected is None:
                (connected if tls is None else tls).close()
        if expected is not None and tls is not None:
            self.statistics.welcomed += 1
            expected.arrived(tls)

    async def _greet(self, tls: TlsSocket) -> _Expected | None:
        """Shake hands; return who expects this connection, once it was welcomed. Raises OSError, WireError."""
        await tls.handshake()
        size = int.from_bytes(await tls.read_exactly(LENGTH_SIZE), "big")
        if size > MAX_LANE_PRE_AUTH_SIZE:
            raise WireError("too much before the token")
        hello = _HELLO.decode_untrusted(await tls.read_exactly(size))
        if not isinstance(hello, LaneHello):
            raise WireError("a lane begins with a token")
        expected = self._expected.get(hello.lane_id)
        if expected is None or not hmac.compare_digest(expected.token, hello.token):
            raise WireError("an unknown token")
        del self._expected[hello.lane_id]
        await tls.write_all(encode_frame(LaneWelcome()))
        return expected
