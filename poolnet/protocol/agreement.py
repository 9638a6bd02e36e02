"""Histories that agree: how a node compares its history with its neighbours, and gets what it lacks.

A *run* compares one range with one neighbour, by the steps of reconcile.py, and fetches what turns out to be lacking
here; the neighbour learns in the same run what it lacks and fetches that. Runs happen on every new link (the dialler
starts; a newcomer always does), every `RECONCILE_INTERVAL_S` with a neighbour chosen at random, with the other
neighbours soon after something was fetched, and on request (agenda.py). A node has one run of its own at a time, and
takes part in any number of others'.

What is compared by itself is the *window* (windows.py): the last `AUTOMATIC_WINDOW_S` and at least `RECENT_MESSAGES`,
but nothing before `known_from`, where this node's history begins, and nothing that retention let go (history_start.py).
Older history is compared on request. A node gives what it has in any range; it takes only what lies in a range that it
wants.

A run that was interrupted leaves nothing behind. What was found lacking is forgotten when nobody who has it is left
(fetching.py), and found again by a later run, because only what is stored counts as being here.

Pure: the database is behind `Step`, which the driver runs where the database is. What a peer can make this machine keep
is one frame and `MAX_WANTED_PER_LINK` ids and a frame of them more; what it can make the database do is one step at a
time, and some requests for messages.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, assert_never

import attrs

from poolnet.clock import make_hlc
from poolnet.errors import WireError
from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    MAX_OLDER_MESSAGES,
    MAX_UNANSWERED_WANTS,
    RECONCILE_TIMEOUT_S,
)
from poolnet.protocol.agenda import Agenda, Job, Outcome
from poolnet.protocol.agreement_events import (
    Agreed,
    AgreementEffect,
    AgreementEvent,
    AgreementFrame,
    Arrived,
    Cancel,
    Check,
    Deferred,
    FetchOlder,
    Finished,
    FloorMoved,
    KnownFrom,
    LinkDown,
    LinkUp,
    Misbehaved,
    Received,
    SendFrame,
    Serve,
    Served,
    Step,
    Stepped,
    Stored,
)
from poolnet.protocol.comparisons import NeighbourRun, OwnRun
from poolnet.protocol.fetching import Fetching, pack_messages
from poolnet.protocol.history_start import HistoryStart
from poolnet.protocol.key_set import KeySet
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.reconcile import Answer, answer, check_claims
from poolnet.protocol.windows import Opening, OpeningAnswer, Window, answer_opening, open_older, open_window
from poolnet.wire import pool_frames as frames
from poolnet.wire.claims import LOWEST, Bound, Claim, Fingerprint, Listing

__all__ = [
    "Agreed",
    "Agreement",
    "AgreementEffect",
    "AgreementEvent",
    "AgreementFrame",
    "AgreementStatistics",
    "Arrived",
    "Cancel",
    "Check",
    "Deferred",
    "FetchOlder",
    "Finished",
    "FloorMoved",
    "KnownFrom",
    "LinkDown",
    "LinkUp",
    "Misbehaved",
    "Received",
    "SendFrame",
    "Serve",
    "Served",
    "Step",
    "Stepped",
    "Stored",
    "pack_messages",
]

#: Requests of one neighbour that are being answered; an honest one may believe answered what is just being sent.
_MAX_UNSERVED = 2 * MAX_UNANSWERED_WANTS
#: By how much the stamps of honest neighbours may be ahead of our time.
_CLOCK_SPREAD_MS = 2000
#: How often a run that is over looks whether what it waits for is still on its way to the disk.
_POLL_S = 0.1


@attrs.frozen
class AgreementStatistics:
    """Counts since the machine was made, and sizes now."""

    #: Own runs begun; of these in how many nothing differed, and in how many all that was lacking was then stored.
    runs: int
    equal: int
    completed: int
    #: Messages that came because they were asked for, and those that are wanted now.
    fetched: int
    wanted: int
    links: int


@attrs.define(eq=False)
class _Peer:
    run: NeighbourRun = attrs.Factory(NeighbourRun)
    unserved: set[int] = attrs.Factory(set)  # numbers of its requests that are not answered


class Agreement:
    """The agreement of one node with its neighbours in one pool, about one set of messages.

    Args:
        rng: for the order and times of runs.
        unix_ms: the corrected time now.
        is_pending: whether a message was accepted and is on its way to the disk; `Stored` ends it.
        is_held: whether a message is kept back because its stamp is ahead of the time.
        known_from: from where on this node keeps its history in agreement; None for a newcomer.
        floor: where retention has let go of everything below.
        is_whole: whether all is compared however old it is, not a window.
    """

    def __init__(
        self,
        rng: RandomSource,
        *,
        unix_ms: Callable[[], int],
        is_pending: Callable[[MsgId], bool],
        is_held: Callable[[MsgId], bool],
        known_from: Bound | None,
        floor: Bound = LOWEST,
        is_whole: bool = False,
    ) -> None:
        self._unix_ms = unix_ms
        self._is_pending = is_pending
        self._is_held = is_held
        self._start = HistoryStart(known_from=known_from, floor=floor, is_whole=is_whole)
        self._peers: dict[DeviceId, _Peer] = {}
        self._agenda = Agenda(rng)
        self._fetching = Fetching()
        self._run: OwnRun | None = None
        self._poll_at: float | None = None
        self._steps: dict[int, Callable[[Any, float], None]] = {}
        self._step_count = 0
        self._effects: list[AgreementEffect] = []
        self._runs = self._equal = self._completed = 0

    def handle(self, event: AgreementEvent, now: float) -> list[AgreementEffect]:
        """Take note of an event and return what to do, in order."""
        match event:
            case Received(peer, frame):
                if peer in self._peers:
                    self._on_frame(peer, frame, now)
            case Arrived():
                if event.peer in self._peers:
                    self._on_arrived(event, now)
            case Stepped(step, result):
                if (take := self._steps.pop(step, None)) is not None:
                    take(result, now)
            case Stored(ids):
                self._on_stored(ids, now)
            case Served(peer, number):
                if peer in self._peers:
                    self._peers[peer].unserved.discard(number)
            case LinkUp(peer, is_dialler):
                self._drop_link(peer, now)
                self._peers[peer] = _Peer()
                self._fetching.link_up(peer)
                self._agenda.link_up(peer, now, is_due=is_dialler or self._start.is_newcomer)
            case LinkDown(peer):
                self._drop_link(peer, now)
            case FetchOlder(request, before, count):
                self._agenda.fetch_older(request, before, max(1, min(count, MAX_OLDER_MESSAGES)))
            case Check(request, upper):
                self._agenda.check(request, upper, now)
            case Cancel(request):
                self._cancel(request, now)
            case Deferred(peer):
                if peer in self._peers:
                    self._agenda.deferred(peer, now)
            case FloorMoved(floor):
                self._start.floor = floor
            case _:
                assert_never(event)
        return self._advance(now)

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        times = [self._agenda.next_deadline(is_busy=self._run is not None), self._fetching.next_deadline()]
        if self._run is not None:
            times += [self._run.deadline(), self._poll_at]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> list[AgreementEffect]:
        """Do what is due."""
        self._agenda.tick(now)
        self._lose(self._fetching.tick(now))
        run = self._run
        if run is not None and (deadline := run.deadline()) is not None and deadline <= now:
            is_stuck = run.progress_at + RECONCILE_TIMEOUT_S <= now
            self._end_run(Outcome.FAILED if is_stuck else Outcome.INTERRUPTED, now)
        return self._advance(now)

    def statistics(self) -> AgreementStatistics:
        """Return counts and sizes."""
        return AgreementStatistics(
            runs=self._runs,
            equal=self._equal,
            completed=self._completed,
            fetched=self._fetching.fetched,
            wanted=len(self._fetching),
            links=len(self._peers),
        )

    # --- links and frames ---------------------------------------------------------------------------------------

    def _drop_link(self, peer: DeviceId, now: float) -> None:
        if peer not in self._peers:
            return
        self._lose(self._fetching.link_down(peer))
        if self._run is not None and self._run.job.peer == peer:
            self._end_run(Outcome.INTERRUPTED, now)
        self._agenda.link_down(peer)
        del self._peers[peer]

    def _on_frame(self, peer: DeviceId, frame: AgreementFrame, now: float) -> None:
        match frame:
            case frames.OpenComparison():
                if frame.lower > frame.upper:
                    self._effects.append(Misbehaved(peer, "a comparison that ends before it begins"))
                else:
                    self._peers[peer].run.open(frame)
            case frames.Compare():
                try:
                    check_claims(frame.lower, frame.claims)
                except WireError as exc:
                    self._effects.append(Misbehaved(peer, str(exc)))
                else:
                    self._on_claims(peer, frame, now)
            case frames.WantMessages():
                self._on_want(peer, frame, now)
            case _:
                assert_never(frame)

    def _on_claims(self, peer: DeviceId, frame: frames.Compare, now: float) -> None:
        """Keep claims until there is room for what they may tell; those of a run that is over are ignored."""
        run = self._run
        if not frame.is_answer:
            if not self._peers[peer].run.take_claims(frame):
                self._effects.append(Misbehaved(peer, "claims that did not wait for the answer to the last"))
        elif run is not None and run.expects(peer, frame):
            if run.take_answer(frame, now):
                self._agenda.told(peer, run.peer_known_from)
            else:
                self._effects.append(Misbehaved(peer, "a comparison of something else than was asked for"))

    def _on_want(self, peer: DeviceId, frame: frames.WantMessages, now: float) -> None:
        unserved = self._peers[peer].unserved
        if frame.number in unserved or len(unserved) >= _MAX_UNSERVED:
            self._effects.append(Misbehaved(peer, "messages were asked for before the last have come"))
            return
        unserved.add(frame.number)
        self._effects.append(Serve(peer, frame.number, tuple(dict.fromkeys(frame.ids))))
        if self._run is not None and self._run.job.peer == peer:
            self._run.progress_at = now  # it fetches before it answers

    # --- messages -----------------------------------------------------------------------------------------------

    def _on_arrived(self, event: Arrived, now: float) -> None:
        wanted, lost = self._fetching.arrived(event.peer, event.number, event.ids, now, is_last=event.is_last)
        if self._run is not None and (event.peer == self._run.job.peer or self._run.waits_for(set(wanted))):
            self._run.progress_at = now
        self._lose(lost)

    def _on_stored(self, ids: Iterable[MsgId], now: float) -> None:
        if bringers := self._fetching.stored(ids):
            self._agenda.news(bringers, (make_hlc(max(0, self._unix_ms()) + _CLOCK_SPREAD_MS), b""), now)
        if self._run is not None:
            self._run.stored(set(ids), now)

    def _lose(self, ids: Iterable[MsgId]) -> None:
        if self._run is not None:
            self._run.lost(set(ids))

    # --- what comes next ----------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[AgreementEffect]:
        """Do all that is possible now; return the effects of that and of what came before."""
        self._finish_run(now)
        self._next_run(now)
        self._look_at_answer()
        for peer, state in self._peers.items():
            self._look_at_claims(peer, state)
        self._effects += [SendFrame(peer, want) for peer, want in self._fetching.to_ask(now)]
        self._effects += [Finished(request, ok) for request, ok in self._agenda.take_finished()]
        effects, self._effects = self._effects, []
        return effects

    def _look_at_answer(self) -> None:
        """Have the database look at an answer in our own run, if there is room for what it may tell."""
        run = self._run
        if run is not None and run.claims is not None and self._fetching.has_room(run.job.peer):
            call = partial(answer, lower=run.claims.lower, claims=run.claims.claims, takes_from=run.lower)
            self._step(call, partial(self._continue_run, run, run.claims))
            run.claims, run.is_in_database = None, True

    def _look_at_claims(self, peer: DeviceId, state: _Peer) -> None:
        """Have the database look at what a neighbour said in a run of its own, if there is room."""
        run = state.run
        if run.claims is None or run.is_in_database:
            return
        if isinstance(run.claims, frames.OpenComparison):
            opening = partial(answer_opening, window=self._window(), frame=run.claims)
            self._step(opening, partial(self._answer_opening, peer, state, run.claims))
        elif self._fetching.has_room(peer):
            call = partial(answer, lower=run.claims.lower, claims=run.claims.claims, takes_from=run.takes_from)
            self._step(call, partial(self._answer, peer, state, run.claims))
        else:
            return
        run.claims, run.is_in_database = None, True

    def _step(self, call: Callable[[KeySet], Any], take: Callable[[Any, float], None]) -> None:
        self._step_count += 1
        self._steps[self._step_count] = take
        self._effects.append(Step(self._step_count, call))

    def _window(self) -> Window:
        return self._start.window(self._unix_ms())

    # --- runs of neighbours -------------------------------------------------------------------------------------

    def _answer_opening(
        self, peer: DeviceId, state: _Peer, frame: frames.OpenComparison, result: OpeningAnswer | None, now: float
    ) -> None:
        state.run.is_in_database = False
        if result is None or self._peers.get(peer) is not state or frame.run != state.run.number:
            return
        state.run.opened(frame, result)
        known_from = self._start.kept_from()
        self._say(peer, frame.run, result.lower, result.answer.claims, is_answer=True, known_from=known_from)
        self._take(peer, result.answer, now, lower=state.run.lower, is_older=state.run.is_older)

    def _answer(self, peer: DeviceId, state: _Peer, frame: frames.Compare, result: Answer | None, now: float) -> None:
        state.run.is_in_database = False
        if result is None or self._peers.get(peer) is not state or frame.run != state.run.number:
            return
        if any(isinstance(claim, Fingerprint | Listing) for claim in frame.claims):
            self._say(peer, frame.run, frame.lower, result.claims, is_answer=True)
        self._take(peer, result, now, lower=state.run.lower, is_older=state.run.is_older)

    def _take(self, peer: DeviceId, result: Answer, now: float, *, lower: Bound, is_older: bool) -> list[MsgId]:
        """Tell what was found equal, and want what is lacking and not here in any form.

        Returns what will be stored if nothing goes wrong.
        """
        if result.agreed and result.agreed[0][0] == lower and not is_older:
            self._effects.append(Agreed(peer, lower, result.agreed[0][1]))
        coming = [msg_id for msg_id in result.lacking if not self._is_held(msg_id)]
        wanted = [msg_id for msg_id in coming if not self._is_pending(msg_id)]
        self._fetching.note(peer, wanted, now, is_old=is_older)
        return coming

    def _say(
        self,
        peer: DeviceId,
        run: int,
        lower: Bound,
        claims: tuple[Claim, ...],
        *,
        is_answer: bool,
        known_from: Bound | None = None,
    ) -> None:
        frame = frames.Compare(run=run, is_answer=is_answer, lower=lower, claims=claims, known_from=known_from)
        self._effects.append(SendFrame(peer, frame))

    # --- our own runs -------------------------------------------------------------------------------------------

    def _next_run(self, now: float) -> None:
        """Begin what is due, if nothing else is going on that may not be broken off for it."""
        run = self._run
        if run is not None and run.job.request is None and self._agenda.is_urgent():
            self._end_run(Outcome.INTERRUPTED, now)
        if self._run is None and (job := self._agenda.next_job(now)) is not None:
            self._begin_run(job, now)

    def _begin_run(self, job: Job, now: float) -> None:
        self._runs += 1
        run = self._run = OwnRun(job, number=self._runs % 2**32, began_at=now, progress_at=now)
        call: Callable[[KeySet], Opening]
        if job.count:
            call = partial(open_older, window=self._window(), upper=job.upper, count=job.count)
        else:
            call = partial(open_window, window=self._window(), upper=job.upper, leave_out_latest=job.is_regular)
        self._step(call, partial(self._open_run, run))

    def _open_run(self, run: OwnRun, opening: Opening | None, now: float) -> None:
        if self._run is not run:
            return
        if opening is None:
            self._end_run(Outcome.FAILED, now)
            return
        self._effects.append(SendFrame(run.job.peer, run.open(opening, now)))

    def _continue_run(self, run: OwnRun, frame: frames.Compare, result: Answer | None, now: float) -> None:
        if self._run is not run:
            return
        if result is None:
            self._end_run(Outcome.FAILED, now)
            return
        if result.claims:
            self._say(run.job.peer, run.number, frame.lower, result.claims, is_answer=False)
        coming = self._take(run.job.peer, result, now, lower=run.lower, is_older=run.job.count > 0)
        run.looked_at(result, coming, now)

    def _finish_run(self, now: float) -> None:
        """End a run when all is compared, and all that was lacking is stored or will not be."""
        run = self._run
        if run is None:
            return
        self._poll_at = None
        if not run.is_over(lambda msg_id: msg_id in self._fetching or self._waits_for_disk(msg_id, now)):
            return
        if run.has_lost:
            self._end_run(Outcome.LOST, now)
            return
        if (known_from := self._start.learn(run, self._unix_ms())) is not None:
            self._effects.append(KnownFrom(known_from))
        self._equal += run.is_equal
        self._completed += 1
        self._end_run(Outcome.EQUAL if run.is_equal else Outcome.COMPLETE, now)

    def _waits_for_disk(self, msg_id: MsgId, now: float) -> bool:
        if not self._is_pending(msg_id):
            return False
        self._poll_at = now + _POLL_S
        return True

    def _end_run(self, outcome: Outcome, now: float) -> None:
        run, self._run = self._run, None
        self._poll_at = None
        if run is not None:
            is_vouched_for = run.peer_known_from is not None and run.peer_known_from <= run.lower
            self._agenda.ended(run.job, outcome, now, is_vouched_for=is_vouched_for)

    def _cancel(self, request: int, now: float) -> None:
        self._agenda.cancel(request)
        if self._run is not None and self._run.job.request == request:
            self._end_run(Outcome.INTERRUPTED, now)
