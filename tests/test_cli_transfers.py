"""Progress on a terminal: what it says, and that it leaves the screen as it should be."""

import os
import re
import termios

import pytest

from poolnet_cli.ink import Ink, ink_for
from poolnet_cli.live_lines import LiveLines, rows_of
from poolnet_cli.terminal_text import TerminalText
from poolnet_cli.transfers import FIRST_TOLD_S, TOLD_INTERVAL_S, Transfers

TERMINAL = Ink(is_terminal=True)
MIB = 1024 * 1024


class Screen:
    """A terminal of some width that wraps lines and knows the sequences that we use."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = [""]  # as they were written; each may take several rows
        self.row = 0

    def write(self, text: str) -> None:
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        for part in re.findall(r"\x1b\[\d*[AKJ]|\r|\n|[^\x1b\r\n]+", text):
            self._write_part(part)

    def _write_part(self, part: str) -> None:
        if part == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif part.endswith("A"):
            rows = int(part[2:-1])
            while rows > 0:
                self.row -= 1
                rows -= rows_of(self.lines[self.row], self.width)
            assert rows == 0, "it went up into the middle of a line"
        elif part.endswith("J"):
            self.lines[self.row :] = [""]
        elif part not in ("\r", "\x1b[K"):
            self.lines[self.row] = part


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Set the size of the terminal."""

    def resize(columns: int, rows: int = 24) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(rows))

    resize(100)
    return resize


def progress(
    n: int, done: int, *, size: int = 100 * MIB, rate: float = 10.0 * MIB, name: str = ""
) -> dict[str, object]:
    shown = name or f"file {n}"
    return {"file_id": str(n) * 52, "name": shown, "bytes": done, "size": size, "rate": rate, "sources": n}


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


def test_a_file_has_a_line_with_all_that_matters(terminal):
    transfers = Transfers(TERMINAL)
    transfers.update(progress(2, 50 * MIB))
    (line,) = plain(transfers.lines())
    assert line.split() == [
        *("file", "2", "━" * 20, "50", "%", "50.0", "MiB", "/", "100.0", "MiB"),
        *("10.0", "MiB/s", "2", "sources", "5.0", "s", "left"),
    ]


def test_several_files_are_aligned_and_summed_up_and_those_that_are_done_count(terminal):
    transfers = Transfers(TERMINAL)
    for n in (1, 2, 3):
        transfers.update(progress(n, n * 20 * MIB))
    transfers.ended("3" * 52, is_complete=True)
    lines = plain(transfers.lines())
    assert [line[:12].strip() for line in lines] == ["file 1", "file 2", "1 of 3 files"]
    assert len({len(line) for line in lines}) == 1
    assert "53 %  160.0 MiB / 300.0 MiB  20.0 MiB/s" in lines[-1]
    transfers.ended("2" * 52, is_complete=False)
    assert "1 of 2 files" in plain(transfers.lines())[-1]
    transfers.ended("1" * 52, is_complete=True)
    assert transfers.lines() == []


def test_what_gets_nothing_waits_below_what_moves(terminal):
    transfers = Transfers(TERMINAL)
    transfers.update(progress(1, 0, rate=0.0))
    transfers.update(progress(2, 50 * MIB))
    first, second, _ = plain(transfers.lines())
    assert first.startswith("file 2")
    assert second.endswith("waiting")


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 40, 30, 20, 10, 4])
def test_a_line_fits_into_a_row_whatever_the_terminal_and_the_name(terminal, columns: int):
    terminal(columns)
    transfers = Transfers(TERMINAL)
    transfers.update(progress(1, 50 * MIB, name="a very long name " * 10))
    transfers.update(progress(2, 50 * MIB, name="漢字" * 30))
    for line in transfers.lines():
        assert rows_of(line, columns) == 1
    if columns >= 30:
        assert all("50 %" in line for line in plain(transfers.lines()))


def test_no_more_lines_than_the_terminal_has_rows(terminal):
    terminal(100, 10)
    transfers = Transfers(TERMINAL)
    for n in range(30):
        transfers.update({**progress(1, 0), "file_id": str(n)})
    lines = plain(transfers.lines())
    assert len(lines) < 10
    assert "and 24 more" in lines
    assert lines[-1].startswith("0 of 30 files")


def test_a_name_cannot_act_on_the_terminal(terminal):
    transfers = Transfers(TERMINAL)
    transfers.update(progress(1, 0, name="\x1b[2J\n"))
    assert "\x1b[2J" not in "".join(transfers.lines())


def test_hashing_has_a_rate_and_goes_when_it_is_done(terminal):
    now = 0.0
    transfers = Transfers(TERMINAL, clock=lambda: now)
    transfers.update({"name": "hashing x", "bytes": 0, "size": 100 * MIB})
    now = 2.0
    transfers.update({"name": "hashing x", "bytes": 40 * MIB, "size": 100 * MIB})
    (line,) = plain(transfers.lines())
    assert "20.0 MiB/s" in line
    assert "3.0 s left" in line
    transfers.update({"name": "hashing x", "bytes": 100 * MIB, "size": 100 * MIB})
    assert transfers.lines() == []


def test_without_a_terminal_progress_is_told_now_and_then():
    now = 0.0
    transfers = Transfers(Ink(is_terminal=False), clock=lambda: now)
    told = []
    for second in range(30):
        now = float(second)
        transfers.update(progress(1, second * MIB))
        told.append(transfers.told(progress(1, second * MIB)))
    said = {second: text for second, text in enumerate(told) if text}
    assert list(said) == [FIRST_TOLD_S, FIRST_TOLD_S + TOLD_INTERVAL_S, FIRST_TOLD_S + 2 * TOLD_INTERVAL_S]
    assert said[5] == "file 1: 5 %, 5.0 MiB / 100.0 MiB, 10.0 MiB/s, 1 source, 9.5 s left"


def test_lines_change_in_place_and_what_is_above_stays(terminal):
    screen, live = Screen(100), LiveLines(TERMINAL)
    screen.write("above\n")
    screen.write(live.draw(["one", "two", "sum"]))
    screen.write(live.draw(["one!", "sum!"]))
    assert screen.lines == ["above", "one!", "sum!", ""]
    screen.write(live.erase() + "a message\n" + live.draw(["three"]))
    assert screen.lines == ["above", "a message", "three", ""]
    screen.write(live.erase())
    assert screen.lines == ["above", "a message", ""]
    assert live.erase() == ""


def test_a_terminal_that_becomes_narrower_is_cleaned_of_what_wrapped(terminal):
    screen, live = Screen(100), LiveLines(TERMINAL)
    screen.write("above\n" + live.draw(["x" * 90, "y" * 90]))
    terminal(40)
    screen.width = 40
    screen.write(live.draw(["x" * 39]))
    assert screen.lines == ["above", "x" * 39, ""]


def test_a_stream_on_a_terminal_is_text_in_which_nothing_acts():
    text = TerminalText()
    shown = "".join(text.feed(data) for data in (b"h\xc3", b"\xa4llo\r\n\x1b[2Jx\ty", b"\xff\n"))
    assert shown == "hällo\n\\x1b[2Jx    y�\n"


def test_the_size_of_a_terminal_is_what_it_is_now(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "99")  # as it was when the shell began
    controller, device = os.openpty()
    try:
        ink = ink_for(device)
        for columns in (60, 40):
            termios.tcsetwinsize(controller, (20, columns))
            assert (ink.width(), ink.height()) == (columns, 20)
    finally:
        os.close(controller)
        os.close(device)
