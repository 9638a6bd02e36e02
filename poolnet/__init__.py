"""poolnet: groups of devices that talk and pass files around directly.

`open_node` opens this device; `Node.create_pool` and `Node.join` lead into a `PoolNet`, with its `MessageDB` and its
`FileManager`. `open_sync_server` runs the rendezvous. Every service is opened with ``async with`` and works alone.
What is not named here is internal.
"""

from poolnet.errors import (
    AddressInUse,
    DiskFull,
    InvalidAddress,
    InvalidInvite,
    LinkClosed,
    LocalError,
    OutputExists,
    PoolnetError,
    ProtocolError,
    Refused,
    SourceUnavailable,
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
    DownloadComplete,
    DownloadProgress,
    ErrorReported,
    EventsDropped,
    FileOffered,
    MessageReceived,
    NodeJoined,
    NodeLeft,
    OfferRetracted,
    PoolEvent,
    ServerAttached,
    ServerLost,
    SourceLost,
)
from poolnet.file_manager import FileManager, OfferInfo, open_file_manager
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
from poolnet.message_db import MessageDB, open_message_db
from poolnet.node import Node, PoolInfo, open_node
from poolnet.pool.history import HistoryEntry
from poolnet.pool_net import MemberInfo, PoolNet
from poolnet.printable import printable
from poolnet.server import SyncServer, open_sync_server
from poolnet.storage.files import safe_file_name
from poolnet.storage.home import default_home

__all__ = [
    "DEFAULT_SERVER_PORT",
    "MAX_TEXT_CHARS",
    "AddressInUse",
    "DeviceId",
    "DiskFull",
    "DownloadComplete",
    "DownloadProgress",
    "ErrorReported",
    "EventsDropped",
    "FileId",
    "FileManager",
    "FileOffered",
    "HistoryEntry",
    "InvalidAddress",
    "InvalidInvite",
    "InviteLink",
    "LinkClosed",
    "LocalError",
    "MemberInfo",
    "MessageDB",
    "MessageReceived",
    "MsgId",
    "Node",
    "NodeJoined",
    "NodeLeft",
    "OfferInfo",
    "OfferRetracted",
    "OutputExists",
    "PoolEvent",
    "PoolId",
    "PoolInfo",
    "PoolNet",
    "PoolnetError",
    "ProtocolError",
    "Refused",
    "ServerAddress",
    "ServerAttached",
    "ServerLost",
    "SourceLost",
    "SourceUnavailable",
    "StoreError",
    "StoreLocked",
    "SyncServer",
    "TextTooLong",
    "UnknownFile",
    "UnknownMessage",
    "UnknownPool",
    "Unreachable",
    "WireError",
    "decode_id_untrusted",
    "default_home",
    "encode_id",
    "format_device_id",
    "format_invite_link",
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
