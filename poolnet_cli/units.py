"""Durations, times, sizes and rates as people type and read them, and names in the room there is."""

import re
from datetime import datetime, time, timedelta
from typing import Final

from rich.cells import cell_len, set_cell_size

from poolnet import printable

#: Cells of a name in a table.
_MAX_NAME: Final = 60
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
#: A hundred years: beyond this a duration is a typing error, and dates stop to work.
MAX_DURATION_S: Final = 100 * 365 * 86400
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?(?:/s)?")
#: Beyond this a text is no duration, size or time; the search for its parts takes the square of its length.
_MAX_CHARS: Final = 64
_SIZE_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
#: Beyond this a size is a typing error.
MAX_SIZE_BYTES: Final = 2**50


def parse_duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``7d``, ``1h30m``.

    Raises:
        ValueError: not a duration, or not above zero, or beyond a hundred years.
    """
    compact = text.strip().lower()
    parts = _PART.findall(compact) if len(compact) <= _MAX_CHARS else []
    if len(compact) <= _MAX_CHARS and re.fullmatch(r"\d+(\.\d+)?", compact):
        seconds = float(compact)
    elif parts and "".join(number + unit for number, unit in parts) == compact:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 15m, 12h, 7d or 2w")
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{text!r} must be more than nothing and at most a hundred years")
    return seconds


def parse_size(text: str) -> int:
    """Return the bytes of ``500K``, ``2M``, ``1.5G``, ``2MiB``, ``4096``; K, M, G and T are powers of 1024.

    Raises:
        ValueError: not a size, or beyond a pebibyte.
    """
    compact = text.strip().lower()
    match = _SIZE.fullmatch(compact) if len(compact) <= _MAX_CHARS else None
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 500K, 2M or 1G")
    size_bytes = round(float(match[1]) * _SIZE_UNITS[match[2]])
    if size_bytes > MAX_SIZE_BYTES:
        raise ValueError(f"{text!r} is too much; write for example 500K, 2M or 1G")
    return size_bytes


def parse_time(text: str, *, is_end: bool = False, now: datetime | None = None) -> int:
    """Return milliseconds since 1970 of ``2026-11-20``, ``2026-11-20 08:40``, ``08:40``, ``yesterday``, ``3d`` (ago).

    Dates and times are local unless they say otherwise (``2026-11-20T08:40Z``). A time alone is the last such time.

    Args:
        is_end: a day alone stands for its end, not its beginning.
        now: for tests; the present moment if it is not given.

    Raises:
        ValueError: not a time.
    """
    now = datetime.now() if now is None else now
    compact = text.strip().lower()
    try:
        moment = (
            _day(compact, now, is_end=is_end) or _time_of_day(compact, now) or _moment(compact) or _ago(compact, now)
        )
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(
            f"{text!r} is not a time; write for example 2026-11-20, '2026-11-20 08:40', 08:40, yesterday, or 2h or 3d "
            "for so long ago"
        ) from exc


def _day(text: str, now: datetime, *, is_end: bool) -> datetime | None:
    days_ago = {"today": 0, "yesterday": 1}.get(text)
    if days_ago is None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return None
    day = datetime.fromisoformat(text) if days_ago is None else now - timedelta(days=days_ago)
    return datetime.combine(day.date(), time()) + timedelta(days=is_end)


def _time_of_day(text: str, now: datetime) -> datetime | None:
    if not re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
        return None
    moment = datetime.combine(now.date(), time.fromisoformat(text.zfill(len(text) + (text[1] == ":"))))
    return moment if moment <= now else moment - timedelta(days=1)


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text.upper()) if re.match(r"\d{4}-", text) else None


def _ago(text: str, now: datetime) -> datetime:
    if text.isdecimal():
        raise ValueError("a number of what?")
    return now - timedelta(seconds=parse_duration(text.removesuffix("ago")))


def format_duration(seconds: float) -> str:
    """Return seconds in the largest units that say enough: ``0.8 s``, ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_long_duration(seconds: float) -> str:
    """Return seconds as `format_duration` does, from two days on in days and hours: ``3 days 4 h``."""
    hours = round(seconds / 3600)
    if hours < 48:
        return format_duration(seconds)
    return f"{hours // 24} days" + (f" {hours % 24} h" if hours % 24 else "")


def format_size(size_bytes: float) -> str:
    """Return a size in binary units with at most one decimal: ``512 B``, ``64.0 KiB``, ``1.5 GiB``."""
    if size_bytes < 1024:
        return f"{int(size_bytes)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size_bytes /= 1024
        if size_bytes < 1023.95 or unit == "TiB":
            break
    return f"{size_bytes:.1f} {unit}"


def format_rate(rate_bytes_per_s: float) -> str:
    """Return a rate: ``12.3 MiB/s``."""
    return f"{format_size(rate_bytes_per_s)}/s"


def fitted(name: str, width: int = _MAX_NAME) -> str:
    """Return a name as it is shown, in at most so many cells of a terminal, cut if it is longer."""
    name = printable(name)
    if cell_len(name) <= width:
        return name
    return set_cell_size(name, width) if width < 2 else set_cell_size(name, width - 1) + "…"
