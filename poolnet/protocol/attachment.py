"""A node's place at the sync server of one pool: from showing its statements to following the roster.

On a new link the node shows what it is judged by (Genesis, its own Join and that one's Invite), lists the statements it
has, and asks to be attached. The server answers with the statements that the node lacks, asks for those that it lacks
itself, and sends `Attached` and the roster in pages. Roster events follow, numbered by epochs without gaps; after a gap
the node asks to be attached again on the same link, and gets the whole roster. Statements always come before the roster
events that depend on them, because they are sent first and the control stream keeps order.

Whatever the server says, who is a member is decided by `Membership` alone. The roster may name nodes that are no
members (a lying server, or a removal that it has not heard of): they are passed on here, and no link comes up. And a
server that refuses a member, with whatever word, is one that does not serve it: of a removal it has to show the
statements, which arrive before the refusal.
"""

import enum
from collections.abc import Sequence
from typing import assert_never

import attrs

from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, StatementId
from poolnet.limits import ATTACH_TIMEOUT_S, MAX_IDS_PER_FRAME, MAX_ROSTER_NODES
from poolnet.protocol.statement_exchange import pack_statements, take_open
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

ToServer = Attach | Detach | Report | ReportConduct | SendSignal | StatementIds | Statements | WantStatements
FromServer = (
    Attached
    | Refused
    | RosterJoined
    | RosterLeft
    | RosterPage
    | Signalled
    | StatementIds
    | Statements
    | WantStatements
    | UnknownFrame
)

#: What a server says for good to who is no member by its own statements: the same Join gets the same answer. A member
#: keeps trying: a server that has not heard of it may hear of it from others, and one that lies is not believed.
FINAL_CODES = frozenset(
    {"unknown_pool", "not_a_member", "removed", "invite_unknown", "invite_expired", "invite_used_up"}
)


# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Connected:
    """A link to the server is up and both sides have proven their keys."""


@attrs.frozen
class Disconnected:
    """That link is gone."""


@attrs.frozen
class Received:
    """A frame that came from the server; one that only a node may send is a violation."""

    frame: FromServer | ToServer


@attrs.frozen
class StatementsMade:
    """This device made statements (encoded; already in the membership): the server gets them at once."""

    statements: tuple[bytes, ...]


@attrs.frozen
class StatementsLearned:
    """Other members told us statements (already in the membership): the server asks for those that it lacks."""

    ids: tuple[StatementId, ...]


@attrs.frozen
class Signal:
    """Pass `body` on to another node."""

    to: DeviceId
    body: bytes


@attrs.frozen
class CannotReach:
    """No link to this node of the roster comes up."""

    node: DeviceId


@attrs.frozen
class Misconduct:
    """This node of the roster broke the rules, last in this way (a `conduct.Kind`). Lost if no server is attached."""

    node: DeviceId
    kind: int


@attrs.frozen
class Leaving:
    """This node goes offline now; after the effects are performed the link may be closed."""


@attrs.frozen
class RosterLost:
    """The receiver of the roster effects lost track and wants the whole roster again."""


AttachmentEvent = (
    Connected
    | Disconnected
    | Received
    | StatementsMade
    | StatementsLearned
    | Signal
    | CannotReach
    | Misconduct
    | Leaving
    | RosterLost
)

# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class SendFrame:
    """Send to the server. A long answer is several of these; none is larger than a frame."""

    frame: ToServer


@attrs.frozen
class AddStatements:
    """Add these encoded statements to the membership, before the effects and events that follow."""

    statements: tuple[bytes, ...]


@attrs.frozen
class RosterReset:
    """Attached, or attached again: this is the whole roster as of `epoch`, this node included."""

    epoch: int
    entries: tuple[RosterEntry, ...]


@attrs.frozen
class NodeJoined:
    """A node came, or has other places now."""

    epoch: int
    entry: RosterEntry


@attrs.frozen
class NodeLeft:
    """A node left."""

    epoch: int
    node: DeviceId


@attrs.frozen
class Observed:
    """Where the server sees this node, and what time it is there."""

    address: Address
    unix_ms: int


@attrs.frozen
class SignalReceived:
    """A signal from another node, which the server claims is `sender`."""

    sender: DeviceId
    body: bytes


@attrs.frozen
class AttachRefused:
    """This attachment is over; close the link.

    `code` is the server's word, or "timeout" or "protocol" if the server failed. With `is_final` another try with this
    server is in vain until something changes; otherwise try again after a while.
    """

    code: str
    message: str
    is_final: bool


AttachmentEffect = (
    SendFrame | AddStatements | RosterReset | NodeJoined | NodeLeft | Observed | SignalReceived | AttachRefused
)


class _Stage(enum.Enum):
    OFFLINE = enum.auto()
    ASKED = enum.auto()
    PAGING = enum.auto()
    ATTACHED = enum.auto()


class Attachment:
    """The machine, for one node in one pool; it lives on from link to link.

    Args:
        membership: the pool's statements as this device knows them. Read here, changed only by the driver.
        device: this device.
        credentials: encoded statements to show in any case: a newcomer's Join, which it cannot judge by itself yet.
    """

    def __init__(self, membership: Membership, device: DeviceId, *, credentials: tuple[bytes, ...] = ()) -> None:
        self._membership = membership
        self._device = device
        self._credentials = credentials
        self._stage = _Stage.OFFLINE
        self._epoch = 0
        self._pages: list[RosterEntry] = []
        self._deadline: float | None = None
        #: Listed on this link and not asked for yet.
        self._listed: set[StatementId] = set()

    @property
    def is_attached(self) -> bool:
        """Whether the server holds this node in its roster, and the roster here is up to date."""
        return self._stage is _Stage.ATTACHED

    @property
    def epoch(self) -> int:
        """The newest roster event seen (0: none)."""
        return self._epoch

    def handle(self, event: AttachmentEvent, now: float) -> list[AttachmentEffect]:
        """Take an event; return what to do, in this order."""
        match event:
            case Connected():
                return [*self._show(), self._ask(now)]
            case Disconnected():
                self._end()
                return []
            case Received(frame):
                return [] if self._stage is _Stage.OFFLINE else self._receive(frame, now)
            case RosterLost():
                return [self._ask(now)] if self.is_attached else []
            case StatementsMade(statements):
                return self._if_online(pack_statements(statements))
            case StatementsLearned(ids):
                return [] if self._stage is _Stage.OFFLINE else self._list(ids)
            case Signal(to, body):
                return self._if_online([SendSignal(to=to, body=body)])
            case CannotReach(node):
                return self._if_online([Report(node=node)])
            case Misconduct(node, kind):
                return [SendFrame(ReportConduct(node=node, kind=kind))] if self.is_attached else []
            case Leaving():
                effects = self._if_online([Detach()])
                self._end()
                return effects
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """Return when `tick` is due."""
        return self._deadline

    def tick(self, now: float) -> list[AttachmentEffect]:
        """Give up on a server that did not attach us in time."""
        if self._deadline is None or now < self._deadline:
            return []
        return self._refused("timeout", "the sync server did not answer in time", is_final=False)

    def _show(self) -> list[AttachmentEffect]:
        """Show what we are judged by, and list what we have."""
        genesis = self._membership.get((StatementId(self._membership.pool_id),))
        shown = dict.fromkeys([*genesis, *self._membership.credentials_of(self._device), *self._credentials])
        return [*map(SendFrame, pack_statements(shown)), *self._list(self._membership.ids())]

    def _list(self, ids: tuple[StatementId, ...]) -> list[AttachmentEffect]:
        self._listed.update(ids)
        return [SendFrame(frame) for frame in _in_frames(ids)]

    def _ask(self, now: float) -> SendFrame:
        self._stage = _Stage.ASKED
        self._deadline = now + ATTACH_TIMEOUT_S
        self._pages = []
        return SendFrame(Attach(last_epoch=self._epoch))

    def _end(self) -> None:
        self._stage = _Stage.OFFLINE
        self._deadline = None
        self._listed = set()

    def _if_online(self, frames: Sequence[ToServer]) -> list[AttachmentEffect]:
        return [] if self._stage is _Stage.OFFLINE else [SendFrame(frame) for frame in frames]

    def _receive(self, frame: FromServer | ToServer, now: float) -> list[AttachmentEffect]:
        match frame:
            case Statements(statements=statements):
                return [AddStatements(statements)]
            case StatementIds(ids=ids):
                missing = tuple(self._membership.missing(ids))
                return [SendFrame(WantStatements(ids=missing))] if missing else []
            case WantStatements(ids=ids):
                return self._asked(ids)
            case Attached():
                return self._attached(frame)
            case RosterPage():
                return self._page(frame)
            case RosterJoined(epoch=epoch, entry=entry):
                return self._roster_event(epoch, NodeJoined(epoch, entry), now)
            case RosterLeft(epoch=epoch, node=node):
                return self._roster_event(epoch, NodeLeft(epoch, node), now)
            case Signalled(sender=sender, body=body):
                return [SignalReceived(sender, body)]
            case Refused(code=code, message=message):
                return self._refused(code, message, is_final=self._is_final(code))
            case UnknownFrame():
                return []
            case Attach() | Detach() | Report() | ReportConduct() | SendSignal():
                return self._broken(f"{type(frame).__name__} is not for a node")
            case _:
                assert_never(frame)

    def _asked(self, ids: tuple[StatementId, ...]) -> list[AttachmentEffect]:
        """Give what was listed, each statement once; a server that asks for nothing of that wants to wear us out."""
        wanted = take_open(self._listed, ids)
        if ids and not wanted:
            return self._broken("it asks for statements that were not listed, or again")
        return [SendFrame(part) for part in pack_statements(self._membership.get(wanted))]

    def _attached(self, frame: Attached) -> list[AttachmentEffect]:
        if self._stage is not _Stage.ASKED:
            return self._broken("attached without being asked")
        self._stage = _Stage.PAGING
        self._epoch = frame.epoch
        return [Observed(frame.observed, frame.unix_ms)]

    def _page(self, frame: RosterPage) -> list[AttachmentEffect]:
        if self._stage is not _Stage.PAGING:
            return self._broken("a page of the roster out of order")
        if len(self._pages) + len(frame.entries) > MAX_ROSTER_NODES:
            return self._broken("a roster without end")
        self._pages.extend(frame.entries)
        if not frame.last:
            return []
        entries, self._pages = tuple(self._pages), []
        self._stage = _Stage.ATTACHED
        self._deadline = None
        return [RosterReset(self._epoch, entries)]

    def _roster_event(self, epoch: int, effect: NodeJoined | NodeLeft, now: float) -> list[AttachmentEffect]:
        """Pass on the next event; ask for the whole roster after a gap. Events before `Attached` are in it already."""
        if self._stage is _Stage.PAGING:
            return self._broken("a roster event amid the pages")
        if self._stage is _Stage.ASKED or epoch <= self._epoch:
            return []
        if epoch > self._epoch + 1:
            return [self._ask(now)]
        self._epoch = epoch
        return [effect]

    def _is_final(self, code: str) -> bool:
        return code in FINAL_CODES and not self._membership.is_member(self._device)

    def _refused(self, code: str, message: str, *, is_final: bool) -> list[AttachmentEffect]:
        self._end()
        return [AttachRefused(code, message, is_final)]

    def _broken(self, message: str) -> list[AttachmentEffect]:
        return self._refused("protocol", f"the sync server broke the protocol: {message}", is_final=False)


def _in_frames(ids: tuple[StatementId, ...]) -> list[StatementIds]:
    return [StatementIds(ids=ids[start : start + MAX_IDS_PER_FRAME]) for start in range(0, len(ids), MAX_IDS_PER_FRAME)]
