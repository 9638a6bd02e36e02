"""Where a server puts the nodes of a pool on the rings. Pure.

Nobody may choose its neighbours, so places are drawn; and nobody may draw until they suit, by leaving and coming back:
a device has the same places each time. They follow from its id, from how often it was given others, and from a secret
that is drawn when the pool is loaded, so that keys cannot be made to fit either.
"""

from collections import Counter

from blake3 import blake3

from poolnet.ids import DeviceId
from poolnet.limits import RING_COUNT
from poolnet.protocol.randomness import RandomSource

_SECRET_BITS = 256
_PLACE_SIZE = 8


class Places:
    """The places of all devices of one pool; holds a number for each that was given others.

    Args:
        rng: draws the secret; nobody may be able to predict it.
    """

    def __init__(self, rng: RandomSource) -> None:
        self._secret = rng.getrandbits(_SECRET_BITS).to_bytes(_SECRET_BITS // 8, "big")
        self._moves: Counter[DeviceId] = Counter()

    def of(self, device: DeviceId) -> tuple[int, ...]:
        """Return a device's place on each ring."""
        hasher = blake3(device + self._moves[device].to_bytes(8, "big"), key=self._secret)
        drawn = hasher.digest(length=RING_COUNT * _PLACE_SIZE)
        return tuple(
            int.from_bytes(drawn[start : start + _PLACE_SIZE], "big") for start in range(0, len(drawn), _PLACE_SIZE)
        )

    def move(self, device: DeviceId) -> None:
        """Give a device other places from now on."""
        self._moves[device] += 1
