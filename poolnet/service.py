"""How a service owns its background tasks.

Every `open_…` of poolnet is an async context manager with a nursery inside. When its block ends, by any way, the tasks
are cancelled; an error raised in the block comes out as it is, not wrapped in an exception group, so that a caller can
write ``except Unreachable``. An error of a background task is a bug and does come out as a group.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_service_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for the background tasks of a service; cancelled when the block ends."""
    block_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:
                block_error = exc
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if block_error is not None and _holds_only(group, block_error):
            raise block_error from block_error.__cause__
        raise


def _holds_only(group: BaseExceptionGroup[BaseException], error: BaseException) -> bool:
    """Return whether `error` is all that went wrong (what was cancelled because of it does not count)."""
    return all(
        member is error
        or isinstance(member, trio.Cancelled)
        or (isinstance(member, BaseExceptionGroup) and _holds_only(member, error))
        for member in group.exceptions
    )
