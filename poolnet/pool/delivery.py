"""Which of this device's own messages no neighbour is known to have yet, for those who wait for it."""

from collections.abc import Iterable

import trio

from poolnet.errors import LinkClosed, Unreachable
from poolnet.ids import DeviceId, MsgId
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
        self._sent: dict[DeviceId, set[MsgId]] = {}  # to each neighbour, in frames that it has not consumed
        self._confirmed = trio.Condition()

    def add(self, message: Message) -> None:
        """Take note of an own message."""
        self._unconfirmed[message.msg_id] = message.key

    def forget(self, msg_id: MsgId) -> None:
        """Do not wait for a message that was retracted."""
        self._unconfirmed.pop(msg_id, None)

    def sent(self, link: Link, msg_id: MsgId) -> None:
        """Take note that a message, maybe an own one, was written to a link."""
        if msg_id not in self._unconfirmed:
            return
        if link.peer in self._sent:
            self._sent[link.peer].add(msg_id)
        else:
            self._sent[link.peer] = {msg_id}
            self._nursery.start_soon(self._await_consumption, link)

    async def agreed(self, upper: Bound) -> None:
        """Take note that a neighbour has everything below `upper` that it wants of us."""
        await self._confirm([msg_id for msg_id, key in self._unconfirmed.items() if key < upper])

    async def delivered(self, timeout_s: float) -> None:
        """Wait until some neighbour has each message added so far.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        awaited = frozenset(self._unconfirmed)
        with trio.move_on_after(timeout_s):
            async with self._confirmed:
                while not awaited.isdisjoint(self._unconfirmed):
                    await self._confirmed.wait()
            return
        raise Unreachable(
            f"no other member confirmed the message within {round(timeout_s, 1):g} s; "
            "it is kept and goes out when one is there"
        )

    async def _await_consumption(self, link: Link) -> None:
        pending = self._sent[link.peer]
        try:
            while pending:
                batch = frozenset(pending)
                pending.clear()
                await link.flushed()
                await self._confirm(batch)
        except LinkClosed:
            pass  # another link may confirm them
        finally:
            del self._sent[link.peer]

    async def _confirm(self, messages: Iterable[MsgId]) -> None:
        known = [msg_id for msg_id in messages if msg_id in self._unconfirmed]
        if known:
            async with self._confirmed:
                for msg_id in known:
                    self._unconfirmed.pop(msg_id, None)
                self._confirmed.notify_all()
