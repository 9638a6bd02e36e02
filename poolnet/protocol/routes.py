"""How far this node is from a holder of a file, counted in links: what decides who relays for whom.

Every node knows the whole roster, hence every ring link that ought to be there (rings.py), and of its own links which
are there. A node's distance is one more than that of the nearest of its own links, and that of others is counted along
the rings, never through this node: what it is not linked to it cannot reach. A node relays only for those that are
farther away than itself, so wants fall towards a holder and never go round in a circle (protocol/swarm_relay.py).
"""

from collections.abc import Collection, Set

from poolnet.ids import DeviceId
from poolnet.limits import MAX_HOPS
from poolnet.protocol.rings import Roster


def hops_to_holder(
    roster: Roster, self_id: DeviceId, linked: Set[DeviceId], holders: Collection[DeviceId]
) -> int | None:
    """Return how many links away the nearest holder is: 1 if one of `linked` is a holder, None if there is no way.

    Breadth first from the holders until one of `linked` is met: O(nodes nearer than that × ring links).

    Args:
        roster: who is online, and where.
        self_id: this node; it does not count as a holder.
        linked: the nodes to which it has links.
        holders: nodes that have the whole file; those that are neither online nor linked do not count.
    """
    reached = {holder for holder in holders if holder != self_id and (holder in roster or holder in linked)}
    seen = reached | {self_id}
    for hops in range(1, MAX_HOPS + 1):
        if not reached:
            return None
        if not reached.isdisjoint(linked):
            return hops
        reached = {neighbour for node in reached for neighbour in roster.neighbours(node)} - seen
        seen |= reached
    return None
