"""Entries of a history as lines of text: messages, announcements, offers, and what this version does not know.

Further lines of a message are marked, so that none can pass for another message; so is a message that came late.
"""

import time
from typing import Final

from poolnet_cli.ink import Ink, Piece
from poolnet_cli.reporter import Record
from poolnet_cli.units import format_size

#: Characters of an id that are shown; any prefix that is unique will do to name it.
SHORT: Final = 8
FULL_TIME: Final = "%Y-%m-%d %H:%M:%S"
#: What somebody does who offers something of a kind.
_VERBS: Final = {"file": "offer", "folder": "offer the folder", "media": "show", "stream": "stream"}
#: What begins the second and further lines of one message.
_CONTINUED: Final = "    | "


def entry_text(ink: Ink, record: Record, *, who: str, when: str, me: str = "") -> str:
    """Return an entry as its time, its author and what it says, line ends included.

    Args:
        who: what to call its author.
        me: this node's id; a message that calls it by name, or everyone, stands out.
    """
    if record.get("late"):
        when += " (late)"
    style = "bold" if is_call(record, me) else ""
    first, *others = _said(record).split("\n")
    lines = [ink.line((when + " ", "dim"), *_author(record, who), (first, style))]
    lines += [ink.line((_CONTINUED, "dim"), (line, style)) for line in others]
    return "".join(lines)


def history_line(ink: Ink, record: Record) -> str:
    """Return an entry with the beginning of its id, by which other commands name it, and its full time."""
    identity = ink.line((record["id"][:SHORT] + " ", "dim")).rstrip("\n")
    return identity + entry_text(ink, record, who=record["name"], when=full_time(record["time"]))


def full_time(unix_s: float) -> str:
    """Return date and time, local."""
    return time.strftime(FULL_TIME, time.localtime(unix_s))


def short_time(unix_s: float) -> str:
    """Return the time of today, and of other days with the date, local."""
    then, now = time.localtime(unix_s), time.localtime()
    is_today = (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday)
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", then)


def is_call(record: Record, me: str) -> bool:
    """Return whether an entry is another's message that calls node `me` by name, or everyone."""
    if not me or record["node"] == me:
        return False
    return me in record.get("mentions", ()) or bool(record.get("to_all"))


def offer_verb(record: Record, *, by_you: bool = False) -> str:
    """Return what somebody does who offers something of this kind: "offers the folder", "shows"."""
    verb, *rest = _VERBS.get(record.get("kind", "file"), "offer").split(" ", 1)
    return " ".join([verb if by_you else f"{verb}s", *rest])


def offer_text(record: Record, name: str, *, is_own: bool = False) -> str:
    """Return what is offered: its name, what is known of how large it is, and how to fetch it if that is clear."""
    kind = record.get("kind", "file")
    parts = [name]
    if kind == "folder":
        parts.append(_counted(record["file_count"], "file"))
    if "size" in record and kind != "stream":
        parts.append(format_size(record["size"]))
    can_fetch = "file_id" in record and not is_own and kind != "stream"
    return ", ".join(parts) + (f"  (/get {record['file_id'][:SHORT]})" if can_fetch else "")


def kind_word(record: Record) -> str:
    """Return what an offer is, for a table."""
    match record.get("kind", "file"):
        case "folder":
            return f"folder of {_counted(record['file_count'], 'file')}"
        case "media":
            return "picture"
        case kind:
            return str(kind)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _author(record: Record, who: str) -> tuple[Piece, ...]:
    match record["event"]:
        case "announcement":
            return ((who, "bold yellow"), (" announces: ", "yellow"))
        case "offered":
            return ((who, "bold cyan"), (f" {offer_verb(record)} ", "green"))
        case "unknown_message":
            return ((who, "bold cyan"), (" sent ", "dim"))
        case _:
            return ((who, "bold cyan"), (": ", ""))


def _said(record: Record) -> str:
    match record["event"]:
        case "offered":
            return offer_text(record, record["file"])
        case "unknown_message":
            return f"something that this version does not know ({record['kind']})"
        case _:
            return str(record["text"])
