"""What a node knows about reaching one peer: when to dial it next, and whether it counts as gone. Pure.

Failures make the waits longer, jittered so that two sides do not keep time with each other. A dial that fails and a
link that ends at once both count for that; only failed dials in a row make a peer count as gone.
"""

import attrs

from poolnet.limits import GONE_AFTER_DIALS, MAX_BACKOFF_S, MIN_BACKOFF_S
from poolnet.protocol.randomness import RandomSource

#: A link that ended sooner than this after it came up counts as a failed attempt.
_STABLE_S = 5.0


@attrs.define
class DialAttempts:
    """The attempts to reach one peer.

    Attributes:
        dial_at: when the next one is due.
        is_dialling: whether one is under way.
    """

    dial_at: float
    is_dialling: bool = False
    _failures: int = attrs.field(default=0, init=False)
    _failed_dials: int = attrs.field(default=0, init=False)

    @property
    def is_gone(self) -> bool:
        """Whether so many dials in a row came to nothing that the peer is to be replaced."""
        return self._failed_dials >= GONE_AFTER_DIALS

    def linked(self) -> None:
        """Take note of a link, whoever dialled it."""
        self.is_dialling = False
        self._failed_dials = 0

    def ended(self, lasted_s: float, now: float, *, not_before: float, rng: RandomSource) -> None:
        """Take note that a link is gone; dial again `not_before` then."""
        self._failures = 0 if lasted_s >= _STABLE_S else self._failures + 1
        self.dial_at = max(not_before, now + _backoff_s(self._failures, rng))

    def failed(self, now: float, rng: RandomSource) -> bool:
        """Take note of a dial that came to nothing; return whether the peer is gone by that."""
        self._failures += 1
        self._failed_dials += 1
        self.dial_at = now + _backoff_s(self._failures, rng)
        return self._failed_dials == GONE_AFTER_DIALS


def _backoff_s(failures: int, rng: RandomSource) -> float:
    """Return a jittered wait: half to all of MIN_BACKOFF_S × 2^(failures - 1), at most MAX_BACKOFF_S."""
    if failures == 0:
        return 0.0
    full = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2.0 ** min(failures - 1, 16))
    return full * (0.5 + rng.random() / 2)
