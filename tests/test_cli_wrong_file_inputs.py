"""What people get wrong about files, folders, streams and downloads: each is told in a sentence that helps."""

from pathlib import Path

import pytest
from cli_fakes import GARDEN, Recorder, download_info, offer_info, open_desk
from trio.testing import MockClock

from poolnet import LocalError, SourceUnavailable, UnknownFile
from poolnet_cli import cli as command_line
from poolnet_cli.commands import downloads, fetching, offers


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["poolnet", *arguments])
    return command_line.run()


async def test_of_several_paths_the_options_for_folders_are_about_the_folders(
    jumping_clock: MockClock, tmp_path: Path
) -> None:
    (tmp_path / "trip").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"x")
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        paths = [str(tmp_path / name) for name in ("one", "trip")]
        await offers.offer(desk.call(Recorder(), paths=paths, exclude=["*.tmp"]))
        assert [info.name for info in desk.pool.files.known] == ["one", "trip"]
        assert ("folder", "trip", ("*.tmp",), False) in desk.pool.files.changes
        with pytest.raises(SourceUnavailable, match="is not a folder"):
            await offers.offer(desk.call(Recorder(), paths=[paths[0], str(tmp_path / "two")], exclude=["*.tmp"]))


async def test_who_wants_to_get_a_stream_is_told_what_reads_it(jumping_clock: MockClock, tmp_path: Path) -> None:
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.known.append(offer_info(1, "radio", kind="stream"))
        with pytest.raises(LocalError, match="poolnet watch"):
            await fetching.get(desk.call(Recorder(), files=["radio"], out=str(tmp_path)))
        assert desk.pool.files.downloaded == []


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "priority"])
async def test_of_a_download_that_is_complete_it_is_said_that_it_is(jumping_clock: MockClock, action: str) -> None:
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.infos.append(download_info(1, "big.bin", state="complete"))
        with pytest.raises(UnknownFile, match="complete"):
            await downloads.downloads(desk.call(Recorder(), action=action, file="big.bin", priority=1))


def test_a_folder_cannot_be_streamed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--home", str(tmp_path / "home"), "stream", "garden", str(tmp_path)) == 2
    assert "poolnet offer takes those" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [("--pause",), ("--priority", "x"), ("--nothing",)])
def test_every_wrong_usage_is_told_in_the_same_form(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, "downloads", "garden", *arguments) == 2
    told = capfd.readouterr().err
    assert told.startswith("poolnet: ")
    assert told.endswith("--help shows what can be typed)\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("offer", "garden", "~nobody-of-that-name/x"),
        ("get", "garden", "x", "--out", "~nobody-of-that-name/x"),
        ("get", "garden", "x", "y", "--out", "~nobody-of-that-name/x"),
        ("get", "garden", "x", "y", "--out", "z" * 300),
        ("save", "garden", "x", "~nobody-of-that-name/x"),
        ("stream", "garden", "~nobody-of-that-name/x"),
        ("stream", "garden", "z" * 300),
    ],
)
def test_a_path_that_cannot_be_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "--home", str(tmp_path / "home"), *arguments) == 2
    told = capfd.readouterr().err
    assert arguments[-1] in told
    assert "bug" not in told
