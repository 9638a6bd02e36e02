"""One open home, shared by every command that runs in this process: its own, and those from the control socket.

A pool is entered once, however many commands use it, and left when the last of them is done.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import trio

from poolnet import (
    AddressInUse,
    FileManager,
    InviteLink,
    LocalError,
    Node,
    PoolId,
    PoolInfo,
    PoolNet,
    open_node,
)
from poolnet_cli.settings import DEFAULTS, NOTHING_SAID, Limits, read_settings


class PoolLeft(LocalError):
    """This device left the pool for good while a command was in it."""

    code = "pool_left"


Enter = Callable[[], Awaitable[PoolNet]]
Patience = Callable[[Enter], Awaitable[PoolNet]]


async def at_once(enter: Enter) -> PoolNet:
    """Enter a pool in one attempt."""
    return await enter()


@attrs.frozen(kw_only=True)
class PoolUse:
    """A pool that a command uses. `is_shared`: others were in it already, it stays joined afterwards."""

    net: PoolNet
    is_shared: bool


class _Entry:
    """A pool that is joined, or about to be."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.net: PoolNet | None = None
        self.scopes: set[trio.CancelScope] = set()  # one a user
        self.unused = trio.Event()
        self.closed: trio.Event | None = None


class Session:
    """An open node and the pools that commands have joined on it. Made by `open_session`.

    Args:
        options: limits that win over the settings of the home.
        wrong_settings: what to tell about those that are left out.
    """

    def __init__(
        self,
        node: Node,
        nursery: trio.Nursery,
        options: Limits = NOTHING_SAID,
        *,
        wrong_settings: Sequence[str] = (),
    ) -> None:
        self.wrong_settings = wrong_settings
        self.node = node
        self._nursery = nursery
        self._options = options
        self.limits = options.over(DEFAULTS)
        self._entries: dict[PoolId, _Entry] = {}

    def joined(self, pool_id: PoolId) -> PoolNet | None:
        """Return the pool if a command of this process is in it."""
        entry = self._entries.get(pool_id)
        return None if entry is None else entry.net

    @property
    def is_in_use(self) -> bool:
        """Whether a pool is joined."""
        return any(entry.net is not None for entry in self._entries.values())

    @contextlib.asynccontextmanager
    async def open_files(self, pool: PoolInfo) -> AsyncIterator[FileManager]:
        """Open the files of a pool, joined or not; where it is not, nothing moves.

        Raises:
            StoreError: they cannot be read.
        """
        net = self.joined(pool.pool_id)
        if net is not None:
            yield net.files
            return
        async with self.node.open_files(pool) as files:
            yield files

    def take_settings(self, settings: Limits) -> None:
        """Take note of the home's settings: what goes in and out of joined pools is limited by them at once."""
        self.limits = self._options.over(settings).over(DEFAULTS)
        for entry in self._entries.values():
            if entry.net is not None:
                self._limit(entry.net)

    @contextlib.asynccontextmanager
    async def use_pool(
        self, pool: PoolInfo | InviteLink, *, name: str | None = None, patience: Patience = at_once
    ) -> AsyncIterator[PoolUse]:
        """Join a pool, or use it if it is joined already.

        Args:
            name: how others see this device from now on.
            patience: enters it, maybe in several attempts.

        Raises:
            Unreachable, Refused: it cannot be joined.
            PoolLeft: this device left it while the block ran.
        """
        entry = self._entries.setdefault(pool.pool_id, _Entry())
        scope = trio.CancelScope()
        async with entry.lock:
            is_shared = entry.net is not None
            try:
                net = entry.net or await patience(lambda: self._open(pool, name, entry))
            except BaseException:
                if entry.net is not None and not entry.scopes:  # it was entered just when that was given up
                    await _close(entry)
                raise
            entry.scopes.add(scope)
        try:
            with scope:
                if is_shared and name is not None:
                    await net.rename(name)
                yield PoolUse(net=net, is_shared=is_shared)
        finally:
            entry.scopes.remove(scope)
            if not entry.scopes:
                await _close(entry)
        if scope.cancelled_caught:
            raise PoolLeft("this device has left the pool")

    async def leave(self, info: PoolInfo) -> None:
        """Leave a pool for good, and end the commands that are in it."""
        entry = self._entries.get(info.pool_id)
        if entry is not None:
            for scope in entry.scopes:
                scope.cancel()
            if entry.closed is not None:
                await entry.closed.wait()
        await self.node.leave_pool(info)

    async def _open(self, pool: PoolInfo | InviteLink, name: str | None, entry: _Entry) -> PoolNet:
        if entry.closed is not None:
            await entry.closed.wait()  # the last user is just leaving
        entry.unused, entry.closed = trio.Event(), trio.Event()
        net: PoolNet = await self._nursery.start(self._keep_joined, pool, name, entry.unused, entry.closed)
        entry.net = net
        return net

    async def _keep_joined(
        self,
        pool: PoolInfo | InviteLink,
        name: str | None,
        unused: trio.Event,
        closed: trio.Event,
        *,
        task_status: trio.TaskStatus[PoolNet] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            async with self.node.join(pool, name=name) as net:
                self._limit(net)
                task_status.started(net)
                await unused.wait()
        except AddressInUse as exc:  # the node has its socket already, this is about the pool's server
            raise AddressInUse(
                f"this device runs that pool's sync server on UDP port {pool.servers[0].port}, which another program "
                "uses now; stop that program, then try again"
            ) from exc
        finally:
            closed.set()

    def _limit(self, net: PoolNet) -> None:
        assert self.limits.downloads is not None, "DEFAULTS says everything"
        net.files.set_limits(up=self.limits.up or None, down=self.limits.down or None, concurrent=self.limits.downloads)


async def _close(entry: _Entry) -> None:
    assert entry.closed is not None
    entry.net = None
    entry.unused.set()
    with trio.CancelScope(shield=True):  # bounded: leaving a pool never hangs
        await entry.closed.wait()


@contextlib.asynccontextmanager
async def open_session(home: Path, bind: tuple[str, int], options: Limits = NOTHING_SAID) -> AsyncIterator[Session]:
    """Open a home for commands; everything that they joined is left at the end.

    Args:
        bind: where the node's UDP socket is bound.
        options: limits that win over the settings of the home.

    Raises:
        StoreLocked: another process uses the home.
        StoreError: it cannot be read.
    """
    stored = await trio.to_thread.run_sync(read_settings, home)
    limits = options.over(stored.limits).over(DEFAULTS)
    assert limits.tcp is not None, "DEFAULTS says everything"
    assert limits.cache is not None, "DEFAULTS says everything"
    assert limits.pictures is not None, "DEFAULTS says everything"
    opening = open_node(
        home, listen=bind, tcp=limits.tcp, cache_size_bytes=limits.cache, media_cache_bytes=limits.pictures
    )
    async with opening as node, trio.open_nursery() as nursery:
        session = Session(node, nursery, options, wrong_settings=stored.wrong)
        session.take_settings(stored.limits)
        yield session
        nursery.cancel_scope.cancel()
