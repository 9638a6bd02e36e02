"""A simulated pool: a server and nodes, messages sent among them, and how well they spread."""

from collections.abc import Collection, Iterable, Sequence

import attrs
from blake3 import blake3

from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.protocol.hash_tree import file_id_of
from poolnet.testing.sim_liars import ALL_LIES, Lie, SimLiar
from poolnet.testing.sim_network import PathConditions, SimNetwork
from poolnet.testing.sim_node import NodeSettings, SimNode
from poolnet.testing.sim_server import SimSyncServer
from poolnet.testing.sim_standing import SimCharter

EMPTY_FILE_ID = file_id_of(0, bytes(32))


@attrs.frozen(kw_only=True)
class SpreadFigures:
    """How a set of messages spread over a set of nodes."""

    deliveries: int
    missed: int
    #: Links that the slowest copy of a message passed: the mean over the messages, and the worst.
    last_hop_mean: float
    last_hop_worst: int
    #: Seconds from publishing to the last delivery, the worst message.
    last_delivery_s: float


class SimPool:
    """A pool of simulated nodes that all join at once.

    Args:
        seed: decides everything, the ids of the nodes too.
        node_count: nodes at the beginning; `add_node` adds others.
        conditions: of every path.
        has_statements: whether members can be promoted and removed; if not, everybody who is there is one.
    """

    def __init__(
        self, seed: int, node_count: int, *, conditions: PathConditions | None = None, has_statements: bool = False
    ) -> None:
        self.network = SimNetwork(seed, conditions=conditions)
        self.server = SimSyncServer(self.network)
        self.charter = SimCharter(seed) if has_statements else None
        if self.charter is not None:
            self.server.membership = self.charter.membership()
        #: All nodes that ever joined, in order, those that left too.
        self.nodes: list[SimNode] = []
        #: All files that were ever offered, and their sizes.
        self.offered: dict[FileId, int] = {}
        self._published: dict[MsgId, tuple[SimNode, float]] = {}
        self._known = 0
        self._membership: Membership | None = None
        for _ in range(node_count):
            self.add_node()

    def add_node(self, *, clock_error_ms: int = 0, is_liar: bool | Collection[Lie] = False) -> SimNode:
        """Let a new node join. The first of all is the founder.

        Args:
            clock_error_ms: by how much its clock is ahead.
            is_liar: whether it misbehaves in every way, or in which.
        """
        host_id = DeviceId(blake3(f"node {len(self.nodes)} of {self.network.seed}".encode()).digest())
        key = None
        if self.charter is not None:
            key = self.charter.next_member(now_s=self.network.now)
            host_id = key.device_id
        settings = NodeSettings(
            host_id=host_id,
            clock_error_ms=clock_error_ms,
            is_founder=not self.nodes,
            key=key,
            charter=self.charter,
        )
        if is_liar:
            lies = ALL_LIES if is_liar is True else is_liar
            node: SimNode = SimLiar(self.network, self.server, settings, lies=lies)
        else:
            node = SimNode(self.network, self.server, settings)
        self.nodes.append(node)
        node.join()
        return node

    def run_for(self, duration_s: float) -> None:
        """Let `duration_s` seconds of virtual time pass."""
        self.network.run_for(duration_s)

    def publish(self, node: SimNode, text: bytes) -> MsgId:
        """Let a node send a message.

        Raises:
            StoreError: its disk does not take it (`DiskFull`), or does not sync; nobody hears of it.
        """
        msg_id = node.publish(text)
        self._published[msg_id] = (node, self.network.now)
        return msg_id

    def offer(self, node: SimNode, size_bytes: int) -> FileId:
        """Let a node offer a file that nobody else has.

        Raises:
            StoreError: as for `publish`.
        """
        file_id = FileId(blake3(f"file {len(self.offered)} of {self.network.seed}".encode()).digest())
        if not size_bytes:
            file_id = EMPTY_FILE_ID
        msg_id = node.offer(file_id, size_bytes)
        self._published[msg_id] = (node, self.network.now)
        self.offered[file_id] = size_bytes
        return file_id

    def membership(self) -> Membership | None:
        """Return what everything that any node ever stated means; None where everybody is a member."""
        if self.charter is None:
            return None
        if (known := sum(len(node.statements()) for node in self.nodes)) != self._known:
            every = (statement for node in self.nodes for statement in node.statements())
            self._known, self._membership = known, self.charter.membership(every)
        return self._membership

    def online(self) -> list[SimNode]:
        """Return the nodes that are in the network now."""
        return [node for node in self.nodes if node.is_up]

    def missed(self, nodes: Sequence[SimNode]) -> list[tuple[SimNode, MsgId]]:
        """Return what these nodes did not get, of all that one of them sent or got."""
        expected = [msg_id for msg_id in self._published if any(msg_id in node.history for node in nodes)]
        return [(node, msg_id) for msg_id in expected for node in nodes if msg_id not in node.history]

    def duplicates(self) -> int:
        """Return how many payloads have reached a node that had them already, so far."""
        return sum(node.gossip.statistics().duplicates + node.fetched_twice for node in self.nodes)

    def agree(self, nodes: Sequence[SimNode]) -> bool:
        """Return whether these nodes have the same messages in the same order."""
        first = list(nodes[0].keys)
        return all(list(node.keys) == first for node in nodes[1:])

    def time_to_agree(self, nodes: Sequence[SimNode], timeout_s: float) -> float:
        """Let time pass until these nodes agree; return how long it took, or more than `timeout_s` if they do not."""
        start = self.network.now
        while not self.agree(nodes) and self.network.now <= start + timeout_s:
            self.network.run_for(1.0)
        return self.network.now - start

    def figures(self, messages: Iterable[MsgId], nodes: Sequence[SimNode]) -> SpreadFigures:
        """Return how `messages` spread over `nodes`."""
        last_hops: list[int] = []
        delays: list[float] = []
        deliveries = missed = 0
        for msg_id in messages:
            publisher, published_at = self._published[msg_id]
            others = [node for node in nodes if node is not publisher]
            reached = [node for node in others if msg_id in node.history]
            deliveries += len(reached)
            missed += len(others) - len(reached)
            last_hops.append(max((node.hops[msg_id] for node in reached), default=0))
            delays.append(max((node.delivered_at[msg_id] - published_at for node in reached), default=0.0))
        return SpreadFigures(
            deliveries=deliveries,
            missed=missed,
            last_hop_mean=sum(last_hops) / max(1, len(last_hops)),
            last_hop_worst=max(last_hops, default=0),
            last_delivery_s=max(delays, default=0.0),
        )
