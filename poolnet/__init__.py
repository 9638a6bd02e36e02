"""poolnet: groups of devices that talk and pass files around directly.

`open_node` opens this device; `Node.create_pool` and `Node.join` lead into a `PoolNet`, with its `MessageDB` and its
`FileManager`. `open_sync_server` runs the rendezvous. Every service is opened with ``async with`` and works alone.
What is not named here is internal.
"""

from poolnet.chunk_cache import ChunkCache, RingStatistics, open_chunk_cache
from poolnet.errors import (
    AddressInUse,
    DiskFull,
    DownloadCancelled,
    InvalidAddress,
    InvalidInvite,
    LinkClosed,
    LocalError,
    OutputExists,
    PoolnetError,
    ProtocolError,
    Refused,
    SourceUnavailable,
    StoreDamaged,
    StoreError,
    StoreLocked,
    TextTooLong,
    UnknownFile,
    UnknownMessage,
    UnknownPool,
    Unreachable,
    WireError,
)
from poolnet.events import (
    AnnouncementReceived,
    AppMessageReceived,
    ClockWrong,
    DownloadComplete,
    DownloadFailed,
    DownloadPaused,
    DownloadProgress,
    DownloadResumed,
    ErrorReported,
    EventsDropped,
    FileOffered,
    MediaReceived,
    Mentioned,
    MessageReceived,
    MessageRetracted,
    NodeJoined,
    NodeLeft,
    NodeRenamed,
    OfferKind,
    OfferRetracted,
    PoolEvent,
    ServerAttached,
    ServerLost,
    SourceLost,
    UnknownMessageReceived,
)
from poolnet.file_manager import DownloadInfo, EntryKind, FileManager, FolderEntry, OfferInfo, open_file_manager
from poolnet.identity.invite_link import (
    InviteLink,
    ServerAddress,
    format_invite_link,
)
from poolnet.identity.invite_link import parse_invite_link_untrusted as parse_invite_link
from poolnet.identity.invite_link import parse_server_address_untrusted as parse_server_address
from poolnet.ids import (
    DeviceId,
    FileId,
    MsgId,
    PoolId,
    decode_id_untrusted,
    encode_id,
    format_device_id,
    short_id,
)
from poolnet.limits import DEFAULT_SERVER_PORT, MAX_TEXT_CHARS
from poolnet.message_db import MessageDB, Retention, Session, open_message_db
from poolnet.node import Node, PoolInfo, open_node
from poolnet.pool_net import MemberInfo, PoolNet
from poolnet.printable import printable
from poolnet.server import SyncServer, open_sync_server
from poolnet.steady_time import WallClock
from poolnet.storage.files import safe_file_name
from poolnet.storage.home import default_home
from poolnet.views.entries import HistoryEntry
from poolnet.views.feed import Feed, FeedChange
from poolnet.views.history import History
from poolnet.views.notices import Notice
from poolnet.views.reader import HistoryReader

__all__ = [
    "DEFAULT_SERVER_PORT",
    "MAX_TEXT_CHARS",
    "AddressInUse",
    "AnnouncementReceived",
    "AppMessageReceived",
    "ChunkCache",
    "ClockWrong",
    "DeviceId",
    "DiskFull",
    "DownloadCancelled",
    "DownloadComplete",
    "DownloadFailed",
    "DownloadInfo",
    "DownloadPaused",
    "DownloadProgress",
    "DownloadResumed",
    "EntryKind",
    "ErrorReported",
    "EventsDropped",
    "Feed",
    "FeedChange",
    "FileId",
    "FileManager",
    "FileOffered",
    "FolderEntry",
    "History",
    "HistoryEntry",
    "HistoryReader",
    "InvalidAddress",
    "InvalidInvite",
    "InviteLink",
    "LinkClosed",
    "LocalError",
    "MediaReceived",
    "MemberInfo",
    "Mentioned",
    "MessageDB",
    "MessageReceived",
    "MessageRetracted",
    "MsgId",
    "Node",
    "NodeJoined",
    "NodeLeft",
    "NodeRenamed",
    "Notice",
    "OfferInfo",
    "OfferKind",
    "OfferRetracted",
    "OutputExists",
    "PoolEvent",
    "PoolId",
    "PoolInfo",
    "PoolNet",
    "PoolnetError",
    "ProtocolError",
    "Refused",
    "Retention",
    "RingStatistics",
    "ServerAddress",
    "ServerAttached",
    "ServerLost",
    "Session",
    "SourceLost",
    "SourceUnavailable",
    "StoreDamaged",
    "StoreError",
    "StoreLocked",
    "SyncServer",
    "TextTooLong",
    "UnknownFile",
    "UnknownMessage",
    "UnknownMessageReceived",
    "UnknownPool",
    "Unreachable",
    "WallClock",
    "WireError",
    "decode_id_untrusted",
    "default_home",
    "encode_id",
    "format_device_id",
    "format_invite_link",
    "open_chunk_cache",
    "open_file_manager",
    "open_message_db",
    "open_node",
    "open_sync_server",
    "parse_invite_link",
    "parse_server_address",
    "printable",
    "safe_file_name",
    "short_id",
]
