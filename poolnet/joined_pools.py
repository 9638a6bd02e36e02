"""The pools that this device is in at the moment: an incoming link says in its first frame which of them it is for."""

from collections.abc import Iterator
from contextlib import contextmanager

from poolnet.errors import Refused
from poolnet.ids import PoolId
from poolnet.net.endpoint import Endpoint
from poolnet.pool_net import PoolNet
from poolnet.wire.link_frames import Hello, Purpose


class JoinedPools:
    """Finds a joined pool by its id, for whoever asks and for links that come."""

    def __init__(self) -> None:
        self._pools: dict[PoolId, PoolNet] = {}

    def __len__(self) -> int:
        return len(self._pools)

    def __contains__(self, pool_id: PoolId) -> bool:
        return pool_id in self._pools

    def get(self, pool_id: PoolId) -> PoolNet | None:
        """Return a pool if it is joined."""
        return self._pools.get(pool_id)

    @contextmanager
    def entered(self, pool: PoolNet) -> Iterator[None]:
        """Have links to a pool until the block ends."""
        self._pools[pool.pool_id] = pool
        try:
            yield
        finally:
            del self._pools[pool.pool_id]

    def authorise(self, hello: Hello) -> tuple[bytes, ...]:
        """Decide on an incoming link from what its first frame says; return our credentials.

        Raises:
            Refused: it is for something else than a joined pool, or that pool does not take it.
        """
        pool = self._pools.get(hello.pool_id)
        if hello.purpose != Purpose.POOL or pool is None:
            raise Refused("this device is not in that pool", code="unknown_pool")
        return pool.authorise(hello)

    async def accept_links(self, endpoint: Endpoint) -> None:
        """Give each link that comes to its pool. Runs until cancelled."""
        while True:
            link = await endpoint.accept()
            pool = self._pools.get(link.pool_id)
            if pool is None:  # left meanwhile
                link.close_now(code="unknown_pool", reason="this device is not in that pool any more")
            else:
                pool.adopt(link)
