"""Which of the sizes that devices claim for a file to go by. Pure.

A file id binds the size, so at most one claim is true, and the first genuine piece proves it. Until then neither a
claim nor the doubts of a peer can be trusted: members may offer a file with a wrong size, and a peer may say that a
true one is wrong. So every claim is tried in turn: in the first round until a peer doubts it, in later rounds for a
time that grows, whatever peers say. Neither lie can keep a file away from whoever is linked to somebody honest.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from poolnet.errors import StoreError
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import file_id_of

#: In the second round; twice as long in each round that follows, up to `_MAX_PATIENCE_S`.
_PATIENCE_S: Final = 5.0
_MAX_PATIENCE_S: Final = 300.0
_EMPTY_ID: Final = file_id_of(0, bytes(32))


class SizeClaims:
    """The sizes claimed for one file.

    Args:
        file_id: which file.
        claimed: returns the sizes claimed now, the most believable first.

    Raises:
        StoreError: there is no claim that could be true.
    """

    def __init__(self, file_id: FileId, claimed: Callable[[], Sequence[int]]) -> None:
        self._is_empty = file_id == _EMPTY_ID
        self._claimed = claimed
        self._tries = Counter[int]()
        self._current = -1
        if not self._possible():
            raise StoreError("that offer says it is empty, and its id says it is not; ask for it to be offered again")

    def choose(self) -> int:
        """Return the size to try now: the one tried least."""
        self._current = min(self._possible(), key=lambda size: self._tries[size], default=self._current)
        self._tries[self._current] += 1
        return self._current

    def is_first_try(self) -> bool:
        """Return whether the current size was never tried before."""
        return self._tries[self._current] == 1

    def has_others(self) -> bool:
        """Return whether there is another size to try."""
        return any(size != self._current for size in self._possible())

    def is_hopeless(self, *, is_doubted: bool) -> bool:
        """Return whether to try another size now, as nothing genuine has come.

        Args:
            is_doubted: whether a peer doubts the current one.
        """
        if self.is_first_try():
            return is_doubted and self.has_others()
        return any(not self._tries[size] for size in self._possible())

    def patience_s(self) -> float:
        """Return how long to try the current size, if there are others."""
        if self.is_first_try():
            return math.inf
        return min(_PATIENCE_S * 2.0 ** (self._tries[self._current] - 2), _MAX_PATIENCE_S)

    def _possible(self) -> list[int]:
        return [size for size in self._claimed() if (size == 0) == self._is_empty]
