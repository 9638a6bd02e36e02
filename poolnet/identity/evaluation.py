"""What a set of pool statements means: who is a member, with which role, which invites still admit somebody.

A pure function of the *set*: the order of arrival does not matter, so members that hold the same statements agree.

Statements are read in the order of (hlc, id), and each has an effect if its author may do that at its place. Authors
choose the place, so nothing may be gained by the choice: **a removal or demotion cleans up behind its target**. Of what
the target stated, and of the joins through its invites, only what the remover lists in `keep` stands, whatever the hlc.
This is a `Sanction`. Rules:

- The founder has rank 0; who is made admin by rank r has rank r + 1, or keeps a smaller one; members come last.
- A sanction needs a *smaller* rank than its target has at that place or anywhere after it. So two never hit each other,
  a senior never falls to a junior (even one that backdates), and a promotion by someone senior to the remover weighs
  more than the removal.
- Sanctions are applied senior rank first. Applying one can void others, so everything is read again until no new one is
  found. Each is applied once: this ends, after about as many readings as there are ranks in use.
- Those who are at least as senior as the author of a sanction stay in, even if who invited them falls.
- A Join takes the best invite of its key that admits it (invitations.py): not expired at the Join's hlc, uses left.
  It may claim a place before its invite's (a newcomer has seen no hlc yet) and then waits for it.
- A removal lists in `keep` how its target joined: that Join still takes its use of the invite, and no other counts.
- Leaving is a removal of oneself: it ends what one may state after it, voids nothing, and one may join again later.

So that one member cannot use up the room that a pool has, **the Joins and Invites of a branch are counted**: those of a
member that an admin let in, of all whom it brought in, whom they brought in, and so on. Of them the first
`MAX_BRANCH_STATEMENTS` in order count, whatever arrived first. What an admin states is not counted, nor how somebody
came in who is or was an admin: no member throws out an admin by filling the branch in which that one came.

What this cannot know is which of two joins through one invite came first: their authors choose the place. Who holds the
secret of an invite with limited uses (its author does) can take the place of another who came in by it, as long as that
one is no admin of a rank that sanctions have confirmed. The sync server counts uses as they come; one link for one
person, and a removal of whoever plays such games, settle the rest.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType

import attrs

from poolnet.clock import hlc_ms
from poolnet.identity.invitations import Invitation, Invitations
from poolnet.identity.pool_state import MEMBER_RANK, Admission, InviteState, Member, PoolState
from poolnet.identity.standing import Entry, Ground, Sanction, Standing, statements_below
from poolnet.identity.statements import Genesis, Invite, Join, RemoveMember, Role, SetRole, Statement
from poolnet.ids import DeviceId, PoolId, PublicKey, StatementId
from poolnet.limits import MAX_BRANCH_STATEMENTS


def evaluate(pool_id: PoolId, statements: Iterable[Statement]) -> PoolState:
    """Return what `statements`, well signed and of one pool, mean together."""
    ordered = sorted(statements, key=lambda statement: statement.key)
    sanctions: list[Sanction] = []
    grounds: set[Ground] = set()
    while True:
        reading = _Reading(pool_id, ordered, sanctions)
        found = reading.new_sanctions()
        grounds |= reading.consulted
        if not found:
            break
        sanctions += found
    if reading.has_overfull_branch:
        reading = _Reading(pool_id, ordered, sanctions, uncounted=reading.statements_below_admins())
    return reading.result(statements_below(grounds))


@attrs.frozen
class _Candidate:
    """A sanction that may be applied, with its author's standing at that place."""

    rank: int
    ground: Ground | None
    statement: Statement


class _Reading:
    """One reading of all statements in order, with the sanctions found so far applied.

    With `uncounted` branches are bounded, and these statements do not count.
    """

    def __init__(
        self,
        pool_id: PoolId,
        ordered: Sequence[Statement],
        sanctions: Sequence[Sanction],
        *,
        uncounted: Set[StatementId] | None = None,
    ) -> None:
        self._uncounted = uncounted
        self._branch_sizes: dict[DeviceId, int] = {}
        self._sanctions: dict[DeviceId, list[Sanction]] = {}
        self._seniors: dict[StatementId, Entry] = {}
        for sanction in sanctions:
            self._sanctions.setdefault(sanction.target, []).append(sanction)
            self._seniors.update(sanction.seniors)
        self._applied = frozenset(sanction.key[1] for sanction in sanctions)
        self.effective: set[StatementId] = set(self._applied)
        #: What the sanctions that it found were judged by.
        self.consulted: set[Ground] = set()
        self._name = ""
        self._standings: dict[DeviceId, Standing] = {}
        self._admissions: dict[DeviceId, Admission] = {}
        self._invitations: dict[PublicKey, Invitations] = {}
        self._waiting: dict[PublicKey, list[Statement]] = {}
        self._joins: dict[DeviceId, set[StatementId]] = {}
        self._candidates: list[_Candidate] = []
        for statement in ordered:
            if isinstance(statement.body, Genesis) and statement.pool_id == pool_id:
                self._name = statement.body.name
                self._enter(statement, rank=0, branch=statement.author, entry=None)
        for statement in ordered:
            self._take(statement)

    def new_sanctions(self) -> list[Sanction]:
        """Return the sanctions of the most senior rank that may be applied, without those that others of them void.

        If all of them void each other (of equal rank, each before the other got it), the first in order.
        """
        eligible = [item for item in self._candidates if self._rank_against(item.statement) > item.rank]
        if not eligible:
            return []
        rank = min(item.rank for item in eligible)
        seniors = self._at_least(rank)
        batch = [(_sanction(item.statement, seniors), item) for item in eligible if item.rank == rank]
        sanctions = [pair for pair in batch if not any(_hits(other, pair[1].statement) for other, _ in batch)]
        found = sanctions or batch[:1]
        self._consult([item for _, item in found])
        return [sanction for sanction, _ in found]

    @property
    def has_overfull_branch(self) -> bool:
        """Return whether more is stated in a branch than counts."""
        return max(self._branch_sizes.values(), default=0) > MAX_BRANCH_STATEMENTS

    def statements_below_admins(self) -> set[StatementId]:
        """Return what the standing of everybody rests on who is or was an admin: how they came in above all."""
        return statements_below(entry.ground for entry in self._at_least(MEMBER_RANK - 1).values())

    def result(self, consulted: Iterable[StatementId]) -> PoolState:
        """Return the state that this reading led to; `consulted` is what the sanctions rest on."""
        removed = {
            device: min(removals)
            for device, group in self._sanctions.items()
            if (removals := [sanction.key[0] for sanction in group if not sanction.is_demotion])
        }
        present = {device: standing for device, standing in self._standings.items() if device not in removed}
        left = {device: standing.left[0] for device, standing in present.items() if standing.left is not None}
        members = {
            device: Member(
                public_key=standing.public_key,
                device_id=device,
                role=standing.role,
                rank=standing.rank,
                user=standing.user,
                joined_hlc=standing.joined_hlc,
            )
            for device, standing in present.items()
            if standing.left is None
        }
        return PoolState(
            name=self._name,
            members=MappingProxyType(members),
            removed=MappingProxyType(removed),
            left=MappingProxyType(left),
            entered=frozenset(self._standings),
            admin_times=MappingProxyType(
                {
                    device: tuple((place[0], rank < MEMBER_RANK) for place, rank in standing.ranks)
                    for device, standing in present.items()
                    if standing.best_rank < MEMBER_RANK
                }
            ),
            admissions=MappingProxyType(self._admissions),
            invites=MappingProxyType(
                {key: tuple(map(self._invite_state, invitations)) for key, invitations in self._invitations.items()}
            ),
            effective=frozenset(self.effective),
            relevant=frozenset(self.effective.union(consulted)),
        )

    def _take(self, statement: Statement) -> None:
        match statement.body:
            case Join():
                if not self._take_join(statement, statement.body):
                    self._waiting.setdefault(statement.body.invite_key, []).append(statement)
            case Invite():
                self._take_invite(statement, statement.body)
            case SetRole(role=Role.ADMIN):
                self._take_promotion(statement, statement.body)
            case SetRole() | RemoveMember():
                self._take_sanction(statement, statement.body)
            case Genesis() | None:
                pass

    def _invite_state(self, invitation: Invitation) -> InviteState:
        return InviteState(
            invite_id=invitation.statement.statement_id,
            author=invitation.author,
            role=Role(invitation.body.role),
            expires_unix_ms=invitation.body.expires_unix_ms,
            uses_left=0 if self._is_full(invitation.branch) else invitation.uses_left,
            valid=invitation.is_open,
        )

    # --- coming in ------------------------------------------------------------------------------------------------

    def _take_join(self, statement: Statement, body: Join) -> bool:
        """Return False if another invite could still admit the author."""
        self._joins.setdefault(statement.author, set()).add(statement.statement_id)
        standing = self._standings.get(statement.author)
        is_in = standing is not None and (standing.left is None or statement.key < standing.left)
        if is_in or self._is_void(statement, as_admin=False):
            return True
        invitations = self._invitations.get(body.invite_key)
        invitation = None if invitations is None else invitations.take(statement, partial(self._admits, statement))
        senior = self._seniors.get(statement.statement_id)
        if invitation is not None:
            self._admit(statement, invitation.entry(statement), branch=invitation.branch or statement.author)
        elif senior is not None:
            self._admit(statement, senior, branch=statement.author)
        return invitation is not None or senior is not None

    def _admit(self, join: Statement, entry: Entry, *, branch: DeviceId) -> None:
        self._count(join, branch)
        self._admissions[join.author] = entry.admission
        self._enter(join, rank=entry.admission.rank, branch=branch, entry=entry)

    def _admits(self, join: Statement, invitation: Invitation) -> bool:
        return (invitation.is_open or self._is_kept(join, invitation)) and self._has_room(
            join, invitation.branch or join.author
        )

    def _is_kept(self, join: Statement, invitation: Invitation) -> bool:
        return all(join.statement_id in sanction.keep for sanction in self._closing(invitation.statement))

    def _closing(self, invite: Statement) -> list[Sanction]:
        """Return the sanctions of an invite's author by which it holds only for the joins that are kept."""
        assert isinstance(invite.body, Invite)
        as_admin = invite.body.role == Role.ADMIN
        return [s for s in self._sanctions.get(invite.author, ()) if s.closes(invite, as_admin=as_admin)]

    def _enter(self, statement: Statement, *, rank: int, branch: DeviceId, entry: Entry | None) -> None:
        self.effective.add(statement.statement_id)
        former = self._standings.get(statement.author)
        self._standings[statement.author] = Standing(
            public_key=statement.author_key,
            rank=rank,
            user=statement.user,
            joined_hlc=statement.hlc,
            branch=branch,
            entry=entry,
            ground=None if entry is None else entry.ground,
            own=[*(former.own if former is not None else ()), statement.statement_id],
            ranks=[*(former.ranks if former is not None else ()), (statement.key, rank)],
        )

    def _take_invite(self, statement: Statement, body: Invite) -> None:
        is_for_admins = body.role == Role.ADMIN
        author = self._author(statement, as_admin=is_for_admins)
        if author is None:
            return
        branch = None if author.role == Role.ADMIN else author.branch
        if branch is not None:
            if not self._has_room(statement, branch):
                return
            self._count(statement, branch)
        self.effective.add(statement.statement_id)
        invitation = Invitation(
            statement=statement,
            body=body,
            rank=author.rank + 1 if is_for_admins else MEMBER_RANK,
            is_open=not self._closing(statement),
            uses_left=body.uses,
            branch=branch,
            ground=author.ground,
        )
        self._invitations.setdefault(body.invite_key, Invitations()).add(invitation)
        self._admit_waiting(invitation)

    def _admit_waiting(self, invitation: Invitation) -> None:
        """Admit those whose joins are placed before their invite; they are in order, so too late a one ends it."""
        waiting = self._waiting.get(invitation.body.invite_key, [])
        still: list[Statement] = []
        for place, join in enumerate(waiting):
            if invitation.uses_left == 0 or hlc_ms(join.hlc) > invitation.body.expires_unix_ms:
                still += waiting[place:]
                break
            assert isinstance(join.body, Join)
            if not self._take_join(join, join.body):
                still.append(join)
        waiting[:] = still

    # --- branches -------------------------------------------------------------------------------------------------

    def _has_room(self, statement: Statement, branch: DeviceId) -> bool:
        return (
            self._uncounted is None
            or self._branch_sizes.get(branch, 0) < MAX_BRANCH_STATEMENTS
            or statement.statement_id in self._uncounted
        )

    def _count(self, statement: Statement, branch: DeviceId) -> None:
        if self._uncounted is None or statement.statement_id not in self._uncounted:
            self._branch_sizes[branch] = self._branch_sizes.get(branch, 0) + 1

    def _is_full(self, branch: DeviceId | None) -> bool:
        return branch is not None and self._branch_sizes.get(branch, 0) >= MAX_BRANCH_STATEMENTS

    # --- ranks ----------------------------------------------------------------------------------------------------

    def _take_promotion(self, statement: Statement, body: SetRole) -> None:
        author = self._author(statement, as_admin=True)
        target = self._standings.get(body.device)
        if author is None or target is None or target.left is not None:
            return
        self.effective.add(statement.statement_id)
        if author.rank + 1 < target.rank:
            target.promote(statement, author)

    def _take_sanction(self, statement: Statement, body: SetRole | RemoveMember) -> None:
        target = self._standings.get(body.device)
        if statement.statement_id in self._applied:
            if target is not None and isinstance(body, SetRole):
                target.demote(statement.key)
            return
        is_own = statement.author == body.device
        author = self._author(statement, as_admin=not is_own)
        if author is None:
            return
        if not is_own:
            self._candidates.append(_Candidate(author.rank, author.ground, statement))
        elif isinstance(body, RemoveMember):
            author.leave(statement.key)
            self.effective.add(statement.statement_id)
        elif author.rank > 0:
            author.step_down(statement.key)
            self.effective.add(statement.statement_id)

    def _author(self, statement: Statement, *, as_admin: bool) -> Standing | None:
        """Return the author's standing if it may state this at this place and it is not void."""
        author = self._standings.get(statement.author)
        if author is None or author.left is not None or (as_admin and author.role != Role.ADMIN):
            return None
        return None if self._is_void(statement, as_admin=as_admin) else author

    def _is_void(self, statement: Statement, *, as_admin: bool) -> bool:
        sanctions = self._sanctions.get(statement.author)
        return sanctions is not None and any(sanction.voids(statement, as_admin=as_admin) for sanction in sanctions)

    def _rank_against(self, statement: Statement) -> int:
        """Return the rank that the target of a sanction holds against it.

        If `keep` lists how the target joined, other joins of it give no rank: they may be inventions of afterwards.
        """
        body = statement.body
        assert isinstance(body, SetRole | RemoveMember)
        standing = self._standings.get(body.device)
        if standing is None:
            return MEMBER_RANK
        joins, kept = self._joins_of_target(body)
        return standing.smallest_rank_from(statement.key, without=joins - kept if kept else frozenset())

    def _joins_of_target(self, body: SetRole | RemoveMember) -> tuple[Set[StatementId], Set[StatementId]]:
        """Return all joins of the target, and those that `keep` lists."""
        joins = self._joins.get(body.device, set())
        return joins, joins.intersection(body.keep)

    def _at_least(self, rank: int) -> dict[StatementId, Entry]:
        """Return how those came in, by their joins, who are or were at least that senior, without the founder."""
        return {
            standing.entry.admission.join_id: standing.entry
            for standing in self._standings.values()
            if standing.entry is not None and standing.best_rank <= rank
        }

    def _consult(self, found: Sequence[_Candidate]) -> None:
        """Note what sanctions of one rank rest on: what their authors and all seniors do, and how the targets stood."""
        seniors = (standing.ground for standing in self._standings.values() if standing.best_rank <= found[0].rank)
        grounds = {*seniors, *(item.ground for item in found)}
        steps: list[StatementId] = []
        for item in found:
            body = item.statement.body
            assert isinstance(body, SetRole | RemoveMember)
            target = self._standings.get(body.device)
            steps += self._joins_of_target(body)[1]
            if target is not None:
                steps += target.recalled()
                grounds.add(target.ground)
        self.consulted.add(Ground(tuple(steps), tuple(ground for ground in grounds if ground is not None)))


def _hits(sanction: Sanction, statement: Statement) -> bool:
    return sanction.target == statement.author and sanction.voids(statement, as_admin=True)


def _sanction(statement: Statement, seniors: Mapping[StatementId, Entry]) -> Sanction:
    body = statement.body
    assert isinstance(body, SetRole | RemoveMember)
    return Sanction(
        key=statement.key,
        target=body.device,
        is_demotion=isinstance(body, SetRole),
        keep=frozenset(body.keep),
        seniors=seniors,
    )
