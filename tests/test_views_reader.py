"""Entries, and HistoryReader over a real database."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from views_world import (
    ADA,
    ADA_KEY,
    BOB,
    BOB_KEY,
    POOL,
    MemoryHistory,
    any_message,
    any_offer,
    event_of,
    is_read,
    message,
    name_of,
    text,
    was_admin,
)

from poolnet.errors import OutputExists, UnknownMessage
from poolnet.events import FileOffered, Mentioned, MessageReceived
from poolnet.ids import FileId, MsgId, encode_id, short_id
from poolnet.limits import MIN_ID_PREFIX_CHARS, SESSION_GAP_S
from poolnet.message_db import open_message_db
from poolnet.views.entries import entry_of, entry_of_event
from poolnet.views.pages import EntryPages
from poolnet.views.reader import HistoryReader
from poolnet.wire.bodies import AnnouncementBody, AppBody, OfferBody, ProfileBody, TextBody
from poolnet.wire.message import Message

GAP_MS = int(SESSION_GAP_S * 1000) + 1


@asynccontextmanager
async def reading(path: Path, *messages: Message) -> AsyncIterator[HistoryReader]:
    async with open_message_db(path / "m.db", POOL) as db:
        await db.append(messages)
        yield HistoryReader(db, was_admin=was_admin)


def times(entries: list) -> list[int]:
    return [entry.unix_ms for entry in entries]


# --- entries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(9))
def test_an_entry_is_the_same_from_a_message_and_from_its_event(number: int):
    item = any_message(5, number)
    event = event_of(item)
    if is_read(item):
        assert event is not None
        assert entry_of_event(event) == entry_of(item, name_of)
    else:
        assert event is None


def test_an_entry_holds_what_its_kind_has():
    called = entry_of(message(1, TextBody(text="@bob", mentions=(BOB,), to_all=True)), name_of)
    assert (called.kind, called.text, called.mentions, called.to_all) == ("text", "@bob", (BOB,), True)
    offer = entry_of(message(1, OfferBody(file_id=FileId(bytes(32)), name="a.txt", size=1)), name_of)
    assert (offer.kind, offer.text, offer.offer_kind, offer.file_count) == ("offer", "a.txt", "file", 1)
    move = entry_of(message(1, AppBody(name="chess.move", data=b"e4")), name_of)
    assert (move.kind, move.text, move.app_name, move.data) == ("app", None, "chess.move", b"e4")
    unknown = entry_of(message(1, b"\xff", kind="hologram"), name_of)
    assert (unknown.kind, unknown.text) == ("hologram", None)
    malformed = entry_of(message(1, b"\xff", kind="text"), name_of)
    assert malformed.text is None, "of another version"


@pytest.mark.parametrize(
    ("number", "offer_kind", "file_count"), [(0, "file", 1), (9, "folder", 11), (18, "media", 1), (27, "stream", 1)]
)
def test_all_that_is_offered_is_one_kind_of_entry_that_says_what_it_is(
    number: int, offer_kind: str, file_count: int
) -> None:
    entry = entry_of(message(1, any_offer(number)), name_of)
    assert (entry.kind, entry.text) == ("offer", f"{number}.txt")
    assert (entry.offer_kind, entry.file_count) == (offer_kind, file_count)


def test_events_that_tell_of_no_message_have_no_entry():
    mentioned = Mentioned(msg_id=MsgId(bytes(32)), node=ADA, name="ada", text="@bob", to_all=False)
    offered = FileOffered(file_id=FileId(bytes(32)), file_name="a", size_bytes=1, node=ADA, name="ada")
    assert entry_of_event(mentioned) is None, "the message itself was told of before"
    assert entry_of_event(offered) is None


def test_a_late_event_makes_a_late_entry():
    event = event_of(text(1), is_late=True)
    assert isinstance(event, MessageReceived)
    entry = entry_of_event(event)
    assert entry == attrs.evolve(entry_of(text(1), name_of), is_late=True)


# --- pages --------------------------------------------------------------------------------------------------------


async def test_pages_are_of_what_people_read_with_the_names_of_now(tmp_path: Path):
    items = [any_message(ms, ms) for ms in range(40)]
    names = [message(100, ProfileBody(name="lady ada")), message(100, ProfileBody(name="bob"), author_key=BOB_KEY)]
    expected = [item for item in items if is_read(item)]
    async with reading(tmp_path, *items, *names) as reader:
        entries = await reader.latest(100)
        assert [entry.msg_id for entry in entries] == [item.msg_id for item in expected]
        assert {entry.name for entry in entries} == {"lady ada", "bob"}
        assert await reader.latest(4) == entries[-4:]
        middle = entries[10]
        assert await reader.before(middle.msg_id, 3) == await reader.before(middle.key, 3) == entries[7:10]
        assert await reader.after(middle.msg_id, 3) == await reader.after(middle.key, 3) == entries[11:14]
        assert await reader.around(middle.msg_id, 2) == entries[8:13]
        assert await reader.around(middle.msg_id, 0) == [middle]
        profile = items[4]
        assert times(await reader.around(profile.msg_id, 1)) == [2, 5], "it is not for reading itself"
        for read in (reader.before, reader.after, reader.around):
            with pytest.raises(UnknownMessage):
                await read(MsgId(bytes(32)), 3)


async def test_programs_ask_for_kinds_of_their_own(tmp_path: Path):
    items = [any_message(ms, ms) for ms in range(40)]
    async with reading(tmp_path, *items) as reader:
        moves = await reader.latest(3, kinds=("app",))
        assert [move.app_name for move in moves] == ["chess.move"] * 3
        assert times(await reader.after(moves[0].key, 9, kinds=("app",))) == times(moves[1:])


async def test_names_are_short_ids_where_nobody_said_another(tmp_path: Path):
    async with reading(tmp_path, text(1)) as reader:
        assert [entry.name for entry in await reader.latest(1)] == [short_id(ADA)]


async def test_only_an_admin_announces(tmp_path: Path):
    fake = message(3, AnnouncementBody(text="pay me"), author_key=BOB_KEY)
    real = message(2, AnnouncementBody(text="welcome"))
    async with reading(tmp_path, text(1), real, fake, text(4)) as reader:
        assert times(await reader.latest(9)) == [1, 2, 4]
        announcement = await reader.announcement()
        assert announcement is not None
        assert announcement.text == "welcome"
        assert await reader.search("pay") == []


async def test_there_need_be_no_announcement(tmp_path: Path):
    async with reading(tmp_path, text(1)) as reader:
        assert await reader.announcement() is None


async def test_a_time_range_is_read_from_either_end(tmp_path: Path):
    async with reading(tmp_path, *(text(ms) for ms in range(20))) as reader:
        assert times(await reader.between(5, 9, limit=10)) == [5, 6, 7, 8]
        assert times(await reader.between(5, 9, limit=2)) == [7, 8]
        assert times(await reader.between(5, 9, limit=2, newest=False)) == [5, 6]
        assert times(await reader.between(None, 2, limit=10, newest=False)) == [0, 1]
        assert times(await reader.between(18, limit=10)) == [18, 19]
        assert times(await reader.between(-(2**70), 2**70, limit=1)) == [19]
        assert await reader.between(9, 5, limit=10) == []
        assert await reader.between(9, 5, limit=10, newest=False) == []


@given(
    numbers=st.lists(st.integers(0, 8), max_size=60),
    at=st.integers(-1, 60),
    count=st.integers(0, 12),
    stop=st.none() | st.integers(0, 60),
)
def test_pages_are_slices_of_what_people_read(numbers: list[int], at: int, count: int, stop: int | None):
    items = [any_message(ms, number + 9 * ms) for ms, number in enumerate(numbers)]
    read = [item for item in items if is_read(item)]

    async def check() -> None:
        pages = EntryPages(MemoryHistory(items), was_admin=lambda device, hlc: True, name_of=name_of)
        place, end = (text(at + 1).key[0], b""), None if stop is None else (text(stop).key[0], b"")
        before = [m.msg_id for m in read if m.key < place and (end is None or m.key >= end)]
        after = [m.msg_id for m in read if m.key > place and (end is None or m.key < end)]
        found = await pages.before(place, count, stop=end)
        assert [entry.msg_id for entry in found] == before[max(0, len(before) - count) :]
        found = await pages.after(place, count, stop=end)
        assert [entry.msg_id for entry in found] == after[:count]

    trio.run(check)


# --- search, sessions, ids, export --------------------------------------------------------------------------------


async def test_search_finds_texts_with_names_and_goes_on_before_what_was_found(tmp_path: Path):
    items = [text(ms, f"apple number {ms}") for ms in range(10)]
    other = text(20, "pear", author_key=BOB_KEY)
    async with reading(tmp_path, *items, other, message(30, ProfileBody(name="ada"))) as reader:
        found = await reader.search("apple", limit=3)
        assert times(found) == [7, 8, 9]
        assert {entry.name for entry in found} == {"ada"}
        assert times(await reader.search("apple", limit=3, before=found[0].msg_id)) == [4, 5, 6]
        assert times(await reader.search("apple", since_ms=3, until_ms=5)) == [3, 4]
        assert times(await reader.search("pea*")) == [20]
        assert await reader.search("pear", author=ADA) == []


async def test_a_session_is_read_by_its_number_from_the_end(tmp_path: Path):
    early = [text(ms) for ms in (0, 1, 2)]
    late = [text(GAP_MS + ms) for ms in (10, 11)]
    async with reading(tmp_path, *early, *late) as reader:
        assert [session.count for session in await reader.sessions()] == [3, 2]
        assert times(await reader.session(1, limit=10)) == times([entry_of(item, name_of) for item in late])
        assert times(await reader.session(2, limit=10)) == [0, 1, 2]
        assert times(await reader.session(2, limit=2)) == [1, 2]
        for number in (0, -1, 3):
            with pytest.raises(UnknownMessage):
                await reader.session(number, limit=10)


async def test_a_message_is_found_by_the_beginning_of_its_id(tmp_path: Path):
    items = [text(ms) for ms in range(50)]
    async with reading(tmp_path, *items) as reader:
        for item in items:
            whole = encode_id(item.msg_id)
            assert await reader.find(whole) == await reader.find(whole[:9].upper()) == item.msg_id
        with pytest.raises(UnknownMessage, match="too short"):
            await reader.find(encode_id(items[0].msg_id)[: MIN_ID_PREFIX_CHARS - 1])
        for odd in ("aaaaaaaaaaaa", "!!!!!", "0189", "a" * 60):
            with pytest.raises(UnknownMessage, match="no message"):
                await reader.find(odd)


async def test_a_beginning_that_several_ids_share_means_none(tmp_path: Path):
    by_prefix: dict[str, Message] = {}
    for number in range(20_000):  # of four characters there are a million
        item = message(1, number.to_bytes(4, "big"), kind="from the future", author_key=ADA_KEY)
        prefix = encode_id(item.msg_id)[:MIN_ID_PREFIX_CHARS]
        if prefix in by_prefix:
            break
        by_prefix[prefix] = item
    async with reading(tmp_path, item, by_prefix[prefix]) as reader:
        with pytest.raises(UnknownMessage, match="several"):
            await reader.find(prefix)


async def test_the_history_is_exported_to_a_new_file(tmp_path: Path):
    async with reading(tmp_path, text(1), text(2)) as reader:
        assert await reader.export(tmp_path / "out.jsonl") == 2
        assert len([json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]) == 2
        assert await reader.export(tmp_path / "out.md", format="markdown") == 2
        assert "at 1" in (tmp_path / "out.md").read_text()
        with pytest.raises(OutputExists):
            await reader.export(tmp_path / "out.jsonl")
