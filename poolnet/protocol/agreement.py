"""Histories that agree: how a node compares its history with its neighbours, and gets what it lacks.

A *run* compares one range with one neighbour, by the steps of reconcile.py, and fetches what turns out to be lacking
here; the neighbour learns in the same run what it lacks and fetches that. Runs happen on every new link (the dialler
starts; a newcomer always does), every `RECONCILE_INTERVAL_S` with a neighbour chosen at random, with the other
neighbours soon after something was fetched, and on request (agenda.py). A node has one run of its own at a time, more
only beside those that do not get on (own_runs.py), and takes part in any number of others'.

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
from poolnet.limits import MAX_OLDER_MESSAGES, MAX_UNANSWERED_WANTS
from poolnet.protocol.agenda import Agenda
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
from poolnet.protocol.comparisons import NeighbourRun
from poolnet.protocol.fetching import Fetching, pack_messages
from poolnet.protocol.history_start import HistoryStart
from poolnet.protocol.key_set import KeySet
from poolnet.protocol.own_runs import OwnRuns
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.reconcile import Answer, answer, check_claims
from poolnet.protocol.windows import OpeningAnswer, answer_opening
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
        self._steps: dict[int, Callable[[Any, float], None]] = {}
        self._step_count = 0
        self._effects: list[AgreementEffect] = []
        self._own = OwnRuns(
            agenda=self._agenda,
            fetching=self._fetching,
            start=self._start,
            unix_ms=unix_ms,
            is_pending=is_pending,
            step=self._step,
            tell=self._tell,
            note=lambda run, result, now: self._take(
                run.job.peer, result, now, lower=run.lower, is_older=run.job.count > 0
            ),
        )

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
                self._agenda.cancel(request)
                self._own.cancel(request, now)
            case Deferred(peer):
                if peer in self._peers:
                    self._agenda.deferred(peer, now)
            case FloorMoved(floor):
                self._start.floor = floor
            case _:
                assert_never(event)
        return self._advance(now)

    def is_awaited(self, peer: DeviceId, number: int, msg_id: MsgId) -> bool:
        """Return whether a message that `peer` brings was asked for, and not brought yet, by a request of that number.

        Others are not worth a look at their signatures: no honest neighbour sends them.
        """
        return self._fetching.is_awaited(peer, number, msg_id)

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        times = [self._own.next_deadline(), self._fetching.next_deadline()]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> list[AgreementEffect]:
        """Do what is due."""
        self._agenda.tick(now)
        self._own.lost(self._fetching.tick(now))
        self._own.tick(now)
        return self._advance(now)

    def statistics(self) -> AgreementStatistics:
        """Return counts and sizes."""
        return AgreementStatistics(
            runs=self._own.begun,
            equal=self._own.equal,
            completed=self._own.completed,
            fetched=self._fetching.fetched,
            wanted=len(self._fetching),
            links=len(self._peers),
        )

    # --- links and frames ---------------------------------------------------------------------------------------

    def _drop_link(self, peer: DeviceId, now: float) -> None:
        if peer not in self._peers:
            return
        self._own.lost(self._fetching.link_down(peer))
        self._own.link_down(peer, now)
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
        if frame.is_answer:
            if not self._own.take_answer(peer, frame, now):
                self._effects.append(Misbehaved(peer, "a comparison of something else than was asked for"))
        elif not self._peers[peer].run.take_claims(frame):
            self._effects.append(Misbehaved(peer, "claims that did not wait for the answer to the last"))

    def _on_want(self, peer: DeviceId, frame: frames.WantMessages, now: float) -> None:
        unserved = self._peers[peer].unserved
        if frame.number in unserved or len(unserved) >= _MAX_UNSERVED:
            self._effects.append(Misbehaved(peer, "messages were asked for before the last have come"))
            return
        unserved.add(frame.number)
        self._effects.append(Serve(peer, frame.number, tuple(dict.fromkeys(frame.ids))))
        self._own.heard(peer, now)

    # --- messages -----------------------------------------------------------------------------------------------

    def _on_arrived(self, event: Arrived, now: float) -> None:
        wanted, lost = self._fetching.arrived(event.peer, event.number, event.ids, now, is_last=event.is_last)
        self._own.arrived(event.peer, wanted, now)
        self._own.lost(lost)

    def _on_stored(self, ids: Iterable[MsgId], now: float) -> None:
        if bringers := self._fetching.stored(ids):
            self._agenda.news(bringers, (make_hlc(max(0, self._unix_ms()) + _CLOCK_SPREAD_MS), b""), now)
        self._own.stored(ids, now)

    # --- what comes next ----------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[AgreementEffect]:
        """Do all that is possible now; return the effects of that and of what came before."""
        self._own.advance(now)
        for peer, state in self._peers.items():
            if (said := state.run.claims) is not None and not state.run.is_in_database:
                self._look_at_claims(peer, state, said)
        self._effects += [SendFrame(peer, want) for peer, want in self._fetching.to_ask(now)]
        self._effects += [Finished(request, ok) for request, ok in self._agenda.take_finished()]
        effects, self._effects = self._effects, []
        return effects

    def _look_at_claims(self, peer: DeviceId, state: _Peer, said: frames.OpenComparison | frames.Compare) -> None:
        """Have the database look at what a neighbour said in a run of its own, if there is room."""
        run = state.run
        if isinstance(said, frames.OpenComparison):
            opening = partial(answer_opening, window=self._start.window(self._unix_ms()), frame=said)
            self._step(opening, partial(self._answer_opening, peer, state, said))
        elif self._fetching.has_room(peer):
            call = partial(answer, lower=said.lower, claims=said.claims, takes_from=run.takes_from)
            self._step(call, partial(self._answer, peer, state, said))
        else:
            return
        run.claims, run.is_in_database = None, True

    def _step(self, call: Callable[[KeySet], Any], take: Callable[[Any, float], None]) -> None:
        self._step_count += 1
        self._steps[self._step_count] = take
        self._effects.append(Step(self._step_count, call))

    def _tell(self, effect: AgreementEffect) -> None:
        self._effects.append(effect)

    # --- runs of neighbours -------------------------------------------------------------------------------------

    def _answer_opening(
        self, peer: DeviceId, state: _Peer, frame: frames.OpenComparison, result: OpeningAnswer | None, now: float
    ) -> None:
        state.run.is_in_database = False
        if result is None or self._peers.get(peer) is not state or frame.run != state.run.number:
            return
        state.run.opened(frame, result)
        known_from = self._start.kept_from()
        self._reply(peer, frame.run, result.lower, result.answer.claims, known_from=known_from)
        self._take(peer, result.answer, now, lower=state.run.lower, is_older=state.run.is_older)

    def _answer(self, peer: DeviceId, state: _Peer, frame: frames.Compare, result: Answer | None, now: float) -> None:
        state.run.is_in_database = False
        if result is None or self._peers.get(peer) is not state or frame.run != state.run.number:
            return
        if any(isinstance(claim, Fingerprint | Listing) for claim in frame.claims):
            self._reply(peer, frame.run, frame.lower, result.claims)
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

    def _reply(
        self, peer: DeviceId, run: int, lower: Bound, claims: tuple[Claim, ...], *, known_from: Bound | None = None
    ) -> None:
        frame = frames.Compare(run=run, is_answer=True, lower=lower, claims=claims, known_from=known_from)
        self._effects.append(SendFrame(peer, frame))
