"""Folders, pictures, streams and downloads, as the commands do them on a fake pool."""

from pathlib import Path

import pytest
import trio
from cli_fakes import ADA, BOB, GARDEN, Recorder, download_info, offer_info, open_desk
from trio.testing import MockClock

from poolnet import (
    DownloadProgress,
    EntryKind,
    FolderEntry,
    LocalError,
    OutputExists,
    SourceUnavailable,
    UnknownFile,
    Unreachable,
    encode_id,
)
from poolnet_cli.commands import contents, downloads, fetching, offers, streams
from poolnet_cli.commands.join import join
from poolnet_cli.ink import Ink
from poolnet_cli.outcome import CommandFailed
from poolnet_cli.render import renderer_for

# --- offers -------------------------------------------------------------------------------------------------------


async def test_a_directory_is_a_folder_and_a_picture_is_shown_if_asked_for(jumping_clock: MockClock, tmp_path: Path):
    (tmp_path / "trip").mkdir()
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        trip, picture = str(tmp_path / "trip"), str(tmp_path / "a.png")
        await offers.offer(desk.call(recorder, paths=[trip], name="Trip", exclude=["*.tmp"], hidden=True))
        await offers.offer(desk.call(recorder, paths=[picture], media=True))
        assert desk.pool.files.changes == [("folder", "trip", ("*.tmp",), True), ("media", "a.png")]
    assert [(record["name"], record["kind"], record["file_count"]) for record in recorder.records] == [
        ("Trip", "folder", 3),
        ("a.png", "media", 1),
    ]


async def test_options_that_are_not_for_what_is_offered_are_refused_before_anything_is_entered(
    jumping_clock: MockClock, tmp_path: Path
):
    (tmp_path / "file").write_bytes(b"x")
    async with open_desk() as desk:
        for path, options in ((tmp_path, {"media": True}), (tmp_path / "file", {"exclude": ["x"]})):
            with pytest.raises(SourceUnavailable, match=str(path)):
                await offers.offer(desk.call(Recorder(), paths=[str(path)], **options))
        assert desk.node.joins == 0


async def test_a_typed_offer_takes_the_same_options(jumping_clock: MockClock, tmp_path: Path):
    (tmp_path / "my trip").mkdir()
    recorder = Recorder()
    async with open_desk() as desk:
        lines = ["/offer --name Trip --exclude '*.tmp' my trip", "/quit"]
        await join(desk.call(recorder, lines, cwd=str(tmp_path)))
        assert desk.pool.files.changes == [("folder", "my trip", ("*.tmp",), False)]
        assert desk.pool.files.known[0].name == "Trip"


# --- files --in ---------------------------------------------------------------------------------------------------


async def test_what_is_in_a_folder_is_listed_with_sizes(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        files = desk.pool.files
        files.known += [offer_info(1, "trip", kind="folder"), offer_info(2, "letter")]
        files.entries = (
            FolderEntry(path="a/b.jpg", size_bytes=2048, file_id=files.known[1].file_id),
            FolderEntry(path="run", size_bytes=1, file_id=files.known[1].file_id, kind=EntryKind.EXECUTABLE),
            FolderEntry(path="z", size_bytes=0, file_id=files.known[1].file_id, kind=EntryKind.EMPTY_DIRECTORY),
        )
        with pytest.raises(LocalError, match="letter is no folder"):
            await contents.contents(desk.call(recorder, folder="letter"))
        began_at = trio.current_time()
        with pytest.raises(Unreachable, match="nobody who has trip"):
            await contents.contents(desk.call(recorder, folder="trip"))
        assert trio.current_time() - began_at == pytest.approx(30)
        files.may_complete.set()
        await contents.contents(desk.call(recorder, folder="trip"))
    assert recorder.records == [
        {"path": "a/b.jpg", "size": 2048, "kind": "file"},
        {"path": "run", "size": 1, "kind": "executable"},
        {"path": "z", "size": 0, "kind": "directory"},
    ]
    assert recorder.notes[-1].startswith("2 files; ")
    renderer = renderer_for("contents", Ink(is_terminal=False))
    assert [renderer.record(record) for record in recorder.records] == [
        "   2.0 KiB  a/b.jpg\n",
        "       1 B  run\n",
        "         -  z\\x1b/\n",
    ]


# --- get ----------------------------------------------------------------------------------------------------------


async def test_several_files_are_fetched_at_once(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk, trio.open_nursery() as nursery:
        desk.pool.files.known += [offer_info(n, name) for n, name in enumerate(("a", "b", "c"))]
        nursery.start_soon(fetching.get, desk.call(recorder, files=["a", "c", "a"], out=str(tmp_path)))
        await trio.sleep(1)
        assert [(record["name"], record["bytes"]) for record in recorder.progressed] == [("a", 0), ("c", 0)]
        desk.pool.files.may_complete.set()
    assert {record["file_id"][:2] for record in recorder.events("complete")} == {
        encode_id(offer_info(n, "").file_id)[:2] for n in (0, 2)
    }
    assert len(recorder.records) == 2


async def test_all_is_what_is_not_here(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.is_linked.set()
        desk.pool.files.may_complete.set()
        desk.pool.files.known += [
            offer_info(1, "new"),
            offer_info(2, "here", state="complete"),
            offer_info(3, "mine", state="seeding"),
            offer_info(4, "radio", kind="stream"),
            offer_info(5, "half", state="paused", done_bytes=50),
        ]
        await fetching.get(desk.call(recorder, files=[], all=True, out=str(tmp_path)))
        assert {file_id[0] for file_id, _ in desk.pool.files.downloaded} == {1, 5}
        desk.pool.files.known = desk.pool.files.known[1:3]
        await fetching.get(desk.call(recorder, files=[], all=True, out=str(tmp_path)))
    assert recorder.notes[-1] == "everything that is offered is here"


async def test_what_is_offered_as_several_kinds_is_fetched_as_the_one_that_is_said(
    jumping_clock: MockClock, tmp_path: Path
):
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.known += [offer_info(1, "trip", BOB), offer_info(1, "trip", ADA, kind="folder")]
        desk.pool.files.may_complete.set()
        with pytest.raises(UnknownFile, match=r"as a file by bob and as a folder by ada; say which by .* --kind"):
            await fetching.get(desk.call(recorder, files=["trip"], out=str(tmp_path)))
        await fetching.get(desk.call(recorder, files=["trip"], kind="folder", out=str(tmp_path)))
        await fetching.get(desk.call(recorder, files=["trip"], kind="file", background=True, out=str(tmp_path)))
        assert desk.pool.files.kinds == ["folder", "file"]
        desk.pool.is_synced.set()
        await fetching.get(desk.call(recorder, files=[], all=True, out=str(tmp_path)))
        assert recorder.notes[-2].startswith("left out: ")
        await fetching.get(desk.call(recorder, files=[], all=True, kind="folder", out=str(tmp_path)))
        assert desk.pool.files.kinds == ["folder", "file", "folder"]


async def test_a_typed_get_of_what_is_offered_as_several_kinds_says_so(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.known += [offer_info(1, "trip", BOB), offer_info(1, "trip", ADA, kind="folder")]
        await join(desk.call(recorder, ["/get trip", "/quit"], cwd=str(tmp_path)))
        assert desk.pool.files.downloaded == []
    assert recorder.events("error")[0]["code"] == "unknown_file"


async def test_of_several_one_that_fails_is_told_and_the_others_are_fetched(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.known += [offer_info(n, name) for n, name in enumerate(("a", "b"))]
        desk.pool.files.failing["a"] = OutputExists("a is there")
        desk.pool.files.may_complete.set()
        with pytest.raises(CommandFailed, match="1 of 2 files were not fetched: a;") as caught:
            await fetching.get(desk.call(recorder, files=["a", "b"], out=str(tmp_path)))
    assert (caught.value.outcome.exit_code, caught.value.outcome.code) == (1, "output_exists")
    (failed,) = recorder.events("download_failed")
    assert (failed["code"], failed["reason"]) == ("output_exists", "a is there")
    assert len(recorder.events("complete")) == 1


async def test_those_that_wait_for_a_holder_are_given_up_only_when_the_others_are_done(
    jumping_clock: MockClock, tmp_path: Path
):
    recorder = Recorder()
    async with open_desk() as desk:
        moving, absent = offer_info(1, "moving"), offer_info(2, "absent")
        desk.pool.files.known += [moving, absent]
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_failure, desk.call(recorder, files=["moving", "absent"], out=str(tmp_path)))
            for second in range(100):
                await trio.sleep(1)
                desk.pool.events.publish(
                    DownloadProgress(file_id=moving.file_id, done_bytes=second, size_bytes=100, rate_bytes_per_s=1.0)
                )
            assert recorder.events("download_failed") == []
        took_s = trio.current_time() - began_at
    assert 130 <= took_s < 132
    assert recorder.events("download_failed")[0]["code"] == "unreachable"


async def expect_failure(call) -> None:
    with trio.move_on_after(131), pytest.raises(CommandFailed):
        await fetching.get(call)


async def test_a_single_file_that_fails_says_why_itself(jumping_clock: MockClock, tmp_path: Path):
    async with open_desk() as desk:
        desk.pool.files.known.append(offer_info(1, "a"))
        desk.pool.files.failing["a"] = UnknownFile("withdrawn")
        with pytest.raises(UnknownFile, match="withdrawn"):
            await fetching.get(desk.call(Recorder(), files=["a"], out=str(tmp_path)))


async def test_in_the_background_it_returns_at_once_and_says_where_it_will_be(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.known.append(offer_info(1, "a"))
        await fetching.get(desk.call(recorder, files=["a"], out=str(tmp_path), background=True, priority=3))
        assert "while one does" in recorder.notes[0]
        async with desk.session.use_pool(GARDEN):
            await fetching.get(desk.call(recorder, files=["a"], out=str(tmp_path), background=True))
    assert len(recorder.notes) == 1
    assert (recorder.records[0]["path"], recorder.records[0]["priority"]) == (str(tmp_path / "a"), 3)
    assert renderer_for("get", Ink(is_terminal=False)).record(recorder.records[0]) == f"{tmp_path / 'a'}\n"


async def test_a_picture_is_saved_where_it_is_wanted(jumping_clock: MockClock, tmp_path: Path):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.known.append(offer_info(1, "a.png", ADA, kind="media"))
        await fetching.save(desk.call(recorder, file="a.png", out=str(tmp_path / "b.png")))
        assert desk.pool.files.changes == [("save", offer_info(1, "").file_id, tmp_path / "b.png")]
        (tmp_path / "there").write_text("x")
        with pytest.raises(OutputExists):
            await fetching.save(desk.call(recorder, file="a.png", out=str(tmp_path / "there")))
        assert desk.node.joins == 0
    assert [record["path"] for record in recorder.records] == [str(tmp_path / "b.png")]


# --- downloads ----------------------------------------------------------------------------------------------------

NOTHING = {"action": None, "file": None, "priority": None}


async def test_downloads_are_listed_and_one_is_changed_by_its_name(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.infos = [
            download_info(1, "big", state="complete", ended_ms=2000),
            download_info(2, "big", rate_bytes_per_s=10.0, sources=2, eta_s=7.5),
            download_info(3, "other", state="failed", reason="no room", code="disk_full"),
        ]
        await downloads.downloads(desk.call(recorder, **NOTHING))
        assert [record["state"] for record in recorder.records] == ["complete", "queued", "failed"]
        assert recorder.records[1]["reason"] == "it waits for the next join"
        recorder.records.clear()
        async with desk.session.use_pool(GARDEN):
            await downloads.downloads(desk.call(recorder, **NOTHING))
        assert [record["state"] for record in recorder.records] == ["complete", "running", "failed"]
        for action in ("pause", "resume", "cancel"):
            await downloads.downloads(desk.call(recorder, **{**NOTHING, "action": action, "file": "big"}))
        chosen = {"action": "priority", "file": "other", "priority": 5}
        await downloads.downloads(desk.call(recorder, **chosen))
        running, other = download_info(2, "").file_id, download_info(3, "").file_id
        assert desk.pool.files.changes == [
            *((action, running) for action in ("pause", "resume", "cancel")),
            ("prioritise", other),
        ]
    changed = recorder.records[3:]
    assert [record["state"] for record in changed] == ["paused", "queued", "failed", "failed"]
    assert changed[3]["priority"] == 5
    assert recorder.notes == ["no join runs in this home; it goes on while one does"]


async def test_a_download_that_is_not_there_or_not_clear_is_told(jumping_clock: MockClock):
    async with open_desk() as desk:
        desk.pool.files.infos = [download_info(1, "big"), download_info(2, "big")]
        for name, problem in (("nope", "no download 'nope'"), ("big", "2 are meant by 'big'")):
            with pytest.raises(UnknownFile, match=problem):
                await downloads.downloads(desk.call(Recorder(), **{**NOTHING, "action": "pause", "file": name}))
        assert desk.pool.files.changes == []


async def test_what_has_ended_is_forgotten(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        desk.pool.files.infos = [download_info(1, "done", state="complete"), download_info(2, "going on")]
        await downloads.downloads(desk.call(recorder, **{**NOTHING, "action": "forget"}))
        assert [info.name for info in desk.pool.files.infos] == ["going on"]
    assert recorder.records == [{"event": "forgotten", "downloads": 1}]
    table = renderer_for("downloads", Ink(is_terminal=False))
    assert table.record(recorder.records[0]) + table.finish() == ""


async def test_the_list_of_downloads_says_how_each_stands(jumping_clock: MockClock):
    table = renderer_for("downloads", Ink(is_terminal=False))
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.infos = [
            download_info(1, "a", rate_bytes_per_s=2048.0, sources=2, eta_s=7.5),
            download_info(2, "b", state="paused", reason="the disk is full"),
        ]
        await downloads.downloads(desk.call(recorder, **NOTHING))
    for record in recorder.records:
        table.record(record)
    _, running, paused = (" ".join(line.split()[1:]) for line in table.finish().splitlines())
    assert running == "a 25 % of 100 B running 2.0 KiB/s 2 7.5 s 0 /x/a"
    assert paused == "b 25 % of 100 B paused: the disk is full - - - 0 /x/b"


# --- streams ------------------------------------------------------------------------------------------------------


async def test_a_stream_is_what_goes_in_until_its_end(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        await streams.stream(desk.call(recorder, data=[b"one\0", b"two\xff"], name="radio"))
        stream = desk.pool.files.stream
        assert (stream.sent, stream.is_finished) == ([b"one\0", b"two\xff"], True)
    assert [record["event"] for record in recorder.records] == ["streaming", "stream_ended"]
    assert recorder.records[1]["bytes"] == 8


async def test_a_stream_that_is_interrupted_is_broken_off(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        with trio.move_on_after(2.5):
            await streams.stream(desk.call(recorder, data=[b"x"] * 10, name="radio"))
        assert desk.pool.files.stream.was_aborted
    assert [record["event"] for record in recorder.records] == ["streaming"]


async def test_without_a_join_a_stream_that_has_ended_is_given_to_others_until_interrupted(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk:
        with trio.move_on_after(1000) as scope:
            await streams.stream(desk.call(recorder, data=[b"x"], name="radio"))
        assert scope.cancelled_caught
        assert desk.pool.files.stream.is_finished
    assert "Ctrl-C ends it" in recorder.notes[0]


async def test_a_watched_stream_comes_out_as_it_is_and_says_what_was_skipped(jumping_clock: MockClock):
    recorder = Recorder()
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.known += [offer_info(1, "radio"), offer_info(2, "radio", kind="stream")]
        stream = desk.pool.files.stream
        stream.sent, stream.skipped_bytes = [b"\0\xff", b"\n"], 2048
        await streams.watch(desk.call(recorder, stream="radio", from_start=True))
        assert desk.pool.files.changes == [("watch", offer_info(2, "").file_id, True)]
    assert recorder.written == b"\0\xff\n"
    assert recorder.notes == ["2.0 KiB were skipped: they did not come in time"]
    assert (recorder.records[-1]["bytes"], recorder.records[-1]["skipped"]) == (3, 2048)


@pytest.mark.parametrize(("name", "problem"), [("talk", "poolnet get fetches it"), ("nope", "no stream 'nope'")])
async def test_what_is_no_stream_is_told(jumping_clock: MockClock, name: str, problem: str):
    async with open_desk() as desk, desk.session.use_pool(GARDEN):
        desk.pool.files.known.append(offer_info(1, "talk"))
        with pytest.raises(UnknownFile, match=problem):
            await streams.watch(desk.call(Recorder(), stream=name, from_start=False))


async def test_to_watch_where_nobody_is_ends_in_time(jumping_clock: MockClock):
    async with open_desk() as desk:
        with pytest.raises(Unreachable):
            await streams.watch(desk.call(Recorder(), stream="radio", from_start=False))
