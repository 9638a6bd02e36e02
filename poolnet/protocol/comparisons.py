"""Where the two parts of a comparison are: of the one who began it (`OwnRun`), and of the other (`NeighbourRun`).

What is said in one is worked out by reconcile.py and windows.py; own_runs.py and agreement.py have them done.
"""

from collections.abc import Callable

import attrs

from poolnet.ids import MsgId
from poolnet.limits import RECONCILE_ALONE_S, RECONCILE_PATIENCE_S, RECONCILE_TIMEOUT_S, RECONCILE_TURN_S
from poolnet.protocol.agenda import Job
from poolnet.protocol.reconcile import Answer
from poolnet.protocol.windows import Opening, OpeningAnswer
from poolnet.wire import pool_frames as frames
from poolnet.wire.claims import HIGHEST, LOWEST, Bound, as_on_wire


@attrs.define(eq=False)
class NeighbourRun:
    """The run that a neighbour has begun last.

    Attributes:
        number: what the neighbour calls it.
        claims: its frame that was not looked at yet; one at most.
        is_in_database: a frame is being looked at.
        lower: where it begins; known once its opening was looked at.
        takes_from: what is lacking here is wanted from here on.
        is_older: it is about older history.
    """

    number: int | None = None
    claims: frames.OpenComparison | frames.Compare | None = None
    is_in_database: bool = False
    lower: Bound = LOWEST
    takes_from: Bound = HIGHEST
    is_older: bool = False

    def open(self, frame: frames.OpenComparison) -> None:
        """Take the opening of a new run, in place of any other."""
        self.number = frame.run
        self.claims = frame

    def take_claims(self, frame: frames.Compare) -> bool:
        """Take claims, unless they are of another run. Returns False if they should have waited for an answer."""
        if frame.run != self.number:
            return True
        if self.claims is not None or self.is_in_database:
            return False
        self.claims = frame
        return True

    def opened(self, frame: frames.OpenComparison, result: OpeningAnswer) -> None:
        """Take note of what its opening came to."""
        self.lower, self.takes_from, self.is_older = result.lower, result.takes_from, frame.count > 0


@attrs.define(eq=False)
class OwnRun:
    """A run that this node has begun, from its opening until all that was lacking is stored.

    Attributes:
        claims: an answer that was not looked at yet.
        is_in_database: an answer, or what to open with, is being looked at.
        is_equal: nothing is different.
        peer_known_from: from where on the neighbour keeps its history.
        has_lost: something that was lacking did not come.
        is_alone: comparisons with other neighbours wait for it.
        poll_at: when to look again whether something is on its way to the disk.
    """

    job: Job
    number: int
    began_at: float
    progress_at: float
    lower: Bound = LOWEST
    upper: Bound = HIGHEST
    claims: frames.Compare | None = None
    is_in_database: bool = True
    is_equal: bool = False
    peer_known_from: Bound | None = None
    has_lost: bool = False
    is_alone: bool = True
    poll_at: float | None = None
    _expects_answer: bool = False
    _answers: int = 0  # looked at
    _is_compared: bool = False
    _waiting: set[MsgId] = attrs.Factory(set)  # lacking, and not known to be stored

    def deadline(self) -> float | None:
        """Return when it is to end if nothing happens, or None while the database is busy with it."""
        if self.is_in_database:
            return None
        return min(self.began_at + RECONCILE_TURN_S, self.progress_at + RECONCILE_TIMEOUT_S)

    def alone_until(self) -> float | None:
        """Return when others are to wait for it no longer if nothing happens, or None as `deadline` does."""
        if not self.is_alone or self.is_in_database:
            return None
        return min(self.began_at + RECONCILE_ALONE_S, self.progress_at + RECONCILE_PATIENCE_S)

    def open(self, opening: Opening, now: float) -> frames.OpenComparison:
        """Return what to open with."""
        self.lower, self.upper = as_on_wire(opening.lower), as_on_wire(opening.upper)
        self.is_in_database = False
        self._expects_answer = True
        self.progress_at = now
        return frames.OpenComparison(
            run=self.number,
            lower=self.lower,
            upper=self.upper,
            count=self.job.count,
            suggested=opening.suggested,
            fingerprint=opening.fingerprint,
        )

    def expects(self, frame: frames.Compare) -> bool:
        """Return whether this, from the neighbour, is an answer that is waited for."""
        return self._expects_answer and self.number == frame.run

    def take_answer(self, frame: frames.Compare, now: float) -> bool:
        """Take an answer. Returns False if it is about something else than was asked for."""
        if self._answers == 0:
            if not self.lower <= frame.lower <= self.upper:
                return False
            self.lower, self.peer_known_from = frame.lower, frame.known_from
        self.progress_at = now
        self._expects_answer = False
        self.claims = frame
        return True

    def looked_at(self, result: Answer, coming: list[MsgId], now: float) -> None:
        """Take note of what an answer came to, and of messages that should be stored then."""
        self.is_in_database = False
        self.progress_at = now
        if self._answers == 0:
            self.is_equal = self.lower == self.upper or result.agreed == ((self.lower, self.upper),)
        self._answers += 1
        self._expects_answer = result.asks
        self._is_compared = not result.asks
        self._waiting.update(coming)

    def waits_for(self, ids: set[MsgId]) -> bool:
        """Return whether it waits for one of these."""
        return not self._waiting.isdisjoint(ids)

    def stored(self, ids: set[MsgId], now: float) -> None:
        """Take note that these are stored, or will not be."""
        if self.waits_for(ids):
            self._waiting -= ids
            self.progress_at = now

    def lost(self, ids: set[MsgId]) -> None:
        """Take note that these do not come."""
        if self.waits_for(ids):
            self._waiting -= ids
            self.has_lost = True

    def is_over(self, is_coming: Callable[[MsgId], bool]) -> bool:
        """Return whether all is compared, and of what was lacking nothing is coming any more."""
        if self._is_compared:
            self._waiting = {msg_id for msg_id in self._waiting if is_coming(msg_id)}
        return self._is_compared and not self._waiting
