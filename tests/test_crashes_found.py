"""What crashes and failing disks brought to light, each tried without one: leftovers, lost names, failed syncs."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from test_piece_store import all_pieces, make_part, make_source

from poolnet.errors import StoreError
from poolnet.files.part_paths import put_part_aside
from poolnet.ids import PoolId
from poolnet.limits import CHUNK_SIZE
from poolnet.ranges import RangeSet
from poolnet.storage.durable import make_private_directory, sync_directory, write_durably
from poolnet.storage.file_table import FileTable
from poolnet.storage.home import open_home
from poolnet.storage.part_journal import PartJournal

POOL = PoolId(bytes(range(32)))


def fail_syncs(monkeypatch: pytest.MonkeyPatch, error: int, *, of_files: bool = False) -> None:
    """Let the syncs of directories fail, or with `of_files` those of files."""

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) != of_files:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fail)


async def test_a_home_has_nothing_left_of_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    async with open_home(tmp_path / "home") as home:
        pool = home.pool_directory(POOL)
    leftovers = [
        home.path / ".device.key.0123abcd",
        home.path / ".settings.json.ffffffff",
        pool / ".pool.json.00000000",
    ]
    others = [home.path / ".notes", pool / "messages.db", pool / ".my.notes"]
    for path in (*leftovers, *others):
        path.write_bytes(b"x")
    async with open_home(tmp_path / "home"):
        assert [path for path in leftovers if path.exists()] == []
        assert [path for path in others if not path.exists()] == []


async def test_a_file_table_has_nothing_left_of_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    leftover = tmp_path / ".queue.json.0123abcd"
    leftover.write_bytes(b"[")
    await FileTable(tmp_path).load()
    assert not leftover.exists()


async def test_a_pool_that_was_being_forgotten_is_gone_after_the_next_start(tmp_path: Path) -> None:
    async with open_home(tmp_path / "home") as home:
        (home.pool_directory(POOL) / "messages.db").write_bytes(b"x")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path: None)  # killed before
            await home.forget_pool(POOL)
        assert home.pool_ids() == []
        assert os.listdir(home.path / "pools")
    async with open_home(tmp_path / "home") as home:
        assert os.listdir(home.path / "pools") == []


def test_a_name_that_may_be_lost_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_syncs(monkeypatch, errno.EIO)
    with pytest.raises(StoreError):
        write_durably(tmp_path / "a.json", b"{}")
    with pytest.raises(StoreError):
        make_private_directory(tmp_path / "new")


def test_a_file_system_that_syncs_no_directories_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_syncs(monkeypatch, errno.EINVAL)
    sync_directory(tmp_path)


def test_after_a_sync_that_failed_everything_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, 20 * CHUNK_SIZE + 1)
    part = make_part(tmp_path, source)
    part.create()
    part.write_pieces(all_pieces(source))
    with monkeypatch.context() as patch:
        fail_syncs(patch, errno.EIO, of_files=True)
        with pytest.raises(StoreError):
            part.sync()

    resumed = make_part(tmp_path, source)  # as another process does it
    written = resumed.reopen()
    assert written is not None
    resumed.begin_journal(RangeSet.of(resumed.verify(list(written))))
    assert make_part(tmp_path, source).reopen() == written

    for again in (part, resumed):
        assert written_bytes(again.sync) == source.shape.size_bytes
        assert written_bytes(again.sync) == 0
    part.publish(tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.path.read_bytes()


def written_bytes(call: Callable[[], None]) -> int:
    """Return how many bytes a call writes."""
    sizes, pwrite = [], os.pwrite

    def counted(descriptor: int, data: memoryview, offset: int) -> int:
        sizes.append(len(data))
        return pwrite(descriptor, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", counted)
        call()
    return sum(sizes)


def test_a_journal_that_a_nearly_full_disk_took_in_parts_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = PartJournal(tmp_path / "j"), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    journal.append(RangeSet(((1, 4), (7, 9))))
    journal.append(RangeSet(((20, 21),)))
    assert list(PartJournal(tmp_path / "j").read().ranges()) == [(1, 4), (7, 9), (20, 21)]


def test_an_empty_part_makes_way_and_another_is_put_aside(tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.touch()
    put_part_aside(part)
    assert os.listdir(tmp_path) == []
    part.write_bytes(b"somebody's")
    put_part_aside(part)
    assert os.listdir(tmp_path) == ["a.part.damaged"]
