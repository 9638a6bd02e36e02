"""A history as a file: JSON lines for programs, with everything; Markdown for people, with what people read.

What others wrote does nothing where it ends up: JSON is ASCII, and in Markdown no character has a meaning.
"""

import base64
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TextIO, assert_never

import trio

from poolnet.clock import Hlc, hlc_ms
from poolnet.errors import LocalError, OutputExists, WireError
from poolnet.ids import ID_SIZE, DeviceId, FileId, encode_id, short_id
from poolnet.printable import printable
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.storage.durable import PRIVATE_FILE, store_errors
from poolnet.storage.files import publish_without_overwrite, run_on_disk
from poolnet.storage.held_files import create_beside, remove_left_over
from poolnet.storage.message_blocks import is_new_session
from poolnet.wire.bodies import (
    AnnouncementBody,
    AppBody,
    Body,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractMessageBody,
    RetractOfferBody,
    SignalBody,
    StreamBody,
    TextBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message, MessageKey

ExportFormat = Literal["jsonl", "markdown"]
_MARKUP: Final = re.compile(r"([\\`*_\[\]<>#|~&!])")
_MARKUP_AT_START: Final = re.compile(r"^(\d*)([-+=.)])")


class Writer(Protocol):
    """Turns messages, all of a history in order, into text. `count` is how many it has written."""

    count: int

    def lines(self, messages: Sequence[Message]) -> str:
        """Return the text for the messages that come next."""


def make_writer(
    format: ExportFormat, names: Mapping[DeviceId, str], was_admin: Callable[[DeviceId, Hlc], bool]
) -> Writer:
    """Return what writes a format; `names` are what authors are called now.

    Raises:
        LocalError: there is no such format.
    """
    match format:
        case "jsonl":
            return _JsonLines(names)
        case "markdown":
            return _Markdown(names, was_admin)
        case _:
            raise LocalError(f"a history can be exported as jsonl or markdown, not as {format!r}")


def names_of(profiles: Iterable[Message]) -> dict[DeviceId, str]:
    """Return what devices are called, by their profile messages in order: the last one counts."""
    bodies = ((message.author, _body(message)) for message in profiles)
    return {author: body.name for author, body in bodies if isinstance(body, ProfileBody)}


class ExportFile:
    """A file that is being written. Made by `open_export`."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file

    async def write(self, text: str) -> None:
        """Append."""
        await run_on_disk(self._write, text)

    def _write(self, text: str) -> None:
        with store_errors("write", self._path):
            self._file.write(text)


@contextlib.asynccontextmanager
async def open_export(path: Path) -> AsyncIterator[ExportFile]:
    """Write a file that is at `path` when the block ends, whole and durable, and not at all if the block fails.

    Raises:
        OutputExists: something is there.
        StoreError: it cannot be written (`DiskFull` if that is why).
    """
    part, file = await run_on_disk(_create, path)
    try:
        yield ExportFile(path, file)
        await run_on_disk(_finish, file, part, path)
    finally:
        with trio.CancelScope(shield=True):  # no deadline needed: two calls of the system
            await run_on_disk(_clean_up, file, part)


class _JsonLines:
    def __init__(self, names: Mapping[DeviceId, str]) -> None:
        self._names = names
        self.count = 0

    def lines(self, messages: Sequence[Message]) -> str:
        self.count += len(messages)
        return "".join(json.dumps(self._record(message)) + "\n" for message in messages)

    def _record(self, message: Message) -> dict[str, Any]:
        return {
            "id": encode_id(message.msg_id),
            "time": _time(message).isoformat(timespec="milliseconds"),
            "node": encode_id(message.author),
            "name": _name(self._names, message),
            "kind": message.content.kind,
            **_fields(message),
        }


class _Markdown:
    def __init__(self, names: Mapping[DeviceId, str], was_admin: Callable[[DeviceId, Hlc], bool]) -> None:
        self._names = names
        self._was_admin = was_admin
        self._last: MessageKey | None = None
        self._has_heading = False
        self.count = 0

    def lines(self, messages: Sequence[Message]) -> str:
        return "".join(map(self._line, messages))

    def _line(self, message: Message) -> str:
        if self._last is None or is_new_session(self._last, message.key):
            self._has_heading = False
        self._last = message.key
        said = self._said(message)
        if said is None:
            return ""
        heading = "" if self._has_heading else f"\n## {_time(message):%Y-%m-%d %H:%M} UTC\n\n"
        self._has_heading = True
        self.count += 1
        return f"{heading}- {_time(message):%H:%M} **{_escaped(_name(self._names, message))}**{said}\n"

    def _said(self, message: Message) -> str | None:
        """Return what comes after the name; None for what people do not read."""
        match _body(message):
            case TextBody(text=text):
                return f": {_paragraph(text)}"
            case AnnouncementBody(text=text):
                is_valid = self._was_admin(message.author, message.content.hlc)
                return f" announces: {_paragraph(text)}" if is_valid else None
            case OfferBody(name=name, size=size):
                return f" offers {_escaped(name)} ({_size(size)})"
            case FolderBody(name=name, size=size, file_count=count):
                return f" offers the folder {_escaped(name)} ({_counted(count, 'file')}, {_size(size)})"
            case MediaBody(name=name, size=size):
                return f" shows {_escaped(name)} ({_size(size)})"
            case StreamBody(name=name):
                return f" streams {_escaped(name)}"
            case None:
                return f" sent something that this version of poolnet does not know ({_escaped(message.content.kind)})"
        return None


def _body(message: Message) -> Body | None:
    try:
        return decode_body_untrusted(message.content.kind, message.content.body)
    except WireError:
        return None  # of another version


def _fields(message: Message) -> dict[str, Any]:
    """Return what a message says, for JSON."""
    match _body(message):
        case TextBody(text=text, mentions=mentions, to_all=to_all):
            return {"text": text, "mentions": [encode_id(device) for device in mentions], "to_all": to_all}
        case AnnouncementBody(text=text):
            return {"text": text}
        case ProfileBody(name=name):
            return {"display_name": name}
        case OfferBody() | FolderBody() | MediaBody() | StreamBody() as offer:
            return _offer_fields(message, offer)
        case RetractOfferBody(file_id=file_id):
            return {"file_id": encode_id(file_id)}
        case RetractMessageBody(msg_id=msg_id):
            return {"message": encode_id(msg_id)}
        case AppBody(name=name, data=data):
            return {"app_name": name, "data": _base64(data)}
        case SignalBody() | None:
            return {"body": _base64(message.content.body)}


def _offer_fields(message: Message, offer: OfferBody | FolderBody | MediaBody | StreamBody) -> dict[str, Any]:
    if isinstance(offer, StreamBody):
        stream_id = stream_id_of(message.author, message.content.pool_id, offer.nonce)
        return {"file_id": encode_id(stream_id), "file_name": offer.name}
    fields = {"file_id": encode_id(offer.file_id), "file_name": offer.name, "size": offer.size}
    match offer:
        case OfferBody(stream_id=whole_of):
            return {**fields, "stream_id": encode_id(FileId(whole_of))} if len(whole_of) == ID_SIZE else fields
        case FolderBody(list_id=list_id, list_size=list_size, file_count=count):
            return {**fields, "list_id": encode_id(list_id), "list_size": list_size, "file_count": count}
        case MediaBody(width=width, height=height, preview=preview):
            return {**fields, "width": width, "height": height, "preview": _base64(preview)}
        case _:
            assert_never(offer)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _size(size_bytes: int) -> str:
    """Return a size as people read it."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1023.95:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _time(message: Message) -> datetime:
    """Return when a message was written, as far as a calendar can say it."""
    try:
        return datetime.fromtimestamp(hlc_ms(message.content.hlc) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC)


def _name(names: Mapping[DeviceId, str], message: Message) -> str:
    return names.get(message.author, short_id(message.author))


def _escaped(line: str) -> str:
    """Return one line of plain text as Markdown."""
    return _MARKUP_AT_START.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", printable(line.strip())))


def _paragraph(text: str) -> str:
    """Return plain text as Markdown that stays within an item of a list."""
    return "  \n  ".join(_escaped(line) for line in text.splitlines() if line.strip())


def _create(path: Path) -> tuple[Path, TextIO]:
    if os.path.lexists(path):
        remove_left_over(path.parent)  # maybe of the export that was killed when it had just made that
        raise OutputExists(f"{path} is there already; choose another place for the export")
    with store_errors("create", path):
        part, descriptor = create_beside(path, PRIVATE_FILE)
        return part, open(descriptor, "w", encoding="utf-8", newline="\n")


def _finish(file: TextIO, part: Path, path: Path) -> None:
    with store_errors("write", path):
        file.flush()
        os.fsync(file.fileno())
    publish_without_overwrite(part, path)


def _clean_up(file: TextIO, part: Path) -> None:
    with contextlib.suppress(OSError):  # or it would hide what went wrong before; the next export removes it
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.close()
