"""Reading a history: pages, times, sessions, search, one message by the beginning of its id."""

from collections.abc import Collection
from pathlib import Path

from poolnet.errors import UnknownMessage
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import MIN_ID_PREFIX_CHARS
from poolnet.message_db import MessageDB, Session, nobody
from poolnet.storage.message_export import ExportFormat
from poolnet.views.entries import HistoryEntry, NameOf, WasAdmin, place_after, place_of_time
from poolnet.views.history import History
from poolnet.views.pages import EntryPages
from poolnet.wire.bodies import AnnouncementBody
from poolnet.wire.message import MessageKey

#: A message, or a place in the order of the pool.
Place = MsgId | MessageKey


class HistoryReader:
    """The history of one pool, as people read it. It holds nothing but the database, which stays its opener's.

    Lists come oldest first, with what people read: texts, announcements, offers, and messages of kinds that this
    version does not know; or with a `kinds` argument, messages of these kinds whatever they are. Every method raises
    `StoreError` when the database fails.

    Args:
        db: the database of a pool that is joined, or of one that is not.
        was_admin: whose announcements count, `Membership.was_admin`; without it none is shown.
        name_of: what devices are called; without it, by the names in the history.
    """

    def __init__(self, db: MessageDB, *, was_admin: WasAdmin = nobody, name_of: NameOf | None = None) -> None:
        self._db = db
        self._was_admin = was_admin
        self._name_of = name_of
        self._pages = EntryPages(db, was_admin=was_admin, name_of=name_of)

    def view(self) -> History:
        """Return a view for scrolling back in this history; it shows nothing before `History.open_at`."""
        return History(self._db, was_admin=self._was_admin, name_of=self._name_of)

    @property
    def messages(self) -> MessageDB:
        """The database itself: message by message, and how much of it is kept."""
        return self._db

    async def latest(self, count: int, *, kinds: Collection[str] | None = None) -> list[HistoryEntry]:
        """Return the newest `count` entries."""
        return await self._pages.before(None, count, kinds=kinds)

    async def before(self, place: Place, count: int, *, kinds: Collection[str] | None = None) -> list[HistoryEntry]:
        """Return the `count` entries directly before a message or a place.

        Raises:
            UnknownMessage: that message is not in this history.
        """
        return await self._pages.before(await self._key(place), count, kinds=kinds)

    async def after(self, place: Place, count: int, *, kinds: Collection[str] | None = None) -> list[HistoryEntry]:
        """Return the `count` entries directly after a message or a place.

        Raises:
            UnknownMessage: that message is not in this history.
        """
        return await self._pages.after(await self._key(place), count, kinds=kinds)

    async def around(self, msg_id: MsgId, count: int, *, kinds: Collection[str] | None = None) -> list[HistoryEntry]:
        """Return a message with up to `count` entries before it and `count` after it.

        Raises:
            UnknownMessage: it is not in this history.
        """
        place = await self._pages.key_of(msg_id)
        earlier, later = await self._pages.around(place_after(place), count + 1, count, kinds=kinds)
        if not earlier or earlier[-1].msg_id != msg_id:  # not for reading itself
            earlier = earlier[-count:] if count else []
        return earlier + later

    async def between(
        self,
        since_ms: int | None = None,
        until_ms: int | None = None,
        *,
        limit: int,
        newest: bool = True,
        kinds: Collection[str] | None = None,
    ) -> list[HistoryEntry]:
        """Return `limit` entries at one end of a time range, the newest or the oldest of it.

        Args:
            since_ms, until_ms: milliseconds since 1970, the second excluded; None for no bound.
        """
        start = place_of_time(0 if since_ms is None else since_ms)
        end = None if until_ms is None else place_of_time(until_ms)
        if newest:
            return await self._pages.before(end, limit, stop=start, kinds=kinds)
        return await self._pages.after(start, limit, stop=end, kinds=kinds)

    async def search(
        self,
        text: str,
        *,
        author: DeviceId | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 50,
        before: Place | None = None,
    ) -> list[HistoryEntry]:
        """Return the newest `limit` entries (before a message or a place) that hold all words of `text`.

        ``word*`` finds all words that begin so, and ``"several words"`` these in a row.

        Raises:
            UnknownMessage: `before` is not in this history.
        """
        found = await self._db.search(
            text,
            author=author,
            since_ms=since_ms,
            until_ms=until_ms,
            limit=limit,
            before=None if before is None else await self._key(before),
        )
        return await self._pages.entries(found)

    async def announcement(self) -> HistoryEntry | None:
        """Return the announcement that counts, the latest one."""
        return next(iter(await self.latest(1, kinds=(AnnouncementBody.KIND,))), None)

    async def sessions(self, *, limit: int | None = None, before: MessageKey | None = None) -> list[Session]:
        """Return the newest `limit` sessions (that began before a place): talk without a pause of half an hour."""
        return await self._db.sessions(limit=limit, before=before)

    async def session(self, number: int, *, limit: int) -> list[HistoryEntry]:
        """Return the newest `limit` entries of a session; 1 is the latest one, 2 that before it.

        Raises:
            UnknownMessage: there are not so many.
        """
        found = await self._db.sessions(limit=number) if number > 0 else []
        if len(found) < number or not found:
            raise UnknownMessage(f"there is no session {number}; the history has {len(found)}")
        session = found[0]
        return await self._pages.before(place_after(session.end), limit, stop=session.start)

    async def find(self, text: str) -> MsgId:
        """Return the message whose id begins with `text`, as `encode_id` writes ids; upper case is taken as well.

        Raises:
            UnknownMessage: there is none, there are several, or `text` is too short to mean one.
        """
        if len(text) < MIN_ID_PREFIX_CHARS:
            raise UnknownMessage(
                f"{text!r} is too short; give at least {MIN_ID_PREFIX_CHARS} characters of a message id"
            )
        found = await self._db.find(text.lower())
        if not found:
            raise UnknownMessage(f"no message on this device has an id that begins with {text!r}")
        if len(found) > 1:
            raise UnknownMessage(f"several messages have ids that begin with {text!r}; give more of it")
        return found[0]

    async def export(self, path: Path, format: ExportFormat = "jsonl") -> int:
        """Write the whole history to a new file; return the number of messages. See `MessageDB.export`.

        Raises:
            OutputExists: something is there.
        """
        return await self._db.export(path, format=format)

    async def _key(self, place: Place) -> MessageKey:
        return place if isinstance(place, tuple) else await self._pages.key_of(place)
