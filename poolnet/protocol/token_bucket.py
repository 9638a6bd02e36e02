"""Token buckets: so many at once, and so many a second in the long run. Pure."""

from collections.abc import Hashable
from typing import Final

from poolnet.limits import CHUNK_SIZE

#: Keys remembered before those that are full again (and so know nothing) are forgotten.
_SWEEP_AT = 4096
#: What a throttle lets through at once: so much of a second's worth, and at least a chunk.
_BURST_S: Final = 0.1
#: The longest that a throttle says at a time: so soon does a wait notice that the rate was changed.
_MAX_DELAY_S: Final = 1.0
#: Fractions of a byte that rounding loses: waiting for them would never end.
_NOTHING: Final = 0.5


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate` of them a second; starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, *, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token; False if there is none."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def has_some(self, now: float) -> bool:
        """Return whether there is a token."""
        self._refill(now)
        return self._tokens >= 1

    def spend(self, tokens: float, now: float) -> None:
        """Take tokens; those that there are not have to be gained first, before there are any again."""
        self._refill(now)
        self._tokens -= tokens

    def is_full(self, now: float) -> bool:
        """Return whether the bucket is as if it had never been used."""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class RateLimit:
    """A bucket for each key (an address, a device). Keys that have rested are forgotten."""

    def __init__(self, *, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._buckets: dict[Hashable, TokenBucket] = {}
        self._sweep_at = _SWEEP_AT
        self.refused = 0

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token of `key`; False, and counted, if it has none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[key] = TokenBucket(burst=self._burst, rate=self._rate, now=now)
        if bucket.take(now):
            return True
        self.refused += 1
        return False

    def _sweep(self, now: float) -> None:
        """Forget rested keys, at a cost of O(1) a new key on average."""
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._buckets))

    def __len__(self) -> int:
        return len(self._buckets)


class Throttle:
    """Keeps bytes to a rate that may be changed at any time.

    Whoever is about to send or ask for something waits first, and asks again after each wait::

        while delay := throttle.delay_s(len(data), trio.current_time()):
            await trio.sleep(delay)

    Args:
        rate_bytes_per_s: the rate; None or 0: unlimited.
        now: the time.
    """

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate_bytes_per_s: float | None = None, *, now: float) -> None:
        self._rate = rate_bytes_per_s or 0.0
        self._tokens = self._burst
        self._at = now

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The rate; None: unlimited."""
        return self._rate or None

    def set_rate(self, rate_bytes_per_s: float | None, now: float) -> None:
        """Change the rate; None or 0: unlimited. Those who wait notice within a second."""
        self._refill(now)
        was_unlimited = not self._rate
        self._rate = rate_bytes_per_s or 0.0
        self._tokens = self._burst if was_unlimited else min(self._tokens, self._burst)

    def delay_s(self, size_bytes: int, now: float) -> float:
        """Let so many bytes through and return 0, or return how long to wait before asking again.

        A wait is at most a second, so it may take several. More than the burst goes through at once when as much as
        can be is saved up, and what follows waits the longer: in the long run the rate holds for any size.
        """
        if not self._rate:
            return 0.0
        self._refill(now)
        lacking = min(size_bytes, self._burst) - self._tokens
        if lacking <= _NOTHING:
            self._tokens -= size_bytes
            return 0.0
        return min(lacking / self._rate, _MAX_DELAY_S)

    @property
    def _burst(self) -> float:
        return max(self._rate * _BURST_S, CHUNK_SIZE)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
