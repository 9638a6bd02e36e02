"""The sync server as a machine: clients and pools in memory, events in, effects out. Pure.

It places the nodes of a pool on the rings, tells all of them the same roster events in the same order, keeps their
statements, passes signals on, and refuses who is no member. It knows no messages and no files.

A client names a pool when its link comes up. The pool is loaded if need be; what the client sends meanwhile waits. A
client shows statements, lists those that it has, and asks to be attached:

- The pool is known here: the client is judged by it (admission.py) and attached or refused at once.
- The pool is unknown, and the client showed its Genesis: the pool is new here (or the store was lost). Everything that
  the client has is asked for first; if its device is a member by that, the pool is kept.

What happens in a pool from then on is in hosted_pool.py; here are clients, judging, limits and time.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import assert_never

import attrs

from poolnet.errors import WireError
from poolnet.identity.statements import Statement, decode_statement_untrusted
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.limits import (
    ATTACH_BURST,
    ATTACH_RATE,
    ATTACH_TIMEOUT_S,
    COMPLAINT_BURST,
    COMPLAINT_RATE,
    CREATE_BURST,
    CREATE_RATE,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_FOUNDING_SIZE,
    MAX_IDS_PER_FRAME,
    MAX_QUEUED_FRAMES,
    MAX_SHOWN_SIZE,
    MAX_SHOWN_STATEMENTS,
    MAX_STATEMENTS,
    REATTACH_GRACE_S,
    REDRAW_BURST,
    REDRAW_RATE,
    RELINK_GRACE_S,
    ROSTER_BURST,
    ROSTER_RATE,
    SIGNAL_BURST,
    SIGNAL_RATE,
    UNLOAD_AFTER_S,
)
from poolnet.protocol.fair_slots import FairSlots
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.token_bucket import RateLimit
from poolnet.server.admission import admit_shown, refusal
from poolnet.server.clients import Client, Clients
from poolnet.server.complaints import Verdict
from poolnet.server.events import (
    ClientConnected,
    ClientFrame,
    ClientGone,
    CloseClient,
    FrameReceived,
    LoadPool,
    PoolLoaded,
    ServerEffect,
    ServerEvent,
    StoreFailed,
)
from poolnet.server.hosted_pool import HostedPool
from poolnet.server.wanted import ClientId
from poolnet.wire.framing import UnknownFrame
from poolnet.wire.pool_frames import StatementIds, Statements
from poolnet.wire.sync_frames import Attach, Detach, Report, ReportConduct, SendSignal


@attrs.frozen(kw_only=True)
class CoreStatistics:
    """Clients, loaded pools and attached nodes now; the rest since the start.

    `moved` and `expelled` are nodes that got other places, and that are out for a while, by what their neighbours said.
    """

    clients: int
    pools: int
    attached: int
    signals_passed: int
    signals_dropped: int
    complaints: int
    moved: int
    expelled: int
    closed: dict[str, int]


class ServerCore:
    """The machine.

    Args:
        rng: for the places on the rings; nobody may be able to predict it.
        now: when the server started; stored rosters are kept for `REATTACH_GRACE_S` from then on.
    """

    def __init__(self, rng: RandomSource, *, now: float) -> None:
        self._rng = rng
        self._restored_until = now + REATTACH_GRACE_S
        self._clients = Clients()
        self._pools: dict[PoolId, HostedPool] = {}
        self._loading: dict[PoolId, list[FrameReceived]] = {}
        self._timers: list[tuple[float, int, ClientId | None, PoolId | None]] = []
        self._timer_count = 0
        self._attach_limit = RateLimit(burst=ATTACH_BURST, rate=ATTACH_RATE)
        self._create_limit = RateLimit(burst=CREATE_BURST, rate=CREATE_RATE)
        self._signal_limit = RateLimit(burst=SIGNAL_BURST, rate=SIGNAL_RATE)
        self._roster_limit = RateLimit(burst=ROSTER_BURST, rate=ROSTER_RATE)
        self._redraw_limit = RateLimit(burst=REDRAW_BURST, rate=REDRAW_RATE)
        self._complaint_limit = RateLimit(burst=COMPLAINT_BURST, rate=COMPLAINT_RATE)
        self._verdicts: Counter[Verdict] = Counter()
        self._closed: Counter[str] = Counter()
        self._signals_passed = 0
        self._signals_dropped = 0

    def handle(self, event: ServerEvent, now: float) -> list[ServerEffect]:
        """Take an event; return what to do, in this order."""
        match event:
            case ClientConnected():
                effects = self._connected(event, now)
            case FrameReceived():
                effects = self._received(event, now)
            case ClientGone(client=client_id):
                effects = self._gone(client_id, now)
            case PoolLoaded():
                effects = self._loaded(event, now)
            case StoreFailed(pool_id=pool_id):
                effects = self._give_up(pool_id)
            case _:
                assert_never(event)
        return self._finish(effects)

    def next_deadline(self) -> float | None:
        """Return when `tick` is due."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> list[ServerEffect]:
        """Do what is due: clients that showed nothing in time, absent nodes, idle pools."""
        effects: list[ServerEffect] = []
        while self._timers and self._timers[0][0] <= now:
            _, _, client_id, pool_id = heapq.heappop(self._timers)
            client = None if client_id is None else self._clients.get(client_id)
            if client is not None and not client.is_attached:
                effects += refusal(client.client_id, "timeout")
            pool = None if pool_id is None else self._pools.get(pool_id)
            if pool is not None:
                effects += pool.expire_absent(now)
                self._unload_if_idle(pool, now)
        return self._finish(effects)

    def statistics(self) -> CoreStatistics:
        """Return counts."""
        return CoreStatistics(
            clients=len(self._clients),
            pools=len(self._pools),
            attached=sum(pool.attached_count for pool in self._pools.values()),
            signals_passed=self._signals_passed,
            signals_dropped=self._signals_dropped,
            complaints=self._verdicts.total(),
            moved=self._verdicts[Verdict.MOVE],
            expelled=self._verdicts[Verdict.REMOVE],
            closed=dict(self._closed),
        )

    # --- clients come and go ------------------------------------------------------------------------------------

    def _connected(self, event: ClientConnected, now: float) -> list[ServerEffect]:
        client = Client(event.client, event.device, event.pool_id, event.address)
        connections = self._clients.add(client)
        if connections > MAX_CONNECTIONS_PER_ADDRESS or not self._attach_limit.take(client.network, now):
            return refusal(client.client_id, "too_many")
        effects = self._make_room(self._clients.unattached, client, now)
        if client.client_id not in self._clients.unattached:
            return effects
        self._set_timer(now + ATTACH_TIMEOUT_S, client_id=client.client_id)
        if client.pool_id in self._pools or client.pool_id in self._loading:
            return effects
        self._loading[client.pool_id] = []
        return [*effects, LoadPool(client.pool_id)]

    def _make_room(self, slots: FairSlots[ClientId], client: Client, now: float) -> list[ServerEffect]:
        """Give a client a place and send away who had it, if anybody; or send the client away."""
        if not slots.has_room(client.network, now):
            return refusal(client.client_id, "busy")
        sent_away = slots.take(client.client_id, client.network, now)
        return [] if sent_away is None else refusal(sent_away, "busy")

    def _gone(self, client_id: ClientId, now: float) -> list[ServerEffect]:
        client = self._clients.remove(client_id)
        pool = None if client is None else self._pools.get(client.pool_id)
        if client is None or pool is None or not client.is_attached:
            return []
        effects = pool.lost(client_id, client.device, now)
        self._set_timer(now + RELINK_GRACE_S, pool_id=pool.pool_id)
        self._watch_idle(pool, now)
        return effects

    def _finish(self, effects: list[ServerEffect]) -> list[ServerEffect]:
        """Forget the clients that are closed: nothing that they still send counts."""
        for effect in effects:
            if isinstance(effect, CloseClient) and self._clients.remove(effect.client) is not None:
                self._closed[effect.code] += 1
        return effects

    # --- pools come and go --------------------------------------------------------------------------------------

    def _loaded(self, event: PoolLoaded, now: float) -> list[ServerEffect]:
        effects: list[ServerEffect] = []
        waiting = self._loading.pop(event.pool_id, [])
        if event.stored is not None and event.pool_id not in self._pools:
            pool = self._pools[event.pool_id] = HostedPool(event.pool_id, self._rng)
            pool.idle_since = now
            effects += pool.restore(event.stored, deadline=self._restored_until, now=now)
            self._set_timer(self._restored_until, pool_id=pool.pool_id)
            self._watch_idle(pool, now)
        for frame in waiting:
            effects += self._finish(self._received(frame, now))
        return effects

    def _give_up(self, pool_id: PoolId) -> list[ServerEffect]:
        """Forget what is in memory and the store does not have; the nodes come back to what it has."""
        self._loading.pop(pool_id, None)
        self._pools.pop(pool_id, None)
        return [effect for client in self._clients.of_pool(pool_id) for effect in refusal(client.client_id, "busy")]

    def _watch_idle(self, pool: HostedPool, now: float) -> None:
        if pool.idle_since is not None:
            self._set_timer(now + UNLOAD_AFTER_S, pool_id=pool.pool_id)

    def _unload_if_idle(self, pool: HostedPool, now: float) -> None:
        """Unload a pool that has nobody; with clients that are not attached yet, look again later."""
        if pool.idle_since is None or now < pool.idle_since + UNLOAD_AFTER_S:
            return
        if pool.roster_size or self._clients.of_pool(pool.pool_id):
            self._watch_idle(pool, now)
        else:
            del self._pools[pool.pool_id]

    # --- frames -------------------------------------------------------------------------------------------------

    def _received(self, event: FrameReceived, now: float) -> list[ServerEffect]:
        client = self._clients.get(event.client)
        if client is None:
            return []
        waiting = self._loading.get(client.pool_id)
        if waiting is None:
            try:
                return self._dispatch(client, event.frame, now, event.unix_ms)
            except WireError as exc:
                return refusal(client.client_id, "protocol", str(exc))
        if len(waiting) >= MAX_QUEUED_FRAMES:
            return refusal(client.client_id, "busy")
        waiting.append(event)
        return []

    def _dispatch(self, client: Client, frame: ClientFrame, now: float, unix_ms: int) -> list[ServerEffect]:
        pool = self._pools.get(client.pool_id)
        if pool is not None and client.is_attached:
            return self._from_node(pool, client, frame, now, unix_ms)
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

    def _from_node(
        self, pool: HostedPool, client: Client, frame: ClientFrame, now: float, unix_ms: int
    ) -> list[ServerEffect]:
        match frame:
            case Statements(statements=encoded):
                return pool.add(client.client_id, [decode_statement_untrusted(item) for item in encoded])
            case StatementIds(ids=ids):
                return pool.offer(client.client_id, ids)
            case Attach():
                if not self._roster_limit.take(client.device, now):
                    return refusal(client.client_id, "too_many")
                return pool.roster_for(client.client_id, address=client.address, unix_ms=unix_ms)
            case SendSignal(to=to, body=body):
                return self._pass_signal(pool, client.device, to, body, now)
            case Report(node=node):
                is_due = pool.report(client.device, node) and self._redraw_limit.take(client.device, now)
                return pool.redraw(client.device, now) if is_due else []
            case ReportConduct(node=node):
                return self._complain(pool, client.device, node, now)
            case Detach():
                effects = pool.detach(client.device, now)
                self._watch_idle(pool, now)
                return [*effects, CloseClient(client.client_id, "done", "detached")]
            case UnknownFrame():
                return []
            case _:
                raise WireError(f"{type(frame).__name__} is not for a server")

    def _pass_signal(
        self, pool: HostedPool, sender: DeviceId, to: DeviceId, body: bytes, now: float
    ) -> list[ServerEffect]:
        effects = pool.signal(sender, to, body) if self._signal_limit.take(sender, now) else []
        if effects:
            self._signals_passed += 1
        else:
            self._signals_dropped += 1
        return effects

    def _complain(self, pool: HostedPool, reporter: DeviceId, node: DeviceId, now: float) -> list[ServerEffect]:
        if not self._complaint_limit.take(reporter, now):
            return []
        verdict, effects = pool.complain(reporter, node, now)
        self._verdicts[verdict] += 1
        self._watch_idle(pool, now)
        return effects

    # --- before a client is attached ----------------------------------------------------------------------------

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
        effects = self._make_room(self._clients.founders, client, now)
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
        """Note what a client has; of what a stranger has and we lack, no more than one frame."""
        if client.founding is not None:
            return client.founding.offer(client.client_id, ids)
        if pool is not None:
            missing = set(pool.membership.missing(ids))
            room = MAX_STATEMENTS if pool.membership.is_member(client.device) else MAX_IDS_PER_FRAME
            client.has.update(set(ids) - missing)
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
        is_removed = client.device in membership.state.removed
        return effects + refusal(client.client_id, judgement.code or ("removed" if is_removed else "not_a_member"))

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

    def _set_timer(self, when: float, *, client_id: ClientId | None = None, pool_id: PoolId | None = None) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, client_id, pool_id))
