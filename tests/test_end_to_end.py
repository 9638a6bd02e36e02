"""The whole thing: real processes over loopback, through the command line, with things going wrong."""

import os
import signal
from pathlib import Path

import pytest
from blake3 import blake3
from cli_harness import Cli, PoolnetProcess, open_cli

MIB = 1024 * 1024
pytestmark = pytest.mark.timeout(300)


def write_file(path: Path, size: int, seed: int = 1) -> Path:
    """Write `size` bytes of which no two chunks are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blake3(seed.to_bytes(8, "big")).digest(size))
    return path


async def say(speaker: PoolnetProcess, text: str, hearers: list[PoolnetProcess]) -> None:
    """Type a text in one process and wait until it is heard in the others."""
    await speaker.type_line(text)
    for hearer in hearers:
        await hearer.event("message", text=text)


async def offer(cli: Cli, name: str, pool: str, path: Path) -> str:
    """Offer a file through a running join; return its id."""
    done = await cli.run(name, "offer", pool, str(path))
    assert done.code == 0, done
    return str(done.records[0]["file_id"])


async def test_a_fourth_node_that_joins_late_has_the_talk_and_the_files(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        bob, cyd = await cli.join("bob", invite), await cli.join("cyd", invite)
        for name in ("bob", "cyd"):
            await ada.event("node_joined", name=name)
        await say(ada, "early words", [bob, cyd])
        source = write_file(tmp_path / "source" / "photo.bin", 5 * MIB + 17)
        file_id = await offer(cli, "ada", "garden", source)
        await cyd.event("offer", file_id=file_id, name="photo.bin", size=5 * MIB + 17)

        dan = await cli.join("dan", invite)
        heard = await dan.event("message", text="early words")
        assert heard["name"] == "ada"
        await dan.event("offer", file_id=file_id)
        done = await cli.run("dan", "get", "garden", "photo.bin", "--out", str(tmp_path / "copy.bin"))
        assert (done.code, done.records[-1]["event"]) == (0, "complete")
        assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()
        await say(dan, "late words", [ada, bob, cyd])
        history = [
            entry["text"]
            for entry in (await cli.run("dan", "history", "garden")).records
            if entry["event"] == "message"
        ]
        assert history == ["early words", "late words"]


async def test_the_others_go_on_when_a_node_is_killed(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        ada, bob, cyd = await cli.pool_of("ada", "bob", "cyd")
        await say(ada, "all here", [bob, cyd])
        await bob.kill()
        await say(ada, "still talking", [cyd])
        await say(cyd, "so am I", [ada])
        file_id = await offer(cli, "ada", "garden", write_file(tmp_path / "f.bin", MIB))
        await cyd.event("offer", file_id=file_id)
        assert (await cli.run("cyd", "get", "garden", file_id, "--out", str(tmp_path / "g.bin"))).code == 0
        await ada.event("node_left", name="bob", within_s=40)

        bob = await cli.join("bob", "garden")
        await bob.event("message", text="so am I")
        await say(bob, "back again", [ada, cyd])


async def test_members_talk_and_fetch_while_the_server_is_gone_and_newcomers_join_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with open_cli(tmp_path) as cli:
        server, address = await cli.serve()
        port = int(address.split("/")[2].rsplit(":", 1)[1])
        invite = await cli.create("ada", "garden", server=address)
        ada, bob = await cli.join("ada", "garden"), await cli.join("bob", invite)
        await cli.linked("ada", "garden", count=1)
        await server.kill()

        await say(ada, "no server", [bob])
        await say(bob, "never mind", [ada])
        file_id = await offer(cli, "bob", "garden", write_file(tmp_path / "f.bin", 3 * MIB))
        await ada.event("offer", file_id=file_id)
        assert (await cli.run("ada", "get", "garden", "f.bin", "--out", str(tmp_path / "g.bin"))).code == 0

        _, again = await cli.serve(port=port)
        assert again == address
        cyd = await cli.join("cyd", invite)
        await cyd.event("message", text="never mind")
        await say(cyd, "hello both", [ada, bob])
        assert ada.all_of("node_left") == bob.all_of("node_left") == []


async def test_a_download_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        size = 192 * MIB
        _, bob = await cli.pool_of("ada", "bob")
        source = write_file(tmp_path / "big.bin", size)
        file_id = await offer(cli, "ada", "garden", source)
        await bob.event("offer", file_id=file_id)
        target = tmp_path / "copy.bin"
        await bob.type_line(f"/get {file_id} {target}")
        count = 1
        while (progress := await bob.event("progress", count=count))["bytes"] < 16 * MIB:
            count += 1
        await bob.kill()
        assert progress["bytes"] < size
        assert not target.exists()

        bob = await cli.join("bob", "garden")
        await bob.event("offer", file_id=file_id)
        await cli.linked("bob", "garden", count=1)
        await bob.type_line(f"/get {file_id} {target}")
        await bob.event("complete", file_id=file_id, within_s=60)
        assert target.read_bytes() == source.read_bytes()
        fetched = (await cli.run("bob", "status")).records[0]["file_bytes_in"]
        assert fetched < size - 8 * MIB, "it began again from nothing"
        assert [name for name in os.listdir(tmp_path) if name.startswith("copy")] == ["copy.bin"]


async def test_a_corrupted_source_is_noticed_and_never_spreads(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        source = write_file(tmp_path / "f.bin", 2 * MIB)
        stamp = source.stat()
        file_id = await offer(cli, "ada", "garden", source)
        await bob.event("offer", file_id=file_id)
        with source.open("r+b") as file:
            file.seek(MIB)
            file.write(b"not what it was")
        os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

        await bob.type_line(f"/get {file_id} {tmp_path / 'copy.bin'}")
        await bob.event("retracted", file_id=file_id)
        await ada.event("error", code="source_lost")
        assert not (tmp_path / "copy.bin").exists()
        assert (await cli.run("bob", "files", "garden")).records == []


async def test_several_receivers_at_once_share_the_work(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        names = ["ada", "bob", "cyd", "dan", "eve"]
        members = await cli.pool_of(*names)
        size = 24 * MIB
        source = write_file(tmp_path / "f.bin", size)
        file_id = await offer(cli, "ada", "garden", source)
        for member in members[1:]:
            await member.event("offer", file_id=file_id)
        for name, member in zip(names[1:], members[1:], strict=True):
            await member.type_line(f"/get {file_id} {tmp_path / name}.bin")
        for member in members[1:]:
            await member.event("complete", file_id=file_id, within_s=60)
        assert all((tmp_path / f"{name}.bin").read_bytes() == source.read_bytes() for name in names[1:])
        sent = (await cli.run("ada", "status")).records[0]["file_bytes_out"]
        assert sent < 2 * size, "the one that offered it sent it to everybody"


async def test_a_pool_without_a_server_of_its_own_is_hosted_by_its_founder(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        invite = await cli.create("ada", "garden")
        ada = await cli.join("ada", "garden")
        bob = await cli.join("bob", invite)
        await say(bob, "found you", [ada])
        assert await ada.end(signal.SIGTERM) == 0
        await bob.event("node_left", name="ada")
        ada = await cli.join("ada", "garden")
        await say(ada, "here again", [bob])


async def test_send_and_get_enter_the_pool_do_their_work_and_leave(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        assert await (await cli.join("bob", invite)).end() == 0
        source = write_file(tmp_path / "f.bin", MIB)
        await offer(cli, "ada", "garden", source)

        sent = await cli.run("bob", "send", "garden", "a word in passing")
        assert sent.code == 0, sent
        message = await ada.event("message", text="a word in passing", name="bob")
        assert sent.records == [{"id": message["id"]}]
        got = await cli.run("bob", "get", "garden", "f.bin", "--out", str(tmp_path / "g.bin"))
        assert (got.code, got.records[-1]["event"], got.records[-1]["path"]) == (0, "complete", str(tmp_path / "g.bin"))
        assert (tmp_path / "g.bin").read_bytes() == source.read_bytes()

        await ada.end()
        alone = await cli.run("bob", "send", "garden", "anybody?", "--timeout", "2")
        assert alone.code == 3, alone
        assert (alone.records[-1]["event"], alone.records[-1]["code"]) == ("error", "unreachable")
        history = [
            entry["text"]
            for entry in (await cli.run("bob", "history", "garden")).records
            if entry["event"] == "message"
        ]
        assert history == ["a word in passing"], "what was not sent is not in the history"
