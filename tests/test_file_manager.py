"""FileManagers with real files, linked in memory: offers, downloads, resuming, changed sources."""

import contextlib
import math
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from file_pool import Pool

from poolnet.clock import Hlc
from poolnet.errors import LocalError, OutputExists, SourceUnavailable, StoreError, TextTooLong, UnknownFile
from poolnet.events import DownloadComplete, DownloadProgress, FileOffered, OfferRetracted, SourceLost
from poolnet.file_manager import FileManager, OfferInfo, open_file_manager
from poolnet.files.offer_book import NodeOffer, OfferBook
from poolnet.files.size_claims import SizeClaims
from poolnet.ids import DeviceId, FileId, encode_id
from poolnet.limits import CHUNK_SIZE, MAX_FILE_NAME_BYTES, MAX_FILE_SIZE, MAX_OFFERS, MIB, TREE_FAN_OUT
from poolnet.testing.chunk_links import FileNode, Uplink, linked
from poolnet.wire.bodies import OfferBody, RetractOfferBody

SIZE = 3 * MIB + 123


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def files_of(device: FileNode) -> FileManager:
    assert isinstance(device.files, FileManager)
    return device.files


def write_file(path: Path, size: int = SIZE, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


async def next_event(events: AsyncIterator[object], kind: type) -> object:
    with trio.fail_after(30):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, SIZE])
async def test_a_file_arrives_as_it_was_offered(pool: Pool, size: int) -> None:
    source = write_file(pool.tmp_path / "a.bin", size)
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        assert (offer.state, offer.nodes) == ("seeding", (a.node,))
        assert files_of(b).find("a.bin").state == "offered"
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path == pool.home(2) / "a.bin"
        assert path.read_bytes() == source.read_bytes()
        info = files_of(b).find("a.bin")
        assert (info.state, info.local_path, info.done_bytes) == ("complete", path, size)
        assert list(pool.home(2).glob("*.part")) == []


async def test_a_file_with_two_levels_of_tree_arrives(pool: Pool) -> None:
    source = pool.tmp_path / "sparse.bin"
    with source.open("wb") as file:
        file.truncate((TREE_FAN_OUT + 1) * CHUNK_SIZE - 5)
        file.seek(0)
        file.write(b"at the start")
        file.seek(-3, os.SEEK_END)
        file.write(b"end")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        path = await files_of(b).download(offer.file_id, pool.home(2))
        with path.open("rb") as file:
            assert file.read(12) == b"at the start"
            file.seek(-CHUNK_SIZE, os.SEEK_END)
            assert file.read() == bytes(CHUNK_SIZE - 3) + b"end"


async def test_a_name_from_others_is_made_safe(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 10)
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source, name="../../.ssh/authorized_keys")
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.parent == pool.home(2)
        assert path.name == "_.._.ssh_authorized_keys"


async def test_four_receivers_take_about_one_file_from_the_seeder(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", 8 * MIB)
    rate = 4 * MIB
    async with contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(pool.device(n, uplink=Uplink(rate))) for n in range(1, 6)]
        for i, device in enumerate(devices):
            for other in devices[:i]:
                await stack.enter_async_context(linked(device, other))
        offer = await files_of(devices[0]).offer(source)
        async with trio.open_nursery() as nursery:
            for n, device in enumerate(devices[1:], start=2):
                nursery.start_soon(files_of(device).download, offer.file_id, pool.home(n))
        for n in range(2, 6):
            assert (pool.home(n) / "a.bin").read_bytes() == source.read_bytes()
        sent = devices[0].uplink.sent_bytes / offer.size_bytes
        print(f"the seeder sent {sent:.2f} files to four")
        assert sent < 1.5


async def test_a_receiver_that_has_it_all_serves_when_the_author_has_left(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(2) as b, pool.device(3) as c:
        async with pool.device(1) as a, linked(a, b):
            offer = await files_of(a).offer(source)
            await files_of(b).download(offer.file_id, pool.home(2))
        async with linked(b, c):
            path = await files_of(c).download(offer.file_id, pool.home(3))
            assert path.read_bytes() == source.read_bytes()


async def test_a_cancelled_download_goes_on_where_it_was(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 8 * MIB)
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        async with pool.device(2) as b:
            files_of(b).learned_offer(
                a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1)
            )
            with trio.CancelScope() as scope:
                async with linked(a, b), files_of(b).subscribe() as events, trio.open_nursery() as nursery:
                    nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
                    while files_of(b).find("a.bin").done_bytes < 2 * MIB:
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                    await next_event(events, DownloadComplete)
            assert (pool.home(2) / "a.bin.part").exists()
            assert not (pool.home(2) / "a.bin").exists()
        sent = a.uplink.sent_bytes
        async with pool.device(2) as b, linked(a, b):
            files_of(b).learned_offer(
                a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1)
            )
            path = await files_of(b).download(offer.file_id, pool.home(2))
            assert path.read_bytes() == source.read_bytes()
        assert a.uplink.sent_bytes - sent < 6.5 * MIB


async def test_a_part_that_was_damaged_meanwhile_is_fetched_again(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 4 * MIB)
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        async with pool.device(2) as b:
            files_of(b).learned_offer(
                a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1)
            )
            async with linked(a, b):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
                        while files_of(b).find("a.bin").done_bytes < 2 * MIB:
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            part = pool.home(2) / "a.bin.part"
            part.write_bytes(bytes(part.stat().st_size))
            async with linked(a, b):
                path = await files_of(b).download(offer.file_id, pool.home(2))
            assert path.read_bytes() == source.read_bytes()


async def test_an_interrupted_download_can_be_finished_in_another_place(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 2 * MIB)
    elsewhere = pool.tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with pool.device(1) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
                while not (pool.home(2) / "a.bin.part").exists():
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        async with linked(a, b):
            path = await files_of(b).download(offer.file_id, elsewhere)
        assert path.read_bytes() == source.read_bytes()
        assert not (pool.home(2) / "a.bin.part").exists()


async def test_a_second_download_of_a_file_is_a_copy(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2) / "one")
            nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2) / "two")
        assert (pool.home(2) / "one").read_bytes() == (pool.home(2) / "two").read_bytes() == source.read_bytes()
        assert files_of(b).statistics().exchange.bytes_in < 1.1 * SIZE


async def test_progress_ends_with_all_bytes_and_comes_at_most_ten_times_a_second(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", 4 * MIB)
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        seen: list[tuple[float, DownloadProgress]] = []
        async with files_of(b).subscribe() as events:
            await files_of(b).download(offer.file_id, pool.home(2))
            while not isinstance(event := await anext(events), DownloadComplete):
                if isinstance(event, DownloadProgress):
                    seen.append((trio.current_time(), event))
        assert event.path == pool.home(2) / "a.bin"
        assert seen[0][1].done_bytes == 0
        assert seen[-1][1].done_bytes == 4 * MIB
        assert 2 < len(seen) <= 13


# --- changed sources --------------------------------------------------------------------------------------------


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"edited")
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("spoil", [edit, lambda path: os.truncate(path, 1000), Path.unlink])
async def test_a_source_that_changed_is_withdrawn_and_never_spreads(pool: Pool, spoil: Callable[[Path], None]) -> None:
    source = write_file(pool.tmp_path / "a.bin", 600_000)
    async with pool.device(1) as a, pool.device(2) as b, files_of(a).subscribe() as events:
        offer = await files_of(a).offer(source)
        spoil(source)
        async with linked(a, b):
            with pytest.raises(UnknownFile, match="withdrawn"):
                await files_of(b).download(offer.file_id, pool.home(2))
            lost = await next_event(events, SourceLost)
            while files_of(a).offers():
                await trio.lowlevel.checkpoint()
        assert isinstance(lost, SourceLost)
        assert lost.path == source
        assert isinstance(pool.published[-1], RetractOfferBody)
        assert not (pool.home(2) / "a.bin").exists()
        assert files_of(b).statistics().exchange.bad_pieces == 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (edit, "was changed since"),
        (lambda path: os.truncate(path, 1000), "has another size"),
        (Path.unlink, "is not there any more"),
    ],
)
async def test_a_source_that_changes_while_nobody_asks_is_withdrawn_in_time(
    pool: Pool, jumping_clock: trio.testing.MockClock, spoil: Callable[[Path], None], reason: str
) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, files_of(a).subscribe() as events:
        offer = await files_of(a).offer(source)
        spoil(source)
        lost = await next_event(events, SourceLost)
        assert isinstance(lost, SourceLost)
        assert (lost.file_id, lost.path) == (offer.file_id, source)
        assert reason in lost.reason
        while files_of(a).offers():
            await trio.lowlevel.checkpoint()
    async with pool.device(1) as a:
        assert files_of(a).offers() == []
        assert list((pool.home(1) / "manager" / "trees").iterdir()) == []


async def test_a_source_that_was_only_touched_is_kept(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
    os.utime(source, ns=(5, 5))
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        files_of(b).learned_offer(a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1))
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()


async def test_offers_and_fetched_files_survive_a_restart_without_being_read(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        await files_of(b).download(offer.file_id, pool.home(2))
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c, linked(b, c):
        assert [(info.state, info.name) for info in files_of(a).offers()] == [("seeding", "a.bin")]
        assert [(info.state, info.name) for info in files_of(b).offers()] == [("complete", "a.bin")]
        files_of(c).learned_offer(a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1))
        path = await files_of(c).download(offer.file_id, pool.home(3))
        assert path.read_bytes() == source.read_bytes()


async def test_a_lost_tree_is_made_again(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
    for tree in (pool.home(1) / "manager" / "trees").iterdir():
        tree.unlink()
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        files_of(b).learned_offer(a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1))
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()


async def test_settling_tells_the_pool_what_it_does_not_know(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with open_file_manager(pool.home(1) / "manager", rng=random.Random(1)) as files:
        offer = await files.offer(source)
    gone = FileId(bytes([7]) * 32)
    async with pool.device(1) as a:
        files_of(a).learned_offer(a.node, OfferBody(file_id=gone, name="gone", size=10), Hlc(1))
        await files_of(a).settle()
        assert pool.published == [
            RetractOfferBody(file_id=gone),
            OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE),
        ]
        await files_of(a).settle()
        assert len(pool.published) == 2


# --- offers -----------------------------------------------------------------------------------------------------


async def test_a_retracted_file_is_served_by_nobody(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b), files_of(b).subscribe() as events:
        offer = await files_of(a).offer(source)
        await files_of(b).download(offer.file_id, pool.home(2))
        await files_of(a).retract(offer.file_id)
        assert await next_event(events, OfferRetracted) == OfferRetracted(file_id=offer.file_id, node=a.node)
        while files_of(b).offers():
            await trio.lowlevel.checkpoint()
        assert files_of(a).offers() == []
        assert (pool.home(2) / "a.bin").exists()
        with pytest.raises(UnknownFile):
            await files_of(b).download(offer.file_id, pool.home(2) / "again")
        with pytest.raises(UnknownFile):
            await files_of(a).retract(offer.file_id)


async def test_the_latest_message_of_a_node_decides_whether_it_offers(pool: Pool) -> None:
    file_id, node = FileId(bytes(32)), DeviceId(bytes([9]) * 32)
    async with pool.device(1) as a, files_of(a).subscribe() as events:
        files = files_of(a)
        files.learned_retraction(node, file_id, Hlc(5))
        files.learned_offer(node, OfferBody(file_id=file_id, name="old", size=3), Hlc(4))
        assert files.offers() == []
        files.learned_offer(node, OfferBody(file_id=file_id, name="new", size=3), Hlc(6))
        files.learned_offer(node, OfferBody(file_id=file_id, name="new", size=3), Hlc(6))
        files.learned_retraction(node, file_id, Hlc(5))
        assert [info.name for info in files.offers()] == ["new"]
        event = await anext(events)
        assert isinstance(event, FileOffered)
        assert (event.file_name, event.node) == ("new", node)
        assert files.statistics().offers == 1


async def test_a_file_is_found_by_name_and_by_the_beginning_of_its_id(pool: Pool) -> None:
    async with pool.device(1) as a:
        files = files_of(a)
        offers: list[OfferInfo] = [
            await files.offer(write_file(pool.tmp_path / name, 10, seed)) for seed, name in enumerate(["x", "y"])
        ]
        await files.offer(write_file(pool.tmp_path / "z", 10, 3), name="x")
        assert files.find("y") == offers[1]
        assert files.find(encode_id(offers[0].file_id)[:10]) == offers[0]
        for text in ("x", "", "nothing"):
            with pytest.raises(UnknownFile):
                files.find(text)


async def test_what_cannot_be_offered_is_refused_with_a_reason(pool: Pool) -> None:
    async with pool.device(1) as a:
        files = files_of(a)
        os.mkfifo(pool.tmp_path / "fifo")
        for path in (pool.tmp_path / "missing", pool.tmp_path, pool.tmp_path / "fifo"):
            with pytest.raises(SourceUnavailable):
                await files.offer(path)
        for name in ("", "x" * (MAX_FILE_NAME_BYTES + 1), "é" * (MAX_FILE_NAME_BYTES // 2 + 1)):
            with pytest.raises(TextTooLong):
                await files.offer(write_file(pool.tmp_path / "a"), name=name)
        assert list((pool.home(1) / "manager" / "trees").iterdir()) == []
        assert files.offers() == []


async def test_a_download_never_overwrites(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        target = pool.home(2) / "a.bin"
        target.write_bytes(b"mine")
        with pytest.raises(OutputExists):
            await files_of(b).download(offer.file_id, pool.home(2))
        with pytest.raises(LocalError, match="no directory"):
            await files_of(b).download(offer.file_id, pool.home(2) / "missing" / "a.bin")
        (pool.home(2) / "b.bin.part").write_bytes(b"mine as well")
        with pytest.raises(OutputExists):
            await files_of(b).download(offer.file_id, pool.home(2) / "b.bin")
        assert target.read_bytes() == b"mine"
        assert (pool.home(2) / "b.bin.part").read_bytes() == b"mine as well"


async def test_a_target_that_appears_meanwhile_is_not_overwritten(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        target = pool.home(2) / "a.bin"

        async def download_in_vain() -> None:
            with pytest.raises(OutputExists):
                await files_of(b).download(offer.file_id, pool.home(2))
            refused.set()

        refused = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(download_in_vain)
            while not (pool.home(2) / "a.bin.part").exists():
                await trio.lowlevel.checkpoint()
            target.write_bytes(b"mine")
            async with linked(a, b):
                await refused.wait()
        assert target.read_bytes() == b"mine"
        async with linked(a, b):
            path = await files_of(b).download(offer.file_id, pool.home(2) / "other.bin")
        assert path.read_bytes() == source.read_bytes()


async def test_a_peer_that_sends_wrong_bytes_is_not_believed(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 2 * MIB)
    async with pool.device(1) as liar, pool.device(2) as honest, pool.device(3) as c:
        offer = await files_of(liar).offer(source)
        await files_of(honest).offer(source)
        async with linked(liar, c, tamper=lambda header, payload: payload[:-1] + b"x"), linked(honest, c):
            path = await files_of(c).download(offer.file_id, pool.home(3))
        assert path.read_bytes() == source.read_bytes()
        assert files_of(c).statistics().exchange.bad_pieces == 1


async def test_a_download_waits_for_its_source_and_goes_on_when_it_comes_back(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin", 4 * MIB)
    async with pool.device(1, uplink=Uplink(4 * MIB)) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
            for _ in range(3):
                async with linked(a, b) as link:
                    await trio.sleep(0.4)
                    link.close()
                    await trio.sleep(60)
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()


# --- awkward moments --------------------------------------------------------------------------------------------


async def test_a_copy_whose_source_was_changed_is_fetched_instead(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 6 * MIB)
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b), files_of(b).subscribe() as events:
        offer = await files_of(a).offer(source)
        mine = await files_of(b).download(offer.file_id, pool.home(2) / "one")
        content = bytearray(source.read_bytes())
        content[-1] ^= 1
        mine.write_bytes(content)
        path = await files_of(b).download(offer.file_id, pool.home(2) / "two")
        assert path.read_bytes() == source.read_bytes()
        assert isinstance(lost := await next_event(events, SourceLost), SourceLost)
        assert lost.path == mine


async def test_a_part_that_is_damaged_while_it_is_served_is_mended_and_does_not_spread(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 4 * MIB)
    async with pool.device(1) as a, pool.device(2) as b, pool.device(3) as c:
        offer = await files_of(a).offer(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
            async with linked(a, b) as link:
                while files_of(b).find("a.bin").done_bytes < 2 * MIB:
                    await trio.lowlevel.checkpoint()
                link.close()
            with (pool.home(2) / "a.bin.part").open("r+b") as part:
                part.write(bytes(MIB))
            async with linked(b, c):
                nursery.start_soon(files_of(c).download, offer.file_id, pool.home(3))
                while files_of(c).find("a.bin").done_bytes < MIB // 2:
                    await trio.lowlevel.checkpoint()
                async with linked(a, b):
                    while files_of(c).find("a.bin").state != "complete":
                        await trio.lowlevel.checkpoint()
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()
        assert (pool.home(3) / "a.bin").read_bytes() == source.read_bytes()
        assert files_of(c).statistics().exchange.bad_pieces == 0


async def test_a_newer_link_to_the_same_peer_takes_over(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as b:
        offer = await files_of(a).offer(source)
        async with linked(a, b) as older:
            async with linked(a, b):
                older.close()
                assert files_of(a).statistics().exchange.links == 1
                path = await files_of(b).download(offer.file_id, pool.home(2))
            assert path.read_bytes() == source.read_bytes()
        assert files_of(a).statistics().exchange.links == 0


async def test_cancelling_an_offer_leaves_nothing_behind(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin", 40 * MIB)
    seen = []
    async with pool.device(1) as a:
        with trio.CancelScope() as scope:

            def note(done: int, size: int) -> None:
                seen.append((done, size))
                scope.cancel()

            await files_of(a).offer(source, on_progress=note)
        assert scope.cancelled_caught
        assert seen == [(16 * MIB, 40 * MIB)]
        assert files_of(a).offers() == []
        assert list((pool.home(1) / "manager" / "trees").iterdir()) == []


async def test_an_offer_that_lies_about_the_size_brings_no_file(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    liar = DeviceId(bytes(32))
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        files_of(b).learned_retraction(a.node, offer.file_id, Hlc(50))
        files_of(b).learned_offer(liar, OfferBody(file_id=offer.file_id, name="lie", size=0), Hlc(60))
        with pytest.raises(StoreError, match="empty"):
            await files_of(b).download(offer.file_id, pool.home(2))
        files_of(b).learned_offer(liar, OfferBody(file_id=offer.file_id, name="lie", size=5), Hlc(70))
        with trio.move_on_after(20) as patience:
            await files_of(b).download(offer.file_id, pool.home(2))
        assert patience.cancelled_caught
        assert [path.name for path in pool.home(2).glob("lie*")] == ["lie.part"]


@pytest.mark.parametrize("size", [1, CHUNK_SIZE - 1, SIZE])
@pytest.mark.parametrize("lie", [0, 5, SIZE + 1, 100 * MIB, MAX_FILE_SIZE])
async def test_a_lie_about_the_size_does_not_keep_a_file_away(pool: Pool, size: int, lie: int) -> None:
    source = write_file(pool.tmp_path / "a.bin", size)
    liar = DeviceId(bytes(32))
    async with pool.device(1) as a, pool.device(2) as b, linked(a, b):
        offer = await files_of(a).offer(source)
        files_of(b).learned_offer(liar, OfferBody(file_id=offer.file_id, name="earlier", size=lie), Hlc(0))
        path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()
        assert files_of(b).find("earlier" if path.name == "earlier" else "a.bin").size_bytes == size
        assert list(pool.home(2).glob("*.part")) == []


async def test_a_lie_that_was_believed_first_is_dropped_when_the_true_size_is_told(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    liar = DeviceId(bytes(32))
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        async with pool.device(2) as b, linked(a, b), trio.open_nursery() as nursery:
            files_of(b).learned_offer(liar, OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE + 1), Hlc(0))
            nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
            while not files_of(b).statistics().exchange.bad_pieces:
                await trio.lowlevel.checkpoint()
            files_of(b).learned_offer(a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE), Hlc(1))
        assert (pool.home(2) / "a.bin").read_bytes() == source.read_bytes()


async def test_a_download_that_waited_with_a_lie_can_be_asked_for_again_with_the_truth(pool: Pool) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    liar = DeviceId(bytes(32))
    async with pool.device(1) as a:
        offer = await files_of(a).offer(source)
        async with pool.device(2) as b, linked(a, b):
            files_of(b).learned_offer(liar, OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE + 1), Hlc(0))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(files_of(b).download, offer.file_id, pool.home(2))
                    while not files_of(b).statistics().exchange.bad_pieces:
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            files_of(b).learned_offer(a.node, OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE), Hlc(1))
            path = await files_of(b).download(offer.file_id, pool.home(2))
        assert path.read_bytes() == source.read_bytes()


async def test_a_liar_who_spoils_the_true_size_as_well_only_costs_time(
    pool: Pool, jumping_clock: trio.testing.MockClock
) -> None:
    source = write_file(pool.tmp_path / "a.bin")
    async with pool.device(1) as a, pool.device(2) as liar, pool.device(3) as c:
        offer = await files_of(a).offer(source)
        await files_of(liar).offer(source)
        for number in range(4):  # as many offers, earlier ones
            files_of(c).learned_offer(
                DeviceId(bytes([90 + number]) * 32),
                OfferBody(file_id=offer.file_id, name="a.bin", size=SIZE + 1),
                Hlc(0),
            )
        async with linked(liar, c, tamper=lambda header, payload: payload[:-1] + b"x"), trio.open_nursery() as nursery:

            async def meet_somebody_honest() -> None:
                await trio.sleep(8)
                assert files_of(c).statistics().exchange.bad_pieces == 2, "both sizes are doubted"
                async with linked(a, c):
                    await trio.sleep(60)

            nursery.start_soon(meet_somebody_honest)
            with trio.fail_after(60):
                path = await files_of(c).download(offer.file_id, pool.home(3))
            nursery.cancel_scope.cancel()
        assert path.read_bytes() == source.read_bytes()


async def test_sizes_are_tried_in_rounds_and_doubts_count_in_the_first_only() -> None:
    claimed = [7, 5]
    sizes = SizeClaims(FileId(bytes(32)), lambda: claimed)
    tried = [sizes.choose()]
    assert sizes.is_hopeless(is_doubted=True)
    assert not sizes.is_hopeless(is_doubted=False)
    assert sizes.patience_s() == math.inf
    tried += [sizes.choose(), sizes.choose()]
    patience = sizes.patience_s()
    assert patience < 60
    assert not sizes.is_hopeless(is_doubted=True)
    claimed.append(3)
    assert sizes.is_hopeless(is_doubted=False)
    tried += [sizes.choose() for _ in range(4)]
    assert tried == [7, 5, 7, 3, 5, 3, 7]
    assert sizes.patience_s() == 2 * patience


async def test_the_size_that_most_devices_claim_is_believed() -> None:
    book = OfferBook()
    file_id = FileId(bytes(32))
    for number, size in enumerate([7, 5, 5]):
        node = DeviceId(bytes([number]) * 32)
        assert book.offered(file_id, NodeOffer(node=node, name=f"n{number}", size_bytes=size, hlc=Hlc(number)))
    best = book.best(file_id)
    assert best is not None
    assert (best.size_bytes, best.name) == (5, "n1")
    assert book.sizes(file_id) == [5, 7]


async def test_offers_over_the_limit_are_counted_and_not_kept() -> None:
    book = OfferBook()
    node = DeviceId(bytes(32))
    for number in range(MAX_OFFERS + 2):
        offer = NodeOffer(node=node, name="x", size_bytes=1, hlc=Hlc(number))
        book.offered(FileId(number.to_bytes(32, "big")), offer)
    assert (len(list(book.files())), book.dropped) == (MAX_OFFERS, 2)
    for number in range(MAX_OFFERS + 2):
        book.retracted(FileId(number.to_bytes(32, "big")), node, Hlc(10**9))
    assert list(book.files()) == []
