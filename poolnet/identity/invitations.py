"""The invites of one reading (evaluation.py), and which of them a Join takes.

Anybody who knows an invite key may state invites with it, at any place. So that nobody loses by that, a Join takes the
best invite that admits it: the most senior rank, then one that is open to everybody, then the first author in order,
and of that one's the invite that expires last. Invites of one key that are alike in the first three are one group,
which makes the search cost the logarithm of their number.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

import attrs

from poolnet.clock import Hlc, hlc_ms
from poolnet.identity.pool_state import Admission
from poolnet.identity.standing import Entry, Ground
from poolnet.identity.statements import Invite, Statement
from poolnet.ids import DeviceId, StatementId


@attrs.define(kw_only=True)
class Invitation:
    """An Invite that stands. Not `is_open`: its author was sanctioned, it holds only for the joins that are kept.

    `branch` is that of its author, to which the joins through it belong as well; None if the author was an admin.
    `ground` is what the standing of its author rested on.
    """

    statement: Statement
    body: Invite
    rank: int
    is_open: bool
    uses_left: int | None
    branch: DeviceId | None
    ground: Ground | None

    @property
    def author(self) -> DeviceId:
        """Who invites."""
        return self.statement.author

    def entry(self, join: Statement) -> Entry:
        """Return how the author of a Join comes in by it."""
        admission = Admission(
            join_id=join.statement_id,
            invite_id=self.statement.statement_id,
            inviter=self.author,
            rank=self.rank,
        )
        rests_on = () if self.ground is None else (self.ground,)
        return Entry(admission, Ground((admission.join_id, admission.invite_id), rests_on))


@attrs.define(order=False)
class _Group:
    """Invites with the same key, author, rank and openness; the heap has the one on top that expires last."""

    heap: list[tuple[int, tuple[Hlc, StatementId], Invitation]] = attrs.field(factory=list)

    def top(self) -> Invitation | None:
        while self.heap and self.heap[0][2].uses_left == 0:
            heappop(self.heap)
        return self.heap[0][2] if self.heap else None


class Invitations:
    """All invites with one key."""

    def __init__(self) -> None:
        self._all: list[Invitation] = []
        self._groups: dict[tuple[int, bool, DeviceId], _Group] = {}
        #: (rank, closed, place of the first invite, author) of each group.
        self._order: list[tuple[int, bool, tuple[Hlc, StatementId], DeviceId]] = []

    def add(self, invitation: Invitation) -> None:
        """Add an invite; they are added in their order."""
        self._all.append(invitation)
        rank, is_closed, author, place = (
            invitation.rank,
            not invitation.is_open,
            invitation.author,
            invitation.statement.key,
        )
        group = self._groups.get((rank, is_closed, author))
        if group is None:
            group = self._groups[rank, is_closed, author] = _Group()
            insort(self._order, (rank, is_closed, place, author))
        heappush(group.heap, (-invitation.body.expires_unix_ms, place, invitation))

    def take(self, join: Statement, admits: Callable[[Invitation], bool]) -> Invitation | None:
        """Take a use of the best invite that is in time for `join` and that `admits` it."""
        for rank, is_closed, _, author in self._order:
            invitation = self._groups[rank, is_closed, author].top()
            if invitation is None or hlc_ms(join.hlc) > invitation.body.expires_unix_ms:
                continue
            if admits(invitation):
                if invitation.uses_left is not None:
                    invitation.uses_left -= 1
                return invitation
        return None

    def __iter__(self) -> Iterator[Invitation]:
        return iter(self._all)
