"""What one reading of the statements (evaluation.py) knows of a device, and what a removal or demotion does to it."""

from collections.abc import Iterable, Mapping, Set

import attrs

from poolnet.clock import Hlc
from poolnet.identity.pool_state import MEMBER_RANK, Admission
from poolnet.identity.statements import Role, Statement
from poolnet.identity.user import SignedAddDevice
from poolnet.ids import DeviceId, PublicKey, StatementId

#: A place in the order of statements: `Statement.key`.
Place = tuple[Hlc, StatementId]

#: The latest of its own comings and goings that are kept in mind of a device that was removed.
_MAX_RECALLED = 100


@attrs.frozen(eq=False)
class Ground:
    """What gives a device its standing: some statements, and the standing that their authors had. The founder has none.

    Statements that were voided later may be among them: a sanction that was applied stays, whatever falls after it.
    """

    steps: tuple[StatementId, ...]
    rests_on: tuple["Ground", ...]


def statements_below(grounds: Iterable[Ground]) -> set[StatementId]:
    """Return all statements that some grounds rest on."""
    seen: set[Ground] = set()
    found: set[StatementId] = set()
    waiting = list(grounds)
    while waiting:
        ground = waiting.pop()
        if ground not in seen:
            seen.add(ground)
            found.update(ground.steps)
            waiting += ground.rests_on
    return found


@attrs.frozen
class Entry:
    """How a device came in, and what that rests on."""

    admission: Admission
    ground: Ground


@attrs.frozen(kw_only=True)
class Sanction:
    """An effective removal or demotion."""

    key: Place
    target: DeviceId
    is_demotion: bool
    keep: frozenset[StatementId]
    #: How those came in who are at least as senior as the author, by their joins.
    seniors: Mapping[StatementId, Entry]

    def voids(self, statement: Statement, *, as_admin: bool) -> bool:
        """Return whether a statement by the target (that needs to be an admin, or not) does not stand."""
        return statement.statement_id not in self.keep and (
            not self.is_demotion or (as_admin and statement.key < self.key)
        )

    def closes(self, invite: Statement, *, as_admin: bool) -> bool:
        """Return whether an invite by the target holds only for the joins in `keep`."""
        return not self.is_demotion or (as_admin and invite.key < self.key)


@attrs.define(kw_only=True, eq=False)
class Standing:
    """A device that came in, as the reading goes on."""

    public_key: PublicKey
    user: SignedAddDevice | None
    joined_hlc: Hlc
    rank: int
    #: The statements, by their places, that changed the rank.
    ranks: list[tuple[Place, int]]
    #: By which it came, went, came back and stepped down.
    own: list[StatementId]
    #: The member that an admin let in, by whom or by whose guests it came: itself if an admin let it in.
    branch: DeviceId
    #: None for the founder; `entry` is how it came in, `ground` has later promotions as well.
    entry: Entry | None
    ground: Ground | None
    #: Where it left; None while it has not.
    left: Place | None = None

    @property
    def role(self) -> Role:
        """Its role at this place."""
        return Role.ADMIN if self.rank < MEMBER_RANK else Role.MEMBER

    @property
    def best_rank(self) -> int:
        """The most senior rank that it had so far."""
        return min(rank for _, rank in self.ranks)

    def promote(self, promotion: Statement, author: "Standing") -> None:
        """Give it the rank below that of `author`."""
        self._set_rank(author.rank + 1, promotion.key)
        grounds = (ground for ground in (self.ground, author.ground) if ground is not None)
        self.ground = Ground((promotion.statement_id,), tuple(grounds))

    def demote(self, key: Place) -> None:
        """Make it a member that is no admin."""
        self._set_rank(MEMBER_RANK, key)

    def step_down(self, key: Place) -> None:
        """Let it demote itself."""
        self.demote(key)
        self.own.append(key[1])

    def leave(self, key: Place) -> None:
        """Let it leave."""
        self.left = key
        self.own.append(key[1])

    def smallest_rank_from(self, key: Place, *, without: Set[StatementId]) -> int:
        """Return the most senior rank at a place or after it; what the statements in `without` gave does not count."""
        counted = [(place, rank) for place, rank in self.ranks if place[1] not in without]
        before = [rank for place, rank in counted if place <= key]
        after = [rank for place, rank in counted if place > key]
        return min(before[-1:] + after, default=MEMBER_RANK)

    def recalled(self) -> list[StatementId]:
        """Return what a sanction of this device was judged by, of what it stated itself and the sanction may void.

        A join as a member hides a later one as an admin, and an admin may have stepped down.
        """
        return self.own[-_MAX_RECALLED:]

    def _set_rank(self, rank: int, key: Place) -> None:
        self.rank = rank
        self.ranks.append((key, rank))
