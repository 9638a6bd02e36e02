"""Where a pure machine gets its randomness: from whoever builds it, seeded in tests, the system's in a driver."""

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class RandomSource(Protocol):
    """The part of `random.Random` (and `random.SystemRandom`) that machines use."""

    def random(self) -> float:
        """Return a float in [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """Return an integer in [0, stop)."""

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of `k` random bits."""

    def choice(self, seq: Sequence[T], /) -> T:
        """Return one element of a non-empty sequence."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return `k` different elements."""

    def shuffle(self, x: MutableSequence[Any], /) -> None:
        """Bring a sequence into random order, in place."""
