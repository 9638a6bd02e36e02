"""Storage on real disks: atomic stores, SQLite, the home directory, file names."""

import errno
import fcntl
import os
import sqlite3
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import DiskFull, LocalError, OutputExists, StoreError, StoreLocked
from poolnet.ids import PoolId
from poolnet.storage.atomic_json import read_json, write_json
from poolnet.storage.durable import store_errors, write_durably
from poolnet.storage.files import (
    MAX_SAFE_NAME_BYTES,
    check_free_space,
    download_target,
    publish_without_overwrite,
    safe_file_name,
)
from poolnet.storage.home import Home, Profile, default_home, open_home
from poolnet.storage.sqlite_worker import open_sqlite

# --- JSON stores ------------------------------------------------------------------------------------------------


def test_a_store_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    assert read_json(path, {"a": 0}) == {"a": 0}
    write_json(path, {"a": 1, "ü": [None, True, "\udc80"]})
    write_json(path, {"a": 2, "ü": [None, True, "\udc80"]})
    assert read_json(path, None) == {"a": 2, "ü": [None, True, "\udc80"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_a_damaged_store_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.json"
    for number in (1, 2):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"damaged-{number}"):
            read_json(path, None)
        assert (tmp_path / f"store.json.damaged-{number}").read_bytes() == content
        assert read_json(path, "default") == "default"


def test_what_the_system_refuses_is_a_store_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        write_json(tmp_path / "missing" / "store.json", 1)
    with pytest.raises(StoreError, match="Is a directory"):
        read_json(tmp_path, None)
    with pytest.raises(DiskFull), store_errors("write", tmp_path):
        raise OSError(errno.EDQUOT, "quota")


# --- SQLite -----------------------------------------------------------------------------------------------------

SCHEMA = ("CREATE TABLE things (name TEXT PRIMARY KEY)",)


def insert(connection: sqlite3.Connection, *names: str) -> int:
    for name in names:
        connection.execute("INSERT INTO things VALUES (?)", (name,))
    return len(names)


def names_of(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY name")]


async def test_a_transaction_happens_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "a.db", schema=SCHEMA) as worker:
        assert await worker.run(insert, "a", "b") == 2
        with pytest.raises(StoreError):
            await worker.run(insert, "c", "a")
        assert await worker.run_relaxed(names_of) == ["a", "b"]
        assert worker.statistics().failed == 1
    async with open_sqlite(tmp_path / "a.db", schema=SCHEMA) as worker:
        assert await worker.run(names_of) == ["a", "b"]


async def test_transactions_run_one_at_a_time_and_in_order(tmp_path: Path) -> None:
    order: list[int] = []

    def note(connection: sqlite3.Connection, number: int) -> None:
        order.append(number)
        insert(connection, str(number))
        order.append(number)

    async with open_sqlite(tmp_path / "a.db", schema=SCHEMA) as worker, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(worker.run_relaxed, note, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [number for number in range(5) for _ in range(2)]


async def test_a_schema_grows_and_a_newer_one_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite(path, schema=SCHEMA) as worker:
        await worker.run(insert, "a")
    newer = (*SCHEMA, "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7")
    async with open_sqlite(path, schema=newer) as worker:
        assert await worker.run(lambda c: c.execute("SELECT name, size FROM things").fetchall()) == [("a", 7)]
    with pytest.raises(StoreError, match="newer version"):
        async with open_sqlite(path, schema=SCHEMA):
            pass
    assert path.exists()


async def test_a_failed_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_sqlite(path, schema=SCHEMA) as worker:
        await worker.run(insert, "a")
    with pytest.raises(StoreError):
        async with open_sqlite(path, schema=(*SCHEMA, "CREATE TABLE more (x); SELECT nonsense")):
            pass
    async with open_sqlite(path, schema=(*SCHEMA, "CREATE TABLE more (x)")) as worker:
        assert await worker.run(names_of) == ["a"]


async def test_another_programs_database_is_kept_aside_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a poolnet database"):
        async with open_sqlite(path, schema=SCHEMA):
            pass
    assert (tmp_path / "a.db.damaged-1").read_bytes() == before
    async with open_sqlite(path, schema=SCHEMA) as worker:
        assert await worker.run(names_of) == []


async def test_a_database_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        async with open_sqlite(tmp_path / "missing" / "a.db", schema=SCHEMA):
            pass


# --- the home ---------------------------------------------------------------------------------------------------


async def test_a_home_keeps_its_key_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "home"
    async with open_home(path) as home:
        assert home.is_new
        seed = home.seed
        assert len(seed) == 32
    async with open_home(path) as home:
        assert (home.seed, home.is_new) == (seed, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "device.key").stat().st_mode) == 0o600


async def test_a_directory_that_holds_other_things_does_not_become_a_home(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    before = os.stat(tmp_path)
    with pytest.raises(StoreError, match="no home of a device; choose an empty directory"):
        async with open_home(tmp_path):
            pass
    after = os.stat(tmp_path)
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns), "its rights, or what is in it"


async def test_what_comes_before_the_key_is_no_obstacle_to_a_home(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "settings.json").write_text("{}")
    async with open_home(tmp_path) as home:
        assert home.is_new


async def fail_in(path: Path, act: Callable[[Home], object] = lambda home: None) -> None:
    async def fail() -> None:
        async with open_home(path) as home:
            act(home)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_home_that_nothing_was_done_with_goes_again_if_its_maker_fails(tmp_path: Path) -> None:
    await fail_in(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    (tmp_path / "empty").mkdir()
    await fail_in(tmp_path / "empty")
    assert os.listdir(tmp_path / "empty") == [], "the directory was there before"


@pytest.mark.parametrize("kept", ["settings.json", "server.db", "pools/somebody's"])
async def test_a_home_with_something_in_it_stays_whatever_fails(tmp_path: Path, kept: str) -> None:
    await fail_in(tmp_path / "new", lambda home: (home.path / kept).touch())
    async with open_home(tmp_path / "new") as home:
        assert not home.is_new
    await fail_in(tmp_path / "new")
    assert (tmp_path / "new" / kept).exists()


async def test_a_home_that_is_just_given_up_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = fcntl.flock

    def lose_the_file(descriptor: int, operation: int) -> None:
        taking(descriptor, operation)
        (tmp_path / "lock").unlink()  # by who had it before

    monkeypatch.setattr(fcntl, "flock", lose_the_file)
    with pytest.raises(StoreLocked, match="try again"):
        async with open_home(tmp_path):
            pass


async def test_a_home_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    async with open_home(tmp_path):
        with pytest.raises(StoreLocked, match="another poolnet process"):
            async with open_home(tmp_path):
                pass
    async with open_home(tmp_path):
        pass


async def test_a_damaged_key_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_bytes(b"short")
    with pytest.raises(StoreError, match="not a device key"):
        async with open_home(tmp_path):
            pass
    assert (tmp_path / "device.key").read_bytes() == b"short"


async def test_profile_and_pools_are_kept(tmp_path: Path) -> None:
    pool_id = PoolId(bytes(range(32)))
    async with open_home(tmp_path) as home:
        assert await home.profile() == Profile()
        await home.save_profile(Profile(name="Ada", user=b"\x00\xff"))
        (home.pool_directory(pool_id) / "messages.db").touch()
        (tmp_path / "pools" / "not a pool").mkdir()
    async with open_home(tmp_path) as home:
        assert await home.profile() == Profile(name="Ada", user=b"\x00\xff")
        assert home.pool_ids() == [pool_id]
        await home.forget_pool(pool_id)
        await home.forget_pool(pool_id)
        assert home.pool_ids() == []


@pytest.mark.parametrize("content", ["[]", '{"name": 1}', '{"name": null, "user": "%%"}'])
async def test_a_profile_that_is_not_one_is_a_store_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    async with open_home(tmp_path) as home:
        with pytest.raises(StoreError, match=r"profile\.json"):
            await home.profile()


def test_the_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POOLNET_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("POOLNET_HOME")
    assert default_home().name == "poolnet"


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("letter.txt", "letter.txt"),
        ("Übung 1 (final).tar.gz", "Übung 1 (final).tar.gz"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("a\\b:c", "a_b_c"),
        ("con", "_con"),
        ("COM1.txt", "_COM1.txt"),
        ("console", "console"),
        ("ends with dots. .", "ends with dots"),
        ("\x1b[31mred\n", "[31mred"),
        ("gpj.\u202egpj.exe", "gpj.gpj.exe"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_file_name(name) == safe


def test_a_long_name_keeps_its_suffix() -> None:
    safe = safe_file_name("ü" * 300 + ".tar.gz")
    assert safe.endswith("ü.tar.gz")
    assert len(safe.encode()) <= MAX_SAFE_NAME_BYTES
    assert len(safe_file_name("x." + "y" * 300).encode()) <= MAX_SAFE_NAME_BYTES


@given(st.text(max_size=300))
def test_a_safe_name_is_safe_and_stays_as_it_is(name: str) -> None:
    safe = safe_file_name(name)
    assert 1 <= len(safe.encode()) <= MAX_SAFE_NAME_BYTES
    assert Path(safe).name == safe
    assert not safe.startswith(".")
    assert not safe.endswith((".", " "))
    assert not any(unicodedata.category(char) in ("Cc", "Cf") or char in '/\\:*?"<>|' for char in safe)
    assert safe_file_name(safe) == safe


def test_a_target_is_named_safely_and_never_exists(tmp_path: Path) -> None:
    assert download_target(tmp_path, "a/b") == tmp_path / "a_b"
    assert download_target(tmp_path / "c", "a/b") == tmp_path / "c"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists):
        download_target(tmp_path, "dangling")


@pytest.mark.parametrize("out", ["~nobody-of-that-name/x", "y" * 300, "y" * 300 + "/x"])
def test_a_place_that_cannot_be_is_told_as_one(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocalError, match=r"(write the whole|choose another) path|choose another place"):
        download_target(Path(out), "a")


def test_a_place_that_may_not_be_looked_at_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_options: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(LocalError, match="Permission denied; choose another"):
        download_target(tmp_path / "x", "a")


@pytest.mark.parametrize("has_links", [True, False])
def test_publishing_never_overwrites(tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    part, target = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"new")
    publish_without_overwrite(part, target)
    assert target.read_bytes() == b"new"
    assert not part.exists()
    part.write_bytes(b"newer")
    with pytest.raises(OutputExists):
        publish_without_overwrite(part, target)
    assert (target.read_bytes(), part.read_bytes()) == (b"new", b"newer")


@pytest.fixture
def nothing_can_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)


@pytest.mark.usefixtures("nothing_can_be_removed")
def test_what_was_published_counts_though_its_part_cannot_be_removed(tmp_path: Path) -> None:
    part, target = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"new")
    publish_without_overwrite(part, target)
    assert target.read_bytes() == b"new"


@pytest.mark.usefixtures("nothing_can_be_removed")
def test_what_cannot_be_removed_after_a_failure_does_not_hide_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskFull):
        write_durably(tmp_path / "a", b"new")


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    with pytest.raises(DiskFull, match="MiB are needed"):
        check_free_space(tmp_path, 2**60)
