"""How fast bytes pass, over the last few seconds."""

#: A burst counts half after this time.
_HALF_LIFE_S = 1.0
#: Amounts are gathered this long before the average moves; keeps `add` cheap.
_STEP_S = 0.1


class RateMeter:
    """A total and an exponentially weighted rate."""

    __slots__ = ("_gathered", "_rate", "_since", "total")

    def __init__(self, now: float) -> None:
        self.total = 0
        self._gathered = 0
        self._rate = 0.0
        self._since = now

    def add(self, amount: int, now: float) -> None:
        """Take note of `amount` at `now`."""
        self.total += amount
        self._gathered += amount
        if now - self._since >= _STEP_S:
            self._move(now)

    def rate(self, now: float) -> float:
        """Return the amount per second."""
        if now - self._since >= _STEP_S:
            self._move(now)
        return self._rate

    def _move(self, now: float) -> None:
        elapsed = now - self._since
        weight = 0.5 ** (elapsed / _HALF_LIFE_S)
        self._rate = weight * self._rate + (1 - weight) * self._gathered / elapsed
        self._gathered = 0
        self._since = now
