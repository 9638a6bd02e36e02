"""A small simulated network of swarm machines: latency, uplinks of limited bandwidth, links that come and go.

Pieces carry no bytes; a node may be told to send wrong ones. Time is virtual, everything is seeded.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from poolnet.ids import DeviceId, FileId
from poolnet.protocol.hash_tree import Shape
from poolnet.protocol.swarm import (
    CancelSend,
    Completed,
    LinkDown,
    LinkUp,
    Misbehaved,
    PieceArrived,
    PieceDropped,
    PieceRejected,
    PieceSent,
    PieceStored,
    Received,
    RelayBegan,
    RelayEnded,
    Route,
    RouteWanted,
    SendFrame,
    SendPiece,
    SourcesChanged,
    StopServing,
    Swarm,
    SwarmEffect,
    SwarmEvent,
)
from poolnet.ranges import RangeSet

IN_TRANSIT = 8  # pieces a link takes before it makes the sender wait


def peer_id(number: int) -> DeviceId:
    return DeviceId(number.to_bytes(32, "big"))


FILE = FileId(b"F" * 32)


class SimNode:
    """One swarm machine, its uplink, and what came out."""

    def __init__(self, net: "SwarmNet", peer: DeviceId, seed: int, *, upload: float) -> None:
        self.net = net
        self.peer = peer
        self.upload = upload  # bytes a second
        self.swarm = Swarm(Random(seed))
        self.queues: dict[DeviceId, deque[tuple[FileId, int]]] = {}
        self.transit: dict[DeviceId, deque[tuple[FileId, int]]] = {}
        self.uplink_busy = False
        self.is_liar = False
        self.is_deaf = False  # takes wants, promises, and never sends
        self.sent: Counter[tuple[FileId, int]] = Counter()
        self.stored: dict[FileId, set[int]] = {}
        self.completed: dict[FileId, float] = {}
        self.misbehaved: list[Misbehaved] = []
        self.sources: list[SourcesChanged] = []
        self.wasted = 0
        self.has_lost = False
        self.frames_sent = 0
        self.relaying: set[FileId] = set()
        self.route_wanted: set[FileId] = set()
        self.asked_first: dict[FileId, None] = {}
        self.told_routes: dict[FileId, int | None] = {}
        self.believes: int | None = None  # a route that it is told whatever is true
        self.deadline: float | None = None

    def feed(self, event: SwarmEvent) -> None:
        self.perform(self.swarm.handle(event, self.net.now))

    def perform(self, effects: list[SwarmEffect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame(peer, frame):
                    self.frames_sent += 1
                    self.net.post(self.peer, peer, Received(self.peer, frame))
                case SendPiece(peer, file_id, piece):
                    if not self.is_deaf:
                        self.queues[peer].append((file_id, piece))
                    self.pump()
                case CancelSend(peer, file_id, pieces):
                    gone = RangeSet(pieces)
                    self.queues[peer] = deque(
                        item for item in self.queues[peer] if item[0] != file_id or item[1] not in gone
                    )
                case Completed(file_id):
                    assert file_id not in self.completed
                    self.completed[file_id] = self.net.now
                case Misbehaved():
                    self.misbehaved.append(effect)
                case SourcesChanged():
                    self.sources.append(effect)
                case RouteWanted(file_id):
                    assert file_id not in self.route_wanted
                    self.route_wanted.add(file_id)
                    self.told_routes.pop(file_id, None)
                    self.net.at(self.net.now, partial(self.net.tell_routes, [self]))
                case RelayBegan(file_id):
                    assert file_id not in self.relaying
                    self.relaying.add(file_id)
                case RelayEnded(file_id):
                    assert file_id in self.relaying | self.route_wanted
                    self.relaying.discard(file_id)
                    self.route_wanted.discard(file_id)
        self.arm()

    def arm(self) -> None:
        before, self.deadline = self.deadline, self.swarm.next_deadline()
        if self.deadline is not None and self.deadline != before:
            self.net.at(max(self.deadline, self.net.now), self.wake)

    def wake(self) -> None:
        if self.deadline is not None and self.deadline <= self.net.now:
            self.deadline = None
            self.perform(self.swarm.tick(self.net.now))

    def lose(self, file_id: FileId, piece: int) -> None:
        """The disk has forgotten a piece."""
        self.has_lost = True
        self.stored[file_id].discard(piece)
        self.feed(StopServing(file_id, ((piece, piece + 1),)))

    def evict(self, file_id: FileId, pieces: Iterable[int]) -> None:
        """The cache has thrown out pieces."""
        gone = RangeSet.of(piece for piece in pieces if piece in self.stored[file_id])
        self.has_lost = True
        self.stored[file_id] -= set(gone)
        self.feed(StopServing(file_id, gone.to_ranges()))

    def pump(self) -> None:
        """Hand queued pieces to the links, and send the next over the uplink, one link after another."""
        for peer, queue in self.queues.items():
            while queue and len(self.transit[peer]) < IN_TRANSIT:
                file_id, piece = queue.popleft()
                self.transit[peer].append((file_id, piece))
                self.sent[file_id, piece] += 1
                self.net.at(self.net.now, partial(self.feed, PieceSent(peer, file_id, piece)))
        if self.uplink_busy:
            return
        for peer in list(self.transit):
            if self.transit[peer]:
                self.uplink_busy = True
                file_id, piece = self.transit[peer].popleft()
                self.transit[peer] = self.transit.pop(peer)  # the others first the next time
                size = self.net.shapes[file_id].piece_size(piece)
                self.net.at(self.net.now + size / self.upload, partial(self.sent_over, peer, file_id, piece))
                return

    def sent_over(self, peer: DeviceId, file_id: FileId, piece: int) -> None:
        self.uplink_busy = False
        self.net.deliver(self.peer, peer, file_id, piece)
        self.pump()

    def receive_piece(self, peer: DeviceId, file_id: FileId, piece: int, *, is_wrong: bool) -> None:
        if not self.swarm.expects(peer, file_id, piece):
            self.wasted += 1
            return
        shape = self.net.shapes[file_id]
        parent = shape.parent(piece)
        stored = self.stored.setdefault(file_id, set())
        assert piece not in stored, "a piece a second time"
        self.feed(PieceArrived(peer, file_id, piece))
        if parent is not None and parent[0] not in stored:
            assert self.has_lost, "a piece that cannot be verified yet"
            self.feed(PieceDropped(file_id, piece))
        elif is_wrong:
            self.feed(PieceRejected(peer, file_id, piece))
        else:
            stored.add(piece)
            self.feed(PieceStored(file_id, piece))


class SwarmNet:
    """Nodes and links between them."""

    def __init__(self, seed: int, *, latency: float = 0.005, frame_jitter: float = 0.0) -> None:
        self.frame_jitter = frame_jitter  # up to so many latencies more: pieces overtake frames
        self._last_frame: dict[tuple[DeviceId, DeviceId], float] = {}
        self.rng = Random(seed)
        self.now = 0.0
        self.latency = latency
        self.nodes: dict[DeviceId, SimNode] = {}
        self.shapes: dict[FileId, Shape] = {}
        self.holders: dict[FileId, list[SimNode]] = {}  # what routes lead to
        self.links: dict[tuple[DeviceId, DeviceId], int] = {}
        self._serial = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def add_node(self, *, upload: float = 10e6) -> SimNode:
        peer = peer_id(len(self.nodes) + 1)
        node = self.nodes[peer] = SimNode(self, peer, self.rng.getrandbits(32), upload=upload)
        return node

    def link(self, one: SimNode, other: SimNode) -> None:
        self._serial += 1
        for a, b in ((one, other), (other, one)):
            self.links[a.peer, b.peer] = self._serial
            a.queues[b.peer], a.transit[b.peer] = deque(), deque()
            a.feed(LinkUp(b.peer))

    def unlink(self, one: SimNode, other: SimNode) -> None:
        if self.links.pop((one.peer, other.peer), None) is None:
            return
        del self.links[other.peer, one.peer]
        for a, b in ((one, other), (other, one)):
            del a.queues[b.peer], a.transit[b.peer]
            a.feed(LinkDown(b.peer))

    def tell_routes(self, nodes: Iterable[SimNode] | None = None) -> None:
        """Tell nodes how far they are from holders of the files that they fetch or were asked for."""
        for node in list(self.nodes.values()) if nodes is None else nodes:
            for file_id in self.holders:
                if node.swarm.is_downloading(file_id) or file_id in node.route_wanted:
                    hops = self.hops(node, file_id) if node.believes is None else node.believes
                    if node.told_routes.get(file_id, -1) != hops:
                        node.told_routes[file_id] = hops
                        node.feed(Route(file_id, self.shapes[file_id].size_bytes, hops))
                else:
                    node.told_routes.pop(file_id, None)

    def hops(self, node: SimNode, file_id: FileId) -> int | None:
        reached = {holder.peer for holder in self.holders[file_id]} - {node.peer}
        for hops in range(1, 1 + len(self.nodes)):
            reached |= {b for a, b in self.links if a in reached}
            if node.peer in reached:
                return hops
        return None

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action))

    def post(self, sender: DeviceId, receiver: DeviceId, event: SwarmEvent) -> None:
        generation = self.links.get((sender, receiver))

        def arrive() -> None:
            if self.links.get((sender, receiver)) == generation:
                self.nodes[receiver].feed(event)

        if generation is not None:
            delay = self.latency * (1 + self.frame_jitter * self.rng.random())
            when = max(self.now + delay, self._last_frame.get((sender, receiver), 0.0))  # frames stay in order
            self._last_frame[sender, receiver] = when
            self.at(when, arrive)

    def deliver(self, sender: DeviceId, receiver: DeviceId, file_id: FileId, piece: int) -> None:
        generation = self.links.get((sender, receiver))
        is_wrong = self.nodes[sender].is_liar

        def arrive() -> None:
            if self.links.get((sender, receiver)) == generation:
                self.nodes[receiver].receive_piece(sender, file_id, piece, is_wrong=is_wrong)

        if generation is not None:
            self.at(self.now + self.latency, arrive)

    def run(self, *, until: Callable[[], bool] = lambda: False, limit: float = 3600.0) -> None:
        """Let things happen until `until` holds, nothing is left to happen, or the time is up."""
        while self._heap and not until():
            if self._heap[0][0] > limit:
                return
            when, _, action = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            action()
