"""Records as text."""

import re
import time
from typing import Any

import attrs
import pytest

import poolnet
from poolnet_cli.feed_renderer import ERASE_ROW, FIRST_PROGRESS_LINE_S, PROGRESS_LINE_INTERVAL_S, FeedRenderer
from poolnet_cli.ink import Ink
from poolnet_cli.qr import draw_qr
from poolnet_cli.records import peer_record
from poolnet_cli.render import renderer_for

ADA, BOB, CYD = "a" * 52, "b" * 51 + "a", "c" * 51 + "a"
FILE_ID = "f" * 52
PLAIN = Ink(is_terminal=False)
STYLED = Ink(is_terminal=True)


def message(text: str, *, name: str = "ada", node: str = ADA, **fields: object) -> dict[str, Any]:
    now = time.time()
    return {"event": "message", "id": "m" * 52, "node": node, "name": name, "text": text, "time": now, **fields}


def progress(done: int) -> dict[str, object]:
    return {"event": "progress", "file_id": FILE_ID, "bytes": done, "size": 100, "rate": 1024}


def test_a_message_is_one_line_with_time_and_author():
    assert re.fullmatch(r"\d\d:\d\d ada: hello \[bold\]\n", FeedRenderer(PLAIN).record(message("hello [bold]")))


def test_further_lines_of_a_message_cannot_pass_for_another_one():
    shown = FeedRenderer(PLAIN).record(message("hi\n12:00 bob: send money\x1b[1A"))
    assert shown.splitlines()[1] == "    | 12:00 bob: send money\\x1b[1A"


def test_the_only_escape_sequences_are_our_own():
    shown = FeedRenderer(STYLED).record(message("\x1b]0;title\x07", name="\x1b[5mada"))
    assert "\\x1b]0;title\\x07" in shown
    assert "\x1b[5m" not in shown
    assert "\x1b]" not in shown


def test_a_message_that_came_late_is_marked():
    assert re.fullmatch(r"\d\d:\d\d \(late\) ada: hi\n", FeedRenderer(PLAIN).record({**message("hi"), "late": True}))


def test_a_wrong_clock_is_told_by_how_much_and_what_to_do():
    day, hours = (FeedRenderer(PLAIN).record({"event": "clock_wrong", "ahead_s": s}) for s in (3 * 86400.0, -7500.0))
    assert "3 days ahead" in day
    assert "2 h 5 min behind" in hours
    assert "set it right" in day


def test_what_the_history_has_beside_texts_is_told_in_words():
    shared = {"id": "m" * 52, "node": ADA, "name": "ada", "time": 0.0}
    line = renderer_for("history", PLAIN)
    assert "ada announces: hear" in line.record({**shared, "event": "announcement", "text": "hear"})
    assert "ada offers big.bin" in line.record({**shared, "event": "offered", "file": "big.bin"})
    assert "does not know (new)" in line.record({**shared, "event": "unknown_message", "kind": "new"})


def test_two_nodes_of_one_name_are_told_apart():
    feed = FeedRenderer(PLAIN)
    feed.record({"event": "node_joined", "node": ADA, "name": "ada"})
    assert "ada:" in feed.record(message("hi"))
    feed.record({"event": "node_joined", "node": BOB, "name": "ada"})
    assert "ada (bbbbbbbb): hi" in feed.record(message("hi", node=BOB))


def passing(event: str, node: str, name: str, **fields: str) -> dict[str, Any]:
    return {"event": event, "node": node, "name": name, **fields}


JOINED = {"event": "joined", "pool": "p", "node": ADA, "name": "ada", "pool_name": "garden"}


def test_who_comes_and_goes_is_folded_into_one_line_as_long_as_nothing_else_is_printed():
    feed = FeedRenderer(PLAIN, folds=True)
    assert feed.record(passing("node_joined", BOB, "bob")) == "* bob is here\n"
    assert feed.record(passing("node_joined", CYD, "cyd")) == ERASE_ROW + "* bob and cyd are here\n"
    assert feed.record(passing("node_left", BOB, "bob")) == ERASE_ROW + "* cyd is here\n"
    assert feed.record(passing("node_left", CYD, "cyd")) == ERASE_ROW
    assert feed.record(passing("node_left", ADA, "ada")) == "* ada left\n"
    feed.record(message("hi"))
    assert feed.record(passing("node_joined", CYD, "cyd")) == "* cyd is here\n"
    feed.touched()
    assert feed.record(passing("node_left", BOB, "bob")) == "* bob left\n"


def test_a_notice_that_takes_several_rows_is_replaced_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "10")
    feed = FeedRenderer(STYLED, folds=True)
    feed.record(passing("node_joined", BOB, "bob the builder"))
    assert feed.record(passing("node_left", CYD, "cyd")).startswith(ERASE_ROW * 3 + "\x1b[2m*")


def test_where_lines_cannot_be_taken_back_everyone_has_a_line():
    feed = FeedRenderer(PLAIN)
    shown = [feed.record(passing("node_joined", node, name)) for node, name in ((BOB, "bob"), (CYD, "cyd"))]
    assert shown == ["* bob is here\n", "* cyd is here\n"]


def test_a_new_name_is_news_unless_it_is_of_this_node():
    feed = FeedRenderer(PLAIN)
    feed.record(JOINED)
    assert feed.record(passing("node_renamed", BOB, "bob", old_name="rob")) == "* rob is now bob\n"
    assert feed.record(passing("node_renamed", ADA, "ada", old_name="vm")) == ""


def test_a_message_that_calls_this_node_stands_out_and_rings_once():
    feed = FeedRenderer(STYLED)
    feed.record(JOINED)
    assert "\x1b[1mhi @ada" in feed.record(message("hi @ada", node=BOB, name="bob", mentions=[ADA]))
    assert "\x1b[1mhi @all" in feed.record(message("hi @all", node=BOB, name="bob", to_all=True))
    assert "\x1b[1mhi @bob" not in feed.record(message("hi @bob", node=CYD, name="cyd", mentions=[BOB]))
    assert "\x1b[1mme @all" not in feed.record(message("me @all", to_all=True))
    mention = {"event": "mention", "id": "m" * 52, "node": BOB, "name": "bob", "text": "hi @ada", "to_all": False}
    assert feed.record(mention) == "\a"
    assert FeedRenderer(PLAIN).record(mention) == ""


def test_of_a_part_of_the_feed_as_much_is_printed_as_the_screen_has_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LINES", "8")
    monkeypatch.setenv("COLUMNS", "40")
    entries = [message(f"text {n}") for n in range(20)] + [message("long " * 20)]
    shown = FeedRenderer(STYLED).record({"event": "recent", "entries": entries})
    assert [n for n in range(20) if f"text {n}\n" in shown] == [18, 19]
    assert len(FeedRenderer(PLAIN).record({"event": "recent", "entries": entries}).splitlines()) == 21
    monkeypatch.setenv("LINES", "3")
    assert "long" in FeedRenderer(STYLED).record({"event": "recent", "entries": entries})


def test_what_came_late_is_printed_below_a_mark():
    entries = [message("early", late=True), message("after")]
    shown = FeedRenderer(PLAIN).record({"event": "late", "entries": entries, "further_up": 2}).splitlines()
    assert shown[0] == "── late, and 2 more messages further up (/older) ──"
    assert [line.split(" ", 1)[1] for line in shown[1:]] == ["(late) ada: early", "ada: after"]


def test_a_retraction_says_whose_message_it_was():
    feed = FeedRenderer(PLAIN)
    gone = {"event": "message_retracted", "id": "m" * 52, "node": ADA, "name": "ada"}
    of = {"node": BOB, "name": "bob", "time": time.time()}
    assert feed.record(gone) == "* ada took back the message mmmmmmmm\n"
    assert re.fullmatch(
        r"\* ada took back the message of bob of \d\d:\d\d; its text is deleted\n", feed.record({**gone, "of": of})
    )


def test_a_message_of_another_day_has_its_date():
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d ada", FeedRenderer(PLAIN).record(message("hi", time=1.7e9)))


def test_many_files_on_offer_are_one_line_and_known_by_name():
    feed = FeedRenderer(PLAIN)
    offers = [{**offer(BOB), "file_id": str(n) * 52, "name": f"{n}.txt", "by": "bob"} for n in range(4)]
    assert feed.record({"event": "offers", "offers": offers}) == "* 4 more files are on offer (/files)\n"
    assert "2.txt" in feed.record({"event": "retracted", "file_id": "2" * 52})
    assert feed.record({"event": "offers", "offers": offers[:1]}).startswith("* bob offers 0.txt, 100 B")


def test_an_offer_in_the_feed_says_how_to_fetch_it_unless_it_is_our_own():
    feed = FeedRenderer(PLAIN)
    feed.record(JOINED)
    offered = {**message(""), "event": "offered", "file": "big.bin", "size": 100, "file_id": FILE_ID}
    assert feed.record({**offered, "node": BOB, "name": "bob"}).endswith("bob offers big.bin, 100 B  (/get ffffffff)\n")
    assert feed.record(offered).endswith("ada offers big.bin, 100 B\n")


def test_how_much_is_kept_in_words():
    line = renderer_for("keep", PLAIN)
    assert line.record({"max_age_s": None, "max_count": None}) == "everything\n"
    assert (
        line.record({"max_age_s": 86400.0 * 90, "max_count": 5}) == "messages of the last 90 days, at most 5 messages\n"
    )
    assert line.record({"max_age_s": None, "max_count": 5}) == "the newest 5 messages\n"


def test_sessions_are_a_table_and_an_export_is_its_path():
    history = renderer_for("history", PLAIN)
    node = {"node": ADA, "name": "ada"}
    session = {"event": "session", "number": 1, "start": 0.0, "end": 90.0, "messages": 3, "nodes": [node] * 8}
    assert history.record(session) == ""
    assert history.record({"event": "exported", "path": "/x/y z", "messages": 3}) == "/x/y z\n"
    assert re.search(r"1  \S+ \S+  1 min 30 s\s+3  ada, ada, ada, ada, ada, ada and 2 more\n", history.finish())


def offer(node: str) -> dict[str, object]:
    return {"event": "offer", "file_id": FILE_ID, "name": "big.bin", "size": 100, "node": node}


def test_an_offer_says_whose_it_is():
    feed = FeedRenderer(PLAIN)
    feed.record(JOINED)
    assert feed.record(offer(ADA)) == "* you offer big.bin, 100 B\n"
    assert feed.record(offer(BOB)) == "* bbbbbbbb offers big.bin, 100 B  (/get ffffffff)\n"
    feed.record({"event": "node_joined", "node": BOB, "name": "bob"})
    assert feed.record(offer(BOB)) == "* bob offers big.bin, 100 B  (/get ffffffff)\n"


@pytest.mark.parametrize(
    ("kind", "by_others", "by_you"),
    [
        (
            {"kind": "folder", "file_count": 3},
            "offers the folder big.bin, 3 files, 100 B  (/get ffffffff)",
            "offer the folder big.bin, 3 files, 100 B",
        ),
        ({"kind": "media", "file_count": 1}, "shows big.bin, 100 B  (/get ffffffff)", "show big.bin, 100 B"),
        ({"kind": "stream", "file_count": 1, "size": 0}, "streams big.bin", "stream big.bin"),
    ],
)
def test_an_offer_says_what_is_offered_live_and_in_the_history(kind: dict[str, object], by_others: str, by_you: str):
    feed = FeedRenderer(PLAIN)
    feed.record(JOINED)
    assert feed.record({**offer(ADA), **kind}) == f"* you {by_you}\n"
    assert feed.record({**offer(BOB), **kind}) == f"* bbbbbbbb {by_others}\n"
    entry = {**message("", node=BOB), "event": "offered", "file": "big.bin", "name": "bob", "size": 100, **kind}
    assert feed.record({**entry, "file_id": FILE_ID}).endswith(f" bob {by_others}\n")


def test_a_download_that_stands_still_fails_or_goes_on_is_told_by_the_name_of_its_file():
    feed = FeedRenderer(PLAIN)
    feed.record(offer(BOB))
    why = {"file_id": FILE_ID, "code": "disk_full", "reason": "no room"}
    assert feed.record({"event": "download_paused", **why}) == "* big.bin stands still: no room\n"
    assert feed.record({"event": "download_resumed", "file_id": FILE_ID}) == "* big.bin goes on\n"
    assert feed.record({"event": "download_failed", **why}) == "! big.bin was not fetched: no room\n"


def test_progress_is_mentioned_now_and_then_unless_it_takes_no_time():
    now = 0.0
    feed = FeedRenderer(PLAIN, clock=lambda: now)
    feed.record(offer(ADA))
    assert feed.record(progress(1)) == ""
    now = FIRST_PROGRESS_LINE_S
    assert "big.bin: 10 %" in feed.record(progress(10))
    assert feed.record(progress(20)) == ""
    now += PROGRESS_LINE_INTERVAL_S
    assert "big.bin: 30 %" in feed.record(progress(30))


def test_a_server_that_answers_is_news_only_after_it_did_not():
    feed = FeedRenderer(PLAIN)
    attached, lost = (
        {"event": "server_attached", "address": "h:1"},
        {"event": "server_lost", "address": "h:1", "reason": "no answer"},
    )
    shown = [feed.record(record) for record in (attached, lost, attached, attached)]
    assert [bool(text) for text in shown] == [False, True, True, False]


def test_every_event_of_the_feed_has_a_text():
    feed = FeedRenderer(PLAIN)
    records = [
        {"event": "node_left", "node": ADA, "name": "ada"},
        JOINED,
        offer(BOB),
        {"event": "retracted", "file_id": FILE_ID},
        {"event": "complete", "file_id": FILE_ID, "path": "/x"},
        {"event": "server_lost", "address": "h:1", "reason": "gone"},
        {"event": "server_attached", "address": "h:1"},
        {"event": "error", "code": "x", "message": "went wrong"},
        {"event": "clock_wrong", "ahead_s": -100000.0},
        {"event": "node_renamed", "node": BOB, "name": "bob", "old_name": "rob"},
        {**message("@bob"), "event": "offered", "file": "big.bin"},
        {**message("hear"), "event": "pinned"},
        {"event": "recent", "entries": [message("hi")]},
        {"event": "late", "entries": [message("hi", late=True)], "further_up": 0},
        {"event": "late", "entries": [], "further_up": 1},
        {"event": "older", "entries": [], "is_start": True},
        {"event": "found", "search": "x", "entries": []},
        {"event": "sessions", "sessions": []},
        {"event": "offers", "offers": [{**offer(BOB), "by": "bob"}]},
        {"event": "message_retracted", "id": "m" * 52, "node": ADA, "name": "ada"},
        {**message("hear"), "event": "announcement"},
        {"event": "unknown_message", "id": "m" * 52, "node": ADA, "name": "ada", "kind": "new", "time": 0.0},
        {"event": "files", "files": []},
        {"event": "who", "nodes": []},
    ]
    assert all(feed.record(record).endswith("\n") for record in records)


@pytest.mark.parametrize(
    ("command", "record", "line"),
    [
        ("serve", {"event": "serving", "address": "poolnet://h:1/k"}, "poolnet://h:1/k\n"),
        ("create", {"invite": "poolnet://h:1/k/p#s", "pool": "p", "name": "n"}, "poolnet://h:1/k/p#s\n"),
        ("send", {"id": "m" * 52}, "m" * 52 + "\n"),
        ("offer", {"file_id": FILE_ID, "name": "a\x1bb", "size": 1}, FILE_ID + "  a\\x1bb\n"),
        ("get", {"event": "complete", "file_id": FILE_ID, "path": "/x/y z"}, "/x/y z\n"),
        ("save", {"event": "saved", "file_id": FILE_ID, "path": "/x/y"}, "/x/y\n"),
        ("get", {"event": "download_failed", "file_id": FILE_ID, "code": "x", "reason": "y"}, ""),
        ("stream", {"event": "streaming", "file_id": FILE_ID, "name": "radio"}, FILE_ID + "  radio\n"),
        ("watch", {"event": "watching", "file_id": FILE_ID, "name": "radio"}, ""),
        ("leave", {"pool": "p", "name": "n"}, ""),
    ],
)
def test_results_are_bare_lines_that_scripts_can_use(command: str, record: dict[str, object], line: str):
    renderer = renderer_for(command, PLAIN)
    assert renderer.record(record) + renderer.finish() == line


def listed(**fields: object) -> dict[str, object]:
    shared = {"file_id": FILE_ID, "name": "x", "size": 2048, "holders": 1, "state": "offered", "path": None}
    return {**shared, "kind": "file", "file_count": 1, "bytes": 512, **fields}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "folder", "file_count": 2}, "folder of 2 files  2.0 KiB        1  -"),
        ({"kind": "folder", "file_count": 1}, "folder of 1 file  2.0 KiB        1  -"),
        ({"kind": "media"}, "picture  2.0 KiB        1  -"),
        ({"kind": "stream", "size": 0}, "stream     -        1  -"),
        ({"state": "downloading"}, "25 %"),
        ({"state": "queued"}, "waits for its turn"),
        ({"state": "paused"}, "25 %, paused"),
        ({"state": "failed"}, "failed"),
    ],
)
def test_the_list_of_files_says_what_is_offered_and_how_far_it_is(fields: dict[str, object], words: str):
    renderer = renderer_for("files", PLAIN)
    renderer.record(listed(**fields))
    assert renderer.finish().splitlines()[1].endswith(words)


def test_a_table_is_aligned_and_nothing_but_a_long_name_is_cut_off_outside_a_terminal():
    renderer = renderer_for("files", PLAIN)
    path = "/" + "p" * 300
    for name, fields in (("short", {}), ("x" * 250, {"state": "complete", "path": path})):
        assert renderer.record(listed(name=name, **fields)) == ""
    heading, first, second = renderer.finish().splitlines()
    assert heading.split() == ["FILE", "NAME", "KIND", "SIZE", "HOLDERS", "HERE"]
    assert first.split() == ["ffffffff", "short", "file", "2.0", "KiB", "1", "-"]
    assert second.split() == ["ffffffff", "x" * 59 + "…", "file", "2.0", "KiB", "1", path]


@pytest.mark.parametrize("columns", [56, 60, 100])
def test_each_file_is_one_row_of_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setenv("COLUMNS", str(columns))
    renderer = renderer_for("files", STYLED)
    renderer.record(listed(name="a picture.jpg", kind="media", state="complete", path="/home/bob/" + "p" * 200))
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in renderer.finish().splitlines()]
    assert len(rows) == 2
    assert max(map(len, rows)) <= columns
    assert rows[1].endswith("…")
    if columns >= 60:
        assert rows[1].startswith("ffffffff  a pict")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "linked"),
        ({"linked": False}, "here"),
        ({"linked": False, "online": False}, "away"),
        ({"conduct": "broken_promise"}, "linked: broken promise"),
        ({"linked": False, "conduct": "bad_signature", "shunned_s": 59}, "shunned: bad signature"),
    ],
)
def test_the_list_of_peers_says_who_is_there_and_what_they_did(fields: dict[str, object], words: str):
    info = poolnet.MemberInfo(
        node=poolnet.DeviceId(bytes(32)), name="eve", role="member", is_self=False, online=True, linked=True
    )
    renderer = renderer_for("peers", PLAIN)
    renderer.record(peer_record(attrs.evolve(info, **fields)))
    assert f"  {words}  " in renderer.finish()


def test_an_empty_table_is_nothing():
    assert renderer_for("peers", PLAIN).finish() == ""


def test_a_qr_code_sets_its_own_colours_only_where_there_are_any():
    plain, coloured = draw_qr("poolnet://x", has_colours=False), draw_qr("poolnet://x", has_colours=True)
    assert "\x1b" not in plain
    assert coloured.count("\x1b[0m\n") == len(plain.splitlines()) > 10


def test_what_is_withdrawn_is_told_to_those_who_were_told_of_it():
    feed = FeedRenderer(PLAIN)
    assert feed.record({"event": "retracted", "file_id": FILE_ID}) == ""
    feed.record(offer(BOB))
    assert feed.record({"event": "retracted", "file_id": FILE_ID}) == "* withdrawn: big.bin\n"


@pytest.mark.parametrize(("width", "size"), [(0, ""), (3, " (3 × 4)")])
def test_a_picture_that_is_here_is_told_with_what_is_known_of_it(width: int, size: str):
    picture = {"file_id": FILE_ID, "file": "cat.png", "path": "/x/cat.png", "width": width, "height": 4}
    shown = FeedRenderer(PLAIN).record({"event": "media_received", "node": BOB, "name": "bob", **picture})
    assert shown == f"* the picture cat.png of bob{size} is here: /x/cat.png\n"
