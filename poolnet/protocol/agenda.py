"""When a node compares its history with whom: what is due, what was requested, and what comes first.

Requests for older history come before checks, and these before what is due by itself: new links, news, regular
comparisons, and what went wrong and is tried again. Who answered last time comes before who did not. `next_job` says
what to do next, beside what is being done with other neighbours, `ended` how it went. Requests that are settled come
out of `take_finished`.
"""

import enum
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import (
    DEFERRED_COMPARE_S,
    RECONCILE_INTERVAL_S,
    RECONCILE_NEWS_S,
    RECONCILE_RETRY_S,
)
from poolnet.protocol.randomness import RandomSource
from poolnet.wire.claims import HIGHEST, LOWEST, Bound

#: A check that found a difference looks again after this, and then after twice that, and so on up to the other.
_MIN_CHECK_PAUSE_S = 0.2
_MAX_CHECK_PAUSE_S = 2.0
#: So much later than what is due at the same time comes a neighbour that did not answer last time.
_SILENT_LATER_S = 5.0
#: Times that a neighbour is asked for older history of which something was lost on the way.
_OLDER_TRIES = 3


class Outcome(enum.Enum):
    """How a comparison went."""

    #: Nothing was different.
    EQUAL = enum.auto()
    #: All that was lacking here is stored.
    COMPLETE = enum.auto()
    #: Something that was lacking did not come.
    LOST = enum.auto()
    #: The neighbour, or the database, did not answer.
    FAILED = enum.auto()
    #: Broken off for something else, or because the link is gone.
    INTERRUPTED = enum.auto()


@attrs.frozen
class Job:
    """A comparison to be made.

    Attributes:
        peer: with whom.
        upper: up to where.
        count: of so many messages before `upper`; 0: of the window.
        is_regular: leaves out the latest.
        request: for whom, if somebody asked.
    """

    peer: DeviceId
    upper: Bound = HIGHEST
    count: int = 0
    is_regular: bool = False
    request: int | None = None


_NOTHING: Final[Mapping[DeviceId, Job]] = {}


@attrs.define
class _Peer:
    due_at: float | None = None
    is_regular: bool = False  # what is due leaves out the latest
    upper: Bound = HIGHEST  # and ends here
    losses: int = 0  # comparisons in a row of which something was lost
    known_from: Bound | None = None  # as it last said
    is_silent: bool = False  # it did not answer last time


@attrs.define
class _Older:
    before: Bound
    count: int
    tried: set[DeviceId] = attrs.Factory(set)
    losses: int = 0
    has_completed: bool = False


@attrs.define
class _Check:
    upper: Bound
    due: dict[DeviceId, float]  # by neighbour that was not found equal yet
    pauses: dict[DeviceId, float] = attrs.Factory(dict)


class Agenda:
    """What is to be compared with the neighbours of one node, and when."""

    def __init__(self, rng: RandomSource) -> None:
        self._rng = rng
        self._peers: dict[DeviceId, _Peer] = {}
        self._older: dict[int, _Older] = {}
        self._checks: dict[int, _Check] = {}
        self._finished: list[tuple[int, bool]] = []
        self._regular_at: float | None = None
        self._news_at: float | None = None
        self._news_from: set[DeviceId] = set()
        self._news_upper: Bound = LOWEST

    def link_up(self, peer: DeviceId, now: float, *, is_due: bool) -> None:
        """A new neighbour. `is_due`: it is for us to compare with it at once."""
        self._peers[peer] = _Peer(due_at=now if is_due else None)
        for check in self._checks.values():
            check.due[peer] = now
        if self._regular_at is None:
            self._regular_at = self._next_regular(now)

    def link_down(self, peer: DeviceId) -> None:
        """A neighbour is gone."""
        del self._peers[peer]
        for check in self._checks.values():
            check.due.pop(peer, None)
        if not self._peers:
            self._regular_at = None

    def told(self, peer: DeviceId, known_from: Bound | None) -> None:
        """Take note from where on a neighbour keeps its history in agreement."""
        self._peers[peer].known_from = known_from

    def news(self, givers: Collection[DeviceId], upper: Bound, now: float) -> None:
        """Take note that something new was stored, and which neighbours brought it: the others may lack it.

        They are compared with up to `upper`: what is written later comes by gossip, and is not to be fetched while it
        is on its way, or there would be news for ever.
        """
        self._news_from.update(givers)
        self._news_upper = max(self._news_upper, upper)
        if self._news_at is None:
            self._news_at = now + RECONCILE_NEWS_S

    def deferred(self, peer: DeviceId, now: float) -> None:
        """Take note that a neighbour has something that was not taken as it came."""
        self._make_due(self._peers[peer], now + DEFERRED_COMPARE_S, is_regular=True)

    # --- requests -----------------------------------------------------------------------------------------------

    def fetch_older(self, request: int, before: Bound, count: int) -> None:
        """Take a request for the `count` messages before `before`."""
        self._older[request] = _Older(before, count)

    def check(self, request: int, upper: Bound, now: float) -> None:
        """Take a request to compare with every neighbour until it is equal."""
        self._checks[request] = _Check(upper, dict.fromkeys(self._peers, now))

    def cancel(self, request: int) -> None:
        """Forget a request; unknown ones too."""
        self._older.pop(request, None)
        self._checks.pop(request, None)

    def take_finished(self) -> list[tuple[int, bool]]:
        """Return the requests that are settled since the last call, and whether they were fulfilled."""
        for request, check in list(self._checks.items()):
            if not check.due:
                del self._checks[request]
                self._finished.append((request, bool(self._peers)))
        finished, self._finished = self._finished, []
        return finished

    def is_silent(self, peer: DeviceId) -> bool:
        """Return whether a neighbour did not answer last time."""
        return self._peers[peer].is_silent

    # --- one thing after another --------------------------------------------------------------------------------

    def next_deadline(self, *, is_busy: bool, busy_with: Collection[DeviceId] = ()) -> float | None:
        """Return when `tick` has something to do or, unless `is_busy`, `next_job` something new; or None.

        `busy_with`: the neighbours with whom something is being done.
        """
        times = [at for at in (self._regular_at, self._news_at) if at is not None]
        if not is_busy:
            peers = self._peers.items()
            times += [state.due_at for peer, state in peers if state.due_at is not None and peer not in busy_with]
            for check in self._checks.values():
                times += [at for peer, at in check.due.items() if peer not in busy_with]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._regular_at is not None and self._regular_at <= now:
            self._regular_at = self._next_regular(now)
            answering = [state for state in self._peers.values() if not state.is_silent]
            self._make_due(self._rng.choice(answering or list(self._peers.values())), now, is_regular=True)
        if self._news_at is not None and self._news_at <= now:
            for peer, state in self._peers.items():
                if self._news_from != {peer}:
                    self._make_due(state, now, upper=self._news_upper)
            self._news_at = None
            self._news_upper = LOWEST
            self._news_from.clear()

    def next_job(self, now: float, going: Mapping[DeviceId, Job] = _NOTHING, *, only_older: bool = False) -> Job | None:
        """Return what to do now, or None.

        Args:
            going: what is being done, by neighbour. One for older history may be with a neighbour that something else
                is done with.
            only_older: only requests for older history count.
        """
        job = self._next_older({peer for peer, other in going.items() if other.count})
        if job is not None or only_older:
            return job
        return self._next_check(now, going) or self._next_due(now, going)

    def ended(self, job: Job, outcome: Outcome, now: float, *, is_vouched_for: bool = False) -> None:
        """Take note of how a job went. `is_vouched_for`: the neighbour keeps all of the range in agreement itself."""
        if outcome is not Outcome.INTERRUPTED:
            self._peers[job.peer].is_silent = outcome is Outcome.FAILED
        if job.request is None:
            self._due_ended(job, outcome, now)
        elif job.request in self._older:
            self._older_ended(job.request, job.peer, outcome, is_vouched_for=is_vouched_for)
        elif job.request in self._checks:
            self._check_ended(self._checks[job.request], job.peer, outcome, now)

    def _next_older(self, busy: Collection[DeviceId]) -> Job | None:
        for request, older in list(self._older.items()):
            left = [peer for peer in self._peers if peer not in older.tried]
            if free := [peer for peer in left if peer not in busy]:
                peer = min(free, key=self._reach)
                return Job(peer, upper=older.before, count=older.count, request=request)
            if not left:
                del self._older[request]
                self._finished.append((request, older.has_completed))
        return None

    def _reach(self, peer: DeviceId) -> tuple[bool, Bound]:
        """Return what sorts neighbours by how much older history they are likely to give."""
        state = self._peers[peer]
        return state.is_silent, state.known_from or HIGHEST

    def _next_check(self, now: float, busy: Collection[DeviceId]) -> Job | None:
        for request, check in self._checks.items():
            peer = self._first_due(check.due, now, busy)
            if peer is not None:
                return Job(peer, upper=check.upper, request=request)
        return None

    def _next_due(self, now: float, busy: Collection[DeviceId]) -> Job | None:
        due = {peer: state.due_at for peer, state in self._peers.items() if state.due_at is not None}
        peer = self._first_due(due, now, busy)
        if peer is None:
            return None
        state = self._peers[peer]
        state.due_at = None
        return Job(peer, upper=state.upper, is_regular=state.is_regular)

    def _due_ended(self, job: Job, outcome: Outcome, now: float) -> None:
        state = self._peers[job.peer]
        match outcome:
            case Outcome.EQUAL | Outcome.COMPLETE:
                state.losses = 0
            case Outcome.LOST:
                state.losses += 1
                pause_s = min(RECONCILE_RETRY_S, RECONCILE_NEWS_S * 4**state.losses)
                self._make_due(state, now + pause_s, is_regular=job.is_regular, upper=job.upper)
            case Outcome.FAILED:
                self._make_due(state, now + self._retry_s(), is_regular=job.is_regular, upper=job.upper)
            case Outcome.INTERRUPTED:
                self._make_due(state, now, is_regular=job.is_regular, upper=job.upper)

    def _older_ended(self, request: int, peer: DeviceId, outcome: Outcome, *, is_vouched_for: bool) -> None:
        older = self._older[request]
        if outcome in (Outcome.EQUAL, Outcome.COMPLETE):
            older.has_completed = True
            if is_vouched_for:
                del self._older[request]
                self._finished.append((request, True))
                return
        elif outcome is Outcome.LOST:
            older.losses += 1
            if older.losses < _OLDER_TRIES:
                return
        older.tried.add(peer)

    def _check_ended(self, check: _Check, peer: DeviceId, outcome: Outcome, now: float) -> None:
        match outcome:
            case Outcome.EQUAL:
                check.due.pop(peer, None)
            case Outcome.COMPLETE | Outcome.LOST:
                pause_s = check.pauses.get(peer, _MIN_CHECK_PAUSE_S)
                check.pauses[peer] = min(2 * pause_s, _MAX_CHECK_PAUSE_S)
                check.due[peer] = now + pause_s
            case Outcome.FAILED:
                check.due[peer] = now + self._retry_s()
            case Outcome.INTERRUPTED:
                check.due[peer] = now

    def _first_due(self, due: Mapping[DeviceId, float], now: float, busy: Collection[DeviceId]) -> DeviceId | None:
        """Return for whom something has been due for longest, or None; silent ones come a little later than others."""
        ready = [peer for peer, at in due.items() if at <= now and peer not in busy]
        return min(ready, key=lambda peer: due[peer] + _SILENT_LATER_S * self.is_silent(peer), default=None)

    def _make_due(self, state: _Peer, at: float, *, is_regular: bool = False, upper: Bound = HIGHEST) -> None:
        """Have a neighbour compared with at `at` or, if something is due already, at the earlier of the two."""
        if state.due_at is None:
            state.due_at, state.is_regular, state.upper = at, is_regular, upper
        else:
            state.due_at = min(at, state.due_at)
            state.is_regular &= is_regular
            state.upper = max(state.upper, upper)

    def _retry_s(self) -> float:
        return RECONCILE_RETRY_S * (0.75 + self._rng.random() / 2)

    def _next_regular(self, now: float) -> float:
        return now + RECONCILE_INTERVAL_S * (0.75 + self._rng.random() / 2)
