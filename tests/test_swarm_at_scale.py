"""Many receivers with uplinks of limited bandwidth: a file for everyone takes, and costs anybody, about one upload.

Time is counted in *uploads*: how long one uplink needs for the whole file. Nobody can be done before one upload, so
what is above that is the way through the overlay, idle uplinks and what was sent for nothing.
"""

from collections.abc import Collection, Iterable, Sequence
from random import Random

import pytest
from swarm_net import FILE, SimNode, SwarmNet

from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.rings import Roster, draw_places
from poolnet.protocol.swarm import Download, Serve
from poolnet.wire.sync_frames import RosterEntry

CHUNKS = 200
UPLINK = 10e6  # bytes a second: a chunk takes 26 ms, a link along the rings gets one in 160 ms
SHAPE = TreeShape(CHUNKS * CHUNK_SIZE)
UPLOAD_S = SHAPE.size_bytes / UPLINK


class Crowd:
    """A seeder, and receivers that all want its file at the same moment. Nothing is linked yet."""

    def __init__(self, count: int, *, seed: int, slow: int = 0) -> None:
        self.net = SwarmNet(seed, frame_jitter=0.5)
        self.net.shapes[FILE] = SHAPE
        fast = [self.net.add_node(upload=UPLINK) for _ in range(count - slow)]
        self.slow = [self.net.add_node(upload=UPLINK / 10) for _ in range(slow)]
        self.nodes = [*fast, *self.slow]
        self.seeder, *self.receivers = self.nodes
        self.rng = Random(seed)
        self.roster = Roster()

    def link_all(self) -> None:
        for index, node in enumerate(self.nodes):
            for other in self.nodes[:index]:
                self.net.link(node, other)

    def link_along_rings(self) -> None:
        self.roster.reset(0, [RosterEntry(node=node.peer, places=draw_places(self.rng)) for node in self.nodes])
        self._close_gaps()

    def leave(self, leavers: Collection[SimNode]) -> None:
        """These go without a word; the rings close over them."""
        for node in leavers:
            self.roster.apply_left(self.roster.epoch + 1, node.peer)
            for other in self.nodes:
                self.net.unlink(node, other)
        self._close_gaps()

    def distribute(self, waited_for: Sequence[SimNode] | None = None) -> None:
        """Run until those waited for (None: every receiver) have the file."""
        waiting = list(self.receivers if waited_for is None else waited_for)
        self.seeder.feed(Serve(FILE, SHAPE.size_bytes, ((0, SHAPE.piece_count),)))
        for node in self.receivers:
            node.feed(Download(FILE, SHAPE.size_bytes))

        def is_over() -> bool:
            while waiting and FILE in waiting[-1].completed:
                waiting.pop()
            return not waiting

        self.net.run(until=is_over, limit=10 * UPLOAD_S)

    def _close_gaps(self) -> None:
        for entry in self.roster.entries():
            for peer in sorted(self.roster.neighbours(entry.node)):
                if (entry.node, peer) not in self.net.links:
                    self.net.link(self.net.nodes[entry.node], self.net.nodes[peer])


def last_finish(nodes: Iterable[SimNode]) -> float:
    """Return after how many uploads the last of these had the file."""
    return max(node.completed[FILE] for node in nodes) / UPLOAD_S


def files_sent(node: SimNode) -> float:
    """Return how many times a node sent the file."""
    return sum(node.sent.values()) / SHAPE.piece_count


@pytest.mark.parametrize(("count", "seed"), [(27, 1), (27, 2), (27, 3), (81, 1), (243, 1)])
def test_along_three_rings_a_file_for_all_takes_and_costs_anybody_at_most_a_quarter_more_than_one_upload(
    count: int, seed: int
) -> None:
    crowd = Crowd(count, seed=seed)
    crowd.link_along_rings()
    crowd.distribute()
    busiest = max(files_sent(node) for node in crowd.nodes)
    print(f"\n{count} nodes: {last_finish(crowd.receivers):.3f} uploads, busiest uplink {busiest:.3f} files")
    assert last_finish(crowd.receivers) <= 1.25
    assert busiest <= 1.25
    assert sum(node.wasted for node in crowd.nodes) <= count


def test_when_a_fifth_leaves_half_way_the_rest_finishes_hardly_later() -> None:
    crowd = Crowd(81, seed=1)
    crowd.link_along_rings()
    leavers = crowd.rng.sample(crowd.receivers, 16)
    crowd.net.at(UPLOAD_S / 2, lambda: crowd.leave(leavers))
    stayers = [node for node in crowd.receivers if node not in leavers]
    crowd.distribute(stayers)
    print(f"\n65 of 81 nodes: {last_finish(stayers):.3f} uploads, seeder sent {files_sent(crowd.seeder):.3f} files")
    assert not any(FILE in node.completed for node in leavers)
    assert last_finish(stayers) <= 1.3
    assert files_sent(crowd.seeder) <= 1.25


def test_one_to_eight_in_a_mesh_costs_little_more_than_one_upload() -> None:
    crowd = Crowd(9, seed=1)
    crowd.link_all()
    crowd.distribute()
    print(f"\nmesh: {last_finish(crowd.receivers):.3f} uploads, seeder sent {files_sent(crowd.seeder):.3f} files")
    assert last_finish(crowd.receivers) <= 1.3
    assert files_sent(crowd.seeder) <= 1.2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_slow_receivers_of_eight_do_not_hold_up_the_others(seed: int) -> None:
    crowd = Crowd(9, seed=seed, slow=2)
    crowd.link_all()
    crowd.distribute()
    fast = [node for node in crowd.receivers if node not in crowd.slow]
    print(f"\nmesh, two slow: {last_finish(fast):.3f} uploads, seeder sent {files_sent(crowd.seeder):.3f} files")
    assert last_finish(fast) <= 1.6
    assert last_finish(crowd.slow) <= 1.6
    assert files_sent(crowd.seeder) <= 1.6
