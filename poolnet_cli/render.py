"""Records as text: what each command shows without ``--json``."""

from collections.abc import Callable
from pathlib import PurePath
from typing import Final, Protocol

from poolnet import printable
from poolnet_cli.entry_text import history_line
from poolnet_cli.feed_renderer import FeedRenderer
from poolnet_cli.ink import Ink
from poolnet_cli.reporter import Record
from poolnet_cli.tables import (
    downloads_table,
    files_table,
    peers_table,
    pools_table,
    sessions_table,
    settings_table,
)
from poolnet_cli.units import format_long_duration, format_size

#: Cells of a size: "1023.9 MiB".
_SIZE_CELLS: Final = 10


class Renderer(Protocol):
    """Turns the records of one run of a command into text for standard output."""

    def record(self, record: Record) -> str:
        """Return what to print for a record now, line ends included; empty for nothing."""

    def finish(self) -> str:
        """Return what to print at the end."""

    def touched(self) -> None:
        """Take note that something else was printed, or typed, below what was printed so far."""


class LineRenderer:
    """A line a record."""

    def __init__(self, ink: Ink, line: Callable[[Ink, Record], str]) -> None:
        self._ink = ink
        self._line = line

    def record(self, record: Record) -> str:
        return self._line(self._ink, record)

    def finish(self) -> str:
        return ""

    def touched(self) -> None:
        pass


class TableRenderer:
    """A table of all records, at the end; nothing instead of an empty one."""

    def __init__(self, table: Callable[[list[Record]], str]) -> None:
        self._table = table
        self._records: list[Record] = []

    def record(self, record: Record) -> str:
        if "event" not in record:  # events say what was done
            self._records.append(record)
        return ""

    def finish(self) -> str:
        return self._table(self._records) if self._records else ""

    def touched(self) -> None:
        pass


class HistoryRenderer:
    """Entries as lines, sessions as a table at the end, the path of an export."""

    def __init__(self, ink: Ink) -> None:
        self._ink = ink
        self._sessions: list[Record] = []

    def record(self, record: Record) -> str:
        match record["event"]:
            case "session":
                self._sessions.append(record)
                return ""
            case "exported":
                return _path(self._ink, record["path"])
            case _:
                return history_line(self._ink, record)

    def finish(self) -> str:
        return sessions_table(self._ink, self._sessions) if self._sessions else ""

    def touched(self) -> None:
        pass


def renderer_for(command: str, ink: Ink, *, folds: bool = False) -> Renderer:
    """Return what shows a command's records.

    Args:
        folds: rows that were printed can be taken back (see `FeedRenderer`).
    """
    tables: dict[str, Callable[[Ink, list[Record]], str]] = {
        "downloads": downloads_table,
        "files": files_table,
        "peers": peers_table,
        "settings": settings_table,
        "status": pools_table,
    }
    if command in tables:
        return TableRenderer(lambda records: tables[command](ink, records))
    if command == "join":
        return FeedRenderer(ink, folds=folds)
    if command == "history":
        return HistoryRenderer(ink)
    return LineRenderer(ink, _LINES.get(command, lambda ink, record: ""))


def _offer_line(ink: Ink, record: Record) -> str:
    return ink.line((record["file_id"], ""), ("  ", ""), (record["name"], ""))


def _path_line(ink: Ink, record: Record) -> str:
    return _path(ink, record["path"]) if "path" in record else ""


def _path(ink: Ink, path: str) -> str:
    """Return a whole path as it is, for scripts; where it is seen, without what could act."""
    return f"{printable(path) if ink.is_terminal else PurePath(path)}\n"


def _stream_line(ink: Ink, record: Record) -> str:
    return _offer_line(ink, record) if record["event"] == "streaming" else ""


def _entry_line(ink: Ink, record: Record) -> str:
    is_directory = record["kind"] == "directory"
    size = "-" if is_directory else format_size(record["size"])
    return ink.line((f"{size:>{_SIZE_CELLS}}  ", "dim"), (record["path"] + ("/" if is_directory else ""), ""))


def _retention(record: Record) -> str:
    """Return what is kept, in words."""
    limits = []
    if record["max_age_s"] is not None:
        limits.append(f"messages of the last {format_long_duration(record['max_age_s'])}")
    if record["max_count"] is not None:
        limits.append(f"{'at most ' if limits else 'the newest '}{record['max_count']} messages")
    return ", ".join(limits) or "everything"


_LINES: Final[dict[str, Callable[[Ink, Record], str]]] = {
    "serve": lambda ink, record: ink.line((record["address"], "")),
    "create": lambda ink, record: f"{record['invite']}\n",
    "invite": lambda ink, record: f"{record['invite']}\n",
    "send": lambda ink, record: f"{record['id']}\n",
    "announce": lambda ink, record: f"{record['id']}\n",
    "offer": _offer_line,
    "get": _path_line,
    "save": _path_line,
    "stream": _stream_line,
    "contents": _entry_line,
    "keep": lambda ink, record: ink.line((_retention(record), "")),
}
