"""Simulated disks: what a power cut leaves, what a full or broken disk does to a node, and that it recovers."""

import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolnet.errors import DiskFull, StoreError
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.testing import PathConditions, SimNetwork, SimNode, SimPool
from poolnet.testing.sim_disk import WRITE_BACK_S, SimDisk

MIB = 2**20
PATHS = PathConditions(latency_s=0.02, jitter_s=0.02, loss=0.02, bandwidth_bytes_per_s=10e6)

# --- the disk ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(["write", "sync", "wait", "cut"]), max_size=40))
def test_a_power_cut_leaves_what_was_synced_and_a_beginning_of_what_came_after(seed: int, steps: list[str]) -> None:
    network = SimNetwork(seed)
    disk = SimDisk(network, "d")
    written: list[int] = []
    durable = 0

    def synced(count: int, is_durable: bool) -> None:
        nonlocal durable
        assert is_durable
        durable = max(durable, count)

    for number, step in enumerate(steps):
        if step == "write":
            disk.append(number, 10)
            written.append(number)
        elif step == "sync":
            disk.sync(partial(synced, len(written)))
        elif step == "wait":
            network.run_for(0.02)
        else:
            disk.crash()
            left = list(disk.records())
            assert left == written[: len(left)]
            assert len(left) >= durable
            written = left
    assert disk.records() == written
    assert disk.used_bytes == 10 * len(written)


def test_what_is_old_is_written_without_a_sync() -> None:
    network = SimNetwork(1)
    disk = SimDisk(network, "d")
    disk.append("old", 1)
    network.run_for(WRITE_BACK_S + 1)
    for number in range(100):
        disk.append(number, 1)
    disk.crash()
    assert "old" in disk.records()
    assert disk.lost > 0


def test_a_sync_that_failed_is_followed_by_no_other_until_the_store_is_opened_again() -> None:
    network = SimNetwork(1)
    disk = SimDisk(network, "d")
    told: list[bool] = []
    disk.append("a", 1)
    disk.fail(syncs=1)
    disk.sync(told.append)
    network.run_for(1.0)
    disk.sync(told.append)
    network.run_for(1.0)
    assert told == [False, False]
    with pytest.raises(StoreError):
        disk.check_sync()
    disk.reopen()
    disk.sync(told.append)
    network.run_for(1.0)
    assert told[-1]


def test_a_full_disk_takes_what_fits_and_a_failing_one_nothing() -> None:
    disk = SimDisk(SimNetwork(1), "d")
    disk.fill(free_bytes=10)
    disk.append("fits", 10)
    with pytest.raises(DiskFull):
        disk.append("does not", 1)
    disk.free()
    disk.fail(writes=2)
    for _ in range(2):
        with pytest.raises(StoreError):
            disk.append("refused", 1)
    disk.append("taken", 1)
    assert disk.records() == ["fits", "taken"]
    assert disk.failed_writes == 3


# --- nodes with such disks --------------------------------------------------------------------------------------


def settled_pool(seed: int, count: int = 8) -> SimPool:
    pool = SimPool(seed, count, conditions=PATHS)
    pool.run_for(20.0)
    return pool


def crashed_pool(seed: int) -> tuple[SimPool, SimNode]:
    """Return a pool that has talked, with one node that has just lost power, and heard a lot before."""
    pool = settled_pool(seed)
    victim, others = pool.nodes[seed % 8], [node for node in pool.nodes if node is not pool.nodes[seed % 8]]
    for number in range(40):
        pool.publish(pool.nodes[number % 8] if number < 20 else others[number % 7], b"%d" % number)
        pool.run_for(0.05)
    last = pool.publish(victim, b"just before the power cut")
    victim.crash()
    assert last not in victim.acknowledged
    assert len(victim.acknowledged) >= 2
    assert victim.acknowledged <= victim.history.keys()
    return pool, victim


def test_power_cuts_lose_nothing_acknowledged_and_the_rest_comes_back() -> None:
    lost = 0
    for seed in range(8):
        pool, victim = crashed_pool(seed)
        lost += victim.disk.lost
        pool.run_for(2.0)
        victim.join()
        assert pool.time_to_agree(pool.nodes, 120.0) <= 120.0, f"seed {seed}"
        assert pool.missed(pool.nodes) == [], f"seed {seed}"
        assert all(node.acknowledged <= node.history.keys() for node in pool.nodes)
    assert lost > 8  # it was not all there anyway


def test_on_a_full_disk_nothing_is_said_and_what_others_say_comes_when_there_is_room() -> None:
    pool = settled_pool(1)
    full = pool.nodes[3]
    full.disk.fill()
    with pytest.raises(DiskFull):
        pool.publish(full, b"lost")
    said = [pool.publish(pool.nodes[0], b"%d" % number) for number in range(20)]
    pool.run_for(30.0)
    assert not full.history.keys() & set(said)
    assert full.memory_items()["unsaved"] == 20
    assert pool.missed([node for node in pool.nodes if node is not full]) == []
    full.disk.free()
    pool.run_for(10.0)
    assert set(said) <= full.history.keys()
    assert pool.agree(pool.nodes)
    assert full.memory_items()["unsaved"] == 0


def test_what_a_full_disk_did_not_take_before_a_node_left_comes_again_when_it_returns() -> None:
    """Found by `storm`, seed 21: it waited in the store for a write, and counted as being on its way."""
    pool = settled_pool(1)
    full = pool.nodes[3]
    full.disk.fill()
    said = [pool.publish(pool.nodes[0], b"%d" % number) for number in range(9)]
    pool.run_for(5.0)
    full.leave()
    full.disk.free()
    full.join()
    assert full.memory_items()["unsaved"] == 0
    assert pool.time_to_agree(pool.nodes, 30.0) <= 30.0
    assert set(said) <= full.history.keys()


def test_a_node_whose_disk_takes_nothing_holds_its_links_back_and_keeps_little() -> None:
    pool = settled_pool(2, 6)
    broken = pool.nodes[2]
    broken.disk.fail(writes=math.inf)
    for number in range(600):
        pool.publish(pool.nodes[number % 2], b"%d" % number)
        pool.run_for(0.05)
    pool.run_for(2.0)
    sizes = broken.memory_items()
    assert MAX_QUEUED_FRAMES <= sizes["unsaved"] <= MAX_QUEUED_FRAMES + 128
    assert sizes["held_back"] <= 6 * (MAX_QUEUED_FRAMES + 1)
    assert pool.missed([node for node in pool.nodes if node is not broken]) == []
    broken.disk.mend()
    assert pool.time_to_agree(pool.nodes, 120.0) <= 120.0
    assert not any(node.misbehaviour for node in pool.nodes)


def test_after_a_failed_sync_nothing_is_acknowledged_or_said_until_the_node_starts_again() -> None:
    pool = settled_pool(3)
    node = pool.nodes[1]
    node.disk.fail(syncs=1)
    doubtful = pool.publish(node, b"is it safe?")
    pool.run_for(1.0)
    assert doubtful not in node.acknowledged
    with pytest.raises(StoreError):
        pool.publish(node, b"no more")
    node.leave()
    pool.run_for(1.0)
    node.join()
    pool.run_for(20.0)
    certain = pool.publish(node, b"now it is")
    pool.run_for(5.0)
    assert certain in node.acknowledged
    assert pool.agree(pool.nodes)


# --- files on such disks ----------------------------------------------------------------------------------------


def test_a_download_waits_for_room_and_then_goes_on() -> None:
    pool = settled_pool(4)
    file_id = pool.offer(pool.nodes[0], 8 * MIB)
    node = pool.nodes[5]
    node.disk.fill(free_bytes=3 * MIB)
    node.fetch(file_id)
    pool.run_for(20.0)
    assert file_id not in node.completed
    assert 2 * MIB < node.disk.used_bytes < 4 * MIB
    node.disk.free()
    pool.run_for(20.0)
    assert file_id in node.completed


@pytest.mark.parametrize("seed", range(6))
def test_a_download_goes_on_after_a_power_cut_with_what_is_left_of_it(seed: int) -> None:
    pool = settled_pool(seed)
    file_id = pool.offer(pool.nodes[0], 16 * MIB)
    pool.run_for(1.0)
    node = pool.nodes[4]
    node.fetch(file_id)
    for _ in range(3):
        pool.run_for(0.3)
        node.crash()
        pool.run_for(1.0)
        if file_id not in node.wanted:  # that it is wanted was not synced
            node.fetch(file_id)
        node.join()
        pool.run_for(8.0)
    pool.run_for(30.0)
    assert file_id in node.completed
    assert len(node.store.pieces[file_id]) == 65
    assert not any(other.misbehaviour for other in pool.nodes)
