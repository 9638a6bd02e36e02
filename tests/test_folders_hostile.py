"""Offers of a folder with a list that is not its own: the folder arrives all the same, and it costs who said that."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from file_overlay import Overlay, files_of, look, until, write_file
from file_pool import tell
from test_files_kinds import make_folder
from test_hostile_members import key_of, now_of, push
from test_pool import World
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.errors import StoreError, UnknownFile
from poolnet.identity.authorship import sign_message
from poolnet.ids import DeviceId, FileId
from poolnet.limits import CHUNK_SIZE, KIB
from poolnet.testing.chunk_links import FileNode
from poolnet.wire.bodies import FolderBody

pytestmark = pytest.mark.timeout(60)
LIARS = [DeviceId(bytes([70 + number]) * 32) for number in range(3)]
NOBODY_HAS = FileId(bytes([5]) * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def folder_with_other_names(root: Path, other: Path) -> Path:
    """Make a folder with files of the same sizes as in another one, and other names."""
    for path in root.rglob("*"):
        if path.is_file():
            renamed = other / path.relative_to(root).with_name(f"{path.name}.exe")
            renamed.parent.mkdir(parents=True, exist_ok=True)
            write_file(renamed, path.stat().st_size, seed=7)
    return other


async def body_of(pool: Overlay, device: FileNode, root: Path) -> FolderBody:
    """Offer a folder; return what was said of it."""
    offer = await files_of(device).offer_folder(root)
    return next(body for body in pool.published if isinstance(body, FolderBody) and body.file_id == offer.file_id)


def lie_to(device: FileNode, body: FolderBody, **changes: Any) -> None:
    """Tell a device, in the name of most and with earlier stamps than the truth, something else of a folder."""
    for number, liar in enumerate(LIARS):
        tell(files_of(device), liar, attrs.evolve(body, name="lie", **changes), Hlc(number))


@contextlib.asynccontextmanager
async def lied_to(pool: Overlay, lie: str) -> AsyncIterator[tuple[FileNode, FolderBody, Path]]:
    """A device that was told of a folder and, before that, a lie about its list; and where the folder is."""
    root = make_folder(pool.tmp_path / "root")
    other = folder_with_other_names(root, pool.tmp_path / "other")
    async with (
        pool.device(1) as a,
        pool.device(2) as b,
        pool.device(3) as eve,
        pool.linked(a, b),
        pool.linked(b, eve),
    ):
        body = await body_of(pool, a, root)
        if lie == "of a list that nobody has":
            lie_to(b, body, list_id=NOBODY_HAS)
        else:
            if lie == "of another size":
                write_file(other / "more", 1000)
            told = await body_of(pool, eve, other)
            lie_to(b, body, list_id=told.list_id, list_size=told.list_size, size=told.size)
        yield b, body, root


LIES = ["of a list that nobody has", "of a folder of the same size", "of another size"]


@pytest.mark.parametrize("lie", LIES)
async def test_a_folder_arrives_whatever_list_most_others_say_it_has(
    pool: Overlay, jumping_clock: MockClock, lie: str
) -> None:
    async with lied_to(pool, lie) as (b, body, root):
        with trio.fail_after(30):
            path = await files_of(b).download(body.file_id, pool.home(2) / "copy", kind="folder")
        assert look(path) == look(root)
        assert files_of(b).statistics().exchange.bad_pieces <= 1, "nothing but the size is doubted"


@pytest.mark.parametrize("lie", LIES)
async def test_a_part_of_a_folder_has_the_names_that_its_author_gave_it(
    pool: Overlay, jumping_clock: MockClock, lie: str
) -> None:
    async with lied_to(pool, lie) as (b, body, root):
        with pytest.raises(UnknownFile):
            await files_of(b).download(body.file_id, pool.home(2) / "lie", kind="folder", only=["large.exe"])
        with trio.fail_after(30):
            path = await files_of(b).download(body.file_id, pool.home(2) / "copy", kind="folder", only=["large"])
        assert look(path) == {"large": (root / "large").read_bytes()}


@pytest.mark.parametrize("lie", LIES)
async def test_what_is_in_a_folder_is_listed_as_its_author_wrote_it_if_others_say_otherwise(
    pool: Overlay, jumping_clock: MockClock, lie: str
) -> None:
    async with lied_to(pool, lie) as (b, body, root):
        with trio.fail_after(30):
            entries = await files_of(b).list_folder(body.file_id)
        assert {entry.path for entry in entries} == set(look(root))


async def test_who_lied_about_a_list_is_blamed_once_and_not_shown_any_more(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with lied_to(pool, LIES[0]) as (b, body, _root):
        await files_of(b).list_folder(body.file_id)
        assert [peer for peer, _ in pool.noted[b.node]] == LIARS
        assert [info.name for info in files_of(b).offers() if info.file_id == body.file_id] == ["root"]
        lie_to(b, body, list_id=NOBODY_HAS)
        assert files_of(b).find("root").nodes == (body_author(pool),)
        await files_of(b).download(body.file_id, pool.home(2) / "again", kind="folder")
        assert len(pool.noted[b.node]) == len(LIARS)


def body_author(pool: Overlay) -> DeviceId:
    return next(iter(pool.managers))


async def test_a_lie_that_comes_first_does_not_hold_up_what_its_author_says_later(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a:
        body = await body_of(pool, a, root)
        async with pool.device(2) as b, pool.linked(a, b):
            lie_to(b, body, list_id=NOBODY_HAS, size=body.size + CHUNK_SIZE)
            await files_of(b).start_download(body.file_id, pool.home(2) / "copy", kind="folder")
            await trio.sleep(60)
            assert [info.state for info in files_of(b).downloads()] == ["running"]
            tell(files_of(b), a.node, body, Hlc(100))
            await until(lambda: files_of(b).downloads()[0].state == "complete", within_s=30)
        assert look(pool.home(2) / "copy") == look(root)


async def test_when_all_lie_the_download_fails_and_what_is_in_the_way_is_nothing(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    root = make_folder(pool.tmp_path / "root")
    async with pool.device(1) as a:
        body = await body_of(pool, a, root)
        async with pool.device(2) as b, pool.linked(a, b):
            lie_to(b, body, list_id=NOBODY_HAS)
            with pytest.raises(StoreError, match="another one"):
                await files_of(b).download(body.file_id, pool.home(2) / "copy", kind="folder")
            tell(files_of(b), a.node, body, Hlc(100))
            assert look(await files_of(b).download(body.file_id, pool.home(2) / "copy")) == look(root)


@pytest.mark.parametrize("size", [40, CHUNK_SIZE - 32, CHUNK_SIZE - 1, CHUNK_SIZE, 3 * CHUNK_SIZE - 31])
async def test_the_end_of_a_folder_is_found_wherever_a_chunk_ends(
    pool: Overlay, jumping_clock: MockClock, size: int
) -> None:
    root = pool.tmp_path / "root"
    root.mkdir()
    write_file(root / "only", size)
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        body = await body_of(pool, a, root)
        lie_to(b, body, list_id=NOBODY_HAS)
        path = await files_of(b).download(body.file_id, pool.home(2) / "copy", kind="folder")
        assert look(path) == look(root)
        assert a.uplink.sent_bytes < size + 10 * KIB + 32 * KIB, "the end is not sent twice"


async def test_a_folder_comes_whole_over_real_links_though_another_member_says_it_has_another_list(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    root = make_folder(tmp_path / "root")
    other = folder_with_other_names(root, tmp_path / "other")
    async with World(tmp_path).pool("ada", "bob", "eve") as (ada, bob, eve):
        theirs = await eve.pool.files.offer_folder(other)
        said = eve.pool.files._files.book.by_node(theirs.file_id, eve.node.device_id)
        assert said is not None
        assert said.list_id is not None
        before = now_of(eve)
        await trio.sleep(1)
        offer = await ada.pool.files.offer_folder(root)
        lie = FolderBody(
            file_id=offer.file_id,
            list_id=said.list_id,
            name="root",
            size=offer.size_bytes,
            list_size=said.list_size,
            file_count=offer.file_count,
        )
        push(eve, bob, sign_message(key_of(eve), pool_id=eve.pool.pool_id, hlc=before, body=lie))
        heard = bob.pool.files._files.book
        await until(lambda: heard.nodes(offer.file_id) == (eve.node.device_id, ada.node.device_id))
        with trio.fail_after(60):
            path = await bob.pool.files.download(offer.file_id, tmp_path / "copy")
        assert look(path) == look(root)
        assert bob.pool.files.find("root").nodes == (ada.node.device_id,)
        conduct = bob.pool._conduct.of(eve.node.device_id)
        assert conduct is not None, "it is held against who said it"
        assert bob.pool._conduct.of(ada.node.device_id) is None
