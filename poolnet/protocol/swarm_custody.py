"""Which pieces this device has promised without having them, and to whom. protocol/swarm_relay.py decides what to take.

There are at most `MAX_RELAYED_PIECES` over all files, and nobody takes all the room: a link, and a file, may have as
many as are still free (dynamic thresholds: Choudhury and Hahne, 1998). A single one gets half, n get 1/(n + 1) each.
"""

from collections import Counter
from collections.abc import Iterable

from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_RELAYED_PIECES
from poolnet.ranges import RangeSet


class Awaited:
    """One piece that was promised and is not here."""

    __slots__ = ("since", "waiting")

    def __init__(self, since: float) -> None:
        self.since = since
        self.waiting: dict[DeviceId, int] = {}  # who was promised it → the hops of its want


class Custody:
    """All pieces that were promised and are not here."""

    def __init__(self) -> None:
        self._files: dict[FileId, dict[int, Awaited]] = {}
        self._count_of_peer: Counter[DeviceId] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def of(self, file_id: FileId) -> dict[int, Awaited]:
        """Return the pieces of a file, in the order in which they were taken; not to be changed."""
        return self._files.get(file_id, {})

    def files(self) -> list[FileId]:
        """Return the files of which there are pieces."""
        return list(self._files)

    def count_for(self, peer: DeviceId) -> int:
        """Return how many pieces a peer waits for."""
        return self._count_of_peer[peer]

    def waited_for(self, peer: DeviceId, file_id: FileId) -> list[int]:
        """Return the pieces of a file that a peer waits for."""
        if not self._count_of_peer[peer]:
            return []
        return [piece for piece, awaited in self.of(file_id).items() if peer in awaited.waiting]

    def has_room(self, peer: DeviceId, file_id: FileId) -> bool:
        """Return whether one piece more of a file may be taken for a peer, that nobody waits for yet."""
        free = MAX_RELAYED_PIECES - self._total
        return self._count_of_peer[peer] < free and len(self.of(file_id)) < free

    def add(self, file_id: FileId, piece: int, peer: DeviceId, hops: int, now: float) -> bool:
        """Note that a peer, which did not wait for it, was promised a piece; return whether nobody else waits."""
        pieces = self._files.setdefault(file_id, {})
        is_new = piece not in pieces
        if is_new:
            pieces[piece] = Awaited(now)
            self._total += 1
        pieces[piece].waiting[peer] = hops
        self._count_of_peer[peer] += 1
        return is_new

    def pop(self, file_id: FileId, piece: int) -> list[DeviceId]:
        """Forget a piece; return who waited for it."""
        awaited = self._files.get(file_id, {}).pop(piece, None)
        if awaited is None:
            return []
        self._total -= 1
        self._forget_if_empty(file_id)
        for peer in awaited.waiting:
            self._uncount(peer)
        return list(awaited.waiting)

    def release(self, file_id: FileId, peer: DeviceId, pieces: Iterable[int]) -> RangeSet:
        """Note that a peer does not wait for these pieces, which it does now; return those that nobody waits for."""
        unwanted = RangeSet()
        file = self._files.get(file_id, {})
        for piece in pieces:
            waiting = file[piece].waiting
            del waiting[peer]
            self._uncount(peer)
            if not waiting:
                del file[piece]
                self._total -= 1
                unwanted.add(piece)
        self._forget_if_empty(file_id)
        return unwanted

    def _forget_if_empty(self, file_id: FileId) -> None:
        if not self._files.get(file_id, True):
            del self._files[file_id]

    def _uncount(self, peer: DeviceId) -> None:
        self._count_of_peer[peer] -= 1
        if not self._count_of_peer[peer]:
            del self._count_of_peer[peer]
