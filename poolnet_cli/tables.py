"""Lists as tables of text: files, downloads, settings, members and links, pools, sessions."""

from poolnet_cli.entry_text import SHORT, full_time, kind_word
from poolnet_cli.ink import Ink
from poolnet_cli.reporter import Record
from poolnet_cli.settings import SETTINGS
from poolnet_cli.units import fitted, format_long_duration, format_rate, format_size

#: Participants of a session that its row names.
_MAX_NAMES = 6


def files_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of offered files."""
    rows = [
        (
            record["file_id"][:SHORT],
            fitted(record["name"]),
            kind_word(record),
            "-" if record.get("kind") == "stream" else format_size(record["size"]),
            str(record["holders"]),
            _state(record),
        )
        for record in records
    ]
    return ink.table(("FILE", "NAME", "KIND", "SIZE>", "HOLDERS>", "HERE"), rows, cuts=True)


def _state(record: Record) -> str:
    percent = _percent(record)
    words = {
        "offered": "-",
        "queued": "waits for its turn",
        "downloading": percent,
        "paused": f"{percent}, paused",
        "failed": "failed",
        "seeding": "offered by this device",
    }
    return words.get(record["state"]) or str(record["path"] or record["state"])


def _percent(record: Record) -> str:
    return f"{100 * record['bytes'] // max(record['size'], 1)} %"


def downloads_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of downloads."""
    rows = [
        (
            record["file_id"][:SHORT],
            fitted(record["name"]),
            f"{_percent(record)} of {format_size(record['size'])}",
            _standing(record),
            format_rate(record["rate"]) if record["rate"] else "-",
            str(record["sources"]) if record["state"] == "running" else "-",
            "-" if record["eta"] is None else format_long_duration(record["eta"]),
            str(record["priority"]),
            record["path"],
        )
        for record in records
    ]
    headings = ("FILE", "NAME", "DONE>", "STATE", "RATE>", "SOURCES>", "LEFT>", "PRIORITY>", "PATH")
    return ink.table(headings, rows)


def _standing(record: Record) -> str:
    """Return how a download stands, and why if it stands still."""
    return f"{record['state']}: {record['reason']}" if record["reason"] else str(record["state"])


def settings_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of settings."""
    rows = [
        (
            record["name"],
            SETTINGS[record["name"]].show(record["value"]),
            "set here" if record["is_set"] else "default",
            SETTINGS[record["name"]].meaning,
        )
        for record in records
    ]
    return ink.table(("NAME", "VALUE", "", "OF WHAT"), rows)


def peers_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of members and links."""
    rows = [
        (
            record["node"][:SHORT],
            record["name"],
            _link_word(record),
            record["carrier"] or "-",
            record["address"] or "-",
            "-" if record["rtt_ms"] is None else f"{record['rtt_ms']:.1f} ms",
            format_rate(record["rate_in"]),
            format_rate(record["rate_out"]),
            str(record["datagram_size"] or "-"),
        )
        for record in records
    ]
    return ink.table(("NODE", "NAME", "LINK", "FILES BY", "ADDRESS", "RTT>", "IN>", "OUT>", "DATAGRAM>"), rows)


def _link_word(record: Record) -> str:
    """Return whether there is a link, and what this device holds against the member."""
    word = "linked" if record["linked"] else "here" if record["online"] else "away"
    if record["shunned_s"] is not None:
        word = "shunned"
    return word if record["conduct"] is None else f"{word}: {record['conduct'].replace('_', ' ')}"


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


def sessions_table(ink: Ink, records: list[Record]) -> str:
    """Return the table of sessions."""
    rows = [
        (
            str(record["number"]),
            full_time(record["start"]),
            format_long_duration(record["end"] - record["start"]),
            str(record["messages"]),
            _names(record["nodes"]),
        )
        for record in records
    ]
    return ink.table(("SESSION>", "BEGAN", "LASTED>", "MESSAGES>", "WHO"), rows)


def _names(nodes: list[Record]) -> str:
    names = [node["name"] for node in nodes[:_MAX_NAMES]]
    others = len(nodes) - len(names)
    return ", ".join(names) + (f" and {others} more" if others else "")
