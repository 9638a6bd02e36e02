"""Downloads in the background: their queue, and what pausing, cancelling, restarts and full disks do to them."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from small_disks import SmallDisk, can_mount, small_disk
from test_file_manager import SIZE, Pool, files_of, next_event, write_file

from poolnet.clock import Hlc
from poolnet.errors import DownloadCancelled, LocalError, OutputExists, UnknownFile
from poolnet.events import (
    DownloadComplete,
    DownloadFailed,
    DownloadPaused,
    DownloadProgress,
    DownloadResumed,
    FileOffered,
    SourceLost,
)
from poolnet.file_manager import FileManager
from poolnet.files.download_history import DownloadHistory
from poolnet.files.offer_book import OfferBook, offer_of
from poolnet.ids import DeviceId, FileId
from poolnet.limits import CHUNK_SIZE, MAX_DOWNLOAD_HISTORY, MIB
from poolnet.storage.file_table import DownloadRecord, FileTable, LocalFile, PartRecord
from poolnet.testing.chunk_links import FileNode, Uplink, linked
from poolnet.wire.bodies import FolderBody, MediaBody, OfferBody, RetractOfferBody, StreamBody

needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
SOMEBODY = DeviceId(bytes([77]) * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "8m") as disk:
        yield disk


@contextlib.asynccontextmanager
async def reopened(pool: Pool, number: int, *offers: OfferBody) -> AsyncIterator[FileNode]:
    """A device that is opened again and hears of offers of somebody."""
    async with pool.device(number) as device:
        for offer in offers:
            files_of(device).learned_offer(SOMEBODY, offer, Hlc(1))
        await files_of(device).settle()
        yield device


def states_of(files: FileManager) -> list[tuple[str, str]]:
    return [(info.name, info.state) for info in files.downloads()]


def offer_nothing(files: FileManager, *names: str) -> list[FileId]:
    """Tell of files that nobody has."""
    ids = [FileId(bytes([number + 1]) * 32) for number in range(len(names))]
    for file_id, name in zip(ids, names, strict=True):
        files.learned_offer(SOMEBODY, OfferBody(file_id=file_id, name=name, size=SIZE), Hlc(1))
    return ids


async def until_begun(files: FileManager, file_id: FileId) -> None:
    with trio.fail_after(30):
        while not any(info.file_id == file_id and info.state == "running" for info in files.downloads()):
            await trio.lowlevel.checkpoint()


# --- the background ---------------------------------------------------------------------------------------------


async def test_a_download_in_the_background_completes_and_is_remembered(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b), files_of(b).subscribe() as events:
        offer = await files_of(a).offer(source)
        info = await files_of(b).start_download(offer.file_id, pool.home(2), priority=3)
        assert (info.name, info.path, info.priority, info.ended_ms) == ("a.bin", pool.home(2) / "a.bin", 3, None)
        await next_event(events, DownloadComplete)
        while files_of(b).downloads()[0].state != "complete":
            await trio.lowlevel.checkpoint()
        (ended,) = files_of(b).downloads()
        assert (ended.done_bytes, ended.size_bytes, ended.reason, ended.code) == (SIZE, SIZE, "", "")
        assert ended.ended_ms is not None
        assert ended.ended_ms >= ended.started_ms
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()
    async with pool.device(2) as b:
        assert files_of(b).downloads() == [ended]
        await files_of(b).forget_downloads()
        assert files_of(b).downloads() == []
    async with pool.device(2) as b:
        assert files_of(b).downloads() == []
        assert files_of(b).find("a.bin").state == "complete"


async def test_a_download_in_the_background_goes_on_after_a_restart(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 8 * MIB)
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        body = OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes)
        async with reopened(pool, 2, body) as b, linked(a, b):
            await files_of(b).start_download(offer.file_id, pool.home(2))
            while files_of(b).find("a.bin").done_bytes < 2 * MIB:
                await trio.lowlevel.checkpoint()
        sent = a.uplink.sent_bytes
        async with pool.device(2) as b, linked(a, b), files_of(b).subscribe() as events:
            files_of(b).learned_offer(a.node, body, Hlc(1))
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert states_of(files_of(b)) == [("a.bin", "queued")], "it waits until all offers are known"
            await files_of(b).settle()
            await next_event(events, DownloadComplete)
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()
        assert a.uplink.sent_bytes - sent < 6.5 * MIB


async def test_a_download_waits_until_somebody_offers_the_file(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        body = OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE)
        async with reopened(pool, 2, body) as b:
            await files_of(b).start_download(offer.file_id, pool.home(2))
        async with reopened(pool, 2) as b, linked(a, b), files_of(b).subscribe() as events:
            (info,) = files_of(b).downloads()
            assert (info.state, info.reason) == ("queued", "nobody offers it at the moment")
            files_of(b).learned_offer(a.node, body, Hlc(1))
            await next_event(events, DownloadComplete)


async def test_a_download_whose_file_was_withdrawn_meanwhile_fails_after_the_restart(pool: Pool) -> None:
    async with reopened(pool, 2) as b:
        (file_id,) = offer_nothing(files_of(b), "a")
        await files_of(b).start_download(file_id, pool.home(2))
    async with pool.device(2) as b:
        files = files_of(b)
        files.learned_offer(SOMEBODY, OfferBody(file_id=file_id, name="a", size=SIZE), Hlc(1))
        files.learned_retraction(SOMEBODY, file_id, Hlc(2))
        assert states_of(files) == [("a", "queued")], "a later message may offer it again"
        await files.settle()
        (info,) = files.downloads()
        assert (info.state, info.code) == ("failed", "unknown_file")


async def test_a_download_that_was_complete_when_the_process_died_is_complete_again(pool: Pool) -> None:
    target = write_file(pool.tmp_path / "copy.bin")
    async with pool.device(1) as a:
        offer = await files_of(a).offer(target)
    pool.home(2).mkdir()
    table = FileTable(pool.home(2) / "manager")
    await table.load()
    record = DownloadRecord(file_id=offer.file_id, name="a", size_bytes=SIZE, target=target, started_ms=5)
    await table.save_queue(lambda: [record])
    body = OfferBody(file_id=offer.file_id, name="a", size=SIZE)
    async with pool.device(2) as b, files_of(b).subscribe() as events:
        files_of(b).learned_offer(SOMEBODY, body, Hlc(1))
        await files_of(b).settle()
        await next_event(events, DownloadComplete)
        assert files_of(b).find("a").local_path == target


async def test_whoever_stops_waiting_does_not_stop_what_runs_in_the_background(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(2))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert states_of(files_of(b)) == [("a.bin", "running")]
        async with linked(a, b):
            path = await files_of(b).download(offer.file_id, pool.home(2) / "another")
            assert path.read_bytes() == source.read_bytes()
            assert [state for _, state in states_of(files_of(b))] == ["complete", "complete"]


async def test_a_download_that_nobody_waits_for_is_gone_and_its_part_is_kept(pool: Pool) -> None:
    async with pool.device(2) as b:
        (file_id,) = offer_nothing(files_of(b), "a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(files_of(b).download, file_id, pool.home(2))
                while not (pool.home(2) / "a.part").exists():
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert files_of(b).downloads() == []
        assert (pool.home(2) / "a.part").exists()
        await files_of(b).cancel(file_id)
        assert not (pool.home(2) / "a.part").exists()
        with pytest.raises(UnknownFile):
            await files_of(b).cancel(file_id)


# --- the queue --------------------------------------------------------------------------------------------------


async def test_so_many_run_at_once_by_priority_and_then_by_age(pool: Pool) -> None:
    async with pool.device(2) as b:
        files = files_of(b)
        files.set_limits(concurrent=1)
        ids = offer_nothing(files, "a", "b", "c", "d")
        for file_id in ids:
            await files.start_download(file_id, pool.home(2))
        await until_begun(files, ids[0])
        assert [state for _, state in states_of(files)] == ["running", "queued", "queued", "queued"]
        assert files.downloads()[1].reason == "it waits for its turn"
        files.prioritise(ids[2], 5)
        await files.cancel(ids[0])
        await until_begun(files, ids[2])
        await files.cancel(ids[2])
        await until_begun(files, ids[1])
        assert states_of(files) == [("a", "failed"), ("b", "running"), ("c", "failed"), ("d", "queued")]
        assert {info.name: info.state for info in files.offers()} == {
            "a": "offered",
            "b": "downloading",
            "c": "offered",
            "d": "queued",
        }
        files.set_limits(concurrent=2)
        await until_begun(files, ids[3])


async def test_one_whose_holder_is_away_does_not_keep_others_waiting(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "here.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        files = files_of(b)
        files.set_limits(concurrent=1)
        (away,) = offer_nothing(files, "away")
        await files.start_download(away, pool.home(2))
        offer = await files_of(a).offer(source)
        began = trio.current_time()
        path = await files.download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()
        assert 5 < trio.current_time() - began < 30
        assert states_of(files) == [("away", "running"), ("here.bin", "complete")]


async def test_one_that_waits_for_another_use_of_its_file_does_not_keep_others_waiting(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "here.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b), trio.open_nursery() as nursery:
        files = files_of(b)
        files.set_limits(concurrent=1)
        (away,) = offer_nothing(files, "away")
        quiet = PartRecord(file_id=away, name="away", size_bytes=0, target=pool.home(2) / "quiet")
        nursery.start_soon(files._files.downloads.fetch, quiet, lambda: [SIZE])
        await trio.sleep(1)
        await files.start_download(away, pool.home(2))
        offer = await files_of(a).offer(source)
        with trio.fail_after(30):
            path = await files.download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()
        assert states_of(files) == [("away", "running"), ("here.bin", "complete")]
        nursery.cancel_scope.cancel()


async def test_folders_whose_lists_do_not_come_do_not_keep_others_waiting(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "here.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        files = files_of(b)
        files.set_limits(concurrent=1)
        ids = [FileId(bytes([number]) * 32) for number in (1, 2)]
        body = FolderBody(file_id=ids[0], list_id=ids[1], name="d", size=100, list_size=50, file_count=1)
        files.learned_offer(SOMEBODY, body, Hlc(1))
        await files.start_download(ids[0], pool.home(2))
        offer = await files_of(a).offer(source)
        began = trio.current_time()
        path = await files.download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()
        assert 5 < trio.current_time() - began < 30


async def test_the_same_file_to_the_same_place_is_one_download(pool: Pool) -> None:
    async with pool.device(2) as b:
        files = files_of(b)
        first, second = offer_nothing(files, "a", "b")
        await files.start_download(first, pool.home(2) / "x")
        info = await files.start_download(first, pool.home(2) / "x", priority=4)
        assert (len(files.downloads()), info.priority) == (1, 4)
        with pytest.raises(OutputExists, match="another download"):
            await files.start_download(second, pool.home(2) / "x")


async def test_what_cannot_be_downloaded_is_refused_at_once(pool: Pool) -> None:
    async with pool.device(2) as b:
        files = files_of(b)
        (file_id,) = offer_nothing(files, "a")
        stream_id = FileId(bytes([9]) * 32)
        files.learned_offer(SOMEBODY, StreamBody(nonce=bytes(16), name="live"), Hlc(1), file_id=stream_id)
        with pytest.raises(LocalError, match="no folder"):
            await files.start_download(file_id, pool.home(2), only=["x"])
        with pytest.raises(LocalError, match="stream"):
            await files.start_download(stream_id, pool.home(2))
        with pytest.raises(UnknownFile):
            await files.start_download(FileId(bytes(32)), pool.home(2))
        for call in (files.pause, files.resume, files.cancel):
            with pytest.raises(UnknownFile):
                await call(file_id)
        with pytest.raises(UnknownFile):
            files.prioritise(file_id, 1)
        for limits in ({"up": 0}, {"down": -1}, {"concurrent": 0}):
            with pytest.raises(LocalError):
                files.set_limits(**limits)
        assert files.downloads() == []


async def test_a_limit_on_what_comes_in_slows_a_download_down(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", 8 * MIB)
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        files_of(b).set_limits(down=MIB)
        began = trio.current_time()
        await files_of(b).download(offer.file_id, pool.home(2))
        assert 5 < trio.current_time() - began < 12


# --- paused and cancelled ---------------------------------------------------------------------------------------


async def test_a_paused_download_moves_nothing_until_it_is_resumed_even_after_a_restart(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 8 * MIB)
    async with pool.device(1, uplink=Uplink(20 * MIB)) as a:
        offer = await files_of(a).offer(source)
        body = OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes)
        async with reopened(pool, 2, body) as b, linked(a, b), files_of(b).subscribe() as events:
            files = files_of(b)
            await files.start_download(offer.file_id, pool.home(2))
            while files.find("a.bin").done_bytes < 2 * MIB:
                await trio.lowlevel.checkpoint()
            await files.pause(offer.file_id)
            await files.pause(offer.file_id)
            assert isinstance(paused := await next_event(events, DownloadPaused), DownloadPaused)
            assert paused.code == "paused"
            (info,) = files.downloads()
            assert (info.state, info.code, info.reason) == ("paused", "paused", "paused by the user")
            assert 2 * MIB <= info.done_bytes < 8 * MIB
            assert files.find("a.bin").state == "paused"
        async with reopened(pool, 2, body) as b, linked(a, b), files_of(b).subscribe() as events:
            files = files_of(b)
            await trio.testing.wait_all_tasks_blocked()
            (again,) = files.downloads()
            assert (again.state, again.done_bytes) == ("paused", info.done_bytes)
            assert files.statistics().exchange.bytes_in == 0
            await files.resume(offer.file_id)
            await next_event(events, DownloadResumed)
            await next_event(events, DownloadComplete)
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()


async def test_cancelling_removes_what_was_fetched_and_tells_who_waits(pool: Pool) -> None:
    async with pool.device(2) as b, files_of(b).subscribe() as events:
        files = files_of(b)
        (file_id,) = offer_nothing(files, "a")

        async def wait_in_vain() -> None:
            with pytest.raises(DownloadCancelled):
                await files.download(file_id, pool.home(2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_in_vain)
            while not (pool.home(2) / "a.part").exists():
                await trio.lowlevel.checkpoint()
            await files.cancel(file_id)
        assert isinstance(failed := await next_event(events, DownloadFailed), DownloadFailed)
        assert failed.code == "cancelled"
        assert [info.code for info in files.downloads()] == ["cancelled"]
        assert list(pool.home(2).glob("a*")) == []
        assert list((pool.home(2) / "manager" / "trees").iterdir()) == []
        assert files.find("a").state == "offered"


async def test_what_was_cancelled_and_fetched_again_is_copied_after_that(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 20 * MIB)
    async with pool.device(1, uplink=Uplink(20 * MIB)) as a, pool.device(2) as b, linked(a, b):
        files = files_of(b)
        offer = await files_of(a).offer(source)
        await files.start_download(offer.file_id, pool.home(2))
        while files.find("a.bin").done_bytes < 2 * MIB:
            await trio.lowlevel.checkpoint()
        await files.cancel(offer.file_id)
        await files.download(offer.file_id, pool.home(2) / "first")
        before = a.uplink.sent_bytes
        copy = await files.download(offer.file_id, pool.home(2) / "second")
        assert copy.read_bytes() == source.read_bytes()
        assert a.uplink.sent_bytes == before


async def test_a_failed_download_can_be_tried_again(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, files_of(b).subscribe() as events:
        files = files_of(b)
        offer = await files_of(a).offer(source)
        target = pool.home(2) / "a.bin"
        await files.start_download(offer.file_id, target)
        while not (pool.home(2) / "a.bin.part").exists():
            await trio.lowlevel.checkpoint()
        target.write_bytes(b"mine")
        async with linked(a, b):
            assert isinstance(failed := await next_event(events, DownloadFailed), DownloadFailed)
            assert failed.code == "output_exists"
            assert files.find("a.bin").state == "failed"
            with pytest.raises(OutputExists):
                await files.resume(offer.file_id)
            assert target.read_bytes() == b"mine"
            target.unlink()
            await files.resume(offer.file_id)
            await next_event(events, DownloadComplete)
        assert target.read_bytes() == source.read_bytes()
        assert files.statistics().exchange.bytes_in < 1.1 * SIZE


# --- disks ------------------------------------------------------------------------------------------------------


@needs_mount
async def test_a_full_disk_pauses_a_download_until_there_is_room(
    pool: Pool, disk: SmallDisk, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", 5 * MIB)
    async with pool.device(1) as a, pool.device(2) as b, files_of(b).subscribe() as events:
        files = files_of(b)
        offer = await files_of(a).offer(source)
        await files.start_download(offer.file_id, disk.path)
        while not (disk.path / "a.bin.part").exists():
            await trio.lowlevel.checkpoint()
        disk.fill()
        async with linked(a, b):
            assert isinstance(paused := await next_event(events, DownloadPaused), DownloadPaused)
            assert paused.code == "disk_full"
            (info,) = files.downloads()
            assert (info.state, info.code) == ("paused", "disk_full")
            await trio.sleep(30)
            assert files.downloads()[0].state == "paused"
            disk.free()
            await next_event(events, DownloadResumed)
            await next_event(events, DownloadComplete)
        assert (disk.path / "a.bin").read_bytes() == source.read_bytes()


@needs_mount
async def test_a_download_that_cannot_fit_waits_without_beginning(
    pool: Pool, disk: SmallDisk, jumping_clock: trio.testing.MockClock
) -> None:
    async with pool.device(2) as b, files_of(b).subscribe() as events:
        files = files_of(b)
        large = FileId(bytes([5]) * 32)
        files.learned_offer(SOMEBODY, OfferBody(file_id=large, name="large", size=100 * MIB), Hlc(1))
        await files.start_download(large, disk.path)
        await next_event(events, DownloadPaused)
        await trio.sleep(30)
        assert files.downloads()[0].state == "paused"
        assert os.listdir(disk.path) == []


@needs_mount
async def test_files_of_a_disk_that_was_unmounted_are_withdrawn(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    with small_disk(pool.tmp_path / "disk", "8m") as disk:
        async with pool.device(1) as a, files_of(a).subscribe() as events:
            for number in range(3):
                await files_of(a).offer(write_file(disk.path / f"{number}.bin", 100_000, seed=number))
            await trio.run_process(["umount", str(disk.path)])
            for _ in range(3):
                await next_event(events, SourceLost)
            while files_of(a).offers():
                await trio.lowlevel.checkpoint()
        assert sum(isinstance(body, RetractOfferBody) for body in pool.published) == 3


async def test_a_copy_of_a_sparse_file_stays_sparse(pool: Pool) -> None:
    source = pool.tmp_path / "sparse.bin"
    with source.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(40 * MIB)
        file.write(b"something")
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        path = await files_of(a).download(offer.file_id, pool.home(1))
        assert path.read_bytes() == source.read_bytes()
        assert path.stat().st_blocks * 512 < 2 * MIB
        assert files_of(a).downloads()[0].done_bytes == 64 * MIB


async def test_a_target_that_was_removed_is_downloaded_again(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        path = await files_of(b).download(offer.file_id, pool.home(2))
        path.unlink()
        assert await files_of(b).download(offer.file_id, pool.home(2)) == path
        assert path.read_bytes() == source.read_bytes()
        assert files_of(b).find("a.bin").local_path == path


# --- offers of all kinds ----------------------------------------------------------------------------------------


async def test_a_file_of_several_devices_is_shown_once_and_outlives_one_retraction(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c:
        offer = await files_of(a).offer(source)
        await files_of(b).offer(source)
        (info,) = files_of(c).offers()
        assert (info.nodes, info.holders) == ((a.node, b.node), 2)
        await files_of(a).retract(offer.file_id)
        assert [(known.state, known.nodes) for known in files_of(a).offers()] == [("offered", (b.node,))]
        (info,) = files_of(c).offers()
        assert (info.nodes, info.holders) == ((b.node,), 1)


async def test_what_is_offered_is_told_with_its_kind(pool: Pool) -> None:
    folder = FolderBody(
        file_id=FileId(bytes([1]) * 32), list_id=FileId(bytes([2]) * 32), name="d", size=10, list_size=7, file_count=3
    )
    picture = MediaBody(file_id=FileId(bytes([3]) * 32), name="p", size=5, width=1, height=1, preview=b"tiny")
    stream = StreamBody(nonce=bytes(16), name="s")
    async with pool.device(2) as b, files_of(b).subscribe() as events:
        files = files_of(b)
        for body in (folder, picture):
            files.learned_offer(SOMEBODY, body, Hlc(1))
        files.learned_offer(SOMEBODY, stream, Hlc(1), file_id=FileId(bytes([4]) * 32))
        heard = [await next_event(events, FileOffered) for _ in range(3)]
        assert [(event.kind, event.file_count, event.preview) for event in heard if isinstance(event, FileOffered)] == [
            ("folder", 3, b""),
            ("media", 1, b"tiny"),
            ("stream", 1, b""),
        ]
        assert [(info.name, info.kind, info.file_count, info.size_bytes) for info in files.offers()] == [
            ("d", "folder", 3, 10),
            ("p", "media", 1, 5),
            ("s", "stream", 1, 0),
        ]


def test_the_list_of_a_folder_has_the_holders_of_the_folder_as_long_as_it_is_offered() -> None:
    book, list_id, file_id = OfferBook(), FileId(bytes([2]) * 32), FileId(bytes([1]) * 32)

    def folder(of_list: FileId, list_size: int) -> FolderBody:
        return FolderBody(file_id=file_id, list_id=of_list, name="d", size=10, list_size=list_size, file_count=3)

    book.offered(file_id, offer_of(SOMEBODY, folder(list_id, 7), Hlc(1)))
    assert (book.sizes(list_id), book.nodes(list_id)) == ([7], (SOMEBODY,))
    later = FileId(bytes([3]) * 32)
    book.offered(file_id, offer_of(SOMEBODY, folder(later, 8), Hlc(2)))
    assert (book.sizes(list_id), book.nodes(list_id)) == ([], ())
    assert (book.sizes(later), book.sizes(file_id)) == ([8], [10])
    book.retracted(file_id, SOMEBODY, Hlc(3))
    assert (book.sizes(later), book.nodes(later)) == ([], ())
    assert book.is_withdrawn(file_id)


def test_a_stream_has_no_size_and_is_known_by_the_file_that_it_became() -> None:
    book, stream_id, file_id = OfferBook(), FileId(bytes([2]) * 32), FileId(bytes([1]) * 32)
    book.offered(stream_id, offer_of(SOMEBODY, StreamBody(nonce=bytes(16), name="s"), Hlc(1)))
    assert book.sizes(stream_id) == [None]
    assert book.whole_of_stream(stream_id) is None
    book.offered(file_id, offer_of(SOMEBODY, OfferBody(file_id=file_id, name="s", size=3, stream_id=stream_id), Hlc(2)))
    assert book.whole_of_stream(stream_id) == file_id


# --- what is kept -----------------------------------------------------------------------------------------------


def test_the_history_forgets_the_oldest() -> None:
    history = DownloadHistory()
    for number in range(MAX_DOWNLOAD_HISTORY + 2):
        record = DownloadRecord(
            file_id=FileId(bytes(32)), name="a", size_bytes=1, target=Path(f"/{number}"), started_ms=number, ended_ms=9
        )
        history.add(number, record)
    assert [order for order, _ in history] == list(range(2, MAX_DOWNLOAD_HISTORY + 2))
    assert history.last_of(FileId(bytes(32))) == record


async def test_the_lists_on_disk_come_back_as_they_were_saved_last(tmp_path: Path) -> None:
    table = FileTable(tmp_path)
    await table.load()
    for number in range(3000):
        file_id = FileId(number.to_bytes(32, "big"))
        table.files[file_id] = LocalFile(
            file_id=file_id, name=f"{number}", size_bytes=CHUNK_SIZE, path=Path("/x"), mtime_ns=number, is_own=True
        )
    await table.save_files()
    changed = FileId(bytes(32))
    del table.files[FileId((5).to_bytes(32, "big"))]
    table.files[changed] = LocalFile(
        file_id=changed,
        name="a folder",
        size_bytes=0,
        path=Path("/y"),
        mtime_ns=0,
        is_own=True,
        kind="folder",
        list_id=FileId(bytes([8]) * 32),
        body=b"\x00\xff",
    )
    await table.save_files()
    record = DownloadRecord(
        file_id=changed, name="d", size_bytes=4, target=Path("/z"), started_ms=3, only=("a", "b/c"), is_paused=True
    )
    await table.save_queue(lambda: [record])
    again = FileTable(tmp_path)
    assert await again.load() == [record]
    assert list(again.files.items()) == list(table.files.items())


async def test_progress_tells_how_many_have_something_of_the_file(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(2))
        await until_begun(files_of(b), offer.file_id)
        assert files_of(b).downloads()[0].reason == "nobody who has it is linked"
        async with files_of(b).subscribe() as events, linked(a, b):
            while not isinstance(event := await next_event(events, DownloadProgress), DownloadProgress) or (
                event.done_bytes < MIB
            ):
                pass
            assert event.sources == 1
            (info,) = files_of(b).downloads()
            assert (info.sources, info.reason) == (1, "")
            assert info.rate_bytes_per_s == pytest.approx(4 * MIB, rel=0.5)
            assert info.eta_s == pytest.approx((SIZE - info.done_bytes) / info.rate_bytes_per_s)
            await next_event(events, DownloadComplete)
