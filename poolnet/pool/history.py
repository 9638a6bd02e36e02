"""What the offers and names in a pool's history come to."""

from collections.abc import Iterable

from poolnet.errors import WireError
from poolnet.file_manager import FileManager
from poolnet.files.offer_book import OfferedBody
from poolnet.ids import DeviceId, FileId
from poolnet.message_db import MessageDB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.wire.bodies import (
    OFFER_KINDS,
    Body,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractOfferBody,
    StreamBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message, MessageKey


async def replay_offers(db: MessageDB, files: FileManager) -> None:
    """Tell a file manager what the offers and retractions in the history come to."""
    for message in what_counts(await db.of_kinds(OFFER_KINDS | {RetractOfferBody.KIND})):
        apply_offer(_decoded(message), message, files)


def what_counts(messages: Iterable[Message]) -> list[Message]:
    """Return those of messages about names and offers that still count: the latest name of each device, and of each
    device and file what came since the last retraction, that included.

    Told one after the other, all that there ever was would come and go again: an offer that was withdrawn and made anew
    would end, for a moment, everything that hangs on it. Other messages are left out.
    """
    about = [(message, *_subject(message)) for message in messages]
    ended: dict[_Subject, MessageKey] = {}
    for message, subject, is_end in about:
        if is_end and subject is not None:
            ended[subject] = max(message.key, ended.get(subject, message.key))
    return [
        message
        for message, subject, _ in about
        if subject is not None and (subject not in ended or message.key >= ended[subject])
    ]


#: Whose name, or whose offer of which file.
_Subject = tuple[DeviceId, FileId | None]


def _subject(message: Message) -> tuple[_Subject | None, bool]:
    """Return what a message is about, and whether nothing counts that was said of it before."""
    match body := _decoded(message):
        case ProfileBody():
            return (message.author, None), True
        case OfferBody() | FolderBody() | MediaBody() | StreamBody():
            return (message.author, offered_id(body, message)), False
        case RetractOfferBody(file_id=file_id):
            return (message.author, file_id), True
        case _:
            return None, False


def _decoded(message: Message) -> Body | None:
    try:
        return decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version; passed on, and of no use here


def apply_offer(body: object, message: Message, files: FileManager) -> None:
    """Tell a file manager of an offer or a retraction; other bodies are none of its business."""
    author, hlc = message.author, message.content.hlc
    match body:
        case OfferBody() | FolderBody() | MediaBody() | StreamBody():
            files.learned_offer(author, body, hlc, file_id=offered_id(body, message), msg_id=message.msg_id)
        case RetractOfferBody(file_id=file_id):
            files.learned_retraction(author, file_id, hlc)


def offered_id(body: OfferedBody, message: Message) -> FileId:
    """Return the id by which an offer is known, and retracted: that of the file, or of the stream."""
    if isinstance(body, StreamBody):
        return stream_id_of(message.author, message.content.pool_id, body.nonce)
    return body.file_id
