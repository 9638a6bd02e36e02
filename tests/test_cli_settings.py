"""Settings of a home, and what they do to the pools of a process."""

import json
from pathlib import Path

import pytest
from cli_fakes import GARDEN, Recorder, open_desk
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from poolnet import StoreError
from poolnet.limits import DEFAULT_CACHE_SIZE, DEFAULT_CONCURRENT_DOWNLOADS
from poolnet_cli.commands.settings import settings
from poolnet_cli.ink import Ink
from poolnet_cli.render import renderer_for
from poolnet_cli.settings import DEFAULTS, FILE_NAME, NOTHING_SAID, SETTINGS, Limits, read_settings, write_setting


def test_what_is_set_is_there_again_and_default_forgets_it(tmp_path: Path):
    assert read_settings(tmp_path) == NOTHING_SAID
    write_setting(tmp_path, "limit-up", 512_000)
    write_setting(tmp_path, "tcp", False)
    assert read_settings(tmp_path) == Limits(up=512_000, tcp=False)
    write_setting(tmp_path, "limit-up", None)
    assert read_settings(tmp_path) == Limits(tcp=False)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_what_a_newer_version_set_stays(tmp_path: Path):
    (tmp_path / FILE_NAME).write_text('{"theme": "dark", "downloads": 3}')
    write_setting(tmp_path, "cache", 0)
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"theme": "dark", "downloads": 3, "cache": 0}
    assert read_settings(tmp_path) == Limits(downloads=3, cache=0)


@pytest.mark.parametrize("content", ["{", "[]", '{"downloads": "three"}', '{"limit-up": -1}', '{"tcp": 1}', "\xff"])
def test_settings_that_are_damaged_are_told_and_kept(tmp_path: Path, content: str):
    (tmp_path / FILE_NAME).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=FILE_NAME):
        read_settings(tmp_path)
    assert (tmp_path / FILE_NAME).exists()


LIMITS = st.builds(
    Limits,
    up=st.none() | st.integers(0, 9),
    down=st.none() | st.integers(0, 9),
    downloads=st.none() | st.integers(1, 9),
    cache=st.none() | st.integers(0, 9),
    tcp=st.none() | st.booleans(),
)


@given(LIMITS, LIMITS)
def test_options_win_over_settings_and_those_over_defaults(options: Limits, stored: Limits):
    result = options.over(stored).over(DEFAULTS)
    for field in ("up", "down", "downloads", "cache", "tcp"):
        values = [getattr(limits, field) for limits in (options, stored, DEFAULTS)]
        assert getattr(result, field) == next(value for value in values if value is not None)


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("limit-up", "2M", 2 * 1024**2, "2.0 MiB/s"),
        ("limit-down", "none", 0, "none"),
        ("downloads", "3", 3, "3"),
        ("cache", "0", 0, "0 B"),
        ("tcp", "off", False, "off"),
    ],
)
def test_a_setting_is_read_and_shown(name: str, text: str, value: int | bool, shown: str):
    assert SETTINGS[name].parse(text) == value
    table = renderer_for("settings", Ink(is_terminal=False))
    table.record({"name": name, "value": value, "is_set": True})
    assert " ".join(table.finish().splitlines()[1].split()).startswith(f"{name} {shown} set here ")


async def test_a_pool_that_is_entered_and_one_that_is_joined_obey(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        write_setting(desk.node.home, "limit-up", 1000)
        desk.session.take_settings(read_settings(desk.node.home))
        async with desk.session.use_pool(GARDEN):
            at_first = {"up": 1000, "down": None, "concurrent": DEFAULT_CONCURRENT_DOWNLOADS}
            assert desk.pool.files.limits == at_first
            await settings(desk.call(recorder, name="downloads", is_change=True, value=2))
            assert desk.pool.files.limits == {**at_first, "concurrent": 2}
            await settings(desk.call(recorder, name="cache", is_change=True, value=0))
            assert "next start" in recorder.notes[0]
    assert recorder.records[0] == {"name": "downloads", "value": 2, "is_set": True}


async def test_all_settings_are_listed_with_their_defaults(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        await settings(desk.call(recorder, name=None, is_change=False, value=None))
    listed = {record["name"]: record["value"] for record in recorder.records}
    assert listed == {
        "limit-up": 0,
        "limit-down": 0,
        "downloads": DEFAULT_CONCURRENT_DOWNLOADS,
        "cache": DEFAULT_CACHE_SIZE,
        "tcp": True,
    }
    assert not any(record["is_set"] for record in recorder.records)
