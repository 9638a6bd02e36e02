"""What is typed into a feed, and how it is cut into lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet_cli import feed
from poolnet_cli.lines import MAX_LINE_BYTES, LineSplitter


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("hello there", feed.Say("hello there")),
        ("  indented", feed.Say("  indented")),
        ("//not a command", feed.Say("/not a command")),
        ("", feed.Nothing()),
        ("   ", feed.Nothing()),
        ("/quit", feed.Quit()),
        ("/who", feed.ListPeers()),
        ("/FILES", feed.ListFiles()),
        ("/help", feed.ShowHelp()),
        ("/offer a b c.txt", feed.OfferFile("a b c.txt")),
        ("/offer 'a b.txt'", feed.OfferFile("a b.txt")),
        ("/offer it's.txt", feed.OfferFile("it's.txt")),
        ("/offer --media ~/a b.png", feed.OfferFile("~/a b.png", media=True)),
        (
            "/offer --name 'my trip' --exclude *.tmp --exclude 'a b' --hidden trip",
            feed.OfferFile("trip", name="my trip", exclude=("*.tmp", "a b"), hidden=True),
        ),
        ("/get big.bin", feed.GetFile("big.bin")),
        ("/get 'two words' out.bin", feed.GetFile("two words", "out.bin")),
        ("/older", feed.ShowOlder()),
        ("/sessions", feed.ListSessions()),
        ('/search two "in a row"', feed.Search('two "in a row"')),
        ("/retract aoh4hkmx", feed.RetractMessage("aoh4hkmx")),
        ("/announce hear, hear", feed.Announce("hear, hear")),
    ],
)
def test_a_line_is_a_text_unless_it_begins_with_one_slash(line: str, typed: feed.Typed):
    assert feed.parse_typed(line) == typed


@pytest.mark.parametrize(
    "line",
    [
        "/nonsense",
        "/offer",
        "/offer --name x",
        "/offer --nonsense x",
        "/get",
        "/get a b c",
        "/",
        "/search ?",
        "/retract",
        "/retract a b",
        "/announce",
    ],
)
def test_a_slash_command_that_is_wrong_says_what_to_type(line: str):
    with pytest.raises(ValueError, match=r"/(help|offer|get|search|retract|announce)"):
        feed.parse_typed(line)


@given(st.lists(st.text(alphabet=st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]))), st.data())
def test_lines_come_out_whole_however_the_bytes_arrive(lines: list[str], data: st.DataObject):
    content = "".join(line + "\n" for line in lines).encode()
    splitter = LineSplitter()
    found = []
    while content:
        size = data.draw(st.integers(1, len(content)))
        found += splitter.feed(content[:size])
        content = content[size:]
    assert found == lines
    assert splitter.finish() == ""


def test_the_last_line_needs_no_end():
    splitter = LineSplitter()
    assert splitter.feed(b"one\r\ntwo") == ["one"]
    assert splitter.finish() == "two"


def test_of_an_endless_line_only_the_beginning_is_kept():
    splitter = LineSplitter()
    for _ in range(10):
        assert splitter.feed(b"x" * MAX_LINE_BYTES) == []
    assert splitter.feed(b"\nnext\n") == ["x" * MAX_LINE_BYTES, "next"]
