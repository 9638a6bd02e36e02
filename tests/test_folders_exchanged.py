"""Folders on their way between devices: list and content over links in memory, as the parts of a FileManager do it."""

import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from poolnet.clock import Hlc
from poolnet.event_stream import EventStream
from poolnet.events import PoolEvent
from poolnet.file_manager import FileManager
from poolnet.files.pool_files import PoolFiles
from poolnet.ids import DeviceId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.storage.cache_ring import open_ring
from poolnet.storage.file_table import FileTable, PartRecord
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
        record = PartRecord(
            file_id=body.file_id,
            name=body.name,
            size_bytes=0,
            target=target,
            kind="folder",
            list_id=body.list_id,
            only=only,
        )
        with trio.fail_after(60):
            await self.files.downloads.fetch(record, lambda: self.files.list.sizes(body.file_id))


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
