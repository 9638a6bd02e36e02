"""This device: its key, its UDP socket, and the pools it is in.

`open_node` holds a home directory (one process at a time) and one endpoint. Pools are made with `create_pool`, entered
with `join`, and share the endpoint (joined_pools.py).
"""

import logging
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from poolnet.clock import Hlc
from poolnet.errors import LocalError, Refused, StoreError, UnknownPool, Unreachable, WireError
from poolnet.file_manager import FileManager, OfferInfo, open_file_manager
from poolnet.identity.invite_link import SCHEME, InviteLink, ServerAddress, parse_invite_link_untrusted
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Role, Statement
from poolnet.identity.user import SignedAddDevice, decode_add_device_untrusted, encode_add_device, found_user
from poolnet.ids import ID_SIZE, DeviceId, MsgId, PoolId
from poolnet.joined_pools import JoinedPools
from poolnet.limits import DEFAULT_CACHE_SIZE, DEFAULT_INVITE_LIFETIME_S, MAX_DATAGRAM_SIZE, MEDIA_CACHE_SIZE
from poolnet.message_db import open_message_db
from poolnet.net.endpoint import Endpoint, EndpointStatistics, open_endpoint
from poolnet.net.udp import OpenSocket, open_udp_socket
from poolnet.pool.history import replay_offers
from poolnet.pool.hosting import choose_hosting
from poolnet.pool.own_statements import OwnStatements
from poolnet.pool.records import PoolRecord, PoolRecords
from poolnet.pool_net import PoolNet, check_display_name
from poolnet.pool_session import PoolSessions, device_name
from poolnet.service import open_service_nursery
from poolnet.steady_time import SteadyTime, WallClock
from poolnet.storage.home import Home, open_home
from poolnet.views.entries import HistoryEntry
from poolnet.views.reader import HistoryReader

logger = logging.getLogger(__name__)

#: How long a first join, or the registration of a new pool or invite, waits for a server.
ATTACH_WAIT_S = 12.0
#: How long leaving for good waits for one.
_LEAVE_WAIT_S = 5.0


@attrs.frozen(kw_only=True)
class PoolInfo:
    """A pool of this device. `role` is this device's: "member" or "admin"."""

    pool_id: PoolId
    name: str
    role: str
    servers: tuple[ServerAddress, ...]
    hosts_server: bool


@attrs.frozen(kw_only=True)
class NodeStatistics:
    """The endpoint's counts, and how many pools are joined."""

    joined_pools: int
    endpoint: EndpointStatistics


class Node:
    """A device. Made by `open_node`.

    Attributes:
        home: its directory.
        device_id: who it is, in every pool.
    """

    def __init__(
        self,
        *,
        home: Home,
        key: DeviceKey,
        user: SignedAddDevice,
        endpoint: Endpoint,
        joined: JoinedPools,
        listen_host: str,
        open_socket: OpenSocket,
        wall_clock: WallClock,
        time: SteadyTime,
        cache_size_bytes: int,
        media_cache_bytes: int,
    ) -> None:
        self.home: Path = home.path
        self.device_id: DeviceId = key.device_id
        self._home = home
        self._own = OwnStatements(key=key, user=user)
        self._endpoint = endpoint
        self._joined = joined
        self._open: set[PoolId] = set()  # joined, or just being entered or left
        self._listen_host = listen_host
        self._open_socket = open_socket
        self._time = time
        self._records = PoolRecords(home)
        self._sessions = PoolSessions(
            key=key,
            endpoint=endpoint,
            records=self._records,
            open_socket=open_socket,
            wall_clock=wall_clock,
            time=time,
            rng=random.SystemRandom(),
            cache_size_bytes=cache_size_bytes,
            media_cache_bytes=media_cache_bytes,
        )
        self._rng = random.SystemRandom()

    # --- pools of this device -----------------------------------------------------------------------------------

    def pools(self) -> list[PoolInfo]:
        """Return the pools of this device, by name.

        Raises:
            StoreError: a record cannot be read.
        """
        return [self._info(record) for record in self._records.all()]

    def find_pool(self, text: str) -> PoolInfo:
        """Return the pool of that name, or whose id begins so.

        Raises:
            UnknownPool: there is none, or several.
        """
        return self._info(self._records.find(text))

    async def create_pool(self, name: str, *, server: ServerAddress | None = None) -> InviteLink:
        """Make a pool with this device as its founder, and return a first invite.

        Args:
            name: 1 to `MAX_NAME_CHARS` characters.
            server: the sync server that places its nodes. Without it this device runs one itself while it is joined.

        Raises:
            TextTooLong: the name is empty or too long.
            LocalError: this device has a pool of that name.
            Unreachable, Refused: `server` did not answer, or said no; nothing is left behind.
        """
        name = name.strip()
        if any(record.name == name for record in self._records.all()):
            raise LocalError(f"there is a pool {name!r} on this device already; choose another name, or leave that one")
        genesis = self._own.genesis(name, unix_ms=self._time.now_ms())
        membership = Membership(genesis.pool_id)
        membership.add(genesis)
        directory = self._home.pool_directory(genesis.pool_id)
        record = PoolRecord(pool_id=genesis.pool_id, name=name, servers=(), directory=directory)
        try:
            if server is None:
                record = await choose_hosting(
                    record,
                    listen_host=self._listen_host,
                    public_host=self._endpoint.candidates()[0].host,
                    taken_ports={other.hosted.port for other in self._records.all() if other.hosted is not None},
                    open_socket=self._open_socket,
                )
            else:
                record = attrs.evolve(record, servers=(server,))
            await self._records.save(record, membership)
            return await self.invite(self._info(record))
        except BaseException:  # cancelled as well: a pool that nobody was told of is not to stay
            with trio.CancelScope(shield=True):
                await self._home.forget_pool(record.pool_id)
            raise

    async def invite(
        self, pool: PoolInfo, *, uses: int | None = None, expires_s: float = DEFAULT_INVITE_LIFETIME_S
    ) -> InviteLink:
        """Make another invite into a pool, and give it to the pool's server.

        Args:
            uses: how many devices may join by it; None for any number.
            expires_s: for how long it is good.

        Raises:
            LocalError: `uses` or `expires_s` make no sense.
            UnknownPool: the pool is not on this device.
            Unreachable, Refused: the pool is not joined now, and its server did not answer, or said no.
        """
        if (uses is not None and not 1 <= uses < 2**32) or not expires_s > 0:
            raise LocalError("an invite is for at least one use and a time that lies ahead")
        record = self._record(pool.pool_id)
        secret = secrets.token_bytes(ID_SIZE)
        link = InviteLink(servers=record.servers, pool_id=record.pool_id, secret=secret)
        membership = self._records.membership(record)
        statement = self._own.invite(membership, link, uses=uses, expires_s=expires_s, unix_ms=self._now_ms(record))
        await self._add_statement(record, statement)
        return link

    async def leave_pool(self, pool: PoolInfo) -> None:
        """Leave a pool for good, and forget its history and offers on this device. Files that were fetched stay.

        The others learn that this device left if a server of the pool answers within a few seconds; if not, it stays in
        their lists of members, as one that is never there. A new invite leads in again.

        Raises:
            UnknownPool: the pool is not on this device.
            LocalError: it is joined at the moment.
        """
        record = self._record(pool.pool_id)
        if record.pool_id in self._open:
            raise LocalError(f"{record.name!r} is joined; end that first")
        if record.hosted is None:
            with trio.move_on_after(_LEAVE_WAIT_S):
                await self._state_leaving(record)
        await self._home.forget_pool(record.pool_id)

    async def _state_leaving(self, record: PoolRecord) -> None:
        last = await self._last_hlc(record)
        membership = self._records.membership(record)
        statement = self._own.leaving(membership, last=last, unix_ms=self._now_ms(record))
        try:
            await self._add_statement(record, statement)
        except (Unreachable, Refused) as exc:
            logger.info("the others were not told that this device left: %s", exc)

    async def _last_hlc(self, record: PoolRecord) -> Hlc:
        try:
            async with open_message_db(record.database, record.pool_id) as db:
                return await db.last_hlc()
        except StoreError as exc:  # the pool is to be forgotten all the same
            logger.warning("the history cannot be read: %s", exc)
            return Hlc(0)

    @asynccontextmanager
    async def open_history(self, pool: PoolInfo) -> AsyncIterator[HistoryReader]:
        """Open the history of a pool on this device for reading, joined or not.

        Raises:
            UnknownPool: the pool is not on this device.
            StoreError: it cannot be read.
        """
        joined = self._joined.get(pool.pool_id)
        if joined is not None:
            yield joined.history
            return
        record = self._record(pool.pool_id)
        membership = self._records.membership(record)
        async with open_message_db(record.database, record.pool_id, was_admin=membership.was_admin) as db:
            yield HistoryReader(db, was_admin=membership.was_admin)

    async def history(self, pool: PoolInfo, *, limit: int, before: MsgId | None = None) -> list[HistoryEntry]:
        """Return the newest `limit` entries of a pool's history (before a message), oldest first; joined or not.

        Raises:
            UnknownPool: the pool is not on this device.
            UnknownMessage: `before` is not in its history.
        """
        async with self.open_history(pool) as reader:
            return await (reader.latest(limit) if before is None else reader.before(before, limit))

    @asynccontextmanager
    async def open_files(self, pool: PoolInfo) -> AsyncIterator[FileManager]:
        """Open the files of a pool on this device, joined or not; where it is not joined, nothing moves.

        Raises:
            UnknownPool: the pool is not on this device.
            StoreError: they cannot be read.
        """
        joined = self._joined.get(pool.pool_id)
        if joined is not None:
            yield joined.files
            return
        record = self._record(pool.pool_id)
        async with (
            open_message_db(record.database, record.pool_id) as db,
            open_file_manager(record.files_directory, rng=self._rng, cache_size_bytes=0, media_cache_bytes=0) as files,
        ):
            await replay_offers(db, files)
            yield files

    async def offers(self, pool: PoolInfo) -> list[OfferInfo]:
        """Return the files on offer in a pool as far as this device knows; joined or not.

        Raises:
            UnknownPool: the pool is not on this device.
        """
        async with self.open_files(pool) as files:
            return files.offers()

    # --- a joined pool ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def join(self, target: PoolInfo | InviteLink | str, *, name: str | None = None) -> AsyncIterator[PoolNet]:
        """Enter a pool and stay until the block ends.

        Args:
            target: a pool of this device (or its name), or an invite (or its text), which makes this device a member.
            name: how others see this device from now on; as last time if it is not given.

        Raises:
            InvalidInvite: the invite's text is malformed.
            UnknownPool: no such pool on this device.
            TextTooLong: `name` is empty or too long.
            Unreachable, Refused: with an invite into a new pool, no server answered, or it said no; nothing is left
                behind. A pool of this device is entered whether its server is there or not.
            LocalError: it is joined already.
        """
        display_name = None if name is None else check_display_name(name)
        record, membership, join = self._enter(target)
        is_new = self._records.get(record.pool_id) is None
        if record.pool_id in self._open:
            raise LocalError(f"{record.name or 'that pool'!r} is joined already, or just being entered")
        try:
            async with self._open_pool(record, membership, join=join, display_name=display_name) as pool:
                if is_new:
                    await pool.wait_attached(ATTACH_WAIT_S)
                    record = attrs.evolve(record, name=membership.name)
                    with trio.CancelScope(shield=True):  # it is a member now, and is to know that
                        await self._records.save(record, membership)
                    is_new = False
                await pool.take_name()
                await self._records.save(attrs.evolve(record, display_name=pool.display_name), membership)
                yield pool
        finally:
            if is_new:
                with trio.CancelScope(shield=True):
                    await self._home.forget_pool(record.pool_id)

    def statistics(self) -> NodeStatistics:
        """Return counts since the node was opened."""
        return NodeStatistics(joined_pools=len(self._joined), endpoint=self._endpoint.statistics())

    # --- inside -------------------------------------------------------------------------------------------------

    def _enter(self, target: PoolInfo | InviteLink | str) -> tuple[PoolRecord, Membership, Statement | None]:
        """Return the record and membership to enter with, and the Join of a device that is not a member yet."""
        if isinstance(target, str):
            is_link = target.strip().lower().startswith(SCHEME)
            target = parse_invite_link_untrusted(target) if is_link else self.find_pool(target)
        record = self._records.get(target.pool_id)
        if record is None:
            if isinstance(target, PoolInfo):
                raise UnknownPool(f"{target.name!r} is not on this device any more")
            directory = self._home.pool_directory(target.pool_id)
            record = PoolRecord(pool_id=target.pool_id, name="", servers=target.servers, directory=directory)
        membership = self._records.membership(record)
        join = None
        if isinstance(target, InviteLink) and not membership.is_member(self.device_id):
            join = self._own.join(target, unix_ms=self._time.now_ms())
        return record, membership, join

    @asynccontextmanager
    async def _open_pool(
        self,
        record: PoolRecord,
        membership: Membership,
        *,
        join: Statement | None = None,
        display_name: str | None = None,
    ) -> AsyncIterator[PoolNet]:
        if record.pool_id in self._open:
            raise LocalError(f"{record.name!r} is just being entered; try again when that is done")
        self._open.add(record.pool_id)
        try:
            async with self._sessions.open(record, membership, join=join, display_name=display_name) as pool:
                with self._joined.entered(pool):
                    yield pool
        finally:
            self._open.remove(record.pool_id)

    async def _add_statement(self, record: PoolRecord, statement: Statement) -> None:
        """Put a statement of this device into a pool, joined or not."""
        joined = self._joined.get(record.pool_id)
        if joined is not None:
            await joined.add_statement(statement)
            return
        membership = self._records.membership(record)
        if record.hosted is None:  # its server has to know it before anybody can use it
            async with self._open_pool(record, membership) as pool:
                await pool.wait_attached(ATTACH_WAIT_S)
                await pool.add_statement(statement)
        else:
            membership.add(statement)
            await self._records.save(record, membership)

    def _now_ms(self, record: PoolRecord) -> int:
        """Return what time it is, as far as this device knows: others are asked where a pool is joined."""
        joined = self._joined.get(record.pool_id)
        return self._time.now_ms() if joined is None else joined.unix_ms

    def _record(self, pool_id: PoolId) -> PoolRecord:
        record = self._records.get(pool_id)
        if record is None:
            raise UnknownPool("that pool is not on this device any more")
        return record

    def _info(self, record: PoolRecord) -> PoolInfo:
        membership = self._records.membership(record)
        role = membership.role_of(self.device_id)
        return PoolInfo(
            pool_id=record.pool_id,
            name=record.name,
            role=(role or Role.MEMBER).name.lower(),
            servers=record.servers,
            hosts_server=record.hosted is not None,
        )


@asynccontextmanager
async def open_node(
    home: Path | None = None,
    *,
    listen: tuple[str, int] = ("::", 0),
    max_datagram_size: int = MAX_DATAGRAM_SIZE,
    tcp: bool = True,
    cache_size_bytes: int = DEFAULT_CACHE_SIZE,
    media_cache_bytes: int = MEDIA_CACHE_SIZE,
    open_socket: OpenSocket = open_udp_socket,
    wall_clock: WallClock | None = None,
) -> AsyncIterator[Node]:
    """Open this device.

    Args:
        home: its directory, made if missing; without it ``$POOLNET_HOME`` or the system's place for user data.
        listen: where its UDP socket is bound; "::" takes IPv4 as well.
        max_datagram_size: never send larger ones, whatever a path carries; for paths that lie about it.
        tcp: whether chunks may travel over TCP where it can be had; everything else is QUIC always.
        cache_size_bytes: what each pool may hold on disk of files on their way to others; 0 relays nothing.
        media_cache_bytes: what pictures of others may take in each pool; 0 fetches none by itself.
        open_socket: makes UDP sockets; that of a simulated network in tests.
        wall_clock: the system's clock; a wrong one in tests.

    Raises:
        StoreLocked: another process uses that home.
        StoreError: the home cannot be read or written.
        AddressInUse: another program listens there.

    Example:
        ```python
        async def main(home):
            async with poolnet.open_node(home, listen=("127.0.0.1", 0)) as node:
                invite = await node.create_pool("garden")
                async with node.join("garden", name="Ada") as pool:
                    await pool.send("hello")
                print([entry.text for entry in await node.history(node.find_pool("garden"), limit=10)])
        ```
    """
    wall_clock = WallClock() if wall_clock is None else wall_clock
    async with open_home(home) as opened:
        key = DeviceKey.from_seed(opened.seed)
        time = SteadyTime(wall_clock)
        user = await _load_user(opened, key, time)
        joined = JoinedPools()
        async with (
            open_service_nursery() as nursery,
            open_endpoint(
                key=key,
                listen=listen,
                authorise=joined.authorise,
                rng=random.SystemRandom(),
                max_datagram_size=max_datagram_size,
                tcp=tcp,
                open_socket=open_socket,
                time=time,
            ) as endpoint,
        ):
            node = Node(
                home=opened,
                key=key,
                user=user,
                endpoint=endpoint,
                joined=joined,
                listen_host=listen[0],
                open_socket=open_socket,
                wall_clock=wall_clock,
                time=time,
                cache_size_bytes=cache_size_bytes,
                media_cache_bytes=media_cache_bytes,
            )
            nursery.start_soon(joined.accept_links, endpoint)
            yield node


async def _load_user(home: Home, key: DeviceKey, time: SteadyTime) -> SignedAddDevice:
    """Return the user's first AddDevice, made on first use."""
    profile = await home.profile()
    if profile.user is not None:
        try:
            return decode_add_device_untrusted(profile.user)
        except WireError as exc:
            logger.warning("the stored user is damaged, a new one is made: %s", exc)
    user = found_user(key, unix_ms=time.now_ms(), device_name=device_name())
    await home.save_profile(attrs.evolve(profile, user=encode_add_device(user)))
    return user
