"""Full disks and processes killed at awkward moments: what was there stays, and work goes on afterwards."""

import contextlib
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from made_messages import POOL, make_message, make_text, make_tombstone

from poolnet.clock import Hlc
from poolnet.errors import DiskFull
from poolnet.file_manager import FileManager, open_file_manager
from poolnet.ids import DeviceId, FileId
from poolnet.limits import KIB, MIB
from poolnet.message_db import open_message_db
from poolnet.storage import message_volumes
from poolnet.storage.atomic_json import read_json, write_json
from poolnet.testing.chunk_links import FileNode, linked
from poolnet.wire.bodies import OfferBody

SEEDER, RECEIVER = DeviceId(bytes([1]) * 32), DeviceId(bytes([2]) * 32)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk to the last byte; return the file to remove to make room again."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler


def test_a_store_survives_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "store.json"
    write_json(path, "old")
    filler = fill(small_disk)
    with pytest.raises(DiskFull):
        write_json(path, "new" * 10_000)
    assert read_json(path, None) == "old"
    assert sorted(small_disk.iterdir()) == [filler, path]
    filler.unlink()
    write_json(path, "new" * 10_000)
    assert read_json(path, None) == "new" * 10_000


async def test_a_history_survives_a_full_disk(small_disk: Path) -> None:
    async with open_message_db(small_disk / "m.db", POOL) as db:
        first = [make_message(n, body=bytes(500)) for n in range(10)]
        await db.append(first, durable=True)
        filler = fill(small_disk)
        second = [make_message(n, body=bytes(10_000)) for n in range(100, 200)]
        with pytest.raises(DiskFull):
            await db.append(second)
        assert await db.latest(1000) == first
        filler.unlink()
        assert await db.append(second) == second
    async with open_message_db(small_disk / "m.db", POOL) as db:
        assert await db.latest(1000) == first + second


async def test_a_retraction_on_a_full_disk_takes_place_once_there_is_room(small_disk: Path) -> None:
    message = make_text(5, "Zanzibar")
    tombstone = make_tombstone(6, message)
    async with open_message_db(small_disk / "m.db", POOL) as db:
        await db.append([message])
        filler = fill(small_disk)
        with pytest.raises(DiskFull):
            await db.append([tombstone])
        assert await db.latest(10) == [message]
        filler.unlink()
        assert await db.append([tombstone]) == [tombstone]
        assert b"zanzibar" not in (small_disk / "m.db").read_bytes().lower()


async def test_what_is_retracted_leaves_the_log_as_soon_as_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_volumes, "VOLUME_SIZE", 20)  # little is rewritten
    message = make_text(5, "Zanzibar")
    async with open_message_db(small_disk / "m.db", POOL) as db:
        await db.append([message])
        for n in range(10, 500, 10):
            await db.append([make_message(n + m, body=bytes(500)) for m in range(10)])
        log = small_disk / "m.db-wal"
        assert log.stat().st_size > 1 * MIB  # more than there will be room for in the database
        filler = fill(small_disk)
        os.truncate(filler, filler.stat().st_size - 512 * KIB)
        assert await db.append([tombstone := make_tombstone(6, message)]) == [tombstone]
        assert "still in the log" in caplog.text
        assert await db.search("zanzibar") == []
        filler.unlink()
        await db.latest(1)
        assert log.stat().st_size == 0
        assert b"zanzibar" not in (small_disk / "m.db").read_bytes().lower()


@contextlib.contextmanager
def _source(tmp_path: Path, size: int) -> Iterator[Path]:
    path = tmp_path / "a.bin"
    path.write_bytes(random.Random(1).randbytes(size))
    yield path
    path.unlink()


async def test_a_download_that_cannot_fit_is_refused_at_once(tmp_path: Path, small_disk: Path) -> None:
    async with open_file_manager(tmp_path / "m", rng=random.Random(1)) as files:
        files.learned_offer(SEEDER, OfferBody(file_id=FileId(bytes(32)), name="large", size=100 * MIB), Hlc(1))
        with pytest.raises(DiskFull, match="free some"):
            await files.download(FileId(bytes(32)), small_disk)
        assert os.listdir(small_disk) == []


async def test_an_offer_that_cannot_be_kept_is_not_made(tmp_path: Path, small_disk: Path) -> None:
    with _source(tmp_path, 6 * MIB) as source:
        async with open_file_manager(small_disk / "m", rng=random.Random(1)) as files:
            filler = fill(small_disk)
            with pytest.raises(DiskFull):
                await files.offer(source)
            assert files.offers() == []
            filler.unlink()
            offer = await files.offer(source)
        async with open_file_manager(small_disk / "m", rng=random.Random(1)) as files:
            assert files.offers() == [offer]


async def test_a_disk_that_fills_up_ends_a_download_which_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    with _source(tmp_path, 6 * MIB) as source:
        async with (
            open_file_manager(tmp_path / "a", rng=random.Random(1)) as a,
            open_file_manager(tmp_path / "b", rng=random.Random(2)) as b,
        ):
            offer = await a.offer(source)
            b.learned_offer(SEEDER, OfferBody(file_id=offer.file_id, name="a.bin", size=offer.size_bytes), Hlc(1))
            with pytest.raises(DiskFull):
                await _download_while_disk_fills(a, b, offer.file_id, small_disk)
            assert b.find("a.bin").state == "failed"
            (small_disk / "filler").unlink()
            assert (small_disk / "a.bin.part").exists()
            async with linked(FileNode(SEEDER, a), FileNode(RECEIVER, b)):
                path = await b.download(offer.file_id, small_disk)
            assert path.read_bytes() == source.read_bytes()


async def _download_while_disk_fills(a: FileManager, b: FileManager, file_id: FileId, disk: Path) -> None:
    failure: DiskFull | None = None

    async def download(done: trio.Event) -> None:
        nonlocal failure
        try:
            await b.download(file_id, disk)
        except DiskFull as exc:
            failure = exc
        done.set()

    async with trio.open_nursery() as nursery:
        done = trio.Event()
        nursery.start_soon(download, done)
        while not (disk / "a.bin.part").exists():
            await trio.lowlevel.checkpoint()
        fill(disk)
        async with linked(FileNode(SEEDER, a), FileNode(RECEIVER, b)):
            await done.wait()
    if failure is not None:
        raise failure


# --- kill -9 ----------------------------------------------------------------------------------------------------

_DOWNLOAD_AND_DIE = """
    import os, random, signal, sys
    from pathlib import Path
    import trio
    from poolnet.clock import Hlc
    from poolnet.events import DownloadProgress
    from poolnet.file_manager import open_file_manager
    from poolnet.testing.chunk_links import FileNode, Uplink, linked
    from poolnet.wire.bodies import OfferBody

    async def main(home, die_at):
        async with (
            open_file_manager(home / "a", rng=random.Random(1)) as a,
            open_file_manager(home / "b", rng=random.Random(2)) as b,
            trio.open_nursery() as nursery,
        ):
            offer = await a.offer(home / "source.bin")
            b.learned_offer(bytes(32), OfferBody(file_id=offer.file_id, name="copy.bin", size=offer.size_bytes), Hlc(1))
            seeder = FileNode(bytes([1]) * 32, a, Uplink(80 * 2**20))
            async with linked(seeder, FileNode(bytes([2]) * 32, b)), b.subscribe() as events:
                nursery.start_soon(b.download, offer.file_id, home)
                async for event in events:
                    if isinstance(event, DownloadProgress) and event.done_bytes >= die_at:
                        os.kill(os.getpid(), signal.SIGKILL)

    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""

_APPEND_AND_DIE = """
    import os, signal, sys
    from pathlib import Path
    import trio
    from poolnet.message_db import open_message_db
    from made_messages import POOL, make_message

    async def main(path):
        async with open_message_db(path, POOL) as db, trio.open_nursery() as nursery:
            for n in range(20):
                await db.append([make_message(n)], durable=True)
                os.write(1, b"%d " % n)
            for n in range(20, 60):
                nursery.start_soon(db.append, [make_message(n)])
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            os.kill(os.getpid(), signal.SIGKILL)

    trio.run(main, Path(sys.argv[1]))
"""


async def run_until_killed(script: str, *arguments: str) -> bytes:
    finished = await trio.run_process(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_stdout=True,
        check=False,
    )
    assert finished.returncode == -9
    return finished.stdout


@pytest.mark.parametrize("die_at", [1 * MIB, 9 * MIB])
async def test_a_download_goes_on_after_the_process_was_killed(tmp_path: Path, die_at: int) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(random.Random(1).randbytes(24 * MIB))
    await run_until_killed(_DOWNLOAD_AND_DIE, str(tmp_path), str(die_at))
    assert (tmp_path / "copy.bin.part").exists()
    assert not (tmp_path / "copy.bin").exists()
    async with (
        open_file_manager(tmp_path / "a", rng=random.Random(1)) as a,
        open_file_manager(tmp_path / "b", rng=random.Random(2)) as b,
    ):
        (offer,) = a.offers()
        b.learned_offer(SEEDER, OfferBody(file_id=offer.file_id, name="copy.bin", size=offer.size_bytes), Hlc(1))
        async with linked(FileNode(SEEDER, a), FileNode(RECEIVER, b)):
            path = await b.download(offer.file_id, tmp_path)
        assert path.read_bytes() == source.read_bytes()
        assert b.statistics().exchange.bytes_in <= 24 * MIB - die_at + MIB


async def test_what_was_stored_durably_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    told = await run_until_killed(_APPEND_AND_DIE, str(tmp_path / "m.db"))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        stored = [message.content.hlc for message in await db.latest(100)]
    assert stored[:20] == [int(word) for word in told.split()]
    assert set(stored) <= set(range(60))
