"""Search: what people may type, and what it finds."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from made_messages import POOL, make_message, make_said, make_text

from poolnet.clock import hlc_ms, make_hlc
from poolnet.ids import FileId
from poolnet.message_db import open_message_db
from poolnet.storage import message_volumes
from poolnet.storage.message_words import match_expression
from poolnet.wire.bodies import AnnouncementBody, FolderBody, MediaBody, OfferBody, ProfileBody, StreamBody
from poolnet.wire.message import Message


@pytest.fixture(autouse=True)
def _small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few messages need several volumes."""
    monkeypatch.setattr(message_volumes, "VOLUME_SIZE", 4)
    monkeypatch.setattr(message_volumes, "_SPLIT_SIZE", 8)


TEXTS = (
    "Shall we meet at the café?",
    "the meeting is at noon; MEET there",
    "noon at the latest, says Zoë",
    "7 of 12 is not 12 of 7",
    'AND OR NOT NEAR (quoted) "words" here',
    "наши встречи 会議 は",
)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("meet", [0, 1]),
        ("MEET the", [0, 1]),
        ("meet*", [0, 1]),
        ("meeti*", [1]),
        ("cafe", [0]),
        ("zoe", [2]),
        ('"at the"', [0, 2]),
        ('"the at"', []),
        ('"at the" meet', [0]),
        ('"at the', [0, 2]),
        ("café?", [0]),
        ("12", [3]),
        ("7 12", [3]),
        ("not", [3, 4]),
        ("AND", [4]),
        ("near(quoted)", [4]),
        ("quoted words", [4]),
        ("встреч*", [5]),
        ("会議", [5]),
        ("text : meet", []),
        ("author:0", []),
        ("", []),
        ('  ?! ** "" \' ; --', []),
        ("*", []),
        ("me*et", []),
    ],
)
async def test_what_is_typed_finds_texts_with_all_of_its_words(tmp_path: Path, typed: str, found: list[int]) -> None:
    messages = [make_text(n, text) for n, text in enumerate(TEXTS)]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        assert await db.search(typed) == [messages[n] for n in found]


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    """A full-text index like those of volumes."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE words USING fts5 (text, author, tokenize = 'unicode61 remove_diacritics 2')"
    )
    connection.execute("INSERT INTO words VALUES ('a b', '0')")
    yield connection
    connection.close()


@settings(max_examples=500)
@given(typed=st.text(st.characters(codec=None) | st.sampled_from('"*:(){}^+-\0 \ud800ab'), max_size=20))
def test_nothing_that_is_typed_is_an_error(typed: str, connection: sqlite3.Connection) -> None:
    words = match_expression(typed)
    if words is not None:
        connection.execute("SELECT * FROM words WHERE words MATCH ?", (f"text : ({words})",)).fetchall()


async def test_announcements_and_all_that_is_offered_are_found_and_nothing_else_is(tmp_path: Path) -> None:
    announcement = make_said(1, AnnouncementBody(text="the tree is down"))
    offer = make_said(2, OfferBody(file_id=FileId(bytes(32)), name="tree_of-life.tar.gz", size=1))
    others = [
        make_said(3, ProfileBody(name="tree")),
        make_message(4, kind="newer", body=b"dtree"),
        make_message(5, kind="text", body=b"tree"),  # not a body of that kind
    ]
    file_id = FileId(bytes(32))
    new_kinds = [
        make_said(
            6, FolderBody(file_id=file_id, list_id=FileId(b"l" * 32), name="trees", size=1, list_size=1, file_count=1)
        ),
        make_said(7, MediaBody(file_id=file_id, name="tree.png", size=1, width=0, height=0, preview=b"radio")),
        make_said(8, StreamBody(nonce=bytes(16), name="tree radio")),
    ]
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([announcement, offer, *others, *new_kinds])
        assert await db.search("tree*") == [announcement, offer, *new_kinds]
        assert await db.search("life tar") == [offer]
        assert await db.search("tree radio") == new_kinds[2:]


async def test_of_messages_of_one_time_the_last_by_id_are_the_newest(tmp_path: Path) -> None:
    messages = sorted((make_text(7, f"tree {n}") for n in range(60)), key=lambda message: message.key)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        for message in random.Random(2).sample(messages, len(messages)):
            await db.append([message])
        for limit in range(1, 61):
            assert await db.search("tree", limit=limit) == messages[-limit:]


@settings(max_examples=40)
@given(
    stamps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.booleans()), max_size=40),
    author=st.none() | st.integers(0, 3),
    since=st.none() | st.integers(-1, 45),
    until=st.none() | st.integers(-1, 45),
    limit=st.integers(0, 10),
    seed=st.integers(0, 1000),
)
def test_a_search_is_a_filter_of_the_ordered_history(
    stamps: list[tuple[int, int, bool]],
    author: int | None,
    since: int | None,
    until: int | None,
    limit: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = random.Random(seed)
    messages = [
        make_text(make_hlc(ms, n % 2), f"{'tree' if has_word else 'bush'} {n} 1", author=number)
        for n, (ms, number, has_word) in enumerate(stamps)
    ]
    device = None if author is None else make_message(0, author=author).author

    def matches(message: Message) -> bool:
        return (
            b"tree" in message.content.body
            and device in (None, message.author)
            and (since is None or hlc_ms(message.content.hlc) >= since)
            and (until is None or hlc_ms(message.content.hlc) < until)
        )

    async def check() -> None:
        async with open_message_db(tmp_path_factory.mktemp("db") / "m.db", POOL) as db:
            for start in range(0, len(messages), 5):
                await db.append(messages[start : start + 5])
            model = sorted(filter(matches, messages), key=lambda message: message.key)
            assert await db.search("tree 1", author=device, since_ms=since, until_ms=until, limit=100) == model
            found = await db.search("tree", author=device, since_ms=since, until_ms=until, limit=limit)
            assert found == model[len(model) - limit if limit <= len(model) else 0 :]
            if messages:
                before = rng.choice(messages).key
                older = [message for message in model if message.key < before]
                found = await db.search("tree", author=device, since_ms=since, until_ms=until, before=before, limit=3)
                assert found == older[-3:]

    trio.run(check)
