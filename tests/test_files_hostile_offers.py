"""Offers that are made to harm: whatever members say of files, the pool goes on, and so do honest offers."""

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from file_overlay import Overlay, files_of, hearing, until, write_file
from file_pool import POOL_ID, tell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.errors import LocalError, PoolnetError
from poolnet.events import MediaReceived, OfferKind
from poolnet.file_manager import open_file_manager
from poolnet.identity.keys import DeviceKey
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import KIB, MAX_MEDIA_SIZE, MEDIA_CACHE_SIZE, MIB
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.storage.file_table import DownloadRecord, FileTable
from poolnet.wire.bodies import Body, FolderBody, MediaBody, OfferBody, RetractOfferBody, StreamBody

pytestmark = pytest.mark.timeout(60)
LIARS = [DeviceId(bytes([70 + number]) * 32) for number in range(3)]
IDS = [FileId(bytes([number]) * 32) for number in range(4)]


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


def folder(file_id: FileId, list_id: FileId, size: int = 100) -> FolderBody:
    return FolderBody(file_id=file_id, list_id=list_id, name="d", size=size, list_size=50, file_count=1)


def picture(file_id: FileId, size: int) -> MediaBody:
    return MediaBody(file_id=file_id, name="p.png", size=size, width=1, height=1, preview=b"")


async def test_a_download_of_a_folder_that_is_its_own_list_harms_nobody_not_even_at_the_next_start(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    pool.home(2).mkdir()
    table = FileTable(pool.home(2) / "manager")
    await table.load()
    record = DownloadRecord(
        file_id=IDS[1],
        name="d",
        size_bytes=100,
        target=pool.home(2) / "d",
        started_ms=1,
        kind="folder",
        list_id=IDS[1],
    )
    await table.save_queue(lambda: [record])
    source = write_file(pool.tmp_path / "letter", 300 * KIB)
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        files = files_of(b)
        files.learned_offer(LIARS[0], folder(IDS[1], IDS[1]), Hlc(1))
        await files.settle()
        await trio.sleep(30)
        assert [info.state for info in files.downloads()] == ["running"]
        offer = await files_of(a).offer(source)
        assert (await files.download(offer.file_id, pool.home(2))).read_bytes() == source.read_bytes()
        await files.cancel(IDS[1])


async def test_two_folders_that_name_each_other_as_lists_wait_for_nobody(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    contents = [b"first", b"second"]
    async with pool.device(1) as a, pool.device(2) as b:
        offers = []
        for content in contents:
            path = pool.tmp_path / content.decode()
            path.write_bytes(content)
            offers.append(await files_of(a).offer(path))
        first, second = (offer.file_id for offer in offers)
        files = files_of(b)
        for number, (one, other) in enumerate([(first, second), (second, first)]):
            tell(files, LIARS[0], folder(one, other), Hlc(number + 1))
            await files.start_download(one, pool.home(2) / f"{number}", kind="folder")
        await trio.sleep(1)
        async with pool.linked(a, b):
            await until(lambda: all(info.state == "failed" for info in files.downloads()))
        assert {info.code for info in files.downloads()} == {"store"}


async def test_what_somebody_says_of_its_size_does_not_keep_the_true_file_from_being_offered(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "letter", 300 * KIB)
    async with pool.device(1) as other, pool.device(2) as b, pool.device(3) as c, pool.linked(b, c):
        file_id = (await files_of(other).offer(source)).file_id
        files = files_of(b)
        await files_of(other).retract(file_id)
        tell(files, LIARS[0], OfferBody(file_id=file_id, name="lie", size=1000), Hlc(0))
        await files.start_download(file_id, pool.home(2))
        await trio.sleep(1)
        offer = await files.offer(source)
        assert offer.size_bytes == 300 * KIB
        path = await files_of(c).download(file_id, pool.home(3))
        assert path.read_bytes() == source.read_bytes()
        await until(lambda: files.downloads()[0].state == "complete")
        assert files.downloads()[0].path.read_bytes() == source.read_bytes()


async def test_a_stream_that_somebody_calls_a_file_can_be_watched_once_that_download_is_gone(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    nonce = bytes(16)
    stream_id = stream_id_of(LIARS[1], POOL_ID, nonce)
    async with pool.device(1, is_settled=True) as a:
        files = files_of(a)
        tell(files, LIARS[0], OfferBody(file_id=stream_id, name="lie", size=1000), Hlc(1))
        await files.start_download(stream_id, pool.home(1))
        await trio.sleep(1)
        tell(files, LIARS[1], StreamBody(nonce=nonce, name="radio"), Hlc(2))
        for _ in range(2):
            with pytest.raises(LocalError, match="1000 bytes"):
                async with files.watch(stream_id):
                    pass
        assert [info.state for info in files.downloads()] == ["running"]
        await files.cancel(stream_id)
        async with files.watch(stream_id) as reader:
            assert reader.stream_id == stream_id


async def test_pictures_that_were_withdrawn_or_never_counted_leave_room_for_others(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    source = write_file(pool.tmp_path / "cat.png", 2 * MIB)
    async with pool.device(1, is_settled=True) as a, pool.device(2, is_settled=True) as b, hearing(b) as heard:
        files = files_of(b)
        for number in range(2 * MEDIA_CACHE_SIZE // MAX_MEDIA_SIZE):
            phantom = FileId(number.to_bytes(32, "big"))
            files.learned_retraction(LIARS[0], phantom, Hlc(2**40 + 1))
            files.learned_offer(LIARS[0], picture(phantom, MAX_MEDIA_SIZE), Hlc(2**40))
        async with pool.linked(a, b):
            offer = await files_of(a).offer_media(source)
            assert (await heard.first(MediaReceived, within_s=20)).file_id == offer.file_id


# --- anything ---------------------------------------------------------------------------------------------------


ids = st.sampled_from(IDS)
sizes = st.sampled_from([0, 1, 100, MIB, 2**30])
said: st.SearchStrategy[Body] = st.one_of(
    st.builds(OfferBody, file_id=ids, name=st.just("f"), size=sizes, stream_id=st.sampled_from([b"", *IDS])),
    st.builds(folder, ids, ids, sizes),
    st.builds(picture, ids, st.integers(1, 3)),
    st.builds(StreamBody, nonce=st.binary(min_size=16, max_size=16), name=st.just("s")),
    st.builds(RetractOfferBody, file_id=ids),
)
#: Who says what, and as what kind it is asked for then, if it is.
steps = st.lists(
    st.tuples(st.sampled_from(LIARS), said, st.sampled_from([None, "file", "folder", "media"])), max_size=15
)


@given(steps=steps)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_members_say_of_files_ends_the_pool_now_or_at_the_next_start(
    steps: Sequence[tuple[DeviceId, Body, OfferKind | None]],
    tmp_path_factory: pytest.TempPathFactory,
    jumping_clock: MockClock,
) -> None:
    home = tmp_path_factory.mktemp("home")

    async def publish(_body: Body) -> MsgId:
        await trio.lowlevel.checkpoint()
        return MsgId(bytes(32))

    async def run() -> None:
        for start in range(2):
            async with open_file_manager(home / "files", rng=random.Random(1)) as files:
                await files.bind(DeviceKey(bytes(32)), POOL_ID, publish)
                for number, (node, body, kind) in enumerate(steps):
                    tell(files, node, body, Hlc(number + 1))
                    if kind is not None and not start:
                        with contextlib.suppress(PoolnetError):  # what it says is for a person
                            await files.start_download(IDS[number % 4], home / f"{number}", kind=kind)
                await files.settle()
                await trio.sleep(20)
                assert len(files.offers()) <= len(steps)

    trio.run(run, clock=MockClock(autojump_threshold=0))
