"""Statements and membership of a simulated node: who founded, joined, was promoted and removed, as real ones know it.

The machines are those of a real node (identity/membership.py, protocol/statement_exchange.py), and so are the
statements, signatures too. What is simulated is who tells whom: neighbours on every new link before anything else and
whenever something is new, the server on attaching. Each signature is looked at once for all nodes of a simulation, as
it is the same for all; so a pool with statements costs little more than one without.

What a node has stated and heard is always on its disk: it survives every crash.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from blake3 import blake3

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import ProtocolError, WireError
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership, removal_keep
from poolnet.identity.statements import (
    Role,
    Statement,
    encode_statement,
    make_genesis,
    make_invite,
    make_join,
    make_removal,
    make_role,
    statement_is_signed,
)
from poolnet.identity.user import found_user
from poolnet.ids import DeviceId
from poolnet.protocol.agreement import Misbehaved
from poolnet.protocol.gossip import Verdict
from poolnet.protocol.statement_exchange import StatementExchange, StatementFrame, pack_statements
from poolnet.testing.sim_clock import START_UNIX_MS
from poolnet.testing.sim_life import SimLife
from poolnet.wire.pool_frames import StatementIds, Statements, WantStatements

STATEMENT_FRAMES = (StatementIds, WantStatements, Statements)
_NEVER_MS = 2**42


class SimCharter:
    """How a simulated pool began: its founder, and an open invite by which everyone else joins.

    Args:
        seed: decides all keys.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0
        self._invite_key = self._key("invite")
        founder, began = self._key("node 0"), make_hlc(START_UNIX_MS - 2000)
        self.genesis = make_genesis(founder, name="simulated", nonce=bytes(16), hlc=began)
        self.pool_id = self.genesis.pool_id
        self.invite = make_invite(
            founder,
            pool_id=self.pool_id,
            invite_key=self._invite_key.public_key,
            expires_unix_ms=_NEVER_MS,
            hlc=make_hlc(START_UNIX_MS - 1000),
        )
        self._credentials: dict[DeviceId, tuple[Statement, ...]] = {}

    def next_member(self, *, now_s: float) -> DeviceKey:
        """Return the key of the next who joins, at that time; the first is the founder."""
        key = self._key(f"node {self._count}")
        shown: tuple[Statement, ...] = (self.genesis, self.invite)
        if self._count:
            user = found_user(key, unix_ms=START_UNIX_MS, device_name=f"n{self._count}")
            hlc = make_hlc(START_UNIX_MS + round(now_s * 1000))
            shown += (make_join(key, self._invite_key, pool_id=self.pool_id, user=user, hlc=hlc),)
        self._credentials[key.device_id] = shown
        self._count += 1
        return key

    def credentials_of(self, device: DeviceId) -> tuple[Statement, ...]:
        """Return the statements by which a device shows that it has come in."""
        return self._credentials.get(device, ())

    def membership(self, statements: Iterable[Statement] = ()) -> Membership:
        """Return what statements mean in this pool."""
        membership = Membership(self.pool_id, is_signed=_is_signed)
        for statement in statements:
            membership.add(statement)
        return membership

    def _key(self, name: str) -> DeviceKey:
        return DeviceKey(blake3(f"{name} of {self._seed}".encode()).digest())


class SimStanding:
    """What one node in one life knows of who is in the pool, and tells others of it.

    Args:
        life: where it is.
        key: its device.
        charter: how the pool began.
        statements: what it knows from earlier lives; kept up to date.
        tell_server: tells the server what is new.
        changed: called when statements came, after all is passed on.
        ready: called with a neighbour that has all our statements now.
    """

    def __init__(
        self,
        life: SimLife,
        key: DeviceKey,
        charter: SimCharter,
        statements: list[Statement],
        *,
        tell_server: Callable[[Sequence[Statement]], None],
        changed: Callable[[], None],
        ready: Callable[[DeviceId], None],
    ) -> None:
        self.membership = charter.membership(statements)
        self._life = life
        self._key = key
        self._charter = charter
        self._statements = statements
        self._tell_server = tell_server
        self._changed = changed
        self._ready = ready
        self._exchanges: dict[DeviceId, StatementExchange] = {}
        self._statements += [item for item in charter.credentials_of(key.device_id) if self.membership.add(item)]

    @property
    def is_out(self) -> bool:
        """Whether this node knows that it was removed."""
        return not self.membership.is_member(self._key.device_id)

    def would_admit(self, peer: DeviceId) -> bool:
        """Return whether a device is a member, by what is known and what it shows for itself."""
        if self.membership.is_member(peer):
            return True
        candidate = self.membership.copy()
        for statement in self._charter.credentials_of(peer):
            candidate.add(statement)
        return candidate.is_member(peer)

    def judge(self, author: DeviceId, hlc: Hlc) -> Verdict:
        """Return what is to become of a message by somebody, as poolnet/pool/inbox.py does."""
        if not self.membership.was_member(author):
            return Verdict.REJECT
        return Verdict.ACCEPT if self.membership.may_have_written(author, hlc) else Verdict.DROP

    # --- what this node states ----------------------------------------------------------------------------------

    def remove(self, device: DeviceId, hlc: Hlc) -> None:
        """Remove a member."""
        keep = removal_keep(self.membership, device)
        self.take([make_removal(self._key, pool_id=self._charter.pool_id, device=device, keep=keep, hlc=hlc)])

    def set_role(self, device: DeviceId, role: Role, hlc: Hlc) -> None:
        """Make a member an admin, or an admin a plain member."""
        keep = removal_keep(self.membership, device) if role is Role.MEMBER else ()
        made = make_role(self._key, pool_id=self._charter.pool_id, device=device, role=role, keep=keep, hlc=hlc)
        self.take([made])

    # --- what others state --------------------------------------------------------------------------------------

    def link_up(self, peer: DeviceId) -> None:
        """Take a neighbour's credentials, and tell it what is known here."""
        self.take(self._charter.credentials_of(peer), source=peer)
        exchange = self._exchanges[peer] = StatementExchange(self.membership)
        for frame in exchange.greet():
            self._life.send(peer, frame)

    def link_down(self, peer: DeviceId) -> None:
        """Forget a neighbour."""
        self._exchanges.pop(peer, None)

    def received(self, peer: DeviceId, frame: StatementFrame) -> None:
        """Take a frame about statements."""
        if (exchange := self._exchanges.get(peer)) is None:
            return
        try:
            result = exchange.handle(frame)
        except (ProtocolError, WireError) as exc:
            self._life.blame(Misbehaved(peer, str(exc)), closes_link=True)
            return
        for reply in result.replies:
            self._life.send(peer, reply)
        self._pass_on(result.added, source=peer)
        if result.peer_is_ready:
            self._ready(peer)

    def take(self, statements: Iterable[Statement], *, source: DeviceId | None = None) -> None:
        """Take statements: made here (no `source`), told by the server, or shown by a peer."""
        self._pass_on([statement for statement in statements if self.membership.add(statement)], source=source)

    def _pass_on(self, added: Sequence[Statement], *, source: DeviceId | None) -> None:
        """Tell all others, and have no link to who is out."""
        if not added:
            return
        self._statements += added
        self._tell_server(added)
        frames = pack_statements([encode_statement(statement) for statement in added])
        for peer in list(self._exchanges):
            if peer != source:
                for frame in frames:
                    self._life.send(peer, frame)
        self._changed()


@lru_cache(8192)
def _checked(_signed: bytes, _signatures: tuple[bytes, ...], statement: Statement) -> bool:
    return statement_is_signed(statement)


def _is_signed(statement: Statement) -> bool:
    return _checked(statement.signed, statement.signatures, statement)
