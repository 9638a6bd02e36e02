"""What can be typed: global options, the environment, usage errors. Nothing is run."""

import json
from pathlib import Path
from typing import Any

import pytest

import poolnet_cli.cli
import poolnet_cli.launch
from poolnet_cli.options import Settings
from poolnet_cli.settings import Limits

SECRET = "thzu2kz5hfudletrtktpd5ftwfr466ocllntrnmcjfqs5f67iafa"
INVITE = (
    "poolnet://127.0.0.1:7665/hqiqgkpuxxv3siyelvnazgtxmmhvjthjhiz2qdow5d5uvqz3b7ba/"
    f"krufetlhal5dmxtuvhg2rvak7ukf44hfkblygdnh6kbs6xivm73a#{SECRET}"
)
Calls = list[tuple[Settings, str, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The commands that would have run on a home."""
    seen: Calls = []

    def run_on_home(settings: Settings, name: str, params: dict[str, Any], **options: Any) -> int:
        seen.append((settings, name, params))
        return 0

    monkeypatch.setattr(poolnet_cli.launch, "run_on_home", run_on_home)
    for variable in ("POOLNET_HOME", "POOLNET_JSON", "POOLNET_BIND", "POOLNET_INVITE"):
        monkeypatch.delenv(variable, raising=False)
    return seen


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Run a command line; return its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["poolnet", *arguments])
        return poolnet_cli.cli.run()

    return run


@pytest.mark.parametrize("arguments", [("--home", "/h", "--json", "status"), ("status", "--home", "/h", "--json")])
def test_global_options_stand_before_or_after_the_command(run, calls: Calls, arguments: tuple[str, ...]):
    assert run(*arguments) == 0
    assert (calls[0][0].home, calls[0][0].as_json) == (Path("/h"), True)


def test_what_stands_after_the_command_wins_over_before_and_both_over_the_environment(
    run, calls: Calls, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POOLNET_HOME", "/environment")
    run("status")
    run("--home", "/before", "status")
    run("--home", "/before", "status", "--home", "/after")
    assert [str(settings.home) for settings, _, _ in calls] == ["/environment", "/before", "/after"]


def test_every_option_of_a_command_may_come_from_the_environment(run, calls: Calls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POOLNET_JSON", "1")
    monkeypatch.setenv("POOLNET_BIND", "127.0.0.1:5")
    monkeypatch.setenv("POOLNET_GET_TIMEOUT", "2m")
    monkeypatch.setenv("POOLNET_GET_OUT", "/somewhere")
    assert run("get", "garden", "big") == 0
    settings, _, params = calls[0]
    assert (settings.as_json, settings.bind) == (True, ("127.0.0.1", 5))
    assert (params["timeout_s"], params["out"]) == (120, "/somewhere")


def test_an_invite_comes_from_the_environment_or_standard_input(run, calls: Calls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POOLNET_INVITE", INVITE)
    run("join")
    monkeypatch.setattr(poolnet_cli.cli, "read_first_line", lambda: "from-stdin")
    run("join", "-")
    assert [params["pool"] for _, _, params in calls] == [INVITE, "from-stdin"]


def test_an_invite_that_is_cut_off_is_told_before_anything_is_made(run, calls: Calls, capfd):
    assert run("join", INVITE[:-60]) == 1
    assert "cut off" in capfd.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--home", "", "status"),
        ("status", "--home", ""),
        ("serve", "--data", ""),
        ("offer", "garden", ""),
        ("offer", "garden", "a", ""),
        ("get", "garden", "a", "--out", ""),
        ("save", "garden", "a", ""),
        ("stream", "garden", "", "--name", "x"),
        ("history", "garden", "--export", ""),
        ("demo", ""),
        ("join", ""),
        ("join", "-"),
        ("files", ""),
        ("send", " ", "hi"),
    ],
)
def test_what_an_unset_variable_comes_to_stands_for_nothing(
    run, calls: Calls, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    monkeypatch.setattr(poolnet_cli.cli, "read_first_line", lambda: "")
    assert run(*arguments) == 2
    assert calls == []
    told = capfd.readouterr().err
    assert "is empty" in told or "no invite was given" in told


@pytest.mark.parametrize(
    "arguments",
    [("send", INVITE, "hi"), ("files", INVITE), ("create", "x", "--server", INVITE), ("join", INVITE + "x")],
)
def test_the_secret_of_an_invite_is_never_printed(
    run, calls: Calls, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    assert run(*arguments, "--json") in (1, 2)
    captured = capfd.readouterr()
    assert captured.err
    assert SECRET[:10] not in captured.err + captured.out
    assert calls == []


def test_a_home_is_a_directory(run, calls: Calls, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    assert run("--home", str(tmp_path / "file"), "status") == 2
    assert "is not a directory" in capfd.readouterr().err
    assert calls == []


def test_words_of_a_text_need_no_quotes(run, calls: Calls):
    run("send", "garden", "hello", "there")
    assert calls[0][2]["text"] == "hello there"


def test_a_text_from_standard_input_loses_only_its_last_line_end(run, calls: Calls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(poolnet_cli.cli, "read_all", lambda max_bytes: "zwei\nZeilen ü\n".encode())
    run("send", "garden", "-")
    assert calls[0][2]["text"] == "zwei\nZeilen ü"


def test_standard_input_that_is_no_text_is_refused(run, calls: Calls, monkeypatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(poolnet_cli.cli, "read_all", lambda max_bytes: b"\xff\xfe")
    assert run("send", "garden", "-") == 1
    assert capfd.readouterr().err == (
        "poolnet: standard input is not text in UTF-8; offer it as a file instead\n"
    )  # fmt: skip
    assert calls == []


def test_paths_are_passed_on_absolute(run, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run("offer", "garden", "a", "/b")
    run("get", "garden", "x")
    assert calls[0][2]["paths"] == [str(tmp_path / "a"), "/b"]
    assert calls[1][2]["out"] == str(tmp_path)


def test_a_path_is_told_without_the_way_back_in_it_and_links_before_that_are_followed(
    run, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path / "a")
    run("get", "garden", "x", "--out", "../c/")
    run("get", "garden", "x", "--out", str(tmp_path / "link" / ".." / "c"))
    run("get", "garden", "x", "--out", str(tmp_path / "link"))
    outs = [params["out"] for _, _, params in calls]
    assert outs == [str(tmp_path / "c"), str(tmp_path / "a" / "c"), str(tmp_path / "link")]


def test_what_is_asked_of_a_history_goes_together(run, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POOLNET_HISTORY_LIMIT", "7")  # which is for when it fits
    run("history", "garden", "--search", "two words", "--since", "2026-11-20", "--until", "2026-11-20")
    run("history", "garden", "--export", "talk.md")
    run("history", "garden", "--export", "talk", "--format", "jsonl")
    search, markdown, jsonl = (params for _, _, params in calls)
    assert (search["limit"], search["search"]) == (7, "two words")
    assert search["until_ms"] - search["since_ms"] in range(23 * 3_600_000, 26 * 3_600_000)  # the day is included
    assert (markdown["export"], markdown["format"]) == (str(tmp_path / "talk.md"), "markdown")
    assert (jsonl["export"], jsonl["format"]) == (str(tmp_path / "talk"), "jsonl")


def test_limits_come_from_options_and_the_environment_and_what_is_not_said_is_not(
    run, calls: Calls, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POOLNET_GET_LIMIT_UP", "2M")
    monkeypatch.setenv("POOLNET_JOIN_TCP", "0")
    run("get", "garden", "x", "--limit-down", "none", "--cache", "1G", "--pictures", "0", "--downloads", "3")
    run("join", "garden")
    run("offer", "garden", "x", "--tcp")
    run("files", "garden")
    limits = [settings.limits for settings, _, _ in calls]
    assert limits == [
        Limits(up=2 * 1024**2, down=0, cache=1024**3, pictures=0, downloads=3),
        Limits(tcp=False),
        Limits(tcp=True),
        Limits(),
    ]


def test_a_change_of_a_download_names_it(run, calls: Calls):
    run("downloads", "garden")
    run("downloads", "garden", "--cancel", "big")
    run("downloads", "garden", "--priority", "big", "-3")
    run("downloads", "garden", "--forget")
    asked = [(params["action"], params["file"], params["priority"]) for _, _, params in calls]
    assert asked == [(None, None, None), ("cancel", "big", None), ("priority", "big", -3), ("forget", None, None)]


def test_a_stream_has_the_name_of_its_file_unless_it_is_given_one(run, calls: Calls, tmp_path: Path):
    (tmp_path / "talk.ogg").write_bytes(b"x")
    run("stream", "garden", str(tmp_path / "talk.ogg"))
    run("stream", "garden", "-", "--name", "radio")
    assert [params["name"] for _, _, params in calls] == ["talk.ogg", "radio"]


def test_a_setting_is_told_what_it_is_set_to(run, calls: Calls):
    run("settings")
    run("settings", "limit-up", "500K")
    run("settings", "limit-up", "default")
    run("settings", "tcp", "off")
    asked = [(params["name"], params["is_change"], params["value"]) for _, _, params in calls]
    assert asked == [
        (None, False, None),
        ("limit-up", True, 512_000),
        ("limit-up", True, None),
        ("tcp", True, False),
    ]


def test_a_feed_for_people_knows_the_rows_of_the_screen_and_one_for_programs_has_none(run, calls: Calls):
    run("join", "garden")
    run("join", "garden", "--json")
    assert [params["rows"] for _, _, params in calls] == [20, None]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("send", "garden"),
        ("join",),
        ("invite", "garden", "--uses", "0"),
        ("invite", "garden", "--uses", "99999999999"),
        ("status", "--bind", "127.0.0.1:99999"),
        ("status", "--home", "~nobody-of-that-name"),
        ("invite", "garden", "--expires", "soon"),
        ("serve", "--listen", "host:port"),
        ("create", "x", "--server", "example.org"),
        ("history", "garden", "--limit", "-1"),
        ("demo", "--nodes", "1"),
        ("status", "--nonsense"),
        ("history", "garden", "--since", "soon"),
        ("history", "garden", "--session", "0"),
        ("history", "garden", "--sessions", "--around", "abcd"),
        ("history", "garden", "--around", "abcd", "--since", "2h"),
        ("history", "garden", "--before", "abcd", "--session", "1"),
        ("history", "garden", "--since", "2h", "--until", "3h"),
        ("history", "garden", "--search", "?"),
        ("history", "garden", "--export", "x.txt"),
        ("history", "garden", "--export", "x.md", "--limit", "5"),
        ("history", "garden", "--format", "jsonl"),
        ("retract", "garden"),
        ("retract", "garden", "file", "--message", "abcd"),
        ("keep", "garden", "--for", "0"),
        ("keep", "garden", "--messages", "0"),
        ("keep", "garden", "--everything", "--for", "90d"),
        ("wait", "garden"),
        ("announce", "garden"),
        ("get", "garden"),
        ("get", "garden", "a", "--all"),
        ("get", "garden", "a", "b", "--out", "/nowhere"),
        ("get", "garden", "a", "b", "--only", "x"),
        ("get", "garden", "a", "--limit-down", "fast"),
        ("get", "garden", "a", "--downloads", "0"),
        ("offer", "garden", "a", "b", "--name", "c"),
        ("downloads", "garden", "--pause", "a", "--resume", "b"),
        ("downloads", "garden", "--priority", "a", "high"),
        ("save", "garden", "a"),
        ("stream", "garden"),
        ("stream", "garden", "/nowhere/at/all"),
        ("watch", "garden"),
        ("settings", "nonsense", "1"),
        ("settings", "limit-up", "fast"),
        ("settings", "downloads", "0"),
        ("settings", "tcp", "maybe"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    run, calls: Calls, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    assert run(*arguments, "--json") == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("poolnet: ")
    assert captured.err.count("\n") == 1
    record = json.loads(captured.out)
    assert (record["event"], record["code"]) == ("error", "usage")
    assert record["message"] in captured.err
    assert calls == []


@pytest.mark.parametrize("arguments", [("--help",), ("join", "--help"), ("--version",)])
def test_help_is_no_failure(run, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]):
    assert run(*arguments) == 0
    assert "poolnet" in capfd.readouterr().out
