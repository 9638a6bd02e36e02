"""Pictures that are shown: fetched as they are offered, the newest kept, copied on request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from test_media_cache import id_of
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.clock import make_hlc
from poolnet.errors import DiskFull, LocalError, OutputExists, PoolnetError, SourceUnavailable, StoreError, UnknownFile
from poolnet.events import ErrorReported, MediaReceived, PoolEvent
from poolnet.files.media import Media
from poolnet.files.offer_book import OfferBook, offer_of
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_MEDIA_SIZE
from poolnet.storage.file_table import LocalFile
from poolnet.storage.media_cache import MediaCache
from poolnet.wire.bodies import MediaBody

ADA = DeviceId(b"a" * 32)
pytestmark = pytest.mark.timeout(30)


def picture(number: int, size_bytes: int = 100) -> bytes:
    return bytes([number]) * size_bytes


class World:
    """A device and the pictures that others hold. `table` is what it serves."""

    def __init__(self, directory: Path, size_bytes: int = 250) -> None:
        self.directory = directory
        self.held: dict[FileId, bytes] = {}  # by holders that are there
        self.table: dict[FileId, Path] = {}
        self.fetching: list[FileId] = []
        self.begun: list[FileId] = []
        self.failure: PoolnetError | None = None
        self.events: list[PoolEvent] = []
        self.book = OfferBook()
        self.claimed: dict[FileId, list[int]] = {}  # sizes that others say
        self._arrived = trio.Event()
        self._size_bytes = size_bytes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Media]:
        """Open the device; between two times it forgets what is offered, and nothing else."""
        self.book = OfferBook()
        media = Media(
            MediaCache(self.directory / "media", self._size_bytes),
            self.book,
            fetch=self.fetch,
            forget=self.forget,
            here=self.table.get,
            publish=self.events.append,
            claimed_sizes=lambda file_id: self.claimed.get(file_id, ()),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(media.run)
            yield media
            nursery.cancel_scope.cancel()

    async def fetch(self, file_id: FileId, out: Path) -> Path:
        self.fetching.append(file_id)
        self.begun.append(file_id)
        part = out.with_name(out.name + ".part")
        part.touch()
        try:
            while file_id not in self.held:
                await self._arrived.wait()
            if self.failure is not None:
                raise self.failure
            await trio.lowlevel.checkpoint()
        finally:
            self.fetching.remove(file_id)
        part.write_bytes(self.held[file_id])
        part.rename(out)
        self.table[file_id] = out
        return out

    async def forget(self, file_id: FileId) -> None:
        await trio.lowlevel.checkpoint()
        assert file_id not in self.fetching
        self.table.pop(file_id, None)

    def hold(self, content: bytes) -> FileId:
        """Let a holder of a picture be there from now on."""
        file_id = id_of(content)
        self.held[file_id] = content
        self._arrived.set()
        self._arrived = trio.Event()
        return file_id

    def received(self) -> list[FileId]:
        return [event.file_id for event in self.events if isinstance(event, MediaReceived)]

    def files(self) -> set[str]:
        return {path.name[:4] for path in (self.directory / "media").iterdir()}

    def show(self, media: Media, content: bytes, at_ms: int, *, size_bytes: int | None = None) -> FileId:
        """Let Ada show a picture."""
        file_id = id_of(content)
        size = len(content) if size_bytes is None else size_bytes
        body = MediaBody(file_id=file_id, name="cat.png", size=size, width=4, height=3, preview=b"")
        is_first = self.book.offered(file_id, offer_of(ADA, body, make_hlc(at_ms)))
        media.offered(file_id, is_first=is_first)
        return file_id

    def withdraw(self, media: Media, file_id: FileId) -> None:
        """Let Ada withdraw a picture."""
        self.book.retracted(file_id, ADA, make_hlc(10**6))
        media.withdrawn(file_id)


async def test_a_picture_is_fetched_at_once_and_told_when_it_is_complete(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        file_id = world.show(media, picture(1), 1000)
        await wait_all_tasks_blocked()
        assert (world.fetching, world.events, media.path_of(file_id)) == ([file_id], [], None)
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        path = media.path_of(file_id)
        assert path is not None
        assert path.read_bytes() == picture(1)
        [event] = world.events
        assert isinstance(event, MediaReceived)
        assert (event.file_id, event.path, event.file_name) == (file_id, path, "cat.png")
        assert (event.width, event.height, event.node) == (4, 3, ADA)
        world.show(media, picture(1), 2000)
        await wait_all_tasks_blocked()
        assert len(world.events) == len(world.begun) == 1, "shown again it is the same picture"
        assert (media.statistics().kept, media.statistics().kept_bytes, media.statistics().fetched) == (1, 100, 1)


async def test_the_newest_that_fit_are_fetched_and_the_oldest_make_room(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        first, second, third = (world.show(media, picture(number), number) for number in (1, 2, 3))
        await wait_all_tasks_blocked()
        assert world.begun == [], "until all offers that are stored are known"
        for number in (1, 2, 3, 4):
            world.hold(picture(number))
        media.settle()
        await wait_all_tasks_blocked()
        assert sorted(world.begun) == sorted([second, third])
        fourth = world.show(media, picture(4), 4)
        await wait_all_tasks_blocked()
        assert [media.path_of(file_id) is not None for file_id in (first, second, third, fourth)] == [
            False,
            False,
            True,
            True,
        ]
        assert set(world.table) == {third, fourth}, "what is gone is not served any more"
        assert len(world.files()) == 2


async def test_a_picture_that_does_not_fit_at_all_is_not_fetched(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.show(media, picture(1, 251), 2)
        small = world.show(media, picture(2), 1)
        await wait_all_tasks_blocked()
        assert world.begun == [small]


async def test_without_a_cache_nothing_is_fetched_and_what_was_there_goes(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.hold(picture(1))
        world.show(media, picture(1), 1)
        await wait_all_tasks_blocked()
        assert len(world.files()) == 1
    world._size_bytes = 0
    async with world.open() as media:
        world.show(media, picture(1), 1)
        world.show(media, picture(2), 2)
        media.settle()
        await wait_all_tasks_blocked()
        assert len(world.begun) == 1
        assert (world.table, world.files()) == ({}, set())


@pytest.mark.parametrize("size_bytes", [200, 300], ids=["than what else is wanted", "than the cache"])
async def test_a_picture_that_turns_out_larger_is_fetched_once_and_floods_nobody(
    tmp_path: Path, jumping_clock: MockClock, size_bytes: int
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.hold(picture(1))
        newer = world.show(media, picture(1), 2)
        world.hold(picture(2, size_bytes))
        world.show(media, picture(2, size_bytes), 1, size_bytes=10)
        await trio.sleep(1000)
        assert len(world.begun) == 2
        assert set(world.table) == {newer}
        assert len(world.files()) == 1
        assert newer in world.received()


async def test_an_own_offer_of_a_picture_in_the_cache_is_served_on_when_that_goes(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.hold(picture(1))
        file_id = world.show(media, picture(1), 1)
        await wait_all_tasks_blocked()
        world.table[file_id] = tmp_path / "mine.png"
        world.show(media, picture(2), 2)
        await wait_all_tasks_blocked()
        assert media.path_of(file_id) == tmp_path / "mine.png"
        assert world.table[file_id] == tmp_path / "mine.png"
        assert len(world.files()) == 1, "the part of the other one"


async def test_after_a_restart_pictures_are_there_and_those_withdrawn_meanwhile_go(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        kept, gone = world.show(media, picture(1), 1), world.show(media, picture(2), 2)
        world.hold(picture(1))
        world.hold(picture(2))
        await wait_all_tasks_blocked()
        unfinished = world.show(media, picture(3), 3)
        await wait_all_tasks_blocked()
        assert unfinished in world.fetching
    world.events.clear()
    async with world.open() as media:
        world.show(media, picture(1), 1)
        assert media.path_of(kept) is not None
        media.settle()
        await wait_all_tasks_blocked()
        assert media.path_of(kept) is not None
        assert media.path_of(gone) is None
        assert set(world.table) == {kept}
        assert len(world.files()) == 1, "the part of the third is gone as well"
        assert world.events == []


async def test_a_withdrawn_picture_goes_whether_it_is_here_or_on_its_way(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        here, coming = world.show(media, picture(1), 1), world.show(media, picture(2), 2)
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        for file_id in (here, coming):
            world.withdraw(media, file_id)
        await wait_all_tasks_blocked()
        assert (world.fetching, world.table, world.files()) == ([], {}, set())
        world.hold(picture(2))
        await wait_all_tasks_blocked()
        assert world.received() == [here]


async def test_pictures_whose_holders_are_away_give_way_to_others(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path, size_bytes=10_000)
    async with world.open() as media:
        media.settle()
        absent = [world.show(media, picture(number), 100 + number) for number in range(8)]
        await wait_all_tasks_blocked()
        assert sorted(world.fetching) == sorted(absent[4:]), "the newest first"
        there = world.show(media, picture(9), 1)
        world.hold(picture(9))
        await trio.sleep(200)
        assert world.received() == [there]
        world.hold(picture(0))
        await trio.sleep(200)
        assert world.received() == [there, absent[0]]


async def test_while_nobody_else_waits_a_fetch_is_not_interrupted(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        file_id = world.show(media, picture(1), 1)
        await trio.sleep(10_000)
        assert world.begun == [file_id]


async def test_own_pictures_and_downloads_are_not_copied(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    mine, before = tmp_path / "mine.png", tmp_path / "before.png"
    for path, number in ((mine, 1), (before, 2)):
        path.write_bytes(picture(number))
        world.table[id_of(picture(number))] = path
    async with world.open() as media:
        known = world.show(media, picture(2), 1)
        media.settle()
        await wait_all_tasks_blocked()
        assert world.events == [], "it was here when this device was last in the pool"
        file_id = world.show(media, picture(1), 2)
        await wait_all_tasks_blocked()
        assert world.begun == []
        assert world.received() == [file_id]
        assert (media.path_of(file_id), media.path_of(known)) == (mine, before)
        world.withdraw(media, file_id)
        await wait_all_tasks_blocked()
        assert mine.exists()


async def test_a_picture_is_saved_under_its_own_name_and_never_over_something(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        file_id = world.show(media, picture(1), 1)
        with pytest.raises(UnknownFile):
            await media.save_as(file_id, tmp_path)
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        saved = await media.save_as(file_id, tmp_path)
        assert saved == tmp_path / "cat.png"
        assert saved.read_bytes() == picture(1)
        with pytest.raises(OutputExists):
            await media.save_as(file_id, tmp_path)
        assert (await media.save_as(file_id, tmp_path / "other.png")).read_bytes() == picture(1)


async def test_a_damaged_picture_is_not_saved_but_fetched_again(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        file_id = world.show(media, picture(1), 1)
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        world.table[file_id].write_bytes(picture(2))
        with pytest.raises(SourceUnavailable):
            await media.save_as(file_id, tmp_path)
        await trio.sleep(100)
        assert world.begun == [file_id, file_id]
        assert (await media.save_as(file_id, tmp_path)).read_bytes() == picture(1)


async def test_a_picture_that_somebody_removed_from_the_cache_is_fetched_again(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        file_id = world.show(media, picture(1), 1)
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        world.table.pop(file_id).unlink()
        media.lost(file_id)
        await trio.sleep(100)
        assert world.table[file_id].read_bytes() == picture(1)


async def test_a_full_disk_is_told_once_and_tried_again_until_there_is_room(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.failure = DiskFull("no space left")
        world.hold(picture(1))
        file_id = world.show(media, picture(1), 1)
        await trio.sleep(100)
        assert [event.code for event in world.events if isinstance(event, ErrorReported)] == ["disk_full"]
        assert 3 <= len(world.begun) <= 5
        world.failure = None
        await trio.sleep(100)
        assert world.received() == [file_id]


async def test_what_is_wrong_with_one_picture_delays_no_other(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        world.failure = StoreError("that offer says it is empty, and its id says it is not")
        world.hold(picture(1))
        bad = world.show(media, picture(1), 1)
        await wait_all_tasks_blocked()
        world.failure = None
        good = world.show(media, picture(2), 2)
        world.hold(picture(2))
        await wait_all_tasks_blocked()
        assert world.received() == [good]
        assert world.begun.count(bad) == 1, "it has had its turn"
        assert not any(isinstance(event, ErrorReported) for event in world.events)
        await trio.sleep(60)
        assert set(world.received()) == {good, bad}


async def test_a_picture_that_is_withdrawn_while_it_comes_is_no_error_and_delays_no_other(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.open() as media:
        media.settle()
        withdrawn = world.show(media, picture(1), 1)
        await wait_all_tasks_blocked()
        world.failure = UnknownFile("withdrawn by everybody")
        world.hold(picture(1))
        await wait_all_tasks_blocked()
        world.withdraw(media, withdrawn)
        world.failure = None
        world.hold(picture(2))
        other = world.show(media, picture(2), 2)
        await wait_all_tasks_blocked()
        assert world.received() == [other]
        assert not any(isinstance(event, ErrorReported) for event in world.events)


async def test_what_is_told_of_an_own_picture_is_its_name_its_size_and_how_it_looks(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "cat.png"
    image.new("RGB", (40, 30), "red").save(path)
    file = LocalFile(
        file_id=FileId(bytes(32)),
        name="a cat",
        size_bytes=path.stat().st_size,
        path=path,
        mtime_ns=path.stat().st_mtime_ns,
        is_own=True,
    )
    async with World(tmp_path).open() as media:
        body = await media.prepare(file)
    assert (body.file_id, body.name, body.size) == (file.file_id, "a cat", file.size_bytes)
    assert (body.width, body.height) == (40, 30)
    assert body.preview.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("size_bytes", [0, MAX_MEDIA_SIZE + 1])
async def test_what_is_empty_or_too_large_is_not_shown(tmp_path: Path, size_bytes: int) -> None:
    file = LocalFile(
        file_id=FileId(bytes(32)), name="x", size_bytes=size_bytes, path=tmp_path / "x", mtime_ns=1, is_own=True
    )
    async with World(tmp_path).open() as media:
        with pytest.raises(LocalError):
            await media.prepare(file)
