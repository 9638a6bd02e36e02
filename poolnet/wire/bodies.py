"""Bodies of messages, by kind. Unknown kinds of a newer version are stored and passed on all the same."""

from functools import lru_cache
from typing import Any

import attrs

from poolnet.errors import WireError
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import (
    MAX_APP_NAME_CHARS,
    MAX_APP_SIZE,
    MAX_BODY_SIZE,
    MAX_FILE_NAME_BYTES,
    MAX_FILE_SIZE,
    MAX_MENTIONS,
    MAX_NAME_CHARS,
    MAX_SIGNAL_SIZE,
    MAX_TEXT_CHARS,
)
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import (
    BOOLEAN,
    ID32,
    appended,
    data,
    decode_fields_untrusted,
    encode_fields,
    integer,
    list_of,
    short_text,
    text,
    wire,
)


@attrs.frozen(kw_only=True)
class TextBody:
    """Plain text, never markup. `mentions` are the devices that it calls, `to_all` calls everyone."""

    KIND = "text"
    text: str = wire(text(min_chars=1, max_chars=MAX_TEXT_CHARS))
    mentions: tuple[DeviceId, ...] = appended(list_of(ID32, max_items=MAX_MENTIONS), default=())
    to_all: bool = appended(BOOLEAN, default=False)


@attrs.frozen(kw_only=True)
class AnnouncementBody:
    """Text that an admin wants everyone to see. By others it is no message."""

    KIND = "announcement"
    text: str = wire(text(min_chars=1, max_chars=MAX_TEXT_CHARS))


@attrs.frozen(kw_only=True)
class RetractMessageBody:
    """That message is taken back: by its author, or by an admin. By others this means nothing.

    It stays in the history in place of the message, which is deleted everywhere and refused from then on.
    """

    KIND = "retract_message"
    msg_id: MsgId = wire(ID32)


@attrs.frozen(kw_only=True)
class AppBody:
    """A message of a program that is built on poolnet. `name` says which, and what kind: ``chess.move``."""

    KIND = "app"
    name: str = wire(text(min_chars=1, max_chars=MAX_APP_NAME_CHARS))
    data: bytes = wire(data(max_size=MAX_APP_SIZE))


@attrs.frozen(kw_only=True)
class ProfileBody:
    """The author's display name in this pool from now on."""

    KIND = "profile"
    name: str = wire(text(min_chars=1, max_chars=MAX_NAME_CHARS))


@attrs.frozen(kw_only=True)
class OfferBody:
    """The author holds this file and gives it to everyone. `name` is as written: make it safe before use."""

    KIND = "offer"
    file_id: FileId = wire(ID32)
    name: str = wire(short_text(max_bytes=MAX_FILE_NAME_BYTES))
    size: int = wire(integer(0, MAX_FILE_SIZE))


@attrs.frozen(kw_only=True)
class RetractOfferBody:
    """The author no longer offers this file."""

    KIND = "retract_offer"
    file_id: FileId = wire(ID32)


@attrs.frozen(kw_only=True)
class SignalBody:
    """A signal for one node while no sync server is there to pass it on. Passed on, never stored."""

    KIND = "signal"
    to: DeviceId = wire(ID32)
    signal: bytes = wire(data(max_size=MAX_SIGNAL_SIZE))


Body = (
    TextBody | AnnouncementBody | RetractMessageBody | AppBody | ProfileBody | OfferBody | RetractOfferBody | SignalBody
)
_CLASSES: dict[str, type[Any]] = {
    cls.KIND: cls
    for cls in (
        TextBody,
        AnnouncementBody,
        RetractMessageBody,
        AppBody,
        ProfileBody,
        OfferBody,
        RetractOfferBody,
        SignalBody,
    )
}
#: Kinds that are passed on but are not part of the history.
EPHEMERAL_KINDS = frozenset({SignalBody.KIND})


def encode_body(body: Body) -> bytes:
    """Return the body of a message in wire form."""
    return encode_cbor(encode_fields(body))


@lru_cache(maxsize=64)  # of a new message it is checked first, and needed a moment later
def decode_body_untrusted(kind: str, encoded: bytes) -> Body | None:
    """Return the body of a message of `kind`, or None for a kind that this version does not know.

    Raises:
        WireError: of a known kind, and malformed.
    """
    cls = _CLASSES.get(kind)
    if cls is None:
        return None
    items = decode_cbor_untrusted(encoded, max_size=MAX_BODY_SIZE)
    body: Body = decode_fields_untrusted(cls, items)
    if isinstance(body, ProfileBody) and not body.name.strip():
        raise WireError("an empty name")
    return body
