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

What this cannot know is which of two joins through one invite came first: their authors choose the place. Who holds the
secret of an invite with limited uses (its author does) can take the place of another who came in by it, as long as that
one is no admin of a rank that sanctions have confirmed. The sync server counts uses as they come; one link for one
person, and a removal of whoever plays such games, settle the rest.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType

import attrs

from poolnet.clock import Hlc, hlc_ms
from poolnet.identity.invitations import Invitation, Invitations
from poolnet.identity.pool_state import MEMBER_RANK, Admission, InviteState, Member, PoolState
from poolnet.identity.statements import Genesis, Invite, Join, RemoveMember, Role, SetRole, Statement
from poolnet.identity.user import SignedAddDevice
from poolnet.ids import DeviceId, PoolId, PublicKey, StatementId

_Key = tuple[Hlc, StatementId]


@attrs.frozen(kw_only=True)
class Sanction:
    """An effective removal or demotion."""

    key: _Key
    target: DeviceId
    is_demotion: bool
    keep: frozenset[StatementId]
    #: How those came in who are at least as senior as the author, by their joins.
    seniors: Mapping[StatementId, Admission]

    def voids(self, statement: Statement, *, as_admin: bool) -> bool:
        """Return whether a statement by the target (that needs to be an admin, or not) does not stand."""
        return statement.statement_id not in self.keep and (
            not self.is_demotion or (as_admin and statement.key < self.key)
        )

    def closes(self, invite: Statement, *, as_admin: bool) -> bool:
        """Return whether an invite by the target holds only for the joins in `keep`."""
        return not self.is_demotion or (as_admin and invite.key < self.key)


@attrs.define(kw_only=True)
class _Standing:
    """A device that came in, as the reading goes on."""

    public_key: PublicKey
    rank: int
    user: SignedAddDevice | None
    joined_hlc: Hlc
    #: The statements, by their places, that changed the rank.
    ranks: list[tuple[_Key, int]]
    #: Where it left; None while it has not.
    left: _Key | None = None

    @property
    def role(self) -> Role:
        return Role.ADMIN if self.rank < MEMBER_RANK else Role.MEMBER

    def set_rank(self, rank: int, key: _Key) -> None:
        self.rank = rank
        self.ranks.append((key, rank))

    def smallest_rank_from(self, key: _Key, *, without: Set[StatementId]) -> int:
        """Return the most senior rank at a place or after it; what the statements in `without` gave does not count."""
        counted = [(place, rank) for place, rank in self.ranks if place[1] not in without]
        before = [rank for place, rank in counted if place <= key]
        after = [rank for place, rank in counted if place > key]
        return min(before[-1:] + after, default=MEMBER_RANK)


def evaluate(pool_id: PoolId, statements: Iterable[Statement]) -> PoolState:
    """Return what `statements`, well signed and of one pool, mean together."""
    ordered = sorted(statements, key=lambda statement: statement.key)
    sanctions: list[Sanction] = []
    relevant: set[StatementId] = set()
    while True:
        reading = _Reading(pool_id, ordered, sanctions)
        found = reading.new_sanctions()
        relevant |= reading.effective | reading.consulted
        if not found:
            return reading.result(relevant)
        sanctions += found


class _Reading:
    """One reading of all statements in order, with the sanctions found so far applied."""

    def __init__(self, pool_id: PoolId, ordered: Sequence[Statement], sanctions: Sequence[Sanction]) -> None:
        self._sanctions: dict[DeviceId, list[Sanction]] = {}
        self._seniors: dict[StatementId, Admission] = {}
        for sanction in sanctions:
            self._sanctions.setdefault(sanction.target, []).append(sanction)
            self._seniors.update(sanction.seniors)
        self._applied = frozenset(sanction.key[1] for sanction in sanctions)
        self.effective: set[StatementId] = set(self._applied)
        self.consulted: set[StatementId] = set()
        self._name = ""
        self._standings: dict[DeviceId, _Standing] = {}
        self._admissions: dict[DeviceId, Admission] = {}
        self._invitations: dict[PublicKey, Invitations] = {}
        self._waiting: dict[PublicKey, list[Statement]] = {}
        self._joins: dict[DeviceId, set[StatementId]] = {}
        self._candidates: list[tuple[int, Statement]] = []
        for statement in ordered:
            if isinstance(statement.body, Genesis) and statement.pool_id == pool_id:
                self._name = statement.body.name
                self._enter(statement, 0)
        for statement in ordered:
            self._take(statement)

    def new_sanctions(self) -> list[Sanction]:
        """Return the sanctions of the most senior rank that may be applied, without those that others of them void.

        If all of them void each other (of equal rank, each before the other got it), the first in order.
        """
        eligible = [(rank, statement) for rank, statement in self._candidates if self._rank_against(statement) > rank]
        if not eligible:
            return []
        senior = min(rank for rank, _ in eligible)
        seniors = {
            admission.join_id: admission
            for device, admission in self._admissions.items()
            if min(rank for _, rank in self._standings[device].ranks) <= senior
        }
        batch = [(_sanction(statement, seniors), statement) for rank, statement in eligible if rank == senior]
        standing = [sanction for sanction, statement in batch if not any(_hits(other, statement) for other, _ in batch)]
        return standing or [batch[0][0]]

    def result(self, relevant: Iterable[StatementId]) -> PoolState:
        """Return the state that this reading led to; `relevant` had an effect in this or an earlier one."""
        removed = frozenset(
            device for device, group in self._sanctions.items() if any(not sanction.is_demotion for sanction in group)
        )
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
            removed=removed,
            left=MappingProxyType(left),
            entered=frozenset(self._standings),
            admissions=MappingProxyType(self._admissions),
            invites=MappingProxyType(
                {key: tuple(map(_invite_state, invitations)) for key, invitations in self._invitations.items()}
            ),
            effective=frozenset(self.effective),
            relevant=frozenset(relevant),
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

    # --- coming in ------------------------------------------------------------------------------------------------

    def _take_join(self, statement: Statement, body: Join) -> bool:
        """Return False if another invite could still admit the author."""
        self._joins.setdefault(statement.author, set()).add(statement.statement_id)
        standing = self._standings.get(statement.author)
        is_in = standing is not None and (standing.left is None or statement.key < standing.left)
        if is_in or self._is_void(statement, as_admin=False):
            return True
        admission = self._admission(statement, body) or self._seniors.get(statement.statement_id)
        if admission is None:
            return False
        self._admissions[statement.author] = admission
        self._enter(statement, admission.rank)
        return True

    def _admission(self, join: Statement, body: Join) -> Admission | None:
        invitations = self._invitations.get(body.invite_key)
        invitation = invitations.take(join, lambda invitation: self._is_kept(join, invitation)) if invitations else None
        if invitation is None:
            return None
        return Admission(
            join_id=join.statement_id,
            invite_id=invitation.statement.statement_id,
            inviter=invitation.author,
            rank=invitation.rank,
        )

    def _is_kept(self, join: Statement, invitation: Invitation) -> bool:
        return all(join.statement_id in sanction.keep for sanction in self._closing(invitation.statement))

    def _closing(self, invite: Statement) -> list[Sanction]:
        """Return the sanctions of an invite's author by which it holds only for the joins that are kept."""
        assert isinstance(invite.body, Invite)
        as_admin = invite.body.role == Role.ADMIN
        return [s for s in self._sanctions.get(invite.author, ()) if s.closes(invite, as_admin=as_admin)]

    def _enter(self, statement: Statement, rank: int) -> None:
        self.effective.add(statement.statement_id)
        former = self._standings.get(statement.author)
        self._standings[statement.author] = _Standing(
            public_key=statement.author_key,
            rank=rank,
            user=statement.user,
            joined_hlc=statement.hlc,
            ranks=[*(former.ranks if former is not None else ()), (statement.key, rank)],
        )

    def _take_invite(self, statement: Statement, body: Invite) -> None:
        is_for_admins = body.role == Role.ADMIN
        author = self._author(statement, as_admin=is_for_admins)
        if author is None:
            return
        self.effective.add(statement.statement_id)
        invitation = Invitation(
            statement=statement,
            body=body,
            rank=author.rank + 1 if is_for_admins else MEMBER_RANK,
            is_open=not self._closing(statement),
            uses_left=body.uses,
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

    # --- ranks ----------------------------------------------------------------------------------------------------

    def _take_promotion(self, statement: Statement, body: SetRole) -> None:
        author = self._author(statement, as_admin=True)
        target = self._standings.get(body.device)
        if author is None or target is None or target.left is not None:
            return
        self.effective.add(statement.statement_id)
        if author.rank + 1 < target.rank:
            target.set_rank(author.rank + 1, statement.key)

    def _take_sanction(self, statement: Statement, body: SetRole | RemoveMember) -> None:
        target = self._standings.get(body.device)
        if statement.statement_id in self._applied:
            if target is not None and isinstance(body, SetRole):
                target.set_rank(MEMBER_RANK, statement.key)
            return
        is_own = statement.author == body.device
        author = self._author(statement, as_admin=not is_own)
        if author is None:
            return
        if not is_own:
            self._candidates.append((author.rank, statement))
        elif isinstance(body, RemoveMember):
            author.left = statement.key
            self.effective.add(statement.statement_id)
        elif author.rank > 0:
            author.set_rank(MEMBER_RANK, statement.key)
            self.effective.add(statement.statement_id)

    def _author(self, statement: Statement, *, as_admin: bool) -> _Standing | None:
        """Return the author's standing if it may state this at this place and it is not void."""
        author = self._standings.get(statement.author)
        if author is None or author.left is not None or (as_admin and author.role != Role.ADMIN):
            return None
        return None if self._is_void(statement, as_admin=as_admin) else author

    def _is_void(self, statement: Statement, *, as_admin: bool) -> bool:
        sanctions = self._sanctions.get(statement.author, ())
        return any(sanction.voids(statement, as_admin=as_admin) for sanction in sanctions)

    def _rank_against(self, statement: Statement) -> int:
        """Return the rank that the target of a sanction holds against it.

        If `keep` lists how the target joined, other joins of it give no rank: they may be inventions of afterwards.
        """
        body = statement.body
        assert isinstance(body, SetRole | RemoveMember)
        standing = self._standings.get(body.device)
        if standing is None:
            return MEMBER_RANK
        joins = self._joins.get(body.device, set())
        kept = joins.intersection(body.keep)
        self.consulted |= kept
        return standing.smallest_rank_from(statement.key, without=joins - kept if kept else frozenset())


def _hits(sanction: Sanction, statement: Statement) -> bool:
    return sanction.target == statement.author and sanction.voids(statement, as_admin=True)


def _sanction(statement: Statement, seniors: Mapping[StatementId, Admission]) -> Sanction:
    body = statement.body
    assert isinstance(body, SetRole | RemoveMember)
    return Sanction(
        key=statement.key,
        target=body.device,
        is_demotion=isinstance(body, SetRole),
        keep=frozenset(body.keep),
        seniors=seniors,
    )


def _invite_state(invitation: Invitation) -> InviteState:
    return InviteState(
        invite_id=invitation.statement.statement_id,
        author=invitation.author,
        role=Role(invitation.body.role),
        expires_unix_ms=invitation.body.expires_unix_ms,
        uses_left=invitation.uses_left,
        valid=invitation.is_open,
    )
