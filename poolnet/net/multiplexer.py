"""Turns: datagrams from the socket to connections, and from connections to the socket, a bounded number at a time.

Three tasks, however many connections there are: one receives, one sleeps until the next deadline, one sends what a turn
has left over. A turn is: feed, let every connection that was fed act on it, collect what they have to send, hand it to
the kernel in one go. Connections that have more to send stay "dirty" and are served round-robin.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import trio
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.limits import MAX_DATAGRAMS_PER_TURN
from poolnet.net.addresses import SocketAddress
from poolnet.net.connection import Connection
from poolnet.net.deadlines import Deadlines
from poolnet.net.quic_settings import CONNECTION_ID_SIZE
from poolnet.net.udp import Datagram, DatagramSocket

#: First bytes below this are probes (RFC 9443 leaves 0-3 to others than QUIC).
_FIRST_QUIC_BYTE = 4
_LONG_HEADER = 0x80
_LONG_HEADER_ID_OFFSET = 6
#: A pause of QUIC's pacer shorter than this is not worth sleeping for, since the kernel's timers are coarser: what
#: would be sent after it is sent at once, with the clock of that connection so much ahead.
_AHEAD_S = 0.001
#: Datagrams that wait for the kernel, above which further probes and replies to strangers are dropped.
_MAX_UNSENT = 4 * MAX_DATAGRAMS_PER_TURN


class Timed(Protocol):
    """Something with a deadline."""

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""

    def tick(self, now: float) -> None:
        """Do what is due."""


class Multiplexer:
    """One socket, many connections.

    Args:
        socket: owned by the caller.
        on_probe: takes a datagram that is not QUIC.
        on_stranger: takes a datagram of no known connection, and may return a new one for it.
    """

    def __init__(
        self,
        socket: DatagramSocket,
        *,
        on_probe: Callable[[bytes, SocketAddress, float], None],
        on_stranger: Callable[[bytes, SocketAddress, float], Connection | None],
    ) -> None:
        self._socket = socket
        self._on_probe = on_probe
        self._on_stranger = on_stranger
        self._routes: dict[bytes, Connection] = {}
        self._ids: dict[Connection, set[bytes]] = {}
        self._dirty: deque[Connection] = deque()
        self._unsent: list[Datagram] = []
        self._deadlines: Deadlines[Timed] = Deadlines()
        self._sleep: trio.CancelScope | None = None
        self._has_work = ParkingLot()

    @property
    def connections(self) -> Iterable[Connection]:
        """All connections, also those that are just ending."""
        return self._ids.keys()

    @property
    def connection_count(self) -> int:
        """How many there are."""
        return len(self._ids)

    async def run(self) -> None:
        """Run the three tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_task)
            nursery.start_soon(self._deadline_task)
            nursery.start_soon(self._transmit_task)

    def add(self, connection: Connection, *connection_ids: bytes) -> None:
        """Take a new connection, known by these ids so far."""
        self._ids[connection] = set()
        for connection_id in connection_ids:
            self.route(connection_id, connection)
        self.touch(connection)

    def route(self, connection_id: bytes, connection: Connection) -> None:
        """Give datagrams with this connection ID to `connection`."""
        self._routes[connection_id] = connection
        self._ids[connection].add(connection_id)

    def unroute(self, connection_id: bytes) -> None:
        """Stop that."""
        connection = self._routes.pop(connection_id, None)
        if connection is not None:
            self._ids[connection].discard(connection_id)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        for connection_id in self._ids.pop(connection, ()):
            del self._routes[connection_id]
        self._deadlines.set(connection, None)

    def touch(self, connection: Connection) -> None:
        """Serve a connection in the next turn."""
        if not connection.is_dirty:
            connection.is_dirty = True
            self._dirty.append(connection)
            self._has_work.unpark()

    def flush(self, connection: Connection) -> None:
        """Send what a connection has, now; what the kernel has no room for follows."""
        self._unsent.extend(connection.collect(trio.current_time()))
        self._push()

    def send_unreliably(self, datagrams: Iterable[Datagram]) -> None:
        """Send datagrams that belong to no connection, or drop them if many wait already."""
        if len(self._unsent) < _MAX_UNSENT:
            self._unsent.extend(datagrams)
            self._push()

    def arm(self, timed: Timed) -> None:
        """Take note of a deadline that may have changed."""
        self._deadlines.set(timed, timed.next_deadline())
        if self._sleep is not None and (when := self._deadlines.next()) != self._sleep.deadline:
            self._sleep.deadline = when

    async def _receive_task(self) -> None:
        while True:
            await self._socket.wait_readable()
            self._feed(self._socket.receive_batch(), trio.current_time())
            self._transmit()

    async def _deadline_task(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._deadlines.next()) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            for timed in self._deadlines.due(now):
                timed.tick(now)
                if isinstance(timed, Connection):
                    self.touch(timed)
                else:
                    self.arm(timed)
            self._transmit()

    async def _transmit_task(self) -> None:
        while True:
            if self._unsent:
                await self._socket.wait_writable()
            elif self._dirty:
                await checkpoint()
            else:
                await self._has_work.park()
            self._transmit()

    def _feed(self, datagrams: list[Datagram], now: float) -> None:
        fed: dict[Connection, None] = {}
        for data, address in datagrams:
            first = data[0]
            if first < _FIRST_QUIC_BYTE:
                self._on_probe(data, address, now)
                continue
            connection = self._routes.get(_destination_id(data, first))
            if connection is None:
                connection = self._on_stranger(data, address, now)
                if connection is None:
                    continue
            connection.receive(data, address, now)
            fed[connection] = None
        for connection in fed:
            connection.pump(now)
            self.touch(connection)

    def _transmit(self) -> None:
        """Collect and send, at most about `MAX_DATAGRAMS_PER_TURN`, unless the kernel has no room."""
        self._push()
        while self._dirty and len(self._unsent) < MAX_DATAGRAMS_PER_TURN:
            connection = self._dirty.popleft()
            connection.is_dirty = False
            now = trio.current_time()
            timer = connection.quic_deadline()
            soon = timer is not None and now < timer < now + _AHEAD_S
            datagrams = connection.collect(timer if soon and timer is not None else now)
            self._unsent.extend(datagrams)
            if connection not in self._ids:
                continue
            timer = connection.quic_deadline()
            if datagrams and timer is not None and timer < now + _AHEAD_S:
                self.touch(connection)
            else:
                self.arm(connection)
        self._push()

    def _push(self) -> None:
        """Hand datagrams to the kernel until it has no room."""
        if self._unsent:
            done = self._socket.send_batch(self._unsent)
            del self._unsent[:done]
            if self._unsent:
                self._has_work.unpark()


def _destination_id(data: bytes, first: int) -> bytes:
    """Return the connection ID that a QUIC packet is for (RFC 8999)."""
    if first & _LONG_HEADER:
        size = data[5] if len(data) > _LONG_HEADER_ID_OFFSET else 0
        return data[_LONG_HEADER_ID_OFFSET : _LONG_HEADER_ID_OFFSET + size]
    return data[1 : 1 + CONNECTION_ID_SIZE]
