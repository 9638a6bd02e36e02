"""``history`` and ``keep``, on a real history without network."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_fakes import ADA, BOB, GARDEN, Desk, Recorder, open_desk
from trio.testing import MockClock

from poolnet import OutputExists, Retention, UnknownMessage, encode_id
from poolnet.clock import make_hlc
from poolnet.ids import FileId
from poolnet.wire.bodies import AnnouncementBody, OfferBody, ProfileBody
from poolnet_cli.commands.history import history, keep

HOUR_MS = 3_600_000
NOTHING_ASKED: dict[str, Any] = {
    "limit": 50,
    "before": None,
    "around": None,
    "since_ms": None,
    "until_ms": None,
    "search": None,
    "session": None,
    "sessions": False,
    "export": None,
    "format": None,
}


async def ask(desk: Desk, **asked: Any) -> Recorder:
    """Run `history` with these parameters."""
    recorder = Recorder()
    await history(desk.call(recorder, **{**NOTHING_ASKED, **asked}))
    return recorder


async def texts(desk: Desk, **asked: Any) -> list[str]:
    return [record["text"] for record in (await ask(desk, **asked)).records]


async def talk(desk: Desk, *numbers: int, start_ms: int = 0) -> list[str]:
    """Store texts that are named for their time in seconds; return their ids."""
    stored = [await desk.pool.store(f"text {n}", ms=start_ms + 1000 * n) for n in numbers]
    return [encode_id(message.msg_id) for message in stored]


async def test_the_newest_messages_oldest_first(jumping_clock: MockClock):
    async with open_desk() as desk:
        await talk(desk, *range(1, 9))
        recorder = await ask(desk, limit=2)
    assert [record["text"] for record in recorder.records] == ["text 7", "text 8"]
    assert [record["time"] for record in recorder.records] == [7.0, 8.0]
    assert recorder.records[0]["order"] < recorder.records[1]["order"]
    assert recorder.notes == []


async def test_messages_before_or_around_one_that_is_named_by_the_beginning_of_its_id(jumping_clock: MockClock):
    async with open_desk() as desk:
        ids = await talk(desk, *range(1, 9))
        prefix = ids[4][:8].upper()
        assert await texts(desk, limit=2, before=prefix) == ["text 3", "text 4"]
        assert await texts(desk, limit=2, around=prefix) == ["text 4", "text 5", "text 6"]
        for wrong in ("zzzz", "a", "1111"):
            with pytest.raises(UnknownMessage):
                await ask(desk, before=wrong)


async def test_messages_of_a_time_and_a_word_if_there_are_more_than_asked_for(jumping_clock: MockClock):
    async with open_desk() as desk:
        await talk(desk, *range(1, 9))
        assert await texts(desk, since_ms=3000, until_ms=6000) == ["text 3", "text 4", "text 5"]
        recorder = await ask(desk, since_ms=3000, limit=2)
        assert [record["text"] for record in recorder.records] == ["text 7", "text 8"]
        assert recorder.notes == ["these are the newest 2; --limit shows more"]
        assert (await ask(desk, since_ms=HOUR_MS)).notes == ["nothing is found on this device"]


async def test_messages_with_words(jumping_clock: MockClock):
    async with open_desk() as desk:
        await desk.pool.store("Café au lait", ms=1000)
        await desk.pool.store("no milk", ms=2000)
        last = await desk.pool.store("another cafe", ms=3000)
        assert await texts(desk, search="cafe") == ["Café au lait", "another cafe"]
        assert await texts(desk, search="caf* -au NEAR(") == []
        assert await texts(desk, search="cafe", before=encode_id(last.msg_id)[:6]) == ["Café au lait"]
        assert await texts(desk, search="cafe", since_ms=2000) == ["another cafe"]


async def test_what_people_read_beside_texts_and_what_they_do_not(jumping_clock: MockClock):
    async with open_desk() as desk:
        await desk.pool.store(ProfileBody(name="bob"), ms=1000, by=BOB)
        await desk.pool.store(AnnouncementBody(text="hear"), ms=2000, by=ADA)
        await desk.pool.store(AnnouncementBody(text="no admin"), ms=3000, by=BOB)
        await desk.pool.store(OfferBody(file_id=FileId(bytes(32)), name="big", size=5), ms=4000)
        recorder = await ask(desk)
    assert [record["event"] for record in recorder.records] == ["announcement", "offered"]


async def test_sessions_are_numbered_from_the_latest(jumping_clock: MockClock):
    async with open_desk() as desk:
        for n in range(3):
            await talk(desk, 1, 2, start_ms=n * HOUR_MS)
        await desk.pool.store("bye", ms=2 * HOUR_MS + 5000, by=BOB)
        recorder = await ask(desk, sessions=True, limit=2)
        assert [(record["number"], record["messages"]) for record in recorder.records] == [(2, 2), (1, 3)]
        assert len(recorder.records[1]["nodes"]) == 2
        assert recorder.records[1]["end"] - recorder.records[1]["start"] == 4.0
        assert await texts(desk, session=1) == ["text 1", "text 2", "bye"]
        with pytest.raises(UnknownMessage, match="no session 4"):
            await ask(desk, session=4)


async def test_an_export_is_a_new_file(tmp_path: Path):
    out = tmp_path / "talk.jsonl"
    async with open_desk() as desk:
        await talk(desk, 1, 2)
        recorder = await ask(desk, export=str(out), format="jsonl")
        with pytest.raises(OutputExists, match="never overwrites"):
            await ask(desk, export=str(out), format="jsonl")
    assert recorder.records == [{"event": "exported", "path": str(out), "messages": 2}]
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["text 1", "text 2"]


async def test_a_joined_pool_asks_others_only_for_what_it_may_lack(jumping_clock: MockClock):
    asked: list[tuple[Any, int]] = []

    async def fetch(before: Any, count: int) -> None:
        asked.append((before, count))
        await desk.pool.messages.set_known_from((0, b""))
        await desk.pool.store("from afar", ms=500)

    async with open_desk() as desk:
        await talk(desk, 1, 2, 3)
        await desk.pool.messages.set_known_from((make_hlc(2000), b""))
        desk.pool.messages.bind(fetch)
        assert await texts(desk) == ["text 1", "text 2", "text 3"]  # nobody to ask
        async with desk.session.use_pool(GARDEN):
            assert await texts(desk, limit=1) == ["text 3"]
            assert asked == []
            assert await texts(desk) == ["from afar", "text 1", "text 2", "text 3"]
            assert len(asked) == 1
            await texts(desk)
            assert len(asked) == 1


async def kept(desk: Desk, **asked: Any) -> Recorder:
    recorder = Recorder()
    await keep(desk.call(recorder, **{"for_s": None, "messages": None, "everything": False, **asked}))
    return recorder


async def test_how_much_is_kept_is_shown_and_changed(jumping_clock: MockClock):
    async with open_desk() as desk:
        assert (await kept(desk)).records == [{"max_age_s": None, "max_count": None, "removed": 0}]
        changed = await kept(desk, for_s=86400.0, messages=7)
        assert changed.records == [{"max_age_s": 86400.0, "max_count": 7, "removed": 0}]
        assert "joined next" in changed.notes[0]
        assert desk.pool.messages.retention == Retention(max_age_s=86400.0, max_count=7)
        assert (await kept(desk)).records == changed.records
        assert (await kept(desk, everything=True)).records[0]["max_count"] is None


async def test_a_limit_deletes_at_once_where_the_pool_is_joined(jumping_clock: MockClock):
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        await talk(desk, *range(1, 9))
        changed = await kept(desk, messages=3)
        assert changed.records[0]["removed"] == 5
        assert "5 messages are gone" in changed.notes[0]
        assert await texts(desk) == ["text 6", "text 7", "text 8"]
