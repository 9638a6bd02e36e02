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
- Sanctions are applied senior rank first, then by (hlc, id). Applying one can void others, so everything is read again
  until no new one is found. Each is applied once: this ends, after about as many readings as there are ranks in use.
- A sanction does not void the joins of those who are at least as senior as its author.
- A Join takes the first invite, in order, that has its key and admits it: not expired at the Join's hlc, uses left. It
  may claim a place before its invite's (a newcomer has seen no hlc yet) and then waits for it.
- The Join of the target stands as what admitted it, even if `keep` lists none: its use of the invite stays taken, so
  that it does not come back with another key, and its invites stay known for the seniors who came through them.
- Leaving is a removal of oneself: it ends what one may state after it, voids nothing, and one may join again later.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs

from poolnet.clock import Hlc, hlc_ms
from poolnet.identity.statements import Genesis, Invite, Join, RemoveMember, Role, SetRole, Statement
from poolnet.identity.user import SignedAddDevice
from poolnet.ids import DeviceId, PoolId, PublicKey, StatementId

#: Rank of those who are no admins: below every admin.
MEMBER_RANK = 2**32

_Key = tuple[Hlc, StatementId]


@attrs.frozen(kw_only=True)
class Member:
    """A device that is in the pool. `user` is None for the founder, whose Genesis names none."""

    public_key: PublicKey
    device_id: DeviceId
    role: Role
    rank: int
    user: SignedAddDevice | None
    joined_hlc: Hlc


@attrs.frozen(kw_only=True)
class Admission:
    """How a device came in: its Join, the Invite, and who invited."""

    join_id: StatementId
    invite_id: StatementId
    inviter: DeviceId


@attrs.frozen(kw_only=True)
class InviteState:
    """What an invite is still good for. Not `valid`: its author was removed or lost the right to give that role."""

    invite_id: StatementId
    author: DeviceId
    role: Role
    expires_unix_ms: int
    uses_left: int | None
    valid: bool


@attrs.frozen(kw_only=True)
class PoolState:
    """What the statements of a pool mean."""

    name: str
    members: Mapping[DeviceId, Member]
    #: Removed for ever.
    removed: frozenset[DeviceId]
    #: Not members because they left, and when.
    left: Mapping[DeviceId, Hlc]
    #: Everyone who ever came in: members, and those who left or were removed.
    entered: frozenset[DeviceId]
    #: How they came in, but for the founder.
    admissions: Mapping[DeviceId, Admission]
    invites: Mapping[PublicKey, Sequence[InviteState]]
    #: Statements that have an effect.
    effective: frozenset[StatementId]


@attrs.frozen(kw_only=True)
class Sanction:
    """An effective removal or demotion."""

    key: _Key
    rank: int
    target: DeviceId
    is_demotion: bool
    keep: frozenset[StatementId]
    #: Devices at least as senior as the author: their joins stand.
    seniors: frozenset[DeviceId]

    def voids(self, statement: Statement, *, as_admin: bool) -> bool:
        """Return whether a statement by the target (that needs to be an admin, or not) does not stand."""
        if statement.statement_id in self.keep:
            return False
        return not self.is_demotion or (as_admin and statement.key < self.key)

    def voids_join(self, join: Statement, invite: "_Invitation") -> bool:
        """Return whether a Join through an invite by the target does not stand."""
        if join.author in self.seniors:
            return False
        if self.voids(invite.statement, as_admin=invite.body.role == Role.ADMIN):
            return True
        return join.statement_id not in self.keep and self.voids_new_join(invite)

    def voids_new_join(self, invite: "_Invitation") -> bool:
        """Return whether an invite by the target admits nobody who is not kept."""
        return not self.is_demotion or (invite.body.role == Role.ADMIN and invite.statement.key < self.key)


@attrs.define(kw_only=True)
class _Standing:
    """A device that came in, as the reading goes on."""

    public_key: PublicKey
    role: Role
    rank: int
    user: SignedAddDevice | None
    joined_hlc: Hlc
    #: Where it left; None while it has not.
    left: _Key | None = None
    #: Places at which the rank changed.
    ranks: list[tuple[_Key, int]] = attrs.field(factory=list)

    def set_role(self, role: Role, rank: int, key: _Key) -> None:
        self.role, self.rank = role, rank
        self.ranks.append((key, rank))


@attrs.define(kw_only=True)
class _Invitation:
    """An Invite that its author could make, as the reading goes on; if it is void, it may still hold for seniors."""

    statement: Statement
    body: Invite
    admin_rank: int
    uses_left: int | None


def evaluate(pool_id: PoolId, statements: Iterable[Statement]) -> PoolState:
    """Return what `statements`, well signed and of one pool, mean together."""
    ordered = sorted(statements, key=lambda statement: statement.key)
    sanctions: dict[DeviceId, list[Sanction]] = {}
    while True:
        reading = _Reading(pool_id, ordered, sanctions)
        found = reading.new_sanctions()
        if not found:
            return reading.result()
        for sanction in found:
            sanctions.setdefault(sanction.target, []).append(sanction)


class _Reading:
    """One reading of all statements in order, with the sanctions found so far applied."""

    def __init__(
        self, pool_id: PoolId, ordered: Sequence[Statement], sanctions: Mapping[DeviceId, Sequence[Sanction]]
    ) -> None:
        self._sanctions = sanctions
        self._applied = {sanction.key[1] for group in sanctions.values() for sanction in group}
        self._name = ""
        self._standings: dict[DeviceId, _Standing] = {}
        self._admissions: dict[DeviceId, Admission] = {}
        #: By invite key, then by author: nobody needs the same key twice.
        self._invitations: dict[PublicKey, dict[DeviceId, _Invitation]] = {}
        self._waiting: dict[PublicKey, list[Statement]] = {}
        self._joins: dict[DeviceId, set[StatementId]] = {}
        self._candidates: list[tuple[int, Statement]] = []
        self._effective: set[StatementId] = set(self._applied)
        for statement in ordered:
            if isinstance(statement.body, Genesis) and statement.pool_id == pool_id:
                self._name = statement.body.name
                self._enter(statement, Role.ADMIN, 0)
        for statement in ordered:
            self._take(statement)

    def new_sanctions(self) -> list[Sanction]:
        """Return the sanctions of the most senior rank that are not applied yet and may be, in order."""
        eligible = [
            (rank, statement)
            for rank, statement in self._candidates
            if self._smallest_rank(_target(statement), statement.key) > rank
        ]
        if not eligible:
            return []
        senior = min(rank for rank, _ in eligible)
        seniors = frozenset(
            device for device, standing in self._standings.items() if min(rank for _, rank in standing.ranks) <= senior
        )
        found: list[Sanction] = []
        for rank, statement in eligible:
            is_void = any(
                sanction.target == statement.author and sanction.voids(statement, as_admin=True) for sanction in found
            )
            if rank == senior and not is_void:
                found.append(self._sanction(statement, rank, seniors))
        return found

    def _sanction(self, statement: Statement, rank: int, seniors: frozenset[DeviceId]) -> Sanction:
        body = statement.body
        assert isinstance(body, SetRole | RemoveMember)
        keep = frozenset(body.keep)
        admission = self._admissions.get(body.device)
        if admission is not None and not keep & self._joins[body.device]:
            keep |= {admission.join_id}
        return Sanction(
            key=statement.key,
            rank=rank,
            target=body.device,
            is_demotion=isinstance(body, SetRole),
            keep=keep,
            seniors=seniors,
        )

    def result(self) -> PoolState:
        """Return the state that this reading led to."""
        removed = {
            device for device, group in self._sanctions.items() if any(not sanction.is_demotion for sanction in group)
        }
        left = {device: standing.left[0] for device, standing in self._standings.items() if standing.left is not None}
        members = {
            device: Member(
                public_key=standing.public_key,
                device_id=device,
                role=standing.role,
                rank=standing.rank,
                user=standing.user,
                joined_hlc=standing.joined_hlc,
            )
            for device, standing in self._standings.items()
            if device not in removed and device not in left
        }
        invites = {
            key: tuple(self._invite_state(invitation) for invitation in group.values())
            for key, group in self._invitations.items()
        }
        return PoolState(
            name=self._name,
            members=MappingProxyType(members),
            removed=frozenset(removed),
            left=MappingProxyType(left),
            entered=frozenset(self._standings),
            admissions=MappingProxyType(self._admissions),
            invites=MappingProxyType(invites),
            effective=frozenset(self._effective),
        )

    def _take(self, statement: Statement) -> None:
        match statement.body:
            case Join():
                self._take_join(statement, statement.body)
            case Invite():
                self._take_invite(statement, statement.body)
            case SetRole(role=Role.ADMIN):
                self._take_promotion(statement, statement.body)
            case SetRole() | RemoveMember():
                self._take_sanction(statement, statement.body)
            case Genesis() | None:
                pass

    def _take_join(self, statement: Statement, body: Join) -> None:
        self._joins.setdefault(statement.author, set()).add(statement.statement_id)
        standing = self._standings.get(statement.author)
        if self._is_void(statement, as_admin=False):
            return
        if standing is not None and (standing.left is None or statement.key < standing.left):
            return
        if not self._admit(statement, body):
            self._waiting.setdefault(body.invite_key, []).append(statement)

    def _admit(self, join: Statement, body: Join) -> bool:
        for inviter, invitation in self._invitations.get(body.invite_key, {}).items():
            if invitation.uses_left == 0 or hlc_ms(join.hlc) > invitation.body.expires_unix_ms:
                continue
            if any(sanction.voids_join(join, invitation) for sanction in self._sanctions.get(inviter, ())):
                continue
            if invitation.uses_left is not None:
                invitation.uses_left -= 1
            self._effective.add(invitation.statement.statement_id)
            is_admin = invitation.body.role == Role.ADMIN
            self._enter(join, Role(invitation.body.role), invitation.admin_rank if is_admin else MEMBER_RANK)
            self._admissions[join.author] = Admission(
                join_id=join.statement_id, invite_id=invitation.statement.statement_id, inviter=inviter
            )
            return True
        return False

    def _enter(self, statement: Statement, role: Role, rank: int) -> None:
        self._effective.add(statement.statement_id)
        former = self._standings.get(statement.author)
        self._standings[statement.author] = _Standing(
            public_key=statement.author_key,
            role=role,
            rank=rank,
            user=statement.user,
            joined_hlc=statement.hlc,
            ranks=[*(former.ranks if former is not None else ()), (statement.key, rank)],
        )

    def _take_invite(self, statement: Statement, body: Invite) -> None:
        is_for_admins = body.role == Role.ADMIN
        author = self._standing_at(statement, as_admin=is_for_admins)
        invitations = self._invitations.setdefault(body.invite_key, {})
        if author is None or statement.author in invitations:
            return
        if not self._is_void(statement, as_admin=is_for_admins):
            self._effective.add(statement.statement_id)
        invitations[statement.author] = _Invitation(
            statement=statement, body=body, admin_rank=author.rank + 1, uses_left=body.uses
        )
        for join in self._waiting.pop(body.invite_key, ()):
            assert isinstance(join.body, Join)
            self._take_join(join, join.body)

    def _take_promotion(self, statement: Statement, body: SetRole) -> None:
        author = self._author(statement, as_admin=True)
        target = self._standings.get(body.device)
        if author is None or target is None or target.left is not None:
            return
        self._effective.add(statement.statement_id)
        if author.rank + 1 < target.rank:
            target.set_role(Role.ADMIN, author.rank + 1, statement.key)

    def _take_sanction(self, statement: Statement, body: SetRole | RemoveMember) -> None:
        target = self._standings.get(body.device)
        if statement.statement_id in self._applied:
            if target is not None and isinstance(body, SetRole):
                target.set_role(Role.MEMBER, MEMBER_RANK, statement.key)
            return
        is_own = statement.author == body.device
        author = self._author(statement, as_admin=not is_own)
        if author is None:
            return
        if not is_own:
            self._candidates.append((author.rank, statement))
        elif isinstance(body, RemoveMember):
            author.left = statement.key
            self._effective.add(statement.statement_id)
        elif author.rank > 0:
            author.set_role(Role.MEMBER, MEMBER_RANK, statement.key)
            self._effective.add(statement.statement_id)

    def _author(self, statement: Statement, *, as_admin: bool) -> _Standing | None:
        """Return the author's standing if it may state this at this place and it is not void."""
        return None if self._is_void(statement, as_admin=as_admin) else self._standing_at(statement, as_admin=as_admin)

    def _standing_at(self, statement: Statement, *, as_admin: bool) -> _Standing | None:
        author = self._standings.get(statement.author)
        if author is None or author.left is not None or (as_admin and author.role != Role.ADMIN):
            return None
        return author

    def _is_void(self, statement: Statement, *, as_admin: bool) -> bool:
        sanctions = self._sanctions.get(statement.author, ())
        return any(sanction.voids(statement, as_admin=as_admin) for sanction in sanctions)

    def _smallest_rank(self, device: DeviceId, key: _Key) -> int:
        """Return the most senior rank that a device has at a place or after it."""
        standing = self._standings.get(device)
        if standing is None:
            return MEMBER_RANK
        before = [rank for place, rank in standing.ranks if place <= key]
        after = [rank for place, rank in standing.ranks if place > key]
        return min(before[-1:] + after)

    def _invite_state(self, invitation: _Invitation) -> InviteState:
        author = invitation.statement.author
        return InviteState(
            invite_id=invitation.statement.statement_id,
            author=author,
            role=Role(invitation.body.role),
            expires_unix_ms=invitation.body.expires_unix_ms,
            uses_left=invitation.uses_left,
            valid=not any(sanction.voids_new_join(invitation) for sanction in self._sanctions.get(author, ())),
        )


def _target(statement: Statement) -> DeviceId:
    assert isinstance(statement.body, SetRole | RemoveMember)
    return statement.body.device
