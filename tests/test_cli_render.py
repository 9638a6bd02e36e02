"""Records as text."""

import re

import pytest

from poolnet_cli.ink import Ink
from poolnet_cli.qr import draw_qr
from poolnet_cli.render import FIRST_PROGRESS_LINE_S, PROGRESS_LINE_INTERVAL_S, FeedRenderer, renderer_for

ADA, BOB = "a" * 52, "b" * 52
FILE_ID = "f" * 52
PLAIN = Ink(is_terminal=False)
STYLED = Ink(is_terminal=True)


def message(text: str, *, name: str = "ada", node: str = ADA) -> dict[str, object]:
    return {"event": "message", "id": "m" * 52, "node": node, "name": name, "text": text, "time": 0.0}


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
    assert "3 days 0 h ahead" in day
    assert "2 h 5 min behind" in hours
    assert "set it right" in day


def test_what_the_history_has_beside_texts_is_told_in_words():
    shared = {"id": "m" * 52, "node": ADA, "name": "ada", "time": 0.0}
    line = renderer_for("history", PLAIN)
    assert "ada announces: hear" in line.record({**shared, "event": "announcement", "text": "hear"})
    assert "ada: (offers big.bin)" in line.record({**shared, "event": "offered", "file": "big.bin"})
    assert "does not know: new)" in line.record({**shared, "event": "unknown_message", "kind": "new"})


def test_two_nodes_of_one_name_are_told_apart():
    feed = FeedRenderer(PLAIN)
    feed.record({"event": "node_joined", "node": ADA, "name": "ada"})
    assert "ada:" in feed.record(message("hi"))
    feed.record({"event": "node_joined", "node": BOB, "name": "ada"})
    assert "ada (bbbbbbbb): hi" in feed.record(message("hi", node=BOB))


def offer(node: str) -> dict[str, object]:
    return {"event": "offer", "file_id": FILE_ID, "name": "big.bin", "size": 100, "node": node}


def test_an_offer_says_whose_it_is():
    feed = FeedRenderer(PLAIN)
    feed.record({"event": "joined", "pool": "p", "node": ADA, "name": "ada", "pool_name": "garden"})
    assert feed.record(offer(ADA)) == "* you offer big.bin, 100 B\n"
    assert feed.record(offer(BOB)) == "* bbbbbbbb offers big.bin, 100 B  (/get ffffffff)\n"
    feed.record({"event": "node_joined", "node": BOB, "name": "bob"})
    assert feed.record(offer(BOB)) == "* bob offers big.bin, 100 B  (/get ffffffff)\n"


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
        {"event": "joined", "pool": "p", "node": ADA, "name": "ada", "pool_name": "garden"},
        {"event": "node_left", "node": ADA, "name": "ada"},
        {"event": "retracted", "file_id": FILE_ID},
        {"event": "complete", "file_id": FILE_ID, "path": "/x"},
        {"event": "server_lost", "address": "h:1", "reason": "gone"},
        {"event": "server_attached", "address": "h:1"},
        {"event": "error", "code": "x", "message": "went wrong"},
        {"event": "clock_wrong", "ahead_s": -100000.0},
        {"event": "node_renamed", "node": ADA, "name": "ada", "old_name": "adaa"},
        {"event": "mention", "id": "m" * 52, "node": ADA, "name": "ada", "text": "@bob", "to_all": False},
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
        ("leave", {"pool": "p", "name": "n"}, ""),
    ],
)
def test_results_are_bare_lines_that_scripts_can_use(command: str, record: dict[str, object], line: str):
    renderer = renderer_for(command, PLAIN)
    assert renderer.record(record) + renderer.finish() == line


def test_a_table_is_aligned_and_not_cut_off_outside_a_terminal():
    renderer = renderer_for("files", PLAIN)
    for name in ("short", "x" * 300):
        record = {"file_id": FILE_ID, "name": name, "size": 2048, "nodes": [ADA], "state": "offered", "path": None}
        assert renderer.record(record) == ""
    heading, first, second = renderer.finish().splitlines()
    assert heading.split() == ["FILE", "NAME", "SIZE", "NODES", "HERE"]
    assert first.split() == ["ffffffff", "short", "2.0", "KiB", "1", "-"]
    assert "x" * 300 in second


def test_an_empty_table_is_nothing():
    assert renderer_for("peers", PLAIN).finish() == ""


def test_a_qr_code_sets_its_own_colours_only_where_there_are_any():
    plain, coloured = draw_qr("poolnet://x", has_colours=False), draw_qr("poolnet://x", has_colours=True)
    assert "\x1b" not in plain
    assert coloured.count("\x1b[0m\n") == len(plain.splitlines()) > 10
