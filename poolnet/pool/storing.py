"""What has to be stored, whatever the disk says meanwhile: trying again until it is."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from poolnet.errors import PoolnetError, StoreError

T = TypeVar("T")

#: How long to wait before the next try: for somebody to make room, or for a disk to come back.
_RETRY_S = 5.0


async def until_stored(store: Callable[[], Awaitable[T]], report: Callable[[PoolnetError], None]) -> T:
    """Return what `store` returns, calling it again for as long as it raises `StoreError`.

    `report` is told of the first error, and of each that is another than the one before.
    """
    told = ""
    while True:
        try:
            return await store()
        except StoreError as exc:
            if str(exc) != told:
                told = str(exc)
                report(exc)
            await trio.sleep(_RETRY_S)
