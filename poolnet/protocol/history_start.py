"""Where the history begins that a node keeps in agreement: at `known_from`, unless retention let go of more.

A newcomer has no `known_from`: it takes that from the first complete run up to now with a neighbour that has one. Later
it moves back when a complete run has compared older history with a neighbour that keeps it.
"""

import attrs

from poolnet.clock import make_hlc
from poolnet.protocol.comparisons import OwnRun
from poolnet.protocol.windows import Window
from poolnet.wire.claims import HIGHEST, Bound


@attrs.define(kw_only=True)
class HistoryStart:
    """What one node knows of where its history begins.

    Attributes:
        known_from: from where on it keeps its history in agreement; None for a newcomer.
        floor: where retention has let go of everything below.
        is_whole: whether all is compared however old it is, not a window.
    """

    known_from: Bound | None
    floor: Bound
    is_whole: bool

    @property
    def is_newcomer(self) -> bool:
        """Whether this node does not know yet where its history begins."""
        return self.known_from is None

    def window(self, unix_ms: int) -> Window:
        """Return what to work out with, at that time, what to compare."""
        return Window(known_from=self.known_from, floor=self.floor, unix_ms=unix_ms, is_whole=self.is_whole)

    def kept_from(self) -> Bound | None:
        """Return from where on this node has everything, for neighbours to know; None for a newcomer."""
        return None if self.known_from is None else max(self.known_from, self.floor)

    def learn(self, run: OwnRun, unix_ms: int) -> Bound | None:
        """Take note of a complete run of this node. Returns the new `known_from`, if that moves it."""
        if run.peer_known_from is None:
            return None
        bound = max(run.lower, run.peer_known_from)
        if self.known_from is None:
            if run.job.upper != HIGHEST:
                return None
            bound = min(bound, (make_hlc(max(0, unix_ms)), b""))  # whatever the neighbour says: from now on
        elif not bound < self.known_from <= run.upper:
            return None
        self.known_from = bound
        return bound
