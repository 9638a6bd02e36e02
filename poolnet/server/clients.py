"""The clients of a server: links from one device for one pool each, and how many an address has. Pure.

Anybody may become a client. So those that are not attached have places that are shared by networks, and those of them
that bring a new pool, of which there is much to be kept before it can be judged, have fewer. Known members have as many
places again, shared by their pools, so that no crowd of strangers keeps them away.
"""

from collections import Counter

import attrs

from poolnet.identity.statements import Statement
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.limits import (
    MAX_FOUNDING_CLIENTS,
    MAX_FOUNDING_PER_NETWORK,
    MAX_UNATTACHED_CLIENTS,
    MAX_UNATTACHED_PER_NETWORK,
    UNATTACHED_GRACE_S,
)
from poolnet.protocol.fair_slots import FairSlots, network_of
from poolnet.server.hosted_pool import HostedPool
from poolnet.server.wanted import ClientId
from poolnet.wire.sync_frames import Address


@attrs.define(eq=False)
class Client:
    """A link; until it is attached, what it showed and listed so far."""

    client_id: ClientId
    device: DeviceId
    pool_id: PoolId
    address: Address
    is_attached: bool = False
    wants_attach: bool = False
    shown: list[Statement] = attrs.Factory(list)
    shown_size: int = 0
    #: Statements that both it and the pool have, and those that the pool lacks.
    has: set[StatementId] = attrs.Factory(set)
    offers: list[StatementId] = attrs.Factory(list)
    #: The pool that it brings, while that is new to the server.
    founding: HostedPool | None = None

    @property
    def network(self) -> str:
        """What limits on its address apply to."""
        return network_of(self.address.host)


class Clients:
    """All clients, by id.

    Attributes:
        unattached: the places of those that are not attached; whoever adds a client takes one.
        members: ... and of those that are members of a pool that is loaded.
        founders: ... and of those of them that bring a new pool.
    """

    def __init__(self) -> None:
        self._clients: dict[ClientId, Client] = {}
        self._connections: Counter[str] = Counter()
        self.unattached: FairSlots[ClientId] = FairSlots(
            slots=MAX_UNATTACHED_CLIENTS, per_network=MAX_UNATTACHED_PER_NETWORK, grace_s=UNATTACHED_GRACE_S
        )
        self.members: FairSlots[ClientId] = FairSlots(
            slots=MAX_UNATTACHED_CLIENTS, per_network=MAX_UNATTACHED_PER_NETWORK, grace_s=UNATTACHED_GRACE_S
        )
        self.founders: FairSlots[ClientId] = FairSlots(
            slots=MAX_FOUNDING_CLIENTS, per_network=MAX_FOUNDING_PER_NETWORK, grace_s=UNATTACHED_GRACE_S
        )

    def add(self, client: Client) -> int:
        """Add a client; return how many its network has with it."""
        self._clients[client.client_id] = client
        self._connections[client.network] += 1
        return self._connections[client.network]

    def get(self, client_id: ClientId) -> Client | None:
        """Return a client, or None if it is gone."""
        return self._clients.get(client_id)

    def remove(self, client_id: ClientId) -> Client | None:
        """Forget a client and return it; None if it was forgotten before."""
        client = self._clients.pop(client_id, None)
        self.attached(client_id)
        if client is not None:
            self._connections[client.network] -= 1
            if not self._connections[client.network]:
                del self._connections[client.network]
        return client

    def attached(self, client_id: ClientId) -> None:
        """Take back the places that a client had while it was not attached."""
        self.unattached.release(client_id)
        self.members.release(client_id)
        self.founders.release(client_id)

    def is_seated(self, client_id: ClientId) -> bool:
        """Return whether a client has a place while it is not attached."""
        return client_id in self.unattached or client_id in self.members

    def of_pool(self, pool_id: PoolId) -> list[Client]:
        """Return the clients for one pool, attached or not."""
        return [client for client in self._clients.values() if client.pool_id == pool_id]

    def __len__(self) -> int:
        return len(self._clients)
