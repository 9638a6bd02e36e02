"""How far a stream has come, by what peers claim, and whether somebody who follows it live is too late.

Claims are not verified, so they decide nothing but where to look: one that brings no genuine piece is doubted, and only
lower ones are believed from then on. How late a place in the stream is, is how long ago the first piece after it was
known to exist.
"""

import math
from collections import deque
from typing import Final

#: A live follower that is more than so many seconds late goes on at the end.
MAX_LIVE_DELAY_S: Final = 10.0
#: Moments remembered are so far apart; twice as many are kept as the longest delay needs.
_STEP_S: Final = 0.25
_MAX_MOMENTS: Final = int(2 * MAX_LIVE_DELAY_S / _STEP_S)
#: Claims remembered, to fall back on when the highest is doubted.
_MAX_CLAIMS: Final = 64


class LiveEdge:
    """What is known of the end of one stream. Times are those of one clock, in seconds."""

    def __init__(self) -> None:
        self._claims: deque[int] = deque(maxlen=_MAX_CLAIMS)
        self._ceiling: int | None = None
        self._moments: deque[tuple[float, int]] = deque(maxlen=_MAX_MOMENTS)  # since when which end was known

    @property
    def end(self) -> int | None:
        """How many pieces there are, by the highest claim that is not doubted; None if there is none."""
        ceiling = self._ceiling
        return max((claim for claim in self._claims if ceiling is None or claim < ceiling), default=None)

    def heard(self, count: int, now: float) -> None:
        """Take somebody's claim that there are so many pieces."""
        if count < 1 or (self._claims and self._claims[-1] == count):
            return
        self._claims.append(count)
        if (self._ceiling is not None and count >= self._ceiling) or (self._moments and count <= self._moments[-1][1]):
            return
        if self._moments and now - self._moments[-1][0] < _STEP_S:
            now, _ = self._moments.pop()
        self._moments.append((now, count))

    def late_at(self, position: int) -> float:
        """Return when it will be, or was, too late to take the piece at `position`; inf if it is not known to exist.

        Positions must not fall from one call to the next, except after `doubt`.
        """
        while self._moments and self._moments[0][1] <= position:
            self._moments.popleft()
        return self._moments[0][0] + MAX_LIVE_DELAY_S if self._moments else math.inf

    def doubt(self, position: int) -> bool:
        """Take note that nobody delivers the piece at `position`: who claims to have it is not believed.

        Returns whether that changes anything: if nobody claims less, the stream is only slow.
        """
        if not any(claim <= position for claim in self._claims):
            return False
        self._ceiling = position + 1
        self._moments.clear()
        return True

    def passed(self, position: int) -> None:
        """Take note that the piece at `position` is genuine and here: who claimed more may be right again."""
        if self._ceiling is not None and position + 1 >= self._ceiling:
            self._ceiling = None
