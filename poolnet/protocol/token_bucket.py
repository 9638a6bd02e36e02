"""Token buckets: so many at once, and so many a second in the long run. Pure."""

from collections.abc import Hashable

#: Keys remembered before those that are full again (and so know nothing) are forgotten.
_SWEEP_AT = 4096


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
