"""TLS 1.3 over a TCP socket in trio, with few copies: the fastest way for bytes that Python has.

`trio.SSLStream` copies every byte twice more, through memory buffers, and allocates for each read what it might return.
Here OpenSSL reads and writes the socket itself, into and out of memory of the caller. Reading and writing never wait;
one task at a time does each. Any failure, also of TLS, is an `OSError`; after one nothing works but `close`.

Both sides set the contexts up so that the listener shows a certificate of its device key and the dialler pins that key;
the dialler is not asked for one (see poolnet/identity/certificate.py).
"""

import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from poolnet.identity.certificate import lane_certificate, pinning_anchor_pem
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PublicKey
from poolnet.limits import CHUNK_SIZE, LANE_STALL_S

_ALPN = "poolnet-lane/1"
#: The kernel takes no more than this ahead of what the network takes: what waits there can neither be overtaken by a
#: report nor be moved to another way.
_UNSENT_IN_KERNEL = CHUNK_SIZE
_PAUSE_S = 0.01


def listening_context(key: DeviceKey) -> ssl.SSLContext:
    """Return the TLS settings of who is dialled, with a new key that `key` vouches for."""
    lane_key = ec.generate_private_key(ec.SECP256R1())
    pem = lane_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += lane_certificate(key, lane_key.public_key()).public_bytes(Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols([_ALPN])
    with _as_file(pem) as path:
        context.load_cert_chain(path)
    return context


def dialling_context(peer_key: PublicKey) -> ssl.SSLContext:
    """Return the TLS settings of a dialler that accepts the holder of `peer_key` and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the key is what counts
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pinning_anchor_pem(peer_key).decode("ascii"))
    context.set_alpn_protocols([_ALPN])
    return context


class TlsSocket:
    """One connection. It owns the socket.

    Args:
        connected: a connected TCP socket.
        context: from one of the functions above.
        server_side: whether this side was dialled.

    Raises:
        OSError: it is not connected any more.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in (("TCP_NOTSENT_LOWAT", _UNSENT_IN_KERNEL), ("TCP_USER_TIMEOUT", int(2000 * LANE_STALL_S))):
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connected.getpeername()  # raises here; inside `wrap_socket` the socket would belong to nobody who closes it
        self._socket = context.wrap_socket(
            connected, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self._answers_wait = False

    async def handshake(self) -> None:
        """Shake hands. Raises OSError, also if the other side is not who it should be or does not speak of lanes."""
        while True:
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            else:
                break
        if self._socket.selected_alpn_protocol() != _ALPN:
            raise ConnectionError("the other side does not speak of lanes")

    def read_into(self, room: memoryview) -> int | None:
        """Read what is there, at most about 16 KiB; return how much, 0 at the end, None if there is nothing now."""
        try:
            return self._socket.recv_into(room, len(room))
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self._answers_wait = True
            return None

    def write(self, data: bytes | memoryview) -> bool:
        """Write everything, or as much as there is room for and return False: then repeat with the same data."""
        try:
            self._socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return False
        return True

    async def wait_readable(self) -> None:
        """Wait until there may be something to read. Raises trio.ClosedResourceError."""
        if self._answers_wait:  # the other side asked for new keys and does not take the answer; no honest one does so
            self._answers_wait = False
            await trio.sleep(_PAUSE_S)
        await trio.lowlevel.wait_readable(self._socket)

    async def wait_writable(self) -> None:
        """Wait until there is room to write. Raises trio.ClosedResourceError."""
        await trio.lowlevel.wait_writable(self._socket)

    async def read_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes and take no more. Raises OSError, also at the end."""
        data = bytearray(size)
        done = 0
        while done < size:
            count = self.read_into(memoryview(data)[done:])
            if count is None:
                await self.wait_readable()
            elif count == 0:
                raise ConnectionResetError("the other side closed the connection")
            else:
                done += count
        return bytes(data)

    async def write_all(self, data: bytes) -> None:
        """Write everything. Raises OSError."""
        while not self.write(data):
            await self.wait_writable()

    def close(self) -> None:
        """Close at once; what was written still leaves. Idempotent."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Make bytes readable as a file of nobody else: in memory where the system can, else removed before it is left."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with open(os.memfd_create("poolnet", os.MFD_CLOEXEC), "wb", buffering=0) as file:
            file.write(data)
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as named:  # made 0600
            named.write(data)
            named.flush()
            yield named.name
