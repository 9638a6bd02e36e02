"""What the offers in a pool's history come to."""

from poolnet.errors import WireError
from poolnet.file_manager import FileManager
from poolnet.files.offer_book import OfferedBody
from poolnet.ids import FileId
from poolnet.message_db import MessageDB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.wire.bodies import (
    OFFER_KINDS,
    FolderBody,
    MediaBody,
    OfferBody,
    RetractOfferBody,
    StreamBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message


async def replay_offers(db: MessageDB, files: FileManager) -> None:
    """Tell a file manager of all offers and retractions in the history."""
    for message in await db.of_kinds(OFFER_KINDS | {RetractOfferBody.KIND}):
        try:
            body = decode_body_untrusted(message.content.kind, message.content.body)
        except WireError:
            continue  # of another version; passed on, and of no use here
        apply_offer(body, message, files)


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
