"""What the offers in a pool's history come to."""

from poolnet.errors import WireError
from poolnet.file_manager import FileManager
from poolnet.message_db import MessageDB
from poolnet.wire.bodies import OfferBody, RetractOfferBody, decode_body_untrusted
from poolnet.wire.message import Message


async def replay_offers(db: MessageDB, files: FileManager) -> None:
    """Tell a file manager of all offers and retractions in the history."""
    for message in await db.of_kinds((OfferBody.KIND, RetractOfferBody.KIND)):
        try:
            body = decode_body_untrusted(message.content.kind, message.content.body)
        except WireError:
            continue  # of another version; passed on, and of no use here
        apply_offer(body, message, files)


def apply_offer(body: object, message: Message, files: FileManager) -> None:
    """Tell a file manager of an offer or a retraction; other bodies are none of its business."""
    author, hlc = message.author, message.content.hlc
    match body:
        case OfferBody(file_id=file_id, name=name, size=size):
            files.learned_offer(author, name, file_id, size, hlc, msg_id=message.msg_id)
        case RetractOfferBody(file_id=file_id):
            files.learned_retraction(author, file_id, hlc)
