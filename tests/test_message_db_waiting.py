"""Messages that are stored together: what waits for the next transaction, and what waits for the disk."""

from pathlib import Path

import pytest
import trio
from made_messages import POOL, make_message
from trio.testing import wait_all_tasks_blocked

from poolnet.errors import DiskFull, StoreError
from poolnet.message_db import open_message_db
from poolnet.storage.message_changes import Appended
from poolnet.storage.message_group import GroupCommit
from poolnet.wire.message import Message

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


class Disk:
    """Commits when told to, and counts."""

    def __init__(self) -> None:
        self.commits: list[list[Message]] = []
        self.stored: set[bytes] = set()
        self.may_go_on = trio.Event()
        self.failure: StoreError | None = None

    async def append(self, batch: list[Message], _is_expiry_due: bool) -> Appended:
        await self.may_go_on.wait()
        self.commits.append(batch)
        if self.failure is not None:
            raise self.failure
        added = [message for message in batch if message.msg_id not in self.stored]
        self.stored.update(message.msg_id for message in added)
        return Appended(added, 0, [])


async def append(group: GroupCommit, batch: list[Message], results: dict[int, object], number: int) -> None:
    try:
        results[number] = (await group.run(batch, is_expiry_due=False)).added
    except StoreError as exc:
        results[number] = exc


async def test_calls_that_come_while_the_disk_is_busy_share_the_next_transaction(autojump_clock: object) -> None:
    disk, results = Disk(), dict[int, object]()
    group = GroupCommit(disk.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, group, MESSAGES[:1], results, 0)
        await wait_all_tasks_blocked()
        for number in (1, 2, 3):
            nursery.start_soon(append, group, [MESSAGES[number]], results, number)
            await wait_all_tasks_blocked()
        nursery.start_soon(append, group, [MESSAGES[3], MESSAGES[4]], results, 4)
        await wait_all_tasks_blocked()
        disk.may_go_on.set()
    assert len(disk.commits) == 2
    assert results == {**{n: [MESSAGES[n]] for n in range(4)}, 4: [MESSAGES[4]]}


async def test_a_call_that_is_cancelled_before_its_turn_stores_nothing(autojump_clock: object) -> None:
    disk, results = Disk(), dict[int, object]()
    group = GroupCommit(disk.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, group, MESSAGES[:1], results, 0)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await append(group, [MESSAGES[1]], results, 1)
        nursery.start_soon(append, group, [MESSAGES[2]], results, 2)
        await wait_all_tasks_blocked()
        disk.may_go_on.set()
    assert results == {0: [MESSAGES[0]], 2: [MESSAGES[2]]}
    assert disk.stored == {MESSAGES[0].msg_id, MESSAGES[2].msg_id}


async def test_all_that_share_a_transaction_hear_that_it_failed(autojump_clock: object) -> None:
    disk, results = Disk(), dict[int, object]()
    group = GroupCommit(disk.append)
    disk.failure = DiskFull("no space")
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(append, group, [MESSAGES[number]], results, number)
            await wait_all_tasks_blocked()
        disk.may_go_on.set()
    assert results == dict.fromkeys(range(3), disk.failure)
