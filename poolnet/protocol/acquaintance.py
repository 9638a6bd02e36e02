"""The member that a node links to beside its neighbours: drawn by itself at random, another one now and then.

Places on the rings are drawn by the server and stay. Where a third of a pool conspires, about one node in fifty has
nobody honest for a neighbour, or only one; it hears what the others let it hear, for as long as it stays. With a member
drawn anew every few minutes it compares its history with somebody honest soon. It need not know who that is.

Sources for the thought: Heilman, Kendler, Zohar, Goldberg, "Eclipse Attacks on Bitcoin's Peer-to-Peer Network" (2015,
section 5: random selection, feelers); Condie et al., "Induced Churn as Shelter from Routing-Table Poisoning" (2006).
"""

from collections.abc import Callable, Set

from poolnet.ids import DeviceId
from poolnet.limits import ACQUAINTANCE_DELAY_S, ACQUAINTANCE_S, FULL_MESH_SIZE
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.rings import Roster


class Acquaintance:
    """Who it is now, and when another is drawn. Nobody in a full mesh, where everyone is a neighbour.

    Args:
        node: this node.
        roster: who is online.
        rng: must not be foreseeable by others.
    """

    def __init__(self, node: DeviceId, roster: Roster, rng: RandomSource) -> None:
        self.peer: DeviceId | None = None
        #: When `update` has something to do; None while there are no strangers.
        self.draw_at: float | None = None
        self._node = node
        self._roster = roster
        self._rng = rng

    def update(self, known: Callable[[], Set[DeviceId]], now: float) -> None:
        """Draw another when it is time, none of whom `known` returns: those linked anyway, and those not wanted."""
        if len(self._roster) <= FULL_MESH_SIZE or self._node not in self._roster:
            self.peer = self.draw_at = None
        elif self.draw_at is None:
            self.draw_at = now + self._soon_s()
        elif self.draw_at <= now:
            strangers = sorted(self._roster.nodes - known() - {self._node})
            self.peer = self._rng.choice(strangers) if strangers else None
            self.draw_at = now + ACQUAINTANCE_S * (0.5 + self._rng.random() / 2)
        if self.peer not in self._roster:
            self.peer = None

    def lost(self, peer: DeviceId, now: float) -> None:
        """Take note that no link to a peer comes up: if it was the one, another is drawn soon."""
        if peer == self.peer:
            self.peer, self.draw_at = None, now + self._soon_s()

    def _soon_s(self) -> float:
        return ACQUAINTANCE_DELAY_S * (1 + self._rng.random())
