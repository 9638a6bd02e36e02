"""A simulated network for poolnet's tests and those of programs built on it.

The protocol of poolnet is made of machines without sockets or clocks, so hundreds of nodes run in one process, in
virtual time, a few hundred times faster than real time, and exactly the same way for the same seed.

    >>> from poolnet.testing import PathConditions, SimPool
    >>> pool = SimPool(seed=1, node_count=20, conditions=PathConditions(latency_s=0.02, loss=0.01))
    >>> pool.run_for(5.0)                       # seconds of virtual time: everyone finds its neighbours
    >>> message = pool.publish(pool.nodes[0], b"hello")
    >>> pool.run_for(2.0)
    >>> pool.missed(pool.nodes)                 # (node, message) pairs that did not arrive
    []
    >>> pool.nodes[3].crash()                   # silently; the others notice after the idle timeout
    >>> pool.network.partition(node.host_id for node in pool.nodes[10:])
    >>> pool.run_for(20.0)
    >>> later = [pool.publish(node, b"anybody there?") for node in (pool.nodes[0], pool.nodes[19])]
    >>> pool.network.heal()
    >>> pool.time_to_agree(pool.online(), timeout_s=120.0) <= 120.0     # the same history in the same order
    True
    >>> pool.add_node(clock_error_ms=86_400_000).known_from             # a newcomer, a day ahead: no history yet
    >>> file_id = pool.offer(pool.nodes[0], 10_000_000)
    >>> pool.nodes[5].fetch(file_id)
    >>> pool.nodes[5].disk.fill(free_bytes=2_000_000)   # it goes on when there is room again
    >>> pool.run_for(20.0)
    >>> pool.nodes[5].disk.free()
    >>> pool.run_for(20.0)
    >>> file_id in pool.nodes[5].completed
    True
    >>> digest = pool.network.trace_digest()    # equal for equal seeds; print the seed when a test fails

The parts, each usable alone:

- `SimNetwork`: virtual time (`call_at`, `run_for`) and links between hosts. A link is a reliable stream: a lost packet
  costs a retransmission delay, frames stay in order; latency, jitter, bandwidth of a path and uplink of a host are set
  with `PathConditions` and `set_uplink`. What can go wrong: `reset_link` (frames under way are lost), `partition` and
  `heal`, `block` (a pair that never gets a path), `crash`.
- `SimHost`: what an object must offer to live in the network: six methods. `SimNode` is one, with the machines of a
  real node: roster, mesh, a record of what its peers did, gossip, a history that it keeps in agreement with its
  neighbours', files that it offers, fetches and relays, and a clock that may be wrong, and jump; with `has_statements`,
  members, roles and removals. What it does not have: signatures of messages (a seal stands for them), content of files,
  streams, folders. A test of another machine brings its own host.
- `SimDisk`: of each node. `crash` is a power cut: what was not synced may be lost. It can be full, and fail.
- `SimLiar`: a node that misbehaves (`add_node(is_liar=...)`, `Lie`).
- `SimSyncServer`: gives its clients roster events, with delay, and judges complaints; can be stopped and started.
- `SimPool`: a server and nodes, and the questions that tests ask: what was missed, how many hops, how many duplicates,
  how long until all agree.
"""

from poolnet.testing.sim_disk import SimDisk
from poolnet.testing.sim_liars import Lie, SimLiar
from poolnet.testing.sim_network import PathConditions, SimHost, SimLink, SimNetwork
from poolnet.testing.sim_node import NodeSettings, SimNode
from poolnet.testing.sim_pool import SimPool, SpreadFigures
from poolnet.testing.sim_server import RosterClient, SimSyncServer

__all__ = [
    "Lie",
    "NodeSettings",
    "PathConditions",
    "RosterClient",
    "SimDisk",
    "SimHost",
    "SimLiar",
    "SimLink",
    "SimNetwork",
    "SimNode",
    "SimPool",
    "SimSyncServer",
    "SpreadFigures",
]
