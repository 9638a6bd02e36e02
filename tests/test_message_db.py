"""MessageDB on real SQLite, against a plain model."""

import random
import sqlite3
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from made_messages import POOL, make_message

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import StoreError, UnknownMessage
from poolnet.ids import MsgId
from poolnet.message_db import open_message_db


async def test_messages_come_out_as_they_went_in_and_in_the_order_of_the_pool(tmp_path: Path) -> None:
    messages = [make_message(make_hlc(1000 + n // 2), body=bytes([n])) for n in range(20)]
    shuffled = random.Random(1).sample(messages, len(messages))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.append(shuffled) == sorted(messages, key=lambda m: m.key)
        assert await db.latest(100) == sorted(messages, key=lambda m: m.key)
        assert await db.last_hlc() == make_hlc(1009)
        assert db.statistics().messages == 20


async def test_a_message_is_stored_once_and_only_new_ones_are_returned(tmp_path: Path) -> None:
    first, second, third = (make_message(n) for n in (1, 2, 3))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.append([first, third], durable=True) == [first, third]
        assert await db.append([third, second, second, first]) == [second]
        assert await db.append([]) == []
        statistics = db.statistics()
        assert (statistics.messages, statistics.appended, statistics.duplicates) == (3, 3, 3)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.latest(10) == [first, second, third]
        assert db.statistics().messages == 3


@settings(max_examples=25, deadline=None)
@given(
    stamps=st.lists(st.integers(0, 12), max_size=25),
    at=st.integers(0, 13),
    count=st.integers(0, 8),
    kinds=st.sampled_from([None, {"text"}, {"text", "offer"}, {"none"}, set()]),
    seed=st.integers(0, 1000),
)
def test_pages_are_slices_of_the_ordered_history(
    stamps: list[int], at: int, count: int, kinds: set[str] | None, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = random.Random(seed)
    messages = [make_message(s, kind=rng.choice(["text", "offer"]), body=bytes([n])) for n, s in enumerate(stamps)]
    model = sorted((m for m in messages if kinds is None or m.content.kind in kinds), key=lambda m: m.key)

    async def check() -> None:
        async with open_message_db(tmp_path_factory.mktemp("db") / "m.db", POOL) as db:
            await db.append(messages)
            key = (Hlc(at), MsgId(rng.randbytes(32)))
            older, newer = [m for m in model if m.key < key], [m for m in model if m.key > key]
            assert await db.latest(count, kinds=kinds) == model[len(model) - count if count <= len(model) else 0 :]
            assert await db.before(key, count, kinds=kinds) == older[max(0, len(older) - count) :]
            assert await db.after(key, count, kinds=kinds) == newer[:count]
            if kinds is not None:
                assert await db.of_kinds(kinds) == model
            for message in messages[:3]:
                before = [m for m in model if m.key < message.key]
                after = [m for m in model if m.key > message.key]
                around = await db.around(message.msg_id, count, kinds=kinds)
                assert around == [*before[max(0, len(before) - count) :], message, *after[:count]]

    trio.run(check)


async def test_messages_are_found_by_id(tmp_path: Path) -> None:
    messages = [make_message(n) for n in range(1200)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        wanted = [m.msg_id for m in messages[::-1]]
        assert await db.get([*wanted, wanted[0], MsgId(bytes(32))]) == messages
        with pytest.raises(UnknownMessage):
            await db.around(MsgId(bytes(32)), 3)


async def test_a_damaged_history_is_kept_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(b"this is not a database " * 500)
    with pytest.raises(StoreError, match="damaged-1"):
        async with open_message_db(path, POOL):
            pass
    async with open_message_db(path, POOL) as db:
        assert await db.append([make_message(1)])
    assert (tmp_path / "m.db.damaged-1").read_bytes().startswith(b"this is not")


async def test_damage_inside_is_a_store_error_and_not_a_wrong_message(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with open_message_db(path, POOL) as db:
        await db.append([make_message(n, body=bytes(1000)) for n in range(200)])
    content = bytearray(path.read_bytes())
    content[8192:] = random.Random(1).randbytes(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError):
        async with open_message_db(path, POOL) as db:
            await db.latest(200)


async def test_a_row_that_was_tampered_with_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with open_message_db(path, POOL) as db:
        await db.append([make_message(1)])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE messages SET encoded = x'00'")
    connection.close()
    async with open_message_db(path, POOL) as db:
        with pytest.raises(StoreError, match="damaged"):
            await db.latest(1)
