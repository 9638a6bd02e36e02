"""Files of a pool: whatever is done with them is ended at each of its checkpoints; nothing is left over or damaged.

How it is done is in cancelling.py. Disks take no time here (`jumping_clock`): a call to the disk is finished once it
has begun, so it can only be ended before or after.
"""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from cancelling import Act, interrupt_everywhere, time_limit
from file_pool import Pool
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.errors import UnknownFile
from poolnet.file_manager import FileManager, OfferInfo
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.storage.cache_ring import CacheRing
from poolnet.testing.chunk_links import FileNode, linked

#: Names of what an unfinished download goes on with.
PARTS = r".*\.(part|journal|spill)"

pytestmark = [pytest.mark.usefixtures("own_temporary_directory", "no_power_cuts"), time_limit(120)]


def content(size: int = 5 * CHUNK_SIZE + 7) -> bytes:
    return random.Random(size).randbytes(size)


def make_folder(directory: Path) -> Path:
    """Make a folder of a few files."""
    folder = directory / "holiday"
    (folder / "inner" / "empty").mkdir(parents=True)
    for number in range(4):
        (folder / "inner" / f"{number}.bin").write_bytes(content(CHUNK_SIZE // 3 + number))
    (folder / "letter.txt").write_bytes(b"Dear all")
    return folder


def same(one: Path, other: Path) -> bool:
    """Return whether two files, or folders, have the same in them."""
    if one.is_file():
        return one.read_bytes() == other.read_bytes()
    here, there = (
        {path.relative_to(root): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
        for root in (one, other)
    )
    return here == there


def source_of(info: OfferInfo, directory: Path) -> Path:
    """Return what was offered."""
    return directory / info.name


Offer = Callable[[FileManager, Path], Awaitable[OfferInfo]]


async def offer_file(files: FileManager, directory: Path) -> OfferInfo:
    path = directory / "letter.bin"
    if not path.exists():
        path.write_bytes(content())
    return await files.offer(path)


async def offer_folder(files: FileManager, directory: Path) -> OfferInfo:
    if not (directory / "holiday").exists():
        make_folder(directory)
    return await files.offer_folder(directory / "holiday")


async def offer_media(files: FileManager, directory: Path) -> OfferInfo:
    path = directory / "picture.bin"
    if not path.exists():
        path.write_bytes(content(CHUNK_SIZE + 5))
    return await files.offer_media(path)


OFFERS = pytest.mark.parametrize("offer", [offer_file, offer_folder, offer_media])


def check_lists(pool: Pool, node: FileNode) -> None:
    """Make sure that the pool knows of each file that is here, and no file that is not; and that no tree is lost."""
    files = node.files
    assert isinstance(files, FileManager)
    table = files._files.table
    assert table.directory.joinpath("trees").is_dir()
    own = {file_id for file_id, file in table.files.items() if file.is_own and file.kind != "list"}
    offered = {
        file_id for file_id in files._files.book.of_node(node.node) if not files._files.book.is_stream_offered(file_id)
    }
    assert own == offered


@OFFERS
async def test_an_offer_is_made_or_not(tmp_path: Path, jumping_clock: MockClock, offer: Offer) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        made = []

        async def act() -> None:
            async with pool.device(1) as node:
                made.append(await offer(node.files, directory))
                await node.files.retract(made[0].file_id)
                made.append(await offer(node.files, directory))

        yield act
        async with pool.device(1, is_settled=True) as node:
            check_lists(pool, node)
            again = await offer(node.files, directory)
            assert {info.file_id for info in made} <= {again.file_id}
            check_lists(pool, node)
        trees = {path.stem for path in (directory / "device1" / "manager" / "trees").iterdir()}
        assert len(trees) == (2 if offer is offer_folder else 1), trees

    await interrupt_everywhere(trial, tmp_path)


@OFFERS
async def test_an_offer_that_was_given_up_is_made_or_not_and_the_device_goes_on(
    tmp_path: Path, jumping_clock: MockClock, offer: Offer
) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        async with pool.device(1) as node:

            async def act() -> None:
                await offer(node.files, directory)

            yield act
            check_lists(pool, node)
            await offer(node.files, directory)
            check_lists(pool, node)

    await interrupt_everywhere(trial, tmp_path)


@OFFERS
async def test_a_download(tmp_path: Path, jumping_clock: MockClock, offer: Offer) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        target = directory / "here" / "copy"
        target.parent.mkdir()
        async with pool.device(1) as giver:
            info = await offer(giver.files, directory)

            async def act() -> None:
                async with pool.device(2, is_settled=True, media_cache_bytes=0) as taker, linked(giver, taker):
                    await taker.files.download(info.file_id, target)

            yield act
            async with pool.device(2, is_settled=True, media_cache_bytes=0) as taker, linked(giver, taker):
                if not target.exists():
                    assert await taker.files.download(info.file_id, target) == target
                assert not taker.files._files.table.parts
            assert same(source_of(info, directory), target)
            assert os.listdir(target.parent) == ["copy"]

    await interrupt_everywhere(trial, tmp_path, keeps=PARTS)


@OFFERS
async def test_a_download_in_the_background_and_its_end(tmp_path: Path, jumping_clock: MockClock, offer: Offer) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        target = directory / "copy"
        async with pool.device(1) as giver, pool.device(2, media_cache_bytes=0) as taker:
            info = await offer(giver.files, directory)
            files = taker.files

            async def act() -> None:
                async with linked(giver, taker):
                    await files.start_download(info.file_id, target)
                    await files.pause(info.file_id)
                    await files.resume(info.file_id)
                    await files.cancel(info.file_id)

            yield act
            async with linked(giver, taker):
                with suppress(UnknownFile):
                    await files.cancel(info.file_id)
                if not target.exists():
                    await files.download(info.file_id, target)
                assert same(source_of(info, directory), target)
            assert not files._files.table.parts

    await interrupt_everywhere(trial, tmp_path, keeps=PARTS)


async def test_a_picture_that_everybody_fetches_and_a_copy_of_it(tmp_path: Path, jumping_clock: MockClock) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        target = directory / "copy"
        async with pool.device(1) as giver:
            info = await offer_media(giver.files, directory)

            async def fetched(files: FileManager) -> None:
                while files._files.media.path_of(info.file_id) is None:  # noqa: ASYNC110 - in jumping time
                    await trio.sleep(0.1)

            async def act() -> None:
                async with pool.device(2, is_settled=True) as taker, linked(giver, taker):
                    await fetched(taker.files)
                    await taker.files.save_as(info.file_id, target)

            yield act
            assert not target.exists() or target.read_bytes() == content(CHUNK_SIZE + 5)
            async with pool.device(2, is_settled=True) as taker, linked(giver, taker):
                await fetched(taker.files)
                saved = await taker.files.save_as(info.file_id, directory / "second")
                assert saved.read_bytes() == content(CHUNK_SIZE + 5)

    await interrupt_everywhere(trial, tmp_path, keeps=PARTS)


async def test_a_stream_of_who_publishes_it(tmp_path: Path, jumping_clock: MockClock) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        finished: list[FileId] = []
        async with pool.device(2) as watcher:

            async def act() -> None:
                async with pool.device(1) as author, linked(author, watcher):
                    async with author.files.open_stream("song") as stream:
                        await stream.send(content())
                    assert stream.file is not None
                    finished.append(stream.file.file_id)

            yield act
            async with pool.device(1, is_settled=True) as author:
                check_lists(pool, author)
                assert not set(finished) - author.files._files.table.files.keys()
            streams = directory / "device1" / "manager" / "streams"
            kept = [path.read_bytes() for path in streams.iterdir()] if streams.is_dir() else []
            assert all(content().startswith(data) for data in kept)

    await interrupt_everywhere(trial, tmp_path, keeps=r"\..*\.(index|nodes|spool)")


async def test_a_stream_of_who_watches_it(tmp_path: Path, jumping_clock: MockClock) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        pool = Pool(directory)
        async with pool.device(1) as author, author.files.open_stream("song") as stream:
            await stream.send(content())
            await stream.aclose()

            async def watch() -> bytes:
                async with pool.device(2, is_settled=True) as watcher, linked(author, watcher):
                    read = bytearray()
                    async with watcher.files.watch(stream.stream_id, from_start=True) as reader:
                        async for data in reader:
                            read += data
                    return bytes(read)

            async def act() -> None:
                assert await watch() == content()

            yield act
            assert await watch() == content()

    await interrupt_everywhere(trial, tmp_path, keeps=PARTS)


async def test_news_that_come_while_files_are_being_closed_do_no_harm(
    tmp_path: Path, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(tmp_path)
    async with pool.device(1) as giver, pool.device(2) as taker:
        info = await offer_file(giver.files, tmp_path)
        (key,) = [device for device in pool.managers if device == giver.node]
        async with linked(giver, taker):
            await taker.files.download(info.file_id, tmp_path / "copy")
        files = taker.files

        def close_late(ring: CacheRing) -> None:
            files.learned_retraction(key, info.file_id, Hlc(1000))
            close(ring)

        close = CacheRing.close
        monkeypatch.setattr(CacheRing, "close", close_late)
    assert (tmp_path / "copy").exists()
