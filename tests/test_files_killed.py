"""Real processes that are killed in the middle of a transfer, as by a power cut: giver, relay, receiver; full disks.

What was verified is never fetched again, what arrives is whole, and nothing that nobody needs stays on the disks. The
moments are drawn from seeds, so that a run can be repeated.
"""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import trio
from cli_harness import Cli, PoolnetProcess, Record, open_cli
from small_disks import can_mount, small_disk
from test_end_to_end import MIB, offer, say, write_file

from poolnet.testing.namespaces import Network, can_make_namespaces, can_translate, open_network

pytestmark = pytest.mark.timeout(120)
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
needs_walls = pytest.mark.skipif(
    not (can_make_namespaces() and can_translate()), reason="needs root, network namespaces and nft"
)

SIZE = 48 * MIB
#: Slow enough that there is a middle of a transfer.
SLOWLY = ("--limit-up", "24M")
KILLS = 2
#: What may be lost by a kill: what was under way on a link and not yet verified, or verified and not yet told.
LOST_BY_A_KILL = 8 * MIB
TRANSFER_S = 60.0
#: Cuts a host off from another one; what is on its way is lost.
_WALL = """
table ip wall {{
    chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}
}}
"""


def moments(seed: int, size: int = SIZE) -> list[int]:
    """Return at how many bytes of a transfer something is killed, in ascending order."""
    rng = random.Random(seed)
    third = size // (KILLS + 2)
    return [rng.randrange(third * (number + 1), third * (number + 2)) for number in range(KILLS)]


async def pair(cli: Cli, *options: str) -> tuple[PoolnetProcess, PoolnetProcess]:
    """Start a pool of ada, whose join has these options, and bob; return them once they are linked."""
    _, address = await cli.serve()
    invite = await cli.create("ada", "garden", server=address)
    ada, bob = await cli.join("ada", "garden", *options), await cli.join("bob", invite)
    await cli.linked("bob", "garden", count=1)
    return ada, bob


async def reach(taker: PoolnetProcess, size: int) -> Record:
    """Wait until a download has so many bytes; return how it stands."""
    count = 1
    while (progress := await taker.event("progress", count=count))["bytes"] < size:
        count += 1
    assert progress["bytes"] < progress["size"], "the transfer was over too soon"
    return progress


async def begin_get(taker: PoolnetProcess, file_id: str, target: Path) -> None:
    """Have a running join fetch a file."""
    await taker.event("offer", file_id=file_id)
    await taker.type_line(f"/get {file_id} {target}")


async def fetched(cli: Cli, name: str) -> int:
    """Return how many bytes of files came in since a home's join was started."""
    (pool,) = (await cli.run(name, "status")).records
    return int(pool["file_bytes_in"])


def needless(home: Path) -> list[str]:
    """Return what nobody needs of what a home has of files when no transfer runs."""
    names = [path.name for path in home.glob("pools/*/files/**/*") if path.is_file()]
    rings = [name for name in names if name.endswith(".ring")]
    return rings[1:] + [name for name in names if name.endswith((".part", ".journal", ".new"))]


def beside(target: Path) -> list[str]:
    """Return what lies where a file was fetched to and begins with its name."""
    return sorted(path.name for path in target.parent.iterdir() if path.name.startswith(target.name))


def check_arrived(source: Path, target: Path, home: Path) -> None:
    """Make sure that a file is whole, and that nothing else is left of its transfer."""
    assert target.read_bytes() == source.read_bytes()
    assert beside(target) == [target.name]
    assert needless(home) == []


async def test_a_transfer_goes_on_whenever_the_giver_is_killed(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        ada, bob = await pair(cli, *SLOWLY)
        source, target = write_file(tmp_path / "f.bin", SIZE), tmp_path / "g.bin"
        file_id = await offer(cli, "ada", "garden", source)
        await begin_get(bob, file_id, target)
        for moment in moments(seed=1):
            await reach(bob, moment)
            await ada.kill()
            ada = await cli.join("ada", "garden", *SLOWLY)
        await bob.event("complete", file_id=file_id, within_s=TRANSFER_S)
        check_arrived(source, target, bob.home)
        assert await fetched(cli, "bob") < SIZE + KILLS * LOST_BY_A_KILL
        assert not bob.all_of("download_failed")
        await ada.end()
        assert needless(ada.home) == []


async def test_a_listed_download_goes_on_whenever_its_receiver_is_killed(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, bob = await pair(cli, *SLOWLY)
        source, target = write_file(tmp_path / "f.bin", SIZE), tmp_path / "g.bin"
        file_id = await offer(cli, "ada", "garden", source)
        await begin_get(bob, file_id, target)
        reached = 0
        for moment in moments(seed=3):
            reached = (await reach(bob, moment))["bytes"]
            await bob.kill()
            assert not target.exists()
            bob = await cli.join("bob", "garden")
            first = await bob.event("progress", file_id=file_id)
            assert first["bytes"] > reached - LOST_BY_A_KILL, "it began again from nothing"
        await bob.event("complete", file_id=file_id, within_s=TRANSFER_S)
        check_arrived(source, target, bob.home)
        assert await fetched(cli, "bob") < SIZE - reached + LOST_BY_A_KILL


@needs_walls
async def test_a_transfer_goes_on_whenever_the_only_relay_is_killed(tmp_path: Path) -> None:
    with open_network() as network:
        async with open_cli(tmp_path) as cli:
            _, bob, cyd = await chain(cli, network)
            source, target = write_file(tmp_path / "f.bin", SIZE), tmp_path / "g.bin"
            network.limit_uplink("ada", "200mbit")
            file_id = await offer(cli, "ada", "garden", source)
            await begin_get(cyd, file_id, target)
            for moment in moments(seed=5):
                await reach(cyd, moment)
                await bob.kill()
                bob = await cli.join("bob", "garden")
            await cyd.event("complete", file_id=file_id, within_s=TRANSFER_S)
            check_arrived(source, target, cyd.home)
            assert await fetched(cli, "cyd") < SIZE + KILLS * LOST_BY_A_KILL
            assert await linked_names(cli, "cyd") == {"bob"}, "there was another way"
            assert needless(bob.home) == []


async def chain(cli: Cli, network: Network) -> list[PoolnetProcess]:
    """Start a pool of ada, bob and cyd, each on a host, of which ada and cyd cannot reach each other."""
    cli.bind = "[::]:0"
    addresses = {}
    for name in ("server", "ada", "bob", "cyd"):
        addresses[name] = network.add_host(name)
        cli.under[name] = network.under(name)
    for name, other in (("ada", "cyd"), ("cyd", "ada")):
        network.run(name, "nft", "-f", "-", stdin=_WALL.format(address=addresses[other]))
    server = await cli.start("server", "serve", "--listen", f"{addresses['server']}:7665")
    invite = await cli.create("ada", "garden", server=(await server.event("serving"))["address"])
    joined = [await cli.join(name, "garden" if name == "ada" else invite) for name in ("ada", "bob", "cyd")]
    await cli.linked("bob", "garden", count=2)
    return joined


@needs_walls
async def test_a_relay_that_is_linked_to_the_giver_only_after_it_was_asked_is_used(tmp_path: Path) -> None:
    with open_network() as network:
        async with open_cli(tmp_path) as cli:
            _, bob, cyd = await chain(cli, network)
            source, target = write_file(tmp_path / "f.bin", MIB), tmp_path / "g.bin"
            file_id = await offer(cli, "ada", "garden", source)
            await bob.event("offer", file_id=file_id)
            await bob.kill()
            network.run("bob", "nft", "-f", "-", stdin=_WALL.format(address="10.77.0.2"))
            bob = await cli.join("bob", "garden")
            await cli.linked("bob", "garden", count=1)
            await begin_get(cyd, file_id, target)
            await say(cyd, "who has it?", [bob])  # by then bob was asked, and knows no way
            network.run("bob", "nft", "delete", "table", "ip", "wall")
            await cli.linked("bob", "garden", count=2)
            await cyd.event("complete", file_id=file_id, within_s=20)
            check_arrived(source, target, cyd.home)


async def linked_names(cli: Cli, name: str) -> set[str]:
    """Return whom a home's node is linked to."""
    return {peer["name"] for peer in (await cli.run(name, "peers", "garden")).records if peer["linked"]}


@needs_mount
async def test_a_full_disk_pauses_a_listed_download_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    size = 24 * MIB
    with small_disk(tmp_path / "disk", "32m") as disk:
        async with open_cli(tmp_path) as cli:
            ada, bob = await pair(cli)
            source, target = write_file(tmp_path / "f.bin", size), disk.path / "g.bin"
            file_id = await offer(cli, "ada", "garden", source)
            await bob.event("offer", file_id=file_id)
            ada.send_signal(signal.SIGSTOP)  # the download begins when there is room, and then there is none
            await begin_get(bob, file_id, target)
            await until_begun(target)
            disk.fill()
            ada.send_signal(signal.SIGCONT)
            paused = await bob.event("download_paused", file_id=file_id)
            assert paused["code"] == "disk_full"
            (listed,) = (await cli.run("bob", "downloads", "garden")).records
            assert (listed["state"], listed["code"]) == ("paused", "disk_full"), listed
            assert not target.exists()

            disk.free()
            await bob.event("download_resumed", file_id=file_id)
            await bob.event("complete", file_id=file_id)
            check_arrived(source, target, bob.home)
            assert await fetched(cli, "bob") < size + LOST_BY_A_KILL
            assert not bob.all_of("download_failed")
            assert not ada.all_of("node_left")


@needs_mount
@pytest.mark.timeout(300)  # many processes, one after the other
async def test_what_a_full_disk_refuses_is_said_and_works_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "bob", "8m") as disk:  # bob's home, and where his files go
        async with open_cli(tmp_path) as cli:
            _, bob = await pair(cli)
            file_id = await offer(cli, "ada", "garden", write_file(tmp_path / "f.bin", MIB))
            await bob.event("offer", file_id=file_id)
            own, written = write_file(tmp_path / "own.bin", MIB, seed=2), disk.path / "history.jsonl"
            work = [
                ("send", "garden", "hello"),
                ("offer", "garden", str(own)),
                ("get", "garden", file_id, "--out", str(disk.path)),
                ("history", "garden", "--export", str(written)),
                ("settings", "limit-up", "5M"),
            ]
            disk.fill()
            for command in work:
                refused = await cli.run("bob", *command)
                assert refused.code == 1, (command, refused)
                assert "free some" in refused.stderr, (command, refused)
                assert refused.records[-1]["code"] == "disk_full", (command, refused)
            assert not written.exists()
            disk.free()
            for command in work:
                done = await cli.run("bob", *command)
                assert done.code == 0, (command, done)
            check_arrived(tmp_path / "f.bin", disk.path / "f.bin", bob.home)
            assert {json.loads(line).get("text") for line in written.read_text().splitlines()} >= {"hello"}
            assert not [path.name for path in disk.path.iterdir() if path.name.startswith(".")]


async def until_begun(target: Path) -> None:
    """Wait until there is a part file."""
    with trio.fail_after(30):
        while not target.with_name(target.name + ".part").exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.02)


async def test_a_folder_of_two_thousand_files_goes_on_after_its_receiver_was_killed(tmp_path: Path) -> None:
    rng = random.Random(6)
    source, target = tmp_path / "trip", tmp_path / "copy"
    for number in range(2000):
        write_file(source / f"{number % 40}" / f"{number}.bin", rng.randrange(24 * 1024), seed=number)
    (source / "1" / "tool").write_bytes(b"#!/bin/sh\n")
    (source / "1" / "tool").chmod(0o755)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    async with open_cli(tmp_path) as cli:
        _, bob = await pair(cli, "--limit-up", "12M")
        file_id = await offer(cli, "ada", "garden", source)
        await begin_get(bob, file_id, target)
        reached = (await reach(bob, rng.randrange(size // 3, size // 2)))["bytes"]
        await bob.kill()
        assert not target.exists()

        bob = await cli.join("bob", "garden")
        await bob.event("complete", file_id=file_id, within_s=TRANSFER_S)
        assert contents(target) == contents(source)
        assert os.access(target / "1" / "tool", os.X_OK)
        assert beside(target) == [target.name]
        assert needless(bob.home) == []
        assert await fetched(cli, "bob") < size - reached + LOST_BY_A_KILL


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files in a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
