"""What people get wrong about files, folders, streams and downloads: each is told in a sentence that helps."""

import os
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


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_only_what_begins_as_a_picture_is_shown(tmp_path: Path) -> None:
    as_picture = offers.OfferOptions(media=True)
    for n, head in enumerate((b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x04\0\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif")):
        offers.check_source(written(tmp_path / f"{n}", head), as_picture)
    for name, head in (("photos.zip", b"PK\x03\x04"), ("film.mp4", b"\0\0\0\x1cftypmp42"), ("empty.jpg", b"")):
        with pytest.raises(SourceUnavailable, match=rf"{name} is no picture"):
            offers.check_source(written(tmp_path / name, head), as_picture)


def test_what_the_system_makes_up_as_it_is_read_is_not_offered_as_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="has no size"):
        offers.check_source("/proc/self/status")
    offers.check_source(written(tmp_path / "empty", b""))


def test_what_has_no_name_that_others_could_see_needs_one(tmp_path: Path) -> None:
    bad = written(tmp_path / os.fsdecode(b"bad\xff.txt"), b"x")
    with pytest.raises(SourceUnavailable, match="not UTF-8; say by --name"):
        offers.check_source(bad)
    offers.check_source(bad, offers.OfferOptions(name="bad.txt"))
    with pytest.raises(SourceUnavailable, match="--name"):
        offers.check_source("/")
    offers.check_source("/", offers.OfferOptions(name="all"))


async def test_a_folder_without_files_is_offered_and_that_is_said(jumping_clock: MockClock, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.folder_files = 0
        await offers.offer(desk.call(recorder, paths=[str(tmp_path / "links")]))
    assert len(recorder.records) == 1
    assert recorder.notes == [
        "links has no files to offer; links, special files and what begins with a dot are left out"
    ]


async def test_of_a_download_that_was_cancelled_it_is_said_that_it_is(jumping_clock: MockClock) -> None:
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.infos.append(download_info(1, "big.bin"))
        await downloads.downloads(desk.call(Recorder(), action="cancel", file="big.bin", priority=None))
        with pytest.raises(UnknownFile, match="is cancelled already"):
            await downloads.downloads(desk.call(Recorder(), action="cancel", file="big.bin", priority=None))
        await downloads.downloads(desk.call(Recorder(), action="resume", file="big.bin", priority=None))
        assert desk.pool.files.infos[0].state == "queued"


def test_a_number_below_zero_is_a_wrong_value_not_an_unknown_option(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--home", str(tmp_path / "home"), "settings", "limit-up", "-5") == 2
    assert "'-5' is not a size" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("status",), ("files", "garden"), ("settings",), ("join", "garden"), ("leave", "x")]
)
def test_what_only_reads_or_names_a_pool_makes_no_home(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code = run(monkeypatch, "--home", str(tmp_path / "home"), *arguments)
    assert code == (1 if len(arguments) > 1 else 0)
    assert not (tmp_path / "home").exists()
    if code:
        assert f"there is no pool '{arguments[1]}'" in capfd.readouterr().err


def test_an_address_that_cannot_be_is_wrong_usage_however_it_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--home", str(tmp_path / "home"), "--bind", "nonsense", "create", "garden") == 2
    assert "is not an IP address" in capfd.readouterr().err
