"""How fast a program may publish: as fast as the links take it, but no slower because of a slow one among them.

Messages are pushed over the links of the broadcast tree without waiting, and a link that falls
`MAX_UNACKNOWLEDGED_CONTROL` behind is closed. So whoever publishes waits before that, as soon as links are half of it
behind, until they have caught up to a quarter. If no more than half of the links of the tree are behind, or one among
several, these are slow, not this device; and a link that does not catch up within `PUBLISH_PATIENCE_S` is waited for no
longer. Such a link is closed in the end, and what went over it is found by comparing histories.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import trio

from poolnet.errors import LinkClosed
from poolnet.ids import DeviceId
from poolnet.limits import MAX_PUBLISHING, MAX_UNACKNOWLEDGED_CONTROL, PUBLISH_PATIENCE_S
from poolnet.net.link import Link

_BEHIND = MAX_UNACKNOWLEDGED_CONTROL // 2
_CAUGHT_UP = MAX_UNACKNOWLEDGED_CONTROL // 4


class PublishPace:
    """Holds back those who publish.

    Args:
        links: the links over which messages are pushed or announced.
        pushed: returns over how many of them messages are pushed.
    """

    def __init__(self, links: Mapping[DeviceId, Link], pushed: Callable[[], int]) -> None:
        self._links = links
        self._pushed = pushed
        self._slots = trio.Semaphore(MAX_PUBLISHING)
        self._behind_since: dict[Link, float] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a message may be published, in order of the calls; it is to be pushed before the end of it."""
        async with self._slots:
            while behind := self._behind():
                await self._until_changed(behind)
            yield

    def _behind(self) -> list[Link]:
        """Return the links to wait for."""
        now = trio.current_time()
        since = self._behind_since
        for link in [*since]:
            if link.is_closed or link.behind <= _CAUGHT_UP:
                del since[link]
        for link in self._links.values():
            if link not in since and link.behind > _BEHIND and not link.is_closed:
                since[link] = now
        if not since:
            return []
        waited_for = [link for link, began_at in since.items() if now < began_at + PUBLISH_PATIENCE_S]
        is_majority = len(waited_for) > 1 and 2 * len(waited_for) > self._pushed()
        return waited_for if is_majority or len(self._links) == 1 else []

    async def _until_changed(self, behind: list[Link]) -> None:
        """Wait until one of the links has caught up or is waited for no longer."""
        until = min(self._behind_since[link] for link in behind) + PUBLISH_PATIENCE_S
        with trio.move_on_at(until):
            async with trio.open_nursery() as nursery:
                for link in behind:
                    nursery.start_soon(_catch_up, link, nursery.cancel_scope)


async def _catch_up(link: Link, waiting: trio.CancelScope) -> None:
    with suppress(LinkClosed):  # then it is behind no longer
        await link.caught_up(_CAUGHT_UP)
    waiting.cancel()
