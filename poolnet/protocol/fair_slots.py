"""A bounded number of places for strangers, which nobody can keep for itself. Pure.

Whoever is not proven costs memory, so there are only so many places; and whoever takes them all keeps everybody else
away. So they are shared by *networks* (an IPv4 address, the /64 of an IPv6 address, `network_of`): one has at most
`per_network` of them, and when none is free, one of the network that holds most is taken away, the oldest. But none
before it has had `grace_s`, in which an honest newcomer is through: that also bounds how many can come and go in a
second, and so what they cost.
"""

import ipaddress
from typing import Generic, TypeVar

T = TypeVar("T")


class FairSlots(Generic[T]):
    """Who has a place.

    Args:
        slots: how many there are.
        per_network: how many of them one network may have.
        grace_s: how long nobody is sent away.
    """

    def __init__(self, *, slots: int, per_network: int, grace_s: float) -> None:
        self._slots = slots
        self._per_network = per_network
        self._grace_s = grace_s
        self._network_of: dict[T, str] = {}
        self._holders: dict[str, dict[T, float]] = {}  # of each network, since when; the oldest first

    def __len__(self) -> int:
        return len(self._network_of)

    def __contains__(self, holder: object) -> bool:
        return holder in self._network_of

    def holders(self) -> list[T]:
        """Return all, in the order in which they came."""
        return list(self._network_of)

    def has_room(self, network: str, now: float) -> bool:
        """Return whether `take` would find a place for a newcomer from `network`."""
        crowd = self._crowd(network)
        return crowd is None or now - _oldest(crowd)[1] >= self._grace_s

    def take(self, newcomer: T, network: str, now: float) -> T | None:
        """Give a newcomer a place, if `has_room` says so; return whose place it was, if it was somebody's."""
        crowd = self._crowd(network)
        sent_away = None if crowd is None else _oldest(crowd)[0]
        if sent_away is not None:
            self.release(sent_away)
        self._network_of[newcomer] = network
        self._holders.setdefault(network, {})[newcomer] = now
        return sent_away

    def release(self, holder: T) -> None:
        """Take a place back. Idempotent."""
        network = self._network_of.pop(holder, None)
        if network is not None:
            del self._holders[network][holder]
            if not self._holders[network]:
                del self._holders[network]

    def _crowd(self, network: str) -> dict[T, float] | None:
        """Return of whom one has to go before somebody from `network` can come; None if there are free places."""
        own = self._holders.get(network, {})
        if len(own) >= self._per_network:
            return own
        if len(self._network_of) < self._slots:
            return None
        return max(self._holders.values(), key=lambda holders: (len(holders), -_oldest(holders)[1]))


def _oldest(holders: dict[T, float]) -> tuple[T, float]:
    return next(iter(holders.items()))


def network_of(host: str) -> str:
    """Return what limits on an address apply to: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
