"""What crashes and failing disks brought to light, each tried without one: leftovers, lost names, failed syncs."""

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from file_overlay import Overlay, files_of, until, write_file
from test_piece_store import all_pieces, make_part, make_source
from trio.testing import MockClock

from poolnet.errors import DiskFull, StoreError
from poolnet.file_manager import open_file_manager
from poolnet.files.part_paths import put_part_aside
from poolnet.ids import FileId, PoolId
from poolnet.limits import CHUNK_SIZE
from poolnet.ranges import RangeSet
from poolnet.storage import durable
from poolnet.storage.durable import make_private_directory, sync_directory, write_durably
from poolnet.storage.file_table import FileTable, LocalFile, PartRecord
from poolnet.storage.held_files import create_beside, remove_left_over
from poolnet.storage.home import open_home
from poolnet.storage.media_cache import MediaCache
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


async def test_what_a_disk_refuses_when_files_are_opened_is_raised_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cache: MediaCache) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(MediaCache, "load", refuse)
    with pytest.raises(DiskFull):
        async with open_file_manager(tmp_path / "files", rng=random.Random(1)):
            pass


def test_what_a_killed_process_was_writing_for_the_user_goes_with_the_next_that_is_written_there(
    tmp_path: Path,
) -> None:
    path, held = create_beside(tmp_path / "a.jsonl", 0o600)
    os.close(held)
    other, descriptor = create_beside(tmp_path / "b.jsonl", 0o600)
    assert not path.exists()
    remove_left_over(tmp_path)
    assert other.exists(), "somebody is writing it"
    os.close(descriptor)
    remove_left_over(tmp_path)
    assert os.listdir(tmp_path) == []


async def test_what_belongs_to_no_unfinished_download_goes_with_the_next_start(tmp_path: Path) -> None:
    table, file_id = FileTable(tmp_path), FileId(bytes(32))
    await table.load()
    table.partials[file_id] = LocalFile(
        file_id=file_id, name="trip", size_bytes=9, path=tmp_path, mtime_ns=0, is_own=False, kind="folder"
    )
    await table.save_partials()
    left = [table.journal_path(file_id), table.journal_path(file_id).with_suffix(".spill")]
    for path in (*left, table.tree_path(file_id)):
        path.write_bytes(b"x")
    await FileTable(tmp_path).load()
    assert [path for path in left if path.exists()] == []
    assert table.tree_path(file_id).exists()


def test_a_directory_that_is_there_may_not_be_on_the_disk_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    (tmp_path / "a").mkdir()  # whoever made it was killed then
    make_private_directory(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


@pytest.mark.parametrize("has_part", [False, True])
async def test_a_download_that_had_its_name_when_its_process_was_killed_is_listed_by_the_next(
    tmp_path: Path, jumping_clock: MockClock, has_part: bool
) -> None:
    pool = Overlay(tmp_path)
    source = write_file(tmp_path / "a.bin", 2 * CHUNK_SIZE)
    async with pool.device(1) as a, pool.device(2) as b, pool.linked(a, b):
        info = await files_of(a).offer(source)
        target = await files_of(b).download(info.file_id, pool.home(2) / "b.bin")
        table = files_of(b)._files.table
        listed = table.files.pop(info.file_id)
        await table.save_files()
        table.parts[info.file_id] = PartRecord(
            file_id=info.file_id, name=listed.name, size_bytes=listed.size_bytes, target=target
        )
        await table.save_parts()
        table.journal_path(info.file_id).write_bytes(bytes(8))
        if has_part:
            os.link(target, table.parts[info.file_id].part_path)
    async with pool.device(2) as b:
        await until(lambda: not files_of(b)._files.table.parts)
        assert list(files_of(b)._files.table.files) == [info.file_id]
    assert os.listdir(pool.home(2) / "manager" / "trees") == [table.tree_path(info.file_id).name]
    assert sorted(os.listdir(pool.home(2))) == ["b.bin", "manager"]


def test_a_part_that_cannot_get_its_size_is_not_in_the_way_of_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    part = make_part(tmp_path, make_source(tmp_path, CHUNK_SIZE))
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(StoreError, match="large"):
            part.create()
    part.create()


def test_an_empty_part_makes_way_and_another_is_put_aside(tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    part.touch()
    put_part_aside(part)
    assert os.listdir(tmp_path) == []
    part.write_bytes(b"somebody's")
    put_part_aside(part)
    assert os.listdir(tmp_path) == ["a.part.damaged"]
