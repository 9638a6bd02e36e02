"""One pool in a server's memory: its statements, its roster, and which client each node of the roster has. Pure.

A node of the roster is either attached (a client holds it) or absent (its link broke, or the server restarted; it keeps
its places until a deadline). Nodes that are not in the roster are neither. Methods return what to do, in order: what is
to be stored comes before the frames that tell of it, statements before the roster events that depend on them.
"""

from collections.abc import Iterable, Sequence

from poolnet.errors import WireError
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Statement, decode_statement_untrusted, encode_statement
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.limits import FULL_MESH_SIZE, MAX_ROSTER_NODES, MAX_STATEMENTS, RELINK_GRACE_S, REPORTS_PER_REDRAW
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.rings import Roster
from poolnet.protocol.statement_exchange import add_statements, pack_statements
from poolnet.server.admission import refusal
from poolnet.server.complaints import Complaints, Verdict
from poolnet.server.events import (
    CloseClient,
    PruneStatements,
    SaveJoined,
    SaveLeft,
    SaveStatements,
    SendFrame,
    ServerEffect,
    ServerFrame,
    StoredPool,
)
from poolnet.server.places import Places
from poolnet.server.wanted import ClientId, WantedStatements
from poolnet.wire.pool_frames import WantStatements
from poolnet.wire.sync_frames import (
    ROSTER_PAGE_SIZE,
    Address,
    Attached,
    RosterEntry,
    RosterJoined,
    RosterLeft,
    RosterPage,
    Signalled,
)


class HostedPool:
    """A pool and who is online in it.

    Args:
        rng: for the places on the rings.
    """

    def __init__(self, pool_id: PoolId, rng: RandomSource) -> None:
        self.pool_id = pool_id
        self.membership = Membership(pool_id)
        #: Since when nobody is attached; None while somebody is.
        self.idle_since: float | None = None
        self._places = Places(rng)
        self._roster = Roster()
        self._clients: dict[DeviceId, ClientId] = {}
        self._absent: dict[DeviceId, float] = {}
        self._wanted = WantedStatements()
        self._reports: dict[DeviceId, set[DeviceId]] = {}
        self._complaints = Complaints(self._voice_of)
        self._stored_count = 0

    @property
    def attached_count(self) -> int:
        """How many nodes are attached."""
        return len(self._clients)

    @property
    def roster_size(self) -> int:
        """How many nodes are attached or absent."""
        return len(self._roster)

    @property
    def is_complete(self) -> bool:
        """Whether everything is here that clients offered."""
        return not self._wanted

    def restore(self, stored: StoredPool, *, deadline: float, now: float) -> list[ServerEffect]:
        """Take what the store has. Everyone in the roster is absent until `deadline`, or out if that is over."""
        for encoded in stored.statements:
            try:
                self.membership.add(decode_statement_untrusted(encoded))
            except WireError:  # of a version that allowed more; members will tell it again if they can
                continue
        self._stored_count = len(stored.statements)
        self._roster.reset(stored.epoch, stored.roster)
        gone = [node for node in self._roster.nodes if now >= deadline or not self.membership.is_member(node)]
        self._absent = dict.fromkeys(self._roster.nodes, deadline)
        effects: list[ServerEffect] = []
        for node in gone:
            effects += self._leave(node)
        return effects

    # --- clients ------------------------------------------------------------------------------------------------

    def attach(
        self, client: ClientId, device: DeviceId, *, has: set[StatementId], address: Address, unix_ms: int
    ) -> list[ServerEffect]:
        """Attach a member: it gets what it lacks and the roster; the others hear of it if it was not in the roster.

        Its earlier client, if there is one, is closed without anybody noticing.
        """
        if device not in self._roster and len(self._roster) >= MAX_ROSTER_NODES:
            return refusal(client, "busy")
        effects: list[ServerEffect] = []
        if device in self._clients:
            effects += self._replace(device)
        if device not in self._roster:
            effects += self._place(device)
        self._absent.pop(device, None)
        self._clients[device] = client
        self.idle_since = None
        lacking = [statement_id for statement_id in self.membership.ids() if statement_id not in has]
        effects += _send(client, pack_statements(self.membership.get(lacking)))
        return effects + self.roster_for(client, address=address, unix_ms=unix_ms)

    def roster_for(self, client: ClientId, *, address: Address, unix_ms: int) -> list[ServerEffect]:
        """Tell a client the whole roster."""
        attached = Attached(epoch=self._roster.epoch, observed=address, unix_ms=unix_ms)
        return _send(client, [attached, *_pages(self._roster.entries())])

    def detach(self, device: DeviceId, now: float) -> list[ServerEffect]:
        """The node goes offline; the others hear of it at once."""
        effects = self._forget_client(device) + self._leave(device)
        self._note_idle(now)
        return effects

    def lost(self, client: ClientId, device: DeviceId, now: float) -> list[ServerEffect]:
        """A client is gone without a word: its node keeps its places for `RELINK_GRACE_S`. Old clients do not count."""
        if self._clients.get(device) != client:
            return []
        effects = self._forget_client(device)
        self._absent[device] = now + RELINK_GRACE_S
        self._note_idle(now)
        return effects

    def expire_absent(self, now: float) -> list[ServerEffect]:
        """Remove the nodes that did not come back in time."""
        effects: list[ServerEffect] = []
        for device in [device for device, deadline in self._absent.items() if deadline <= now]:
            effects += self._leave(device)
        return effects

    # --- statements ---------------------------------------------------------------------------------------------

    def add(self, client: ClientId, statements: Sequence[Statement]) -> list[ServerEffect]:
        """Take statements from a member.

        Raises:
            WireError: one of them is not signed or of another pool; then none was taken.
        """
        added = add_statements(self.membership, statements)
        for statement in statements:
            self._wanted.arrived(statement.statement_id)
        return self.keep(added, source=client) + self.ask()

    def keep(self, added: Sequence[Statement], *, source: ClientId) -> list[ServerEffect]:
        """Store statements that are new in the membership, pass them on, and remove those who are out by them."""
        if not added:
            return []
        encoded = [encode_statement(statement) for statement in added]
        effects = self._save([(item.statement_id, data) for item, data in zip(added, encoded, strict=True)])
        frames = pack_statements(map(encode_statement, self.membership.news(added)))
        for client in self._clients.values():
            if client != source:
                effects += _send(client, frames)
        for device in [device for device in self._roster.nodes if not self.membership.is_member(device)]:
            effects += self._dismiss(device, "removed")
        return effects

    def gather(self, statements: Iterable[Statement]) -> list[ServerEffect]:
        """Take statements of a pool that is not kept yet: nothing is stored or passed on."""
        for statement in statements:
            self.membership.add(statement)
            self._wanted.arrived(statement.statement_id)
        return self.ask()

    def offer(self, client: ClientId, ids: Iterable[StatementId]) -> list[ServerEffect]:
        """Note what a client has; ask for what is lacking."""
        missing = self.membership.missing(tuple(ids))
        self._wanted.offer(client, missing, room=MAX_STATEMENTS - len(self.membership))
        return self.ask()

    def ask(self) -> list[ServerEffect]:
        """Ask for what is lacking and not asked for yet."""
        return [SendFrame(client, WantStatements(ids=ids)) for client, ids in self._wanted.ask()]

    # --- nodes to nodes -----------------------------------------------------------------------------------------

    def signal(self, sender: DeviceId, to: DeviceId, body: bytes) -> list[ServerEffect]:
        """Pass a signal on; nothing if `to` is not attached."""
        target = self._clients.get(to)
        return [] if target is None else [SendFrame(target, Signalled(sender=sender, body=body))]

    def report(self, reporter: DeviceId, node: DeviceId) -> bool:
        """Note that `reporter` cannot reach `node`. Returns whether other places would help: it happened repeatedly."""
        if len(self._roster) <= FULL_MESH_SIZE or node not in self._roster or node == reporter:
            return False
        reports = self._reports.setdefault(reporter, set())
        reports.add(node)
        return len(reports) >= REPORTS_PER_REDRAW

    def complain(self, reporter: DeviceId, node: DeviceId, now: float) -> tuple[Verdict, list[ServerEffect]]:
        """Take a node's word that another breaks the rules; return what that led to, and what is to be done for it."""
        neighbours = self._roster.neighbours(node)
        verdict = self._complaints.add(reporter, node, neighbours, self._roster.nodes, now)
        match verdict:
            case Verdict.MOVE:
                return verdict, [] if len(self._roster) <= FULL_MESH_SIZE else self._move(node)
            case Verdict.REMOVE:
                return verdict, self._expel(node, now)
            case _:
                return verdict, []

    def is_expelled(self, device: DeviceId, now: float) -> bool:
        """Return whether a node was removed by its neighbours, and may not come back yet."""
        return self._complaints.is_out(device, now)

    def redraw(self, device: DeviceId, now: float) -> list[ServerEffect]:
        """Give a node of the roster other places because it asks for them."""
        self._complaints.silence(device, now)
        return self._move(device)

    def save_all(self) -> list[ServerEffect]:
        """Store a pool that is new here."""
        ids = self.membership.ids()
        return self._save(list(zip(ids, self.membership.get(ids), strict=True)))

    # --- below --------------------------------------------------------------------------------------------------

    def _save(self, statements: Sequence[tuple[StatementId, bytes]]) -> list[ServerEffect]:
        """Store statements; of a full pool, forget in the store as well what the membership forgot to make room."""
        effects: list[ServerEffect] = [SaveStatements(self.pool_id, tuple(statements))]
        self._stored_count += len(statements)
        if self._stored_count > len(self.membership):
            effects.append(PruneStatements(self.pool_id, self.membership.ids()))
            self._stored_count = len(self.membership)
        return effects

    def _move(self, device: DeviceId) -> list[ServerEffect]:
        self._places.move(device)
        return self._place(device)

    def _place(self, device: DeviceId) -> list[ServerEffect]:
        entry = RosterEntry(node=device, places=self._places.of(device))
        epoch = self._roster.epoch + 1
        self._roster.apply_joined(epoch, entry)
        self._reports.pop(device, None)
        return [SaveJoined(self.pool_id, epoch, entry), *self._to_all(RosterJoined(epoch=epoch, entry=entry))]

    def _expel(self, device: DeviceId, now: float) -> list[ServerEffect]:
        effects = self._dismiss(device, "misbehaved")
        self._note_idle(now)
        return effects

    def _dismiss(self, device: DeviceId, code: str) -> list[ServerEffect]:
        """Take a node out of the roster, and tell it why."""
        effects: list[ServerEffect] = []
        if device in self._clients:
            effects += refusal(self._clients[device], code) + self._forget_client(device)
        return effects + self._leave(device)

    def _leave(self, device: DeviceId) -> list[ServerEffect]:
        if device not in self._roster:
            return []
        epoch = self._roster.epoch + 1
        self._roster.apply_left(epoch, device)
        self._absent.pop(device, None)
        self._reports.pop(device, None)
        return [SaveLeft(self.pool_id, epoch, device), *self._to_all(RosterLeft(epoch=epoch, node=device))]

    def _replace(self, device: DeviceId) -> list[ServerEffect]:
        old = self._clients[device]
        reason = "the same device attached again on another link"
        return [*self._forget_client(device), CloseClient(old, "replaced", reason)]

    def _forget_client(self, device: DeviceId) -> list[ServerEffect]:
        """Remove a client; what it was asked for is asked of others."""
        self._wanted.gone(self._clients.pop(device))
        return self.ask()

    def _voice_of(self, device: DeviceId) -> bytes:
        """Return the user whom an admin let in and by whom a member came; the founder's Genesis names no user."""
        host = self.membership.let_in(device)
        member = self.membership.members().get(host)
        return host if member is None or member.user is None else member.user.user_id

    def _note_idle(self, now: float) -> None:
        if not self._clients:
            self.idle_since = now

    def _to_all(self, frame: ServerFrame) -> list[ServerEffect]:
        return [SendFrame(client, frame) for client in self._clients.values()]


def _send(client: ClientId, frames: Iterable[ServerFrame]) -> list[ServerEffect]:
    return [SendFrame(client, frame) for frame in frames]


def _pages(entries: Sequence[RosterEntry]) -> list[RosterPage]:
    return [
        RosterPage(
            entries=tuple(entries[start : start + ROSTER_PAGE_SIZE]), last=start + ROSTER_PAGE_SIZE >= len(entries)
        )
        for start in range(0, max(1, len(entries)), ROSTER_PAGE_SIZE)
    ]
