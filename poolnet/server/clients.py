"""The clients of a server: links from one device for one pool each, and how many an address has. Pure."""

from collections import Counter

import attrs

from poolnet.identity.statements import Statement
from poolnet.ids import DeviceId, PoolId, StatementId
from poolnet.server.admission import network_of
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
    """All clients, by id."""

    def __init__(self) -> None:
        self._clients: dict[ClientId, Client] = {}
        self._connections: Counter[str] = Counter()

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
        if client is not None:
            self._connections[client.network] -= 1
            if not self._connections[client.network]:
                del self._connections[client.network]
        return client

    def of_pool(self, pool_id: PoolId) -> list[Client]:
        """Return the clients for one pool, attached or not."""
        return [client for client in self._clients.values() if client.pool_id == pool_id]

    def __len__(self) -> int:
        return len(self._clients)
