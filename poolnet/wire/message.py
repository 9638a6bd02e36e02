"""Messages: signed bytes and a signature; the id is the hash of exactly the signed bytes.

A message is an array ``[label, pool_id, kind, hlc, author key, body]`` in CBOR, signed as it stands. What is passed on
is always the original bytes, never a re-encoding. identity/authorship.py checks the signature.
"""

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
        return DeviceId(blake3(self.content.author_key).digest())

    @property
    def key(self) -> tuple[Hlc, MsgId]:
        """The place in the order of the pool, the same on every node."""
        return (self.content.hlc, self.msg_id)


@attrs.frozen(kw_only=True)
class _Envelope:
    signed: bytes = wire(data(max_size=MAX_MESSAGE_SIZE))
    signature: bytes = wire(SIGNATURE)


def encode_content(content: MessageContent) -> bytes:
    """Return the bytes to be signed."""
    return encode_cbor(encode_fields(content))


def message_id(signed: bytes) -> MsgId:
    """Return the id of a message: the hash of its signed bytes."""
    return MsgId(blake3(signed).digest())


def encode_message(message: Message) -> bytes:
    """Return a message as it travels and is stored."""
    return encode_cbor([message.signed, message.signature])


def decode_message_untrusted(encoded: bytes) -> Message:
    """Return the message in `encoded`; its signature is not checked here.

    Raises:
        WireError: not a message of this version, or over a limit.
    """
    envelope = decode_fields_untrusted(_Envelope, decode_cbor_untrusted(encoded, max_size=MAX_MESSAGE_SIZE))
    content = decode_fields_untrusted(MessageContent, decode_cbor_untrusted(envelope.signed, max_size=MAX_MESSAGE_SIZE))
    if content.label != MESSAGE_LABEL:
        raise WireError("not a message of this version")
    return Message(
        msg_id=message_id(envelope.signed),
        content=content,
        signed=envelope.signed,
        signature=envelope.signature,
    )
