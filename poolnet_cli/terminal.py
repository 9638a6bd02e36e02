"""Where the output of a command in this process goes: standard output and standard error, as JSON lines or as text.

Writing waits in a thread, so that a reader that does not read holds up nothing but the command that writes.
"""

import base64
import errno
import json
import math
import os
import time
from collections.abc import AsyncIterator
from typing import Final

import trio

from poolnet import printable
from poolnet_cli.feed_renderer import ERASE_ROW
from poolnet_cli.ink import Ink, ink_for
from poolnet_cli.live_lines import LiveLines
from poolnet_cli.render import Renderer
from poolnet_cli.reporter import Record
from poolnet_cli.terminal_text import TerminalText
from poolnet_cli.transfers import Transfers

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
#: What they are called when they fail.
_OUTPUTS: Final = {STDOUT: "standard output", STDERR: "standard error"}
_PROMPT: Final = "> "
#: A line read so soon after something was written may have been typed before it (pasted): its echo is further up.
_SAFE_TO_ERASE_S: Final = 0.15
_MIN_ROWS: Final = 5
_ROWS_OF_PIPE: Final = 20
#: To the line's beginning, and erase it.
_CLEAR_LINE: Final = "\r\x1b[K"
#: Between two drawings of progress; faster is not seen.
_DRAW_INTERVAL_S: Final = 0.1
_PROGRESS_FIELDS: Final = ("file_id", "bytes", "size", "rate", "sources")


def rows_for_feed() -> int:
    """Return how many rows of the feed may be shown at once: those of the terminal, some on a pipe."""
    ink = ink_for(STDOUT)
    return max(_MIN_ROWS, ink.height()) if ink.is_terminal else _ROWS_OF_PIPE


async def write_text(descriptor: int, text: str) -> None:
    """Write all of `text`; on cancellation the rest is given up.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    if text:
        await trio.to_thread.run_sync(write_text_now, descriptor, text, abandon_on_cancel=True)


def write_text_now(descriptor: int, text: str) -> None:
    """Write all of `text` and wait for it; for the end of the process, when no event loop runs."""
    _write_all(descriptor, text.encode("utf-8", errors="backslashreplace"))


async def write_data(descriptor: int, data: bytes) -> None:
    """Write all of `data`; on cancellation the rest is given up.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    await trio.to_thread.run_sync(_write_all, descriptor, data, abandon_on_cancel=True)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as exc:
        reason = "it is closed" if exc.errno == errno.EBADF else exc.strerror
        raise OSError(exc.errno, reason, _OUTPUTS.get(descriptor)) from exc


def json_line(record: Record) -> str:
    """Return a record as one line in ASCII: what could act on a terminal is escaped."""
    return json.dumps(record).replace("\x7f", "\\u007f") + "\n"  # the one control character that JSON lets through


class JsonReporter:
    """Records and progress as JSON lines on standard output, notes on standard error."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def record(self, record: Record) -> None:
        async with self._lock:
            await write_text(STDOUT, json_line(record))

    async def progress(self, record: Record) -> None:
        if "file_id" in record:  # hashing has no id yet, and no event
            await self.record({"event": "progress", **{field: record[field] for field in _PROGRESS_FIELDS}})

    async def note(self, text: str) -> None:
        await write_text(STDERR, f"{printable(text)}\n")

    async def data(self, data: bytes) -> None:
        await self.record({"event": "data", "data": base64.b64encode(data).decode("ascii")})

    async def finish(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to take away."""


class TextReporter:
    """Records as text on standard output, progress and notes on standard error.

    Progress is lines that change in place, where standard error is a terminal and nothing is typed; elsewhere it is
    told now and then.

    Args:
        has_prompt: both standard input and output are a terminal and lines are typed while output comes: a prompt
            stands below the output. What a person has typed of a line stays with the terminal (Ctrl-R shows it again).
    """

    def __init__(self, renderer: Renderer, ink: Ink, *, has_prompt: bool = False) -> None:
        self._renderer = renderer
        self._ink = ink
        self._prompt = _PROMPT if has_prompt else ""
        self._text = TerminalText()
        self._error_ink = ink_for(STDERR)
        self._transfers = Transfers(self._error_ink)
        self._live = LiveLines(self._error_ink)
        self._drawn_at = -math.inf
        self._lock = trio.Lock()
        self._written_at = -math.inf

    async def record(self, record: Record) -> None:
        async with self._lock:
            if not self._prompt and (event := record.get("event")) in ("complete", "download_failed"):
                self._transfers.ended(record["file_id"], is_complete=event == "complete")
            await self._print(self._renderer.record(record))

    async def progress(self, record: Record) -> None:
        if self._prompt:  # what is fetched is told by events
            if "file_id" not in record:
                await self.record({"event": "hashing", **record})
            return
        self._transfers.update(record)
        if not self._error_ink.is_terminal:
            if told := self._transfers.told(record):
                await self.note(told)
        elif time.monotonic() >= self._drawn_at + _DRAW_INTERVAL_S:
            async with self._lock:
                await self._draw()

    async def note(self, text: str) -> None:
        async with self._lock:
            self._renderer.touched()
            clear, prompt = (_CLEAR_LINE, self._prompt) if self._prompt else (self._live.erase(), "")
            await write_text(STDERR, f"{clear}{printable(text)}\n{prompt}")
            await self._draw()

    async def data(self, data: bytes) -> None:
        async with self._lock:
            if self._ink.is_terminal:
                await write_text(STDOUT, self._text.feed(data))
            else:
                await write_data(STDOUT, data)

    async def finish(self) -> None:
        """Print what was held back until the command is done (tables)."""
        async with self._lock:
            await self._print(self._renderer.finish())

    def close(self) -> None:
        """Take progress and the prompt away, however the command ended."""
        if erasing := self._live.erase():
            write_text_now(STDERR, erasing)
        if self._prompt:
            write_text_now(STDOUT, _CLEAR_LINE)

    def prompting(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """Return `lines`, with the prompt put back below each."""
        return _PromptingLines(lines, self) if self._prompt else lines

    async def show_prompt(self, typed: str | None) -> None:
        """Show the prompt, if there is one.

        Args:
            typed: the line that was just typed. A text comes back as a message: its echo goes, if it is one row of the
                terminal. The echo of a slash command stays.
        """
        if not self._prompt:
            return
        if typed is None:
            before = _CLEAR_LINE
        else:
            fits = len(typed) + len(_PROMPT) < self._ink.width() and typed.isascii()
            is_above = trio.current_time() - self._written_at > _SAFE_TO_ERASE_S
            before = ERASE_ROW if fits and is_above and not typed.startswith("/") else ""
            if not before:
                self._renderer.touched()
        self._written_at = trio.current_time()
        await write_text(STDOUT, before + self._prompt)

    async def _print(self, text: str) -> None:
        """Print text above what changes in place."""
        if text:
            if self._ink.is_terminal and (erasing := self._live.erase()):
                await write_text(STDERR, erasing)
            self._written_at = trio.current_time()
            await write_text(STDOUT, f"{_CLEAR_LINE}{text}{self._prompt}" if self._prompt else text)
        await self._draw()

    async def _draw(self) -> None:
        """Draw progress as it is now."""
        if self._prompt or not self._error_ink.is_terminal:
            return
        self._drawn_at = time.monotonic()
        await write_text(STDERR, self._live.draw(self._transfers.lines()))


class _PromptingLines:
    """Typed lines, with a prompt."""

    def __init__(self, lines: AsyncIterator[str], reporter: TextReporter) -> None:
        self._lines = lines
        self._reporter = reporter
        self._has_begun = False

    def __aiter__(self) -> "_PromptingLines":
        return self

    async def __anext__(self) -> str:
        if not self._has_begun:
            self._has_begun = True
            await self._reporter.show_prompt(None)
        line = await anext(self._lines)
        await self._reporter.show_prompt(line)
        return line
