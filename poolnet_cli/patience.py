"""Waiting for others: for how long, and that whoever waits is told what for."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from poolnet import PoolnetError, ServerAddress, Unreachable
from poolnet_cli.reporter import Reporter

T = TypeVar("T")

#: How long something may take before a person wants to know what it is.
_SILENT_S: Final = 3.0
_RETRY_S: Final = 0.5


@contextlib.asynccontextmanager
async def told_if_slow(reporter: Reporter, text: str) -> AsyncIterator[None]:
    """Say `text` once if the block takes more than a few seconds."""

    async def tell() -> None:
        await trio.sleep(_SILENT_S)
        await reporter.note(text)

    failure: PoolnetError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        try:
            yield
        except PoolnetError as exc:  # raised below, outside of the nursery, which would wrap it
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def until_reached(
    action: Callable[[], Awaitable[T]], timeout_s: float, servers: Sequence[ServerAddress], reporter: Reporter
) -> T:
    """Do what needs a sync server, again and again while none answers; return its result.

    Args:
        action: leaves nothing behind when it fails or is cancelled.
        timeout_s: for all attempts together.
        servers: those that are asked.

    Raises:
        Unreachable: none answered in time.
    """
    places = ", ".join(f"{server.host}:{server.port}" for server in servers) or "this device"
    last = Unreachable(
        f"no sync server answered at {places} within {timeout_s:g} s; "
        "check that it runs and that UDP reaches it, then try again"
    )
    with trio.move_on_after(timeout_s):
        async with told_if_slow(reporter, f"waiting for the sync server at {places}"):
            while True:
                try:
                    return await action()
                except Unreachable as exc:
                    last = exc
                await trio.sleep(_RETRY_S)
    raise last
