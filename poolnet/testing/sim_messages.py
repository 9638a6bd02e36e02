"""What the members of a simulated pool say: a stamp, an author, a seal and a text; the id is the hash of all that.

The seal stands for a signature: nobody in a simulation makes one for somebody else, though anybody could. So a message
that was altered on its way is known by it, and a hundred nodes do not spend their time with signatures. Members are
whoever is there: statements and membership are tested elsewhere.

A text may offer a file (`offer_text`).

One copy of a message is met by every node several times; what follows from its bytes alone is worked out once.
"""

from functools import lru_cache

from blake3 import blake3

from poolnet.clock import Hlc
from poolnet.errors import WireError
from poolnet.ids import ID_SIZE, DeviceId, FileId, MsgId, PoolId, PublicKey
from poolnet.wire.message import Message, MessageContent, MessageKey

_POOL = PoolId(bytes(32))
_STAMP_SIZE = 8
_SEAL_SIZE = 8
_AUTHOR_END = _STAMP_SIZE + ID_SIZE
_HEADER_SIZE = _AUTHOR_END + _SEAL_SIZE
_OFFER = b"\x00offer "
_OFFER_SIZE = len(_OFFER) + ID_SIZE + 8
#: Of so many messages what was worked out is remembered: those that are on their way at one time.
_REMEMBERED = 8192


def make_message(hlc: Hlc, author: DeviceId, text: bytes) -> bytes:
    """Return a message as it travels."""
    stamp = hlc.to_bytes(_STAMP_SIZE, "big")
    return stamp + author + _seal(stamp + author, text) + text


@lru_cache(_REMEMBERED)
def identify(encoded: bytes) -> MsgId:
    """Return the id of a message.

    Raises:
        WireError: it is none.
    """
    if len(encoded) < _HEADER_SIZE:
        raise WireError("not a message")
    return MsgId(blake3(encoded).digest())


@lru_cache(_REMEMBERED)
def is_genuine(encoded: bytes) -> bool:
    """Return whether a message is what its author said."""
    return encoded[_AUTHOR_END:_HEADER_SIZE] == _seal(encoded[:_AUTHOR_END], encoded[_HEADER_SIZE:])


@lru_cache(_REMEMBERED)
def key_of(msg_id: MsgId, encoded: bytes) -> MessageKey:
    """Return the place of a message in the order."""
    return (Hlc(int.from_bytes(encoded[:_STAMP_SIZE], "big")), msg_id)


def author_of(encoded: bytes) -> DeviceId:
    """Return who said it."""
    return DeviceId(encoded[_STAMP_SIZE:_AUTHOR_END])


def text_of(encoded: bytes) -> bytes:
    """Return what was said."""
    return encoded[_HEADER_SIZE:]


@lru_cache(_REMEMBERED)
def decode(msg_id: MsgId, encoded: bytes) -> Message:
    """Return a message as the machines know it."""
    content = MessageContent(
        pool_id=_POOL,
        kind="text",
        hlc=key_of(msg_id, encoded)[0],
        author_key=PublicKey(author_of(encoded)),
        body=text_of(encoded),
    )
    return Message(msg_id=msg_id, content=content, signed=encoded, signature=b"")


def offer_text(file_id: FileId, size_bytes: int) -> bytes:
    """Return a text that offers a file."""
    return _OFFER + file_id + size_bytes.to_bytes(8, "big")


def offered(encoded: bytes) -> tuple[FileId, int] | None:
    """Return the file that a message offers, and its size; None if it offers none."""
    if len(encoded) != _HEADER_SIZE + _OFFER_SIZE or not encoded.startswith(_OFFER, _HEADER_SIZE):
        return None
    end = len(encoded)
    return FileId(encoded[end - 8 - ID_SIZE : end - 8]), int.from_bytes(encoded[end - 8 :], "big")


def _seal(header: bytes, text: bytes) -> bytes:
    return blake3(header + text, derive_key_context="poolnet simulated signature 1").digest(_SEAL_SIZE)
