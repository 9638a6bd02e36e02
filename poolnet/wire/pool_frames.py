"""Frames 16-31: what the members of a pool tell each other: statements first, then gossip."""

import attrs

from poolnet.ids import MsgId, StatementId
from poolnet.limits import MAX_IDS_PER_FRAME, MAX_MESSAGE_SIZE, MAX_STATEMENT_SIZE
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import BOOLEAN, ID32, data, integer, list_of, wire


@frame(16)
@attrs.frozen(kw_only=True)
class StatementIds(Frame):
    """Statements of the pool that the sender has: all of them on a new link, new ones later.

    The receiver asks for what it lacks. A long list takes several frames.
    """

    ids: tuple[StatementId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))


@frame(17)
@attrs.frozen(kw_only=True)
class WantStatements(Frame):
    """Please send these statements."""

    ids: tuple[StatementId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))


@frame(18)
@attrs.frozen(kw_only=True)
class Statements(Frame):
    """Encoded statements (see identity/statements.py), in any order."""

    statements: tuple[bytes, ...] = wire(list_of(data(max_size=MAX_STATEMENT_SIZE), max_items=MAX_IDS_PER_FRAME))


@frame(20)
@attrs.frozen(kw_only=True)
class Gossip(Frame):
    """A message, pushed along the tree. `hops` is how many links it has passed."""

    msg_id: MsgId = wire(ID32)
    hops: int = wire(integer(0, 255))
    message: bytes = wire(data(max_size=MAX_MESSAGE_SIZE))


@frame(21)
@attrs.frozen(kw_only=True)
class GossipHave(Frame):
    """Messages that the sender has and has not pushed here. The receiver grafts those it keeps missing.

    A link begins with what each side has of late; the first frame with room for more ends that list.
    """

    ids: tuple[MsgId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))


@frame(22)
@attrs.frozen(kw_only=True)
class Graft(Frame):
    """Send me these messages; and with `eager`, push to me from now on (the link joins the tree).

    Only the first `GRAFT_WINDOW` ids are answered.
    """

    ids: tuple[MsgId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))
    eager: bool = wire(BOOLEAN)


@frame(23)
@attrs.frozen(kw_only=True)
class Prune(Frame):
    """I got that message already: only announce to me from now on (the link leaves the tree)."""


POOL_FRAMES = (StatementIds, WantStatements, Statements, Gossip, GossipHave, Graft, Prune)
