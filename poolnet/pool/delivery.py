"""Which of this device's own messages no neighbour is known to have yet, for those who wait for it."""

from collections.abc import Collection, Iterable

import trio

from poolnet.errors import LinkClosed
from poolnet.ids import MsgId
from poolnet.net.link import Link
from poolnet.wire.claims import Bound
from poolnet.wire.message import Message, MessageKey


class DeliveryBook:
    """Own messages that are here alone, as far as this device knows.

    A message is confirmed when a neighbour has consumed a frame that holds it, or when the histories of both were found
    to agree.

    Args:
        nursery: owns the tasks that wait for frames to be consumed; outlives this object.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._unconfirmed: dict[MsgId, MessageKey] = {}
        self._sent: dict[Link, set[MsgId]] = {}  # in frames that the neighbour has not consumed
        self._changed = trio.Event()  # something is confirmed, or not waited for any more

    def add(self, message: Message) -> None:
        """Take note of an own message."""
        self._unconfirmed[message.msg_id] = message.key

    def forget(self, msg_id: MsgId) -> None:
        """Do not wait for a message that was deleted here."""
        self._settle([msg_id])

    def unconfirmed(self) -> frozenset[MsgId]:
        """Return what is waited for now."""
        return frozenset(self._unconfirmed)

    def sent(self, link: Link, msg_id: MsgId) -> None:
        """Take note that a message, maybe an own one, was written to a link."""
        if msg_id not in self._unconfirmed:
            return
        if link in self._sent:
            self._sent[link].add(msg_id)
        else:
            self._sent[link] = {msg_id}
            self._nursery.start_soon(self._await_consumption, link)

    def agreed(self, upper: Bound, compared: Collection[MsgId]) -> None:
        """Take note that a neighbour has everything below `upper` that it wants of us.

        Args:
            compared: what was `unconfirmed` before histories were compared; what came later is not meant.
        """
        found = ((msg_id, self._unconfirmed.get(msg_id)) for msg_id in compared)
        self._settle([msg_id for msg_id, key in found if key is not None and key < upper])

    async def delivered(self) -> None:
        """Wait until some neighbour has each message added so far."""
        awaited = self.unconfirmed()
        await trio.lowlevel.checkpoint()
        while not awaited.isdisjoint(self._unconfirmed):
            await self._changed.wait()

    async def _await_consumption(self, link: Link) -> None:
        pending = self._sent[link]
        try:
            while pending:
                batch = frozenset(pending)
                pending.clear()
                await link.flushed()
                self._settle(batch)
        except LinkClosed:
            pass  # another link may confirm them
        finally:
            del self._sent[link]

    def _settle(self, messages: Iterable[MsgId]) -> None:
        """Do not wait for these any more."""
        known = [msg_id for msg_id in messages if self._unconfirmed.pop(msg_id, None) is not None]
        if known:
            self._changed.set()
            self._changed = trio.Event()
