"""Path probes: punch the hole, choose the address, find the datagram size, before a connection is dialled.

Both sides know a session id and a key from the signalling, and probe all of the other's candidate addresses: 1200
bytes first, repeated until an address answers, then all larger `PROBE_SIZES` at once, twice. The largest size answered
is what the path carries in our direction; each side finds its own.

    type (0 probe, 1 answer) | session 8 | nonce 8 | size 2 | MAC 16 | zeros up to the size (probe only)

The MAC is keyed BLAKE3 over all before it. A packet of an unknown session, with a wrong MAC or cut short is dropped
without an answer, and an answer is never longer than its probe, so nothing can be amplified. An authenticated probe
from an address that nobody told us about (a NAT chose it) makes that address a candidate.
"""

import hmac
from collections.abc import Iterable

import attrs
from blake3 import blake3

from poolnet.limits import (
    MAX_CANDIDATES,
    MAX_PROBE_SESSIONS,
    MIN_DATAGRAM_SIZE,
    PROBE_INTERVAL_S,
    PROBE_LINGER_S,
    PROBE_SETTLE_S,
    PROBE_SIZES,
)
from poolnet.protocol.randomness import RandomSource

#: A numeric host and a port.
SocketAddress = tuple[str, int]

PROBE, ANSWER = 0, 1
SESSION_SIZE = 8
NONCE_SIZE = 8
MAC_SIZE = 16
HEADER_SIZE = 1 + SESSION_SIZE + NONCE_SIZE + 2 + MAC_SIZE
#: Larger sizes are sent this often: one may be lost.
_SIZE_TRIES = 2


@attrs.frozen
class StartProbing:
    """Find a path; `deadline` is when to give up."""

    session: bytes
    key: bytes = attrs.field(repr=False)
    candidates: tuple[SocketAddress, ...]
    deadline: float


@attrs.frozen
class StopProbing:
    """The caller no longer waits. The other side's probes are still answered for a while."""

    session: bytes


@attrs.frozen
class DatagramReceived:
    """A datagram whose first byte is below 4."""

    data: bytes
    address: SocketAddress


@attrs.frozen
class SendDatagram:
    """To be sent as it is; dropped silently if the interface cannot carry it."""

    data: bytes
    address: SocketAddress


@attrs.frozen
class PathFound:
    """The best address of the other side, and what it carries."""

    session: bytes
    address: SocketAddress
    datagram_size: int
    rtt_s: float


@attrs.frozen
class NoPath:
    """No candidate answered in time."""

    session: bytes


Event = StartProbing | StopProbing | DatagramReceived
Effect = SendDatagram | PathFound | NoPath


@attrs.define
class _Candidate:
    """One address of the other side."""

    address: SocketAddress
    rtt_s: float | None = None
    answered: set[int] = attrs.Factory(set)
    larger_sent: int = 0


@attrs.define
class _Session:
    """One search for a path, then its afterlife in which the other side's probes are answered."""

    session: bytes
    key: bytes = attrs.field(repr=False)
    deadline: float
    expires: float
    next_round: float
    candidates: dict[SocketAddress, _Candidate]
    sent: dict[bytes, tuple[SocketAddress, int, float]] = attrs.Factory(dict)
    settles: float | None = None
    is_searching: bool = True

    def best(self) -> _Candidate | None:
        """Return the candidate that answered fastest."""
        answered = [candidate for candidate in self.candidates.values() if candidate.rtt_s is not None]
        return min(answered, key=lambda candidate: candidate.rtt_s or 0.0, default=None)


class Prober:
    """All path searches of one endpoint.

    Args:
        sizes: datagram sizes to try, the smallest first.
    """

    def __init__(self, rng: RandomSource, *, sizes: tuple[int, ...] = PROBE_SIZES) -> None:
        self._rng = rng
        self._sizes = sizes
        self._sessions: dict[bytes, _Session] = {}
        self.dropped = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened; return what to do about it."""
        match event:
            case StartProbing():
                return self._start(event, now)
            case StopProbing(session):
                if session in self._sessions:
                    self._sessions[session].is_searching = False
                return []
            case DatagramReceived(data, address):
                return self._receive(data, address, now)

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return min((self._session_deadline(session) for session in self._sessions.values()), default=None)

    def tick(self, now: float) -> list[Effect]:
        """Repeat probes, finish searches, forget old sessions."""
        effects: list[Effect] = []
        for session in list(self._sessions.values()):
            if now >= session.expires:
                del self._sessions[session.session]
            if not session.is_searching:
                continue
            if now >= session.deadline or (session.settles is not None and now >= session.settles):
                effects += self._finish(session)
            elif now >= session.next_round:
                effects += self._send_round(session, now)
        return effects

    def datagram_size_for(self, address: SocketAddress) -> int:
        """Return the largest size that `address` has answered so far (`MIN_DATAGRAM_SIZE` if it was never probed)."""
        sizes = [
            max(candidate.answered)
            for session in self._sessions.values()
            if (candidate := session.candidates.get(address)) is not None and candidate.answered
        ]
        return max(sizes, default=MIN_DATAGRAM_SIZE)

    def is_answered_by(self, address: SocketAddress) -> bool:
        """Return whether `address` has answered our probes, in a session that is not forgotten yet."""
        sessions = self._sessions.values()
        return any((found := item.candidates.get(address)) is not None and found.answered for item in sessions)

    def _session_deadline(self, session: _Session) -> float:
        if not session.is_searching:
            return session.expires
        return min(session.next_round, session.deadline, session.expires, session.settles or session.deadline)

    def _start(self, event: StartProbing, now: float) -> list[Effect]:
        if event.session not in self._sessions and len(self._sessions) >= MAX_PROBE_SESSIONS:
            idle = next((key for key, session in self._sessions.items() if not session.is_searching), None)
            if idle is None:
                return [NoPath(event.session)]
            del self._sessions[idle]
        session = _Session(
            session=event.session,
            key=event.key,
            deadline=event.deadline,
            expires=event.deadline + PROBE_LINGER_S,
            next_round=now,
            candidates={address: _Candidate(address) for address in event.candidates[:MAX_CANDIDATES]},
        )
        self._sessions[event.session] = session
        return self._send_round(session, now)

    def _send_round(self, session: _Session, now: float) -> list[Effect]:
        """Send the smallest probe to who has not answered, and the larger ones once more to who has."""
        session.next_round = now + PROBE_INTERVAL_S
        effects: list[Effect] = []
        for candidate in session.candidates.values():
            if candidate.rtt_s is None:
                effects += self._send(session, candidate, (MIN_DATAGRAM_SIZE,), now)
            elif candidate.larger_sent < _SIZE_TRIES:
                effects += self._send_larger(session, candidate, now)
        return effects

    def _send_larger(self, session: _Session, candidate: _Candidate, now: float) -> list[Effect]:
        candidate.larger_sent += 1
        return self._send(session, candidate, [size for size in self._sizes if size not in candidate.answered], now)

    def _send(self, session: _Session, candidate: _Candidate, sizes: Iterable[int], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for size in sizes:
            nonce = self._rng.getrandbits(8 * NONCE_SIZE).to_bytes(NONCE_SIZE, "big")
            session.sent[nonce] = (candidate.address, size, now)
            packet = _pack(PROBE, session.session, nonce, size, session.key)
            effects.append(SendDatagram(packet + bytes(size - HEADER_SIZE), candidate.address))
        return effects

    def _receive(self, data: bytes, address: SocketAddress, now: float) -> list[Effect]:
        kind = data[0]
        session = self._sessions.get(data[1 : 1 + SESSION_SIZE])
        if session is None or len(data) < HEADER_SIZE or kind not in (PROBE, ANSWER):
            self.dropped += 1
            return []
        nonce = data[1 + SESSION_SIZE : 1 + SESSION_SIZE + NONCE_SIZE]
        size = int.from_bytes(data[HEADER_SIZE - MAC_SIZE - 2 : HEADER_SIZE - MAC_SIZE], "big")
        expected = _pack(kind, session.session, nonce, size, session.key)
        if not hmac.compare_digest(expected, data[:HEADER_SIZE]):
            self.dropped += 1
            return []
        if kind == PROBE:
            return self._answer(session, nonce, size, len(data), address, now)
        return self._take_answer(session, nonce, size, now)

    def _answer(
        self, session: _Session, nonce: bytes, size: int, received: int, address: SocketAddress, now: float
    ) -> list[Effect]:
        if size != received or nonce in session.sent:  # cut short, or our own, sent back by somebody
            self.dropped += 1
            return []
        effects: list[Effect] = [SendDatagram(_pack(ANSWER, session.session, nonce, size, session.key), address)]
        if session.is_searching and len(session.candidates) < 2 * MAX_CANDIDATES:
            # The other side is there, and the way to it open: find out at once what it carries, so that the size is
            # known when its connection comes, even if our first probes went out before it listened.
            candidate = session.candidates.setdefault(address, _Candidate(address))
            if candidate.rtt_s is None and candidate.larger_sent == 0:
                effects += self._send_larger(session, candidate, now)
        return effects

    def _take_answer(self, session: _Session, nonce: bytes, size: int, now: float) -> list[Effect]:
        """Note that the address we probed carries this size. (Where the answer came from says nothing.)"""
        sent = session.sent.pop(nonce, None)
        if sent is None or sent[1] != size:
            self.dropped += 1
            return []
        address, _, sent_at = sent
        candidate = session.candidates[address]
        candidate.answered.add(size)
        is_first = candidate.rtt_s is None
        rtt_s = now - sent_at
        candidate.rtt_s = rtt_s if candidate.rtt_s is None else min(candidate.rtt_s, rtt_s)
        if not session.is_searching:
            return []
        if session.settles is None:
            session.settles = min(now + max(PROBE_SETTLE_S, 3 * rtt_s), session.deadline)
        if is_first:
            return self._send_larger(session, candidate, now)
        best = session.best()
        return self._finish(session) if best is not None and len(best.answered) == len(self._sizes) else []

    def _finish(self, session: _Session) -> list[Effect]:
        session.is_searching = False
        best = session.best()
        if best is None or best.rtt_s is None:
            return [NoPath(session.session)]
        return [PathFound(session.session, best.address, max(best.answered), best.rtt_s)]


def _pack(kind: int, session: bytes, nonce: bytes, size: int, key: bytes) -> bytes:
    """Return a probe packet without its padding."""
    body = bytes((kind,)) + session + nonce + size.to_bytes(2, "big")
    return body + blake3(body, key=key).digest(MAC_SIZE)
