"""What the peers of this device did that an honest program does not do, and what follows from it.

Only what this device saw itself counts: what others say of a peer is no evidence. There are two sorts of it:

- *Faults* are proof: a message that its author did not sign, a piece with a wrong hash, a broken rule. No circumstance
  makes an honest program do that, only a defect. With `FAULTS_PER_SHUNNING` of them a peer is *shunned*: no link to it
  is dialled, kept or accepted for a while, which doubles each time; and the sync server is told, later if there is
  none now: the last of each peer, as long as it would count there.
- *Signs* are a promise of pieces that nothing came of, and a wrong clock. An honest device that is slow, or whose
  battery is empty, shows them too. They are counted and shown, and never cost it a link.

Whatever concerns files also lowers the *credit* of a peer: the pieces that it is asked for at a time. All of it fades:
weights halve in `CONDUCT_HALF_LIFE_S`, and a record is forgotten `CONDUCT_MEMORY_S` after the last entry. The table is
bounded; what it forgets first is the peer with the least against it.
"""

import enum
from collections import Counter
from math import floor, inf, log2
from typing import assert_never

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_BURST,
    COMPLAINT_LIFETIME_S,
    CONDUCT_CHECK_INTERVAL_S,
    CONDUCT_HALF_LIFE_S,
    CONDUCT_MEMORY_S,
    FAULTS_PER_SHUNNING,
    MAX_CONDUCT_RECORDS,
    MAX_SHUN_S,
    MAX_WANT_WINDOW,
    MIN_SHUN_S,
    MIN_WANT_WINDOW,
)


class Kind(enum.IntEnum):
    """What a peer did; the numbers are those of the wire, the words those of logs and records."""

    BAD_SIGNATURE = 1
    BAD_CHUNK = 2
    BROKEN_PROMISE = 3
    CLOCK = 4
    FLOOD = 5
    PROTOCOL = 6

    @property
    def word(self) -> str:
        """Its name for people and programs."""
        return self.name.lower()

    @property
    def is_fault(self) -> bool:
        """Whether it proves that the peer's program is not honest, or broken."""
        return self not in (Kind.BROKEN_PROMISE, Kind.CLOCK)


#: By how much each kind lowers the credit: one halves it.
_DISCREDIT = {
    Kind.BAD_SIGNATURE: 1.0,
    Kind.BAD_CHUNK: 2.0,
    Kind.BROKEN_PROMISE: 0.5,
    Kind.CLOCK: 0.0,  # files do not depend on it
    Kind.FLOOD: 1.0,
    Kind.PROTOCOL: 1.0,
}
#: More than this makes no difference while it is new, and is not held against a peer for longer.
_MAX_DISCREDIT = 6.0
_MAX_FAULTS = FAULTS_PER_SHUNNING + 1.0
#: Credit rises when the discredit is below a whole number by so much, and falls when it is nearer than half of that.
_MARGIN = 1e-6


@attrs.frozen
class Noted:
    """`peer` did something of this kind."""

    peer: DeviceId
    kind: Kind


@attrs.frozen
class Untold:
    """No server was there to be told of a `Report` about `peer`."""

    peer: DeviceId


@attrs.frozen
class Shun:
    """Have no link to `peer` until then."""

    peer: DeviceId
    until: float


@attrs.frozen
class Report:
    """Tell the sync server; to be answered at once by `Untold` if there is none."""

    peer: DeviceId
    kind: Kind


@attrs.frozen
class CreditChanged:
    """Ask `peer` for at most so many pieces at a time from now on; `MAX_WANT_WINDOW` is no restriction."""

    peer: DeviceId
    pieces: int


ConductEvent = Noted | Untold
ConductEffect = Shun | Report | CreditChanged


@attrs.frozen(kw_only=True)
class PeerConduct:
    """What is remembered of a peer: its latest fault, or sign if it has no fault; counts; until when it is shunned."""

    kind: Kind
    counts: dict[Kind, int]
    shunned_until: float | None


@attrs.frozen(kw_only=True)
class ConductStatistics:
    """Peers remembered and shunned now, times that any was shunned, and how often each kind was noted."""

    peers: int
    shunned: int
    shunnings: int
    noted: dict[str, int]


@attrs.define
class _Fading:
    """A sum that halves in `CONDUCT_HALF_LIFE_S`, and is at most `_limit`."""

    _limit: float
    _at: float
    _value: float = 0.0

    def at(self, now: float) -> float:
        return float(self._value * 2.0 ** (-max(0.0, now - self._at) / CONDUCT_HALF_LIFE_S))

    def add(self, weight: float, now: float) -> None:
        self._value, self._at = min(self.at(now) + weight, self._limit), max(now, self._at)

    def falls_below(self, value: float) -> float:
        """Return when it is below `value`; it is above now."""
        return self._at + CONDUCT_HALF_LIFE_S * log2(self._value / value)


@attrs.define(kw_only=True)
class _Record:
    kind: Kind
    last_at: float
    faults: _Fading
    discredit: _Fading
    level: int = 0  # how often the credit is halved
    counts: Counter[Kind] = attrs.Factory(Counter)
    shunnings: int = 0
    shunned_at: float = -inf
    shunned_until: float = -inf
    report_at: float = inf  # when to try again to tell the server

    def is_over(self, now: float) -> bool:
        return now >= max(self.last_at, self.shunned_until) + CONDUCT_MEMORY_S

    def due_at(self) -> float:
        due_at = min(self.report_at, max(self.last_at, self.shunned_until) + CONDUCT_MEMORY_S)
        return min(due_at, self.discredit.falls_below(self.level - _MARGIN)) if self.level else due_at

    @property
    def credit(self) -> int:
        return max(MIN_WANT_WINDOW, MAX_WANT_WINDOW >> self.level)


class Conduct:
    """The record that one device keeps of its peers in one pool. Costs O(1) an entry, O(peers) when it is full."""

    def __init__(self) -> None:
        self._records: dict[DeviceId, _Record] = {}
        self._noted: Counter[Kind] = Counter()
        self._shunnings = 0

    def handle(self, event: ConductEvent, now: float) -> list[ConductEffect]:
        """Take note of what happened; return what follows."""
        match event:
            case Noted(peer, kind):
                return self._note(peer, kind, now)
            case Untold(peer):
                if (record := self._records.get(peer)) is not None:
                    record.report_at = now + CONDUCT_CHECK_INTERVAL_S
                return []
            case _:
                assert_never(event)

    def _note(self, peer: DeviceId, kind: Kind, now: float) -> list[ConductEffect]:
        effects: list[ConductEffect] = []
        record = self._record_of(peer, kind, now, effects)
        self._noted[kind] += 1
        record.counts[kind] += 1
        record.last_at = now
        if kind.is_fault or not record.kind.is_fault:
            record.kind = kind
        record.discredit.add(_DISCREDIT[kind], now)
        self._settle_credit(peer, record, now, effects)
        if kind.is_fault:
            record.faults.add(1.0, now)
            self._judge(peer, record, now, effects)
        return effects

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        return min((record.due_at() for record in self._records.values()), default=None)

    def tick(self, now: float) -> list[ConductEffect]:
        """Let credit rise, forget what is long past, try again to tell the server."""
        effects: list[ConductEffect] = []
        for peer, record in list(self._records.items()):
            if record.is_over(now):
                self._forget(peer, effects)
            else:
                self._settle_credit(peer, record, now, effects)
        return effects + self._reports(now)

    def credit_of(self, peer: DeviceId) -> int:
        """Return for how many pieces a peer may be asked at a time."""
        record = self._records.get(peer)
        return MAX_WANT_WINDOW if record is None else record.credit

    def is_shunned(self, peer: DeviceId, now: float) -> bool:
        """Return whether there is to be no link to a peer now."""
        record = self._records.get(peer)
        return record is not None and now < record.shunned_until

    def of(self, peer: DeviceId, now: float) -> PeerConduct | None:
        """Return what is remembered of a peer, or None."""
        record = self._records.get(peer)
        if record is None or record.is_over(now):
            return None
        until = record.shunned_until if now < record.shunned_until else None
        return PeerConduct(kind=record.kind, counts=dict(record.counts), shunned_until=until)

    def statistics(self, now: float) -> ConductStatistics:
        """Return counts and sizes."""
        return ConductStatistics(
            peers=len(self._records),
            shunned=sum(now < record.shunned_until for record in self._records.values()),
            shunnings=self._shunnings,
            noted={kind.word: count for kind, count in sorted(self._noted.items())},
        )

    # --- below --------------------------------------------------------------------------------------------------

    def _record_of(self, peer: DeviceId, kind: Kind, now: float, effects: list[ConductEffect]) -> _Record:
        record = self._records.get(peer)
        if record is not None and record.is_over(now):
            self._forget(peer, effects)
            record = None
        if record is None:
            if len(self._records) >= MAX_CONDUCT_RECORDS:
                self._forget(min(self._records, key=lambda other: self._gravity(other, now)), effects)
            record = self._records[peer] = _Record(
                kind=kind, last_at=now, faults=_Fading(_MAX_FAULTS, now), discredit=_Fading(_MAX_DISCREDIT, now)
            )
        return record

    def _gravity(self, peer: DeviceId, now: float) -> tuple[float, float, float]:
        record = self._records[peer]
        return (max(now, record.shunned_until), record.faults.at(now), record.last_at)

    def _judge(self, peer: DeviceId, record: _Record, now: float, effects: list[ConductEffect]) -> None:
        if now < record.shunned_until or round(record.faults.at(now)) < FAULTS_PER_SHUNNING:
            return
        record.shunned_until = now + min(MAX_SHUN_S, MIN_SHUN_S * 2.0 ** min(record.shunnings, 16))
        record.shunned_at, record.report_at = now, inf
        record.shunnings += 1
        self._shunnings += 1
        effects += [Shun(peer, record.shunned_until), Report(peer, record.kind)]

    def _reports(self, now: float) -> list[Report]:
        """Return what to tell the server now: no more at once than it hears, of the gravest; the others later."""
        due = [peer for peer, record in self._records.items() if record.report_at <= now]
        due.sort(key=lambda peer: self._gravity(peer, now), reverse=True)
        reports: list[Report] = []
        for peer in due:
            record = self._records[peer]
            record.report_at = inf
            if now >= record.shunned_at + COMPLAINT_LIFETIME_S:
                continue
            if len(reports) < COMPLAINT_BURST:
                reports.append(Report(peer, record.kind))
            else:
                record.report_at = now + CONDUCT_CHECK_INTERVAL_S
        return reports

    def _settle_credit(self, peer: DeviceId, record: _Record, now: float, effects: list[ConductEffect]) -> None:
        before = record.credit
        record.level = floor(record.discredit.at(now) + _MARGIN / 2)
        if record.credit != before:
            effects.append(CreditChanged(peer, record.credit))

    def _forget(self, peer: DeviceId, effects: list[ConductEffect]) -> None:
        if self._records.pop(peer).credit != MAX_WANT_WINDOW:
            effects.append(CreditChanged(peer, MAX_WANT_WINDOW))
