"""Whole swarms in a small simulated network: everything arrives, once, from the right places, whatever happens."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_net import FILE, SimNode, SwarmNet

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, END_GAME_PIECES, TREE_FAN_OUT
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.swarm import CancelDownload, Download, Serve
from poolnet.ranges import Ranges, RangeSet

OTHER_FILE = FileId(b"O" * 32)


def make_file(net: SwarmNet, chunks: int, file_id: FileId = FILE) -> TreeShape:
    shape = net.shapes[file_id] = TreeShape(chunks * CHUNK_SIZE - 100)
    return shape


def serve(node: SimNode, held: Ranges | None = None, file_id: FileId = FILE) -> None:
    shape = node.net.shapes[file_id]
    node.feed(Serve(file_id, shape.size_bytes, ((0, shape.piece_count),) if held is None else held))


def download(node: SimNode, held: Ranges = (), file_id: FileId = FILE) -> None:
    node.stored.setdefault(file_id, set()).update(RangeSet(held))
    node.feed(Download(file_id, node.net.shapes[file_id].size_bytes, held))


def mesh(net: SwarmNet, nodes: Sequence[SimNode]) -> None:
    for index, node in enumerate(nodes):
        for other in nodes[:index]:
            net.link(node, other)


def all_complete(nodes: Sequence[SimNode], file_id: FileId = FILE) -> bool:
    return all(file_id in node.completed for node in nodes)


def uploads(node: SimNode) -> float:
    """How many times a node sent the file."""
    return sum(node.sent.values()) / node.net.shapes[FILE].piece_count


@pytest.mark.parametrize("chunks", [1, 2, 30, TREE_FAN_OUT + 1])
def test_one_fetches_from_one_every_piece_exactly_once_and_then_all_is_quiet(chunks: int) -> None:
    net = SwarmNet(1)
    shape, seeder, receiver = make_file(net, chunks), net.add_node(), net.add_node()
    net.link(seeder, receiver)
    serve(seeder)
    download(receiver)
    net.run()
    assert all_complete([receiver])
    assert sorted(seeder.sent.values()) == [1] * shape.piece_count
    assert receiver.swarm.next_deadline() is None
    assert seeder.swarm.next_deadline() is None
    assert receiver.completed[FILE] < 1.1 * shape.size_bytes / seeder.upload + 1


@pytest.mark.parametrize(
    ("chunks", "seeder_upload", "receiver_upload", "latency", "most"),
    [
        (200, 10e6, 10e6, 0.005, 1.1),
        (200, 200e6, 200e6, 0.0005, 1.1),
        (200, 200e6, 50e6, 0.0005, 1.1),
        (100, 1e6, 1e6, 0.1, 1.3),
        (60, 125e3, 125e3, 0.03, 1.5),  # a chunk takes two seconds, and many a last piece is asked for twice
    ],
)
def test_one_to_four_at_once_costs_the_seeder_about_one_upload(
    chunks: int, seeder_upload: float, receiver_upload: float, latency: float, most: float
) -> None:
    net = SwarmNet(1, latency=latency, frame_jitter=0.5)
    shape, seeder = make_file(net, chunks), net.add_node(upload=seeder_upload)
    receivers = [net.add_node(upload=receiver_upload) for _ in range(4)]
    mesh(net, [seeder, *receivers])
    serve(seeder)
    for receiver in receivers:
        download(receiver)
    net.run(until=lambda: all_complete(receivers))
    assert all_complete(receivers)
    in_all = 4 * shape.size_bytes
    ideal_s = max(shape.size_bytes / seeder_upload, in_all / (seeder_upload + 4 * receiver_upload))
    print(f"\n{chunks} chunks: seeder sent {uploads(seeder):.3f} files, {net.now / ideal_s:.2f} of the ideal time")
    assert uploads(seeder) < most
    assert sum(receiver.wasted for receiver in receivers) <= 4 * END_GAME_PIECES
    assert net.now < 2 * ideal_s + 2


def test_receivers_that_are_not_linked_to_each_other_get_everything_from_the_seeder() -> None:
    net = SwarmNet(2)
    make_file(net, 40)
    seeder, *receivers = (net.add_node() for _ in range(4))
    serve(seeder)
    for receiver in receivers:
        net.link(seeder, receiver)
        download(receiver)
    net.run(until=lambda: all_complete(receivers))
    assert all_complete(receivers)
    assert uploads(seeder) == 3


def test_a_chain_passes_a_file_on_while_it_comes() -> None:
    net = SwarmNet(3)
    shape, nodes = make_file(net, 100), [net.add_node() for _ in range(5)]
    for left, right in pairwise(nodes):
        net.link(left, right)
    serve(nodes[0])
    for node in nodes[1:]:
        download(node)
    net.run(until=lambda: all_complete(nodes[1:]))
    assert all_complete(nodes[1:])
    assert net.now < 2 * shape.size_bytes / nodes[0].upload


def test_partial_holders_complete_each_other_without_anyone_who_has_it_all() -> None:
    net = SwarmNet(4)
    shape = make_file(net, 50)
    one, other = net.add_node(), net.add_node()
    download(one, ((0, 25),))
    download(other, ((0, 1), (25, shape.piece_count)))
    net.link(one, other)
    net.run()
    assert all_complete([one, other])
    assert sum(one.sent.values()) + sum(other.sent.values()) == 50


def test_several_sources_share_the_work() -> None:
    net = SwarmNet(5)
    shape = make_file(net, 200)
    receiver, *seeders = (net.add_node() for _ in range(5))
    mesh(net, [receiver, *seeders])
    for seeder in seeders:
        serve(seeder)
    download(receiver)
    net.run()
    assert all_complete([receiver])
    assert all(sum(seeder.sent.values()) > 30 for seeder in seeders)
    assert receiver.completed[FILE] < 1.5 * shape.size_bytes / 40e6


def test_a_faster_source_gives_more() -> None:
    net = SwarmNet(6)
    make_file(net, 200)
    receiver, slow, fast = net.add_node(), net.add_node(upload=1e6), net.add_node(upload=10e6)
    mesh(net, [receiver, slow, fast])
    serve(slow)
    serve(fast)
    download(receiver)
    net.run()
    assert all_complete([receiver])
    assert sum(fast.sent.values()) > 4 * sum(slow.sent.values())


def test_a_liar_is_found_out_and_the_file_comes_from_others() -> None:
    net = SwarmNet(7)
    make_file(net, 100)
    receiver, liar, seeder = (net.add_node() for _ in range(3))
    liar.is_liar = True
    mesh(net, [receiver, liar, seeder])
    serve(liar)
    serve(seeder)
    download(receiver, ((0, 1),))
    net.run()
    assert all_complete([receiver])
    assert {effect.peer for effect in receiver.misbehaved} == {liar.peer}
    assert receiver.swarm.statistics().pieces_rejected == 1


def test_promises_that_are_not_kept_only_cost_time() -> None:
    net = SwarmNet(8)
    make_file(net, 100)
    receiver, deaf, seeder = (net.add_node() for _ in range(3))
    deaf.is_deaf = True
    mesh(net, [receiver, deaf, seeder])
    serve(deaf, ((0, 60),))  # preferred, because it does not have all
    serve(seeder)
    download(receiver)
    net.run(until=lambda: all_complete([receiver]), limit=200)
    assert all_complete([receiver])
    assert net.now < 60
    assert receiver.swarm.statistics().promises_dropped > 0


def test_partial_holders_with_slow_uplinks_do_not_hold_up_a_fast_seeder_for_ever() -> None:
    net = SwarmNet(9, latency=0.02)
    shape, seeder = make_file(net, 100), net.add_node(upload=10e6)
    receivers = [net.add_node(upload=0.1e6) for _ in range(3)]
    mesh(net, [seeder, *receivers])
    serve(seeder)
    for receiver in receivers:
        download(receiver)
    net.run(until=lambda: all_complete(receivers), limit=1000)
    assert all_complete(receivers)
    without_help_s = 2 * shape.size_bytes / (3 * 0.1e6)
    assert net.now < without_help_s / 5


def test_a_download_survives_the_loss_of_its_seeder_if_another_comes() -> None:
    net = SwarmNet(10)
    make_file(net, 100)
    receiver, first, second = (net.add_node() for _ in range(3))
    net.link(receiver, first)
    serve(first)
    serve(second)
    download(receiver)
    net.at(1.0, lambda: net.unlink(receiver, first))
    net.at(5.0, lambda: net.link(receiver, second))
    net.run()
    assert all_complete([receiver])
    assert [effect.count for effect in receiver.sources] == [1, 0, 1]
    assert sum(second.sent.values()) < 80


def test_a_resumed_download_asks_only_for_what_is_missing() -> None:
    net = SwarmNet(11)
    shape = make_file(net, 100)
    receiver, seeder = net.add_node(), net.add_node()
    serve(seeder)
    download(receiver, ((0, 51), (60, 70)))
    net.link(receiver, seeder)
    net.run()
    assert all_complete([receiver])
    assert {piece for _, piece in seeder.sent} == {*range(51, 60), *range(70, shape.piece_count)}


def test_two_files_at_once_share_a_link() -> None:
    net = SwarmNet(12)
    make_file(net, 50)
    make_file(net, 50, OTHER_FILE)
    receiver, seeder = net.add_node(), net.add_node()
    net.link(receiver, seeder)
    for file_id in (FILE, OTHER_FILE):
        serve(seeder, file_id=file_id)
        download(receiver, file_id=file_id)
    net.run()
    assert receiver.completed[FILE] == pytest.approx(receiver.completed[OTHER_FILE], rel=0.2)


def test_a_cancelled_download_stops_the_seeder() -> None:
    net = SwarmNet(13)
    make_file(net, 100)
    receiver, seeder = net.add_node(), net.add_node(upload=1e6)
    net.link(receiver, seeder)
    serve(seeder)
    download(receiver)
    net.at(5.0, lambda: receiver.feed(CancelDownload(FILE)))
    net.run()
    assert FILE not in receiver.completed
    assert sum(seeder.sent.values()) < 40
    assert seeder.swarm.next_deadline() is None


def run_trouble(seed: int, *, chunks: int = 30) -> tuple[SwarmNet, list[SimNode]]:
    """Six nodes, two of which have the file; links break, somebody lies, somebody loses pieces; then all is mended."""
    rng = Random(seed)
    net = SwarmNet(seed, latency=0.01, frame_jitter=3.0)
    shape = make_file(net, chunks)
    nodes = [net.add_node(upload=rng.choice([0.3e6, 1e6, 10e6])) for _ in range(6)]
    nodes[5].is_liar = rng.random() < 0.5
    nodes[4].is_deaf = rng.random() < 0.5
    serve(nodes[0])
    serve(nodes[5])
    for node in nodes[1:5]:
        net.at(3 * rng.random(), lambda node=node: download(node))

    def disturb() -> None:
        one, other = rng.sample(nodes, 2)
        if (one.peer, other.peer) in net.links:
            net.unlink(one, other)
        else:
            net.link(one, other)
        victim = rng.choice(nodes[1:4])
        stored = victim.stored.get(FILE, set())
        if stored and rng.random() < 0.1 and FILE not in victim.completed:
            victim.lose(FILE, rng.choice(sorted(stored)))

    def mend() -> None:
        for index, node in enumerate(nodes):
            for other in nodes[:index]:
                if (node.peer, other.peer) not in net.links:
                    net.link(node, other)

    mesh(net, nodes)
    for _ in range(40):
        net.at(20 * rng.random(), disturb)
    net.at(20.0, mend)
    net.run(until=lambda: net.now > 20 and all_complete(nodes[1:5]), limit=2000)
    for node in nodes[1:5]:
        assert node.stored[FILE] == set(range(shape.piece_count))
        assert {effect.peer for effect in node.misbehaved} <= {nodes[5].peer}
    return net, nodes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_breaks_everyone_gets_every_piece_once(seed: int) -> None:
    net, nodes = run_trouble(seed)
    assert all_complete(nodes[1:5])
    net.run(limit=net.now + 200)
    assert all(node.swarm.next_deadline() is None for node in nodes)


def test_the_same_seed_gives_the_same_course() -> None:
    first, second = (run_trouble(77) for _ in range(2))
    assert first[0].now == second[0].now
    assert [node.sent for node in first[1]] == [node.sent for node in second[1]]
