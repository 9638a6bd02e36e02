"""What happens to a sync server, and what it does about it: events and effects of `ServerCore`. Values only."""

import attrs

from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.server.wanted import ClientId
from poolnet.wire.framing import UnknownFrame
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements
from poolnet.wire.sync_frames import (
    Address,
    Attach,
    Attached,
    Detach,
    Refused,
    Report,
    ReportConduct,
    RosterEntry,
    RosterJoined,
    RosterLeft,
    RosterPage,
    SendSignal,
    Signalled,
)

ServerFrame = (
    Attached | Refused | RosterJoined | RosterLeft | RosterPage | Signalled | StatementIds | Statements | WantStatements
)
#: Everything that a link for `Purpose.SYNC` may bring; frames of the wrong direction are a violation.
ClientFrame = ServerFrame | Attach | Detach | Report | ReportConduct | SendSignal | UnknownFrame


@attrs.frozen
class StoredPool:
    """A pool as the store has it. `roster` is who was online when it was last written."""

    statements: tuple[bytes, ...]
    epoch: int
    roster: tuple[RosterEntry, ...]


# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ClientConnected:
    """A link came up whose other side has proven the key of `device` and named `pool_id`."""

    client: ClientId
    device: DeviceId
    pool_id: PoolId
    address: Address


@attrs.frozen(kw_only=True)
class FrameReceived:
    """A frame on a client's link; `unix_ms` is the server's clock."""

    client: ClientId
    frame: ClientFrame
    unix_ms: int


@attrs.frozen(kw_only=True)
class ClientGone:
    """A client's link ended, by whichever side."""

    client: ClientId


@attrs.frozen(kw_only=True)
class PoolLoaded:
    """The answer to `LoadPool`; None: the store does not have that pool."""

    pool_id: PoolId
    stored: StoredPool | None


@attrs.frozen(kw_only=True)
class StoreFailed:
    """An effect for this pool could not be performed; the frames that came with it were not sent."""

    pool_id: PoolId


ServerEvent = ClientConnected | FrameReceived | ClientGone | PoolLoaded | StoreFailed

# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class LoadPool:
    """Read a pool and answer with `PoolLoaded`."""

    pool_id: PoolId


@attrs.frozen
class SaveStatements:
    """Store statements (id, encoded) of a pool, which may be new, for good, before any frame that follows is sent."""

    pool_id: PoolId
    statements: tuple[tuple[StatementId, bytes], ...]


@attrs.frozen
class PruneStatements:
    """Of this pool, keep these statements in the store and no others: it was full, and the others had no effect."""

    pool_id: PoolId
    keep: tuple[StatementId, ...]


@attrs.frozen
class SaveJoined:
    """Store that a node is in the roster, at these places, as of `epoch`."""

    pool_id: PoolId
    epoch: int
    entry: RosterEntry


@attrs.frozen
class SaveLeft:
    """Store that a node is no longer in the roster, as of `epoch`."""

    pool_id: PoolId
    epoch: int
    node: DeviceId


@attrs.frozen
class SendFrame:
    """Send to a client; if too much waits for it already, close it."""

    client: ClientId
    frame: ServerFrame


@attrs.frozen
class CloseClient:
    """Close a client's link when what was sent before is through, or after a moment."""

    client: ClientId
    code: str
    reason: str


SaveEffect = SaveStatements | PruneStatements | SaveJoined | SaveLeft
ServerEffect = LoadPool | SaveEffect | SendFrame | CloseClient
