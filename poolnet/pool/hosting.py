"""The sync server that a device runs for a pool of its own while it is joined."""

from collections.abc import AsyncIterator, Container
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs

from poolnet.errors import AddressInUse
from poolnet.identity.invite_link import ServerAddress
from poolnet.limits import DEFAULT_SERVER_PORT
from poolnet.net.udp import OpenSocket
from poolnet.pool.records import HostedServer, PoolRecord
from poolnet.server import SyncServer, open_sync_server
from poolnet.steady_time import WallClock

#: How often the system is asked for a free port before none is believed to be there.
_ARBITRARY_PORTS = 3
#: Where a server that listens on all addresses is reached from the same machine.
_LOCAL_HOSTS = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - compared with, not listened on


async def choose_hosting(
    record: PoolRecord,
    *,
    listen_host: str,
    public_host: str,
    taken_ports: Container[int],
    open_socket: OpenSocket,
) -> PoolRecord:
    """Choose a port for a pool's own sync server and make its key; return the record with both in it.

    Args:
        record: the pool.
        listen_host: where the server will listen.
        public_host: how others reach it.
        taken_ports: ports of other pools' servers, which may not be listening at the moment.
        open_socket: makes UDP sockets.

    Raises:
        AddressInUse: not even an arbitrary port is free.
    """
    for port in (DEFAULT_SERVER_PORT, *[0] * _ARBITRARY_PORTS):
        if port in taken_ports:
            continue
        hosted = HostedServer(listen_host=listen_host, port=port, public_host=public_host)
        try:
            async with _open(record, hosted, open_socket) as server:
                address = server.address
        except AddressInUse:
            continue
        if address.port in taken_ports:
            continue
        return attrs.evolve(record, servers=(address,), hosted=attrs.evolve(hosted, port=address.port))
    raise AddressInUse("no UDP port is free for the pool's sync server; end a program that uses one")


@asynccontextmanager
async def open_servers(
    record: PoolRecord, *, open_socket: OpenSocket, wall_clock: WallClock | None = None
) -> AsyncIterator[tuple[ServerAddress, ...]]:
    """Run the pool's own sync server, if it has one; yield where its servers are to be dialled from here.

    Raises:
        AddressInUse: another program has taken its port.
        StoreError: its database cannot be used.
    """
    if record.hosted is None:
        yield record.servers
        return
    async with _open(record, record.hosted, open_socket, wall_clock) as server:
        local_host = _LOCAL_HOSTS.get(record.hosted.listen_host, record.hosted.listen_host)
        yield (attrs.evolve(server.address, host=local_host), *record.servers[1:])


def _open(
    record: PoolRecord, hosted: HostedServer, open_socket: OpenSocket, wall_clock: WallClock | None = None
) -> AbstractAsyncContextManager[SyncServer]:
    return open_sync_server(
        data_dir=record.server_directory,
        listen=(hosted.listen_host, hosted.port),
        public_host=hosted.public_host,
        allowed_pools=frozenset({record.pool_id}),
        open_socket=open_socket,
        wall_clock=wall_clock,
    )
