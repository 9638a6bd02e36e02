"""The sync server as a machine: clients and pools in memory, events in, effects out. Pure.

It places the nodes of a pool on the rings, tells all of them the same roster events in the same order, keeps their
statements, passes signals on, and refuses who is no member. It knows no messages and no files.

A client names a pool when its link comes up. The pool is loaded if need be; what the client sends meanwhile waits.
Until it is attached it is dealt with in reception.py. What happens in a pool from then on is in hosted_pool.py; here
are clients that come and go, what nodes send, limits and time.
"""

import heapq
from collections import Counter
from typing import assert_never

import attrs

from poolnet.errors import WireError
from poolnet.identity.statements import decode_statement_untrusted
from poolnet.ids import DeviceId, PoolId
from poolnet.limits import (
    ATTACH_BURST,
    ATTACH_RATE,
    ATTACH_TIMEOUT_S,
    COMPLAINT_BURST,
    COMPLAINT_RATE,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_QUEUED_FRAMES,
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
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.token_bucket import RateLimit
from poolnet.server.admission import refusal
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
from poolnet.server.reception import Reception
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
        self._reception = Reception(self._clients, self._pools, rng)
        self._loading: dict[PoolId, list[FrameReceived]] = {}
        self._timers: list[tuple[float, int, ClientId | None, PoolId | None]] = []
        self._timer_count = 0
        self._attach_limit = RateLimit(burst=ATTACH_BURST, rate=ATTACH_RATE)
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
        return self._finish(effects, now)

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
        return self._finish(effects, now)

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
        effects = self._reception.seat(client, now)
        if not self._clients.is_seated(client.client_id):
            return effects
        self._set_timer(now + ATTACH_TIMEOUT_S, client_id=client.client_id)
        if client.pool_id in self._pools or client.pool_id in self._loading:
            return effects
        self._loading[client.pool_id] = []
        return [*effects, LoadPool(client.pool_id)]

    def _gone(self, client_id: ClientId, now: float) -> list[ServerEffect]:
        client = self._clients.remove(client_id)
        return [] if client is None else self._lost(client, now)

    def _lost(self, client: Client, now: float) -> list[ServerEffect]:
        pool = self._pools.get(client.pool_id)
        if pool is None or not client.is_attached:
            return []
        effects = pool.lost(client.client_id, client.device, now)
        self._set_timer(now + RELINK_GRACE_S, pool_id=pool.pool_id)
        self._watch_idle(pool, now)
        return effects

    def _finish(self, effects: list[ServerEffect], now: float) -> list[ServerEffect]:
        """Forget the clients that are closed: nothing that they still send counts, and their nodes are away."""
        lost: list[ServerEffect] = []
        for effect in effects:
            if isinstance(effect, CloseClient) and (client := self._clients.remove(effect.client)) is not None:
                self._closed[effect.code] += 1
                lost += self._lost(client, now)
        return effects + lost

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
            effects += self._finish(self._received(frame, now), now)
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
        return self._reception.received(client, frame, now, unix_ms)

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

    def _set_timer(self, when: float, *, client_id: ClientId | None = None, pool_id: PoolId | None = None) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, client_id, pool_id))
