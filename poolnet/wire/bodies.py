"""Bodies of messages, by kind. Unknown kinds of a newer version are stored and passed on all the same."""

from functools import lru_cache
from typing import Any

import attrs

from poolnet.errors import WireError
from poolnet.ids import ID_SIZE, DeviceId, FileId, MsgId
from poolnet.limits import (
    MAX_APP_NAME_CHARS,
    MAX_APP_SIZE,
    MAX_BODY_SIZE,
    MAX_FILE_NAME_BYTES,
    MAX_FILE_SIZE,
    MAX_FOLDER_FILES,
    MAX_FOLDER_LIST_SIZE,
    MAX_MEDIA_SIZE,
    MAX_MENTIONS,
    MAX_NAME_CHARS,
    MAX_PREVIEW_SIZE,
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
    #: The stream that this file is the whole of, or empty.
    stream_id: bytes = appended(data(max_size=ID_SIZE), default=b"")


@attrs.frozen(kw_only=True)
class FolderBody:
    """The author gives a folder to everyone, as two files: the list of what is in it, and its content.

    The list (wire/folder_list.py) names the path, size and id of each file; the content is all of them, one after the
    other, and the list's id at the end. `size` is the content's, `list_size` the list's. The two ids differ.
    """

    KIND = "folder"
    file_id: FileId = wire(ID32)
    list_id: FileId = wire(ID32)
    name: str = wire(short_text(max_bytes=MAX_FILE_NAME_BYTES))
    size: int = wire(integer(0, MAX_FILE_SIZE))
    list_size: int = wire(integer(0, MAX_FOLDER_LIST_SIZE))
    file_count: int = wire(integer(0, MAX_FOLDER_FILES))


@attrs.frozen(kw_only=True)
class MediaBody:
    """A picture that everyone is meant to see at once. `preview` is a tiny JPEG of it, empty if there is none."""

    KIND = "media"
    file_id: FileId = wire(ID32)
    name: str = wire(short_text(max_bytes=MAX_FILE_NAME_BYTES))
    size: int = wire(integer(1, MAX_MEDIA_SIZE))
    width: int = wire(integer(0, 2**31))
    height: int = wire(integer(0, 2**31))
    preview: bytes = wire(data(max_size=MAX_PREVIEW_SIZE))


@attrs.frozen(kw_only=True)
class StreamBody:
    """The author publishes a stream from now on: a file that grows. `protocol.stream_pieces` makes its id of `nonce`.

    When it is finished the author offers it as a file (an offer with `stream_id`).
    """

    KIND = "stream"
    nonce: bytes = wire(data(min_size=16, max_size=16))
    name: str = wire(short_text(max_bytes=MAX_FILE_NAME_BYTES))


@attrs.frozen(kw_only=True)
class RetractOfferBody:
    """The author no longer offers this file, folder, picture or stream (`file_id` is then the stream's id)."""

    KIND = "retract_offer"
    file_id: FileId = wire(ID32)


@attrs.frozen(kw_only=True)
class SignalBody:
    """A signal for one node while no sync server is there to pass it on. Passed on, never stored."""

    KIND = "signal"
    to: DeviceId = wire(ID32)
    signal: bytes = wire(data(max_size=MAX_SIGNAL_SIZE))


Body = (
    TextBody
    | AnnouncementBody
    | RetractMessageBody
    | AppBody
    | ProfileBody
    | OfferBody
    | FolderBody
    | MediaBody
    | StreamBody
    | RetractOfferBody
    | SignalBody
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
        FolderBody,
        MediaBody,
        StreamBody,
        RetractOfferBody,
        SignalBody,
    )
}
#: Kinds by which a device offers something that others can fetch.
OFFER_KINDS = frozenset({OfferBody.KIND, FolderBody.KIND, MediaBody.KIND, StreamBody.KIND})
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
    _check_sense(body)
    return body


def _check_sense(body: Body) -> None:
    """Refuse what no honest author writes although each field is what it may be.

    Raises:
        WireError: it is such a body.
    """
    match body:
        case ProfileBody(name=name) if not name.strip():
            raise WireError("an empty name")
        case FolderBody(file_id=file_id, list_id=list_id) if file_id == list_id:
            raise WireError("a folder that is its own list")
        case _:
            pass
