"""What an application hears from a pool: the events of `PoolNet.subscribe` and `FileManager.subscribe`.

Values only. ``node`` is always the device that did it, ``name`` its display name at that moment (a short form of its id
while it has none). Names and texts are as their authors wrote them: an interface that shows them must make control
characters harmless.
"""

from pathlib import Path
from typing import Literal

import attrs

from poolnet.clock import Hlc
from poolnet.ids import DeviceId, FileId, MsgId


@attrs.frozen(kw_only=True)
class NodeJoined:
    """A node came online in the pool."""

    node: DeviceId
    name: str


@attrs.frozen(kw_only=True)
class NodeLeft:
    """A node went offline, or was lost."""

    node: DeviceId
    name: str


@attrs.frozen(kw_only=True)
class MessageReceived:
    """A text message, from this device or another, once per message.

    `key` is its place in the order of the pool. `is_late`: messages that come after it in that order were known before.
    """

    msg_id: MsgId
    node: DeviceId
    name: str
    text: str
    unix_ms: int
    key: tuple[Hlc, MsgId]
    is_late: bool = False
    mentions: tuple[DeviceId, ...] = ()
    to_all: bool = False


@attrs.frozen(kw_only=True)
class Mentioned:
    """Another device's message calls this one by name, or everyone: something for a notification.

    Follows the `MessageReceived` of the same message.
    """

    msg_id: MsgId
    node: DeviceId
    name: str
    text: str
    to_all: bool


@attrs.frozen(kw_only=True)
class AnnouncementReceived:
    """An admin announces something; `key` and `is_late` as in `MessageReceived`. The latest by `key` counts."""

    msg_id: MsgId
    node: DeviceId
    name: str
    text: str
    unix_ms: int
    key: tuple[Hlc, MsgId]
    is_late: bool = False


@attrs.frozen(kw_only=True)
class MessageRetracted:
    """A message was taken back by its author or an admin (`node`); it is gone from the history of this device."""

    msg_id: MsgId
    node: DeviceId
    name: str


@attrs.frozen(kw_only=True)
class NodeRenamed:
    """A device goes by another name from now on."""

    node: DeviceId
    old_name: str
    name: str


@attrs.frozen(kw_only=True)
class AppMessageReceived:
    """A message of a program built on poolnet, of the kind `app_name`; once per message, own ones too."""

    msg_id: MsgId
    node: DeviceId
    name: str
    app_name: str
    data: bytes
    unix_ms: int
    key: tuple[Hlc, MsgId]
    is_late: bool = False


@attrs.frozen(kw_only=True)
class UnknownMessageReceived:
    """A message of a kind that this version does not know. It is stored and passed on like any other."""

    msg_id: MsgId
    node: DeviceId
    name: str
    kind: str
    unix_ms: int
    key: tuple[Hlc, MsgId]
    is_late: bool = False


@attrs.frozen(kw_only=True)
class ClockWrong:
    """This device's clock is wrong, by what the sync server and the neighbours say: `ahead_s` seconds ahead of theirs
    (negative: behind). Messages are stamped with corrected time all the same. Told once, and again if it changes."""

    ahead_s: float


#: What is offered: a file, a folder, a picture that everyone fetches, or a stream.
OfferKind = Literal["file", "folder", "media", "stream"]


@attrs.frozen(kw_only=True)
class FileOffered:
    """A file, folder, picture or stream can be fetched. `msg_id` and `key` are of the message that says so.

    Attributes:
        size_bytes: 0 for a stream.
        file_count: of a folder; 1 for everything else.
        preview: a tiny JPEG of a picture, or empty.
    """

    file_id: FileId
    file_name: str
    size_bytes: int
    node: DeviceId
    name: str
    msg_id: MsgId | None = None
    key: tuple[Hlc, MsgId] | None = None
    kind: OfferKind = "file"
    file_count: int = 1
    preview: bytes = b""


@attrs.frozen(kw_only=True)
class OfferRetracted:
    """The last offer of a file was withdrawn."""

    file_id: FileId
    node: DeviceId


@attrs.frozen(kw_only=True)
class DownloadProgress:
    """Verified bytes of a download so far; at most `MAX_PROGRESS_RATE` a second and file.

    `sources` is how many linked peers have something of it, or fetch it for this device.
    """

    file_id: FileId
    done_bytes: int
    size_bytes: int
    rate_bytes_per_s: float
    sources: int = 0


@attrs.frozen(kw_only=True)
class DownloadComplete:
    """A file is whole, verified, synced and at its place."""

    file_id: FileId
    path: Path


@attrs.frozen(kw_only=True)
class DownloadPaused:
    """A download stands still: `reason` says why; it goes on by itself when that is over, unless the user paused it.

    `code` is "paused" (by the user), or that of an error (errors.py), like "disk_full".
    """

    file_id: FileId
    code: str
    reason: str


@attrs.frozen(kw_only=True)
class DownloadResumed:
    """A download that stood still goes on."""

    file_id: FileId


@attrs.frozen(kw_only=True)
class DownloadFailed:
    """A download ended without the file; `code` as in errors.py, or "cancelled"."""

    file_id: FileId
    code: str
    reason: str


@attrs.frozen(kw_only=True)
class MediaReceived:
    """A picture that was offered is here, in the media cache: copy it (`FileManager.save_as`) to keep it."""

    file_id: FileId
    file_name: str
    path: Path
    width: int
    height: int
    node: DeviceId
    name: str


@attrs.frozen(kw_only=True)
class SourceLost:
    """A file that this device offered was changed, truncated or removed; its offer is withdrawn."""

    file_id: FileId
    path: Path
    reason: str


@attrs.frozen(kw_only=True)
class ServerAttached:
    """A sync server answered and holds this device in its roster."""

    address: str


@attrs.frozen(kw_only=True)
class ServerLost:
    """No sync server at the moment. Links, talk and files go on; it is retried in the background."""

    address: str
    reason: str


@attrs.frozen(kw_only=True)
class ErrorReported:
    """Something went wrong that the application did not ask for directly; `code` as in errors.py."""

    code: str
    message: str


@attrs.frozen(kw_only=True)
class EventsDropped:
    """The subscriber was too slow: that many events are missing before the next one."""

    count: int


PoolEvent = (
    NodeJoined
    | NodeLeft
    | MessageReceived
    | Mentioned
    | AnnouncementReceived
    | MessageRetracted
    | NodeRenamed
    | AppMessageReceived
    | UnknownMessageReceived
    | ClockWrong
    | FileOffered
    | OfferRetracted
    | DownloadProgress
    | DownloadComplete
    | DownloadPaused
    | DownloadResumed
    | DownloadFailed
    | MediaReceived
    | SourceLost
    | ServerAttached
    | ServerLost
    | ErrorReported
    | EventsDropped
)
