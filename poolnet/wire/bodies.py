"""Bodies of messages, by kind. Unknown kinds of a newer version are stored and passed on all the same."""

from typing import Any

import attrs

from poolnet.errors import WireError
from poolnet.ids import DeviceId, FileId
from poolnet.limits import (
    MAX_BODY_SIZE,
    MAX_FILE_NAME_BYTES,
    MAX_FILE_SIZE,
    MAX_NAME_CHARS,
    MAX_SIGNAL_SIZE,
    MAX_TEXT_CHARS,
)
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.schema import ID32, data, decode_fields_untrusted, encode_fields, integer, short_text, text, wire


@attrs.frozen(kw_only=True)
class TextBody:
    """Plain text, never markup."""

    KIND = "text"
    text: str = wire(text(min_chars=1, max_chars=MAX_TEXT_CHARS))


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


Body = TextBody | ProfileBody | OfferBody | RetractOfferBody | SignalBody
_CLASSES: dict[str, type[Any]] = {
    cls.KIND: cls for cls in (TextBody, ProfileBody, OfferBody, RetractOfferBody, SignalBody)
}
#: Kinds that are passed on but are not part of the history.
EPHEMERAL_KINDS = frozenset({SignalBody.KIND})


def encode_body(body: Body) -> bytes:
    """Return the body of a message in wire form."""
    return encode_cbor(encode_fields(body))


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
