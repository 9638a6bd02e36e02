"""Who is online in a pool, and who is whose neighbour: three independent random rings.

Every node has one place (a random 64-bit number) on each of `RING_COUNT` rings, drawn by the sync server so that nobody
chooses its neighbours. Its neighbours are its predecessor and successor on every ring: at most `MAX_RING_LINKS`. A
union of random Hamiltonian cycles is an expander with overwhelming probability (Law and Siu, "Distributed construction
of random expander networks", 2003): few hops, many disjoint paths, and a join or leave changes at most six links.

Invariants: equal rosters give equal answers on every node; neighbourhood is mutual; a pool of at most `FULL_MESH_SIZE`
nodes is a full mesh. Which links exist and what to do when one fails is decided in mesh.py, not here.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Set

import attrs

from poolnet.errors import ProtocolError
from poolnet.ids import DeviceId
from poolnet.limits import FULL_MESH_SIZE, RING_COUNT
from poolnet.protocol.randomness import RandomSource
from poolnet.wire.sync_frames import RosterEntry

_PLACE_BITS = 64
_NOBODY: frozenset[DeviceId] = frozenset()

#: One ring: (place, node), ascending. The node breaks ties between equal places.
_Ring = list[tuple[int, DeviceId]]


@attrs.frozen
class RosterChange:
    """What a new roster changed: nodes that came and nodes that left (new places alone do not count)."""

    joined: frozenset[DeviceId]
    left: frozenset[DeviceId]


def draw_places(rng: RandomSource) -> tuple[int, ...]:
    """Return a random place on each ring."""
    return tuple(rng.getrandbits(_PLACE_BITS) for _ in range(RING_COUNT))


class Roster:
    """The nodes that are online in one pool, as told by ordered events.

    The sync server keeps one and numbers every change with an epoch; nodes apply the same events and have the same
    roster. A change costs O(n) memory moves, a question O(log n).
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._places: dict[DeviceId, tuple[int, ...]] = {}
        self._rings: tuple[_Ring, ...] = tuple([] for _ in range(RING_COUNT))

    def reset(self, epoch: int, entries: Iterable[RosterEntry]) -> RosterChange:
        """Replace everything by the roster as of `epoch`, newer or older than what was here.

        Raises:
            ProtocolError: an entry without a place on every ring; nothing was changed.
        """
        places = {entry.node: _checked_places(entry) for entry in entries}
        before = self._places.keys()
        change = RosterChange(frozenset(places.keys() - before), frozenset(before - places.keys()))
        self.epoch = epoch
        self._places = places
        for number, ring in enumerate(self._rings):
            ring[:] = sorted((own[number], node) for node, own in places.items())
        return change

    def apply_joined(self, epoch: int, entry: RosterEntry) -> bool:
        """Apply "this node came, or has other places now". Returns whether the roster is complete up to `epoch`.

        An epoch that was already applied is ignored. False: events before it are missing, nothing was changed and
        the whole roster must be asked for.

        Raises:
            ProtocolError: an entry without a place on every ring; nothing was changed.
        """
        places = _checked_places(entry)
        if epoch != self.epoch + 1:
            return epoch <= self.epoch
        self._remove(entry.node)
        self._places[entry.node] = places
        for ring, place in zip(self._rings, places, strict=True):
            insort(ring, (place, entry.node))
        self.epoch = epoch
        return True

    def apply_left(self, epoch: int, node: DeviceId) -> bool:
        """Apply "this node left". Returns as `apply_joined` does; leaving twice is harmless."""
        if epoch != self.epoch + 1:
            return epoch <= self.epoch
        self._remove(node)
        self.epoch = epoch
        return True

    @property
    def nodes(self) -> Set[DeviceId]:
        """The nodes, as a live view in no particular order."""
        return self._places.keys()

    def entries(self) -> list[RosterEntry]:
        """Return the whole roster, ordered by node."""
        return [RosterEntry(node=node, places=self._places[node]) for node in sorted(self._places)]

    def places(self, node: DeviceId) -> tuple[int, ...]:
        """Return the places of a node.

        Raises:
            KeyError: it is not in the roster.
        """
        return self._places[node]

    def neighbours(self, node: DeviceId, *, without: Set[DeviceId] = _NOBODY) -> frozenset[DeviceId]:
        """Return the nodes that `node` links to: the nearest on both sides of every ring.

        Nodes in `without` are stepped over, as if they had left. Empty if `node` is not in the roster.
        """
        places = self._places.get(node)
        if places is None:
            return _NOBODY
        if len(self._places) <= FULL_MESH_SIZE:
            return frozenset(other for other in self._places if other != node and other not in without)
        found: set[DeviceId] = set()
        for ring, place in zip(self._rings, places, strict=True):
            index = bisect_left(ring, (place, node))
            if without:
                found.update(_nearest(ring, index, without))
            else:
                found.add(ring[index - 1][1])
                found.add(ring[index + 1 - len(ring)][1])
        return frozenset(found)

    def _remove(self, node: DeviceId) -> None:
        places = self._places.pop(node, None)
        if places is None:
            return
        for ring, place in zip(self._rings, places, strict=True):
            del ring[bisect_left(ring, (place, node))]

    def __contains__(self, node: object) -> bool:
        return node in self._places

    def __len__(self) -> int:
        return len(self._places)


def _nearest(ring: _Ring, index: int, without: Set[DeviceId]) -> Iterable[DeviceId]:
    """Yield the first node before and the first after `index` that is not in `without`, going round the ring."""
    for step in (-1, 1):
        for distance in range(1, len(ring)):
            node = ring[(index + step * distance) % len(ring)][1]
            if node not in without:
                yield node
                break


def _checked_places(entry: RosterEntry) -> tuple[int, ...]:
    if len(entry.places) != RING_COUNT:
        raise ProtocolError(f"a roster entry with {len(entry.places)} places; there are {RING_COUNT} rings")
    return entry.places
