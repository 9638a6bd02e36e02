"""Sessions and the blocks they come from, where they begin, join and come apart."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from made_messages import POOL, make_message, make_text, make_tombstone

from poolnet.clock import make_hlc
from poolnet.limits import SESSION_GAP_S
from poolnet.message_db import MessageDB, open_message_db
from poolnet.protocol.key_set import summary_of
from poolnet.storage.message_blocks import BLOCK_SIZE
from poolnet.wire.claims import HIGHEST, LOWEST
from poolnet.wire.message import Message

GAP_MS = round(SESSION_GAP_S * 1000)


def at(*times_ms: int) -> list[Message]:
    return [make_text(make_hlc(ms), f"at {ms}") for ms in times_ms]


async def counts(db: MessageDB) -> list[int]:
    return [session.count for session in await db.sessions()]


async def test_a_silence_longer_than_half_an_hour_begins_a_new_session(tmp_path: Path) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        assert await db.sessions() == []
        first, second, third = messages = at(0, GAP_MS, 2 * GAP_MS + 1)
        other = make_message(make_hlc(5), kind="newer", author=1)
        await db.append([*messages, other])
        one, two = await db.sessions()
        assert (one.start, one.end, one.count) == (first.key, second.key, 3)
        assert (one.start_ms, one.end_ms) == (0, GAP_MS)
        assert one.participants == tuple(sorted([first.author, other.author]))
        assert (two.start, two.end, two.participants) == (third.key, third.key, (third.author,))


async def test_a_late_message_joins_two_sessions_and_its_retraction_parts_them(tmp_path: Path) -> None:
    between = at(GAP_MS)[0]
    tombstone = make_tombstone(make_hlc(10 * GAP_MS), between)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(at(0, 1, 2 * GAP_MS - 1, 2 * GAP_MS))
        assert await counts(db) == [2, 2]
        await db.append([between])
        assert await counts(db) == [5]
        await db.append([tombstone])
        assert await counts(db) == [2, 2, 1]


async def test_what_is_deleted_within_a_block_may_part_a_session(tmp_path: Path) -> None:
    between = at(GAP_MS)[0]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([*at(0, 1), between, *at(2 * GAP_MS - 1, 2 * GAP_MS)])
        assert await counts(db) == [5]
        await db.append([make_tombstone(make_hlc(10 * GAP_MS), between)])
        assert await counts(db) == [2, 2, 1]


@pytest.mark.parametrize("order", [1, -1, 7])
async def test_long_sessions_are_one_whatever_the_number_of_their_blocks(tmp_path: Path, order: int) -> None:
    messages = at(*range(0, 3 * BLOCK_SIZE * 1000, 1000))
    arriving: Iterable[Message] = (
        messages[::order] if abs(order) == 1 else [m for n in range(7) for m in messages[n::7]]
    )
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        batch: list[Message] = []
        for message in arriving:
            batch.append(message)
            if len(batch) == 50:
                await db.append(batch)
                batch = []
        await db.append(batch)
        (session,) = await db.sessions()
        assert (session.start, session.end) == (messages[0].key, messages[-1].key)
        assert session.count == len(messages)
        middle = messages[len(messages) // 2].key
        assert await db.sessions(before=middle, limit=1) == [session]
        assert await db.sessions(before=session.start) == []
        assert await db.with_keys(lambda keys: keys.session_start(middle)) == messages[0].key
        assert await db.with_keys(lambda keys: keys.session_start(messages[0].key)) is None


async def test_a_range_is_summed_up_exactly_wherever_it_begins_and_ends(tmp_path: Path) -> None:
    messages = at(*range(0, 3 * BLOCK_SIZE * 1000, 1000))
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        for start, end in ((0, 768), (0, 256), (255, 257), (10, 20), (256, 512), (300, 700), (5, 5), (700, 300)):
            lower = messages[start].key
            upper = messages[end].key if end < len(messages) else HIGHEST
            expected = summary_of(message.msg_id for message in messages[start:end])
            assert await db.summary(lower, upper) == expected
        assert await db.summary(LOWEST, HIGHEST) == summary_of(message.msg_id for message in messages)
        keys = [message.key for message in messages]
        assert await db.with_keys(lambda these: these.keys(keys[100], HIGHEST, 5)) == keys[100:105]
        assert await db.with_keys(lambda these: these.nth_newest(keys[100], 100)) == keys[0]
        assert await db.with_keys(lambda these: these.nth_newest(keys[100], 101)) is None
