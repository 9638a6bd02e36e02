"""Messages: signed bytes and a signature; the id is the hash of exactly the signed bytes.

What is signed is an array ``[label, pool_id, kind, hlc, author key, body]`` in CBOR. Its first two items are the same
in all messages of a pool, so they neither travel nor are stored: the wire form is ``[signed bytes without them,
signature]``, and who decodes it says which pool it is of. What is passed on is always the original bytes, never a
re-encoding. identity/authorship.py checks the signature.
"""

from functools import lru_cache

import attrs
from blake3 import blake3

from poolnet.clock import MAX_HLC, Hlc
from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId, PoolId, PublicKey
from poolnet.limits import MAX_BODY_SIZE, MAX_KIND_CHARS, MAX_MESSAGE_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import (
    ID32,
    SIGNATURE,
    data,
    decode_fields_untrusted,
    encode_fields,
    integer,
    text,
    wire,
)

MESSAGE_LABEL = "poolnet message 1"
#: Where a message is in the order of the pool: `Message.key`.
MessageKey = tuple[Hlc, MsgId]


@attrs.frozen(kw_only=True)
class MessageContent:
    """The signed part of a message. `body` is CBOR of a class in wire/bodies.py, by `kind`."""

    label: str = wire(text(max_chars=64), default=MESSAGE_LABEL)
    pool_id: PoolId = wire(ID32)
    kind: str = wire(text(min_chars=1, max_chars=MAX_KIND_CHARS))
    hlc: Hlc = wire(integer(0, MAX_HLC))
    author_key: PublicKey = wire(ID32)
    body: bytes = wire(data(max_size=MAX_BODY_SIZE))


@attrs.frozen(kw_only=True)
class Message:
    """A message as it is stored, ordered (by `key`) and passed on."""

    msg_id: MsgId
    content: MessageContent
    signed: bytes = attrs.field(repr=False)
    signature: bytes = attrs.field(repr=False)

    @property
    def author(self) -> DeviceId:
        """The device that wrote it."""
        return author_id(self.content.author_key)

    @property
    def key(self) -> MessageKey:
        """The place in the order of the pool, the same on every node."""
        return (self.content.hlc, self.msg_id)


@attrs.frozen(kw_only=True)
class _Envelope:
    shortened: bytes = wire(data(min_size=1, max_size=MAX_MESSAGE_SIZE))
    signature: bytes = wire(SIGNATURE)


@lru_cache(maxsize=1024)
def author_id(author_key: PublicKey) -> DeviceId:
    """Return the device of a key."""
    return DeviceId(blake3(author_key).digest())


def encode_content(content: MessageContent) -> bytes:
    """Return the bytes to be signed."""
    return encode_cbor(encode_fields(content))


def message_id(signed: bytes) -> MsgId:
    """Return the id of a message: the hash of its signed bytes."""
    return MsgId(blake3(signed).digest())


def encode_message(message: Message) -> bytes:
    """Return a message as it travels and is stored."""
    signed = message.signed
    header, rest = signed[:1], signed[1 + len(_common(message.content.pool_id)) :]
    return encode_cbor([header + rest, message.signature])


def message_id_untrusted(encoded: bytes, pool_id: PoolId) -> MsgId:
    """Return the id of a message of that pool, without looking into it.

    Raises:
        WireError: not an encoded message, or over a limit.
    """
    return message_id(_signed(_open_envelope(encoded), pool_id))


def decode_message_untrusted(encoded: bytes, pool_id: PoolId) -> Message:
    """Return the message of that pool in `encoded`; its signature is not checked here.

    Raises:
        WireError: not a message of this version, or over a limit.
    """
    envelope = _open_envelope(encoded)
    signed = _signed(envelope, pool_id)
    content = decode_fields_untrusted(MessageContent, decode_cbor_untrusted(signed, max_size=MAX_MESSAGE_SIZE))
    if content.label != MESSAGE_LABEL or content.pool_id != pool_id:  # the first byte made them something else
        raise WireError("not a message of this version")
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=envelope.signature)


@lru_cache(maxsize=64)  # of a new message first the id is asked for, then the rest
def _open_envelope(encoded: bytes) -> _Envelope:
    return decode_fields_untrusted(_Envelope, decode_cbor_untrusted(encoded, max_size=MAX_MESSAGE_SIZE))


def _signed(envelope: _Envelope, pool_id: PoolId) -> bytes:
    return envelope.shortened[:1] + _common(pool_id) + envelope.shortened[1:]


@lru_cache(maxsize=256)
def _common(pool_id: PoolId) -> bytes:
    """Return what follows the array header, of one byte, in the signed bytes of all messages of a pool."""
    return encode_cbor(MESSAGE_LABEL) + encode_cbor(pool_id)
