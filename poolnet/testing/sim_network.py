"""Virtual time, and reliable links between simulated hosts: latency, jitter, loss, bandwidth, resets, partitions.

One heap of timed actions is the whole world. Everything random comes from generators made from the seed, and every
action that ends at a host goes into a running hash: equal seeds give equal traces, in every process and everywhere.

What is inside the hosts is not known here; frames are opaque objects with a size.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

import attrs
from blake3 import blake3

from poolnet.ids import DeviceId
from poolnet.limits import DIAL_TIMEOUT_S, IDLE_TIMEOUT_S, MIN_DATAGRAM_SIZE, PING_INTERVAL_S
from poolnet.wire.framing import encode_frame

#: Smallest probe timeout of QUIC on top of the round trip (RFC 9002, section 6.2: granularity and ack delay).
_PROBE_DELAY_S = 0.026
#: Actions at one moment, above which time will never go on.
_MAX_ACTIONS_AT_ONCE = 1_000_000
#: Probing, handshake and proof take this many round trips.
_SETUP_ROUND_TRIPS = 3

_Pair = tuple[DeviceId, DeviceId]
Watcher = Callable[[float, DeviceId, DeviceId, Any], None]


@attrs.frozen(kw_only=True)
class PathConditions:
    """How a path treats packets, each way. Every packet takes `latency_s` and up to `jitter_s` more."""

    latency_s: float = 0.02
    jitter_s: float = 0.005
    loss: float = 0.0
    bandwidth_bytes_per_s: float = math.inf


class SimHost(Protocol):
    """What lives in the network. Calls are made one after the other, at `network.now`."""

    @property
    def host_id(self) -> DeviceId:
        """Its address, for ever."""

    def may_accept(self, peer: DeviceId) -> bool:
        """Return whether a link dialled by `peer` is welcome."""

    def link_up(self, peer: DeviceId, *, is_dialler: bool) -> None:
        """A link to `peer` is there."""

    def link_down(self, peer: DeviceId) -> None:
        """The link to `peer` is gone."""

    def dial_failed(self, peer: DeviceId) -> None:
        """A dial came to nothing."""

    def received(self, peer: DeviceId, frame: Any) -> None:
        """A frame from `peer`, in the order sent."""


@attrs.define(eq=False)
class SimLink:
    """One direction of a link: from `sender` to `receiver`."""

    sender: DeviceId
    receiver: DeviceId
    is_open: bool = True
    free_at: float = 0.0
    last_arrival: float = 0.0
    dead_end: DeviceId | None = None  # the end that crashed
    under_way: deque[tuple[Any, bytes]] = attrs.Factory(deque)
    bulk_free_at: float = 0.0
    stalled_bulk: list[Callable[[], None]] = attrs.Factory(list)
    stalled_count: int = 0  # of those under way: due, and held up by a partition


@attrs.define(eq=False)
class _Host:
    host: SimHost
    uplink_bytes_per_s: float = math.inf
    uplink_free_at: float = 0.0
    bulk_free_at: float = 0.0
    side: int = 0


class SimNetwork:
    """A world with its own time, in seconds from 0.

    Args:
        seed: decides everything that is random here.
        conditions: of every path for which `set_conditions` says nothing else.
    """

    def __init__(self, seed: int, *, conditions: PathConditions | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.bytes_sent: dict[DeviceId, int] = {}
        self._rng = Random(f"network {seed}")
        self._conditions = conditions or PathConditions()
        self._special: dict[_Pair, PathConditions] = {}
        self._blocked: set[_Pair] = set()
        self._hosts: dict[DeviceId, _Host] = {}
        self._left_from: dict[DeviceId, int] = {}  # on which side those were who are gone
        self._links: dict[_Pair, SimLink] = {}
        self._closing: dict[_Pair, SimLink] = {}  # closed by the sender, the receiver has not heard it yet
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._action_count = 0
        self._partition_count = 0
        self._trace = blake3()
        self._watcher: Watcher | None = None
        self._encoded: tuple[Any, bytes] = (None, b"")

    # --- time ---------------------------------------------------------------------------------------------------

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        """Call `action` at a point in virtual time; what is late is called next."""
        self._action_count += 1
        heappush(self._actions, (max(when, self.now), self._action_count, action))

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay_s` seconds."""
        self.call_at(self.now + delay_s, action)

    def run_until(self, when: float) -> None:
        """Let virtual time pass until `when`.

        Raises:
            RuntimeError: it does not pass: some action brings about the next at the same moment, for ever.
        """
        at_once = 0
        while self._actions and self._actions[0][0] <= when:
            at, _, action = heappop(self._actions)
            at_once = at_once + 1 if at == self.now else 0
            if at_once > _MAX_ACTIONS_AT_ONCE:
                raise RuntimeError(f"virtual time stands still at {at} with {action}")
            self.now = at
            action()
        self.now = max(self.now, when)

    def run_for(self, duration_s: float) -> None:
        """Let `duration_s` seconds of virtual time pass."""
        self.run_until(self.now + duration_s)

    def trace_digest(self) -> str:
        """Return the hash of everything that has reached a host so far."""
        return self._trace.hexdigest()

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher(now, source, target, what)` called for all that goes into the trace: a frame, or a word."""
        self._watcher = watcher

    def random_for(self, name: str) -> Random:
        """Return a generator for one part of the simulation, the same for the same seed and name."""
        return Random(f"{name} {self.seed}")

    # --- hosts --------------------------------------------------------------------------------------------------

    def add_host(self, host: SimHost) -> None:
        """Put a host into the network, on the side of a partition that the others are on (the first)."""
        self._hosts[host.host_id] = _Host(host)

    def crash(self, host_id: DeviceId) -> None:
        """Remove a host without a word: it hears nothing any more, its peers notice when its links stay silent."""
        self._left_from[host_id] = self._hosts.pop(host_id).side
        for link in self._links_of(host_id):
            link.dead_end = host_id
            self._close_when_silent(link)

    def remove_host(self, host_id: DeviceId) -> None:
        """Remove a host that says goodbye on its links."""
        for link in self._links_of(host_id):
            if link.sender == host_id:
                self.close_link(host_id, link.receiver)
        self._left_from[host_id] = self._hosts.pop(host_id).side

    def is_up(self, host: SimHost) -> bool:
        """Return whether exactly this object is in the network."""
        entry = self._hosts.get(host.host_id)
        return entry is not None and entry.host is host

    def set_uplink(self, host_id: DeviceId, bytes_per_s: float) -> None:
        """Limit what a host sends over all of its links together."""
        self._hosts[host_id].uplink_bytes_per_s = bytes_per_s

    # --- paths --------------------------------------------------------------------------------------------------

    def set_conditions(self, one: DeviceId, other: DeviceId, conditions: PathConditions) -> None:
        """Set the conditions between two hosts, both ways."""
        self._special[_pair(one, other)] = conditions

    def block(self, one: DeviceId, other: DeviceId) -> None:
        """Let no new link come up between two hosts (two NATs that do not go together)."""
        self._blocked.add(_pair(one, other))

    def partition(self, hosts: Iterable[DeviceId]) -> None:
        """Cut these hosts off from all others; their links break after the idle timeout unless `heal` comes first."""
        self._partition_count += 1
        for host_id in hosts:
            if host_id in self._hosts:
                self._hosts[host_id].side = self._partition_count
        for link in list(self._links.values()):
            if not self.is_reachable(link.sender, link.receiver):
                self._close_when_silent(link)

    def heal(self, hosts: Iterable[DeviceId] | None = None) -> None:
        """Bring these hosts (None: all) back to the first side; what was under way on links that exist arrives now."""
        for host_id in [*self._hosts, *self._left_from] if hosts is None else hosts:
            self._left_from.pop(host_id, None)
            if host_id in self._hosts:
                self._hosts[host_id].side = 0
        for link in list(self._links.values()):
            if link.dead_end is None and not self.is_reachable(link.sender, link.receiver):
                self._close_when_silent(link)
                continue
            arrival = self.now + self._conditions_of(link.sender, link.receiver).latency_s
            link.last_arrival = max(link.last_arrival, arrival)
            for _ in range(link.stalled_count):
                self.call_at(arrival, partial(self._arrive, link))
            link.stalled_count = 0
            for arrive in link.stalled_bulk:
                self.call_at(arrival, arrive)
            link.stalled_bulk.clear()

    def side_of(self, host_id: DeviceId) -> int:
        """Return the side of the partition that a host is on; 0 is the first, where everyone is after `heal`."""
        return self._hosts[host_id].side

    def is_reachable(self, one: DeviceId, other: DeviceId) -> bool:
        """Return whether packets get from one host to the other now."""
        ends = self._hosts.get(one), self._hosts.get(other)
        return ends[0] is not None and ends[1] is not None and ends[0].side == ends[1].side

    # --- links --------------------------------------------------------------------------------------------------

    def dial(self, dialler: DeviceId, peer: DeviceId) -> None:
        """Set up a link. Ends in `link_up` on both sides or `dial_failed`; in nothing if there is a link meanwhile."""
        latency_s = self._conditions_of(dialler, peer).latency_s
        setup_s = _SETUP_ROUND_TRIPS * 2 * latency_s * (1 + self._rng.random() / 4)
        started_at = self.now
        self.call_later(setup_s, lambda: self._finish_dial(dialler, peer, started_at))

    def send(self, sender: DeviceId, receiver: DeviceId, frame: Any, *, size_bytes: int | None = None) -> None:
        """Send a frame; lost without a word if the link is not there.

        `size_bytes` is for what is not a wire frame; a frame of wire/ is as large as its encoding.
        """
        link = self._links.get((sender, receiver))
        if link is None or not link.is_open:
            return
        encoded = self._encode(frame) if size_bytes is None else type(frame).__name__.encode()
        size_bytes = len(encoded) if size_bytes is None else size_bytes
        self.bytes_sent[sender] = self.bytes_sent.get(sender, 0) + size_bytes
        link.under_way.append((frame, encoded))
        link.last_arrival = max(link.last_arrival, self._arrival_of(link, size_bytes))
        self.call_at(link.last_arrival, partial(self._arrive, link))

    def send_bulk(
        self, sender: DeviceId, receiver: DeviceId, item: Any, *, size_bytes: int, note: bytes, sent: Callable[[], None]
    ) -> None:
        """Send something large beside the frames: neither waits for the other, and what is late delays nothing else.

        Args:
            sender: whose uplink takes it, after what it sent in this way before, on whatever link.
            receiver: whose `received` gets it.
            item: what it gets.
            size_bytes: its size.
            note: stands for it in the trace.
            sent: called when it has left, or at once if there is no such link.
        """
        link = self._links.get((sender, receiver))
        if link is None or not link.is_open:
            self.call_at(self.now, sent)
            return
        self.bytes_sent[sender] = self.bytes_sent.get(sender, 0) + size_bytes
        conditions, host = self._conditions_of(sender, receiver), self._hosts[sender]
        host.bulk_free_at = max(self.now, host.bulk_free_at) + size_bytes / host.uplink_bytes_per_s
        link.bulk_free_at = max(host.bulk_free_at, link.bulk_free_at) + size_bytes / conditions.bandwidth_bytes_per_s
        self.call_at(link.bulk_free_at, sent)
        arrival = link.bulk_free_at + self._delay_of(conditions, size_bytes)
        self.call_at(arrival, partial(self._arrive_alone, link, item, note))

    def close_link(self, closer: DeviceId, peer: DeviceId) -> None:
        """Close a link in good order: the closer hears `link_down` at once, the peer after all that was sent."""
        mine, theirs = self._links.pop((closer, peer), None), self._links.pop((peer, closer), None)
        if mine is None or theirs is None:
            return
        theirs.is_open = False
        self._closing[closer, peer] = mine
        self.call_at(self.now, lambda: self._tell_down(closer, peer))
        arrival = max(mine.last_arrival, self.now + self._conditions_of(closer, peer).latency_s)

        def reach_peer() -> None:
            if mine.is_open:
                mine.is_open = False
                del self._closing[closer, peer]
                self._tell_down(peer, closer)

        self.call_at(arrival, reach_peer)

    def reset_link(self, one: DeviceId, other: DeviceId) -> None:
        """Break a link: both sides hear `link_down` now, and what was under way is lost."""
        for link in (self._links.pop((one, other), None), self._links.pop((other, one), None)):
            if link is not None:
                link.is_open = False
                if link.receiver != link.dead_end:
                    self._tell_down(link.receiver, link.sender)

    def is_linked(self, one: DeviceId, other: DeviceId) -> bool:
        """Return whether there is a link that neither end has closed."""
        return (one, other) in self._links

    def is_closing(self, closer: DeviceId, peer: DeviceId) -> bool:
        """Return whether `closer` has closed a link and `peer` has not heard of it yet."""
        return (closer, peer) in self._closing

    def links(self) -> list[_Pair]:
        """Return the pairs that are linked, each once, the smaller id first."""
        return sorted(pair for pair in self._links if pair[0] < pair[1])

    # --- how a link comes and goes ------------------------------------------------------------------------------

    def _finish_dial(self, dialler: DeviceId, peer: DeviceId, started_at: float) -> None:
        caller = self._hosts.get(dialler)
        existing = self._links.get((dialler, peer))
        if caller is None or (existing is not None and existing.dead_end is None):
            return
        if _pair(dialler, peer) in self._blocked or not self.is_reachable(dialler, peer):
            self.call_at(started_at + DIAL_TIMEOUT_S, lambda: self._fail_dial(dialler, peer, caller.host))
        elif not self._hosts[peer].host.may_accept(dialler):
            self._fail_dial(dialler, peer, caller.host)
        else:
            self._open_link(dialler, peer)

    def _fail_dial(self, dialler: DeviceId, peer: DeviceId, host: SimHost) -> None:
        if self.is_up(host):
            self._note(b"failed", peer, dialler, "failed")
            host.dial_failed(peer)

    def _open_link(self, dialler: DeviceId, peer: DeviceId) -> None:
        for pair in ((dialler, peer), (peer, dialler)):
            for replaced in (self._links.get(pair), self._closing.pop(pair, None)):
                if replaced is not None:
                    replaced.is_open = False
            self._links[pair] = SimLink(*pair)
        for local, remote in ((peer, dialler), (dialler, peer)):
            self._note(b"up", remote, local, "up")
            self._hosts[local].host.link_up(remote, is_dialler=local == dialler)

    def _close_when_silent(self, link: SimLink) -> None:
        """Break a link when its idle timeout is over, if it has not healed by then."""

        def check() -> None:
            is_silent = link.dead_end is not None or not self.is_reachable(link.sender, link.receiver)
            if link.is_open and is_silent:
                self.reset_link(link.sender, link.receiver)

        self.call_later(IDLE_TIMEOUT_S - self._rng.random() * PING_INTERVAL_S, check)

    def _tell_down(self, local: DeviceId, remote: DeviceId) -> None:
        entry = self._hosts.get(local)
        if entry is not None:
            self._note(b"down", remote, local, "down")
            entry.host.link_down(remote)

    # --- how a frame travels ------------------------------------------------------------------------------------

    def _arrival_of(self, link: SimLink, size_bytes: int) -> float:
        """Return when a frame handed over now has arrived, and take up the path and the uplink until it is sent."""
        conditions = self._conditions_of(link.sender, link.receiver)
        host = self._hosts[link.sender]
        host.uplink_free_at = max(self.now, host.uplink_free_at) + size_bytes / host.uplink_bytes_per_s
        link.free_at = max(host.uplink_free_at, link.free_at) + size_bytes / conditions.bandwidth_bytes_per_s
        return link.free_at + self._delay_of(conditions, size_bytes)

    def _delay_of(self, conditions: PathConditions, size_bytes: int) -> float:
        delay = conditions.latency_s + conditions.jitter_s * self._rng.random()
        if conditions.loss:
            packets = -(-size_bytes // MIN_DATAGRAM_SIZE)
            while packets and self._rng.random() < 1 - (1 - conditions.loss) ** packets:
                delay += 2 * conditions.latency_s + _PROBE_DELAY_S
                packets = max(1, packets // 8)  # what was lost is sent again, and may be lost again
        return delay

    def _arrive_alone(self, link: SimLink, item: Any, note: bytes) -> None:
        """Deliver what travels beside the frames."""
        if not self._can_arrive(link):
            return
        if self._is_stalled(link):
            link.stalled_bulk.append(partial(self._arrive_alone, link, item, note))
            return
        self._note(note, link.sender, link.receiver, item)
        self._hosts[link.receiver].host.received(link.sender, item)

    def _can_arrive(self, link: SimLink) -> bool:
        return link.is_open and link.dead_end != link.receiver and link.receiver in self._hosts

    def _is_stalled(self, link: SimLink) -> bool:
        sender = self._hosts.get(link.sender)
        side = self._left_from.get(link.sender, 0) if sender is None else sender.side
        return side != self._hosts[link.receiver].side

    def _arrive(self, link: SimLink) -> None:
        """Deliver the next frame that is under way."""
        if not self._can_arrive(link):
            return
        if self._is_stalled(link):
            link.stalled_count += 1
            return
        frame, encoded = link.under_way.popleft()
        self._note(encoded, link.sender, link.receiver, frame)
        self._hosts[link.receiver].host.received(link.sender, frame)

    def _encode(self, frame: Any) -> bytes:
        if self._encoded[0] is not frame:
            self._encoded = (frame, encode_frame(frame))
        return self._encoded[1]

    def _conditions_of(self, one: DeviceId, other: DeviceId) -> PathConditions:
        return self._special.get(_pair(one, other), self._conditions) if self._special else self._conditions

    def _links_of(self, host_id: DeviceId) -> list[SimLink]:
        return [link for pair, link in self._links.items() if host_id in pair]

    def _note(self, encoded: bytes, source: DeviceId, target: DeviceId, what: Any) -> None:
        self._trace.update(b"%.9f %s %s " % (self.now, source, target))
        self._trace.update(encoded)
        if self._watcher is not None:
            self._watcher(self.now, source, target, what)


def _pair(one: DeviceId, other: DeviceId) -> _Pair:
    return (one, other) if one < other else (other, one)
