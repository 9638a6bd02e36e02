"""How much one link is asked for at a time, and how long it is waited for. Per link, over all files.

The window is what the link delivers in one turn of ask and answer, and a tenth of a second more: enough to keep it
busy, and no more, so that what is promised by a slow peer stays little. The rate is measured
only while something is promised. What the other side has to fetch itself takes several such turns, one a hop; the
shortest time seen counts, because longer ones are queues.

Something promised or asked, and no piece for `patience_s`: the link has *stalled*. Its window falls to the minimum, its
patience doubles, and it is asked again a little later, after everyone else. What it had promised may still come.
"""

from poolnet.limits import (
    INITIAL_WANT_WINDOW,
    MAX_PROMISE_PATIENCE_S,
    MAX_WANT_WINDOW,
    MIN_WANT_WINDOW,
    PROMISE_TIMEOUT_S,
)

#: Asked for on top of one turn, in seconds of the link's rate.
_SLACK_S = 0.1
#: A sample of the rate is over this much busy time and so many pieces (or twenty times as long).
_SAMPLE_S = 0.05
_SAMPLE_PIECES = 4
#: Weight of a new sample against what was measured before.
_WEIGHT = 0.3
#: A sample below this part of the rate is a sudden fall. It is believed only over so much busy time, because a busy
#: host pauses for less; but then at once, or what was promised at the former rate would be waited for.
_FALL = 0.25
_FALL_S = 0.5
#: What is asked for together takes no longer than this.
_BATCH_S = 0.4
#: A link that stalled is asked again after this.
_RETRY_S = 1.0
#: A link may be silent for this many times what it last took for a piece.
_PATIENT_FACTOR = 3
#: ... and that is forgotten slowly, because it depends on how many others its uplink serves.
_FORGETTING = 0.95
#: The shortest way of relayed pieces is forgotten by so much with each.
_RELAY_FORGETTING = 1.02
#: A turn that takes less than this part of the time between two pieces is short: one piece at a time nearly keeps the
#: link busy.
_SHORT_TURN = 0.15
#: What is promised should not take longer than this, if others are faster.
_LONG_S = 10.0


class Pace:
    """The window, rate and patience of one link."""

    __slots__ = (
        "_busy_s",
        "_delay_s",
        "_mark",
        "_pieces",
        "_refill",
        "_relay_s",
        "asked_count",
        "has_fallen",
        "is_slow",
        "is_stalled",
        "limit",
        "patience_s",
        "progress_at",
        "promised_count",
        "rate",
        "resting_until",
        "window",
    )

    def __init__(self) -> None:
        self.window = INITIAL_WANT_WINDOW
        #: The most that the window grows to.
        self.limit = MAX_WANT_WINDOW
        #: Pieces a second while busy; None until measured, 0 after a stall.
        self.rate: float | None = None
        self.promised_count = 0
        self.asked_count = 0
        self.is_stalled = False
        self.is_slow = False  # one piece at a time nearly keeps it busy
        self.has_fallen = False  # it delivers a fraction of what it did when it promised
        self.patience_s = PROMISE_TIMEOUT_S
        self.progress_at = 0.0
        self.resting_until = 0.0
        self._refill = 1  # ask when so much of the window is free
        self._delay_s = 0.0
        self._relay_s = 0.0  # how long a piece takes, at least, that has to be fetched by the other side first
        self._mark = 0.0
        self._busy_s = 0.0
        self._pieces = 0

    @property
    def outstanding(self) -> int:
        """Pieces promised, and the most that asks on their way can bring."""
        return self.promised_count + self.asked_count

    def room(self, batch: int = 1) -> int:
        """Return how many pieces to ask for now: 0 while what is outstanding lasts long enough.

        Args:
            batch: fewer are not worth a want, because others bring pieces fast; unless these would take long here.
        """
        outstanding = self.promised_count + self.asked_count
        if batch > 1 and self.rate is not None:
            batch = max(1, min(batch, int(_BATCH_S * self.rate)))
        free = max(self.window, batch) - outstanding
        return free if free >= max(self._refill, batch) or not outstanding else 0

    def surplus(self, *, is_laggard: bool) -> int:
        """Return how many promised pieces are better asked of others: the window fell, and they would take long.

        Of a laggard, and of a link whose rate has just fallen, everything beyond the window is: it would come when all
        the rest has long been here.
        """
        if not self.rate or self.promised_count <= 1.5 * self.window:
            self.has_fallen = False
            return 0
        if not is_laggard and not self.has_fallen and self.promised_count < _LONG_S * self.rate:
            return 0
        return self.promised_count - self.window

    def delivery_s(self, count: int) -> float | None:
        """Return how long `count` pieces take from here; None if that is not known."""
        return count / self.rate if self.rate else None

    def asked(self, count: int, now: float) -> None:
        """Note that up to `count` pieces were asked for."""
        if not self.outstanding:
            self.progress_at = now
        self.asked_count += count

    def answered(self, asked_count: int, delay_s: float) -> None:
        """Note that the ask for `asked_count` pieces was answered after `delay_s`."""
        self.asked_count -= asked_count
        self._delay_s += _WEIGHT * (delay_s - self._delay_s)

    def promised(self, count: int, now: float) -> None:
        """Note that `count` more pieces are promised."""
        if count and not self.promised_count:
            self._mark = self.progress_at = now
        self.promised_count += count

    def arrived(self, now: float, *, was_promised: bool) -> bool:
        """Note that a piece arrived; one that came late was not promised any more. Returns whether the rate is new."""
        is_sampled = False
        if was_promised:
            self._busy_s += now - self._mark
            self._mark = now
            self._pieces += 1
            self.promised_count -= 1
            is_sampled = self._sample()
        if self.outstanding or self.is_stalled:
            needed_s = max(_PATIENT_FACTOR * (now - self.progress_at), _FORGETTING * self.patience_s)
            self.patience_s = min(max(PROMISE_TIMEOUT_S, needed_s), MAX_PROMISE_PATIENCE_S)
        self.progress_at = now
        self.is_stalled = False
        self.resting_until = 0.0
        return is_sampled

    def relayed(self, delay_s: float) -> None:
        """Note that a piece, which the other side had to fetch, came after `delay_s`; before it came like any other."""
        self._relay_s = min(delay_s, _RELAY_FORGETTING * self._relay_s) if self._relay_s else delay_s

    def set_limit(self, pieces: int) -> None:
        """Ask for at most so many pieces at a time from now on, but not for less than `MIN_WANT_WINDOW`."""
        self.limit = max(MIN_WANT_WINDOW, pieces)
        self.window = min(self.window, self.limit)
        self._refill = min(self._refill, self.window)

    def stall_at(self) -> float | None:
        """Return when the link has stalled unless something arrives; None if nothing is due."""
        return self.progress_at + self.patience_s if self.outstanding else None

    def stall(self, now: float) -> None:
        """Give up what is promised; the caller has taken it off the counts."""
        self.is_stalled = True
        self.window = MIN_WANT_WINDOW
        self._refill = 1
        self.rate = 0.0
        self._busy_s, self._pieces = 0.0, 0
        self.patience_s = min(2 * self.patience_s, MAX_PROMISE_PATIENCE_S)
        self.resting_until = now + _RETRY_S
        self.progress_at = now

    def _sample(self) -> bool:
        if self._busy_s < _SAMPLE_S or (self._pieces < _SAMPLE_PIECES and self._busy_s < 20 * _SAMPLE_S):
            return False
        sample = self._pieces / self._busy_s
        is_fall = bool(self.rate) and sample < _FALL * (self.rate or 0.0)
        if is_fall and self._busy_s < _FALL_S:
            return False
        self._busy_s, self._pieces = 0.0, 0
        self.rate = sample if is_fall or not self.rate else self.rate + _WEIGHT * (sample - self.rate)
        self.has_fallen = is_fall or self.has_fallen
        turn_s = self._delay_s + self._relay_s + _SLACK_S
        window = round(self.rate * turn_s)
        self.is_slow = window <= 1 and self.rate * (turn_s - _SLACK_S) < _SHORT_TURN
        self.window = max(MIN_WANT_WINDOW, min(self.limit, window))
        # One turn before the link would run dry, and half of the slack.
        self._refill = max(1, int(self.window * _SLACK_S / 2 / turn_s))
        return True
