"""Pool statements between two members: each side says what it has, asks for what it lacks, and only then gossips.

A message can be judged only by who knows its author, so the statements that admit the author must be there first. On a
new link each side lists its statements; the other answers every list with a request for what it lacks (maybe nothing).
When all our lists have been answered, the other side has our statements, and gossip may be sent to it. What we learn
later is pushed to every link at once, ahead of the messages that depend on it, because a control stream keeps order.

One list has one answer, and each statement of our lists is given once: nobody makes us send more than we have.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, assert_never

import attrs

from poolnet.errors import ProtocolError, WireError
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, decode_statement_untrusted
from poolnet.ids import StatementId
from poolnet.limits import KIB, MAX_IDS_PER_FRAME
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements

T = TypeVar("T")
#: Encoded statements in one frame: well below a frame, whatever the sizes of the single ones.
_BATCH_SIZE = 20 * KIB

StatementFrame = StatementIds | WantStatements | Statements


@attrs.frozen(kw_only=True)
class Exchanged:
    """What a frame led to: frames to send back, statements that are new, and whether the peer then has all of ours.

    `replies` may be long: it is made while it is iterated over, once.
    """

    replies: Iterable[StatementFrame] = ()
    added: tuple[Statement, ...] = ()
    peer_is_ready: bool = False


class StatementExchange:
    """The exchange on one link."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._unanswered = 0
        self._open: set[StatementId] = set()

    def greet(self) -> list[StatementIds]:
        """Return the frames that open the exchange: all that we have."""
        ids = tuple(self._membership.ids())
        frames = [StatementIds(ids=part) for part in _parts(ids, MAX_IDS_PER_FRAME)] or [StatementIds(ids=())]
        self._unanswered = len(frames)
        self._open = set(ids)
        return frames

    def handle(self, frame: StatementFrame) -> Exchanged:
        """Take a frame from the peer.

        Raises:
            WireError: a statement in it is malformed, not signed or of another pool.
            ProtocolError: more was asked for than lists were sent.
        """
        match frame:
            case StatementIds():
                return Exchanged(replies=(WantStatements(ids=tuple(self._membership.missing(frame.ids))),))
            case WantStatements():
                if not self._unanswered:
                    raise ProtocolError("statements were asked for more often than lists of them were sent")
                self._unanswered -= 1
                wanted = take_open(self._open, frame.ids)
                return Exchanged(
                    replies=_packed(encoded for item in wanted for encoded in self._membership.get((item,))),
                    peer_is_ready=self._unanswered == 0,
                )
            case Statements():
                return Exchanged(added=tuple(add_statements_untrusted(self._membership, frame.statements)))
            case _:
                assert_never(frame)


def add_statements_untrusted(membership: Membership, encoded: Sequence[bytes]) -> list[Statement]:
    """Add statements from outside to `membership`; return those that were new and found room.

    Raises:
        WireError: one of them is malformed, not signed or of another pool; then none was added.
    """
    return add_statements(membership, [decode_statement_untrusted(item) for item in encoded])


def add_statements(membership: Membership, statements: Iterable[Statement]) -> list[Statement]:
    """Add statements to `membership`, all or, if one is false, none; each signature of new ones is looked at once.

    Raises:
        WireError: one of them is not signed or of another pool.
    """
    new = {item.statement_id: item for item in statements if item.statement_id not in membership}
    for statement in new.values():
        if statement.pool_id != membership.pool_id:
            raise WireError("a statement of another pool")
        if not membership.is_signed(statement):
            raise WireError("a statement that is not signed by its author")
    return [statement for statement in new.values() if membership.add(statement, was_verified=True)]


def take_open(unasked: set[StatementId], ids: Iterable[StatementId]) -> list[StatementId]:
    """Return those of `ids` that are in `unasked`, each once, and take them out of it."""
    taken = [item for item in dict.fromkeys(ids) if item in unasked]
    unasked.difference_update(taken)
    return taken


def pack_statements(encoded: Iterable[bytes]) -> list[Statements]:
    """Return as few frames as hold the encoded statements."""
    return list(_packed(encoded))


def _packed(encoded: Iterable[bytes]) -> Iterator[Statements]:
    batch: list[bytes] = []
    size = 0
    for item in encoded:
        if batch and (size + len(item) > _BATCH_SIZE or len(batch) == MAX_IDS_PER_FRAME):
            yield Statements(statements=tuple(batch))
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        yield Statements(statements=tuple(batch))


def _parts(items: tuple[T, ...], size: int) -> list[tuple[T, ...]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
