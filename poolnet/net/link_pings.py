"""Pings of one link: is the other side's program there, how long does a round trip take, and what time has it."""

from poolnet.limits import PING_INTERVAL_S
from poolnet.steady_time import MeasuredClock, SteadyTime
from poolnet.wire.link_frames import Ping, Pong

#: Pings that come faster than this are not answered.
_MIN_PONG_INTERVAL_S = PING_INTERVAL_S / 10


class LinkPings:
    """What one side of a link asks and answers. No I/O.

    Attributes:
        due_at: when `next_ping` wants to be called.
        unanswered: pings since the last answer to any.
        rtt_s: the last round trip through both programs' event loops, once known.
    """

    def __init__(self, time: SteadyTime, *, now: float) -> None:
        self.due_at = now
        self.unanswered = 0
        self.rtt_s: float | None = None
        self._time = time
        self._their_clock = MeasuredClock(time)
        self._number = 0
        self._asked_at, self._asked_at_elapsed_ms = 0.0, 0
        self._answered_at = -_MIN_PONG_INTERVAL_S

    @property
    def clock_offset_ms(self) -> int | None:
        """By how many milliseconds the other side's clock is ahead of ours, once known."""
        return self._their_clock.ahead_ms

    def next_ping(self, now: float) -> Ping:
        """Return the ping that is due."""
        self.due_at = now + PING_INTERVAL_S
        self._number += 1
        self.unanswered += 1
        self._asked_at, self._asked_at_elapsed_ms = now, self._time.elapsed_ms()
        return Ping(number=self._number, unix_ms=self._time.now_ms())

    def answer(self, ping: Ping, now: float) -> Pong | None:
        """Return the answer to a ping, None if there was one just before."""
        if now - self._answered_at < _MIN_PONG_INTERVAL_S:
            return None
        self._answered_at = now
        return Pong(number=ping.number, unix_ms=self._time.now_ms())

    def answered(self, pong: Pong, now: float) -> None:
        """Take an answer; one to another ping than the last says no more than that somebody is there."""
        self.unanswered = 0
        if pong.number == self._number:
            self.rtt_s = now - self._asked_at
            half_way_ms = self._asked_at_elapsed_ms + round(500 * self.rtt_s)
            self._their_clock.says(pong.unix_ms, at_elapsed_ms=half_way_ms)
