"""What a client of a server may do before it is attached: have a place, show what it is judged by, and be judged. Pure.

A client shows statements, lists those that it has, and asks to be attached:

- The pool is known here: the client is judged by it (admission.py) and attached or refused at once.
- The pool is unknown, and the client showed its Genesis: the pool is new here (or the store was lost). Everything that
  the client has is asked for first; if its device is a member by that, the pool is kept.

Anybody can come this far, so all of it is bounded, and shared fairly (protocol/fair_slots.py).
"""

from collections.abc import Iterable, Sequence

from poolnet.errors import WireError
from poolnet.identity.statements import Statement, decode_statement_untrusted
from poolnet.ids import PoolId, StatementId
from poolnet.limits import (
    CREATE_BURST,
    CREATE_RATE,
    MAX_FOUNDING_SIZE,
    MAX_IDS_PER_FRAME,
    MAX_SHOWN_SIZE,
    MAX_SHOWN_STATEMENTS,
    MAX_STATEMENTS,
)
from poolnet.protocol.fair_slots import FairSlots
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.token_bucket import RateLimit
from poolnet.server.admission import admit_shown, refusal, show_removal
from poolnet.server.clients import Client, Clients
from poolnet.server.events import ClientFrame, ServerEffect
from poolnet.server.hosted_pool import HostedPool
from poolnet.server.wanted import ClientId
from poolnet.wire.framing import UnknownFrame
from poolnet.wire.pool_frames import StatementIds, Statements
from poolnet.wire.sync_frames import Attach


class Reception:
    """Where clients are until they are attached.

    Args:
        clients: all clients, of which each that comes is given a place here.
        pools: those that are loaded; one that a client brings is added.
        rng: for the places on the rings of a new pool.
    """

    def __init__(self, clients: Clients, pools: dict[PoolId, HostedPool], rng: RandomSource) -> None:
        self._clients = clients
        self._pools = pools
        self._rng = rng
        self._create_limit = RateLimit(burst=CREATE_BURST, rate=CREATE_RATE)

    def seat(self, client: Client, now: float) -> list[ServerEffect]:
        """Give a client a place until it is attached, or refuse it.

        Members of a pool that is loaded, who have proven their keys, do not have to take their turn with strangers.
        """
        pool, group = self._pools.get(client.pool_id), client.pool_id.hex()
        is_member = pool is not None and pool.membership.is_member(client.device)
        if is_member and self._clients.members.has_room(group, now):
            return _make_room(self._clients.members, client, group, now)
        return _make_room(self._clients.unattached, client, client.network, now)

    def received(self, client: Client, frame: ClientFrame, now: float, unix_ms: int) -> list[ServerEffect]:
        """Take a frame from a client that is not attached.

        Raises:
            WireError: malformed statements, too many, or a frame that has no place here.
        """
        pool = self._pools.get(client.pool_id)
        match frame:
            case Statements(statements=encoded):
                return self._shown(pool, client, encoded, now, unix_ms)
            case StatementIds(ids=ids):
                return self._listed(pool, client, ids)
            case Attach():
                if pool is not None and pool.is_expelled(client.device, now):
                    return refusal(client.client_id, "misbehaved")
                client.wants_attach = True
                return self._judge(pool, client, unix_ms)
            case UnknownFrame():
                return []
            case _:
                raise WireError(f"{type(frame).__name__} before being attached")

    def _shown(
        self, pool: HostedPool | None, client: Client, encoded: Sequence[bytes], now: float, unix_ms: int
    ) -> list[ServerEffect]:
        statements = [decode_statement_untrusted(item) for item in encoded]
        client.shown_size += sum(map(len, encoded))
        if client.founding is not None:
            return self._brought(pool, client, client.founding, statements, unix_ms)
        client.shown += statements
        genesis_id = StatementId(client.pool_id)
        if len(client.shown) > MAX_SHOWN_STATEMENTS or client.shown_size > MAX_SHOWN_SIZE:
            raise WireError("more statements than are needed to be judged")
        if pool is not None or all(statement.statement_id != genesis_id for statement in statements):
            return []
        if not self._create_limit.take(client.network, now):
            return refusal(client.client_id, "too_many")
        effects = _make_room(self._clients.founders, client, client.network, now)
        if client.client_id not in self._clients.founders:
            return effects
        client.founding = HostedPool(client.pool_id, self._rng)
        shown, client.shown = client.shown, []
        return effects + self._brought(pool, client, client.founding, shown, unix_ms)

    def _brought(
        self,
        pool: HostedPool | None,
        client: Client,
        founding: HostedPool,
        statements: Iterable[Statement],
        unix_ms: int,
    ) -> list[ServerEffect]:
        """Take a part of a pool that is new here; nothing is kept before its bringer is judged by the whole."""
        if client.shown_size > MAX_FOUNDING_SIZE:
            raise WireError("a new pool with too many statements")
        questions = founding.gather(statements)
        return questions + (self._judge(pool, client, unix_ms) if client.wants_attach else [])

    def _listed(self, pool: HostedPool | None, client: Client, ids: Sequence[StatementId]) -> list[ServerEffect]:
        """Note what a client has; of what a stranger has, no more than one frame."""
        if client.founding is not None:
            return client.founding.offer(client.client_id, ids)
        if pool is not None:
            missing = set(pool.membership.missing(ids))
            room = MAX_STATEMENTS if pool.membership.is_member(client.device) else MAX_IDS_PER_FRAME
            held = [statement_id for statement_id in ids if statement_id not in missing]
            client.has.update(held[: max(0, room - len(client.has))])
            client.offers += list(missing)[: max(0, room - len(client.offers))]
        return []

    def _judge(self, pool: HostedPool | None, client: Client, unix_ms: int) -> list[ServerEffect]:
        if client.founding is not None:
            return self._judge_founding(pool, client, client.founding, unix_ms)
        if pool is None:
            return refusal(client.client_id, "unknown_pool")
        membership = pool.membership
        judgement = admit_shown(membership, client.shown, device=client.device, unix_ms=unix_ms)
        effects = pool.keep(judgement.admitted, source=client.client_id)
        if membership.is_member(client.device):
            return effects + self._enter(pool, client, unix_ms)
        if client.device in membership.state.removed:
            effects += show_removal(client.client_id, membership, client.device)
            return effects + refusal(client.client_id, "removed")
        return effects + refusal(client.client_id, judgement.code or "not_a_member")

    def _judge_founding(
        self, pool: HostedPool | None, client: Client, founding: HostedPool, unix_ms: int
    ) -> list[ServerEffect]:
        if not founding.is_complete:
            return []
        if pool is not None:  # another member brought it meanwhile; the next try finds it
            return refusal(client.client_id, "busy")
        if not founding.membership.is_member(client.device):
            return refusal(client.client_id, "not_a_member")
        client.founding = None
        client.has.update(founding.membership.ids())
        self._pools[client.pool_id] = founding
        return founding.save_all() + self._enter(founding, client, unix_ms)

    def _enter(self, pool: HostedPool, client: Client, unix_ms: int) -> list[ServerEffect]:
        has, offers = client.has, client.offers
        client.shown, client.has, client.offers = [], set(), []
        client.is_attached = True
        self._clients.attached(client.client_id)
        attached = pool.attach(client.client_id, client.device, has=has, address=client.address, unix_ms=unix_ms)
        return attached + pool.offer(client.client_id, offers)


def _make_room(slots: FairSlots[ClientId], client: Client, group: str, now: float) -> list[ServerEffect]:
    """Give a client a place and send away who had it, if anybody; or send the client away."""
    if not slots.has_room(group, now):
        return refusal(client.client_id, "busy")
    sent_away = slots.take(client.client_id, group, now)
    return [] if sent_away is None else refusal(sent_away, "busy")
