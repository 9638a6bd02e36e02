"""Who offers what: the state that the pool's offers and retractions add up to, in whatever order they come.

For each (node, file) the message with the highest clock decides. No I/O.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from poolnet.clock import Hlc
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_OFFERS

#: ``offered``: by others, not here · ``downloading``: on its way here · ``complete``: fetched, whole, and served on ·
#: ``seeding``: offered by this device.
OfferState = Literal["offered", "downloading", "complete", "seeding"]


@attrs.frozen(kw_only=True)
class OfferInfo:
    """A file that can be fetched, as seen from this device.

    Attributes:
        name: as its author wrote it; `safe_file_name` makes it harmless.
        nodes: the devices that offer it (not necessarily online), the earliest offer first.
        local_path: where it is on this device, or None.
        done_bytes: verified bytes that are here.
    """

    file_id: FileId
    name: str
    size_bytes: int
    nodes: tuple[DeviceId, ...]
    local_path: Path | None
    state: OfferState
    done_bytes: int


@attrs.frozen(kw_only=True)
class NodeOffer:
    """One device's offer of a file."""

    node: DeviceId
    name: str
    size_bytes: int
    hlc: Hlc


class OfferBook:
    """Offers of a pool, at most `MAX_OFFERS` live ones and as many remembered retractions."""

    def __init__(self) -> None:
        self._offers: dict[FileId, dict[DeviceId, NodeOffer]] = {}
        self._retracted: dict[tuple[DeviceId, FileId], Hlc] = {}
        self._live = 0
        self.dropped = 0

    def offered(self, file_id: FileId, offer: NodeOffer) -> bool:
        """Take note of an offer; return whether that device did not offer the file just before."""
        earlier = self._offers.get(file_id, {}).get(offer.node)
        if self._retracted.get((offer.node, file_id), -1) >= offer.hlc:
            return False
        if earlier is None and self._live >= MAX_OFFERS:
            self.dropped += 1
            return False
        if earlier is None or offer.hlc > earlier.hlc:
            self._offers.setdefault(file_id, {})[offer.node] = offer
        self._live += earlier is None
        return earlier is None

    def retracted(self, file_id: FileId, node: DeviceId, hlc: Hlc) -> bool:
        """Take note of a retraction; return whether it ended the last offer of the file."""
        self._remember_retraction(file_id, node, hlc)
        offers = self._offers.get(file_id, {})
        offer = offers.get(node)
        if offer is None or offer.hlc > hlc:
            return False
        del offers[node]
        self._live -= 1
        if not offers:
            del self._offers[file_id]
        return not offers

    def best(self, file_id: FileId) -> NodeOffer | None:
        """Return the offer to show: of the size that most devices claim, the earliest of those."""
        return next(iter(self._by_belief(file_id)), None)

    def sizes(self, file_id: FileId) -> list[int]:
        """Return the sizes that devices claim a file has, in the order in which to try them.

        The id binds the size, so only one can be true; which one shows when the first piece is verified.
        """
        return list(dict.fromkeys(offer.size_bytes for offer in self._by_belief(file_id)))

    def _by_belief(self, file_id: FileId) -> list[NodeOffer]:
        offers = self._offers.get(file_id, {}).values()
        claims = Counter(offer.size_bytes for offer in offers)
        return sorted(offers, key=lambda offer: (-claims[offer.size_bytes], offer.hlc, offer.node))

    def nodes(self, file_id: FileId) -> tuple[DeviceId, ...]:
        """Return the devices that offer a file, the earliest first."""
        offers = self._offers.get(file_id, {}).values()
        return tuple(offer.node for offer in sorted(offers, key=lambda offer: (offer.hlc, offer.node)))

    def files(self) -> Iterator[FileId]:
        """Iterate over the files that somebody offers."""
        return iter(self._offers)

    def of_node(self, node: DeviceId) -> list[FileId]:
        """Return the files that one device offers."""
        return [file_id for file_id, offers in self._offers.items() if node in offers]

    def _remember_retraction(self, file_id: FileId, node: DeviceId, hlc: Hlc) -> None:
        latest = max(hlc, self._retracted.pop((node, file_id), hlc))
        self._retracted[node, file_id] = latest
        if len(self._retracted) > MAX_OFFERS:
            del self._retracted[next(iter(self._retracted))]
