"""The members of one pool, from its statements: any node judges any other, no server is trusted.

`Membership` holds the statements (the exchange between nodes is about them) and reads them with evaluation.py when
somebody asks, at most once per change. It holds statements without effect as well: what they depend on may come later.

Room is bounded. When it gets scarce, statements that make no difference are forgotten, what a removal voids among them;
they are taken again from others if they come to make one. The last room is for admins, the very last for the founder:
a pool that somebody has filled can always be told to remove that one. A refused statement is offered again with every
new link, so that members that had to refuse different ones agree as soon as there is room.
"""

from collections.abc import Callable, Iterable, Mapping

from poolnet.clock import Hlc, hlc_ms
from poolnet.errors import Refused
from poolnet.identity.evaluation import evaluate
from poolnet.identity.pool_state import Admission, InviteState, Member, PoolState
from poolnet.identity.statements import Genesis, Join, Role, Statement, encode_statement, statement_is_signed
from poolnet.ids import DeviceId, PoolId, PublicKey, StatementId
from poolnet.limits import (
    MAX_KEPT_STATEMENTS,
    MAX_STATEMENTS,
    MAX_STATEMENTS_SIZE,
    RESERVED_STATEMENTS,
    RESERVED_STATEMENTS_SIZE,
)

__all__ = ["Admission", "InviteState", "Member", "Membership", "PoolState", "removal_keep"]

#: Statements that one device shows for itself: two steps of the chain of invites.
MAX_CREDENTIALS = 4


class Membership:
    """The statements of one pool and what they mean.

    Args:
        pool_id: statements of other pools are refused.
        is_signed: whether those who must have signed a statement did.
    """

    def __init__(self, pool_id: PoolId, *, is_signed: Callable[[Statement], bool] = statement_is_signed) -> None:
        self.pool_id = pool_id
        self._is_signed = is_signed
        self._statements: dict[StatementId, Statement] = {}
        self._size = 0
        self._state: PoolState | None = None
        self._founder: DeviceId | None = None
        self._has_forgotten = False
        #: Admins as of the last evaluation; who is asked about at the brink of a full set is looked up anew if need be.
        self._admins: frozenset[DeviceId] = frozenset()

    def copy(self) -> "Membership":
        """Return an independent copy, to see what further statements would mean."""
        result = Membership(self.pool_id, is_signed=self._is_signed)
        result._statements, result._size, result._state = self._statements.copy(), self._size, self._state
        result._founder, result._admins = self._founder, self._admins
        result._has_forgotten = self._has_forgotten
        return result

    # --- statements -----------------------------------------------------------------------------------------------

    def is_signed(self, statement: Statement) -> bool:
        """Return whether everyone who has to sign a statement did."""
        return self._is_signed(statement)

    def add(self, statement: Statement, *, was_verified: bool = False) -> bool:
        """Take a statement, in any order; return whether it is new, of this pool and well signed.

        A full set makes room by forgetting statements that make no difference; if all do, the new statement is refused.
        For a statement by an admin or the founder there is room for longer. `was_verified`: its signatures were looked
        at just now (`is_signed`).
        """
        if statement.statement_id in self._statements or statement.pool_id != self.pool_id:
            return False
        if not was_verified and not self._is_signed(statement):
            return False
        if not self._make_room(statement):
            return False
        self._statements[statement.statement_id] = statement
        self._size += _size_of(statement)
        self._state = None
        if isinstance(statement.body, Genesis):
            self._founder = statement.author
        return True

    def add_in_time(self, statements: Iterable[Statement], unix_ms: int) -> None:
        """Take statements that a device shows for itself; of joins only those that would admit their author *now*.

        Whatever time a Join claims: nobody has seen it in time who could say so.
        """
        joins: list[Statement] = []
        for statement in statements:
            if isinstance(statement.body, Join):
                joins.append(statement)
            else:
                self.add(statement)
        while True:  # a Join may wait for that of its inviter
            waiting = [join for join in joins if not (self._admits(join, unix_ms) and self.add(join))]
            if len(waiting) == len(joins):
                return
            joins = waiting

    def _admits(self, join: Statement, unix_ms: int) -> bool:
        try:
            self.check_join(join, unix_ms)
        except Refused:
            return False
        return True

    @property
    def may_lack_members(self) -> bool:
        """Whether this set once was so full that statements were forgotten or refused: others may know more members."""
        return self._has_forgotten or self._is_full(reserved=0)

    def news(self, added: Iterable[Statement]) -> list[Statement]:
        """Return those of statements just added that others should be told of.

        That is all; but once this set had to forget what makes no difference, only what makes one. Or full sets would
        go on for ever to tell each other what they have forgotten.
        """
        if not self._has_forgotten:
            return list(added)
        relevant = self.state.relevant
        return [statement for statement in added if statement.statement_id in relevant]

    def ids(self) -> tuple[StatementId, ...]:
        """Return the ids of all statements held."""
        return tuple(self._statements)

    def missing(self, ids: Iterable[StatementId]) -> tuple[StatementId, ...]:
        """Return those of `ids` that are not held, each once; none if there is no room, not even for the founder."""
        if self._is_full(reserved=0):
            self._forget_irrelevant()
            if self._is_full(reserved=0):
                return ()
        return tuple(dict.fromkeys(item for item in ids if item not in self._statements))

    def get(self, ids: Iterable[StatementId]) -> list[bytes]:
        """Return the encoded statements of `ids`, each once, without those that are not held."""
        return [encode_statement(self._statements[item]) for item in dict.fromkeys(ids) if item in self._statements]

    def statements(self) -> list[bytes]:
        """Return all statements, encoded, in their order."""
        ordered = sorted(self._statements.values(), key=lambda statement: statement.key)
        return [encode_statement(statement) for statement in ordered]

    def effective_statements(self) -> list[Statement]:
        """Return the statements that have an effect, in their order."""
        effective = self.state.effective
        return sorted((self._statements[item] for item in effective), key=lambda statement: statement.key)

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, statement_id: StatementId) -> bool:
        return statement_id in self._statements

    # --- what they mean -------------------------------------------------------------------------------------------

    @property
    def state(self) -> PoolState:
        """What the statements held now mean."""
        if self._state is None:
            self._state = evaluate(self.pool_id, self._statements.values())
            members = self._state.members.values()
            self._admins = frozenset(member.device_id for member in members if member.role == Role.ADMIN)
        return self._state

    @property
    def name(self) -> str:
        """The pool's name; empty while its Genesis is not known."""
        return self.state.name

    def members(self) -> Mapping[DeviceId, Member]:
        """Return the devices that are in the pool."""
        return self.state.members

    def is_member(self, device: DeviceId) -> bool:
        """Return whether a device is in the pool."""
        return device in self.state.members

    def was_member(self, device: DeviceId) -> bool:
        """Return whether a device is or ever was in the pool, so that it may be an author of history.

        Of a removed one that is taken for granted: the removal may have voided how it had come in.
        """
        return device in self.state.entered or device in self.state.removed

    def may_have_written(self, device: DeviceId, hlc: Hlc) -> bool:
        """Return whether a message of that time may be by this device: by a member, or by one that went after it.

        What a removed device wrote before stays in the history, the same for those who come later.
        """
        if self.is_member(device):
            return True
        return hlc <= max(self.state.left.get(device, -1), self.state.removed.get(device, -1))

    def gone(self) -> Mapping[DeviceId, Hlc]:
        """Return since when they are gone who left or were removed: what they wrote later is void."""
        return {**self.state.left, **self.state.removed}

    def was_admin(self, device: DeviceId, hlc: Hlc) -> bool:
        """Return whether a device was an admin at that time; one that was removed is taken never to have been one."""
        was_admin = False
        for place, (since, is_admin) in enumerate(self.state.admin_times.get(device, ())):
            if place == 0 or since <= hlc:  # a clock may say that it wrote before it came in
                was_admin = is_admin
        return was_admin and self.may_have_written(device, hlc)

    def public_key_of(self, device: DeviceId) -> PublicKey | None:
        """Return a member's public key; None for others."""
        member = self.state.members.get(device)
        return None if member is None else member.public_key

    def role_of(self, device: DeviceId) -> Role | None:
        """Return a member's role; None for others."""
        member = self.state.members.get(device)
        return None if member is None else member.role

    def let_in(self, device: DeviceId) -> DeviceId:
        """Return whom an admin let in that a device came by, over however many invites: itself if an admin let it in.

        Whatever a member brings is that member's responsibility, and may be its invention.
        """
        met = {device}
        while (admission := self.state.admissions.get(device)) is not None:
            if admission.inviter in self.state.admin_times or admission.inviter in met:
                break
            device = admission.inviter
            met.add(device)
        return device

    def credentials_of(self, device: DeviceId) -> tuple[bytes, ...]:
        """Return the encoded statements by which a device shows that it is a member.

        Its Join and the Invite for that, then those of its inviter, at most `MAX_CREDENTIALS`; the founder's is the
        Genesis. Nothing for a device that is not a member.
        """
        if device not in self.state.members:
            return ()
        chain: list[StatementId] = []
        while (admission := self.state.admissions.get(device)) is not None and len(chain) < MAX_CREDENTIALS:
            chain += (admission.join_id, admission.invite_id)
            device = admission.inviter
        return tuple(self.get(chain or [StatementId(self.pool_id)]))

    def invite(self, invite_key: PublicKey) -> InviteState | None:
        """Return what the invite of that key is good for: the first that admits somebody, else the first."""
        states = self.state.invites.get(invite_key, ())
        usable = [state for state in states if state.valid and state.uses_left != 0]
        return next(iter([*usable, *states]), None)

    def check_join(self, join: Statement, unix_ms: int) -> None:
        """Check that a Join, well signed, would make its author a member now; it need not have been added.

        Raises:
            Refused: with the code ``removed``, ``not_a_member`` (it has left since), ``invite_unknown``,
                ``invite_expired`` or ``invite_used_up``.
        """
        if self.is_member(join.author):
            return
        if join.author in self.state.removed:
            raise Refused("this device was removed from the pool", code="removed")
        if join.hlc <= self.state.left.get(join.author, -1):
            raise Refused("this device has left the pool since it joined so", code="not_a_member")
        key = join.body.invite_key if isinstance(join.body, Join) else PublicKey(b"")
        states = [state for state in self.state.invites.get(key, ()) if state.valid]
        if not states or join.pool_id != self.pool_id:
            raise Refused("this pool knows no such invite; ask for a new one", code="invite_unknown")
        latest_ms = max(unix_ms, hlc_ms(join.hlc))
        states = [state for state in states if latest_ms <= state.expires_unix_ms]
        if not states:
            raise Refused("the invite has expired; ask for a new one", code="invite_expired")
        if all(state.uses_left == 0 for state in states):
            raise Refused("the invite is used up; ask for a new one", code="invite_used_up")

    # --- room -----------------------------------------------------------------------------------------------------

    def _make_room(self, statement: Statement) -> bool:
        """Return whether there is room for a statement, if need be after forgetting what makes no difference."""
        if not self._is_full(reserved=2):
            return True
        reserved = self._reserved_from(statement)
        if self._is_full(reserved=reserved):
            self._forget_irrelevant()
        return not self._is_full(reserved=reserved)

    def _reserved_from(self, statement: Statement) -> int:
        """Return how many reserves the author of a statement has to leave alone."""
        if statement.author == self._founder or isinstance(statement.body, Genesis):
            return 0
        is_admin = statement.author in self._admins or self.role_of(statement.author) == Role.ADMIN
        return 1 if is_admin else 2

    def _is_full(self, *, reserved: int) -> bool:
        """Return whether no room is left but so many reserves."""
        return (
            len(self._statements) >= MAX_STATEMENTS - reserved * RESERVED_STATEMENTS
            or self._size >= MAX_STATEMENTS_SIZE - reserved * RESERVED_STATEMENTS_SIZE
        )

    def _forget_irrelevant(self) -> None:
        relevant = self.state.relevant
        if len(relevant) == len(self._statements):
            return
        self._has_forgotten = True
        self._statements = {key: item for key, item in self._statements.items() if key in relevant}
        self._size = sum(_size_of(statement) for statement in self._statements.values())


def removal_keep(membership: Membership, device: DeviceId, *, undo: bool = False) -> tuple[StatementId, ...]:
    """Return what shall stand of a member that is to be removed or demoted: all that has had an effect so far.

    That is how it joined and what it stated, then the joins through its invites, each oldest first, at most
    `MAX_KEPT_STATEMENTS`. With `undo`, only how it joined: whom it invited or promoted falls with it.
    """
    admissions = membership.state.admissions.values()
    invited = {admission.join_id for admission in admissions if admission.inviter == device}
    effective = membership.effective_statements()
    own = [statement for statement in effective if statement.author == device]
    own_joins = [statement.statement_id for statement in own if isinstance(statement.body, Join)]
    if undo:
        return tuple(own_joins)
    stated = [statement.statement_id for statement in own if not isinstance(statement.body, Join)]
    joined = [statement.statement_id for statement in effective if statement.statement_id in invited]
    return tuple([*own_joins, *stated, *joined][:MAX_KEPT_STATEMENTS])


def _size_of(statement: Statement) -> int:
    return len(statement.signed) + sum(map(len, statement.signatures))
