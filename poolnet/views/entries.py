"""What people read of a pool: one entry a message, with its author's name; made from messages and from events.

People read texts, announcements, offers of all kinds, and that there is something of a kind that this version does not
know. Names, retractions and the messages of programs are not for reading; a program asks for its own by kind. An entry
holds what its author wrote, as it was written: an interface must make control characters harmless.
"""

from collections.abc import Callable, Collection

import attrs

from poolnet.clock import MAX_HLC, Hlc, hlc_ms, make_hlc
from poolnet.errors import WireError
from poolnet.events import (
    AnnouncementReceived,
    FileOffered,
    MessageReceived,
    OfferKind,
    PoolEvent,
    UnknownMessageReceived,
)
from poolnet.ids import DeviceId, MsgId
from poolnet.wire.bodies import (
    EPHEMERAL_KINDS,
    AnnouncementBody,
    AppBody,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractMessageBody,
    RetractOfferBody,
    StreamBody,
    TextBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message, MessageKey

#: What a device is called.
NameOf = Callable[[DeviceId], str]
#: Whether a device was an admin at a time: whose announcements count.
WasAdmin = Callable[[DeviceId, Hlc], bool]

_NOT_READ = EPHEMERAL_KINDS | {ProfileBody.KIND, RetractMessageBody.KIND, RetractOfferBody.KIND, AppBody.KIND}


@attrs.frozen(kw_only=True)
class HistoryEntry:
    """One message, as people read it.

    Attributes:
        key: its place in the order of the pool.
        name: what its author is called now.
        kind: of the message, but one for all that is offered: "offer".
        text: of a text or an announcement; the name of what is offered; None of other kinds.
        mentions: the devices that a text calls by name; `to_all`: it calls everyone.
        app_name: of a program's message, with its `data`.
        offer_kind: what is offered, None if nothing is; `file_count`: the files of a folder, 1 of everything else.
        is_late: in a live view: it came when messages were known that follow it in the order.
    """

    msg_id: MsgId
    key: MessageKey
    node: DeviceId
    name: str
    kind: str
    text: str | None
    unix_ms: int
    mentions: tuple[DeviceId, ...] = ()
    to_all: bool = False
    app_name: str | None = None
    data: bytes | None = attrs.field(default=None, repr=False)
    is_late: bool = False
    offer_kind: OfferKind | None = None
    file_count: int = 1


def is_for_reading(message: Message, kinds: Collection[str] | None, was_admin: WasAdmin) -> bool:
    """Return whether a message is of the `kinds` asked for (None: those that people read), and counts at all.

    An announcement by somebody who is no admin is no message.
    """
    kind = message.content.kind
    if kind in _NOT_READ if kinds is None else kind not in kinds:
        return False
    return kind != AnnouncementBody.KIND or was_admin(message.author, message.content.hlc)


def entry_of(message: Message, name_of: NameOf) -> HistoryEntry:
    """Return a message of any kind as an entry."""
    entry = HistoryEntry(
        msg_id=message.msg_id,
        key=message.key,
        node=message.author,
        name=name_of(message.author),
        kind=message.content.kind,
        text=None,
        unix_ms=hlc_ms(message.content.hlc),
    )
    match _body(message):
        case TextBody(text=text, mentions=mentions, to_all=to_all):
            return attrs.evolve(entry, text=text, mentions=mentions, to_all=to_all)
        case AnnouncementBody(text=text) | ProfileBody(name=text):
            return attrs.evolve(entry, text=text)
        case OfferBody(name=name):
            return _offered(entry, "file", name)
        case FolderBody(name=name, file_count=file_count):
            return _offered(entry, "folder", name, file_count)
        case MediaBody(name=name):
            return _offered(entry, "media", name)
        case StreamBody(name=name):
            return _offered(entry, "stream", name)
        case AppBody(name=app_name, data=data):
            return attrs.evolve(entry, app_name=app_name, data=data)
        case _:
            return entry


def entry_of_event(event: PoolEvent) -> HistoryEntry | None:
    """Return the entry of a message that people read, from the event that tells of it; None of other events."""
    match event:
        case MessageReceived():
            return _heard(event, TextBody.KIND, event.text, mentions=event.mentions, to_all=event.to_all)
        case AnnouncementReceived():
            return _heard(event, AnnouncementBody.KIND, event.text)
        case UnknownMessageReceived():
            return _heard(event, event.kind, None)
        case FileOffered(msg_id=msg_id, key=key) if msg_id is not None and key is not None:
            return HistoryEntry(
                msg_id=msg_id,
                key=key,
                node=event.node,
                name=event.name,
                kind=OfferBody.KIND,
                text=event.file_name,
                unix_ms=hlc_ms(key[0]),
                offer_kind=event.kind,
                file_count=event.file_count,
            )
        case _:
            return None


def place_of_time(unix_ms: int) -> MessageKey:
    """Return the place before all messages of that millisecond, after all earlier ones."""
    return (make_hlc(min(max(unix_ms, 0), hlc_ms(MAX_HLC))), MsgId(b""))


def place_after(key: MessageKey) -> MessageKey:
    """Return the place directly after a message: nothing lies between them."""
    return (key[0], MsgId(key[1] + b"\0"))


def _offered(entry: HistoryEntry, offer_kind: OfferKind, name: str, file_count: int = 1) -> HistoryEntry:
    return attrs.evolve(entry, kind=OfferBody.KIND, text=name, offer_kind=offer_kind, file_count=file_count)


def _heard(
    event: MessageReceived | AnnouncementReceived | UnknownMessageReceived,
    kind: str,
    text: str | None,
    *,
    mentions: tuple[DeviceId, ...] = (),
    to_all: bool = False,
) -> HistoryEntry:
    return HistoryEntry(
        msg_id=event.msg_id,
        key=event.key,
        node=event.node,
        name=event.name,
        kind=kind,
        text=text,
        unix_ms=event.unix_ms,
        mentions=mentions,
        to_all=to_all,
        is_late=event.is_late,
    )


def _body(message: Message) -> object:
    try:
        return decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version
