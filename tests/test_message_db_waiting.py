"""Messages that are stored together: what waits for the next transaction, and what waits for the disk."""

import errno
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
from made_messages import POOL, make_message

from poolnet.errors import StoreError
from poolnet.message_db import Retention, open_message_db
from poolnet.storage import sqlite_worker

MESSAGES = [make_message(number) for number in range(1, 8)]


async def test_what_is_to_be_stored_soon_is_seen_by_whatever_is_called_next(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(MESSAGES[:2])
        db.append_soon(MESSAGES[2])
        assert db.unsaved == 1
        assert await db.latest(5) == MESSAGES[:3]
        assert db.unsaved == 0
        db.append_soon(MESSAGES[3])
        db.append_soon(MESSAGES[4])
        assert await db.get([MESSAGES[4].msg_id]) == [MESSAGES[4]]
        assert await db.append([MESSAGES[3]]) == []


async def test_flush_stores_all_that_waits_in_one_transaction(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        for message in MESSAGES:
            db.append_soon(message)
        await db.flush()
        assert db.unsaved == 0
        assert db.statistics().messages == db.statistics().appended == len(MESSAGES)
        await db.flush()
        assert await db.latest(10) == MESSAGES


async def test_what_waits_is_stored_when_the_database_is_closed(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        db.append_soon(MESSAGES[0])
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.latest(10) == MESSAGES[:1]


async def test_what_cannot_be_stored_waits_on_and_harms_no_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(MESSAGES[:1])
        connection = db._worker._connection
        connection.execute("PRAGMA query_only = ON")
        db.append_soon(MESSAGES[1])
        assert await db.latest(10) == MESSAGES[:1]
        with pytest.raises(StoreError):
            await db.flush()
        assert db.unsaved == 1
        connection.execute("PRAGMA query_only = OFF")
        await db.flush()
        assert await db.latest(10) == MESSAGES[:2]


async def test_all_that_wait_for_the_disk_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        real, syncs, go_on = sqlite_worker.sync_file, list[Path](), threading.Event()

        def counted(path: Path) -> None:
            syncs.append(path)
            assert go_on.wait(10)
            real(path)

        monkeypatch.setattr(sqlite_worker, "sync_file", counted)
        async with trio.open_nursery() as nursery:
            for message in MESSAGES:
                nursery.start_soon(partial(db.append, [message], durable=True))
            while db._worker._sync_turn.statistics().tasks_waiting < len(MESSAGES) - 1:
                await trio.lowlevel.checkpoint()
            go_on.set()
        assert 1 <= len(syncs) <= 2
        assert set(syncs) == {tmp_path / "m.db-wal"}
        await db.sync()
        count = len(syncs)
        await db.sync()
        assert len(syncs) <= count + 1


async def test_what_the_disk_does_not_take_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:

        def fail(path: Path) -> None:
            raise OSError(errno.EIO, "broken", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(sqlite_worker, "sync_file", fail)
            with pytest.raises(StoreError):
                await db.append([MESSAGES[0]], durable=True)
        with pytest.raises(StoreError):  # a system forgets what it could not write: the next sync proves nothing
            await db.sync()
        assert await db.latest(5) == MESSAGES[:1]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([MESSAGES[1]], durable=True)


async def test_a_sync_does_not_vouch_for_what_was_still_being_written_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        syncs, begun, go_on = list[Path](), threading.Event(), threading.Event()
        monkeypatch.setattr(sqlite_worker, "sync_file", syncs.append)

        def slow(_connection: sqlite3.Connection) -> None:
            begun.set()
            go_on.wait(10)

        await db.append([MESSAGES[0]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(db._worker.run_relaxed, slow)
            await trio.to_thread.run_sync(begun.wait, 10)
            await db.sync()
            assert len(syncs) == 1
            go_on.set()
        await db.sync()
        assert len(syncs) == 2


async def test_what_waits_counts(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(MESSAGES[:1])
        db.append_soon(MESSAGES[1])
        assert await db.count() == 2


async def test_a_limit_by_count_holds_for_what_waited_whoever_stored_it(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        floors = list[object]()
        db.bind(None, floor_moved=floors.append)
        await db.set_retention(Retention(max_count=10))
        for number in range(1, 300):
            db.append_soon(make_message(number))
            await db.latest(1)
        await db.flush()
        assert await db.count() == 10
        assert floors == [await db.floor()]
