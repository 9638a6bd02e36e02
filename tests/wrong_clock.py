"""System clocks that are wrong or are set while they run; they count on in trio's time."""

import trio

from poolnet.steady_time import WallClock

START_MS = 1_800_000_000_000


class WrongClock:
    """A device's clock; `error_s` may change at any moment."""

    def __init__(self, error_s: float = 0.0) -> None:
        self.error_s = error_s
        self.wall = WallClock(read_unix_ms=self.unix_ms, read_elapsed_s=trio.current_time)

    def unix_ms(self) -> int:
        """Return what it shows."""
        return true_ms() + round(1000 * self.error_s)


def true_ms() -> int:
    """Return what time it really is."""
    return START_MS + round(1000 * trio.current_time())
