"""MessageDB on real SQLite, against a plain model."""

import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from made_messages import POOL, make_message, make_said, make_text

from poolnet.clock import Hlc, make_hlc
from poolnet.errors import StoreDamaged, UnknownMessage, WireError
from poolnet.ids import MsgId, PoolId, encode_id, id_prefix_range_untrusted
from poolnet.message_db import STANDING_KINDS, open_message_db
from poolnet.protocol.key_set import MemoryKeys, summary_of
from poolnet.storage.message_schema import VERSION_1
from poolnet.storage.sqlite_worker import APPLICATION_ID
from poolnet.wire.bodies import ProfileBody
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message, encode_message


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


@given(
    ids=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20),
    length=st.integers(0, 52),
    odd=st.sampled_from(["", "1", "=", "aa", "é"]),
)
def test_the_range_of_a_prefix_holds_the_ids_that_begin_so_and_no_others(
    ids: list[bytes], length: int, odd: str
) -> None:
    prefix = encode_id(ids[0])[:length] + odd
    beginning = {value for value in ids if encode_id(value).startswith(prefix)}
    try:
        lowest, highest = id_prefix_range_untrusted(prefix.upper())
    except WireError:
        assert not beginning
    else:
        assert {value for value in ids if lowest <= value <= highest} == beginning


async def test_a_message_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    messages = [make_message(n) for n in range(300)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        for message in messages[:20]:
            assert await db.find(encode_id(message.msg_id)) == [message.msg_id]
            assert await db.find(encode_id(message.msg_id)[:12]) == [message.msg_id]
        assert len(await db.find("")) == 2
        assert await db.find("a1") == []


async def test_older_messages_are_fetched_before_they_are_read(tmp_path: Path) -> None:
    messages = [make_message(n) for n in range(10)]
    asked: list[tuple[Bound, int]] = []
    async with open_message_db(tmp_path / "m.db", POOL) as db:

        async def fetch(before: Bound, count: int) -> None:
            asked.append((before, count))
            await db.append([message for message in messages if message.key < before][-count:])

        assert await db.fetch_older(None, 3) == []
        db.bind(fetch)
        assert await db.fetch_older(None, 3) == messages[7:]
        assert await db.fetch_older(messages[7].key, 4) == messages[3:7]
        db.bind(None)
        assert await db.fetch_older(messages[3].key, 4) == []
        assert asked == [(HIGHEST, 3), (messages[7].key, 4)]


async def test_times_at_both_ends_of_what_a_clock_can_say_are_in_order(tmp_path: Path) -> None:
    messages = [make_message(n, body=bytes([m])) for n in (0, 2**62 - 1, 2**62, 2**63 - 1) for m in range(30)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        for message in random.Random(3).sample(messages, len(messages)):
            await db.append([message])
        assert await db.latest(1000) == sorted(messages, key=lambda message: message.key)
        assert (await db.summary(LOWEST, HIGHEST)).count == len(messages)
        assert await db.search("word") == []


# --- versions and damage ------------------------------------------------------------------------------------------


def write_version_1(path: Path, messages: Iterable[Message]) -> None:
    """Write a database as version 1 did, whose messages were stored with all of their signed bytes."""
    connection = sqlite3.connect(path)
    connection.executescript(
        f"BEGIN; {VERSION_1}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; COMMIT;"
    )
    with connection:
        connection.executemany(
            "INSERT INTO messages (hlc, msg_id, kind, encoded) VALUES (?, ?, ?, ?)",
            [(m.content.hlc, m.msg_id, m.content.kind, encode_cbor([m.signed, m.signature])) for m in messages],
        )
    connection.close()


async def test_a_history_of_the_first_version_is_taken_over_whole(tmp_path: Path) -> None:
    messages = [make_text(make_hlc(n * 3_600_000 // 7), f"word {n}", author=n % 3) for n in range(2500)]
    write_version_1(tmp_path / "m.db", random.Random(1).sample(messages, len(messages)))
    for _ in range(2):
        async with open_message_db(tmp_path / "m.db", POOL) as db:
            assert await db.latest(10_000) == messages
            assert await db.summary(LOWEST, HIGHEST) == summary_of(m.msg_id for m in messages)
            assert await db.search("1234") == messages[1234:1235]
            assert await db.append(messages) == []


async def test_a_history_of_the_second_version_is_summed_up_anew_and_what_stands_is_found(tmp_path: Path) -> None:
    names = [make_said(make_hlc(n * 3_600_000), ProfileBody(name=f"name {n}"), author=n % 3) for n in range(600)]
    texts = [make_text(make_hlc(n * 3_600_000 + 1), f"word {n}") for n in range(20)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([*names, *texts])
    connection = sqlite3.connect(tmp_path / "m.db")  # as version 2 left it
    connection.executescript("DROP INDEX messages_standing; DROP TABLE standing_blocks; PRAGMA user_version = 2")
    connection.close()
    expected = MemoryKeys(message.key for message in names)
    for _ in range(2):
        async with open_message_db(tmp_path / "m.db", POOL) as db:
            assert await db.latest(10_000, kinds=(ProfileBody.KIND,)) == names
            found = await db.with_standing_keys(lambda keys: [keys.summary(m.key, HIGHEST) for m in names])
            assert found == [expected.summary(m.key, HIGHEST) for m in names]
            assert (await db.summary(LOWEST, HIGHEST)).count == 620


def test_the_kinds_that_stand_are_those_of_the_index_that_every_history_has() -> None:
    assert sorted(STANDING_KINDS) == [
        "folder", "media", "offer", "profile", "retract_message", "retract_offer", "stream",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["x'00'", "x'820102'", "7"])
async def test_a_damaged_history_of_the_first_version_is_kept_aside(tmp_path: Path, damage: str) -> None:
    write_version_1(tmp_path / "m.db", [make_message(n) for n in range(5)])
    connection = sqlite3.connect(tmp_path / "m.db")
    with connection:
        connection.execute(f"UPDATE messages SET encoded = {damage} WHERE hlc = 3")
    connection.close()
    with pytest.raises(StoreDamaged, match="damaged-1"):
        async with open_message_db(tmp_path / "m.db", POOL):
            pass
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.count() == 0


async def test_a_history_of_another_pool_is_not_taken_over(tmp_path: Path) -> None:
    write_version_1(tmp_path / "m.db", [make_message(1)])
    with pytest.raises(StoreDamaged):
        async with open_message_db(tmp_path / "m.db", PoolId(bytes([1]) * 32)):
            pass


async def test_a_damaged_history_is_kept_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(b"this is not a database " * 500)
    with pytest.raises(StoreDamaged, match="damaged-1"):
        async with open_message_db(path, POOL):
            pass
    async with open_message_db(path, POOL) as db:
        assert await db.append([make_message(1)])
    assert (tmp_path / "m.db.damaged-1").read_bytes().startswith(b"this is not")


@pytest.mark.parametrize("seed", range(8))
async def test_damage_that_shows_later_is_told_and_the_next_opening_begins_anew(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "m.db", random.Random(seed)
    messages = [make_message(n, body=rng.randbytes(1000)) for n in range(200)]
    async with open_message_db(path, POOL) as db:
        await db.append(messages)
    content = bytearray(path.read_bytes())
    start = rng.choice([len(content) // 3, len(content) // 2])
    content[start:] = rng.randbytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(StoreDamaged):
        async with open_message_db(path, POOL) as db:
            await db.latest(200)
    assert (tmp_path / "m.db.damaged-1").read_bytes()[:100] == content[:100]
    async with open_message_db(path, POOL) as db:
        assert await db.append(messages) == messages


async def test_what_is_not_what_was_stored_is_damage_and_not_a_message(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    first, other = make_message(1, body=b"a"), make_message(1, body=b"b")
    for damage in (b"", encode_message(other)):
        async with open_message_db(path, POOL) as db:
            await db.append([first])
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE bodies_1 SET encoded = ?", (damage,))
        connection.close()
        with pytest.raises(StoreDamaged):
            async with open_message_db(path, POOL) as db:
                await db.latest(1)


async def test_a_message_that_is_missing_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    for statement in ("DELETE FROM bodies_1", "DELETE FROM volumes", "UPDATE volumes SET last = first"):
        async with open_message_db(path, POOL) as db:
            await db.append([make_message(n) for n in (1, 5)])
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(StoreDamaged):
            async with open_message_db(path, POOL) as db:
                await db.latest(2)
