"""Frames 16-31: what the members of a pool tell each other: statements first, then gossip and their histories."""

import attrs

from poolnet.ids import MsgId, StatementId
from poolnet.limits import (
    MAX_CLAIMS_PER_FRAME,
    MAX_IDS_PER_FRAME,
    MAX_IDS_PER_WANT,
    MAX_MESSAGE_SIZE,
    MAX_OLDER_MESSAGES,
    MAX_STATEMENT_SIZE,
)
from poolnet.wire.claims import BOUND, CLAIM, FINGERPRINT_SIZE, Bound, Claim
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import BOOLEAN, ID32, appended, data, integer, list_of, optional, wire

_NUMBER = integer(0, 2**32 - 1)
#: Which of the sets that are kept in agreement a frame is about: the history, or those of its messages that stand
#: however old they are. Of another one, by a newer version, nothing is known here.
HISTORY, STANDING = 0, 1
_SCOPE = integer(0, 255)


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

    hops: int = wire(integer(0, 255))
    message: bytes = wire(data(max_size=MAX_MESSAGE_SIZE))


@frame(21)
@attrs.frozen(kw_only=True)
class GossipHave(Frame):
    """Messages that the sender has and has not pushed here. The receiver grafts those that it keeps missing."""

    ids: tuple[MsgId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))


@frame(22)
@attrs.frozen(kw_only=True)
class Graft(Frame):
    """Send me these messages, and push to me from now on (the link joins the tree).

    Only the first `GRAFT_WINDOW` ids are answered.
    """

    ids: tuple[MsgId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_FRAME))


@frame(23)
@attrs.frozen(kw_only=True)
class Prune(Frame):
    """I got that message already: only announce to me from now on (the link leaves the tree)."""


@frame(24)
@attrs.frozen(kw_only=True)
class OpenComparison(Frame):
    """Let us compare our histories from `lower` to `upper`; `fingerprint` is of what I have there.

    The receiver answers with a `Compare`, which may begin further up. With `count` 0 that is where what the receiver
    keeps in agreement by itself begins, or `suggested` if it is a newcomer. With another `count` only messages before
    `upper` are wanted, and the receiver begins where its `count` last of them begin.

    `suggested` is where the history of a newcomer should begin; a sender that is a newcomer itself has none.
    """

    run: int = wire(_NUMBER)
    lower: Bound = wire(BOUND)
    upper: Bound = wire(BOUND)
    count: int = wire(integer(0, MAX_OLDER_MESSAGES))
    suggested: Bound | None = wire(optional(BOUND))
    fingerprint: bytes = wire(data(min_size=FINGERPRINT_SIZE, max_size=FINGERPRINT_SIZE))
    scope: int = appended(_SCOPE, default=HISTORY)


@frame(25)
@attrs.frozen(kw_only=True)
class Compare(Frame):
    """Claims about ranges that follow each other from `lower`, each ending at its `upper`.

    `run` is the number that whoever began gave it, and `is_answer` whether this comes from the other side. Each frame
    that asks for something is answered with one. The first answer says from where on its sender keeps its history
    in agreement, `known_from`, unless it is a newcomer.
    """

    run: int = wire(_NUMBER)
    is_answer: bool = wire(BOOLEAN)
    lower: Bound = wire(BOUND)
    claims: tuple[Claim, ...] = wire(list_of(CLAIM, max_items=MAX_CLAIMS_PER_FRAME))
    known_from: Bound | None = appended(optional(BOUND), default=None)
    scope: int = appended(_SCOPE, default=HISTORY)


@frame(26)
@attrs.frozen(kw_only=True)
class WantMessages(Frame):
    """Send me these messages. `MAX_UNANSWERED_WANTS` at a time."""

    number: int = wire(_NUMBER)
    ids: tuple[MsgId, ...] = wire(list_of(ID32, max_items=MAX_IDS_PER_WANT))
    scope: int = appended(_SCOPE, default=HISTORY)


@frame(27)
@attrs.frozen(kw_only=True)
class Messages(Frame):
    """Encoded messages that were asked for with that `number`. What has not come with the last is not there."""

    number: int = wire(_NUMBER)
    is_last: bool = wire(BOOLEAN)
    messages: tuple[bytes, ...] = wire(list_of(data(max_size=MAX_MESSAGE_SIZE), max_items=MAX_IDS_PER_WANT))
    scope: int = appended(_SCOPE, default=HISTORY)


POOL_FRAMES = (
    StatementIds,
    WantStatements,
    Statements,
    Gossip,
    GossipHave,
    Graft,
    Prune,
    OpenComparison,
    Compare,
    WantMessages,
    Messages,
)
