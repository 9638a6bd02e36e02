"""A history in memory, and the events that tell of it: for tests of views. The model is a plain list."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import attrs
import trio

from poolnet.clock import Hlc, hlc_ms, make_hlc
from poolnet.events import (
    AnnouncementReceived,
    FileOffered,
    MessageReceived,
    MessageRetracted,
    PoolEvent,
    UnknownMessageReceived,
)
from poolnet.ids import DeviceId, FileId, MsgId, PoolId, PublicKey
from poolnet.views.entries import HistoryEntry, entry_of
from poolnet.wire.bodies import (
    AnnouncementBody,
    AppBody,
    Body,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    StreamBody,
    TextBody,
    encode_body,
)
from poolnet.wire.message import Message, MessageContent, MessageKey, author_id, encode_content, message_id

POOL = PoolId(bytes(32))
ADA_KEY, BOB_KEY = PublicKey(b"a" * 32), PublicKey(b"b" * 32)
ADA, BOB = author_id(ADA_KEY), author_id(BOB_KEY)
NAMES = {ADA: "ada", BOB: "bob"}
FOR_READING = ("text", "announcement", "offer", "folder", "media", "stream", "from the future")


def was_admin(device: DeviceId, hlc: Hlc) -> bool:
    return device == ADA


def name_of(node: DeviceId) -> str:
    return NAMES[node]


def message(ms: int, body: Body | bytes, *, kind: str = "", author_key: PublicKey = ADA_KEY, count: int = 0) -> Message:
    """Return a message of that time, whose signature is none; `kind` is for bodies as bytes."""
    encoded = body if isinstance(body, bytes) else encode_body(body)
    content = MessageContent(
        pool_id=POOL,
        kind=kind or body.KIND,  # type: ignore[union-attr]
        hlc=make_hlc(ms, count),
        author_key=author_key,
        body=encoded,
    )
    signed = encode_content(content)
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=bytes(64))


def text(ms: int, words: str = "", *, author_key: PublicKey = ADA_KEY) -> Message:
    return message(ms, TextBody(text=words or f"at {ms}"), author_key=author_key)


def any_message(ms: int, number: int) -> Message:
    """Return a message of one of all kinds, by `number`; texts most often."""
    author_key = (ADA_KEY, BOB_KEY)[number % 2]
    match number % 9:
        case 0:
            body: Body | bytes = AnnouncementBody(text=f"hear, {number}")
            author_key = ADA_KEY
        case 1:
            body = any_offer(number)
        case 2:
            body = number.to_bytes(4, "big")
        case 3:
            body = AppBody(name="chess.move", data=number.to_bytes(4, "big"))
        case 4:
            body = ProfileBody(name=NAMES[author_id(author_key)])
        case _:
            body = TextBody(text=f"{number} at {ms}")
    return message(ms, body, kind="from the future" if number % 9 == 2 else "", author_key=author_key)


def any_offer(number: int) -> Body:
    """Return an offer of one of the four kinds."""
    file_id, name = FileId(bytes(32)), f"{number}.txt"
    match number // 9 % 4:
        case 0:
            return OfferBody(file_id=file_id, name=name, size=number)
        case 1:
            return FolderBody(
                file_id=file_id, list_id=FileId(b"l" * 32), name=name, size=number, list_size=1, file_count=number + 2
            )
        case 2:
            return MediaBody(file_id=file_id, name=name, size=1 + number, width=4, height=3, preview=b"")
        case _:
            return StreamBody(nonce=bytes(16), name=name)


def is_read(item: Message) -> bool:
    return item.content.kind in FOR_READING


def event_of(item: Message, *, is_late: bool = False) -> PoolEvent | None:
    """Return the event of a message that people read."""
    entry = entry_of(item, name_of)
    node, name, key = entry.node, entry.name, entry.key
    words = entry.text or ""
    unix_ms = hlc_ms(item.content.hlc)
    match entry.kind:
        case "text":
            return MessageReceived(
                msg_id=item.msg_id, node=node, name=name, text=words, unix_ms=unix_ms, key=key, is_late=is_late
            )
        case "announcement":
            return AnnouncementReceived(
                msg_id=item.msg_id, node=node, name=name, text=words, unix_ms=unix_ms, key=key, is_late=is_late
            )
        case "offer":
            file_id = FileId(bytes(32))
            assert entry.offer_kind is not None
            return FileOffered(
                file_id=file_id,
                file_name=words,
                size_bytes=1,
                node=node,
                name=name,
                msg_id=item.msg_id,
                key=key,
                kind=entry.offer_kind,
                file_count=entry.file_count,
            )
        case "from the future":
            return UnknownMessageReceived(
                msg_id=item.msg_id, node=node, name=name, kind=entry.kind, unix_ms=unix_ms, key=key, is_late=is_late
            )
        case _:
            return None


class MemoryHistory:
    """A `MessageSource` over a sorted list, and the queue of the events that an application has not yet applied.

    Attributes:
        meanwhile: called within each read, before and after the list is looked at: what happens at the same time.
        remote: messages that only neighbours have, until they are fetched.
    """

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self.stored = sorted(messages, key=lambda item: item.key)
        self.remote: list[Message] = []
        self.events: list[PoolEvent] = []
        self.meanwhile: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    def store(self, item: Message) -> None:
        """Store a message, and tell of it."""
        is_late = bool(self.stored) and item.key < self.stored[-1].key
        self.stored = sorted([*self.stored, item], key=lambda stored: stored.key)
        event = event_of(item, is_late=is_late)
        self.events += [event] if event is not None else []

    def retract(self, msg_id: MsgId) -> None:
        """Delete a message, and tell of it."""
        self.stored = [item for item in self.stored if item.msg_id != msg_id]
        self.events.append(MessageRetracted(msg_id=msg_id, node=ADA, name="ada"))

    def entries(self) -> list[HistoryEntry]:
        """Return the whole history, as people read it."""
        return [entry_of(item, name_of) for item in self.stored if is_read(item)]

    async def latest(self, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        return await self._page(lambda item: True, count, kinds, newest=True)

    async def before(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        return await self._page(lambda item: item.key < key, count, kinds, newest=True)

    async def after(self, key: MessageKey, count: int, *, kinds: Collection[str] | None = None) -> list[Message]:
        return await self._page(lambda item: item.key > key, count, kinds, newest=False)

    async def get(self, ids: Iterable[MsgId]) -> list[Message]:
        wanted = set(ids)
        return await self._page(lambda item: item.msg_id in wanted, len(self.stored), None, newest=False)

    async def of_kinds(self, kinds: Collection[str]) -> list[Message]:
        return await self._page(lambda item: True, len(self.stored), kinds, newest=False)

    async def fetch_older(self, before: MessageKey | None, count: int) -> list[Message]:
        await self.meanwhile()
        older = sorted((m for m in self.remote if before is None or m.key < before), key=lambda m: m.key)
        for item in older[max(0, len(older) - count) :]:
            self.remote.remove(item)
            self.store(item)
        return await (self.latest(count) if before is None else self.before(before, count))

    async def _page(
        self, condition: Callable[[Message], bool], count: int, kinds: Collection[str] | None, *, newest: bool
    ) -> list[Message]:
        await self.meanwhile()
        found = [m for m in self.stored if condition(m) and (kinds is None or m.content.kind in kinds)]
        found = found[max(0, len(found) - count) :] if newest else found[:count]
        await self.meanwhile()
        return found


def plain(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Return entries without the mark of those that came late, which the history does not know."""
    return [attrs.evolve(entry, is_late=False) for entry in entries]
