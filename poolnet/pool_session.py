"""Opens everything that a joined pool is made of: its servers, history and files, and the `PoolNet` that joins them."""

import logging
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from poolnet.errors import StoreDamaged
from poolnet.event_stream import EventStream
from poolnet.events import ErrorReported, PoolEvent
from poolnet.file_manager import open_file_manager
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement
from poolnet.ids import MsgId
from poolnet.limits import MAX_NAME_CHARS
from poolnet.message_db import MessageDB, open_message_db
from poolnet.net.endpoint import Endpoint
from poolnet.net.udp import OpenSocket
from poolnet.pool.hosting import open_servers
from poolnet.pool.records import PoolRecord, PoolRecords, StatementSaver
from poolnet.pool_net import PoolNet
from poolnet.protocol.randomness import RandomSource
from poolnet.service import open_service_nursery
from poolnet.steady_time import SteadyTime, WallClock
from poolnet.storage.durable import was_kept_aside
from poolnet.wire.claims import LOWEST
from poolnet.wire.message import Message

logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class PoolSessions:
    """Opens pools of one node, each once at a time.

    Attributes:
        cache_size_bytes: of the chunks that are held for others, in each pool.
        media_cache_bytes: of the pictures that are fetched for everyone to see, in each pool.
    """

    key: DeviceKey
    endpoint: Endpoint
    records: PoolRecords
    open_socket: OpenSocket
    wall_clock: WallClock
    time: SteadyTime
    rng: RandomSource
    cache_size_bytes: int
    media_cache_bytes: int

    @asynccontextmanager
    async def open(
        self,
        record: PoolRecord,
        membership: Membership,
        *,
        join: Statement | None = None,
        display_name: str | None = None,
    ) -> AsyncIterator[PoolNet]:
        """Enter a pool and stay until the block ends. A history that is damaged is set aside and begun anew.

        Args:
            join: this device's Join, unless it is a member already.
            display_name: how others see this device; as last time if it is not given.

        Raises:
            StoreError: what is kept of the pool cannot be read.
        """
        events = EventStream[PoolEvent](keep_for_first=True)
        is_open = False
        try:
            async with self._open_once(record, membership, events, join, display_name) as pool:
                is_open = True
                yield pool
        except StoreDamaged as exc:  # set aside by now
            if is_open:
                raise
            logger.warning("a history is damaged: %s", exc)
            about = f"the history of {record.name!r} is damaged and kept aside in {record.directory}"
            events.publish(ErrorReported(code=exc.code, message=f"{about}; the neighbours are asked for what it held"))
        else:
            return
        async with self._open_once(record, membership, events, join, display_name) as pool:
            yield pool

    @asynccontextmanager
    async def _open_once(
        self,
        record: PoolRecord,
        membership: Membership,
        events: EventStream[PoolEvent],
        join: Statement | None,
        display_name: str | None,
    ) -> AsyncIterator[PoolNet]:
        saver = StatementSaver(self.records, record, membership)
        async with AsyncExitStack() as stack:
            servers = await stack.enter_async_context(
                open_servers(record, open_socket=self.open_socket, wall_clock=self.wall_clock)
            )
            db = await stack.enter_async_context(
                _open_history(record, membership, retracted=lambda *what: pool.retracted(*what))
            )
            nursery = await stack.enter_async_context(open_service_nursery())
            files = await stack.enter_async_context(
                open_file_manager(
                    record.files_directory,
                    rng=self.rng,
                    events=events,
                    cache_size_bytes=self.cache_size_bytes,
                    media_cache_bytes=self.media_cache_bytes,
                )
            )
            pool = PoolNet(
                nursery=nursery,
                endpoint=self.endpoint,
                key=self.key,
                membership=membership,
                servers=servers,
                db=db,
                files=files,
                events=events,
                rng=self.rng,
                time=self.time,
                join=join,
                display_name=display_name,
                default_name=record.display_name or device_name(),
                statements_changed=saver.changed,
            )
            nursery.start_soon(saver.run)
            await nursery.start(pool.run)
            try:
                yield pool
            finally:
                await pool.leave_quietly()
                events.close()
                with trio.CancelScope(shield=True):
                    await saver.flush()


@asynccontextmanager
async def _open_history(
    record: PoolRecord, membership: Membership, *, retracted: Callable[[MsgId, Message], None]
) -> AsyncIterator[MessageDB]:
    async with open_message_db(
        record.database, record.pool_id, was_admin=membership.was_admin, retracted=retracted
    ) as db:
        if await db.known_from() is None and was_kept_aside(record.database):
            await db.set_known_from(LOWEST)  # a newcomer would ask for less
        yield db


def device_name() -> str:
    """Return what this machine is called, as far as it fits a name."""
    return platform.node().strip()[:MAX_NAME_CHARS] or "device"
