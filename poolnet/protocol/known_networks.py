"""Which networks are no strangers: those from which a link lasted, not long ago. Pure.

Anybody may prove a key and come as far as a link, but not stay: a node keeps links to members only, and a sync server
closes those of clients that are not attached. So whoever had a link for `KNOWN_AFTER_S` is taken to belong here, and
with it its network (`network_of`), for as long as it has the link, and `KNOWN_FOR_S` from then on. Nothing of this is
written down.
"""

from typing import Generic, TypeVar

from poolnet.limits import KNOWN_AFTER_S, KNOWN_FOR_S, MAX_KNOWN_NETWORKS

T = TypeVar("T")


class KnownNetworks(Generic[T]):
    """The networks of links that are up, and of `MAX_KNOWN_NETWORKS` that were."""

    def __init__(self) -> None:
        self._network_of: dict[T, str] = {}
        self._up: dict[str, dict[T, float]] = {}  # the links of a network, since when; the oldest first
        self._until: dict[str, float] = {}  # the one that lasts shortest first

    def __len__(self) -> int:
        return len(self._until)

    def is_known(self, network: str, now: float) -> bool:
        """Return whether somebody in that network had a link that lasted."""
        return now < self._until.get(network, now) or self._has_lasted(network, now)

    def link_up(self, link: T, network: str, now: float) -> None:
        """Take note of a link."""
        self._network_of[link] = network
        self._up.setdefault(network, {})[link] = now

    def link_down(self, link: T, now: float) -> None:
        """Take note that a link is gone. Idempotent."""
        network = self._network_of.pop(link, None)
        if network is None:
            return
        if self._has_lasted(network, now):
            self._until.pop(network, None)
            self._until[network] = now + KNOWN_FOR_S
            if len(self._until) > MAX_KNOWN_NETWORKS:
                del self._until[next(iter(self._until))]
        del self._up[network][link]
        if not self._up[network]:
            del self._up[network]

    def _has_lasted(self, network: str, now: float) -> bool:
        links = self._up.get(network)
        return links is not None and now - next(iter(links.values())) >= KNOWN_AFTER_S
