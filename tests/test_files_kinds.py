"""Folders, pictures and streams between whole FileManagers: offered, fetched, changed, and restarted in the middle."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
from file_overlay import Heard, Overlay, files_of, hearing, look, until, write_file
from file_pool import POOL_ID
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.errors import LocalError, OutputExists, StoreError, StreamAborted, UnknownFile
from poolnet.events import DownloadComplete, FileOffered, MediaReceived, OfferRetracted, SourceLost
from poolnet.file_manager import FileManager, open_file_manager
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, FileId, MsgId, encode_id
from poolnet.limits import CHUNK_SIZE, KIB, MIB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.testing.chunk_links import FileNode, Uplink
from poolnet.wire.bodies import Body, FolderBody, OfferBody, RetractOfferBody, StreamBody

pytestmark = pytest.mark.timeout(30)
SOMEBODY = DeviceId(bytes([77]) * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def make_folder(root: Path) -> Path:
    """Make a folder of some 5 MiB."""
    for number in range(12):
        path = root / f"{number % 3}" / f"{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, number * 40_000, seed=number)
    write_file(root / "large", 9 * CHUNK_SIZE + 1, seed=99)
    return root


# --- folders ----------------------------------------------------------------------------------------------------


async def test_a_folder_arrives_and_is_served_on_when_its_author_has_left(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(2) as b:
        async with pool.device(1) as a, pool.linked(a, b):
            offer = await files_of(a).offer_folder(root)
            assert (offer.kind, offer.file_count) == ("folder", 13)
            path = await files_of(b).download(offer.file_id, pool.home(2))
            assert path == pool.home(2) / "root"
            assert look(path) == look(root)
        async with pool.device(3, is_settled=True) as c, pool.linked(b, c):
            assert look(await files_of(c).download(offer.file_id, pool.home(3))) == look(root)
            assert [(info.name, info.state) for info in files_of(c).offers()] == [("root", "complete")]


async def test_this_device_counts_as_a_holder_of_what_it_has(pool: Overlay, jumping_clock: MockClock) -> None:
    source = write_file(pool.tmp_path / "letter", 4 * MIB)
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer(source)
        assert offer.holders == 1, "who offers it is counted once"
        assert files_of(b).find("letter").holders == 1
        await files_of(b).start_download(offer.file_id, pool.home(2))
        await until(lambda: files_of(b).find("letter").done_bytes > 0)
        assert files_of(b).find("letter").holders == 2
        await until(lambda: files_of(b).find("letter").state == "complete")
        assert files_of(b).find("letter").holders == 2


async def test_of_a_part_of_a_folder_no_more_is_fetched_and_the_rest_can_follow(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        path = await files_of(b).download(offer.file_id, pool.home(2) / "some", only=["2", "1/01"])
        expected = {name: data for name, data in look(root).items() if name[0] == "2" or name == "1/01"}
        assert look(path) == expected
        assert a.uplink.sent_bytes < sum(map(len, expected.values())) + 4 * CHUNK_SIZE
        assert files_of(b).find("root").state == "offered"
        with pytest.raises(UnknownFile):
            await files_of(b).download(offer.file_id, pool.home(2) / "none", only=["nothing of the kind"])
        assert look(await files_of(b).download(offer.file_id, pool.home(2) / "all")) == look(root)


async def test_what_is_in_a_folder_can_be_listed_before_it_is_fetched(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    (root / "empty").mkdir()
    async with pool.device(1) as a, pool.device(2) as b, hearing(b) as heard:
        letter = await files_of(a).offer(write_file(pool.tmp_path / "letter", 10))
        offer = await files_of(a).offer_folder(root)
        expected = {(name, len(data)) for name, data in look(root).items()} | {("empty", 0)}
        own = await files_of(a).list_folder(offer.file_id)
        assert {(entry.path, entry.size_bytes) for entry in own} == expected
        with trio.move_on_after(100) as waiting:
            await files_of(b).list_folder(offer.file_id)
        assert waiting.cancelled_caught, "nobody who has it is there"
        async with pool.linked(a, b):
            assert await files_of(b).list_folder(offer.file_id) == own
            assert a.uplink.sent_bytes < 10 * KIB
            with pytest.raises(LocalError):
                await files_of(b).list_folder(letter.file_id)
        assert await files_of(b).list_folder(offer.file_id) == own, "the list is here"
        assert files_of(b).downloads() == heard.all_of(DownloadComplete) == []
        assert {info.name for info in files_of(b).offers()} == {"letter", "root"}


async def test_who_waits_for_the_list_of_a_folder_is_told_when_that_is_withdrawn(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, trio.open_nursery() as nursery:
        offer = await files_of(a).offer_folder(root)

        async def wait() -> None:
            with pytest.raises(UnknownFile):
                await files_of(b).list_folder(offer.file_id)

        nursery.start_soon(wait)
        await trio.sleep(1)
        await files_of(a).retract(offer.file_id)
        with pytest.raises(UnknownFile):
            await files_of(b).list_folder(offer.file_id)


async def test_a_list_that_does_not_fit_its_folder_is_not_shown(pool: Overlay, jumping_clock: MockClock) -> None:
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        await files_of(a).offer_folder(make_folder(pool.tmp_path / "root"))
        body = next(body for body in pool.published if isinstance(body, FolderBody))
        pool.publish(SOMEBODY, attrs.evolve(body, file_id=FileId(bytes(32)), size=body.size + 1, name="lie"))
        no_list = await files_of(a).offer(write_file(pool.tmp_path / "letter", 1000))
        pool.publish(SOMEBODY, attrs.evolve(body, file_id=SOMEBODY, list_id=no_list.file_id, list_size=1000, name="no"))
        for name in ("lie", "no"):
            with pytest.raises(StoreError):
                await files_of(b).list_folder(files_of(b).find(name).file_id)


async def test_two_parts_of_a_folder_go_to_two_places_and_stay_apart(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        await files_of(b).start_download(offer.file_id, pool.home(2) / "first", only=["large", "1"])
        await until(lambda: files_of(b).downloads()[0].done_bytes > MIB)
        await files_of(b).pause(offer.file_id)
        with trio.fail_after(60):
            path = await files_of(b).download(offer.file_id, pool.home(2) / "second", only=["2"])
        assert look(path) == {name: data for name, data in look(root).items() if name[0] == "2"}
        await files_of(b).resume(offer.file_id)
        await until(lambda: {info.state for info in files_of(b).downloads()} == {"complete"})
        expected = {name: data for name, data in look(root).items() if name[0] in "l1"}
        assert look(pool.home(2) / "first") == expected


async def test_a_part_of_a_folder_is_served_on_also_after_a_restart(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2, is_settled=True) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        await files_of(b).download(offer.file_id, pool.home(2), only=["large", "1"])
        assert files_of(b).find("root").state == "offered"
    large = (root / "large").read_bytes()
    inside = len(large) // CHUNK_SIZE * CHUNK_SIZE - CHUNK_SIZE  # in chunks with nothing else in them
    async with pool.device(2, is_settled=True) as b, pool.device(3, is_settled=True) as c, pool.linked(b, c):
        await files_of(c).start_download(offer.file_id, pool.home(3), only=["large"])
        await until(lambda: files_of(c).downloads()[0].done_bytes >= inside)
        async with pool.device(1, is_settled=True) as a, pool.linked(a, c):
            await until(lambda: files_of(c).downloads()[0].state == "complete")
            assert a.uplink.sent_bytes < 5 * CHUNK_SIZE
    assert look(pool.home(3) / "root") == {"large": large}


async def test_a_part_of_a_folder_that_was_edited_is_served_no_more(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, hearing(b) as heard:
        offer = await files_of(a).offer_folder(root)
        async with pool.linked(a, b):
            path = await files_of(b).download(offer.file_id, pool.home(2), only=["large"])
        (path / "large").write_bytes(bytes((root / "large").stat().st_size))
        async with pool.device(3, is_settled=True) as c, pool.linked(b, c):
            with trio.move_on_after(100) as waiting:
                await files_of(c).download(offer.file_id, pool.home(3), only=["large"])
            assert waiting.cancelled_caught
            async with pool.linked(a, c):
                arrived = await files_of(c).download(offer.file_id, pool.home(3), only=["large"])
            assert look(arrived) == {"large": (root / "large").read_bytes()}
        assert heard.all_of(SourceLost) == [], "this device never offered it"


async def test_who_has_a_part_of_a_folder_relays_the_rest_of_it(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c, pool.chain(a, b, c):
        offer = await files_of(a).offer_folder(root)
        await files_of(b).download(offer.file_id, pool.home(2), only=["large"])
        with trio.fail_after(100):
            assert look(await files_of(c).download(offer.file_id, pool.home(3))) == look(root)
        await files_of(b).download(offer.file_id, pool.home(2) / "all")
        assert files_of(b).find("root").state == "complete"
        await files_of(a).retract(offer.file_id)
        await until(lambda: not list((pool.home(2) / "manager" / "trees").iterdir()))


async def test_a_part_of_a_folder_that_is_withdrawn_is_forgotten(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        path = await files_of(b).download(offer.file_id, pool.home(2), only=["large"])
        await files_of(a).retract(offer.file_id)
        await until(lambda: not list((pool.home(2) / "manager" / "trees").iterdir()))
        assert look(pool.home(2) / "manager" / "folders") == {}
        assert set(look(path)) == {"large"}


async def test_of_a_folder_that_is_offered_again_only_what_changed_is_fetched(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        first = await files_of(a).offer_folder(root)
        await files_of(b).download(first.file_id, pool.home(2) / "old")
        before = a.uplink.sent_bytes
        write_file(root / "1" / "new", 1000)
        (root / "0" / "00").write_bytes(b"edited")
        (root / "2" / "02").unlink()
        second = await files_of(a).offer_folder(root)
        path = await files_of(b).download(second.file_id, pool.home(2) / "new")
        assert look(path) == look(root)
        assert a.uplink.sent_bytes - before < 4 * CHUNK_SIZE
        await until(lambda: [info.file_id for info in files_of(b).offers()] == [second.file_id])
        assert [info.file_id for info in files_of(a).offers()] == [second.file_id], "the earlier one is withdrawn"


async def test_a_folder_goes_on_after_both_sides_were_restarted_in_the_middle(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        await files_of(b).start_download(offer.file_id, pool.home(2))
        await until(lambda: files_of(b).find("root").done_bytes > 2 * MIB)
        sent = a.uplink.sent_bytes
    async with shown(pool) as (a, b, heard):
        await heard.first(DownloadComplete)
        assert look(pool.home(2) / "root") == look(root)
        assert a.uplink.sent_bytes + sent < offer.size_bytes + 8 * CHUNK_SIZE
        assert not (pool.home(2) / "root.part").exists()


async def test_a_folder_that_changes_is_withdrawn_and_its_download_ends(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, hearing(a) as heard, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def fetch() -> None:
                with pytest.raises(UnknownFile, match="withdrawn"):
                    await files_of(b).download(offer.file_id, pool.home(2))

            await until(lambda: files_of(b).find("root").done_bytes > 0)
            (root / "large").unlink()
        lost = await heard.first(SourceLost)
        assert (lost.file_id, lost.path) == (offer.file_id, root)
        assert files_of(a).offers() == files_of(b).offers() == []


@pytest.mark.parametrize("is_whole", [False, True])
async def test_of_a_folder_that_is_withdrawn_nothing_is_kept_about_it(
    pool: Overlay, jumping_clock: MockClock, is_whole: bool
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        offer = await files_of(a).offer_folder(root)
        if is_whole:
            await files_of(b).download(offer.file_id, pool.home(2))
        part = await files_of(b).download(offer.file_id, pool.home(2) / "part", only=["1"])
        await files_of(a).retract(offer.file_id)
        await until(lambda: not files_of(b).offers())
        assert not is_whole or look(pool.home(2) / "root") == look(root)
        assert (part / "1" / "01").exists()
    for number in (1, 2):
        async with pool.device(number, is_settled=True) as device:
            assert files_of(device).offers() == []
        kept = {path for path in look(pool.home(number) / "manager") if path.split("/")[0] in ("trees", "folders")}
        assert kept == set(), number


async def test_a_cancelled_offer_of_a_folder_leaves_nothing_behind(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    for checkpoints in range(0, 30, 3):
        async with pool.device(1, is_settled=True) as a:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(files_of(a).offer_folder, root)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            for info in files_of(a).offers():
                await files_of(a).retract(info.file_id)
        async with pool.device(1, is_settled=True) as a:
            assert files_of(a).statistics().served == 0, checkpoints
        kept = {path for path in look(pool.home(1) / "manager") if path.split("/")[0] in ("trees", "folders")}
        assert kept == set(), checkpoints


# --- pictures ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def shown(pool: Overlay) -> AsyncIterator[tuple[FileNode, FileNode, Heard]]:
    """Two devices that are linked and fetch pictures, and what the second one tells."""
    async with (
        pool.device(1, is_settled=True) as a,
        pool.device(2, is_settled=True) as b,
        hearing(b) as heard,
        pool.linked(a, b),
    ):
        yield a, b, heard


async def receive(heard: Heard, file_id: FileId) -> MediaReceived:
    """Wait until a picture is here."""
    await until(lambda: any(event.file_id == file_id for event in heard.all_of(MediaReceived)))
    return next(event for event in heard.all_of(MediaReceived) if event.file_id == file_id)


async def test_a_picture_is_fetched_by_everyone_and_can_be_saved(pool: Overlay, jumping_clock: MockClock) -> None:
    source = write_file(pool.tmp_path / "cat.png", 300 * KIB)
    async with (
        pool.device(1, is_settled=True) as a,
        pool.device(2, is_settled=True) as b,
        hearing(a) as author,
        hearing(b) as heard,
        pool.linked(a, b),
    ):
        offer = await files_of(a).offer_media(source)
        event = await receive(heard, offer.file_id)
        assert (event.file_name, event.node) == ("cat.png", a.node)
        assert event.path.parent == pool.home(2) / "manager" / "media"
        assert event.path.read_bytes() == source.read_bytes()
        assert heard.all_of(FileOffered)[0].kind == "media"
        assert heard.all_of(DownloadComplete) == [], "nobody asked for a download"
        assert files_of(b).downloads() == []
        saved = await files_of(b).save_as(offer.file_id, pool.home(2))
        assert saved == pool.home(2) / "cat.png"
        assert saved.read_bytes() == source.read_bytes()
        with pytest.raises(OutputExists):
            await files_of(b).save_as(offer.file_id, pool.home(2))
        assert look(pool.home(1) / "manager" / "media") == {}, "own pictures are where they are"
        assert author.all_of(MediaReceived) == []
        assert (await files_of(a).save_as(offer.file_id, pool.home(1))).read_bytes() == source.read_bytes()


async def test_a_picture_that_somebody_else_holds_is_served_on(pool: Overlay, jumping_clock: MockClock) -> None:
    source = write_file(pool.tmp_path / "cat.png", 300 * KIB)
    async with pool.device(2, is_settled=True) as b, hearing(b) as heard:
        async with pool.device(1, is_settled=True) as a, pool.linked(a, b):
            offer = await files_of(a).offer_media(source)
            await receive(heard, offer.file_id)
        async with pool.device(3, is_settled=True) as c, hearing(c) as later, pool.linked(b, c):
            assert (await receive(later, offer.file_id)).path.read_bytes() == source.read_bytes()


async def test_the_oldest_pictures_make_room_and_are_not_served_any_more(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1, is_settled=True) as a,
        pool.device(2, is_settled=True, media_cache_bytes=700 * KIB) as b,
        hearing(b) as heard,
        pool.linked(a, b),
    ):
        ids = []
        for number in range(4):
            offer = await files_of(a).offer_media(write_file(pool.tmp_path / f"{number}.png", 300 * KIB, number))
            ids.append(offer.file_id)
            await receive(heard, offer.file_id)
        await until(lambda: len(look(pool.home(2) / "manager" / "media")) == 2)
        assert files_of(b).find("3.png").file_id == ids[3]
        states = {info.name: info.state for info in files_of(b).offers()}
        assert states == {"0.png": "offered", "1.png": "offered", "2.png": "complete", "3.png": "complete"}
        with pytest.raises(UnknownFile):
            await files_of(b).save_as(ids[0], pool.home(2))
        assert (await files_of(b).download(ids[0], pool.home(2))).read_bytes() == (pool.tmp_path / "0.png").read_bytes()


async def test_pictures_survive_a_restart_and_those_withdrawn_meanwhile_go(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    sources = [write_file(pool.tmp_path / f"{number}.png", 100 * KIB, number) for number in range(2)]
    async with pool.device(1, is_settled=True) as a:
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            kept, gone = [(await files_of(a).offer_media(source)).file_id for source in sources]
            for file_id in (kept, gone):
                await receive(heard, file_id)
        sent = a.uplink.sent_bytes
        await files_of(a).retract(gone)
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            await until(lambda: len(look(pool.home(2) / "manager" / "media")) == 1)
            saved = await files_of(b).save_as(kept, pool.home(2))
            assert saved.read_bytes() == sources[0].read_bytes()
            await trio.sleep(100)
            assert heard.all_of(MediaReceived) == [], "it is not news"
        assert a.uplink.sent_bytes == sent, "it was not fetched again"


async def test_a_picture_is_fetched_to_its_end_after_a_restart_in_the_middle(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "large.png", 3 * MIB)
    async with pool.device(1, uplink=Uplink(MIB), is_settled=True) as a:
        async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
            offer = await files_of(a).offer_media(source)
            await until(lambda: files_of(b).find("large.png").done_bytes > MIB)
        sent = a.uplink.sent_bytes
        async with pool.device(2, is_settled=True) as b, hearing(b) as heard, pool.linked(a, b):
            assert (await receive(heard, offer.file_id)).path.read_bytes() == source.read_bytes()
        assert a.uplink.sent_bytes - sent < 3 * MIB


async def test_a_damaged_picture_in_the_cache_is_fetched_again_without_any_fuss(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "cat.png", 300 * KIB)
    async with shown(pool) as (a, _b, heard):
        offer = await files_of(a).offer_media(source)
        path = (await receive(heard, offer.file_id)).path
        path.write_bytes(b"damaged")
        await until(lambda: path.exists() and path.read_bytes() == source.read_bytes(), within_s=120)
        assert heard.all_of(SourceLost) == []
        assert not [body for body in pool.published if isinstance(body, RetractOfferBody)]


async def test_a_picture_of_the_cache_that_was_downloaded_as_well_is_copied(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "cat.png", 2 * MIB)
    async with shown(pool) as (a, b, heard):
        offer = await files_of(a).offer_media(source)
        await receive(heard, offer.file_id)
        sent = a.uplink.sent_bytes
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()
        assert a.uplink.sent_bytes == sent


# --- streams ----------------------------------------------------------------------------------------------------


class Author:
    """Publishes a stream, a bit at a time."""

    def __init__(self, files: FileManager) -> None:
        self.files = files
        self.content = b""
        self.stream_id = FileId(bytes(32))
        self.began = trio.Event()
        self.is_to_end = trio.Event()
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        """Publish until `is_to_end`; cancelled, it breaks off."""
        rng = random.Random(5)
        with self.scope:
            async with self.files.open_stream("film") as writer:
                self.stream_id = writer.stream_id
                self.began.set()
                while not self.is_to_end.is_set():
                    data = rng.randbytes(rng.choice([10, 5000, 2 * CHUNK_SIZE]))
                    self.content += data
                    await writer.send(data)
                    await trio.sleep(0.3)


class Watcher:
    """Reads a stream."""

    def __init__(self, files: FileManager, stream_id: FileId, *, from_start: bool) -> None:
        self.got = b""
        self.first_at = 0.0
        self.skipped_bytes = 0
        self.error: Exception | None = None
        self.is_over = trio.Event()
        self._files, self._stream_id, self._from_start = files, stream_id, from_start

    async def run(self) -> None:
        """Read to the end."""
        try:
            async with self._files.watch(self._stream_id, from_start=self._from_start) as reader:
                async for data in reader:
                    self.first_at = self.first_at or trio.current_time()
                    self.got += data
                self.skipped_bytes = reader.skipped_bytes
        except StreamAborted as exc:
            self.error = exc
        self.is_over.set()


async def test_a_stream_is_watched_from_its_start_and_live_one_behind_the_other(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as b,
        pool.device(3) as c,
        pool.chain(a, b, c),
        trio.open_nursery() as nursery,
    ):
        author = Author(files_of(a))
        nursery.start_soon(author.run)
        await author.began.wait()
        await trio.sleep(12)
        assert files_of(c).find("film").kind == "stream"
        before = len(author.content)
        early = Watcher(files_of(b), author.stream_id, from_start=True)
        live = Watcher(files_of(c), author.stream_id, from_start=False)
        for watcher in (early, live):
            nursery.start_soon(watcher.run)
        await trio.sleep(6)
        author.is_to_end.set()
        with trio.fail_after(60):
            await early.is_over.wait()
            await live.is_over.wait()
        assert early.got == author.content
        assert live.got.endswith(author.content[before:])
        assert 0 < len(live.got) <= len(author.content) - before + 4 * CHUNK_SIZE, "no more than the last moments"
        assert live.skipped_bytes <= before, "at most from what it was told first to what is new"
        assert a.uplink.sent_bytes < 1.1 * len(author.content), "the second got it from the first"


async def test_a_stream_is_watched_through_a_relay_that_does_not_watch(pool: Overlay, jumping_clock: MockClock) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as relay,
        pool.device(3) as c,
        pool.device(4) as d,
        pool.chain(a, relay, c),
        pool.linked(relay, d),
        trio.open_nursery() as nursery,
    ):
        author = Author(files_of(a))
        nursery.start_soon(author.run)
        await author.began.wait()
        watchers = [Watcher(files_of(device), author.stream_id, from_start=True) for device in (c, d)]
        for watcher in watchers:
            nursery.start_soon(watcher.run)
        await trio.sleep(8)
        for watcher in watchers:
            assert len(watcher.got) > len(author.content) - MIB, "it comes as it is sent"
        author.is_to_end.set()
        with trio.fail_after(60):
            for watcher in watchers:
                await watcher.is_over.wait()
        assert [watcher.got for watcher in watchers] == [author.content] * 2
        assert a.uplink.sent_bytes < 1.1 * len(author.content), "two behind one relay cost one upload"


async def test_a_finished_stream_becomes_an_offered_file_that_can_be_read_as_a_stream_too(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        async with trio.open_nursery() as nursery:
            author = Author(files_of(a))
            nursery.start_soon(author.run)
            await trio.sleep(5)
            author.is_to_end.set()
        offer = pool.published[-1]
        assert isinstance(offer, OfferBody)
        (shown,) = files_of(b).offers()
        assert (shown.kind, shown.name, shown.size_bytes) == ("file", "film", len(author.content))
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == author.content
        late = Watcher(files_of(b), author.stream_id, from_start=True)
        await late.run()
        assert late.got == author.content


@pytest.mark.parametrize("is_offered_before", [False, True])
async def test_a_finished_stream_is_gone_with_the_offer_of_the_file_that_it_became(
    pool: Overlay, is_offered_before: bool, jumping_clock: MockClock
) -> None:
    content = random.Random(3).randbytes(MIB)
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        if is_offered_before:
            (pool.tmp_path / "film").write_bytes(content)
            await files_of(a).offer(pool.tmp_path / "film")
        async with files_of(a).open_stream("film") as writer:
            await writer.send(content)
        if is_offered_before:
            await files_of(a).offer(pool.tmp_path / "film")
        (shown,) = files_of(b).offers()
        assert (shown.kind, shown.name) == ("file", "film")
        await files_of(a).retract(shown.file_id)
        await trio.sleep(1)
        for device in (a, b):
            assert files_of(device).offers() == []
            with pytest.raises(UnknownFile):
                async with files_of(device).watch(writer.stream_id):
                    pass


async def test_an_aborted_stream_tells_its_watcher_and_is_offered_no_more(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as b,
        hearing(b) as heard,
        pool.linked(a, b),
        trio.open_nursery() as nursery,
    ):
        author = Author(files_of(a))
        nursery.start_soon(author.run)
        await author.began.wait()
        watcher = Watcher(files_of(b), author.stream_id, from_start=True)
        nursery.start_soon(watcher.run)
        await trio.sleep(5)
        author.scope.cancel()
        with trio.fail_after(30):
            await watcher.is_over.wait()
        assert isinstance(watcher.error, StreamAborted)
        assert watcher.got == author.content
        assert (await heard.first(OfferRetracted)).file_id == author.stream_id
        assert files_of(b).offers() == []


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_whoever_comes_after_the_end_reads_the_file(
    pool: Overlay, is_restarted: bool, jumping_clock: MockClock
) -> None:
    async with pool.device(1, is_settled=True) as a:
        async with trio.open_nursery() as nursery:
            author = Author(files_of(a))
            nursery.start_soon(author.run)
            await trio.sleep(5)
            author.is_to_end.set()
        if not is_restarted:
            async with pool.device(2, is_settled=True) as b, pool.linked(a, b):
                watcher = Watcher(files_of(b), author.stream_id, from_start=True)
                with trio.fail_after(60):
                    await watcher.run()
                assert watcher.got == author.content
            return
    async with pool.device(1, is_settled=True) as a, pool.device(2, is_settled=True) as b, pool.linked(a, b):
        assert [info.state for info in files_of(a).offers()] == ["seeding"]
        watcher = Watcher(files_of(b), author.stream_id, from_start=True)
        with trio.fail_after(60):
            await watcher.run()
        assert watcher.got == author.content
        again = Watcher(files_of(b), author.stream_id, from_start=True)
        sent = a.uplink.sent_bytes
        await again.run()
        assert (again.got, a.uplink.sent_bytes) == (author.content, sent), "it is here by now"
        assert [(info.name, info.state) for info in files_of(b).offers()] == [("film", "complete")]


async def test_a_watcher_whose_author_restarts_is_told_that_the_stream_is_broken_off(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with pool.device(2, is_settled=True) as b:
        async with trio.open_nursery() as nursery:
            async with (
                pool.device(1, is_settled=True) as a,
                pool.linked(a, b) as link,
                trio.open_nursery() as publishing,
            ):
                author = Author(files_of(a))
                publishing.start_soon(author.run)
                await author.began.wait()
                watcher = Watcher(files_of(b), author.stream_id, from_start=True)
                nursery.start_soon(watcher.run)
                await trio.sleep(5)
                pool.cut(a, b, link)
                pool.crashing = a.node
                publishing.cancel_scope.cancel()
            pool.crashing = None
            async with pool.device(1, is_settled=True) as a, pool.linked(a, b):
                with trio.fail_after(60):
                    await watcher.is_over.wait()
                assert isinstance(watcher.error, StreamAborted)
                assert files_of(b).offers() == []
        kept = pool.home(1) / "manager" / "streams"
        assert [len(data) for data in look(kept).values()] == [len(author.content)], "what was sent is still there"


async def test_a_download_of_a_stream_that_was_watched_is_a_copy_if_it_was_read_as_a_file(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with pool.device(1, is_settled=True) as a, trio.open_nursery() as nursery:
        author = Author(files_of(a))
        nursery.start_soon(author.run)
        await trio.sleep(5)
        author.is_to_end.set()
    async with pool.device(1, is_settled=True) as a, pool.device(2, is_settled=True) as b, pool.linked(a, b):
        watcher = Watcher(files_of(b), author.stream_id, from_start=True)
        await watcher.run()
        sent = a.uplink.sent_bytes
        (shown,) = files_of(b).offers()
        path = await files_of(b).download(shown.file_id, pool.home(2))
        assert (path.name, path.read_bytes()) == ("film", author.content)
        assert a.uplink.sent_bytes == sent
        cached = pool.home(2) / "manager" / "streams" / encode_id(shown.file_id)
        assert cached.exists()


async def test_the_pool_is_asked_for_links_to_those_who_have_what_is_fetched_or_watched(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    wanted: list[frozenset[DeviceId]] = []

    async def publish(body: Body) -> MsgId:
        raise AssertionError("nothing is offered")

    nonce = bytes(16)
    stream_id = stream_id_of(SOMEBODY, POOL_ID, nonce)
    async with open_file_manager(pool.home(1), rng=random.Random(1)) as files:
        await files.bind(DeviceKey(bytes(32)), POOL_ID, publish, want_holders=wanted.append)
        files.learned_offer(SOMEBODY, StreamBody(nonce=nonce, name="radio"), Hlc(1), file_id=stream_id)
        async with files.watch(stream_id):
            assert wanted == [frozenset({SOMEBODY})]
        assert wanted[1:] == [frozenset()]
        file_id = FileId(bytes([9]) * 32)
        for number in (1, 2):
            body = OfferBody(file_id=file_id, name="x", size=5)
            files.learned_offer(DeviceId(bytes([number]) * 32), body, Hlc(1))
        await files.start_download(file_id, pool.tmp_path)
        await trio.sleep(1)
        assert {node[0] for node in wanted[-1]} == {1, 2}
        files.learned_retraction(DeviceId(bytes([1]) * 32), file_id, Hlc(2))
        assert {node[0] for node in wanted[-1]} == {2}
        await files.cancel(file_id)
        assert wanted[-1] == frozenset()
