"""Pages of a history as people read it: messages of the database, without those that are not for reading, with names.

A page of so many entries takes as many messages of the database as it needs. What is not for reading is skipped here
and not there, because kinds that this version does not know are shown, and those cannot be asked for.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Protocol

from poolnet.errors import UnknownMessage, WireError
from poolnet.ids import DeviceId, MsgId, short_id
from poolnet.limits import MAX_READ_AT_ONCE
from poolnet.message_db import nobody
from poolnet.views.entries import HistoryEntry, NameOf, WasAdmin, entry_of, is_for_reading
from poolnet.wire.bodies import ProfileBody, decode_body_untrusted
from poolnet.wire.message import Message, MessageKey

#: Reads the so many messages next to a place, or at an end of the history (None).
_Read = Callable[[MessageKey | None, int], Awaitable[list[Message]]]


class MessageSource(Protocol):
    """What views need of a `MessageDB`. Lists come oldest first; a place need not be a message's."""

    async def latest(self, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the newest messages."""

    async def before(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the messages directly before a place."""

    async def after(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        """Return the messages directly after a place."""

    async def get(self, ids: Iterable[MsgId]) -> list[Message]:
        """Return those of the messages that are here."""

    async def of_kinds(self, kinds: Collection[str]) -> list[Message]:
        """Return all messages of some kinds."""

    async def fetch_older(self, before: MessageKey | None, count: int) -> list[Message]:
        """Return the messages directly before a place, also those that only neighbours had until now."""


class EntryPages:
    """Pages of entries, oldest first.

    Args:
        was_admin: whose announcements count; without it none is shown.
        name_of: what devices are called; without it, the names in the history are read with every page.

    A `kinds` argument asks for messages of these kinds, whatever they are, instead of those that people read. Every
    method raises `StoreError` when the database fails.
    """

    def __init__(self, db: MessageSource, *, was_admin: WasAdmin = nobody, name_of: NameOf | None = None) -> None:
        self._db = db
        self._was_admin = was_admin
        self._name_of = name_of

    async def before(
        self,
        place: MessageKey | None,
        count: int,
        *,
        stop: MessageKey | None = None,
        kinds: Collection[str] | None = None,
        fetch: bool = False,
    ) -> list[HistoryEntry]:
        """Return the `count` entries directly before a place (None: the newest).

        Args:
            stop: none before this place.
            fetch: let neighbours fill first what is missing here, as far as they can be reached.
        """

        async def read(at: MessageKey | None, number: int) -> list[Message]:
            if fetch:
                return (await self._db.fetch_older(at, number))[::-1]
            page = self._db.latest(number, kinds=kinds) if at is None else self._db.before(at, number, kinds=kinds)
            return (await page)[::-1]

        found = await self._collect(read, place, count, kinds, lambda key: stop is None or key >= stop)
        return await self.entries(found[::-1], kinds=kinds)

    async def after(
        self, place: MessageKey, count: int, *, stop: MessageKey | None = None, kinds: Collection[str] | None = None
    ) -> list[HistoryEntry]:
        """Return the `count` entries directly after a place, none at or after `stop`."""

        async def read(at: MessageKey | None, number: int) -> list[Message]:
            assert at is not None
            return await self._db.after(at, number, kinds=kinds)

        found = await self._collect(read, place, count, kinds, lambda key: stop is None or key < stop)
        return await self.entries(found, kinds=kinds)

    async def around(
        self, place: MessageKey, before: int, after: int, *, kinds: Collection[str] | None = None
    ) -> tuple[list[HistoryEntry], list[HistoryEntry]]:
        """Return entries on both sides of a place that is no message's."""
        return await self.before(place, before, kinds=kinds), await self.after(place, after, kinds=kinds)

    async def key_of(self, msg_id: MsgId) -> MessageKey:
        """Return the place of a message.

        Raises:
            UnknownMessage: it is not in this history.
        """
        found = await self._db.get([msg_id])
        if not found:
            raise UnknownMessage("there is no message of that id in this device's history")
        return found[0].key

    async def entries(self, messages: Iterable[Message], *, kinds: Collection[str] | None = None) -> list[HistoryEntry]:
        """Return those of `messages` that are for reading, as entries."""
        found = [message for message in messages if is_for_reading(message, kinds, self._was_admin)]
        if not found:
            return []
        name_of = self._name_of or await self._names()
        return [entry_of(message, name_of) for message in found]

    async def _names(self) -> NameOf:
        names = await read_names(self._db)
        return lambda node: names.get(node, short_id(node))

    async def _collect(
        self,
        read: _Read,
        place: MessageKey | None,
        count: int,
        kinds: Collection[str] | None,
        is_inside: Callable[[MessageKey], bool],
    ) -> list[Message]:
        """Read away from a place until `count` messages for reading were found, or there is no more."""
        found: list[Message] = []
        number = min(count, MAX_READ_AT_ONCE)
        while len(found) < count:
            messages = await read(place, number)
            inside = [message for message in messages if is_inside(message.key)]
            found += [message for message in inside if is_for_reading(message, kinds, self._was_admin)]
            if len(inside) < number:
                break
            place = messages[-1].key
            number = min(2 * number, MAX_READ_AT_ONCE)
        return found[:count]


async def read_names(db: MessageSource) -> dict[DeviceId, str]:
    """Return everyone's latest display name."""
    names: dict[DeviceId, str] = {}
    for message in await db.of_kinds((ProfileBody.KIND,)):  # ascending, so the last one counts
        try:
            body = decode_body_untrusted(message.content.kind, message.content.body)
        except WireError:
            continue  # of another version
        if isinstance(body, ProfileBody):
            names[message.author] = body.name
    return names
