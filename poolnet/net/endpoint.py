"""The endpoint: one UDP socket, all links and path probes of a node, and a TCP port for their lanes.

Public face of the network drivers. Datagrams and turns are multiplexer.py's, a single connection is connection.py's,
who gets a connection at all is admission.py's, lanes are
lane_keeper.py's; who may have a link is the `authorise` of the caller.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is public, but not re-exported by name
from aioquic.quic.packet import pull_quic_header

from poolnet.errors import PoolnetError, Unreachable
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId, PublicKey
from poolnet.limits import (
    DIAL_TIMEOUT_S,
    MAX_DATAGRAM_SIZE,
    MAX_UNACCEPTED_LINKS,
    MIN_DATAGRAM_SIZE,
)
from poolnet.memory import keep_freed_memory
from poolnet.net.addresses import SocketAddress, host_addresses, resolve
from poolnet.net.admission import Admission, Admit, HalfOpen, Reply
from poolnet.net.bounded_quic import BoundedQuicConnection
from poolnet.net.connection import Connection
from poolnet.net.lane_keeper import Lanes
from poolnet.net.lane_listener import ListenerStatistics
from poolnet.net.link import Link
from poolnet.net.multiplexer import Multiplexer
from poolnet.net.path_probes import Path, PathProbes
from poolnet.net.quic_settings import CONNECTION_ID_SIZE, VERSIONS, AcceptingSettings, dialling_settings
from poolnet.net.udp import DatagramSocket, OpenSocket, UdpSocket, UdpStatistics, open_udp_socket
from poolnet.protocol.link_auth import NONCE_SIZE, Authorise, LinkAuth
from poolnet.protocol.randomness import RandomSource
from poolnet.service import open_service_nursery
from poolnet.steady_time import SteadyTime
from poolnet.wire.link_frames import INCARNATION_SIZE, Purpose
from poolnet.wire.sync_frames import Address

__all__ = ["Authorise", "Endpoint", "EndpointStatistics", "Path", "open_endpoint"]

log = logging.getLogger(__name__)

#: Addresses of one host name that are tried, one after the other, in the time of one dial.
_MAX_DIALLED_ADDRESSES = 4


@attrs.frozen(kw_only=True)
class EndpointStatistics:
    """Counts since it was opened; `displaced` are half-open connections that had to make room for others."""

    udp: UdpStatistics
    tcp: ListenerStatistics
    connections: int
    links: int
    half_open: int
    displaced: int
    retries_sent: int
    unknown_datagrams: int
    probe_packets_dropped: int
    links_not_accepted: int


@asynccontextmanager
async def open_endpoint(
    *,
    key: DeviceKey,
    listen: SocketAddress = ("::", 0),
    authorise: Authorise,
    rng: RandomSource,
    max_datagram_size: int = MAX_DATAGRAM_SIZE,
    open_socket: OpenSocket = open_udp_socket,
    time: SteadyTime | None = None,
    tcp: bool = True,
) -> AsyncIterator["Endpoint"]:
    """Open the endpoint of one device. On leaving, every link says Goodbye and is closed.

    Args:
        key: the device key that proves us.
        listen: where; ``::`` means both address families where there are two, port 0 any free one.
        authorise: called with every incoming Hello (decoded, not yet proven); returns our credentials or raises
            `Refused`.
        rng: for probe packets; nothing secret comes from it.
        max_datagram_size: never send larger ones, whatever a path carries; at least `MIN_DATAGRAM_SIZE`.
        open_socket: makes the socket; a simulated one in tests.
        time: this device's time, told to whoever asks; of its own by default.
        tcp: whether chunks of links between members may also travel over TCP, which is a lot faster. The port has the
            number of the UDP one if that is free. Never with a simulated socket.

    Raises:
        AddressInUse: another program has that port.
        InvalidAddress: not an address of this host.
    """
    keep_freed_memory()
    socket = open_socket(listen)
    try:
        async with open_service_nursery() as nursery:
            endpoint = Endpoint(
                key=key,
                socket=socket,
                authorise=authorise,
                rng=rng,
                max_datagram_size=max_datagram_size,
                time=SteadyTime() if time is None else time,
                lanes=Lanes(key, socket.address, nursery) if tcp and isinstance(socket, UdpSocket) else None,
            )
            services = trio.CancelScope(shield=True)  # they outlive a cancelled caller, to say Goodbye
            nursery.start_soon(endpoint.run, services)
            try:
                yield endpoint
            finally:
                try:
                    await endpoint.close_links()
                finally:  # whatever happens: nothing else ends what is shielded
                    services.cancel()
    finally:
        socket.close()


class Endpoint:
    """All links of one device. Made by `open_endpoint`.

    Attributes:
        time: this device's time.
    """

    def __init__(
        self,
        *,
        key: DeviceKey,
        socket: DatagramSocket,
        authorise: Authorise,
        rng: RandomSource,
        max_datagram_size: int = MAX_DATAGRAM_SIZE,
        time: SteadyTime,
        lanes: Lanes | None = None,
    ) -> None:
        self.time = time
        self._key = key
        self._socket = socket
        self._authorise = authorise
        self._incarnation = secrets.token_bytes(INCARNATION_SIZE)
        self._lanes = lanes
        self._accepting = AcceptingSettings(key)
        self._admission = Admission(VERSIONS)
        self._multiplexer = Multiplexer(socket, on_probe=self._receive_probe, on_stranger=self._receive_stranger)
        self._probes = PathProbes(
            rng,
            max_datagram_size=max_datagram_size,
            send=self._multiplexer.send_unreliably,
            rearm=self._multiplexer.arm,
        )
        self._half_open: HalfOpen[Connection] = HalfOpen(self._probes.is_answered_by)
        self._links: dict[Connection, Link] = {}
        self._accepted, self._acceptable = trio.open_memory_channel[Link](MAX_UNACCEPTED_LINKS)
        self._is_closing = False
        self._unknown = self._not_accepted = self._displaced = 0

    @property
    def address(self) -> SocketAddress:
        """Where the socket is bound."""
        return self._socket.address

    def candidates(self) -> tuple[Address, ...]:
        """Return the addresses at which others may reach us, as far as this host knows them."""
        return tuple(Address(host=host, port=port) for host, port in host_addresses(self.address))

    async def dial(
        self,
        address: SocketAddress,
        *,
        peer_key: PublicKey,
        hello_purpose: Purpose,
        pool_id: PoolId,
        credentials: tuple[bytes, ...],
        datagram_size: int = MIN_DATAGRAM_SIZE,
    ) -> Link:
        """Return a link to the device that holds `peer_key`; both sides are proven. When cancelled, it is given up.

        Args:
            address: host name or numeric host, and port.
            datagram_size: what the path carries, as `probe` found it.

        Raises:
            Unreachable: no answer within `DIAL_TIMEOUT_S`.
            Refused: the other side said no; `code` is its word for it.
            ProtocolError: somebody else answered, or one that does not keep to the protocol.
        """
        failure: PoolnetError | None = None
        with trio.move_on_after(DIAL_TIMEOUT_S) as scope:
            targets = (await resolve(address))[:_MAX_DIALLED_ADDRESSES]
            for index, target in enumerate(targets):
                connection = self._connect(target, peer_key, (hello_purpose, pool_id, credentials), datagram_size)
                share_s = (scope.deadline - trio.current_time()) / (len(targets) - index)
                try:
                    with trio.move_on_after(share_s):
                        await connection.settled.wait()
                except BaseException:  # cancelled: maybe just when the link came up, which nobody would ever close
                    connection.abandon()
                    raise
                if not connection.settled.is_set():
                    connection.abandon()
                if connection.link is not None:
                    return connection.link
                failure = connection.failure
        raise failure or Unreachable(f"no answer from {address[0]} port {address[1]}")

    async def probe(self, *, session: bytes, key: bytes, candidates: Sequence[Address], timeout_s: float) -> Path:
        """Return the best path to the other side, which must probe us at the same time. When cancelled, it is given up.

        Args:
            session: 8 bytes that both sides know.
            key: 32 secret bytes that both sides know.
            candidates: where the other side may be.
            timeout_s: when to give up.

        Raises:
            Unreachable: none of the candidates answered, and nobody came from elsewhere; or the session is being
                probed already.
        """
        addresses = tuple((candidate.host, candidate.port) for candidate in candidates)
        return await self._probes.search(session, key, addresses, timeout_s)

    async def accept(self) -> Link:
        """Return the next incoming link; its peer is proven and was authorised."""
        return await self._acceptable.receive()

    def statistics(self) -> EndpointStatistics:
        """Return counts."""
        return EndpointStatistics(
            udp=self._socket.statistics(),
            tcp=ListenerStatistics() if self._lanes is None else self._lanes.statistics(),
            connections=self._multiplexer.connection_count,
            links=sum(not link.is_closed for link in self._links.values()),
            half_open=len(self._half_open),
            displaced=self._displaced,
            retries_sent=self._admission.retries,
            unknown_datagrams=self._unknown,
            probe_packets_dropped=self._probes.dropped,
            links_not_accepted=self._not_accepted,
        )

    # --- for open_endpoint ------------------------------------------------------------------------------------------

    async def run(self, services: trio.CancelScope) -> None:
        """Move datagrams until `services` is cancelled."""
        with services:
            await self._multiplexer.run()

    async def close_links(self) -> None:
        """Say Goodbye on every link and give up what is not a link yet; waits at most `CLOSE_TIMEOUT_S`."""
        self._is_closing = True
        for connection in self._half_open.holders():
            connection.abandon()
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for link in list(self._links.values()):
                    nursery.start_soon(link.aclose)

    # --- for connections --------------------------------------------------------------------------------------------

    def route(self, connection_id: bytes, connection: Connection) -> None:
        """Give datagrams with this connection ID to `connection`."""
        self._multiplexer.route(connection_id, connection)

    def unroute(self, connection_id: bytes) -> None:
        """Stop that."""
        self._multiplexer.unroute(connection_id)

    def touch(self, connection: Connection) -> None:
        """Have a connection collected soon."""
        self._multiplexer.touch(connection)

    def arm(self, connection: Connection) -> None:
        """Take note of a deadline that may be earlier than before."""
        self._multiplexer.arm(connection)

    def flush(self, connection: Connection) -> None:
        """Collect a connection now."""
        self._multiplexer.flush(connection)

    def proven(self, connection: Connection, link: Link) -> None:
        """Take a link that just came up."""
        self._half_open.proven(connection, connection.remote_address, trio.current_time())
        self._links[connection] = link
        if self._lanes is not None and link.purpose is Purpose.POOL and not self._is_closing:
            self._lanes.keep(link)
        if self._is_closing:
            link.close_now()
        elif not connection.is_dialler:
            try:
                self._accepted.send_nowait(link)
            except trio.WouldBlock:
                self._not_accepted += 1
                link.close_now(code="busy", reason="too many links wait to be accepted")

    def ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self._half_open.ended(connection, trio.current_time())
        self._links.pop(connection, None)
        self._multiplexer.remove(connection)

    # --- new connections --------------------------------------------------------------------------------------------

    def _connect(
        self,
        address: SocketAddress,
        peer_key: PublicKey,
        hello: tuple[Purpose, PoolId, tuple[bytes, ...]],
        datagram_size: int,
    ) -> Connection:
        now = trio.current_time()
        size = max(MIN_DATAGRAM_SIZE, min(datagram_size, MAX_DATAGRAM_SIZE))
        quic = BoundedQuicConnection(configuration=dialling_settings(peer_key, datagram_size=size))
        nonce = secrets.token_bytes(NONCE_SIZE)
        auth = LinkAuth(self._key, nonce=nonce, incarnation=self._incarnation, now=now, hello=hello, peer_key=peer_key)
        connection = Connection(quic, auth, self, is_dialler=True, address=address)
        quic.connect(address, now)
        self._multiplexer.add(connection, quic.host_cid)
        return connection

    def _receive_probe(self, data: bytes, address: SocketAddress, now: float) -> None:
        self._probes.receive(data, address, now)

    def _receive_stranger(self, data: bytes, address: SocketAddress, now: float) -> Connection | None:
        """Judge a datagram of no known connection."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_SIZE)
        except ValueError:
            self._unknown += 1
            return None
        verdict = self._admission.judge(header, size=len(data), address=address, half_open=self._half_open, now=now)
        if isinstance(verdict, Admit) and not self._is_closing:
            return self._admit(verdict, header.destination_cid, address, now)
        if isinstance(verdict, Reply):
            self._multiplexer.send_unreliably([(verdict.data, address)])
        else:
            self._unknown += 1
        return None

    def _admit(self, verdict: Admit, destination_id: bytes, address: SocketAddress, now: float) -> Connection:
        quic = BoundedQuicConnection(
            configuration=self._accepting.make(datagram_size=self._probes.datagram_size_for(address)),
            original_destination_connection_id=verdict.original_destination_id,
            retry_source_connection_id=verdict.retry_source_id,
        )
        nonce = secrets.token_bytes(NONCE_SIZE)
        auth = LinkAuth(self._key, nonce=nonce, incarnation=self._incarnation, now=now, authorise=self._authorise)
        connection = Connection(quic, auth, self, is_dialler=False, address=address)
        made_room = self._half_open.take(connection, address, now)
        if made_room is not None:
            self._displaced += 1
            made_room.forget()
        self._multiplexer.add(connection, destination_id, quic.host_cid)
        return connection
