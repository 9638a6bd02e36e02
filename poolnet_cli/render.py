"""Records as text: what each command shows without ``--json``."""

import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Final, Protocol

from poolnet_cli.ink import Ink
from poolnet_cli.reporter import Record
from poolnet_cli.units import format_rate, format_size

#: Characters of an id that a table shows; any prefix that is unique will do to name it.
SHORT: Final = 8
#: How often the feed mentions a running download.
PROGRESS_LINE_INTERVAL_S: Final = 5.0
#: A download that takes less than this is only mentioned when it is done.
FIRST_PROGRESS_LINE_S: Final = 2.0


class Renderer(Protocol):
    """Turns the records of one run of a command into text for standard output."""

    def record(self, record: Record) -> str:
        """Return what to print for a record now, line ends included; empty for nothing."""

    def finish(self) -> str:
        """Return what to print at the end."""


class LineRenderer:
    """A line a record."""

    def __init__(self, ink: Ink, line: Callable[[Ink, Record], str]) -> None:
        self._ink = ink
        self._line = line

    def record(self, record: Record) -> str:
        return self._line(self._ink, record)

    def finish(self) -> str:
        return ""


class TableRenderer:
    """A table of all records, at the end; `nothing` instead of an empty one."""

    def __init__(self, table: Callable[[list[Record]], str]) -> None:
        self._table = table
        self._records: list[Record] = []

    def record(self, record: Record) -> str:
        self._records.append(record)
        return ""

    def finish(self) -> str:
        return self._table(self._records) if self._records else ""


class FeedRenderer:
    """The live feed of `join`."""

    def __init__(self, ink: Ink, clock: Callable[[], float] = time.monotonic) -> None:
        self._ink = ink
        self._clock = clock
        self._nodes_of_name: dict[str, set[str]] = {}
        self._name_of_node: dict[str, str] = {}
        self._this_node = ""
        self._has_lost_server = False
        self._file_names: dict[str, str] = {}
        self._next_progress: dict[str, float] = {}
        self._draw: dict[str, Callable[[Record], str]] = {
            "joined": self._joined,
            "node_joined": self._node_joined,
            "node_left": self._node_left,
            "message": self._message,
            "offer": self._offer,
            "retracted": self._retracted,
            "progress": self._progress,
            "complete": self._complete,
            "server_lost": self._server_lost,
            "server_attached": self._server_attached,
            "files": self._files,
            "who": self._who_is_here,
            "error": self._error,
        }

    def record(self, record: Record) -> str:
        if "node" in record and "name" in record and record["event"] != "offer":
            self._nodes_of_name.setdefault(record["name"], set()).add(record["node"])
            self._name_of_node[record["node"]] = record["name"]
        return self._draw[str(record["event"])](record)

    def finish(self) -> str:
        return ""

    def _who(self, name: str, node: str) -> str:
        """Return the name, with the id's beginning if several nodes use it."""
        return name if len(self._nodes_of_name.get(name, ())) < 2 else f"{name} ({node[:SHORT]})"

    def _news(self, *texts: str, style: str = "dim") -> str:
        return self._ink.line(("* " + "".join(texts), style))

    def _joined(self, record: Record) -> str:
        self._this_node = record["node"]
        return self._news(f"you are in {record['pool_name']} as {record['name']} ({record['node'][:SHORT]})")

    def _node_joined(self, record: Record) -> str:
        return self._news(f"{self._who(record['name'], record['node'])} is here")

    def _node_left(self, record: Record) -> str:
        return self._news(f"{self._who(record['name'], record['node'])} left")

    def _message(self, record: Record) -> str:
        return message_text(self._ink, record, who=self._who(record["name"], record["node"]), time_format="%H:%M")

    def _offer(self, record: Record) -> str:
        self._file_names[record["file_id"]] = record["name"]
        size, node = format_size(record["size"]), record["node"]
        if node == self._this_node:
            return self._news(f"you offer {record['name']}, {size}", style="green")
        who = self._who(self._name_of_node.get(node, node[:SHORT]), node)
        return self._news(f"{who} offers {record['name']}, {size}  (/get {record['file_id'][:SHORT]})", style="green")

    def _retracted(self, record: Record) -> str:
        return self._news(f"withdrawn: {self._file_name(record)}")

    def _progress(self, record: Record) -> str:
        now, file_id = self._clock(), record["file_id"]
        if now < self._next_progress.setdefault(file_id, now + FIRST_PROGRESS_LINE_S):
            return ""
        self._next_progress[file_id] = now + PROGRESS_LINE_INTERVAL_S
        percent = 100 * record["bytes"] // max(record["size"], 1)
        return self._news(f"{self._file_name(record)}: {percent} %, {format_rate(record['rate'])}")

    def _complete(self, record: Record) -> str:
        self._next_progress.pop(record["file_id"], None)
        return self._news(f"fetched: {record['path']}", style="green")

    def _server_lost(self, record: Record) -> str:
        self._has_lost_server = True
        return self._news(f"no sync server now: {record['reason']}; talk and files go on, and it is tried again")

    def _server_attached(self, record: Record) -> str:
        if not self._has_lost_server:
            return ""  # as it should be
        self._has_lost_server = False
        return self._news(f"the sync server at {record['address']} answers again")

    def _files(self, record: Record) -> str:
        return files_table(self._ink, record["files"]) if record["files"] else self._news("nothing is offered")

    def _who_is_here(self, record: Record) -> str:
        return peers_table(self._ink, record["nodes"]) if record["nodes"] else self._news("nobody else is here")

    def _error(self, record: Record) -> str:
        return self._ink.line((f"! {record['message']}", "red"))

    def _file_name(self, record: Record) -> str:
        return self._file_names.get(record["file_id"]) or str(record["file_id"])[:SHORT]


def message_text(ink: Ink, record: Record, *, who: str, time_format: str) -> str:
    """Return a message as its time, its author and its text; further lines are marked, so none can pass for another."""
    when = time.strftime(time_format, time.localtime(record["time"]))
    first, *others = record["text"].split("\n")
    lines = [ink.line((when + " ", "dim"), (who, "bold cyan"), (": ", ""), (first, ""))]
    lines += [ink.line(("    | ", "dim"), (line, "")) for line in others]
    return "".join(lines)


def history_line(ink: Ink, record: Record) -> str:
    """Return a message of the history, with the beginning of its id for `--before`."""
    identity = ink.line((record["id"][:SHORT] + " ", "dim")).rstrip("\n")
    return identity + message_text(ink, record, who=record["name"], time_format="%Y-%m-%d %H:%M:%S")


def files_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of offered files."""
    rows = [(r["file_id"][:SHORT], r["name"], format_size(r["size"]), str(len(r["nodes"])), _state(r)) for r in records]
    return ink.table(("FILE", "NAME", "SIZE>", "NODES>", "HERE"), rows)


def _state(record: Record) -> str:
    if record["state"] == "downloading":
        return f"{100 * record['bytes'] // max(record['size'], 1)} %"
    words = {"offered": "-", "seeding": "offered by this device"}
    return words.get(record["state"]) or str(record["path"] or record["state"])


def peers_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of members and links."""
    rows = [
        (
            record["node"][:SHORT],
            record["name"],
            _link_word(record),
            record["address"] or "-",
            "-" if record["rtt_ms"] is None else f"{record['rtt_ms']:.1f} ms",
            format_rate(record["rate_in"]),
            format_rate(record["rate_out"]),
            str(record["datagram_size"] or "-"),
        )
        for record in records
    ]
    return ink.table(("NODE", "NAME", "LINK", "ADDRESS", "RTT>", "IN>", "OUT>", "DATAGRAM>"), rows)


def _link_word(record: Record) -> str:
    if record["linked"]:
        return "linked"
    return "here" if record["online"] else "away"


def pools_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of this home's pools."""
    rows = [
        (
            record["pool"][:SHORT],
            record["name"],
            record["role"],
            "joined" if record["joined"] else "-",
            ", ".join(record["servers"]) or "-",
        )
        for record in records
    ]
    return ink.table(("POOL", "NAME", "ROLE", "NOW", "SYNC SERVER"), rows)


def renderer_for(command: str, ink: Ink) -> Renderer:
    """Return what shows a command's records."""
    tables: dict[str, Callable[[Ink, list[Record]], str]] = {
        "files": files_table,
        "peers": peers_table,
        "status": pools_table,
    }
    if command in tables:
        return TableRenderer(lambda records: tables[command](ink, records))
    if command == "join":
        return FeedRenderer(ink)
    return LineRenderer(ink, _LINES.get(command, lambda ink, record: ""))


def _offer_line(ink: Ink, record: Record) -> str:
    return ink.line((record["file_id"], ""), ("  ", ""), (record["name"], ""))


def _get_line(ink: Ink, record: Record) -> str:
    # The whole path as it is: scripts use it. Its last part was made safe when the file was fetched.
    return f"{PurePath(record['path'])}\n" if record.get("event") == "complete" else ""


_LINES: Final[dict[str, Callable[[Ink, Record], str]]] = {
    "serve": lambda ink, record: ink.line((record["address"], "")),
    "create": lambda ink, record: f"{record['invite']}\n",
    "invite": lambda ink, record: f"{record['invite']}\n",
    "send": lambda ink, record: f"{record['id']}\n",
    "offer": _offer_line,
    "get": _get_line,
    "history": history_line,
}
