"""Real processes: several files at once, folders, downloads in the background, streams, limits."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cli_harness import Cli, open_cli

pytestmark = pytest.mark.timeout(180)


def make_file(path: Path, size: int) -> bytes:
    """Write noise to a file; return it."""
    content = os.urandom(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


class Piped:
    """A running ``poolnet`` whose input and output are bytes."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    async def read_some(self) -> bytes:
        return bytes(await self.stdout.receive_some())

    async def read_all(self) -> bytes:
        return b"".join([bytes(data) async for data in self.stdout])

    async def aclose(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        await self.process.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            await pipe.aclose()


@asynccontextmanager
async def piped(cli: Cli, name: str, *arguments: str) -> AsyncIterator[Piped]:
    """Run ``poolnet ARGUMENTS`` in the home of that name; it has ended after the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command, environment = cli._command(name, arguments), cli._environment(None)
    running = Piped(await trio.lowlevel.open_process(command, env=environment, **pipes))  # type: ignore[arg-type]
    try:
        yield running
    finally:
        with trio.CancelScope(shield=True):  # bounded: it is killed
            await running.aclose()


async def test_everything_that_is_offered_is_fetched_by_one_command(tmp_path: Path):
    contents = {name: make_file(tmp_path / "source" / name, 700_000) for name in ("a.bin", "b.bin")}
    photo = make_file(tmp_path / "source" / "trip" / "photos" / "1.jpg", 300_000)
    make_file(tmp_path / "source" / "trip" / "x.tmp", 10)
    out = tmp_path / "out"
    out.mkdir()
    async with open_cli(tmp_path) as cli:
        _, bob = await cli.pool_of("ada", "bob")
        source = tmp_path / "source"
        offered = await cli.run("ada", "offer", "garden", str(source / "a.bin"), str(source / "b.bin"))
        folder = await cli.run("ada", "offer", "garden", str(source / "trip"), "--exclude", "*.tmp")
        assert [record["kind"] for record in offered.records + folder.records] == ["file", "file", "folder"], folder
        await bob.event("offer", name="trip")
        done = await cli.run("bob", "get", "garden", "--all", "--out", str(out))
        assert done.code == 0, done
        assert sum(record["event"] == "complete" for record in done.records) == 3
        assert all("sources" in record for record in done.records if record["event"] == "progress")
        listed = await cli.run("bob", "files", "garden", "--in", "trip", as_json=False)
        assert (listed.code, listed.stdout) == (0, " 293.0 KiB  photos/1.jpg\n"), listed
        nothing = await cli.run("bob", "get", "garden", "trip", "--only", "*.png", "--out", str(tmp_path / "png"))
        assert (nothing.code, nothing.records[-1]["code"]) == (1, "unknown_file")
        assert "at its top there is 'photos/'" in nothing.stderr
        some = await cli.run("bob", "get", "garden", "trip", "--only", "*.jpg", "--out", str(tmp_path / "jpg"))
        assert some.code == 0, some
        assert (tmp_path / "jpg" / "photos" / "1.jpg").read_bytes() == photo
        again = await cli.run("bob", "get", "garden", "--all", "--out", str(out))
        assert (again.code, again.records) == (0, [])
    assert {name: (out / name).read_bytes() for name in contents} == contents
    assert [path.relative_to(out).as_posix() for path in out.glob("trip/**/*.*")] == ["trip/photos/1.jpg"]
    assert (out / "trip" / "photos" / "1.jpg").read_bytes() == photo


async def test_a_download_in_the_background_is_paused_and_goes_on_with_the_next_join(tmp_path: Path):
    content = make_file(tmp_path / "big.bin", 2_000_000)
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        await cli.run("ada", "offer", "garden", str(tmp_path / "big.bin"))
        await bob.event("offer", name="big.bin")
        assert await ada.end() == 0  # so that nothing comes
        out = tmp_path / "copy.bin"
        begun = await cli.run("bob", "get", "garden", "big.bin", "--out", str(out), "--background", as_json=False)
        assert (begun.code, begun.stdout) == (0, f"{out}\n"), begun
        assert (await cli.run("bob", "downloads", "garden", "--pause", "big.bin")).records[0]["state"] == "paused"
        assert await bob.end() == 0
        (stored,) = (await cli.run("bob", "downloads", "garden")).records
        assert (stored["state"], stored["path"]) == ("paused", str(out))
        resumed = await cli.run("bob", "downloads", "garden", "--resume", stored["file_id"][:8])
        assert resumed.code == 0, resumed
        await cli.join("ada", "garden")
        bob = await cli.join("bob", "garden")
        await bob.event("complete", path=str(out))
        (done,) = (await cli.run("bob", "downloads", "garden")).records
        assert (done["state"], done["bytes"]) == ("complete", len(content))
        assert (await cli.run("bob", "downloads", "garden", "--forget")).records[0]["downloads"] == 1
        assert (await cli.run("bob", "downloads", "garden")).records == []
    assert out.read_bytes() == content


async def test_a_stream_comes_out_as_it_went_in_through_the_joins_of_both_homes(tmp_path: Path):
    content = os.urandom(2_000_000)
    async with open_cli(tmp_path) as cli:
        _, bob = await cli.pool_of("ada", "bob")
        async with piped(cli, "ada", "stream", "garden", "--name", "radio") as writer:
            await writer.stdin.send_all(content[:500_000])
            offered = await bob.event("offer", name="radio", kind="stream")
            async with piped(cli, "bob", "watch", "garden", "radio", "--from-start") as watcher:
                first = await watcher.read_some()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(expect_rest, watcher, content[len(first) :])
                    await writer.stdin.send_all(content[500_000:])
                    await writer.stdin.aclose()
                    assert await writer.process.wait() == 0
            assert await writer.read_all() == f"{offered['file_id']}  radio\n".encode()
        await bob.event("offer", name="radio", kind="file", size=len(content))
        async with piped(cli, "bob", "watch", "garden", offered["file_id"], "--from-start") as later:
            await expect_rest(later, content)


async def expect_rest(watcher: Piped, content: bytes) -> None:
    assert await watcher.read_all() == content
    assert await watcher.process.wait() == 0


async def test_a_stream_whose_process_is_killed_is_broken_off(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, bob = await cli.pool_of("ada", "bob")
        async with piped(cli, "ada", "stream", "garden", "--name", "radio") as writer:
            await writer.stdin.send_all(bytes(500_000))
            await bob.event("offer", name="radio")
            async with piped(cli, "bob", "watch", "garden", "radio", "--from-start") as watcher:
                await watcher.read_some()
                writer.process.kill()
                await watcher.read_all()
                assert b"broke off" in bytes(await watcher.stderr.receive_some())
                assert await watcher.process.wait() == 1


async def test_a_watch_whose_reader_ends_is_no_failure_and_an_interrupted_stream_is(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, bob = await cli.pool_of("ada", "bob")
        async with piped(cli, "ada", "stream", "garden", "--name", "radio") as writer:
            await writer.stdin.send_all(bytes(500_000))
            await bob.event("offer", name="radio")
            async with piped(cli, "bob", "watch", "garden", "radio", "--from-start") as watcher:
                await watcher.read_some()
                await watcher.stdout.aclose()
                await writer.stdin.send_all(bytes(2_000_000))
                assert await watcher.process.wait() == 0
                assert await watcher.stderr.receive_some() == b""
            writer.process.send_signal(signal.SIGTERM)
            assert await writer.process.wait() == 130


async def test_a_setting_slows_down_a_join_that_runs_at_once(tmp_path: Path):
    """Slowed down to hours, a download is not there after a moment, and is once the limit is gone."""
    make_file(tmp_path / "big.bin", 20_000_000)
    async with open_cli(tmp_path) as cli:
        _, bob = await cli.pool_of("ada", "bob")
        await cli.run("ada", "offer", "garden", str(tmp_path / "big.bin"))
        await bob.event("offer", name="big.bin")
        limited = await cli.run("bob", "settings", "limit-down", "1K")
        assert limited.records == [{"name": "limit-down", "value": 1024, "is_set": True}]
        target = tmp_path / "x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_get_whole, cli, target)
            await trio.sleep(2)
            assert not target.exists()
            await cli.run("bob", "settings", "limit-down", "default")
        assert target.read_bytes() == (tmp_path / "big.bin").read_bytes()


async def _get_whole(cli: Cli, target: Path) -> None:
    done = await cli.run("bob", "get", "garden", "big.bin", "--out", str(target), "--limit-down", "9M")
    assert done.code == 0, done
    assert "poolnet settings changes them" in done.stderr
