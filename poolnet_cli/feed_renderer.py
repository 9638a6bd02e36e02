"""The live feed of `join` as text: lines that are printed once and stay.

On a terminal with a prompt, notices of who came and left are folded: as long as nothing else was printed since, the
next one takes the place of the last, so that they never push the talk out of sight.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from poolnet import DeviceId, Feed, NodeJoined, NodeLeft, NodeRenamed, Notice, decode_id_untrusted
from poolnet.limits import MAX_OFFERS
from poolnet.printable import looks_as
from poolnet_cli.entry_text import SHORT, entry_text, history_line, offer_text, offer_verb, short_time
from poolnet_cli.ink import Ink
from poolnet_cli.live_lines import rows_of
from poolnet_cli.reporter import Record
from poolnet_cli.tables import files_table, peers_table, sessions_table
from poolnet_cli.units import format_long_duration, format_rate

#: How often the feed mentions a running download.
PROGRESS_LINE_INTERVAL_S: Final = 5.0
#: A download that takes less than this is only mentioned when it is done.
FIRST_PROGRESS_LINE_S: Final = 2.0
#: One row up, and erase it.
ERASE_ROW: Final = "\x1b[A\x1b[K"
#: Offers at the beginning that have a line each.
_MAX_OFFER_LINES: Final = 3
_BELL: Final = "\a"
#: Between two of them: whoever is called often need not hear each call.
_BELL_INTERVAL_S: Final = 2.0
#: Rows of the terminal that a part of the feed leaves free when it is printed: its mark, the prompt, a line of context.
_FREE_ROWS: Final = 3


class FeedRenderer:
    """The live feed of `join`.

    Args:
        folds: rows that were printed can be taken back, as long as `touched` says nothing else.
    """

    def __init__(self, ink: Ink, clock: Callable[[], float] = time.monotonic, *, folds: bool = False) -> None:
        self._ink = ink
        self._clock = clock
        self._folds = folds
        self._notice = Feed(1)  # of what passed since the last line
        self._notice_rows = 0  # that it takes on the screen now
        self._nodes_of_name: dict[str, set[str]] = {}
        self._name_of_node: dict[str, str] = {}
        self._next_bell = -math.inf
        self._this_node = ""
        self._has_lost_server = False
        self._file_names: dict[str, str] = {}
        self._next_progress: dict[str, float] = {}
        self._draw: dict[str, Callable[[Record], str]] = {
            "joined": self._joined,
            "message": self._entry,
            "announcement": self._entry,
            "offered": self._entry,
            "unknown_message": self._entry,
            "recent": self._recent,
            "late": self._late,
            "pinned": self._pinned,
            "older": self._older,
            "found": self._found,
            "sessions": self._sessions,
            "mention": self._mention,
            "message_retracted": self._message_retracted,
            "app_message": lambda record: "",  # between programs
            "offer": self._offer,
            "offers": self._offers,
            "retracted": self._retracted,
            "progress": self._progress,
            "hashing": self._hashing,
            "complete": self._complete,
            "download_paused": lambda record: self._news(f"{self._file_name(record)} stands still: {record['reason']}"),
            "download_resumed": lambda record: self._news(f"{self._file_name(record)} goes on"),
            "download_failed": self._failed,
            "media_received": self._media,
            "server_lost": self._server_lost,
            "server_attached": self._server_attached,
            "clock_wrong": self._clock_wrong,
            "files": self._files,
            "who": self._who_is_here,
            "error": self._error,
        }

    def record(self, record: Record) -> str:
        """Return what to print for a record now."""
        for entry in (record, *record.get("entries", ())):
            self._learn_name(entry)
        if record["event"] in ("node_joined", "node_left", "node_renamed"):
            return self._passing(record)
        text = self._draw[str(record["event"])](record)
        if "\n" in text:
            self.touched()
        return text

    def finish(self) -> str:
        """Return nothing: the feed has no end."""
        return ""

    def touched(self) -> None:
        """Take note that something else was printed: what is above it stays."""
        self._notice = Feed(1)
        self._notice_rows = 0

    # --- who is who, who comes and goes -------------------------------------------------------------------------

    def _learn_name(self, record: Record) -> None:
        if "node" in record and "name" in record and record["event"] != "offer":  # whose name is the file's
            self._take_name(record["node"], record["name"])
        if record["event"] == "offered" and "file_id" in record:
            self._take_file_name(record["file_id"], record["file"])

    def _take_name(self, node: str, name: str) -> None:
        """Take note of a node's present name; what it was called before is forgotten."""
        before = self._name_of_node.get(node)
        self._name_of_node[node] = name
        if before is not None and (nodes := self._nodes_of_name.get(_seen(before))) is not None:
            nodes.discard(node)
            if not nodes:
                del self._nodes_of_name[_seen(before)]
        self._nodes_of_name.setdefault(_seen(name), set()).add(node)

    def _who(self, name: str, node: str) -> str:
        """Return the name, with the id's beginning if several nodes use it, or what looks like it."""
        return name if self._nodes_of_name.get(_seen(name), set()) <= {node} else f"{name} ({node[:SHORT]})"

    def _passing(self, record: Record) -> str:
        if record["node"] == self._this_node:
            return ""  # a new name, chosen here
        if not self._folds:
            self.touched()
        change = self._notice.apply(self._passing_event(record))
        if change is None:
            return ""
        erase = ERASE_ROW * self._notice_rows
        text = self._news(notice_text(change.added)) if isinstance(change.added, Notice) else ""
        self._notice_rows = self._rows_to_take_back(text) if self._folds else 0
        if text and not self._notice_rows:
            self.touched()
        return erase + text

    def _passing_event(self, record: Record) -> NodeJoined | NodeLeft | NodeRenamed:
        node = DeviceId(decode_id_untrusted(record["node"]))
        name = self._who(record["name"], record["node"])
        match record["event"]:
            case "node_joined":
                return NodeJoined(node=node, name=name)
            case "node_left":
                return NodeLeft(node=node, name=name)
            case _:
                return NodeRenamed(node=node, old_name=record["old_name"], name=name)

    # --- messages -----------------------------------------------------------------------------------------------

    def _entry(self, record: Record) -> str:
        if record["event"] == "offered" and record["node"] == self._this_node:
            record = {name: value for name, value in record.items() if name != "file_id"}  # nobody fetches their own
        who = self._who(record["name"], record["node"])
        return entry_text(self._ink, record, who=who, when=short_time(record["time"]), me=self._this_node)

    def _mention(self, record: Record) -> str:
        """Return a call for attention; the message itself stands out."""
        now = self._clock()
        if not self._ink.is_terminal or now < self._next_bell:
            return ""
        self._next_bell = now + _BELL_INTERVAL_S
        return _BELL

    def _recent(self, record: Record) -> str:
        return self._block(record["entries"], self._entry)

    def _late(self, record: Record) -> str:
        """Return the newest part of the feed again, from the earliest message on that came late."""
        entries, further_up = record["entries"], record["further_up"]
        also = f", and {_counted(further_up, 'more message')} further up (/older)" if further_up else ""
        if not entries:
            return self._mark(f"{_counted(further_up, 'message')} came late, further up (/older)")
        return self._mark(f"late{also}") + self._block(entries, self._entry)

    def _older(self, record: Record) -> str:
        beginning = self._mark("the beginning of the history") if record["is_start"] else ""
        return beginning + self._listed(record["entries"], "older", "now")

    def _found(self, record: Record) -> str:
        if not record["entries"]:
            return self._news(f"nothing is found by {record['search']}")
        return self._listed(record["entries"], f"found by {record['search']}", "now")

    def _sessions(self, record: Record) -> str:
        return (
            sessions_table(self._ink, record["sessions"]) if record["sessions"] else self._news("nothing was said yet")
        )

    def _pinned(self, record: Record) -> str:
        who = self._who(record["name"], record["node"])
        announcement = {**record, "event": "announcement", "late": False}
        return entry_text(self._ink, announcement, who=who, when=f"* {short_time(record['time'])}")

    def _message_retracted(self, record: Record) -> str:
        who = self._who(record["name"], record["node"])
        return self._news(f"{who} took back {self._retracted_name(record)}")

    def _retracted_name(self, record: Record) -> str:
        if "of" not in record:
            return f"the message {record['id'][:SHORT]}"
        of = record["of"]
        whose = "" if of["node"] == record["node"] else f" of {self._who(of['name'], of['node'])}"
        return f"the message{whose} of {short_time(of['time'])}; its text is deleted"

    def _listed(self, entries: Sequence[Record], begin: str, end: str) -> str:
        """Return entries that were asked for, with ids, between marks."""
        if not entries:
            return ""
        lines = "".join(history_line(self._ink, self._named(entry)) for entry in entries)
        return self._mark(begin) + lines + self._mark(end)

    def _named(self, record: Record) -> Record:
        return {**record, "name": self._who(record["name"], record["node"])}

    def _block(self, entries: Sequence[Record], draw: Callable[[Record], str]) -> str:
        """Return the newest of `entries` that fit on the screen, at least one."""
        texts = [draw(entry) for entry in entries]
        if self._ink.is_terminal:
            room = self._ink.height() - _FREE_ROWS
            fitting = 0
            for text in reversed(texts):
                room -= self._rows_of(text)
                if room < 0 and fitting:
                    break
                fitting += 1
            texts = texts[len(texts) - fitting :]
        return "".join(texts)

    # --- files --------------------------------------------------------------------------------------------------

    def _take_file_name(self, file_id: str, name: str) -> None:
        """Take note of what a file is called; the one first heard of may be forgotten."""
        self._file_names[file_id] = name
        if len(self._file_names) > MAX_OFFERS:
            del self._file_names[next(iter(self._file_names))]

    def _offer(self, record: Record) -> str:
        self._take_file_name(record["file_id"], record["name"])
        node = record["node"]
        is_own = node == self._this_node
        who = "you" if is_own else self._who(self._name_of_node.get(node, node[:SHORT]), node)
        said = offer_text(record, record["name"], is_own=is_own)
        return self._news(f"{who} {offer_verb(record, by_you=is_own)} {said}", style="green")

    def _offers(self, record: Record) -> str:
        """Return offers that were made before what the feed shows: their number, if they are many."""
        offers = record["offers"]
        for offer in offers:
            self._take_file_name(offer["file_id"], offer["name"])
            self._name_of_node.setdefault(offer["node"], offer["by"])
        if len(offers) > _MAX_OFFER_LINES:
            return self._news(f"{len(offers)} more files are on offer (/files)", style="green")
        return "".join(map(self._offer, offers))

    def _retracted(self, record: Record) -> str:
        """Return nothing of what this feed never told of: a newcomer hears of all that there ever was."""
        return self._news(f"withdrawn: {self._file_name(record)}") if record["file_id"] in self._file_names else ""

    def _progress(self, record: Record) -> str:
        if not self._is_due(record["file_id"]):
            return ""
        return self._news(f"{self._file_name(record)}: {_percent(record)}, {format_rate(record['rate'])}")

    def _hashing(self, record: Record) -> str:
        if record["bytes"] >= record["size"]:
            self._next_progress.pop(record["name"], None)
        return self._news(f"{record['name']}: {_percent(record)}") if self._is_due(record["name"]) else ""

    def _is_due(self, key: str) -> bool:
        """Return whether it is time to mention some progress again."""
        now = self._clock()
        if now < self._next_progress.setdefault(key, now + FIRST_PROGRESS_LINE_S):
            return False
        self._next_progress[key] = now + PROGRESS_LINE_INTERVAL_S
        return True

    def _complete(self, record: Record) -> str:
        self._next_progress.pop(record["file_id"], None)
        return self._news(f"fetched: {record['path']}", style="green")

    def _failed(self, record: Record) -> str:
        self._next_progress.pop(record["file_id"], None)
        style = "dim" if record["code"] == "cancelled" else "red"
        return self._ink.line((f"! {self._file_name(record)} was not fetched: {record['reason']}", style))

    def _media(self, record: Record) -> str:
        self._take_file_name(record["file_id"], record["file"])
        who = self._who(record["name"], record["node"])
        size = f" ({record['width']} × {record['height']})" if record["width"] and record["height"] else ""
        return self._news(f"the picture {record['file']} of {who}{size} is here: {record['path']}", style="green")

    def _files(self, record: Record) -> str:
        return files_table(self._ink, record["files"]) if record["files"] else self._news("nothing is offered")

    def _file_name(self, record: Record) -> str:
        return self._file_names.get(record["file_id"]) or str(record["file_id"])[:SHORT]

    # --- the rest -----------------------------------------------------------------------------------------------

    def _joined(self, record: Record) -> str:
        self._this_node = record["node"]
        return self._news(f"you are in {record['pool_name']} as {record['name']} ({record['node'][:SHORT]})")

    def _server_lost(self, record: Record) -> str:
        if self._has_lost_server:
            return ""  # as before
        self._has_lost_server = True
        return self._news(
            f"no sync server now: {record['reason']}; talk and files go on with who is linked, "
            "nobody else is found until one answers (it is tried again)"
        )

    def _server_attached(self, record: Record) -> str:
        if not self._has_lost_server:
            return ""  # as it should be
        self._has_lost_server = False
        return self._news(f"the sync server at {record['address']} answers again")

    def _clock_wrong(self, record: Record) -> str:
        ahead_s = record["ahead_s"]
        how = f"{format_long_duration(abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}"
        text = (
            f"this device's clock is {how}, by what the others say; set it right (messages have the right time anyway)"
        )
        return self._ink.line((f"! {text}", "red"))

    def _who_is_here(self, record: Record) -> str:
        return peers_table(self._ink, record["nodes"]) if record["nodes"] else self._news("nobody else is here")

    def _error(self, record: Record) -> str:
        return self._ink.line((f"! {record['message']}", "red"))

    def _news(self, *texts: str, style: str = "dim") -> str:
        return self._ink.line(("* " + "".join(texts), style))

    def _mark(self, text: str) -> str:
        return self._ink.line((f"── {text} ──", "dim"))

    def _rows_to_take_back(self, text: str) -> int:
        """Return the rows of a notice, 0 if that is not certain: then it stays, for what is above it is not to go.

        Terminals do not agree how wide characters of some scripts are; none is wider than two cells.
        """
        if text.isascii() or 2 * len(text) <= self._ink.width():
            return self._rows_of(text)
        return 0

    def _rows_of(self, text: str) -> int:
        """Return the rows of the terminal that lines take."""
        width = self._ink.width()
        return sum(rows_of(line, width) for line in text.splitlines())


def _seen(name: str) -> str:
    """Return what two names have in common that a person takes for one."""
    return " ".join(looks_as(name).split())


def _percent(record: Record) -> str:
    return f"{100 * record['bytes'] // max(record['size'], 1)} %"


def notice_text(notice: Notice) -> str:
    """Return who came, left and was renamed as one line."""
    parts = []
    if notice.joined_count:
        parts.append(f"{_names(notice.joined, notice.joined_count)} {'is' if notice.joined_count == 1 else 'are'} here")
    if notice.left_count:
        parts.append(f"{_names(notice.left, notice.left_count)} left")
    if notice.renamed_count:
        others = notice.renamed_count - len(notice.renamed)
        parts += [f"{old} is now {new}" for old, new in notice.renamed]
        parts += [f"{others} others have new names"] if others else []
    return "; ".join(parts)


def _names(names: Sequence[str], count: int) -> str:
    others = count - len(names)
    listed = [*names, *([_counted(others, "other")] if others else [])]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
