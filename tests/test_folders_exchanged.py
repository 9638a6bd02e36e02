"""Folders on their way between devices: list and content over links in memory, as the parts of a FileManager do it."""

import contextlib
import os
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from poolnet.clock import Hlc
from poolnet.errors import OutputExists
from poolnet.event_stream import EventStream
from poolnet.events import PoolEvent
from poolnet.file_manager import FileManager
from poolnet.files.pool_files import PoolFiles
from poolnet.ids import DeviceId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.file_table import FileTable, PartRecord
from poolnet.storage.folder_copy import FolderCopier
from poolnet.storage.folder_layout import FolderLayout
from poolnet.testing.chunk_links import FileNode, Uplink, linked
from poolnet.wire.bodies import FolderBody, decode_body_untrusted


class Device:
    """The files of one device. Made by `open_device`."""

    def __init__(self, number: int, files: PoolFiles) -> None:
        self.files = files
        self.folders = files.folders
        self.node = FileNode(DeviceId(bytes([number]) * 32), FileManager(files), Uplink())

    async def offer(self, path: Path, *others: "Device") -> FolderBody:
        file_id = await self.files.offering.offer_folder(path, None, (), False, None)
        body = decode_body_untrusted(FolderBody.KIND, self.files.table.files[file_id].body)
        assert isinstance(body, FolderBody)
        for device in others:
            device.files.learned_offer(self.node.node, body, Hlc(1), file_id=None, msg_id=None)
        return body

    async def download(self, body: FolderBody, target: Path, *only: str) -> None:
        with trio.fail_after(60):
            await self.files.downloads.fetch(
                self.record(body, target, *only), lambda: self.files.list.sizes(body.file_id)
            )

    def record(self, body: FolderBody, target: Path, *only: str) -> PartRecord:
        return PartRecord(
            file_id=body.file_id,
            name=body.name,
            size_bytes=0,
            target=target,
            kind="folder",
            list_id=body.list_id,
            only=only,
        )

    async def begin(self, body: FolderBody, target: Path, *only: str) -> Path:
        """Download until something is there, and then no more; return where that is."""
        part = self.record(body, target, *only).part_path
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.download, body, target, *only)
                while not part.exists() or not any(path.is_file() for path in part.rglob("*")):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await trio.sleep(1)  # what was just being written is written
        return part

    def spills(self) -> list[Path]:
        return list((self.files.table.directory / "trees").glob("*.spill"))


@contextlib.asynccontextmanager
async def open_device(home: Path, number: int) -> AsyncIterator[Device]:
    table = FileTable(home)
    records = await table.load()
    ring = open_ring(home, size_bytes=MIB)
    async with trio.open_nursery() as nursery:
        stream = EventStream[PoolEvent]()
        files = PoolFiles(
            nursery=nursery, table=table, ring=ring, media_cache_bytes=0, rng=random.Random(number), events=stream
        )
        await nursery.start(files.run, records)
        yield Device(number, files)
        nursery.cancel_scope.cancel()
        stream.close()
    ring.close()


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that jumps only when threads have had time to finish: disks do not know of trio's clock."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
async def devices(tmp_path: Path, jumping_clock: trio.testing.MockClock) -> AsyncIterator[tuple[Device, Device]]:
    async with open_device(tmp_path / "a", 1) as a, open_device(tmp_path / "b", 2) as b, linked(a.node, b.node):
        yield a, b


def make_folder(root: Path, *, seed: int = 1) -> Path:
    for number in range(40):
        path = root / f"{number % 3}" / f"{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(seed * 100 + number).randbytes(number * 5000))
    (root / "large").write_bytes(random.Random(seed).randbytes(9 * CHUNK_SIZE + 1))
    return root


def look(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_a_folder_is_fetched_and_served_on(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    a, b = devices
    root = make_folder(tmp_path / "root")
    body = await a.offer(root, b)
    await b.download(body, tmp_path / "copy")
    assert look(tmp_path / "copy") == look(root)
    complete = b.files.table.files[body.file_id]
    assert (complete.kind, complete.path) == ("folder", tmp_path / "copy")
    async with open_device(tmp_path / "c", 3) as c, linked(b.node, c.node):
        c.files.learned_offer(a.node.node, body, Hlc(1), file_id=None, msg_id=None)
        await c.download(body, tmp_path / "third")
    assert look(tmp_path / "third") == look(root)


async def test_of_a_part_of_a_folder_no_more_is_fetched(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    a, b = devices
    body = await a.offer(make_folder(tmp_path / "root"), b)
    await b.download(body, tmp_path / "copy", "1", "2/02")
    expected = {path: content for path, content in look(tmp_path / "root").items() if path[0] == "1" or path == "2/02"}
    assert look(tmp_path / "copy") == expected
    assert a.files.exchange.statistics().bytes_out < sum(map(len, expected.values())) + 4 * CHUNK_SIZE
    assert body.file_id not in b.files.table.files


async def test_of_a_newer_version_only_what_changed_is_fetched(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    a, b = devices
    root = make_folder(tmp_path / "root")
    await b.download(await a.offer(root, b), tmp_path / "old")
    before = a.files.exchange.statistics().bytes_out
    (root / "0 first").write_bytes(os.urandom(1000))
    await b.download(await a.offer(root, b), tmp_path / "new")
    assert look(tmp_path / "new") == look(root)
    assert a.files.exchange.statistics().bytes_out - before < 2 * CHUNK_SIZE


async def test_a_device_that_starts_again_serves_its_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root")
    async with open_device(tmp_path / "a", 1) as a:
        body = await a.offer(root)
    async with open_device(tmp_path / "a", 1) as a, open_device(tmp_path / "b", 2) as b, linked(a.node, b.node):
        b.files.learned_offer(a.node.node, body, Hlc(1), file_id=None, msg_id=None)
        await b.download(body, tmp_path / "copy")
    assert look(tmp_path / "copy") == look(root)


async def test_what_takes_long_with_many_files_does_not_hold_up_the_event_loop(
    tmp_path: Path, devices: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = devices
    body = await a.offer(make_folder(tmp_path / "root"), b)
    threads: dict[str, set[int]] = {"selected_pieces": set(), "chunks": set()}

    def note_threads(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def noting(self: object) -> object:
            threads[name].add(threading.get_ident())
            return method(self)

        monkeypatch.setattr(owner, name, noting)

    note_threads(FolderLayout, "selected_pieces")
    note_threads(FolderCopier, "chunks")
    await b.download(body, tmp_path / "copy", "1")
    assert all(threads.values())
    assert not any(threading.get_ident() in used for used in threads.values())


# --- what was begun -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [(), ("1", "2/02")])
async def test_of_a_cancelled_folder_all_goes_that_was_fetched_and_nothing_else(
    tmp_path: Path, devices: tuple[Device, Device], only: tuple[str, ...]
) -> None:
    a, b = devices
    body = await a.offer(make_folder(tmp_path / "root"), b)
    part = await b.begin(body, tmp_path / "copy", *only)
    (part / "1").mkdir(exist_ok=True)
    (part / "1/mine").write_bytes(b"mine")
    await b.files.downloads.discard(body.file_id)
    assert look(part) == {"1/mine": b"mine"}
    assert b.files.table.parts == {}
    assert b.spills() == []


async def test_a_newer_version_that_goes_to_the_same_place_leaves_what_somebody_put_there(
    tmp_path: Path, devices: tuple[Device, Device]
) -> None:
    a, b = devices
    root = make_folder(tmp_path / "root")
    part = await b.begin(await a.offer(root, b), tmp_path / "copy")
    (part / "mine").write_bytes(b"mine")
    (root / "0 first").write_bytes(b"new")
    newer = await a.offer(root, b)
    with pytest.raises(OutputExists):
        await b.download(newer, tmp_path / "copy")
    assert look(part) == {"mine": b"mine"}
    (part / "mine").unlink()
    part.rmdir()
    await b.download(newer, tmp_path / "copy")
    assert look(tmp_path / "copy") == look(root)


async def test_without_its_list_nothing_of_a_part_is_removed(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    a, b = devices
    body = await a.offer(make_folder(tmp_path / "root"), b)
    part = await b.begin(body, tmp_path / "copy", "1")
    before = look(part)
    (tmp_path / "b/folders").rename(tmp_path / "b/elsewhere")
    b.folders._lists._load.cache_clear()
    await b.files.downloads.discard(body.file_id)
    assert look(part) == before
    assert b.files.table.parts == {}
    assert b.spills() == []


# --- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [(), ("1", "2/02")])
async def test_a_folder_that_was_complete_when_the_process_died_is_complete_again(
    tmp_path: Path, jumping_clock: trio.testing.MockClock, only: tuple[str, ...]
) -> None:
    root = make_folder(tmp_path / "root")
    target = tmp_path / "copy"
    async with open_device(tmp_path / "a", 1) as a, open_device(tmp_path / "b", 2) as b, linked(a.node, b.node):
        body = await a.offer(root, b)
        await b.download(body, target, *only)
        listed = attrs.evolve(b.record(body, target, *only), size_bytes=body.size)
        b.files.table.parts[body.file_id] = listed
        await b.files.table.save_parts()
        for listing, save in ((b.files.table.files, "save_files"), (b.files.table.partials, "save_partials")):
            if listing.pop(body.file_id, None) is not None:
                await getattr(b.files.table, save)()
    before = look(target)
    async with open_device(tmp_path / "b", 2) as b:
        b.files.learned_offer(a.node.node, body, Hlc(1), file_id=None, msg_id=None)
        await b.download(body, target, *only)
        assert look(target) == before
        assert b.files.table.parts == {}
        complete = b.files.table.partials if only else b.files.table.files
        assert complete[body.file_id].path == target
        if not only:
            assert b.files.exchange.size_here(body.file_id) == body.size, "it is served"


async def test_what_somebody_changed_after_the_crash_is_not_taken_for_the_folder(
    tmp_path: Path, devices: tuple[Device, Device]
) -> None:
    a, b = devices
    body = await a.offer(make_folder(tmp_path / "root"), b)
    await b.download(body, tmp_path / "copy")
    listed = attrs.evolve(b.record(body, tmp_path / "copy"), size_bytes=body.size)
    await b.files.sources.forget(body.file_id)
    b.files.table.parts[body.file_id] = listed
    (tmp_path / "copy/0/03").write_bytes(bytes(15000))
    with pytest.raises(OutputExists):
        await b.download(body, tmp_path / "copy")
