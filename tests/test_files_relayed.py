"""Files over devices that do not want them: whole FileManagers in a chain, each linked to the next only."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from file_overlay import Heard, Overlay, are_equal, files_of, hearing, look, until, write_file
from small_disks import can_mount, small_disk
from trio.testing import MockClock

from poolnet.clock import Hlc
from poolnet.events import DownloadComplete, MediaReceived
from poolnet.ids import DeviceId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.testing.chunk_links import FileNode, MemoryLink, Uplink
from poolnet.wire.bodies import OfferBody
from poolnet.wire.swarm_frames import ChunkHeader, Have

pytestmark = pytest.mark.timeout(30)
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
SIZE = 5 * MIB + 77


@pytest.fixture
def pool(tmp_path: Path) -> Overlay:
    return Overlay(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_file(tmp_path / "a.bin", SIZE)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All frames that any device sends."""
    sent: list[object] = []
    post = MemoryLink.post_frame

    def noted(link: MemoryLink, frame: object) -> None:
        sent.append(frame)
        post(link, frame)

    monkeypatch.setattr(MemoryLink, "post_frame", noted)
    return sent


def falsify(header: ChunkHeader, payload: bytes) -> bytes:
    """Change what is sent, but for the root of the tree: that would cast doubt on the size."""
    return payload[:-1] + bytes([payload[-1] ^ 1]) if header.piece else payload


def sent_files(device: FileNode) -> float:
    """Return how many times over a device has sent the file."""
    return device.uplink.sent_bytes / SIZE


# --- what relaying is for ---------------------------------------------------------------------------------------


async def test_a_file_comes_along_a_chain_of_devices_that_keep_nothing_but_their_cache(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as r1,
        pool.device(3) as r2,
        pool.device(4) as b,
        pool.chain(a, r1, r2, b),
    ):
        offer = await files_of(a).offer(source)
        with trio.fail_after(30):
            path = await files_of(b).download(offer.file_id, pool.home(4))
        assert are_equal(path, source)
        for relay, number in ((r1, 2), (r2, 3)):
            assert sent_files(relay) == pytest.approx(1, abs=0.1)
            kept = {name: len(data) for name, data in look(pool.home(number)).items()}
            assert [name for name, size in kept.items() if size > 10] != []
            assert all(name.startswith("manager/cache-") for name, size in kept.items() if size > 10), kept
            assert [info.state for info in files_of(relay).offers()] == ["offered"]
            assert files_of(relay).statistics().exchange.relayed_pieces > 20
    for number in (2, 3):
        assert not [name for name in look(pool.home(number)) if "cache" in name], "the cache goes with the session"


async def test_two_requesters_behind_one_relay_cost_one_upload(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1, uplink=Uplink(2 * MIB)) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.device(4) as c,
        pool.chain(a, relay, b),
        pool.linked(relay, c),
    ):
        offer = await files_of(a).offer(source)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for device, number in ((b, 3), (c, 4)):
                    nursery.start_soon(files_of(device).download, offer.file_id, pool.home(number))
        for number in (3, 4):
            assert are_equal((pool.home(number) / "a.bin"), source)
        assert sent_files(a) < 1.05


async def test_whoever_asks_later_is_served_from_the_cache_alone(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.device(4) as c,
        pool.linked(a, relay),
    ):
        offer = await files_of(a).offer(source)
        async with pool.linked(relay, b):
            await files_of(b).download(offer.file_id, pool.home(3))
        await trio.sleep(100)
        before = sent_files(a)
        async with pool.linked(relay, c):
            with trio.fail_after(30):
                path = await files_of(c).download(offer.file_id, pool.home(4))
        assert are_equal(path, source)
        assert sent_files(a) - before < 0.1


async def test_a_cache_that_is_smaller_than_the_file_does(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2, cache_size_bytes=6 * CHUNK_SIZE) as relay,
        pool.device(3) as b,
        pool.device(4) as c,
        pool.chain(a, relay, b),
        pool.linked(relay, c),
    ):
        offer = await files_of(a).offer(source)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for device, number in ((b, 3), (c, 4)):
                    nursery.start_soon(files_of(device).download, offer.file_id, pool.home(number))
        for number in (3, 4):
            assert are_equal((pool.home(number) / "a.bin"), source)
        kept = [len(data) for name, data in look(pool.home(2)).items() if "cache" in name]
        assert sum(kept) <= 6 * CHUNK_SIZE


async def test_folders_and_pictures_come_over_a_relay_too(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    root = pool.tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for number in range(8):
        write_file(root / "sub" / f"{number}", 300_000, number)
    picture = write_file(pool.tmp_path / "cat.png", MIB, 50)
    async with (
        pool.device(1, is_settled=True) as a,
        pool.device(2, is_settled=True, media_cache_bytes=0) as relay,
        pool.device(3, is_settled=True) as b,
        hearing(b) as heard,
        pool.chain(a, relay, b),
    ):
        offer = await files_of(a).offer_folder(root)
        with trio.fail_after(30):
            path = await files_of(b).download(offer.file_id, pool.home(3))
        assert look(path) == look(root)
        await files_of(a).offer_media(picture)
        event = await heard.first(MediaReceived)
        assert event.path.read_bytes() == picture.read_bytes()
        assert look(pool.home(2) / "manager" / "media") == {}


# --- limits and failures ----------------------------------------------------------------------------------------


async def test_a_cache_of_nothing_relays_nothing_and_makes_no_fuss_about_it(
    pool: Overlay, source: Path, frames: list[object], jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2, cache_size_bytes=0) as relay,
        pool.device(3) as b,
        pool.chain(a, relay, b),
    ):
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(3))
        await trio.sleep(60)
        assert files_of(b).downloads()[0].done_bytes == 0
        assert relay.uplink.sent_bytes == a.uplink.sent_bytes == 0
        assert len(frames) < 100
        async with hearing(b) as heard, pool.linked(a, b):
            await heard.first(DownloadComplete)
        assert are_equal((pool.home(3) / "a.bin"), source)


async def test_when_a_relay_dies_in_the_middle_another_way_is_found(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1, uplink=Uplink(MIB)) as a,
        pool.device(2) as r1,
        pool.device(3) as r2,
        pool.device(4) as b,
        pool.chain(a, r2, b),
        pool.chain(a, r1, b) as links,
        hearing(b) as heard,
    ):
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(4))
        await until(lambda: files_of(b).find("a.bin").done_bytes > 2 * MIB)
        assert sent_files(r1) > 0.1
        assert sent_files(r2) > 0.1
        for one, other, link in zip((a, r1), (r1, b), links, strict=True):
            pool.cut(one, other, link)
        await heard.first(DownloadComplete, within_s=30)
        assert are_equal((pool.home(4) / "a.bin"), source)
        assert sent_files(a) < 1.5


@contextlib.asynccontextmanager
async def over_a_relay(
    pool: Overlay, rate_bytes_per_s: float
) -> AsyncIterator[tuple[FileNode, FileNode, FileNode, Heard]]:
    """A device that sends at this rate, one that relays, one that fetches, and what that one tells."""
    async with (
        pool.device(1, uplink=Uplink(rate_bytes_per_s)) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.chain(a, relay, b),
        hearing(b) as heard,
    ):
        yield a, relay, b, heard


async def test_a_download_over_a_relay_goes_on_over_a_new_link_and_back(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with over_a_relay(pool, MIB) as (a, _relay, b, heard):
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(3))
        await until(lambda: files_of(b).find("a.bin").done_bytes > MIB)
        async with pool.linked(a, b):
            await until(lambda: files_of(b).find("a.bin").done_bytes > 3 * MIB)
        await heard.first(DownloadComplete, within_s=30)
        assert are_equal((pool.home(3) / "a.bin"), source)


@pytest.mark.parametrize("done", [0.3, 1.0])
async def test_a_relay_that_wants_the_file_itself_keeps_what_is_in_its_cache(
    pool: Overlay, source: Path, jumping_clock: MockClock, done: float
) -> None:
    async with over_a_relay(pool, 2 * MIB) as (a, relay, b, heard):
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(3))
        await until(lambda: files_of(b).find("a.bin").done_bytes >= done * SIZE)
        with trio.fail_after(30):
            path = await files_of(relay).download(offer.file_id, pool.home(2))
        assert are_equal(path, source)
        await heard.first(DownloadComplete)
        assert are_equal((pool.home(3) / "a.bin"), source)
        assert sent_files(a) < 1.1


async def test_a_relay_whose_own_download_is_cancelled_relays_on(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with over_a_relay(pool, MIB) as (a, relay, b, heard):
        offer = await files_of(a).offer(source)
        await files_of(relay).start_download(offer.file_id, pool.home(2))
        await until(lambda: files_of(relay).find("a.bin").done_bytes > MIB)
        await files_of(b).start_download(offer.file_id, pool.home(3))
        await until(lambda: files_of(b).find("a.bin").done_bytes > MIB)
        await files_of(relay).cancel(offer.file_id)
        await heard.first(DownloadComplete, within_s=60)
        assert are_equal((pool.home(3) / "a.bin"), source)
        assert not (pool.home(2) / "a.bin.part").exists()


@needs_mount
async def test_over_a_relay_with_a_full_disk_nothing_comes_until_there_is_room(
    pool: Overlay, source: Path, frames: list[object], jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolnet.storage.cache_ring._GROW_AGAIN_AFTER_S", 0.0)  # its clock does not jump
    with small_disk(pool.home(2), "4m") as disk:
        async with (
            pool.device(1) as a,
            pool.device(2, cache_size_bytes=2 * MIB) as relay,
            pool.device(3) as b,
            hearing(b) as heard,
            pool.chain(a, relay, b),
        ):
            disk.fill()
            offer = await files_of(a).offer(source)
            await files_of(b).start_download(offer.file_id, pool.home(3))
            await trio.sleep(60)
            assert files_of(b).downloads()[0].done_bytes == 0
            assert len(frames) < 1000
            assert sent_files(a) < 1
            disk.free()
            await heard.first(DownloadComplete)
            assert are_equal((pool.home(3) / "a.bin"), source)


@pytest.mark.parametrize("lie", [5, SIZE + 1, SIZE - 1, 40 * MIB])
async def test_a_lie_about_the_size_does_not_poison_a_relay(
    pool: Overlay, source: Path, jumping_clock: MockClock, lie: int
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as r1,
        pool.device(3) as r2,
        pool.device(4) as b,
        pool.chain(a, r1, r2, b),
    ):
        offer = await files_of(a).offer(source)
        for number in range(3):  # more believable than the truth
            body = OfferBody(file_id=offer.file_id, name="a.bin", size=lie)
            for device in (r1, r2, b):
                files_of(device).learned_offer(DeviceId(bytes([90 + number]) * 32), body, Hlc(0))
        with trio.fail_after(120):
            path = await files_of(b).download(offer.file_id, pool.home(4))
        assert are_equal(path, source)
        assert sent_files(a) < 1.5


async def test_a_relay_leaves_a_size_that_brings_nothing_though_a_neighbour_doubts_the_true_one(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1, uplink=Uplink(MIB)) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.device(4) as eve,
        pool.chain(a, relay, b),
        pool.linked(eve, relay) as link,
        trio.open_nursery() as nursery,
    ):
        offer = await files_of(a).offer(source)
        for number in range(2):  # more believable than the truth
            body = OfferBody(file_id=offer.file_id, name="a.bin", size=40 * MIB)
            files_of(relay).learned_offer(DeviceId(bytes([90 + number]) * 32), body, Hlc(0))

        async def doubt() -> None:
            for (
                count
            ) in itertools.count():  # pieces that a file of the true size does not have, and one of the other does
                link.post_frame(Have(file_id=offer.file_id, pieces=((0, 100),)))
                await trio.sleep(0.001 if count < 1000 else 0.5)

        nursery.start_soon(doubt)
        with trio.fail_after(120):
            path = await files_of(b).download(offer.file_id, pool.home(3))
        nursery.cancel_scope.cancel()
        assert are_equal(path, source)
        assert sent_files(a) < 1.5


async def test_a_relay_that_sends_wrong_bytes_is_found_out_and_the_file_comes_otherwise(
    pool: Overlay, source: Path, jumping_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        pool.device(1) as a,
        pool.device(2) as liar,
        pool.device(3) as r2,
        pool.device(4) as b,
        pool.chain(a, r2, b),
        pool.linked(a, liar),
        pool.linked(liar, b, tamper=falsify),
    ):
        offer = await files_of(a).offer(source)
        with trio.fail_after(60):
            path = await files_of(b).download(offer.file_id, pool.home(4))
        assert are_equal(path, source)
        assert files_of(b).statistics().exchange.bad_pieces >= 1
        assert sent_files(liar) < 0.5
        assert "a peer broke the rules" in caplog.text


async def test_a_relay_that_gets_wrong_bytes_passes_none_of_them_on(
    pool: Overlay, source: Path, jumping_clock: MockClock
) -> None:
    async with (
        pool.device(1) as liar,
        pool.device(2) as honest,
        pool.device(3) as relay,
        pool.device(4) as b,
        pool.linked(liar, relay, tamper=falsify),
        pool.chain(honest, relay, b),
    ):
        offer = await files_of(liar).offer(source)
        await files_of(honest).offer(source)
        with trio.fail_after(60):
            path = await files_of(b).download(offer.file_id, pool.home(4))
        assert are_equal(path, source)
        assert files_of(b).statistics().exchange.bad_pieces == 0
        assert files_of(relay).statistics().exchange.bad_pieces >= 1


async def test_what_is_withdrawn_is_relayed_no_more(pool: Overlay, source: Path, jumping_clock: MockClock) -> None:
    async with (
        pool.device(1, uplink=Uplink(MIB)) as a,
        pool.device(2) as relay,
        pool.device(3) as b,
        pool.chain(a, relay, b),
    ):
        offer = await files_of(a).offer(source)
        await files_of(b).start_download(offer.file_id, pool.home(3))
        await until(lambda: files_of(b).find("a.bin").done_bytes > MIB)
        await files_of(a).retract(offer.file_id)
        await trio.sleep(20)
        assert files_of(b).downloads()[0].code == "unknown_file"
        assert files_of(relay).statistics().exchange.relayed_files == 0
