"""Durations, sizes and addresses as people type and read them."""

from datetime import UTC, datetime

import click
import pytest

from poolnet_cli.options import HostPort
from poolnet_cli.units import (
    format_duration,
    format_long_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("12h", 43200),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h30m", 5400),
        ("0.5s", 0.5),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "7y", "-1d", "0", "0s", "7 d x", "1h30", "nan", "inf", "1e9", "9999999w", "m5"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match=r"write for example 90s|must be more than nothing"):
        parse_duration(text)


NOW = datetime(2026, 11, 21, 9, 30)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20", datetime(2026, 11, 20)),
        ("2026-11-20 08:40", datetime(2026, 11, 20, 8, 40)),
        ("2026-11-20T08:40:15", datetime(2026, 11, 20, 8, 40, 15)),
        ("2026-11-20t08:40z", datetime(2026, 11, 20, 8, 40, tzinfo=UTC)),
        ("8:40", datetime(2026, 11, 21, 8, 40)),
        ("23:59", datetime(2026, 11, 20, 23, 59)),
        ("today", datetime(2026, 11, 21)),
        (" Yesterday ", datetime(2026, 11, 20)),
        ("2h", datetime(2026, 11, 21, 7, 30)),
        ("3d ago", datetime(2026, 11, 18, 9, 30)),
    ],
)
def test_a_time_is_a_date_a_time_of_day_or_how_long_ago(text: str, moment: datetime):
    assert parse_time(text, now=NOW) == moment.timestamp() * 1000


def test_a_day_as_an_end_is_its_end():
    assert parse_time("2026-11-20", is_end=True) == parse_time("2026-11-21")
    assert parse_time("yesterday", is_end=True, now=NOW) == parse_time("today", now=NOW)
    assert parse_time("2026-11-20 08:40", is_end=True) == parse_time("2026-11-20 08:40")


@pytest.mark.parametrize(
    "text", ["", "soon", "2026", "2026-13-01", "25:00", "9:5", "-2h", "0001-01-01", "99999w", "90"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match="write for example 2026-11-20"):
        parse_time(text, now=NOW)


def test_a_long_duration_is_in_days():
    assert [format_long_duration(hours * 3600) for hours in (1, 47, 48, 76)] == [
        "1 h 0 min",
        "47 h 0 min",
        "2 days",
        "3 days 4 h",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (64 * 1024 * 1024, "64.0 MiB"),
        (1536 * 1024 * 1024, "1.5 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_a_size_is_shown_in_binary_units(size: int, text: str):
    assert format_size(size) == text
    assert format_rate(size) == text + "/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (42.4, "42 s"), (59.9, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_a_duration_is_shown_in_the_units_that_matter(seconds: float, text: str):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("example.org:80", ("example.org", 80)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 7)),
        ("::1", ("::1", 7)),
        (":99", ("::", 99)),
        ("0.0.0.0", ("0.0.0.0", 7)),
    ],
)
def test_an_address_to_listen_on_may_lack_host_or_port(text: str, address: tuple[str, int]):
    assert HostPort(7).convert(text, None, None) == address


@pytest.mark.parametrize("text", ["host:port", "host:", "host:99999", "[::1]:x", "host:-1", "host:٣"])
def test_a_wrong_port_is_wrong_usage(text: str):
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        HostPort(7).convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("500K", 500 * 1024),
        ("2m", 2 * 1024**2),
        ("1.5G", 3 * 2**29),
        ("2 MiB", 2 * 1024**2),
        ("256MB", 2**28),
        ("1M/s", 2**20),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1K", "fast", "1X", "1e9", "nan", "9999999T"])
def test_what_is_no_size_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match="write for example 500K"):
        parse_size(text)
