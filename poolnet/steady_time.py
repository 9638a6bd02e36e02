"""This device's time as poolnet uses it: it runs evenly, whatever is done to the system clock meanwhile.

The system clock is read once, and from then on only what has elapsed since, sleep included. So stamps do not jump when
somebody sets the clock, and how far others' clocks are ahead stays true. Who has nobody to ask, and a system clock that
says something else, may take over its time (`adopt_system_clock`): it may have been set right only after the start.

Both clocks are passed in, so that tests can have wrong ones. Whether the time is right is asked elsewhere
(pool/clock_keeper.py).
"""

import time
from collections.abc import Callable

import attrs

from poolnet.limits import CLOCK_TOLERANCE_S

#: The clock that counts on while the machine sleeps, where there is one: of Linux; of macOS; of others.
_ELAPSED_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def read_system_ms() -> int:
    """Return what the system clock says, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def read_elapsed_s() -> float:
    """Return seconds since some moment; nobody can set this clock."""
    return time.monotonic() if _ELAPSED_CLOCK is None else time.clock_gettime(_ELAPSED_CLOCK)


@attrs.frozen(kw_only=True)
class WallClock:
    """Where the time comes from: the system's clocks, or those of a test."""

    read_unix_ms: Callable[[], int] = read_system_ms
    read_elapsed_s: Callable[[], float] = read_elapsed_s


class SteadyTime:
    """The time of one node (or server), shared by all its links and pools."""

    def __init__(self, wall_clock: WallClock | None = None) -> None:
        self._clock = WallClock() if wall_clock is None else wall_clock
        self._start_ms = self._clock.read_unix_ms() - self.elapsed_ms()

    def now_ms(self) -> int:
        """Return milliseconds since 1970 by this device's clock; not corrected by what others say."""
        return self._start_ms + self.elapsed_ms()

    def elapsed_ms(self) -> int:
        """Return milliseconds since some moment: what `now_ms` counts on, and nothing ever changes."""
        return int(self._clock.read_elapsed_s() * 1000)

    def system_ms(self) -> int:
        """Return what the system clock says now."""
        return self._clock.read_unix_ms()

    def adopt_system_clock(self) -> int:
        """Take over the system clock's time if it differs by more than `CLOCK_TOLERANCE_S`.

        Return by how many milliseconds that moved the time.
        """
        step_ms = self.system_ms() - self.now_ms()
        if abs(step_ms) <= CLOCK_TOLERANCE_S * 1000:
            return 0
        self._start_ms += step_ms
        return step_ms


class MeasuredClock:
    """Another device's clock as last asked; stays true when this device takes over another time."""

    def __init__(self, time: SteadyTime) -> None:
        self._time = time
        self._start_ms: int | None = None

    def says(self, unix_ms: int, *, at_elapsed_ms: int) -> None:
        """Take note that it said `unix_ms` when our `SteadyTime.elapsed_ms` was that."""
        self._start_ms = unix_ms - at_elapsed_ms

    @property
    def ahead_ms(self) -> int | None:
        """By how much it is ahead of ours; None if it was never asked."""
        if self._start_ms is None:
            return None
        return self._start_ms + self._time.elapsed_ms() - self._time.now_ms()
