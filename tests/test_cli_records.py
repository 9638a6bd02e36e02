"""Events as JSON objects: each has a record, the record a line in the feed, and the manual tells of it."""

import json
from pathlib import Path
from typing import get_args

import pytest
from cli_fakes import ADA, BOB, ME, said

from poolnet import (
    AnnouncementReceived,
    AppMessageReceived,
    ClockWrong,
    FileId,
    FileOffered,
    HistoryEntry,
    Mentioned,
    MessageReceived,
    MessageRetracted,
    MsgId,
    NodeJoined,
    NodeLeft,
    NodeRenamed,
    OfferRetracted,
    PoolEvent,
    UnknownMessageReceived,
    encode_id,
)
from poolnet.clock import Hlc, make_hlc
from poolnet.events import (
    DownloadComplete,
    DownloadFailed,
    DownloadPaused,
    DownloadProgress,
    DownloadResumed,
    ErrorReported,
    EventsDropped,
    MediaReceived,
    ServerAttached,
    ServerLost,
    SourceLost,
)
from poolnet_cli.ink import Ink
from poolnet_cli.records import event_record, history_record
from poolnet_cli.render import FeedRenderer

DOCUMENT = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
MESSAGE = MsgId(bytes([7]) * 32)
FILE = FileId(bytes([8]) * 32)
KEY = (Hlc(make_hlc(5000)), MESSAGE)

EVENTS: list[PoolEvent] = [
    NodeJoined(node=ADA, name="ada"),
    NodeLeft(node=ADA, name="ada"),
    NodeRenamed(node=ADA, old_name="ada", name="lovelace"),
    MessageReceived(
        msg_id=MESSAGE, node=ADA, name="ada", text="@bob", unix_ms=5000, key=KEY, is_late=True, mentions=(BOB,)
    ),
    Mentioned(msg_id=MESSAGE, node=ADA, name="ada", text="@all", to_all=True),
    AnnouncementReceived(msg_id=MESSAGE, node=ADA, name="ada", text="hear", unix_ms=5000, key=KEY),
    MessageRetracted(msg_id=MESSAGE, node=ADA, name="ada"),
    AppMessageReceived(
        msg_id=MESSAGE, node=ADA, name="ada", app_name="chess.move", data=b"\0\xff", unix_ms=5000, key=KEY
    ),
    UnknownMessageReceived(msg_id=MESSAGE, node=ADA, name="ada", kind="poll", unix_ms=5000, key=KEY),
    ClockWrong(ahead_s=-86400.1234),
    FileOffered(file_id=FILE, file_name="big.bin", size_bytes=100, node=ADA, name="ada"),
    OfferRetracted(file_id=FILE, node=ADA),
    FileOffered(
        file_id=FILE, file_name="a.png", size_bytes=100, node=ADA, name="ada", kind="media", preview=b"\xff\xd8\xff"
    ),
    DownloadProgress(file_id=FILE, done_bytes=10, size_bytes=100, rate_bytes_per_s=1.0, sources=2),
    DownloadComplete(file_id=FILE, path=Path("/x/big.bin")),
    DownloadPaused(file_id=FILE, code="disk_full", reason="no space left"),
    DownloadResumed(file_id=FILE),
    DownloadFailed(file_id=FILE, code="unknown_file", reason="it was withdrawn"),
    MediaReceived(file_id=FILE, file_name="a.png", path=Path("/m/a.png"), width=640, height=480, node=ADA, name="ada"),
    SourceLost(file_id=FILE, path=Path("/x/big.bin"), reason="/x/big.bin has changed"),
    ServerAttached(address="h:1"),
    ServerLost(address="h:1", reason="no answer"),
    ErrorReported(code="disk_full", message="the disk is full"),
    EventsDropped(count=3),
]


def test_there_is_an_example_of_every_event() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(PoolEvent))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_a_json_object_that_the_manual_describes_and_the_feed_can_show(event: PoolEvent) -> None:
    record = event_record(event)
    assert json.loads(json.dumps(record)) == record
    table = DOCUMENT.split("### Events of `join`")[1].split("\n### ")[0]
    row = next(line for line in table.splitlines() if line.startswith("|") and f"`{record['event']}`" in line)
    assert [field for field in record if field != "event" and f"`{field}`" not in row] == []
    shown = FeedRenderer(Ink(is_terminal=False)).record(record)
    assert shown == "" or shown.endswith("\n")


def test_a_message_says_whom_it_calls_and_whether_it_came_late() -> None:
    record = event_record(EVENTS[3])
    assert (record["late"], record["mentions"], record["to_all"]) == (True, [encode_id(BOB)], False)


def test_a_wrong_clock_is_told_in_seconds() -> None:
    assert event_record(ClockWrong(ahead_s=-86400.1234)) == {"event": "clock_wrong", "ahead_s": -86400.123}


def test_an_offer_says_what_it_is_and_a_picture_brings_its_preview() -> None:
    folder = FileOffered(file_id=FILE, file_name="f", size_bytes=1, node=ADA, name="ada", kind="folder", file_count=7)
    assert {"kind": "folder", "file_count": 7}.items() <= event_record(folder).items()
    assert "preview" not in event_record(folder)
    picture = next(event for event in EVENTS if isinstance(event, FileOffered) and event.preview)
    assert event_record(picture)["preview"] == "/9j/"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("text", "hi", {"event": "message", "text": "hi"}),
        ("announcement", "hear", {"event": "announcement", "text": "hear"}),
        ("offer", "big.bin", {"event": "offered", "file": "big.bin", "kind": "file", "file_count": 1}),
        ("poll", None, {"event": "unknown_message", "kind": "poll"}),
    ],
)
def test_each_kind_of_entry_of_the_history_is_a_record(
    kind: str, text: str | None, expected: dict[str, object]
) -> None:
    known = said(1000, "hi")
    item = HistoryEntry(msg_id=known.msg_id, key=known.key, node=ME, name="me", kind=kind, text=text, unix_ms=1000)
    record = history_record(item)
    assert expected.items() <= record.items()
    assert record["time"] == 1.0
