"""Durations, sizes and rates as people type and read them."""

import re
from typing import Final

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
#: A hundred years: beyond this a duration is a typing error, and dates stop to work.
MAX_DURATION_S: Final = 100 * 365 * 86400


def parse_duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``7d``, ``1h30m``.

    Raises:
        ValueError: not a duration, or not above zero, or beyond a hundred years.
    """
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        seconds = float(compact)
    elif parts and "".join(number + unit for number, unit in parts) == compact:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 15m, 12h, 7d or 2w")
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{text!r} must be more than nothing and at most a hundred years")
    return seconds


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
