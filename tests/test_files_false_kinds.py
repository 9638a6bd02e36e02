"""A member that offers a file of somebody else as what it is not, with an earlier stamp: the true offer stays."""

import shutil
from pathlib import Path

import pytest
import trio
from file_overlay import Overlay, files_of, hearing, look, until, write_file
from file_pool import tell
from test_files_kinds import make_folder, shown
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.errors import StoreError, UnknownFile
from poolnet.events import MediaReceived
from poolnet.file_manager import FileManager
from poolnet.ids import DeviceId, FileId
from poolnet.limits import KIB, MAX_MEDIA_SIZE, MIB
from poolnet.testing.chunk_links import Uplink
from poolnet.wire.bodies import FolderBody, MediaBody, OfferBody

pytestmark = pytest.mark.timeout(30)
LIAR = DeviceId(bytes([77]) * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def claim_file(files: FileManager, file_id: FileId, size: int) -> None:
    tell(files, LIAR, OfferBody(file_id=file_id, name="root", size=size), Hlc(0))


def claim_folder(files: FileManager, file_id: FileId, size: int) -> None:
    body = FolderBody(
        file_id=file_id, list_id=FileId(bytes([5]) * 32), name="lie", size=size, list_size=9, file_count=1
    )
    tell(files, LIAR, body, Hlc(0))


def claim_picture(files: FileManager, file_id: FileId, size: int) -> None:
    body = MediaBody(file_id=file_id, name="lie.png", size=size, width=1, height=1, preview=b"")
    tell(files, LIAR, body, Hlc(0))


async def test_a_file_that_is_called_a_folder_is_listed_and_fetched_as_what_it_is(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "letter", 300 * KIB)
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        offer = await files_of(a).offer(source)
        claim_folder(files, offer.file_id, offer.size_bytes)
        listed = {(info.name, info.kind, info.nodes) for info in files.offers()}
        assert listed == {("letter", "file", (a.node,)), ("lie", "folder", (LIAR,))}
        assert files.find("letter").kind == "file"
        with pytest.raises(UnknownFile, match="as a media"):
            await files.download(offer.file_id, pool.home(2), kind="media")
        path = await files.download(offer.file_id, pool.home(2), kind="file")
        assert path.read_bytes() == source.read_bytes()
        assert {info.kind: info.state for info in files.offers()} == {"file": "complete", "folder": "offered"}
        assert files_of(a).find("letter").kind == "file"


async def test_a_folder_that_is_called_a_file_is_fetched_as_a_folder(pool: Overlay, jumping_clock: MockClock) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        offer = await files_of(a).offer_folder(root)
        claim_file(files, offer.file_id, offer.size_bytes)
        found = files.find("root", kind="folder")
        assert (found.kind, found.nodes, found.file_count) == ("folder", (a.node,), 13)
        blob = await files.download(offer.file_id, pool.home(2) / "blob", kind="file")
        assert blob.is_file()
        assert files.find("root", kind="folder").state == "offered"
        assert look(await files.download(offer.file_id, pool.home(2) / "folder", kind="folder")) == look(root)
        assert files.find("root", kind="folder").local_path == pool.home(2) / "folder"
        async with pool.device(3, is_settled=True) as c, pool.linked(b, c):
            assert look(await files_of(c).download(offer.file_id, pool.home(3))) == look(root)


async def test_a_picture_that_is_none_does_not_hold_up_the_folder_that_it_is(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    write_file(root / "too large", MAX_MEDIA_SIZE)
    async with shown(pool) as (a, b, heard):
        offer = await files_of(a).offer_folder(root)
        claim_picture(files_of(b), offer.file_id, 1000)
        await trio.sleep(1)  # it is being fetched, with a size that is a lie
        with trio.fail_after(20):
            path = await files_of(b).download(offer.file_id, pool.home(2), kind="folder")
        assert look(path) == look(root)
        await trio.sleep(200)
        found = files_of(b).find("root")
        assert (found.state, found.local_path) == ("complete", path)
        assert heard.all_of(MediaReceived) == []
        assert look(pool.home(2) / "manager" / "media") == {}


async def test_a_folder_replaces_the_picture_that_it_was_taken_for_and_stays_when_that_goes(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with shown(pool) as (a, b, heard):
        offer = await files_of(a).offer_folder(root)
        claim_picture(files_of(b), offer.file_id, offer.size_bytes)
        await heard.first(MediaReceived)
        assert files_of(b).find("root").state == "offered", "what is here is no folder"
        path = await files_of(b).download(offer.file_id, pool.home(2), kind="folder")
        await until(lambda: look(pool.home(2) / "manager" / "media") == {})
        async with pool.device(3, is_settled=True) as c, pool.linked(b, c):
            assert look(await files_of(c).download(offer.file_id, pool.home(3), kind="folder")) == look(path)
        assert files_of(b).find("root").state == "complete"


async def test_the_list_of_a_folder_that_is_called_a_picture_is_still_a_list(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1, is_settled=True) as a, hearing(a) as author:
        async with pool.device(2, is_settled=True, media_cache_bytes=100 * KIB) as b, pool.linked(a, b):
            offer = await files_of(a).offer_folder(root)
            body = next(body for body in pool.published if isinstance(body, FolderBody))
            for device in (a, b):
                claim_picture(files_of(device), body.list_id, body.list_size)
            await until(lambda: look(pool.home(2) / "manager" / "media") != {})
            assert look(await files_of(b).download(offer.file_id, pool.home(2))) == look(root)
            files_of(b).learned_retraction(LIAR, body.list_id, Hlc(99))
            await until(lambda: look(pool.home(2) / "manager" / "media") == {})
            part = await files_of(b).download(offer.file_id, pool.home(2) / "part", only=["1"])
            assert set(look(part)) == {name for name in look(root) if name[0] == "1"}
        assert author.all_of(MediaReceived) == [], "its own list is no picture"


async def test_a_folder_that_is_none_is_not_fetched_and_the_file_is(pool: Overlay, jumping_clock: MockClock) -> None:
    source = write_file(pool.tmp_path / "letter", 600 * KIB)
    other = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        offer = await files_of(a).offer(source)
        await files_of(a).offer_folder(other)
        lists = next(body for body in pool.published if isinstance(body, FolderBody))
        lie = FolderBody(
            file_id=offer.file_id,
            list_id=lists.list_id,
            name="lie",
            size=offer.size_bytes,
            list_size=lists.list_size,
            file_count=1,
        )
        tell(files, LIAR, lie, Hlc(0))
        with pytest.raises(StoreError, match="another one"):
            await files.download(offer.file_id, pool.home(2), kind="folder")
        assert (await files.download(offer.file_id, pool.home(2), kind="file")).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("what", ["is edited", "is retracted"])
async def test_a_download_goes_on_when_what_is_served_of_the_same_id_is_served_no_more(
    pool: Overlay, jumping_clock: MockClock, what: str
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1, uplink=Uplink(MIB)) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        offer = await files_of(a).offer_folder(root)
        shutil.copytree(root, pool.home(2) / "mine")
        assert (await files.offer_folder(pool.home(2) / "mine")).file_id == offer.file_id
        claim_file(files, offer.file_id, offer.size_bytes)
        await files.start_download(offer.file_id, pool.home(2) / "blob", kind="file")
        await trio.sleep(1)
        if what == "is edited":
            (pool.home(2) / "mine" / "large").write_bytes(b"edited")
            await trio.sleep(20)
        else:
            await files.retract(offer.file_id)
        await until(lambda: [info.state for info in files.downloads()] == ["complete"])
        assert (pool.home(2) / "blob").stat().st_size == offer.size_bytes
