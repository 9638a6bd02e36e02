"""The comparisons that one node has begun, at most one with each neighbour: when each begins, goes on and ends.

A run holds up those with other neighbours, because what it brings they need not bring. It does so only while its
neighbour gets on with it: one that says nothing for `RECONCILE_PATIENCE_S`, or for whom `RECONCILE_ALONE_S` are not
enough, holds up nobody any more, and one that did not answer last time nobody from the beginning. Then a run with
another neighbour begins beside it; what both of them have is asked of one (fetching.py). A request for older history
waits for no run but another of that kind, and breaks off what is being done with the neighbour that it is for.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import RECONCILE_TIMEOUT_S
from poolnet.protocol.agenda import Agenda, Job, Outcome
from poolnet.protocol.agreement_events import AgreementEffect, KnownFrom, SendFrame
from poolnet.protocol.comparisons import OwnRun
from poolnet.protocol.fetching import Fetching
from poolnet.protocol.history_start import HistoryStart
from poolnet.protocol.key_set import KeySet
from poolnet.protocol.reconcile import Answer, answer
from poolnet.protocol.windows import Opening, open_older, open_window
from poolnet.wire import pool_frames as frames

#: How often a run that is over looks whether what it waits for is still on its way to the disk.
_POLL_S = 0.1


class OwnRuns:
    """The runs that one node has begun.

    Args:
        agenda: what is to be compared; told what comes of it.
        fetching: what is asked of neighbours.
        start: where the history begins.
        unix_ms: the corrected time now.
        is_pending: whether a message was accepted and is on its way to the disk.
        step: has the database do something, and the result taken.
        tell: takes an effect.
        note: takes what an answer came to, of which run, and when; returns what will be stored if nothing goes wrong.

    Attributes:
        begun: how many there were; of these in how many nothing differed, and in how many all that was lacking was
            then stored.
    """

    def __init__(
        self,
        *,
        agenda: Agenda,
        fetching: Fetching,
        start: HistoryStart,
        unix_ms: Callable[[], int],
        is_pending: Callable[[MsgId], bool],
        step: Callable[[Callable[[KeySet], Any], Callable[[Any, float], None]], None],
        tell: Callable[[AgreementEffect], None],
        note: Callable[[OwnRun, Answer, float], list[MsgId]],
    ) -> None:
        self._agenda = agenda
        self._fetching = fetching
        self._start = start
        self._unix_ms = unix_ms
        self._is_pending = is_pending
        self._step = step
        self._tell = tell
        self._note = note
        self._runs: dict[DeviceId, OwnRun] = {}
        self.begun = self.equal = self.completed = 0

    # --- what happens -------------------------------------------------------------------------------------------

    def take_answer(self, peer: DeviceId, frame: frames.Compare, now: float) -> bool:
        """Take what a neighbour answers; nothing happens if that is not waited for.

        Returns False if it is about something else than was asked for.
        """
        run = self._runs.get(peer)
        if run is None or not run.expects(frame):
            return True
        if not run.take_answer(frame, now):
            return False
        self._agenda.told(peer, run.peer_known_from)
        return True

    def heard(self, peer: DeviceId, now: float) -> None:
        """Take note that a neighbour is busy with what it got: it fetches before it answers."""
        if (run := self._runs.get(peer)) is not None:
            run.progress_at = now

    def arrived(self, peer: DeviceId, wanted: Iterable[MsgId], now: float) -> None:
        """Take note of messages that came from a neighbour, of which these were wanted."""
        found = set(wanted)
        for run in self._runs.values():
            if run.job.peer == peer or run.waits_for(found):
                run.progress_at = now

    def stored(self, ids: Iterable[MsgId], now: float) -> None:
        """Take note that messages are stored, or will not be."""
        done = set(ids)
        for run in self._runs.values():
            run.stored(done, now)

    def lost(self, ids: Iterable[MsgId]) -> None:
        """Take note that messages do not come."""
        gone = set(ids)
        for run in self._runs.values():
            run.lost(gone)

    def link_down(self, peer: DeviceId, now: float) -> None:
        """Break off what is done with a neighbour that is gone."""
        if peer in self._runs:
            self._end(self._runs[peer], Outcome.INTERRUPTED, now)

    def cancel(self, request: int, now: float) -> None:
        """Break off what is done for a request."""
        for run in [run for run in self._runs.values() if run.job.request == request]:
            self._end(run, Outcome.INTERRUPTED, now)

    # --- what comes next ----------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `tick` or `advance` has something to do, or None."""
        is_held_up = any(run.is_alone for run in self._runs.values())
        times = [self._agenda.next_deadline(is_busy=is_held_up, busy_with=self._runs.keys())]
        for run in self._runs.values():
            times += [run.deadline(), run.alone_until(), run.poll_at]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Give up on what does not get on, and let others begin beside it before that."""
        for run in list(self._runs.values()):
            if (until := run.alone_until()) is not None and until <= now:
                run.is_alone = False
            if (deadline := run.deadline()) is not None and deadline <= now:
                is_stuck = run.progress_at + RECONCILE_TIMEOUT_S <= now
                self._end(run, Outcome.FAILED if is_stuck else Outcome.INTERRUPTED, now)

    def advance(self, now: float) -> None:
        """Do all that is possible now."""
        for run in list(self._runs.values()):
            self._finish(run, now)
        while (job := self._next_job(now)) is not None:
            self._begin(job, now)
        for run in self._runs.values():
            self._look_at_answer(run)

    def _next_job(self, now: float) -> Job | None:
        going = {peer: run.job for peer, run in self._runs.items()}
        alone = [run.job for run in self._runs.values() if run.is_alone]
        if any(job.count for job in alone):
            return None
        return self._agenda.next_job(now, going, only_older=bool(alone))

    def _begin(self, job: Job, now: float) -> None:
        if (other := self._runs.get(job.peer)) is not None:
            self._end(other, Outcome.INTERRUPTED, now)
        self.begun += 1
        run = OwnRun(job, number=self.begun % 2**32, began_at=now, progress_at=now)
        run.is_alone = not self._agenda.is_silent(job.peer)
        self._runs[job.peer] = run
        window = self._start.window(self._unix_ms())
        call: Callable[[KeySet], Opening]
        if job.count:
            call = partial(open_older, window=window, upper=job.upper, count=job.count)
        else:
            call = partial(open_window, window=window, upper=job.upper, leave_out_latest=job.is_regular)
        self._step(call, partial(self._open, run))

    def _open(self, run: OwnRun, opening: Opening | None, now: float) -> None:
        if self._runs.get(run.job.peer) is not run:
            return
        if opening is None:
            self._end(run, Outcome.FAILED, now)
            return
        self._tell(SendFrame(run.job.peer, run.open(opening, now)))

    def _look_at_answer(self, run: OwnRun) -> None:
        """Have the database look at an answer, if there is room for what it may tell."""
        if run.claims is not None and self._fetching.has_room(run.job.peer):
            call = partial(answer, lower=run.claims.lower, claims=run.claims.claims, takes_from=run.lower)
            self._step(call, partial(self._continue, run, run.claims))
            run.claims, run.is_in_database = None, True

    def _continue(self, run: OwnRun, frame: frames.Compare, result: Answer | None, now: float) -> None:
        if self._runs.get(run.job.peer) is not run:
            return
        if result is None:
            self._end(run, Outcome.FAILED, now)
            return
        if result.claims:
            said = frames.Compare(run=run.number, is_answer=False, lower=frame.lower, claims=result.claims)
            self._tell(SendFrame(run.job.peer, said))
        run.looked_at(result, self._note(run, result, now), now)

    def _finish(self, run: OwnRun, now: float) -> None:
        """End a run when all is compared, and all that was lacking is stored or will not be."""
        run.poll_at = None
        if not run.is_over(lambda msg_id: msg_id in self._fetching or self._waits_for_disk(run, msg_id, now)):
            return
        if run.has_lost:
            self._end(run, Outcome.LOST, now)
            return
        if (known_from := self._start.learn(run, self._unix_ms())) is not None:
            self._tell(KnownFrom(known_from))
        self.equal += run.is_equal
        self.completed += 1
        self._end(run, Outcome.EQUAL if run.is_equal else Outcome.COMPLETE, now)

    def _waits_for_disk(self, run: OwnRun, msg_id: MsgId, now: float) -> bool:
        if not self._is_pending(msg_id):
            return False
        run.poll_at = now + _POLL_S
        return True

    def _end(self, run: OwnRun, outcome: Outcome, now: float) -> None:
        del self._runs[run.job.peer]
        is_vouched_for = run.peer_known_from is not None and run.peer_known_from <= run.lower
        self._agenda.ended(run.job, outcome, now, is_vouched_for=is_vouched_for)
