"""Settings of a home, and what they do to the pools of a process."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cli_fakes import GARDEN, Recorder, open_desk
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from poolnet import Node, StoreError, open_node
from poolnet.limits import DEFAULT_CACHE_SIZE, DEFAULT_CONCURRENT_DOWNLOADS, MEDIA_CACHE_SIZE
from poolnet_cli.commands import COMMANDS
from poolnet_cli.commands.settings import settings
from poolnet_cli.ink import Ink
from poolnet_cli.lines import Input
from poolnet_cli.render import renderer_for
from poolnet_cli.runner import Runner
from poolnet_cli.session import open_session
from poolnet_cli.settings import (
    DEFAULTS,
    FILE_NAME,
    MAX_DOWNLOADS,
    NOTHING_SAID,
    SETTINGS,
    Limits,
    read_settings,
    write_setting,
)

#: What a hand, or another program, may have written.
JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.none())


def test_what_is_set_is_there_again_and_default_forgets_it(tmp_path: Path):
    assert read_settings(tmp_path).limits == NOTHING_SAID
    write_setting(tmp_path, "limit-up", 512_000)
    write_setting(tmp_path, "tcp", False)
    assert read_settings(tmp_path).limits == Limits(up=512_000, tcp=False)
    write_setting(tmp_path, "limit-up", None)
    assert read_settings(tmp_path).limits == Limits(tcp=False)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_what_a_newer_version_set_stays(tmp_path: Path):
    (tmp_path / FILE_NAME).write_text('{"theme": "dark", "downloads": 3}')
    write_setting(tmp_path, "cache", 0)
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"theme": "dark", "downloads": 3, "cache": 0}
    assert read_settings(tmp_path).limits == Limits(downloads=3, cache=0)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_file_that_is_damaged_is_told_and_kept(tmp_path: Path, content: str):
    (tmp_path / FILE_NAME).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=FILE_NAME):
        read_settings(tmp_path)
    assert (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("downloads", "three"), ("downloads", 0), ("downloads", MAX_DOWNLOADS + 1), ("downloads", True)],
        *[("limit-up", -1), ("limit-down", 2**60), ("limit-up", 1.5), ("cache", [1]), ("pictures", -1), ("tcp", 1)],
    ],
)
def test_a_wrong_value_is_left_out_and_told_and_can_be_set_again(tmp_path: Path, name: str, value: object):
    kept = {"limit-down": 7} if name != "limit-down" else {"limit-up": 7}
    (tmp_path / FILE_NAME).write_text(json.dumps({name: value, **kept}))
    stored = read_settings(tmp_path)
    assert stored.limits == (Limits(down=7) if name != "limit-down" else Limits(up=7))
    (told,) = stored.wrong
    assert FILE_NAME in told
    assert f"poolnet settings {name}" in told
    write_setting(tmp_path, name, None)
    assert read_settings(tmp_path).wrong == ()


@given(st.dictionaries(st.sampled_from(list(SETTINGS)), JSON_VALUES))
def test_whatever_stands_in_the_file_is_used_if_it_can_be_and_told_if_not(values: dict[str, Any]):
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / FILE_NAME).write_text(json.dumps(values))
        stored = read_settings(Path(directory))
    used = {name for name, setting in SETTINGS.items() if getattr(stored.limits, setting.field) is not None}
    assert len(used) + len(stored.wrong) == sum(value is not None for value in values.values())
    for name in used:
        assert getattr(stored.limits, SETTINGS[name].field) is values[name] or values[name] == getattr(
            stored.limits, SETTINGS[name].field
        )


@pytest.mark.parametrize("name", list(SETTINGS))
def test_what_can_be_typed_can_be_stored(tmp_path: Path, name: str):
    for text in ("0", "1", "5", str(MAX_DOWNLOADS), "1024T", "none", "on", "off"):
        with contextlib.suppress(ValueError):
            value = SETTINGS[name].parse(text)
            write_setting(tmp_path, name, value)
            stored = read_settings(tmp_path)
            assert getattr(stored.limits, SETTINGS[name].field) == value
            assert stored.wrong == ()


async def test_a_home_with_a_wrong_setting_opens_and_says_so_once(tmp_path: Path):
    (tmp_path / FILE_NAME).write_text('{"downloads": 0, "limit-up": 9}')
    runner = Runner(commands=COMMANDS, home=tmp_path, bind=("127.0.0.1", 0))
    listing, setting = Recorder(), Recorder()
    await runner.run("settings", {"name": None, "is_change": False, "value": None}, listing, Input)
    assert [note for note in listing.notes if "downloads" in note] == listing.notes
    assert len(listing.notes) == 1
    values = {record["name"]: record["value"] for record in listing.records}
    assert (values["downloads"], values["limit-up"]) == (DEFAULT_CONCURRENT_DOWNLOADS, 9)
    await runner.run("settings", {"name": "downloads", "is_change": True, "value": 3}, setting, Input)
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"downloads": 3, "limit-up": 9}


async def test_what_counts_when_a_home_is_opened_is_what_was_set_or_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}

    def note(home: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Node]:
        asked.update(options)
        return open_node(home, **options)

    monkeypatch.setattr("poolnet_cli.session.open_node", note)
    write_setting(tmp_path, "pictures", 0)
    write_setting(tmp_path, "cache", 7)
    async with open_session(tmp_path, ("127.0.0.1", 0), Limits(cache=9, tcp=False)):
        pass
    assert (asked["media_cache_bytes"], asked["cache_size_bytes"], asked["tcp"]) == (0, 9, False)


async def test_where_a_join_runs_a_wrong_setting_is_told_to_who_lists_them(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        (desk.node.home / FILE_NAME).write_text('{"downloads": 0}')
        await settings(desk.call(recorder, name=None, is_change=False, value=None))
    assert len(recorder.notes) == 1
    assert "downloads" in recorder.notes[0]


LIMITS = st.builds(
    Limits,
    up=st.none() | st.integers(0, 9),
    down=st.none() | st.integers(0, 9),
    downloads=st.none() | st.integers(1, 9),
    cache=st.none() | st.integers(0, 9),
    pictures=st.none() | st.integers(0, 9),
    tcp=st.none() | st.booleans(),
)


@given(LIMITS, LIMITS)
def test_options_win_over_settings_and_those_over_defaults(options: Limits, stored: Limits):
    result = options.over(stored).over(DEFAULTS)
    for field in ("up", "down", "downloads", "cache", "pictures", "tcp"):
        values = [getattr(limits, field) for limits in (options, stored, DEFAULTS)]
        assert getattr(result, field) == next(value for value in values if value is not None)


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("limit-up", "2M", 2 * 1024**2, "2.0 MiB/s"),
        ("limit-down", "none", 0, "none"),
        ("downloads", "3", 3, "3"),
        ("cache", "0", 0, "0 B"),
        ("pictures", "1G", 1024**3, "1.0 GiB"),
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
        desk.session.take_settings(read_settings(desk.node.home).limits)
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
        "pictures": MEDIA_CACHE_SIZE,
        "tcp": True,
    }
    assert not any(record["is_set"] for record in recorder.records)
