"""Who wrote a message: signing what wire/message.py encodes, and checking it."""

from poolnet.clock import Hlc
from poolnet.errors import TextTooLong, WireError
from poolnet.identity.keys import DeviceKey, verify_signature
from poolnet.ids import PoolId
from poolnet.wire.bodies import Body, decode_body_untrusted, encode_body
from poolnet.wire.message import Message, MessageContent, encode_content, message_id


def sign_message(key: DeviceKey, *, pool_id: PoolId, hlc: Hlc, body: Body) -> Message:
    """Return a message by the holder of `key` in a pool.

    Raises:
        TextTooLong: the body holds something that other devices would refuse: empty, or over its limit.
    """
    encoded = encode_body(body)
    try:
        decode_body_untrusted(body.KIND, encoded)
    except WireError as exc:
        raise TextTooLong(str(exc)) from exc
    content = MessageContent(pool_id=pool_id, kind=body.KIND, hlc=hlc, author_key=key.public_key, body=encoded)
    signed = encode_content(content)
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=key.sign(signed))


def signature_is_valid(message: Message) -> bool:
    """Return whether the device that the message names as its author signed it, in this pool, with this body."""
    return verify_signature(message.content.author_key, message.signature, message.signed)
