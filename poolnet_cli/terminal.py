"""Where the output of a command in this process goes: standard output and standard error, as JSON lines or as text.

Writing waits in a thread, so that a reader that does not read holds up nothing but the command that writes.
"""

import json
import math
import os
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from poolnet import printable
from poolnet_cli.feed_renderer import ERASE_ROW
from poolnet_cli.ink import Ink, ink_for
from poolnet_cli.render import Renderer
from poolnet_cli.reporter import Record

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
_PROMPT: Final = "> "
#: A line read so soon after something was written may have been typed before it (pasted): its echo is further up.
_SAFE_TO_ERASE_S: Final = 0.15
_MIN_ROWS: Final = 5
_ROWS_OF_PIPE: Final = 20
#: To the line's beginning, and erase it.
_CLEAR_LINE: Final = "\r\x1b[K"


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
    data = memoryview(text.encode("utf-8", errors="backslashreplace"))
    while data:
        data = data[os.write(descriptor, data) :]


def json_line(record: Record) -> str:
    """Return a record as one line in ASCII: what could act on a terminal is escaped."""
    return json.dumps(record) + "\n"


class JsonReporter:
    """Records and progress as JSON lines on standard output, notes on standard error."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def record(self, record: Record) -> None:
        async with self._lock:
            await write_text(STDOUT, json_line(record))

    async def progress(self, record: Record) -> None:
        if "file_id" in record:  # hashing has no id yet, and no event
            await self.record(
                {"event": "progress", **{key: record[key] for key in ("file_id", "bytes", "size", "rate")}}
            )

    async def note(self, text: str) -> None:
        await write_text(STDERR, f"{printable(text)}\n")

    async def finish(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to take away."""


class TextReporter:
    """Records as text on standard output, progress as a bar and notes on standard error.

    Args:
        has_prompt: both standard input and output are a terminal and lines are typed while output comes: a prompt
            stands below the output. What a person has typed of a line stays with the terminal (Ctrl-R shows it again).
    """

    def __init__(self, renderer: Renderer, ink: Ink, *, has_prompt: bool = False) -> None:
        self._renderer = renderer
        self._ink = ink
        self._prompt = _PROMPT if has_prompt else ""
        self._bar = _Bar()
        self._lock = trio.Lock()
        self._written_at = -math.inf

    async def record(self, record: Record) -> None:
        async with self._lock:
            await self._print(self._renderer.record(record))

    async def progress(self, record: Record) -> None:
        if not self._prompt:
            self._bar.show(record)

    async def note(self, text: str) -> None:
        async with self._lock:
            self._bar.hide()
            self._renderer.touched()
            clear, prompt = (_CLEAR_LINE, self._prompt) if self._prompt else ("", "")
            await write_text(STDERR, f"{clear}{printable(text)}\n{prompt}")

    async def finish(self) -> None:
        """Print what was held back until the command is done (tables)."""
        async with self._lock:
            await self._print(self._renderer.finish())

    def close(self) -> None:
        """Take the bar and the prompt away, however the command ended."""
        self._bar.hide()
        if self._prompt:
            write_text_now(STDOUT, _CLEAR_LINE)

    def prompting(self, make_lines: Callable[[], AsyncIterator[str]]) -> AsyncIterator[str]:
        """Return the lines that `make_lines` gives, with the prompt put back below each."""
        return _PromptingLines(make_lines(), self)

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
        if not text:
            return
        self._bar.hide()
        self._written_at = trio.current_time()
        await write_text(STDOUT, f"{_CLEAR_LINE}{text}{self._prompt}" if self._prompt else text)


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


class _Bar:
    """A progress bar on standard error while there is progress, if that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._name = ""

    def show(self, record: Record) -> None:
        if not self._console.is_terminal:
            return
        name = printable(str(record["name"]))
        if self._progress is None or name != self._name:
            self.hide()
            self._progress = _new_progress(self._console)
            self._progress.start()
            self._task = self._progress.add_task(name, total=record["size"])
            self._name = name
        self._progress.update(self._task, completed=record["bytes"], refresh=True)

    def hide(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _new_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )
