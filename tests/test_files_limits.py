"""Limits of whole FileManagers: bytes a second up and down, downloads at once, and what goes first."""

from pathlib import Path

import pytest
import trio
from file_overlay import Overlay, files_of, hearing, until, write_file
from trio.testing import MockClock

from poolnet.events import DownloadComplete
from poolnet.file_manager import FileManager
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, KIB, MAX_QUEUED_CHUNKS, MIB
from poolnet.testing.chunk_links import FileNode, Uplink

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


async def offers(pool: Overlay, device: FileNode, size: int, count: int) -> list[FileId]:
    """Let a device offer different files of one size."""
    files = [write_file(pool.tmp_path / f"{number}.bin", size, number) for number in range(count)]
    return [(await files_of(device).offer(path)).file_id for path in files]


async def rate(device: FileNode, seconds: float) -> float:
    """Return how many bytes a second come to a device, in the seconds that follow."""
    before = files_of(device).statistics().exchange.bytes_in
    await trio.sleep(seconds)
    return (files_of(device).statistics().exchange.bytes_in - before) / seconds


# --- rates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [100 * KIB, MIB, 20 * MIB])
async def test_what_goes_out_is_limited_over_all_links_together(
    pool: Overlay, jumping_clock: MockClock, limit: int
) -> None:
    size = max(8 * MIB, 2 * limit)
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c, pool.linked(a, b), pool.linked(a, c):
        files_of(a).set_limits(up=limit)
        ids = await offers(pool, a, size, 2)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for device, number, file_id in ((b, 2, ids[0]), (c, 3, ids[1])):
                nursery.start_soon(files_of(device).download, file_id, pool.home(number))
        assert trio.current_time() - began == pytest.approx(2 * size / limit, rel=0.1)
        assert a.uplink.sent_bytes < 2.1 * size, "waiting is no reason to send something again"


@pytest.mark.parametrize("limit", [100 * KIB, MIB, 20 * MIB])
async def test_what_comes_in_is_limited_over_all_links_together(
    pool: Overlay, jumping_clock: MockClock, limit: int
) -> None:
    size = max(16 * MIB, 4 * limit)
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c, pool.linked(a, c), pool.linked(b, c):
        (file_id,) = await offers(pool, a, size, 1)
        await files_of(b).offer(pool.tmp_path / "0.bin")
        files_of(c).set_limits(down=limit)
        began = trio.current_time()
        await files_of(c).download(file_id, pool.home(3))
        unpaid = 2 * MAX_QUEUED_CHUNKS * CHUNK_SIZE  # what came last over each link is waited for after it was stored
        assert size - unpaid <= (trio.current_time() - began) * limit <= 1.1 * size
        # Where a piece takes half of `PROMISE_TIMEOUT_S`, two that wait for each other make a third look lost.
        assert a.uplink.sent_bytes + b.uplink.sent_bytes < (1.1 if limit >= MIB else 1.3) * size


@pytest.mark.parametrize("side", ["up", "down"])
async def test_a_limit_that_changes_in_the_middle_holds_once_what_was_under_way_has_come(
    pool: Overlay, jumping_clock: MockClock, side: str
) -> None:
    async with pool.device(1, uplink=Uplink(8 * MIB)) as a, pool.device(2) as b, pool.linked(a, b), hearing(b) as heard:
        limited = files_of(a if side == "up" else b)
        (file_id,) = await offers(pool, a, 64 * MIB, 1)
        await files_of(b).start_download(file_id, pool.home(2))
        await trio.sleep(0.5)
        for limit, expected in ((MIB, MIB), (3 * MIB, 3 * MIB), (200 * KIB, 200 * KIB), (None, 8 * MIB)):
            limited.set_limits(up=limit if side == "up" else None, down=limit if side == "down" else None)
            await trio.sleep(6 if limit else 1)  # what is under way already still comes
            assert await rate(b, 10 if expected < MIB else 2) == pytest.approx(expected, rel=0.15), limit
        await heard.first(DownloadComplete)


async def test_what_is_relayed_counts_as_well(pool: Overlay, jumping_clock: MockClock) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.chain(a, relay, b),
    ):
        files_of(relay).set_limits(up=MIB)
        (file_id,) = await offers(pool, a, 8 * MIB, 1)
        began = trio.current_time()
        await files_of(b).download(file_id, pool.home(3))
        assert trio.current_time() - began == pytest.approx(8, rel=0.1)
        assert a.uplink.sent_bytes < 8.5 * MIB


async def test_frames_do_not_wait_for_a_limit(pool: Overlay, jumping_clock: MockClock) -> None:
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        files_of(a).set_limits(up=64 * KIB)
        files_of(b).set_limits(down=64 * KIB)
        ids = await offers(pool, a, 4 * MIB, 2)
        await files_of(b).start_download(ids[0], pool.home(2))
        await trio.sleep(20)
        began = trio.current_time()
        await files_of(b).start_download(ids[1], pool.home(2))
        await until(lambda: files_of(b).downloads()[1].sources == 1)
        assert trio.current_time() - began < 0.1
        await trio.sleep(20)
        began = trio.current_time()
        await files_of(a).retract(ids[0])
        await until(lambda: files_of(b).downloads()[0].state == "failed")
        assert trio.current_time() - began < 0.1


# --- how many at once, and what first ----------------------------------------------------------------------------


def running(files: FileManager) -> list[str]:
    return [info.name for info in files.downloads() if info.state == "running"]


async def test_no_more_run_at_once_than_may_and_all_are_served_in_the_end(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        files.set_limits(concurrent=2)
        ids = await offers(pool, a, MIB, 6)
        for file_id in ids:
            await files.start_download(file_id, pool.home(2))
        most = 0
        while any(info.state != "complete" for info in files.downloads()):
            most = max(most, len(running(files)))
            assert len(running(files)) <= 2
            await trio.sleep(0.01)
        assert most == 2
        assert trio.current_time() < 5, "and the line was not idle"


async def test_what_has_priority_is_here_first_and_equals_go_by_age(pool: Overlay, jumping_clock: MockClock) -> None:
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b, hearing(b) as heard, pool.linked(a, b):
        files = files_of(b)
        files.set_limits(concurrent=1)
        ids = await offers(pool, a, MIB, 6)
        for file_id, priority in zip(ids, [0, 0, 5, -1, 5, 0], strict=True):
            await files.start_download(file_id, pool.home(2), priority=priority)
        files.prioritise(ids[5], 9)
        await until(lambda: len(heard.all_of(DownloadComplete)) == 6)
        order = [event.path.stem for event in heard.all_of(DownloadComplete)]
        assert order == ["0", "5", "2", "4", "1", "3"]


async def test_of_those_that_run_at_once_the_urgent_one_gets_the_line(pool: Overlay, jumping_clock: MockClock) -> None:
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        ids = await offers(pool, a, 8 * MIB, 3)
        for file_id in ids:
            await files.start_download(file_id, pool.home(2))
        await trio.sleep(1)
        files.prioritise(ids[2], 7)
        await until(lambda: files.downloads()[2].state == "complete")
        assert trio.current_time() < 4
        done = {info.name: info.done_bytes for info in files.downloads()}
        assert done["0.bin"] + done["1.bin"] < 6 * MIB
        await until(lambda: all(info.state == "complete" for info in files.downloads()))
