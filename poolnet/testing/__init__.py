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
    >>> digest = pool.network.trace_digest()    # equal for equal seeds; print the seed when a test fails

The parts, each usable alone:

- `SimNetwork`: virtual time (`call_at`, `run_for`) and links between hosts. A link is a reliable stream: a lost packet
  costs a retransmission delay, frames stay in order; latency, jitter, bandwidth of a path and uplink of a host are set
  with `PathConditions` and `set_uplink`. What can go wrong: `reset_link` (frames under way are lost), `partition` and
  `heal`, `block` (a pair that never gets a path), `crash`.
- `SimHost`: what an object must offer to live in the network: six methods. `SimNode` is one: roster, mesh, gossip, a
  history that it keeps in agreement with its neighbours' and over `leave`, `crash` and `join`, and a clock that may be
  wrong, and jump. A test of another machine brings its own.
- `SimSyncServer`: gives its clients roster events, with delay; can be stopped and started.
- `SimPool`: a server and nodes, and the questions that tests ask: what was missed, how many hops, how many duplicates,
  how long until all agree.
"""

from poolnet.testing.sim_network import PathConditions, SimHost, SimLink, SimNetwork
from poolnet.testing.sim_node import SimNode
from poolnet.testing.sim_pool import SimPool, SpreadFigures
from poolnet.testing.sim_server import RosterClient, SimSyncServer

__all__ = [
    "PathConditions",
    "RosterClient",
    "SimHost",
    "SimLink",
    "SimNetwork",
    "SimNode",
    "SimPool",
    "SimSyncServer",
    "SpreadFigures",
]
