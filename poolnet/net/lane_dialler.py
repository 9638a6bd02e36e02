"""Dials a lane: all addresses that the other side may have, each a moment after the one before; the first wins.

An address is good when the one who answers there proves, in TLS, the device key that the link has proven. Then, and
only then, it is shown the token.
"""

import socket
import ssl
from collections.abc import Iterable

import trio

from poolnet.errors import Unreachable, WireError
from poolnet.ids import PublicKey
from poolnet.limits import LANE_DIAL_TIMEOUT_S
from poolnet.net.addresses import SocketAddress, is_loopback, to_kernel
from poolnet.net.tls_socket import TlsSocket, dialling_context
from poolnet.wire.framing import LENGTH_SIZE, FrameSet, encode_frame
from poolnet.wire.link_frames import LaneHello, LaneOffer, LaneWelcome

_WELCOME = FrameSet((LaneWelcome,))
_MAX_WELCOME_SIZE = 16
#: Addresses tried: of the link, and a few interfaces.
_MAX_DIALLED = 4
#: How long an address has before the next one is tried as well.
_HEAD_START_S = 0.2


async def dial_lane(offer: LaneOffer, link_host: str, peer_key: PublicKey) -> TlsSocket:
    """Return a connection to who made `offer`, which has accepted its token. When cancelled, it is given up.

    Args:
        link_host: the address of the link, tried first.
        peer_key: what the other side must hold.

    Raises:
        Unreachable: it did not work at any address within `LANE_DIAL_TIMEOUT_S`.
    """
    with trio.move_on_after(LANE_DIAL_TIMEOUT_S):
        tls = await _first_of(_addresses(offer, link_host), dialling_context(peer_key))
        if tls is not None:
            try:
                await _show(tls, offer)
            except (OSError, WireError) as exc:
                tls.close()
                raise Unreachable("the token of the lane was not accepted") from exc
            except BaseException:  # cancelled: whoever dialled never gets it
                tls.close()
                raise
            return tls
    raise Unreachable("no TCP connection can be opened")


def _addresses(offer: LaneOffer, link_host: str) -> list[SocketAddress]:
    """Return where to try: nothing on this machine, unless the link is there as well."""
    others = (host for host in offer.hosts if is_loopback(link_host) or not is_loopback(host))
    return [(host, offer.port) for host in list(dict.fromkeys([link_host, *others]))[:_MAX_DIALLED]]


async def _first_of(addresses: Iterable[SocketAddress], context: ssl.SSLContext) -> TlsSocket | None:
    """Return the connection that is secure first, None if none is."""
    found: list[TlsSocket] = []

    async def attempt(address: SocketAddress, failed: trio.Event) -> None:
        try:
            tls = await _connect(address, context)
        except OSError:
            failed.set()
        else:
            found.append(tls)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(_HEAD_START_S):
                    await failed.wait()
        return found.pop(0) if found else None
    finally:
        for late in found:
            late.close()


async def _connect(address: SocketAddress, context: ssl.SSLContext) -> TlsSocket:
    """Return a connection to the holder of the pinned key. Raises OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    target = to_kernel(family, address)
    if target is None:
        raise OSError(f"{address[0]} is no address")
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        try:
            connected.connect(target)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connected)
            if error := connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "cannot connect") from None
        tls = TlsSocket(connected, context, server_side=False)
    except BaseException:  # cancelled, too: until it is returned it is ours to close
        connected.close()
        raise
    try:
        await tls.handshake()
    except BaseException:
        tls.close()
        raise
    return tls


async def _show(tls: TlsSocket, offer: LaneOffer) -> None:
    """Show the token and wait for the welcome. Raises OSError, WireError."""
    await tls.write_all(encode_frame(LaneHello(lane_id=offer.lane_id, token=offer.token)))
    size = int.from_bytes(await tls.read_exactly(LENGTH_SIZE), "big")
    if size > _MAX_WELCOME_SIZE:
        raise WireError("no welcome")
    if not isinstance(_WELCOME.decode_untrusted(await tls.read_exactly(size)), LaneWelcome):
        raise WireError("no welcome")
