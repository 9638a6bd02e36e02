"""Frames 64-95: between a node and a sync server, on a link with `Purpose.SYNC` for one pool.

A node shows its statements; the server answers with those the node lacks, then `Attached` and the roster in pages, and
from then on with roster events in order of their epochs.
"""

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import MAX_REASON_CHARS, MAX_SIGNAL_SIZE, RING_COUNT
from poolnet.wire.framing import Frame, frame
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements
from poolnet.wire.schema import BOOLEAN, ID32, IP_ADDRESS, data, integer, list_of, record, text, wire

#: Roster entries in one page: at most 63 bytes each.
ROSTER_PAGE_SIZE = 500


@attrs.frozen(kw_only=True)
class Address:
    """Where a node can be reached: a numeric IP address in text form and a UDP port."""

    host: str = wire(IP_ADDRESS)
    port: int = wire(integer(1, 65535))


@attrs.frozen(kw_only=True)
class RosterEntry:
    """A node that is online in the pool, and its place on each ring (drawn by the server)."""

    node: DeviceId = wire(ID32)
    places: tuple[int, ...] = wire(list_of(integer(), max_items=RING_COUNT))


@frame(64)
@attrs.frozen(kw_only=True)
class Attach(Frame):
    """Enter the pool. `last_epoch` is the newest roster event that the node has seen (0: none).

    Statements that the server needs to judge (Genesis by the founder, Join by a newcomer) precede it as `Statements`.
    """

    last_epoch: int = wire(integer())


@frame(65)
@attrs.frozen(kw_only=True)
class Attached(Frame):
    """Entered: pages of the roster follow. `observed` is the node's address as the server sees it."""

    epoch: int = wire(integer())
    observed: Address = wire(record(Address))
    unix_ms: int = wire(integer())


@frame(66)
@attrs.frozen(kw_only=True)
class RosterPage(Frame):
    """A part of the roster as of the epoch in `Attached`; `last` on the final one."""

    entries: tuple[RosterEntry, ...] = wire(list_of(record(RosterEntry), max_items=ROSTER_PAGE_SIZE))
    last: bool = wire(BOOLEAN)


@frame(67)
@attrs.frozen(kw_only=True)
class RosterJoined(Frame):
    """A node came, or was given other places. Epochs count up by one without gaps."""

    epoch: int = wire(integer())
    entry: RosterEntry = wire(record(RosterEntry))


@frame(68)
@attrs.frozen(kw_only=True)
class RosterLeft(Frame):
    """A node left, or did not come back in time."""

    epoch: int = wire(integer())
    node: DeviceId = wire(ID32)


@frame(69)
@attrs.frozen(kw_only=True)
class Refused(Frame):
    """The server says no; `code` is one of docs/protocol.md. The link is closed after it."""

    code: str = wire(text(max_chars=32))
    message: str = wire(text(max_chars=MAX_REASON_CHARS))


@frame(70)
@attrs.frozen(kw_only=True)
class SendSignal(Frame):
    """Pass `body` on to another node of the pool."""

    to: DeviceId = wire(ID32)
    body: bytes = wire(data(max_size=MAX_SIGNAL_SIZE))


@frame(71)
@attrs.frozen(kw_only=True)
class Signalled(Frame):
    """A signal from another node of the pool; the server vouches for `sender` only as far as it is trusted."""

    sender: DeviceId = wire(ID32)
    body: bytes = wire(data(max_size=MAX_SIGNAL_SIZE))


@frame(72)
@attrs.frozen(kw_only=True)
class Report(Frame):
    """No link to `node` comes up; the server may draw the reporter other places."""

    node: DeviceId = wire(ID32)


@frame(73)
@attrs.frozen(kw_only=True)
class Detach(Frame):
    """The node leaves now; the others are told at once instead of after the idle timeout."""


@frame(74)
@attrs.frozen(kw_only=True)
class ReportConduct(Frame):
    """`node` broke the rules on its links to the reporter, last in this way (docs/protocol.md)."""

    node: DeviceId = wire(ID32)
    kind: int = wire(integer(0, 255))


SYNC_FRAMES = (
    Attach,
    Attached,
    RosterPage,
    RosterJoined,
    RosterLeft,
    Refused,
    SendSignal,
    Signalled,
    Report,
    ReportConduct,
    Detach,
    StatementIds,
    WantStatements,
    Statements,
)
