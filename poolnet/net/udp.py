"""The UDP socket: many datagrams a system call, in both directions, without waiting.

Sending a packet a call costs more than all of QUIC. So datagrams leave in runs of one size and one address, cut apart
by the kernel or the network card (UDP_SEGMENT, Linux 4.18), and arrive merged (UDP_GRO, Linux 5.0). Where that is
missing or refused, one by one. Nothing here waits, but `wait_readable` and `wait_writable`.

UDP may lose anything at any time, and so may this: what the interface cannot carry or the network refuses is dropped
and counted.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import trio

from poolnet.errors import AddressInUse, InvalidAddress
from poolnet.limits import MAX_DATAGRAMS_PER_TURN
from poolnet.net.addresses import SocketAddress, from_kernel, to_kernel

#: Bytes and where they go to, or came from.
Datagram = tuple[bytes, SocketAddress]

#: Asked for; the kernel gives what it is configured to give.
SOCKET_BUFFER_SIZE = 8 * 1024 * 1024
#: The largest datagram there is: 65535 less the IPv4 and UDP headers. Also the limit of one segmented run.
MAX_RUN_SIZE = 65507
#: Segments in one run (UDP_MAX_SEGMENTS of older kernels).
MAX_RUN_SEGMENTS = 64

_UDP_SEGMENT, _UDP_GRO = 103, 104
_IS_LINUX = sys.platform == "linux"
_RECEIVE_SIZE = 65536
_ANCILLARY_SIZE = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
#: (level, option, value) that make the kernel set "don't fragment" and report what is too large, by platform.
_DONT_FRAGMENT = (
    ((socket.IPPROTO_IP, 10, 3), (socket.IPPROTO_IPV6, 23, 3))  # IP(V6)_MTU_DISCOVER = PMTUDISC_PROBE
    if _IS_LINUX
    else ((socket.IPPROTO_IP, 28, 1), (socket.IPPROTO_IPV6, 62, 1))  # IP(V6)_DONTFRAG of macOS
)
#: Told about by the network or a firewall; for UDP the same as a lost datagram.
_LOST = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENOBUFS,
        errno.EPERM,
        errno.EACCES,
        errno.EINVAL,
        errno.EIO,
    }
)
#: A run was refused where single datagrams may pass.
_RUN_REFUSED = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})


@attrs.define
class UdpStatistics:
    """Datagrams and bytes in both directions, and what was dropped on the way out."""

    datagrams_out: int = 0
    bytes_out: int = 0
    send_calls: int = 0
    datagrams_in: int = 0
    bytes_in: int = 0
    receive_calls: int = 0
    too_large: int = 0
    refused: int = 0


class DatagramSocket(Protocol):
    """What an endpoint needs of a socket; also met by poolnet/testing/memory_udp.py."""

    @property
    def address(self) -> SocketAddress:
        """Where it is bound."""

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """Send as many as fit now; return how many are done with (sent or dropped)."""

    def receive_batch(self) -> list[Datagram]:
        """Return what has arrived, at most about `MAX_DATAGRAMS_PER_TURN`."""

    async def wait_readable(self) -> None:
        """Wait until something has arrived."""

    async def wait_writable(self) -> None:
        """Wait until there is room to send."""

    def statistics(self) -> UdpStatistics:
        """Return counters."""

    def close(self) -> None:
        """Close; whoever waits gets `trio.ClosedResourceError`."""


#: Makes the socket of an endpoint, bound to an address.
OpenSocket = Callable[[SocketAddress], DatagramSocket]


def open_udp_socket(address: SocketAddress) -> "UdpSocket":
    """Return a socket bound to `address`; ``::`` means both families where there are two.

    Raises:
        AddressInUse: another program has that port.
        InvalidAddress: not an address of this host.
    """
    host, port = address
    attempts = [(socket.AF_INET6, host), (socket.AF_INET, "0.0.0.0")] if host == "::" else [(_family_of(host), host)]  # noqa: S104
    for family, name in attempts:
        try:
            return UdpSocket(_open_bound(family, (name, port)))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise AddressInUse(f"another program uses UDP port {port}; choose another port or stop it") from exc
            error = exc
    raise InvalidAddress(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


class UdpSocket:
    """A bound, non-blocking UDP socket. Owned by one endpoint; all methods but the waits are synchronous."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._family = int(sock.family)
        self._can_segment = _IS_LINUX and _try_option(sock, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        if _IS_LINUX:
            _try_option(sock, socket.IPPROTO_UDP, _UDP_GRO, 1)
        self._statistics = UdpStatistics()

    @property
    def address(self) -> SocketAddress:
        """Where it is bound."""
        return from_kernel(self._sock.getsockname())

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """Send `datagrams` in order until the kernel has no room.

        Returns:
            How many are done with: sent, or dropped because they are too large or cannot go there.
        """
        done, count = 0, len(datagrams)
        try:
            while done < count:
                address = datagrams[done][1]
                target = to_kernel(self._family, address)
                end = self._run_end(datagrams, done) if self._can_segment else done + 1
                if target is None:
                    self._statistics.refused += end - done
                elif end - done == 1 or not self._send_run([data for data, _ in datagrams[done:end]], target):
                    self._send_one(datagrams[done][0], target)
                    end = done + 1
                done = end
        except BlockingIOError:
            pass
        return done

    def receive_batch(self) -> list[Datagram]:
        """Return what has arrived, in order: until there is no more, or `MAX_DATAGRAMS_PER_TURN` are exceeded."""
        received: list[Datagram] = []
        size = 0
        for _ in range(MAX_DATAGRAMS_PER_TURN):  # empty ones count, too
            if len(received) >= MAX_DATAGRAMS_PER_TURN:
                break
            try:
                data, ancillary, _, source = self._sock.recvmsg(_RECEIVE_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno not in _LOST:  # an ICMP answer to something sent earlier
                    raise
                self._statistics.refused += 1
                continue
            address = from_kernel(source)
            size += len(data)
            segment = _segment_size(ancillary)
            self._statistics.receive_calls += 1
            if 0 < segment < len(data):
                received += [(data[start : start + segment], address) for start in range(0, len(data), segment)]
            elif data:
                received.append((data, address))
        self._statistics.datagrams_in += len(received)
        self._statistics.bytes_in += size
        return received

    async def wait_readable(self) -> None:
        """Wait until `receive_batch` has something."""
        await trio.lowlevel.wait_readable(self._sock)

    async def wait_writable(self) -> None:
        """Wait until `send_batch` has room."""
        await trio.lowlevel.wait_writable(self._sock)

    def statistics(self) -> UdpStatistics:
        """Return counters since it was opened."""
        return attrs.evolve(self._statistics)

    def close(self) -> None:
        """Close the socket; a task in `wait_readable` or `wait_writable` gets `trio.ClosedResourceError`."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _run_end(self, datagrams: Sequence[Datagram], start: int) -> int:
        """Return where the run from `start` ends: same address, same size, the last one may be shorter."""
        data, address = datagrams[start]
        segment, end, total = len(data), start + 1, len(data)
        limit = min(len(datagrams), start + MAX_RUN_SEGMENTS)
        while end < limit:
            size = len(datagrams[end][0])
            total += size
            if size > segment or total > MAX_RUN_SIZE or datagrams[end][1] != address:
                break
            end += 1
            if size < segment:
                break
        return end

    def _send_run(self, run: list[bytes], target: tuple[Any, ...]) -> bool:
        """Send a run in one call; False if the kernel would rather have them one by one."""
        segment = struct.pack("=H", len(run[0]))
        try:
            sent = self._sock.sendmsg(run, [(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)], 0, target)
        except BlockingIOError:
            raise
        except OSError as exc:
            if exc.errno in _RUN_REFUSED:
                self._can_segment = exc.errno not in (errno.EIO, errno.EOPNOTSUPP)
                return False
            if exc.errno not in _LOST:
                raise
            self._statistics.refused += len(run)
            return True
        self._count_sent(len(run), sent)
        return True

    def _send_one(self, data: bytes, target: tuple[Any, ...]) -> None:
        try:
            sent = self._sock.sendto(data, target)
        except BlockingIOError:
            raise
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                self._statistics.too_large += 1
            elif exc.errno in _LOST:
                self._statistics.refused += 1
            else:
                raise
        else:
            self._count_sent(1, sent)

    def _count_sent(self, count: int, size: int) -> None:
        self._statistics.send_calls += 1
        self._statistics.datagrams_out += count
        self._statistics.bytes_out += size


def _family_of(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _open_bound(family: int, address: SocketAddress) -> socket.socket:
    target = to_kernel(family, address)
    if target is None:
        raise InvalidAddress(f"{address[0]} is not an IP address to listen on")
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6 and address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            size = SOCKET_BUFFER_SIZE
            while not _try_option(sock, socket.SOL_SOCKET, option, size) and size > MAX_RUN_SIZE:
                size //= 2  # Linux gives what it may; macOS refuses what is over its limit
        for level, option, value in _DONT_FRAGMENT:
            _try_option(sock, level, option, value)
        sock.bind(target)
    except OSError:
        sock.close()
        raise
    return sock


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that not every system has; return whether this one does."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _segment_size(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Return the size of the datagrams that were merged into one; 0 if it is one."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return int(struct.unpack("=i", value[:4])[0])
    return 0
