"""Names and texts made to act on a terminal, to hide, to fill the screen, or to lie elsewhere than they say."""

import io
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_cli_records import EVENTS

from poolnet import WireError, encode_id, safe_file_name
from poolnet.limits import MAX_OFFERS
from poolnet.printable import looks_as, printable
from poolnet.storage.files import MAX_SAFE_NAME_BYTES
from poolnet.storage.folder_names import FolderNames
from poolnet.storage.stream_spool import publish_beside
from poolnet.wire.folder_list import check_path_untrusted
from poolnet_cli import launch
from poolnet_cli.children import _record
from poolnet_cli.feed_renderer import ERASE_ROW, FeedRenderer
from poolnet_cli.ink import Ink
from poolnet_cli.options import Settings
from poolnet_cli.outcome import CommandFailed, outcome_of
from poolnet_cli.records import event_record
from poolnet_cli.render import renderer_for
from poolnet_cli.terminal import JsonReporter, TextReporter, json_line
from poolnet_cli.transfers import Transfers
from poolnet_cli.units import fitted

NODE = "a" * 52
OTHER = encode_id(bytes([9]) * 32)
THIRD = encode_id(bytes([10]) * 32)
HOSTILE = [
    "\x1b[2J\x1b[H",  # an empty screen
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1b]8;;https://evil.example\x1b\\harmless\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # into the clipboard
    "\x1bP+q544e\x1b\\",
    "\x1b_Ga=T;AAAA\x1b\\",
    "\x9b31m\x9d0;title\x9c\x90q\x9c",  # the same in C1
    "\x0e\x0f\x05\x08\x7f",
    "a\rbob: I agree\n12:00 bob: me too",
    "invoice\u202efdp.exe",
    "\u2066\u2067\u2068 isolates \u2069",
    "z\u200be\u200cr\u200do\ufeff\u2060\u00ad",
    "e\u0301" + "\u0301" * 200,
    "\u0338\u20d2\u20e3",
    "\u3164\u115f\u1160\uffa0\u2800",
    "tag\U000e0041\U000e0100",
    "\ue000\U000f0000",
    "\u2028\u2029\x85\x0b\x0c",
    "漢" * 300,
    "x" * 5000,
    "[red]markup[/red] :smile: {0} %s",
]
#: Sequences of our own: styles, and a row that is taken back.
_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[A\x1b\[K|\r|\x1b\[K|\a")


def short(text: str) -> str:
    """Name a case."""
    return ascii(text[:16])


def assert_harmless(shown: str) -> None:
    """Nothing in it acts, hides, changes the direction, or stands on another character without end."""
    left = _OWN.sub("", shown)
    found = {unicodedata.category(char) for char in left if char != "\n"}
    assert not found & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}, ascii(left)
    assert not re.search(r"[\u0300-\u036f\u20d0-\u20f0]{7}", left), ascii(left)
    assert not re.search(r"(^|\n)[\u0300-\u036f\u20d0-\u20f0]", left), ascii(left)


# --- what is shown --------------------------------------------------------------------------------------------------

FILE_ROW = {
    "file_id": NODE, "name": "", "size": 10, "kind": "file", "file_count": 1, "holders": 1, "nodes": [NODE],
    "state": "", "bytes": 5, "path": "",
}  # fmt: skip
DOWNLOAD_ROW = {
    **FILE_ROW, "rate": 10.0, "sources": 1, "eta": 1.0, "reason": "", "code": "x", "priority": 0, "state": "paused",
}  # fmt: skip
PEER_ROW = {
    "node": NODE, "name": "", "linked": True, "address": "", "rtt_ms": 1.0, "datagram_size": 1452, "online": True,
    "role": "member", "rate_in": 1, "rate_out": 2, "carrier": "lane", "conduct": None, "shunned_s": None,
}  # fmt: skip
POOL_ROW = {"pool": NODE, "name": "", "role": "member", "servers": [], "joined": True}
ENTRY_ROW = {"event": "message", "id": NODE, "node": NODE, "name": "", "text": "", "time": 0, "late": False}
SESSION_ROW = {
    "event": "session",
    "number": 1,
    "start": 0,
    "end": 9,
    "messages": 1,
    "nodes": [{"name": "", "node": NODE}],
}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("files", FILE_ROW),
    ("downloads", DOWNLOAD_ROW),
    ("peers", PEER_ROW),
    ("status", POOL_ROW),
    ("history", ENTRY_ROW),
    ("history", {**ENTRY_ROW, "event": "announcement"}),
    ("history", {**ENTRY_ROW, "event": "offered", "file": "", "size": 1}),
    ("history", {**ENTRY_ROW, "event": "unknown_message", "kind": ""}),
    ("history", SESSION_ROW),
    ("offer", {"file_id": NODE, "name": ""}),
    ("contents", {"path": "", "size": 1, "kind": "file"}),
    ("contents", {"path": "", "size": 0, "kind": "directory"}),
    ("stream", {"event": "streaming", "file_id": NODE, "name": ""}),
]
TABLES = [row for row in ROWS if row[0] in ("files", "downloads", "peers", "status")] + [("history", SESSION_ROW)]
#: Fields that others fill, or that have in them what others have filled in.
_OF_OTHERS = (
    "name",
    "text",
    "file",
    "path",
    "reason",
    "old_name",
    "message",
    "kind",
    "pool_name",
    "address",
    "servers",
)


def filled(record: dict[str, Any], text: str) -> dict[str, Any]:
    """The record as somebody hostile would fill it."""
    result = {
        field: ([text] if field == "servers" else text) if field in _OF_OTHERS else value
        for field, value in record.items()
    }
    if "nodes" in record and isinstance(record["nodes"][0], dict):
        result["nodes"] = [{"name": text, "node": NODE} for _ in range(9)]
    return result


class SizedInk(Ink):
    """Ink for a terminal of some width."""

    def __init__(self, width: int) -> None:
        super().__init__(is_terminal=True)
        self._width = width

    def width(self) -> int:
        return self._width


def shown(command: str, record: dict[str, Any], ink: Ink) -> str:
    renderer = renderer_for(command, ink)
    return renderer.record(record) + renderer.finish()


@pytest.mark.parametrize("text", HOSTILE, ids=short)
@pytest.mark.parametrize("ink", [Ink(is_terminal=False), SizedInk(200), SizedInk(40)], ids=["pipe", "wide", "narrow"])
def test_whatever_somebody_calls_something_no_command_lets_it_act_on_the_terminal(ink: Ink, text: str) -> None:
    for command, record in ROWS:
        output = shown(command, filled(record, text), ink)
        assert output
        assert_harmless(output)
    for command in ("get", "save"):
        assert_harmless(shown(command, {"path": f"/x/{text}"}, SizedInk(80)))


@pytest.mark.parametrize("text", HOSTILE, ids=short)
def test_no_event_of_the_feed_lets_a_text_act_on_the_terminal(text: str) -> None:
    for ink in (SizedInk(80), Ink(is_terminal=False)):
        feed = FeedRenderer(ink, folds=ink.is_terminal)
        for event in EVENTS:
            record = filled(event_record(event), text)
            for _ in range(2):
                assert_harmless(feed.record(record))


def test_a_path_is_written_as_it_is_where_a_script_reads_it() -> None:
    assert shown("get", {"path": "/x/a\x1bb"}, Ink(is_terminal=False)) == "/x/a\x1bb\n"
    assert shown("get", {"path": "/x/a\x1bb"}, SizedInk(80)) == "/x/a\\x1bb\n"


@pytest.mark.parametrize("text", HOSTILE, ids=short)
async def test_notes_progress_and_errors_are_as_harmless_as_results(
    capfd: pytest.CaptureFixture[str], text: str
) -> None:
    reporter = TextReporter(renderer_for("get", Ink(is_terminal=False)), Ink(is_terminal=False))
    await reporter.note(f"{text} was not fetched")
    await JsonReporter().note(text)
    launch.tell_failure(CommandFailed(outcome_of(RuntimeError(text))), Settings())
    launch.tell_failure(OSError(2, text, text), Settings(verbose=True))
    out, err = capfd.readouterr()
    assert not out
    assert_harmless(err)
    transfers = Transfers(SizedInk(60))
    for name in (text, "b"):
        transfers.update({"file_id": name, "name": name, "size": 10, "bytes": 5, "rate": 1.0, "sources": 1})
    for line in transfers.lines():
        assert_harmless(line)
        assert cell_len(_OWN.sub("", line)) < 60


@pytest.mark.parametrize("text", HOSTILE, ids=short)
def test_what_is_logged_is_printable_line_by_line(text: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(launch._PrintableFormatter("%(message)s"))
    handler.handle(logging.makeLogRecord({"msg": "changed: %s", "args": (text,)}))
    assert_harmless(stream.getvalue())


@given(
    st.dictionaries(st.text(max_size=20), st.text() | st.lists(st.text()))
    | st.sampled_from([{"a": each} for each in HOSTILE])
)
def test_json_is_one_line_of_printable_ascii_and_has_all(record: dict[str, Any]) -> None:
    line = json_line(record)
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert json.loads(line) == record


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "[]", "3", '{"event": []}', "\x1b[2J"])
def test_what_a_process_prints_that_is_no_record_ends_what_reads_it_with_a_sentence(line: str) -> None:
    with pytest.raises(CommandFailed, match="printed no record") as caught:
        _record(line)
    assert len(str(caught.value)) < 200


# --- what fits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [12, 20, 40, 60, 80, 100, 132, 250])
@pytest.mark.parametrize("text", HOSTILE, ids=short)
def test_no_row_of_a_table_is_wider_than_the_terminal(text: str, width: int) -> None:
    for command, record in TABLES:
        for line in shown(command, filled(record, text), SizedInk(width)).splitlines():
            assert cell_len(_OWN.sub("", line)) <= width, (command, line)


@given(
    st.lists(st.lists(st.text(max_size=40), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(12, 120),
    st.booleans(),
)
def test_a_table_of_anything_fits_and_loses_nothing_unless_it_cuts(
    rows: list[list[str]], width: int, cuts: bool
) -> None:
    drawn = _OWN.sub("", SizedInk(width).table(("ID", "NAME", "SIZE>", "PATH"), rows, cuts=cuts))
    # A column of numbers, and the first, are never narrowed: what has no room there is a paragraph.
    assert all(cell_len(line) <= width for line in drawn.splitlines())
    if not cuts:
        kept = re.sub(r"\s", "", drawn)
        for row in rows:
            for cell in row:
                if cell.strip() not in ("", "-"):
                    pieces = re.sub(r"\s", "", printable(cell))
                    assert set(pieces) <= set(kept)


def test_on_a_narrow_terminal_a_row_is_a_paragraph_without_what_says_nothing() -> None:
    row = {
        **DOWNLOAD_ROW,
        "name": "trip.tar",
        "path": "/home/ada/trip.tar",
        "rate": 0,
        "eta": None,
        "reason": "no room left",
    }
    assert _OWN.sub("", shown("downloads", row, SizedInk(44))) == (
        "aaaaaaaa  trip.tar\n  done 50 % of 10 B\n  state paused: no room left  priority 0\n  path /home/ada/trip.tar\n"
    )
    peer = {**PEER_ROW, "name": "ada", "address": "192.168.178.23:41234"}
    assert _OWN.sub("", shown("peers", peer, SizedInk(50))) == (
        "aaaaaaaa  ada\n"
        "  link linked  files by lane\n"
        "  address 192.168.178.23:41234  rtt 1.0 ms\n"
        "  in 1 B/s  out 2 B/s  datagram 1452\n"
    )


def test_a_value_that_is_longer_than_a_row_goes_on_below_it() -> None:
    pool = {**POOL_ROW, "name": "garden", "servers": ["example.org:7665/" + "k" * 30]}
    assert _OWN.sub("", shown("status", pool, SizedInk(30))) == (
        "aaaaaaaa  garden\n"
        "  role member  now joined\n"
        "  sync server example.org:7665\n"
        "    /kkkkkkkkkkkkkkkkkkkkkkkkk\n"
        "    kkkkk\n"
    )


@pytest.mark.parametrize("text", HOSTILE, ids=short)
def test_a_name_in_a_row_takes_no_more_cells_than_names_have(text: str) -> None:
    assert cell_len(fitted(text)) <= 60
    assert_harmless(fitted(text))


def test_marks_are_shown_as_languages_use_them_and_no_further() -> None:
    for text in ("Việt Nam", "שָׁלוֹם", "नमस्ते", "สวัสดี", "بِسْمِ", "བསྒྲུབས", "☕\ufe0f", "1\ufe0f\u20e3"):
        assert printable(text) == text
    assert printable("a" + "\u0301" * 9) == "a" + "\u0301" * 6 + "\\u0301" * 3
    assert printable("\u0301a") == "\\u0301a"
    assert printable("\u200b\u0301") == "\\u200b\\u0301"


# --- who is who -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "twin", ["Ada", "ada\u200b", "ａｄａ", "ada ", "a\u034fda", "ada\ufe0f", "\u2060ada", "ada\u3164"], ids=short
)
def test_a_name_that_looks_like_anothers_is_shown_with_the_id(twin: str) -> None:
    feed = FeedRenderer(Ink(is_terminal=False))
    feed.record({"event": "node_joined", "node": NODE, "name": "ada"})
    assert f"({OTHER[:8]})" in feed.record({"event": "node_joined", "node": OTHER, "name": twin})
    assert "ada (aaaaaaaa): hi" in feed.record({**ENTRY_ROW, "name": "ada", "text": "hi"})


def test_a_name_in_two_compositions_is_one_name() -> None:
    assert looks_as("Zo\u00eb") == looks_as("Zoe\u0308") == looks_as("ZOË")
    assert looks_as("Straße") == looks_as("STRASSE")
    assert looks_as("ada") != looks_as("eda")


def test_somebody_who_takes_ever_new_names_does_not_fill_the_memory_of_the_feed() -> None:
    feed = FeedRenderer(Ink(is_terminal=False))
    for number in range(1000):
        feed.record({"event": "node_renamed", "node": NODE, "old_name": str(number), "name": str(number + 1)})
    assert len(feed._nodes_of_name) == len(feed._name_of_node) == 1
    for number in range(MAX_OFFERS + 10):
        feed._take_file_name(str(number), "x")
    assert len(feed._file_names) == MAX_OFFERS


def test_who_calls_again_and_again_does_not_ring_again_and_again() -> None:
    now = 0.0
    feed = FeedRenderer(SizedInk(80), lambda: now)
    assert [feed.record({"event": "mention"}) for _ in range(3)] == ["\a", "", ""]
    now = 2.0
    assert feed.record({"event": "mention"}) == "\a"


def test_a_notice_of_uncertain_width_is_not_taken_back_so_that_nothing_above_it_goes() -> None:
    feed = FeedRenderer(SizedInk(40), folds=True)
    feed.record({"event": "node_joined", "node": NODE, "name": "ⓐ" * 30})  # one cell each, or two
    second = feed.record({"event": "node_joined", "node": OTHER, "name": "bob"})
    assert ERASE_ROW not in second
    assert "bob is here" in second
    third = feed.record({"event": "node_left", "node": THIRD, "name": "cyd"})
    assert third.startswith(ERASE_ROW)


# --- what lies on the disk ------------------------------------------------------------------------------------------

ON_DISK = [
    "..", ".", "", "...", "/etc/passwd", "../../x", "..\\..\\x", "C:\\x", "C:", "\\\\host\\share", "a\0b",
    "con", "CON.txt", "aux.", "nul .txt", "COM¹", "lpt9.tar.gz", "CONIN$", "a:stream", "a::$DATA",
    "trailing. . .", "trailing   ", ".hidden", "~", "x" * 5000, "é" * 5000, "x." + "y" * 5000, "😀" * 2000,
    "a\u202egnp.exe", "\u3164", "a\u3164b", *HOSTILE,
]  # fmt: skip


@pytest.mark.parametrize("name", ON_DISK, ids=short)
def test_a_name_of_somebody_becomes_one_file_in_the_directory_that_was_meant(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    safe = safe_file_name(name)
    assert safe_file_name(safe) == safe
    assert 0 < len(safe.encode()) <= MAX_SAFE_NAME_BYTES
    assert not set(safe) & set('/\\<>:"|?*\0')
    assert not safe.startswith(".")
    assert not safe.endswith((".", " "))
    assert {unicodedata.category(char) for char in safe}.isdisjoint({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
    for suffix in ("", ".part", ".part.damaged"):
        (tmp_path / "in" / (safe + suffix)).touch()
    assert len(list((tmp_path / "in").iterdir())) == 3
    assert os.listdir(tmp_path) == ["in"]
    (tmp_path / "in" / "spool").touch()
    assert publish_beside(tmp_path / "in" / "spool", name).parent == tmp_path / "in"


#: How file systems tell names apart: NTFS and exFAT, APFS, HFS+, ext4 and F2FS with folded case.
_IGNORED = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
FILE_SYSTEMS: dict[str, Callable[[str], str]] = {
    "by capitals": lambda name: "".join(char.upper() if len(char.upper()) == 1 else char for char in name),
    "by whole capitals": str.upper,
    "by small letters": str.lower,
    "folded and decomposed": lambda name: unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()),
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "without what does not show": lambda name: _IGNORED.sub("", unicodedata.normalize("NFD", name).casefold()),
}
TWINS = [
    "a", "A", "é", "e\u0301", "É", "ß", "SS", "ẞ", "i", "I", "ı", "İ", "i\u0307", "K", "\u212a", "k", "ſ", "s",
    "ﬁ", "fi", "Å", "\u212b", "ǆ", "ǅ", "σ", "ς", "Σ", "\ufe0f", "\u034f", "\u3164", " ", ".", "½",
]  # fmt: skip


@given(st.lists(st.lists(st.sampled_from(TWINS), min_size=1, max_size=3).map("".join), unique=True, max_size=8))
def test_names_that_some_file_system_takes_for_one_lie_in_different_files(names: list[str]) -> None:
    names.sort(key=str.encode)
    placed = FolderNames()
    paths = [placed.place(f"d/{name}") for name in names]
    for tell_apart in FILE_SYSTEMS.values():
        assert len({tell_apart(path) for path in paths}) == len(names), paths


@pytest.mark.parametrize(
    "path", ["/a", "a//b", "a/../b", "./a", "a/.", "..", "a\\b", "a\0b", "a/", "", "x/" * 70 + "x", "é" * 3000]
)
def test_a_path_that_leads_elsewhere_is_no_path_of_a_folder(path: str) -> None:
    with pytest.raises(WireError):
        check_path_untrusted(path)


def test_a_drive_letter_and_a_stream_of_a_file_are_part_of_a_name() -> None:
    placed = FolderNames()
    assert [placed.place(path) for path in ("C:/x", "a:b", "con/nul")] == ["C_/x", "a_b", "_con/_nul"]
