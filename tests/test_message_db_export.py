"""Exports: all of a history in a file, and nothing in it that does anything."""

import json
import os
from pathlib import Path

import pytest
from made_messages import POOL, make_message, make_said, make_text, make_tombstone
from test_storage_failures import fill, small_disk  # noqa: F401 - a fixture

from poolnet.clock import make_hlc
from poolnet.errors import DiskFull, LocalError, OutputExists
from poolnet.ids import FileId, MsgId, encode_id, short_id
from poolnet.message_db import open_message_db
from poolnet.protocol.stream_pieces import stream_id_of
from poolnet.wire.bodies import (
    AnnouncementBody,
    AppBody,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractOfferBody,
    StreamBody,
    TextBody,
)

T0 = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
ANN, BEA, ADMIN = (make_message(0, author=n).author for n in (1, 2, 9))
FILE = FileId(bytes(32))
MESSAGES = [
    make_said(make_hlc(T0), ProfileBody(name="Anne"), author=1),
    make_said(make_hlc(T0 + 1), TextBody(text="hello\nall", mentions=(BEA,), to_all=True), author=1),
    make_said(make_hlc(T0 + 2), OfferBody(file_id=FILE, name="a_b.txt", size=7), author=2),
    make_said(make_hlc(T0 + 3_600_000), RetractOfferBody(file_id=FILE), author=2),
    make_said(make_hlc(T0 + 3_600_001), AnnouncementBody(text="listen"), author=9),
    make_said(make_hlc(T0 + 3_600_002), AnnouncementBody(text="no admin"), author=2),
    make_said(make_hlc(T0 + 3_600_003), AppBody(name="chess.move", data=b"e4"), author=2),
    make_message(make_hlc(T0 + 3_600_004), kind="newer", body=b"\x01", author=2),
    make_said(make_hlc(T0 + 3_600_005), ProfileBody(name="Ann"), author=1),
]


async def test_json_lines_hold_every_message_and_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    messages = [
        *MESSAGES,
        make_tombstone(2**63 - 1, MsgId(bytes(32)), author=1),
        make_message(5, kind="text", body=b"\xff"),
    ]
    messages.sort(key=lambda message: message.key)
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(messages)
        assert await db.export(path) == len(messages)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [encode_id(message.msg_id) for message in messages]
    assert rows[2] == {
        "id": encode_id(MESSAGES[1].msg_id),
        "time": "2023-11-14T22:13:20.001+00:00",
        "node": encode_id(ANN),
        "name": "Ann",
        "kind": "text",
        "text": "hello\nall",
        "mentions": [encode_id(BEA)],
        "to_all": True,
    }
    assert rows[0]["body"] == "/w=="
    assert rows[3]["file_name"] == "a_b.txt"
    assert rows[7]["data"] == "ZTQ="
    assert rows[9]["display_name"] == "Ann"
    assert rows[10]["message"] == encode_id(bytes(32))
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert sorted(os.listdir(tmp_path)) == ["export.jsonl", "m.db"]


async def test_markdown_is_what_people_read_by_sessions(tmp_path: Path) -> None:
    path = tmp_path / "export.md"
    async with open_message_db(tmp_path / "m.db", POOL, was_admin=lambda device, _hlc: device == ADMIN) as db:
        await db.append(MESSAGES)
        assert await db.export(path, format="markdown") == 4
    assert path.read_text().splitlines() == [
        "",
        "## 2023-11-14 22:13 UTC",
        "",
        "- 22:13 **Ann**: hello  ",
        "  all",
        f"- 22:13 **{short_id(BEA)}** offers a\\_b.txt (7 bytes)",
        "",
        "## 2023-11-14 23:13 UTC",
        "",
        f"- 23:13 **{short_id(ADMIN)}** announces: listen",
        f"- 23:13 **{short_id(BEA)}** sent something that this version of poolnet does not know (newer)",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("*bold* _under_ `code` [a](b)", r"\*bold\* \_under\_ \`code\` \[a\](b)"),
        ("<script>&amp; ![](x) ~~s~~ |t|", r"\<script\>\&amp; \!\[\](x) \~\~s\~\~ \|t\|"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("12. item", r"12\. item"),
        ("=====", r"\====="),
        ("\x1b[31mred\u202e", r"\\x1b\[31mred\\u202e"),
        ("C:\\temp", r"C:\\temp"),
    ],
)
async def test_no_text_is_markup_or_acts_on_a_terminal(tmp_path: Path, text: str, line: str) -> None:
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([make_text(make_hlc(T0), f"first\n\n    {text}")])
        await db.export(tmp_path / "export.md", format="markdown")
        await db.export(tmp_path / "export.jsonl")
    assert (tmp_path / "export.md").read_text().splitlines()[-1] == f"  {line}"
    assert (tmp_path / "export.jsonl").read_text().isascii()
    assert "\x1b" not in (tmp_path / "export.jsonl").read_text()


async def test_an_export_never_overwrites_and_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text("precious")
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([make_text(n, "a") for n in range(500)])
        with pytest.raises(OutputExists, match="already"):
            await db.export(path)
        with pytest.raises(LocalError, match="html"):
            await db.export(path, format="html")  # type: ignore[arg-type]
    assert path.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["export.jsonl", "m.db"]


async def test_an_export_to_a_full_disk_leaves_no_part_of_it(tmp_path: Path, small_disk: Path) -> None:  # noqa: F811
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append([make_text(n, "a" * 900) for n in range(500)])
        filler = fill(small_disk)
        with pytest.raises(DiskFull):
            await db.export(small_disk / "export.jsonl")
        assert os.listdir(small_disk) == [filler.name]
        filler.unlink()
        assert await db.export(small_disk / "export.jsonl") == 500


OFFERS = [
    make_said(make_hlc(T0), OfferBody(file_id=FILE, name="log", size=4_800_000, stream_id=bytes(range(32))), author=1),
    make_said(
        make_hlc(T0 + 1),
        FolderBody(file_id=FILE, list_id=FileId(b"l" * 32), name="a_dir", size=9, list_size=3, file_count=2),
        author=1,
    ),
    make_said(
        make_hlc(T0 + 2),
        MediaBody(file_id=FILE, name="cat.png", size=5, width=4, height=3, preview=b"\xff\xd8\xff"),
        author=1,
    ),
    make_said(make_hlc(T0 + 3), StreamBody(nonce=bytes(16), name="radio"), author=1),
]


async def test_json_lines_hold_all_there_is_to_know_of_what_was_offered(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(OFFERS)
        await db.export(path)
    file_id = encode_id(FILE)
    said = [json.loads(line) for line in path.read_text().splitlines()]
    assert [{name: row[name] for name in row if name not in ("id", "time", "node", "name")} for row in said] == [
        {
            "kind": "offer",
            "file_id": file_id,
            "file_name": "log",
            "size": 4_800_000,
            "stream_id": encode_id(FileId(bytes(range(32)))),
        },
        {
            "kind": "folder",
            "file_id": file_id,
            "file_name": "a_dir",
            "size": 9,
            "list_id": encode_id(FileId(b"l" * 32)),
            "list_size": 3,
            "file_count": 2,
        },
        {
            "kind": "media",
            "file_id": file_id,
            "file_name": "cat.png",
            "size": 5,
            "width": 4,
            "height": 3,
            "preview": "/9j/",
        },
        {"kind": "stream", "file_id": encode_id(stream_id_of(ANN, POOL, bytes(16))), "file_name": "radio"},
    ]


async def test_markdown_says_what_was_offered(tmp_path: Path) -> None:
    path = tmp_path / "export.md"
    async with open_message_db(tmp_path / "m.db", POOL) as db:
        await db.append(OFFERS)
        assert await db.export(path, format="markdown") == 4
    assert [line.split("**")[2] for line in path.read_text().splitlines() if "**" in line] == [
        " offers log (4.6 MiB)",
        " offers the folder a\\_dir (2 files, 9 bytes)",
        " shows cat.png (5 bytes)",
        " streams radio",
    ]
