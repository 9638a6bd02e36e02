"""What a download has written goes to the disk on the way, so that the end is not a long wait."""

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from poolnet.errors import StoreError
from poolnet.events import PoolEvent
from poolnet.files import downloads
from poolnet.files.progress import Download
from poolnet.files.size_claims import SizeClaims
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.storage.file_table import PartRecord
from poolnet.storage.piece_store import PartFile
from tests.test_piece_store import all_pieces, make_part, make_source

FILE = FileId(bytes(32))


def publish_nothing(_event: PoolEvent) -> None:
    pass


def make_download(part: PartFile) -> Download:
    record = PartRecord(file_id=FILE, name="a", size_bytes=part.shape.size_bytes or 0, target=Path("a"))
    return Download(record, priority=0, publish=publish_nothing, count_sources=lambda: 0)


async def test_growth_is_reported_once_so_much_more_is_here(tmp_path: Path) -> None:
    download = make_download(make_part(tmp_path, make_source(tmp_path, 1)))
    seen: list[int] = []

    async def watch() -> None:
        while True:
            await download.wait_for_growth(3 * CHUNK_SIZE)
            seen.append(download.done_bytes // CHUNK_SIZE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(7):
            await wait_all_tasks_blocked()
            download.pieces_stored(CHUNK_SIZE)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [3, 6]


async def test_a_disk_that_fails_meanwhile_fails_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_WRITE_BACK_SIZE", CHUNK_SIZE)
    source = make_source(tmp_path, 2 * CHUNK_SIZE)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source))
    part.write_back()
    download = make_download(part)
    part.path.unlink()  # what cannot be opened cannot be synced
    async with trio.open_nursery() as nursery:
        nursery.start_soon(downloads._write_back, download, part)
        await wait_all_tasks_blocked()
        download.pieces_stored(2 * CHUNK_SIZE)
        with pytest.raises(StoreError, match="cannot write"):
            await download.wait(SizeClaims(FILE, lambda: [2 * CHUNK_SIZE]))
