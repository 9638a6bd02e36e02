"""How much one member can make another hold by what it offers, asks for and claims to have: memory and disk."""

from pathlib import Path

import pytest
import trio
from file_overlay import Overlay, files_of, look, write_file
from file_pool import tell
from swarm_net import peer_id
from test_media import World, picture
from test_media_cache import id_of
from test_swarm import ANN, Node
from test_swarm_relay import interest, want
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.clock import Hlc
from poolnet.ids import FileId
from poolnet.limits import (
    CHUNK_SIZE,
    MAX_FILE_SIZE,
    MAX_FOLDER_LIST_SIZE,
    MAX_INTERESTS_PER_LINK,
    MAX_RUNS_PER_LINK,
    MAX_RUNS_PER_SOURCE,
    MIB,
)
from poolnet.protocol.swarm import LinkUp, Route
from poolnet.wire.bodies import FolderBody
from poolnet.wire.swarm_frames import Have

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


# --- disk -------------------------------------------------------------------------------------------------------


async def test_nothing_is_fetched_as_the_list_of_a_folder_that_is_larger_than_a_list_may_be(
    pool: Overlay, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.files.quiet_fetches.MAX_FOLDER_LIST_SIZE", MIB)
    enormous = write_file(pool.tmp_path / "enormous", 3 * MIB)
    async with pool.device(1) as eve, pool.device(2) as b, pool.linked(eve, b):
        list_id = (await files_of(eve).offer(enormous)).file_id
        (pool.tmp_path / "content").write_bytes(b"content" + list_id)
        content = await files_of(eve).offer(pool.tmp_path / "content")
        body = FolderBody(
            file_id=content.file_id,
            list_id=list_id,
            name="trap",
            size=content.size_bytes,
            list_size=1000,
            file_count=1,
        )
        tell(files_of(b), eve.node, body, Hlc(99))
        await files_of(b).start_download(content.file_id, pool.home(2), kind="folder")
        await trio.sleep(60)
        assert eve.uplink.sent_bytes < MIB
        assert sum(map(len, look(pool.home(2) / "manager").values())) < MIB


async def test_pictures_of_which_the_size_is_a_lie_take_no_more_room_than_the_largest_that_is_claimed(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path, size_bytes=250)
    world.claimed = {id_of(picture(number)): [100] for number in range(1, 9)}
    async with world.open() as media:
        media.settle()
        for number in range(1, 9):
            world.show(media, picture(number), 1000 + number, size_bytes=1)
        for _ in range(20):
            await trio.sleep(31)
        parts = [path for path in (tmp_path / "media").iterdir() if path.name.endswith(".part")]
        assert len(parts) <= 2


async def test_a_picture_is_fetched_although_somebody_says_that_it_is_larger_than_the_cache(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path, size_bytes=250)
    file_id = world.hold(picture(1))
    world.claimed = {file_id: [100, 10**6]}
    async with world.open() as media:
        media.settle()
        world.show(media, picture(1), 1000, size_bytes=10**6)
        await wait_all_tasks_blocked()
        assert media.path_of(file_id) is not None


async def test_a_stream_that_does_not_end_takes_no_more_of_a_relay_than_its_cache(
    pool: Overlay, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as eve,
        pool.device(2, cache_size_bytes=6 * CHUNK_SIZE) as relay,
        pool.device(3) as b,
        pool.chain(eve, relay, b),
        trio.open_nursery() as nursery,
        files_of(eve).open_stream("endless") as writer,
    ):
        got = 0

        async def watch() -> None:
            nonlocal got
            async with files_of(b).watch(writer.stream_id) as reader:
                async for data in reader:
                    got += len(data)

        nursery.start_soon(watch)
        for _ in range(40):
            await writer.send(bytes(CHUNK_SIZE))
            await trio.sleep(0.3)
        assert got > 20 * CHUNK_SIZE
        assert files_of(relay).statistics().exchange.relayed_pieces > 20
        kept = [len(data) for name, data in look(pool.home(2)).items() if "cache" in name]
        assert sum(kept) <= 6 * CHUNK_SIZE
        nursery.cancel_scope.cancel()


async def test_folders_and_files_offered_by_the_thousand_bring_nothing_here_by_themselves(
    pool: Overlay, jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.files.offer_book.MAX_OFFERS", 500)
    async with pool.device(1, is_settled=True) as eve, pool.device(2, is_settled=True) as b, pool.linked(eve, b):
        before = look(pool.home(2))
        for number in range(2000):
            body = FolderBody(
                file_id=FileId((2 * number).to_bytes(32, "big")),
                list_id=FileId((2 * number + 1).to_bytes(32, "big")),
                name="f" * 255,
                size=MAX_FILE_SIZE,
                list_size=MAX_FOLDER_LIST_SIZE,
                file_count=100_000,
            )
            tell(files_of(b), eve.node, body, Hlc(number))
        await trio.sleep(30)
        assert len(files_of(b).offers()) == 500
        assert files_of(b).statistics().dropped_offers == 1500
        assert look(pool.home(2)) == before


# --- memory -----------------------------------------------------------------------------------------------------


async def test_wants_for_files_that_nobody_offers_begin_nothing(pool: Overlay, jumping_clock: MockClock) -> None:
    async with pool.device(1) as eve, pool.device(2) as b, pool.linked(eve, b) as link:
        for number in range(MAX_INTERESTS_PER_LINK):
            file_id = FileId(number.to_bytes(32, "big"))
            link.post_frame(interest(5, file_id))
            link.post_frame(want(((0, 64),), 64, 5, file_id))
        await trio.sleep(30)
        assert files_of(b).statistics().exchange.relayed_files == 0
        assert not files_of(b)._files.exchange._swarm._requester.downloads()
        assert not link.is_closed


def scattered(file_id: FileId, number: int) -> list[Have]:
    """Return what says that a peer has every other piece of a part of a very large file."""
    runs = [(2 * piece, 2 * piece + 1) for piece in range(number)]
    return [Have(file_id=file_id, pieces=tuple(runs[i : i + 1000])) for i in range(0, number, 1000)]


def test_what_one_peer_has_of_very_many_files_is_remembered_up_to_a_limit() -> None:
    node = Node(LinkUp(ANN), LinkUp(peer_id(20)))
    ids = [FileId(bytes([number]) * 32) for number in range(1, 12)]
    for file_id in ids:
        node.do(Route(file_id, MAX_FILE_SIZE, 1))
        node.hear(peer_id(20), interest(3, file_id), want(((0, 1),), 1, 3, file_id))
        for frame in scattered(file_id, MAX_RUNS_PER_SOURCE):
            node.hear(ANN, frame)
    requester = node.swarm._requester
    runs = [download.sources[ANN].has.run_count() for download in requester.downloads()]
    assert len(runs) == len(ids)
    assert max(runs) == MAX_RUNS_PER_SOURCE
    assert MAX_RUNS_PER_LINK - 1000 < sum(runs) <= MAX_RUNS_PER_LINK
