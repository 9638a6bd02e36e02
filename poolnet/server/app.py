"""The sync server as a service: an endpoint, a store, and the machine between them.

No policy here: links become clients of `ServerCore`, its effects are performed in order. One event at a time: what it
leads to is stored before the next is looked at, and before anybody hears of it. A client's next frame is taken only
when its last one was dealt with: when a link is flushed, the server has done, and stored, what it was told. Of what it
sends meanwhile no more is let in than `QUIC_CLIENT_WINDOW`.
"""

import itertools
import logging
import random
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import cast

import attrs
import trio

from poolnet.errors import LinkClosed, StoreError
from poolnet.errors import Refused as RefusedError
from poolnet.identity.invite_link import ServerAddress
from poolnet.identity.keys import DeviceKey
from poolnet.ids import PoolId, short_id
from poolnet.limits import (
    CLIENT_STALL_S,
    CLOCK_CHECK_INTERVAL_S,
    CLOSE_TIMEOUT_S,
    DEFAULT_SERVER_PORT,
    MAX_CLIENT_BACKLOG,
    MAX_UNACCEPTED_LINKS,
)
from poolnet.net.endpoint import Endpoint, EndpointStatistics, open_endpoint
from poolnet.net.link import Link
from poolnet.net.udp import OpenSocket, open_udp_socket
from poolnet.server.core import CoreStatistics, ServerCore
from poolnet.server.events import (
    ClientConnected,
    ClientFrame,
    ClientGone,
    CloseClient,
    FrameReceived,
    LoadPool,
    PoolLoaded,
    SaveEffect,
    SendFrame,
    ServerEffect,
    ServerEvent,
    ServerFrame,
    StoreFailed,
)
from poolnet.server.store import PoolStore, open_pool_store
from poolnet.server.wanted import ClientId
from poolnet.service import open_service_nursery
from poolnet.steady_time import SteadyTime, WallClock
from poolnet.storage.home import open_home
from poolnet.storage.sqlite_worker import SqliteStatistics
from poolnet.wire.link_frames import Hello, Purpose
from poolnet.wire.sync_frames import Address

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """Counts since the start; `peak_backlog` is the most frames that waited for one client."""

    core: CoreStatistics
    store: SqliteStatistics
    endpoint: EndpointStatistics
    peak_backlog: int
    too_slow: int


class _Session:
    """A client's link and the frames that wait for it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.outbox, self._queue = trio.open_memory_channel[ServerFrame](MAX_CLIENT_BACKLOG)
        self._goodbye = ("done", "")
        self._patience = trio.CancelScope()

    def close(self, code: str, reason: str) -> None:
        """Close the link when what waits is sent, or after `CLOSE_TIMEOUT_S`."""
        self._goodbye = (code, reason)
        self._patience.deadline = trio.current_time() + CLOSE_TIMEOUT_S
        self.outbox.close()

    async def write(self) -> None:
        """Send what comes into the outbox until that is closed, then close the link.

        Raises:
            trio.TooSlowError: the client took nothing for `CLIENT_STALL_S`.
        """
        with self._patience:
            try:
                async for frame in self._queue:
                    with trio.fail_after(CLIENT_STALL_S):
                        await self.link.send_frame(frame)
            except LinkClosed:
                return
        code, reason = self._goodbye
        await self.link.aclose(code=code, reason=reason)


class SyncServer:
    """A running sync server. Made by `open_sync_server`.

    Attributes:
        address: what nodes need to find and to recognise it.
    """

    def __init__(self, endpoint: Endpoint, store: PoolStore, *, address: ServerAddress) -> None:
        self.address = address
        self._endpoint = endpoint
        self._store = store
        self._core = ServerCore(random.SystemRandom(), now=trio.current_time())
        self._sessions: dict[ClientId, _Session] = {}
        self._numbers = itertools.count()
        self._turn = trio.Lock()
        #: Links that were accepted and that the machine, which counts clients, has not heard of.
        self._entrance = trio.Semaphore(MAX_UNACCEPTED_LINKS)
        self._deadline_moved = trio.Event()
        self._peak_backlog = 0
        self._too_slow = 0

    def statistics(self) -> ServerStatistics:
        """Return counts."""
        return ServerStatistics(
            core=self._core.statistics(),
            store=self._store.statistics(),
            endpoint=self._endpoint.statistics(),
            peak_backlog=self._peak_backlog,
            too_slow=self._too_slow,
        )

    async def run(self) -> None:
        """Serve until cancelled. For `open_sync_server`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timer)
            nursery.start_soon(self._keep_time)
            while True:
                await self._entrance.acquire()
                nursery.start_soon(self._serve, await self._endpoint.accept())

    async def _serve(self, link: Link) -> None:
        """Turn a link into a client until it ends. When cancelled the roster stays as it is, for the next start."""
        client = ClientId(next(self._numbers))
        session = self._sessions[client] = _Session(link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, session)
            await self._read(client, link)
            session.outbox.close()
        del self._sessions[client]
        await self._feed(ClientGone(client=client))

    async def _write(self, session: _Session) -> None:
        try:
            await session.write()
        except trio.TooSlowError:
            self._end_too_slow(session)

    def _end_too_slow(self, session: _Session) -> None:
        self._too_slow += 1
        log.warning("device %s is too slow; its link is closed", short_id(session.link.peer))
        session.link.close_now(code="too_slow", reason="too much was waiting to be sent")

    async def _read(self, client: ClientId, link: Link) -> None:
        host, port = link.remote_address
        address = Address(host=host, port=port)
        await self._feed(ClientConnected(client=client, device=link.peer, pool_id=link.pool_id, address=address))
        self._entrance.release()
        try:
            while True:
                frame = cast(ClientFrame, await link.receive_frame())  # a link for Purpose.SYNC brings no others
                await self._feed(FrameReceived(client=client, frame=frame, unix_ms=self._endpoint.time.now_ms()))
        except LinkClosed:
            return

    async def _feed(self, event: ServerEvent) -> None:
        """Hand an event to the machine and do what it says."""
        async with self._turn:
            await self._perform(self._core.handle(event, trio.current_time()))
            self._deadline_moved.set()

    async def _run_timer(self) -> None:
        while True:
            deadline = self._core.next_deadline()
            self._deadline_moved = trio.Event()
            with trio.move_on_at(inf if deadline is None else deadline):
                await self._deadline_moved.wait()
            async with self._turn:
                await self._perform(self._core.tick(trio.current_time()))

    async def _keep_time(self) -> None:
        """Follow this machine's clock, also when it is set: there are no others that a server asks."""
        while True:
            await trio.sleep(CLOCK_CHECK_INTERVAL_S)
            self._endpoint.time.adopt_system_clock()

    async def _perform(self, effects: Sequence[ServerEffect]) -> None:
        """Store, then send: what is said has been stored."""
        saves = [effect for effect in effects if isinstance(effect, SaveEffect)]
        if saves:
            try:
                await self._store.save(saves)
            except StoreError as exc:
                log.error("%s", exc)
                await self._give_up(saves, effects)
                return
        for effect in effects:
            match effect:
                case SendFrame(client, frame):
                    self._send(client, frame)
                case CloseClient(client, code, reason):
                    self._close(client, code, reason)
                case LoadPool():
                    await self._load(effect)

    async def _load(self, effect: LoadPool) -> None:
        event: ServerEvent
        try:
            event = PoolLoaded(pool_id=effect.pool_id, stored=await self._store.load(effect.pool_id))
        except StoreError as exc:
            log.error("%s", exc)
            event = StoreFailed(pool_id=effect.pool_id)
        await self._perform(self._core.handle(event, trio.current_time()))

    async def _give_up(self, saves: Sequence[SaveEffect], effects: Sequence[ServerEffect]) -> None:
        """Nothing was stored, so nobody is told: the clients of these pools have to come back."""
        for effect in effects:
            if isinstance(effect, CloseClient):
                self._close(effect.client, effect.code, effect.reason)
        for pool_id in {save.pool_id for save in saves}:
            await self._perform(self._core.handle(StoreFailed(pool_id=pool_id), trio.current_time()))

    def _send(self, client: ClientId, frame: ServerFrame) -> None:
        session = self._sessions.get(client)
        if session is None:
            return
        try:
            session.outbox.send_nowait(frame)
        except trio.WouldBlock:
            self._end_too_slow(session)
        except trio.ClosedResourceError:
            return
        self._peak_backlog = max(self._peak_backlog, session.outbox.statistics().current_buffer_used)

    def _close(self, client: ClientId, code: str, reason: str) -> None:
        session = self._sessions.get(client)
        if session is not None:
            if code == "misbehaved":
                log.info("device %s is out for a while: %s", short_id(session.link.peer), reason)
            session.close(code, reason)


@asynccontextmanager
async def open_sync_server(
    *,
    data_dir: Path,
    listen: tuple[str, int] = ("::", DEFAULT_SERVER_PORT),
    public_host: str | None = None,
    allowed_pools: Set[PoolId] | None = None,
    open_socket: OpenSocket = open_udp_socket,
    wall_clock: WallClock | None = None,
) -> AsyncIterator[SyncServer]:
    """Run a sync server until the block ends. Pools that are attached go on without it, and it goes on where it was.

    Args:
        data_dir: where its key, its lock and its database are; made if missing. One server at a time uses it.
        listen: address and UDP port; ``"::"`` is every address of this machine, port 0 any that is free.
        public_host: the name or address in `SyncServer.address`, if it is not this machine's own.
        allowed_pools: serve only these, and tell others that they are not known here; without it, any.
        open_socket: makes the UDP socket; that of a simulated network in tests.
        wall_clock: the system's clock; another one in tests.

    Raises:
        AddressInUse: another program listens there.
        StoreLocked: another server uses `data_dir`.
        StoreError: `data_dir` cannot be used.

    >>> async def example(data_dir):
    ...     async with poolnet.open_sync_server(data_dir=data_dir, listen=("127.0.0.1", 0)) as server:
    ...         print(str(server.address).startswith("poolnet://127.0.0.1:"))
    ...         print(server.statistics().core.attached)
    >>> trio.run(example, data_dir)
    True
    0
    """
    async with open_home(data_dir) as home, open_pool_store(home.path / "server.db") as store:
        key = DeviceKey.from_seed(home.seed)
        authorise = partial(_authorise, allowed_pools)
        async with (
            open_endpoint(
                key=key,
                listen=listen,
                authorise=authorise,
                rng=random.SystemRandom(),
                open_socket=open_socket,
                time=SteadyTime(wall_clock),
                tcp=False,  # no chunks here
            ) as endpoint,
            open_service_nursery() as nursery,
        ):
            address = ServerAddress(host=_host(endpoint, public_host), port=endpoint.address[1], key=key.public_key)
            server = SyncServer(endpoint, store, address=address)
            nursery.start_soon(server.run)
            yield server


def _authorise(allowed_pools: Set[PoolId] | None, hello: Hello) -> tuple[bytes, ...]:
    """Let in whoever wants to attach to some pool; who may is judged by what it shows then."""
    if hello.purpose != Purpose.SYNC:
        raise RefusedError("this is a sync server, not a member of a pool", code="wrong_purpose")
    if allowed_pools is not None and hello.pool_id not in allowed_pools:
        raise RefusedError("this server does not know that pool; ask for a new invite", code="unknown_pool")
    return ()


def _host(endpoint: Endpoint, public_host: str | None) -> str:
    """Return the address to tell others: the one given, or the one bound, or this machine's first."""
    if public_host is not None:
        return public_host
    host = endpoint.address[0]
    if host not in ("::", "0.0.0.0"):  # noqa: S104 - compared with, not bound to
        return host
    return endpoint.candidates()[0].host
