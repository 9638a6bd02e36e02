"""How the room for offers is shared: when it is full, who has most of it loses the oldest of its own.

So whoever offers a lot takes room from itself, and nobody can keep others from being heard. Pure.
"""

import heapq
from typing import Final

from poolnet.clock import Hlc
from poolnet.ids import DeviceId, FileId

#: Entries for offers that are gone, or were renewed, may stay in a heap until they are more than those that count.
_MIN_HEAP_SIZE: Final = 64


class OfferShares:
    """The live offers of each device. Every method costs next to nothing, however many there are."""

    def __init__(self) -> None:
        self._shares: dict[DeviceId, _Share] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, node: DeviceId, file_id: FileId, hlc: Hlc) -> None:
        """Take note of an offer, or that it was renewed."""
        share = self._shares.setdefault(node, _Share())
        self._count += file_id not in share.live
        share.put(file_id, hlc)

    def remove(self, node: DeviceId, file_id: FileId) -> None:
        """Take note that an offer is gone."""
        share = self._shares[node]
        del share.live[file_id]
        self._count -= 1
        if not share.live:
            del self._shares[node]

    def of_node(self, node: DeviceId) -> list[FileId]:
        """Return the files that one device offers."""
        share = self._shares.get(node)
        return [] if share is None else list(share.live)

    def first_to_go(self) -> tuple[DeviceId, FileId]:
        """Return the oldest offer of the device that has the most; there is one."""
        node = max(self._shares, key=lambda node: (len(self._shares[node].live), node))
        return node, self._shares[node].oldest()


class _Share:
    """The offers of one device.

    Attributes:
        live: when each was made.
    """

    def __init__(self) -> None:
        self.live: dict[FileId, Hlc] = {}
        self._by_age: list[tuple[Hlc, FileId]] = []

    def put(self, file_id: FileId, hlc: Hlc) -> None:
        self.live[file_id] = hlc
        heapq.heappush(self._by_age, (hlc, file_id))
        if len(self._by_age) > max(2 * len(self.live), _MIN_HEAP_SIZE):
            self._by_age = [(hlc, file_id) for file_id, hlc in self.live.items()]
            heapq.heapify(self._by_age)

    def oldest(self) -> FileId:
        while True:
            hlc, file_id = self._by_age[0]
            if self.live.get(file_id) == hlc:
                return file_id
            heapq.heappop(self._by_age)
