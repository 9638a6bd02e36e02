"""A pool's history as people read it, texts with names, oldest first; and what its offers come to."""

import attrs

from poolnet.clock import hlc_ms
from poolnet.errors import UnknownMessage, WireError
from poolnet.file_manager import FileManager
from poolnet.ids import DeviceId, MsgId, short_id
from poolnet.message_db import MessageDB
from poolnet.wire.bodies import OfferBody, ProfileBody, RetractOfferBody, TextBody, decode_body_untrusted
from poolnet.wire.message import Message


@attrs.frozen(kw_only=True)
class HistoryEntry:
    """One text message. `name` is what its author is called now."""

    msg_id: MsgId
    node: DeviceId
    name: str
    text: str
    unix_ms: int


async def read_history(db: MessageDB, *, limit: int, before: MsgId | None = None) -> list[HistoryEntry]:
    """Return the newest `limit` texts, or the newest before one message, oldest first.

    Raises:
        UnknownMessage: `before` is not in this history.
    """
    kinds = (TextBody.KIND,)
    if before is None:
        messages = await db.latest(limit, kinds=kinds)
    else:
        found = await db.get([before])
        if not found:
            raise UnknownMessage("there is no message of that id in this device's history")
        messages = await db.before(found[0].key, limit, kinds=kinds)
    names = await read_names(db)
    return [entry for message in messages if (entry := _entry(message, names)) is not None]


async def read_names(db: MessageDB) -> dict[DeviceId, str]:
    """Return everyone's latest display name."""
    names: dict[DeviceId, str] = {}
    for message in await db.of_kinds((ProfileBody.KIND,)):  # ascending, so the last one counts
        body = _body(message)
        if isinstance(body, ProfileBody):
            names[message.author] = body.name
    return names


async def replay_offers(db: MessageDB, files: FileManager) -> None:
    """Tell a file manager of all offers and retractions in the history."""
    for message in await db.of_kinds((OfferBody.KIND, RetractOfferBody.KIND)):
        apply_offer(_body(message), message, files)


def apply_offer(body: object, message: Message, files: FileManager) -> None:
    """Tell a file manager of an offer or a retraction; other bodies are none of its business."""
    author, hlc = message.author, message.content.hlc
    match body:
        case OfferBody(file_id=file_id, name=name, size=size):
            files.learned_offer(author, name, file_id, size, hlc)
        case RetractOfferBody(file_id=file_id):
            files.learned_retraction(author, file_id, hlc)


def _entry(message: Message, names: dict[DeviceId, str]) -> HistoryEntry | None:
    body = _body(message)
    if not isinstance(body, TextBody):
        return None
    return HistoryEntry(
        msg_id=message.msg_id,
        node=message.author,
        name=names.get(message.author, short_id(message.author)),
        text=body.text,
        unix_ms=hlc_ms(message.content.hlc),
    )


def _body(message: Message) -> object:
    try:
        return decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version; shown by none, kept by all
