"""Pool statements between two members: each side says what it has, asks for what it lacks, and only then gossips.

A message can be judged only by who knows its author, so the statements that admit the author must be there first. On a
new link each side lists its statements; the other answers every list with a request for what it lacks (maybe nothing).
When all our lists have been answered, the other side has our statements, and gossip may be sent to it. What we learn
later is pushed to every link at once, ahead of the messages that depend on it, because a control stream keeps order.
"""

from collections.abc import Sequence
from typing import TypeVar, assert_never

import attrs

from poolnet.errors import WireError
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, decode_statement_untrusted
from poolnet.limits import KIB, MAX_IDS_PER_FRAME
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements

T = TypeVar("T")
#: Encoded statements in one frame: well below a frame, whatever the sizes of the single ones.
_BATCH_SIZE = 20 * KIB

StatementFrame = StatementIds | WantStatements | Statements


@attrs.frozen(kw_only=True)
class Exchanged:
    """What a frame led to: frames to send back, statements that are new, and whether the peer now has all of ours."""

    replies: tuple[StatementFrame, ...] = ()
    added: tuple[Statement, ...] = ()
    peer_is_ready: bool = False


class StatementExchange:
    """The exchange on one link."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._unanswered = 0

    def greet(self) -> list[StatementIds]:
        """Return the frames that open the exchange: all that we have."""
        ids = tuple(self._membership.ids())
        frames = [StatementIds(ids=part) for part in _parts(ids, MAX_IDS_PER_FRAME)] or [StatementIds(ids=())]
        self._unanswered = len(frames)
        return frames

    def handle(self, frame: StatementFrame) -> Exchanged:
        """Take a frame from the peer.

        Raises:
            WireError: a statement in it is malformed.
        """
        match frame:
            case StatementIds():
                return Exchanged(replies=(WantStatements(ids=tuple(self._membership.missing(frame.ids))),))
            case WantStatements():
                was_waiting = self._unanswered > 0
                self._unanswered = max(0, self._unanswered - 1)
                return Exchanged(
                    replies=tuple(pack_statements(self._membership.get(frame.ids))),
                    peer_is_ready=was_waiting and self._unanswered == 0,
                )
            case Statements():
                return Exchanged(added=tuple(add_statements_untrusted(self._membership, frame.statements)))
            case _:
                assert_never(frame)


def add_statements_untrusted(membership: Membership, encoded: Sequence[bytes]) -> list[Statement]:
    """Add statements from outside to `membership`; return those that were new and well signed.

    Raises:
        WireError: one of them is malformed.
    """
    statements = [decode_statement_untrusted(item) for item in encoded]
    added = [statement for statement in statements if membership.add(statement)]
    unsigned = [s for s in statements if s not in added and membership.missing((s.statement_id,))]
    if unsigned:
        raise WireError("a statement that is not signed by its author, or of another pool")
    return added


def pack_statements(encoded: Sequence[bytes]) -> list[Statements]:
    """Return as few frames as hold the encoded statements."""
    frames: list[Statements] = []
    batch: list[bytes] = []
    size = 0
    for item in encoded:
        if batch and (size + len(item) > _BATCH_SIZE or len(batch) == MAX_IDS_PER_FRAME):
            frames.append(Statements(statements=tuple(batch)))
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        frames.append(Statements(statements=tuple(batch)))
    return frames


def _parts(items: tuple[T, ...], size: int) -> list[tuple[T, ...]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
