"""UDP in memory: datagrams that are late, lost, doubled or too large, in trio's time.

For tests of real QUIC without a kernel: with trio's autojump clock, minutes of bad network pass in a moment. What the
network does follows from its seed (aioquic itself draws keys and connection ids from the system, so a run is not
repeated exactly).

    >>> import trio
    >>> from poolnet.testing.memory_udp import MemoryNetwork
    >>> async def main():
    ...     network = MemoryNetwork(seed=1, latency_s=0.02)
    ...     alice, bob = network.open_socket(("10.0.0.1", 0)), network.open_socket(("10.0.0.2", 7665))
    ...     alice.send_batch([(b"hello", bob.address)])
    ...     await bob.wait_readable()
    ...     return bob.receive_batch()[0][0]
    >>> trio.run(main)
    b'hello'
"""

import heapq
import random
from collections.abc import Sequence
from itertools import count

import attrs
import trio

from poolnet.errors import AddressInUse
from poolnet.limits import MAX_DATAGRAMS_PER_TURN
from poolnet.net.addresses import SocketAddress
from poolnet.net.udp import MAX_RUN_SIZE, Datagram, UdpStatistics

#: Datagrams that wait in one socket, above which the network drops more, as a kernel does.
SOCKET_BUFFER_DATAGRAMS = 8192


class MemoryNetwork:
    """A network of sockets; every path has the same conditions, which may be changed at any time.

    Attributes:
        latency_s, jitter_s: a datagram takes the first and a random part of the second.
        loss, duplicate: the share of datagrams that this happens to.
        mtu_size: larger datagrams are dropped silently.
    """

    def __init__(
        self,
        seed: int,
        *,
        latency_s: float = 0.01,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        mtu_size: int = MAX_RUN_SIZE,
    ) -> None:
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self.loss = loss
        self.duplicate = duplicate
        self.mtu_size = mtu_size
        self._rng = random.Random(seed)
        self._sockets: dict[SocketAddress, MemoryUdpSocket] = {}
        self._silent: set[SocketAddress] = set()
        self._numbers = count(1)

    def open_socket(self, address: SocketAddress) -> "MemoryUdpSocket":
        """Return a socket bound to `address`; port 0 is a free one, ``::`` a host of its own.

        Raises:
            AddressInUse: another socket is bound there.
        """
        host, port = address
        number = next(self._numbers)
        bound = (f"10.1.{number // 256}.{number % 256}" if host == "::" else host, port or 20000 + number)
        if bound in self._sockets:
            raise AddressInUse(f"{bound[0]} port {bound[1]} is in use")
        socket = self._sockets[bound] = MemoryUdpSocket(self, bound)
        return socket

    def silence(self, address: SocketAddress) -> None:
        """Lose everything from and to `address` from now on, as if its process had been killed."""
        self._silent.add(address)

    def unsilence(self, address: SocketAddress) -> None:
        """End that."""
        self._silent.discard(address)

    def carry(self, data: bytes, source: SocketAddress, target: SocketAddress) -> None:
        """Take a datagram on its way."""
        if len(data) > self.mtu_size or not self._silent.isdisjoint((source, target)):
            return
        copies = 0 if self._rng.random() < self.loss else 1
        if self._rng.random() < self.duplicate:
            copies += 1
        for _ in range(copies):
            arrival = trio.current_time() + self.latency_s + self.jitter_s * self._rng.random()
            if (socket := self._sockets.get(target)) is not None:
                socket.arrive(arrival, data, source)

    def forget(self, address: SocketAddress) -> None:
        """Take note that a socket was closed."""
        self._sockets.pop(address, None)


class MemoryUdpSocket:
    """A socket of a `MemoryNetwork`; meets `poolnet.net.udp.DatagramSocket`."""

    def __init__(self, network: MemoryNetwork, address: SocketAddress) -> None:
        self.address = address
        self._network = network
        self._arrivals: list[tuple[float, int, Datagram]] = []
        self._order = count()
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False
        self._statistics = UdpStatistics()

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """Send all; the network may lose them, but always has room."""
        for data, target in datagrams:
            self._network.carry(data, self.address, target)
            self._statistics.bytes_out += len(data)
        self._statistics.datagrams_out += len(datagrams)
        self._statistics.send_calls += 1
        return len(datagrams)

    def receive_batch(self) -> list[Datagram]:
        """Return what has arrived by now."""
        now = trio.current_time()
        received: list[Datagram] = []
        while self._arrivals and self._arrivals[0][0] <= now and len(received) < MAX_DATAGRAMS_PER_TURN:
            received.append(heapq.heappop(self._arrivals)[2])
        self._statistics.receive_calls += 1
        self._statistics.datagrams_in += len(received)
        self._statistics.bytes_in += sum(len(data) for data, _ in received)
        return received

    async def wait_readable(self) -> None:
        """Wait until a datagram has arrived."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError
            if self._arrivals and self._arrivals[0][0] <= trio.current_time():
                return
            with trio.move_on_at(self._arrivals[0][0] if self._arrivals else float("inf")):
                await self._changed.park()

    async def wait_writable(self) -> None:
        """Return; there is always room."""
        await trio.lowlevel.checkpoint()

    def statistics(self) -> UdpStatistics:
        """Return counters since it was opened."""
        return attrs.evolve(self._statistics)

    def close(self) -> None:
        """Close; what arrives later is lost."""
        self._is_closed = True
        self._network.forget(self.address)
        self._changed.unpark_all()

    def arrive(self, when: float, data: bytes, source: SocketAddress) -> None:
        """Take a datagram that arrives at `when`; for the network only."""
        if len(self._arrivals) < SOCKET_BUFFER_DATAGRAMS:
            heapq.heappush(self._arrivals, (when, next(self._order), (data, source)))
            self._changed.unpark_all()
