"""What goes into a running command, from standard input or through the control socket: typed lines, or bytes."""

import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import attrs
import trio

#: A typed line: room for a path and for any text that is still to be refused as too long.
MAX_LINE_BYTES: Final = 64 * 1024
_READ_SIZE: Final = 16 * 1024
#: Bytes read at once; a pipe holds as many.
DATA_SIZE: Final = 64 * 1024


class LineSplitter:
    """Cuts bytes into lines of text; of a line that is too long, only the beginning is kept."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._is_overlong = False

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their ends."""
        *complete, rest = data.split(b"\n")
        lines = []
        for part in complete:
            self._append(part)
            lines.append(self.finish())
        self._append(rest)
        return lines

    def finish(self) -> str:
        """Return what came after the last line end (empty if nothing) and start anew."""
        line = self._rest.decode("utf-8", errors="replace").rstrip("\r")
        self._rest.clear()
        return line

    def _append(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._rest)
        self._rest += part[:room]


class StandardInputLines:
    """The lines of standard input until its end, to be iterated over.

    Reading waits in a thread that is given up on cancellation: a terminal, a pipe, a file and /dev/null all work, and
    nothing about the terminal's mode is changed.
    """

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._ready: deque[str] = deque()
        self._is_at_end = False

    def __aiter__(self) -> "StandardInputLines":
        return self

    async def __anext__(self) -> str:
        while not self._ready and not self._is_at_end:
            data = await _read_some()
            self._ready.extend(self._splitter.feed(data))
            if not data:
                self._is_at_end = True
                if last := self._splitter.finish():
                    self._ready.append(last)
        if not self._ready:
            raise StopAsyncIteration
        await trio.lowlevel.checkpoint()
        return self._ready.popleft()


class FileData:
    """The bytes of standard input or of a file until its end, as they come, to be iterated over.

    Reading waits in a thread that is given up on cancellation. It ends by an OSError if it cannot be read.

    Args:
        path: a file; None for standard input.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._descriptor: int | None = 0 if path is None else None

    def __aiter__(self) -> "FileData":
        return self

    async def __anext__(self) -> bytes:
        if self._descriptor is None:
            assert self._path is not None, "standard input is open"
            self._descriptor = await trio.to_thread.run_sync(os.open, self._path, os.O_RDONLY | os.O_CLOEXEC)
        data = await trio.to_thread.run_sync(os.read, self._descriptor, DATA_SIZE, abandon_on_cancel=True)
        if not data:
            if self._path is not None:
                os.close(self._descriptor)
            raise StopAsyncIteration
        return data


class NoData:
    """No bytes."""

    def __aiter__(self) -> "NoData":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration


class NoLines:
    """Nothing is typed."""

    def __aiter__(self) -> "NoLines":
        return self

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration


@attrs.frozen(kw_only=True)
class Input:
    """What goes into one run of a command."""

    lines: AsyncIterator[str] = attrs.field(factory=NoLines)
    data: AsyncIterator[bytes] = attrs.field(factory=NoData)


def read_first_line() -> str:
    """Return the first line of standard input and leave the rest of it unread."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n") and len(line) < MAX_LINE_BYTES:
        line += byte
    return line.decode("utf-8", errors="replace").strip()


def read_all(max_bytes: int) -> bytes:
    """Return all of standard input, or its beginning if it is longer than `max_bytes`."""
    content = bytearray()
    while len(content) <= max_bytes and (data := os.read(0, _READ_SIZE)):
        content += data
    return bytes(content)


async def _read_some() -> bytes:
    try:
        return await trio.to_thread.run_sync(os.read, 0, _READ_SIZE, abandon_on_cancel=True)
    except OSError:  # closed (a daemon), or a terminal that went away: the same as its end
        return b""
