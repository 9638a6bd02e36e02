"""What goes wrong with files on disk, and what becomes of it: crashes, damage, changed sources, full disks, copies."""

import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from file_overlay import Overlay, are_equal, files_of, hearing, look, until, write_file
from small_disks import can_mount, small_disk
from trio.testing import MockClock

from poolnet.events import (
    DownloadComplete,
    DownloadFailed,
    DownloadPaused,
    DownloadResumed,
    FileOffered,
    MediaReceived,
    OfferRetracted,
    SourceLost,
)
from poolnet.file_manager import FileManager
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, KIB, MIB
from poolnet.testing.chunk_links import FileNode, Uplink
from poolnet.wire.bodies import RetractOfferBody

pytestmark = pytest.mark.timeout(60)
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
SIZE = 4 * MIB + 99


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def make_source(pool: Overlay, kind: str) -> Path:
    """Make a file, or a folder of the same size."""
    root = pool.tmp_path / "thing"
    if kind == "file":
        return write_file(root, SIZE)
    (root / "sub").mkdir(parents=True)
    for number in range(10):
        write_file(root / "sub" / f"{number}", SIZE // 10, number)
    return root


async def offer(files: FileManager, source: Path) -> FileId:
    """Offer a file or a folder."""
    call = files.offer_folder if content(source).keys() != {""} else files.offer
    return (await call(source)).file_id


def content(path: Path) -> dict[str, bytes]:
    """Return what is in a file or a folder."""
    return look(path) if path.is_dir() else {"": path.read_bytes()}


# --- crashes ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def crashing(pool: Overlay, number: int) -> AsyncIterator[FileNode]:
    """A device that is gone at the end of the block as after a power cut: its disk is what it was at that moment."""
    home, kept = pool.home(number), pool.tmp_path / "kept"
    async with pool.device(number, is_settled=True) as device:
        yield device
        shutil.copytree(home, kept, ignore=shutil.ignore_patterns("cache-*"))
    shutil.rmtree(home)
    kept.rename(home)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_download_survives_crashes_at_any_moment(
    pool: Overlay, jumping_clock: MockClock, kind: str, seed: int
) -> None:
    rng = random.Random(seed)
    source = make_source(pool, kind)
    async with pool.device(1, uplink=Uplink(2 * MIB)) as a:
        file_id = await offer(files_of(a), source)
        is_complete, crashes = False, 0
        while not is_complete:
            crashes += 1
            assert crashes < 60
            async with crashing(pool, 2) as b, pool.linked(a, b):
                target = pool.home(2) / "thing"
                if not files_of(b).downloads():
                    await files_of(b).start_download(file_id, target)
                for _ in range(rng.choice([0, 1, 5, 20, 100])):
                    await trio.lowlevel.checkpoint()
                if rng.random() < 0.7:
                    await trio.sleep(rng.uniform(0, 0.5))
                is_complete = files_of(b).downloads()[0].state == "complete"
        assert content(target) == content(source)
        assert crashes > 3
        assert a.uplink.sent_bytes < SIZE + crashes * 10 * CHUNK_SIZE
        async with pool.device(2, is_settled=True) as b, pool.device(3, is_settled=True) as c, pool.linked(b, c):
            assert content(await files_of(c).download(file_id, pool.home(3))) == content(source)


@pytest.mark.parametrize("seed", range(6))
async def test_a_device_can_be_closed_at_any_moment(pool: Overlay, jumping_clock: MockClock, seed: int) -> None:
    rng = random.Random(seed)
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    picture = write_file(pool.tmp_path / "cat.png", 600 * KIB, 7)
    folder = make_source(pool, "folder")
    async with pool.device(1, uplink=Uplink(4 * MIB), is_settled=True) as a:
        ids = [await offer(files_of(a), source), await offer(files_of(a), folder)]
        await files_of(a).offer_media(picture)
        for _ in range(12):
            with trio.CancelScope() as scope:
                async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
                    known = {info.file_id for info in files_of(b).downloads()}
                    for file_id in ids:
                        if file_id not in known:
                            await files_of(b).start_download(file_id, pool.home(2))
                    for _ in range(rng.randrange(50)):
                        await trio.lowlevel.checkpoint()
                    await trio.sleep(rng.uniform(0, 0.3))
                    scope.cancel()
                    await trio.sleep_forever()
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            await until(lambda: {info.state for info in files_of(b).downloads()} == {"complete"})
            await until(lambda: files_of(b).find("cat.png").state == "complete")
            assert heard.all_of(DownloadFailed) == []
        assert are_equal(pool.home(2) / "a.bin", source)
        assert look(pool.home(2) / "thing") == look(folder)
        assert list(pool.home(2).glob("*.part")) == []


async def test_offers_that_are_made_when_a_device_dies_are_there_or_not_at_all(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    sources = [write_file(pool.tmp_path / f"{number}.bin", 100_000, number) for number in range(8)]
    for checkpoints in range(0, 24, 3):
        shutil.rmtree(pool.home(1), ignore_errors=True)
        with trio.CancelScope() as scope:
            async with crashing(pool, 1) as a, trio.open_nursery() as nursery:
                for source in sources:
                    nursery.start_soon(files_of(a).offer, source)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        async with pool.device(1, is_settled=True) as a, pool.device(2, is_settled=True) as b, pool.linked(a, b):
            offered = files_of(a).offers()
            assert {info.name for info in offered} == {info.name for info in files_of(b).offers()}
            for info in offered:
                path = await files_of(b).download(info.file_id, pool.home(2) / f"{checkpoints}-{info.name}")
                assert are_equal(path, pool.tmp_path / info.name)
            trees = pool.home(1) / "manager" / "trees"
            assert len(list(trees.iterdir())) == len(offered)


# --- damage -----------------------------------------------------------------------------------------------------


def damage(part: Path, trees: Path) -> None:
    with part.open("r+b") as file:
        file.seek(CHUNK_SIZE)
        file.write(bytes(3 * CHUNK_SIZE))


def cut(part: Path, trees: Path) -> None:
    os.truncate(part, 3 * CHUNK_SIZE + 5)


def lengthen(part: Path, trees: Path) -> None:
    os.truncate(part, SIZE + 12345)


def remove(part: Path, trees: Path) -> None:
    part.unlink()


def tear_journal(part: Path, trees: Path) -> None:
    (journal,) = trees.glob("*.journal")
    os.truncate(journal, journal.stat().st_size - 3)


def garble_journal(part: Path, trees: Path) -> None:
    (journal,) = trees.glob("*.journal")
    journal.write_bytes(random.Random(1).randbytes(1000))


def lose_journal(part: Path, trees: Path) -> None:
    (journal,) = trees.glob("*.journal")
    journal.unlink()


def garble_tree(part: Path, trees: Path) -> None:
    (tree,) = trees.glob("*.tree")
    tree.write_bytes(random.Random(1).randbytes(tree.stat().st_size))


def lose_everything(part: Path, trees: Path) -> None:
    part.unlink()
    shutil.rmtree(trees)


def put_directory(part: Path, trees: Path) -> None:
    part.unlink()
    part.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        cut,
        lengthen,
        remove,
        tear_journal,
        garble_journal,
        lose_journal,
        garble_tree,
        lose_everything,
    ],
)
async def test_whatever_happens_to_an_unfinished_download_it_is_completed(
    pool: Overlay, jumping_clock: MockClock, spoil: Callable[[Path, Path], None]
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    async with pool.device(1, uplink=Uplink(2 * MIB)) as a:
        async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
            file_id = await offer(files_of(a), source)
            await files_of(b).start_download(file_id, pool.home(2))
            await until(lambda: files_of(b).find("a.bin").done_bytes > 2 * MIB)
        spoil(pool.home(2) / "a.bin.part", pool.home(2) / "manager" / "trees")
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            await heard.first(DownloadComplete)
            assert files_of(b).downloads()[0].done_bytes == SIZE
        assert are_equal(pool.home(2) / "a.bin", source)
        assert not (pool.home(2) / "a.bin.part").exists()
        assert a.uplink.sent_bytes < 2.1 * SIZE


async def test_something_else_in_the_place_of_a_part_ends_the_download_and_is_left_alone(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    async with pool.device(1, uplink=Uplink(2 * MIB)) as a:
        async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
            file_id = await offer(files_of(a), source)
            await files_of(b).start_download(file_id, pool.home(2))
            await until(lambda: files_of(b).find("a.bin").done_bytes > 2 * MIB)
        part = pool.home(2) / "a.bin.part"
        put_directory(part, part)
        (part / "mine").write_bytes(b"mine")
        async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
            await until(lambda: files_of(b).downloads()[0].state == "failed")
            assert (part / "mine").read_bytes() == b"mine"
            shutil.rmtree(part)
            await files_of(b).resume(file_id)
            await until(lambda: files_of(b).downloads()[0].state == "complete")
        assert are_equal(pool.home(2) / "a.bin", source)


async def test_a_folder_on_its_way_that_was_damaged_is_completed(pool: Overlay, jumping_clock: MockClock) -> None:
    source = make_source(pool, "folder")
    async with pool.device(1, uplink=Uplink(2 * MIB)) as a:
        async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
            file_id = await offer(files_of(a), source)
            await files_of(b).start_download(file_id, pool.home(2))
            await until(lambda: files_of(b).find("thing").done_bytes > 2 * MIB)
        there = sorted((pool.home(2) / "thing.part" / "sub").iterdir())
        there[0].unlink()
        there[1].write_bytes(b"nonsense")
        os.truncate(there[2], 10 * MIB)
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            await heard.first(DownloadComplete)
        assert look(pool.home(2) / "thing") == look(source)


# --- sources that change while they are served ------------------------------------------------------------------


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SIZE - 100)
        file.write(b"edited")


@pytest.mark.parametrize("spoil", [edit, lambda path: os.truncate(path, SIZE // 2), Path.unlink])
@pytest.mark.parametrize("has_other", [False, True])
async def test_a_source_that_changes_while_it_is_served_is_withdrawn_and_the_file_comes_from_others(
    pool: Overlay, jumping_clock: MockClock, spoil: Callable[[Path], None], has_other: bool
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    whole = write_file(pool.tmp_path / "b.bin", SIZE)
    async with (
        pool.device(1, uplink=Uplink(2 * MIB)) as a,
        pool.device(2) as b,
        pool.device(3, uplink=Uplink(MIB)) as c,
        pool.linked(a, b),
        pool.linked(c, b),
        hearing(a) as author,
        hearing(b) as heard,
    ):
        file_id = await offer(files_of(a), source)
        if has_other:
            await offer(files_of(c), whole)
        await files_of(b).start_download(file_id, pool.home(2))
        await until(lambda: files_of(b).downloads()[0].done_bytes > MIB)
        spoil(source)
        lost = await author.first(SourceLost)
        assert (lost.file_id, lost.path) == (file_id, source)
        await until(lambda: RetractOfferBody(file_id=file_id) in pool.published)
        if has_other:
            await heard.first(DownloadComplete)
            assert are_equal(pool.home(2) / "a.bin", whole)
            assert heard.all_of(OfferRetracted) == []
        else:
            assert (await heard.first(DownloadFailed)).code == "unknown_file"
            assert not (pool.home(2) / "a.bin").exists()
        assert files_of(b).statistics().exchange.bad_pieces == 0


async def test_a_finished_download_that_is_edited_is_served_no_more_and_nobody_is_bothered(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c, pool.linked(a, b):
        file_id = await offer(files_of(a), source)
        path = await files_of(b).download(file_id, pool.home(2))
        edit(path)
        async with pool.linked(b, c):
            await files_of(c).start_download(file_id, pool.home(3))
            await until(lambda: files_of(b).find("a.bin").state == "offered")
            await trio.sleep(20)
            assert files_of(c).statistics().exchange.bad_pieces == 0
            async with pool.linked(a, c):
                await until(lambda: files_of(c).downloads()[0].state == "complete")
        assert are_equal(pool.home(3) / "a.bin", source)
        assert [info.nodes for info in files_of(a).offers()] == [(a.node,)]


# --- full disks -------------------------------------------------------------------------------------------------


@needs_mount
@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_a_full_disk_pauses_and_goes_on_when_there_is_room(
    pool: Overlay, jumping_clock: MockClock, kind: str
) -> None:
    source = make_source(pool, kind)
    with small_disk(pool.tmp_path / "disk", "8m") as disk:
        async with (
            pool.device(1, uplink=Uplink(2 * MIB)) as a,
            pool.device(2) as b,
            hearing(b) as heard,
            pool.linked(a, b),
        ):
            file_id = await offer(files_of(a), source)
            await files_of(b).start_download(file_id, disk.path)
            await until(lambda: files_of(b).downloads()[0].done_bytes > MIB)
            disk.fill()
            assert (await heard.first(DownloadPaused)).code == "disk_full"
            await trio.sleep(60)
            assert files_of(b).downloads()[0].state == "paused"
            sent = a.uplink.sent_bytes
            disk.free()
            await heard.first(DownloadResumed)
            await heard.first(DownloadComplete)
            assert content(disk.path / "thing") == content(source)
            assert a.uplink.sent_bytes - sent < SIZE
            assert len(heard.all_of(DownloadPaused)) < 5


@needs_mount
async def test_a_full_home_pauses_downloads_and_keeps_pictures_away_until_there_is_room(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    picture = write_file(pool.tmp_path / "cat.png", 600 * KIB, 7)
    out = pool.tmp_path / "out"
    out.mkdir()
    with small_disk(pool.home(2), "4m") as disk:
        async with (
            pool.device(1, is_settled=True) as a,
            pool.device(2, is_settled=True) as b,
            hearing(b) as heard,
        ):
            file_id = await offer(files_of(a), source)
            await files_of(b).start_download(file_id, out)
            await until(lambda: (out / "a.bin.part").exists())
            disk.fill()
            async with pool.linked(a, b):
                offered = await files_of(a).offer_media(picture)
                await trio.sleep(60)
                assert not (out / "a.bin").exists() or are_equal(out / "a.bin", source)
                assert heard.all_of(MediaReceived) == []
                disk.free()
                await until(lambda: files_of(b).downloads()[0].state == "complete", within_s=300)
                await until(lambda: files_of(b).find("cat.png").state == "complete", within_s=300)
        assert are_equal(out / "a.bin", source)
        assert are_equal(heard.all_of(MediaReceived)[0].path, picture)
        assert heard.all_of(MediaReceived)[0].file_id == offered.file_id


# --- the same more than once ------------------------------------------------------------------------------------


async def test_what_several_offer_is_shown_once_and_stays_while_one_of_them_offers_it(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        a, b, c = [await stack.enter_async_context(pool.device(number)) for number in (1, 2, 3)]
        heard = await stack.enter_async_context(hearing(c))
        for device, number in ((a, 1), (b, 2)):
            file_id = await offer(files_of(device), write_file(pool.tmp_path / f"{number}.bin", SIZE))
        (shown,) = files_of(c).offers()
        assert (shown.name, shown.nodes, shown.holders) == ("1.bin", (a.node, b.node), 2)
        await until(lambda: len(heard.all_of(FileOffered)) == 2)
        await files_of(a).retract(file_id)
        (shown,) = files_of(c).offers()
        assert (shown.name, shown.nodes, shown.holders) == ("2.bin", (b.node,), 1)
        assert [info.state for info in files_of(a).offers()] == ["offered"]
        assert heard.all_of(OfferRetracted) == []
        async with pool.linked(a, c):
            await files_of(c).start_download(file_id, pool.home(3))
            await trio.sleep(30)
            assert a.uplink.sent_bytes == 0, "it is not given any more by who withdrew it"
            async with pool.linked(b, c):
                await heard.first(DownloadComplete)
        await files_of(b).retract(file_id)
        assert (await heard.first(OfferRetracted)).node == b.node
        assert files_of(a).offers() == []


async def test_what_is_here_is_copied_and_not_fetched(pool: Overlay, jumping_clock: MockClock) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    async with pool.device(1) as a, pool.device(2) as b, hearing(b) as heard, pool.linked(a, b):
        file_id = await offer(files_of(a), source)
        await files_of(b).download(file_id, pool.home(2))
        sent = a.uplink.sent_bytes
        await files_of(b).start_download(file_id, pool.home(2) / "background")
        await until(lambda: len(heard.all_of(DownloadComplete)) == 2)
        assert are_equal(await files_of(b).download(file_id, pool.home(2) / "waited for"), source)
        assert are_equal(pool.home(2) / "background", source)
        assert are_equal(await files_of(a).download(file_id, pool.home(1)), source)
        assert a.uplink.sent_bytes == sent


async def test_a_folder_with_files_that_are_here_costs_only_the_others(pool: Overlay, jumping_clock: MockClock) -> None:
    folder = make_source(pool, "folder")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        single = write_file(pool.tmp_path / "single", 3 * MIB, 50)
        await files_of(b).download(await offer(files_of(a), single), pool.home(2))
        shutil.copy(single, folder / "sub" / "the same")
        sent = a.uplink.sent_bytes
        path = await files_of(b).download(await offer(files_of(a), folder), pool.home(2))
        assert look(path) == look(folder)
        assert a.uplink.sent_bytes - sent < SIZE + 4 * CHUNK_SIZE


async def test_an_own_file_that_was_fetched_first_is_offered_without_a_second_copy(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", SIZE)
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c:
        async with pool.linked(a, b):
            file_id = await offer(files_of(a), source)
            path = await files_of(b).download(file_id, pool.home(2))
        assert await offer(files_of(b), path) == file_id
        await files_of(a).retract(file_id)
        assert files_of(b).find("a.bin").state == "seeding"
        async with pool.linked(b, c):
            assert are_equal(await files_of(c).download(file_id, pool.home(3)), source)
        await files_of(b).retract(file_id)
        await until(lambda: files_of(c).offers() == [])


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_whoever_gets_a_file_otherwise_while_it_is_fetched_fetches_no_more_of_it(
    pool: Overlay, jumping_clock: MockClock, kind: str
) -> None:
    source = make_source(pool, kind)
    mine = pool.tmp_path / "mine"
    (shutil.copytree if kind == "folder" else shutil.copy)(source, mine)
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        file_id = await offer(files_of(a), source)
        await files_of(b).start_download(file_id, pool.home(2))
        await until(lambda: files_of(b).downloads()[0].done_bytes > MIB)
        sent = a.uplink.sent_bytes
        await offer(files_of(b), mine)
        await until(lambda: files_of(b).downloads()[0].state == "complete")
        assert content(pool.home(2) / "thing") == content(source)
        await trio.sleep(10)
        assert a.uplink.sent_bytes - sent < 30 * CHUNK_SIZE
        assert files_of(b).find("mine").state == "seeding"


# --- withdrawn on the way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_a_newer_version_can_be_fetched_to_where_the_earlier_one_was_going(
    pool: Overlay, jumping_clock: MockClock, kind: str
) -> None:
    source = make_source(pool, kind)
    async with (
        pool.device(1, uplink=Uplink(MIB)) as a,
        pool.device(2) as b,
        hearing(b) as heard,
        pool.linked(a, b),
    ):
        earlier = await offer(files_of(a), source)
        await files_of(b).start_download(earlier, pool.home(2))
        await until(lambda: files_of(b).downloads()[0].done_bytes > MIB)
        write_file(source / "sub" / "new" if kind == "folder" else source, SIZE, 77)
        later = await offer(files_of(a), source)
        assert later != earlier
        await files_of(a).retract(earlier)
        assert (await heard.first(DownloadFailed)).code == "unknown_file"
        await files_of(b).start_download(later, pool.home(2))
        await heard.first(DownloadComplete)
        assert content(pool.home(2) / "thing") == content(source)
        assert {path.name for path in pool.home(2).iterdir()} == {"manager", "thing"}


@pytest.mark.parametrize("end", ["retract", "cancel", "pause"])
async def test_a_folder_whose_list_is_not_here_yet_can_be_withdrawn_cancelled_and_paused(
    pool: Overlay, jumping_clock: MockClock, end: str
) -> None:
    source = make_source(pool, "folder")
    async with pool.device(1) as a, pool.device(2) as b:
        file_id = await offer(files_of(a), source)
        await files_of(b).start_download(file_id, pool.home(2))
        await trio.sleep(5)
        if end == "retract":
            await files_of(a).retract(file_id)
        else:
            await getattr(files_of(b), end)(file_id)
        state = "paused" if end == "pause" else "failed"
        await until(lambda: files_of(b).downloads()[0].state == state)
        async with pool.linked(a, b):
            await trio.sleep(10)
            assert a.uplink.sent_bytes == 0
            if end != "retract":
                await files_of(b).resume(file_id)
                await until(lambda: files_of(b).downloads()[0].state == "complete")
                assert look(pool.home(2) / "thing") == look(source)
