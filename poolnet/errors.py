"""All errors of poolnet: each says whose fault it is, what happened and what to do.

``code`` is a stable word for programs (the CLI prints it with ``--json``); the message is for people. Never match on
the message.
"""


class PoolnetError(Exception):
    """Base of every error that poolnet raises on purpose."""

    code = "error"


class LocalError(PoolnetError):
    """The caller asked for something that cannot be done; nothing was changed."""

    code = "usage"


class TextTooLong(LocalError):
    """A text, name or body is over its limit."""

    code = "text_too_long"


class UnknownPool(LocalError):
    """No pool of this home has that name or id, or several have."""

    code = "unknown_pool"


class UnknownFile(LocalError):
    """No offered file has that name or id, or several have."""

    code = "unknown_file"


class UnknownMessage(LocalError):
    """The message is not in this device's history."""

    code = "unknown_message"


class InvalidInvite(LocalError):
    """The invite link is malformed, expired, used up or revoked."""

    code = "invalid_invite"


class InvalidAddress(LocalError):
    """An address or server link cannot be understood."""

    code = "invalid_address"


class SourceUnavailable(LocalError):
    """A file to offer cannot be read, or changed while it was read."""

    code = "source_unavailable"


class OutputExists(LocalError):
    """The target of a download is there already; poolnet never overwrites."""

    code = "output_exists"


class DownloadCancelled(LocalError):
    """Somebody cancelled the download; what was fetched is removed."""

    code = "cancelled"


class WireError(PoolnetError):
    """Bytes from outside are not what the protocol allows. The only error that decoders raise."""

    code = "wire"


class ProtocolError(PoolnetError):
    """The peer broke the protocol; its link is closed."""

    code = "protocol"


class BadSignature(ProtocolError):
    """The peer passed on a message that no honest member does: not by its author, of a stranger, or no message."""

    code = "bad_signature"


class Flood(ProtocolError):
    """The peer asked for, or sent, more than the protocol allows."""

    code = "flood"


class LinkClosed(PoolnetError):
    """The link ended, by either side or by silence."""

    code = "link_closed"


class Unreachable(PoolnetError):
    """Nobody answered: no server, or no other member, within the time allowed."""

    code = "unreachable"


class Refused(PoolnetError):
    """The sync server answered and said no. ``code`` is the server's word for it."""

    def __init__(self, message: str, *, code: str = "refused") -> None:
        super().__init__(message)
        self.code = code


class AddressInUse(PoolnetError):
    """Another program listens on that address."""

    code = "address_in_use"


class StreamAborted(PoolnetError):
    """The author of a stream broke it off, or withdrew it before it was finished."""

    code = "stream_aborted"


class StoreError(PoolnetError):
    """A file or database of this home cannot be read or written."""

    code = "store"


class StoreDamaged(StoreError):
    """It is damaged, or not poolnet's. It is kept aside, so that opening it again begins a new one."""

    code = "store_damaged"


class StoreLocked(StoreError):
    """Another process uses this home."""

    code = "home_in_use"


class DiskFull(StoreError):
    """No space left; free some and try again. What was there is intact."""

    code = "disk_full"
