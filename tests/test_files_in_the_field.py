"""Real processes that exchange files while disks are full, sources are gone and holders vanish."""

import signal
from pathlib import Path

import pytest
import trio
from cli_harness import Cli, Completed, PoolnetProcess, open_cli
from small_disks import can_mount, small_disk
from test_end_to_end import MIB, offer, say, write_file

pytestmark = pytest.mark.timeout(120)
needs_mount = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")


def are_equal(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


async def reach(taker: PoolnetProcess, size: int) -> None:
    """Wait until a download has so many bytes."""
    count = 1
    while (await taker.event("progress", count=count))["bytes"] < size:
        count += 1


async def state_of(cli: Cli, name: str) -> tuple[str, int]:
    """Return the state and the bytes of the only file that a node knows."""
    (record,) = (await cli.run(name, "files", "garden")).records
    return record["state"], record["bytes"]


async def begin_get(cli: Cli, nursery: trio.Nursery, name: str, file_id: str, out: Path) -> list[Completed]:
    """Run a get beside; what it returns appears in the list returned here."""
    done: list[Completed] = []

    async def get() -> None:
        done.append(await cli.run(name, "get", "garden", file_id, "--out", str(out), within_s=60))

    nursery.start_soon(get)
    while (await state_of(cli, name))[0] == "offered":
        await trio.lowlevel.checkpoint()
    return done


async def test_a_get_ends_when_the_last_offer_is_withdrawn(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        source = write_file(tmp_path / "f.bin", MIB)
        file_id = await offer(cli, "ada", "garden", source)
        await bob.event("offer", file_id=file_id)
        await ada.kill()
        async with trio.open_nursery() as nursery:
            done = await begin_get(cli, nursery, "bob", file_id, tmp_path / "g.bin")
            source.unlink()
            await cli.join("ada", "garden")  # it finds that the file is not there any more
        assert (done[0].code, done[0].records[-1]["code"]) == (1, "unknown_file"), done
        again = await cli.run("bob", "get", "garden", file_id, "--out", str(tmp_path / "g.bin"))
        assert (again.code, again.records[-1]["code"]) == (1, "unknown_file"), again


async def test_two_takers_go_on_without_the_giver_as_far_as_they_can_and_finish_when_it_is_back(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        size = 192 * MIB
        ada, bob, cyd = await cli.pool_of("ada", "bob", "cyd")
        await cli.linked("bob", "garden", count=2)
        source = write_file(tmp_path / "f.bin", size)
        file_id = await offer(cli, "ada", "garden", source)
        for taker in (bob, cyd):
            await taker.event("offer", file_id=file_id)
            await taker.type_line(f"/get {file_id} {tmp_path / taker.home.name}.bin")
        for taker in (bob, cyd):
            await reach(taker, 16 * MIB)
        await ada.kill()

        with trio.fail_after(30):
            while (await state_of(cli, "bob"))[1] != (await state_of(cli, "cyd"))[1]:
                pass
        state, held = await state_of(cli, "bob")
        assert (state, held < size) == ("downloading", True), "the giver was ended too late"
        await say(bob, "where is ada?", [cyd])

        await cli.join("ada", "garden")
        for taker in (bob, cyd):
            await taker.event("complete", file_id=file_id, within_s=60)
            assert are_equal(source, tmp_path / f"{taker.home.name}.bin")
            fetched = (await cli.run(taker.home.name, "status")).records[0]["file_bytes_in"]
            assert fetched < 1.1 * size, "pieces came twice"


@needs_mount
async def test_a_disk_that_fills_up_ends_the_get_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        async with open_cli(tmp_path) as cli:
            ada, bob = await cli.pool_of("ada", "bob")
            source, target = write_file(tmp_path / "f.bin", 5 * MIB), disk.path / "f.bin"
            file_id = await offer(cli, "ada", "garden", source)
            await bob.event("offer", file_id=file_id)
            async with trio.open_nursery() as nursery:
                ada.send_signal(signal.SIGSTOP)
                done = await begin_get(cli, nursery, "bob", file_id, target)
                disk.fill()
                ada.send_signal(signal.SIGCONT)
            assert (done[0].code, done[0].records[-1]["code"]) == (1, "disk_full"), done
            full = await cli.run("bob", "get", "garden", file_id, "--out", str(target))
            assert (full.code, full.records[-1]["code"]) == (1, "disk_full"), full
            await say(ada, "is it full?", [bob])
            await say(bob, "it is", [ada])
            assert ada.all_of("node_left") == bob.all_of("node_left") == []

            disk.free()
            done_at_last = await cli.run("bob", "get", "garden", file_id, "--out", str(target))
            assert done_at_last.code == 0, done_at_last
            assert are_equal(source, target)


@needs_mount
async def test_a_full_home_is_told_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "bob", "8m") as disk:
        async with open_cli(tmp_path) as cli:
            ada, bob = await cli.pool_of("ada", "bob")
            await say(bob, "all is well", [ada])
            disk.fill()
            count = 0
            with trio.fail_after(30):
                while not bob.all_of("error", code="disk_full"):
                    count += 1
                    await bob.type_line(f"{count} " + 900 * "x")
                    await trio.sleep(0.05)
            refused = await cli.run("bob", "send", "garden", 900 * "y")
            assert (refused.code, refused.records[-1]["code"]) == (1, "disk_full"), refused
            file_id = await offer(cli, "ada", "garden", write_file(tmp_path / "f.bin", MIB))
            for number in range(20):
                await ada.type_line(f"while it was full {number} " + 900 * "z")
            stopped = await cli.run("bob", "offer", "garden", str(tmp_path / "f.bin"))
            assert (stopped.code, stopped.records[-1]["code"]) == (1, "disk_full"), stopped

            disk.free()
            await bob.event("message", text="while it was full 19 " + 900 * "z")
            await bob.event("offer", file_id=file_id)
            await say(bob, "there is room again", [ada])
            got = await cli.run("bob", "get", "garden", file_id, "--out", str(tmp_path / "g.bin"))
            assert got.code == 0, got
            texts = [
                entry["text"]
                for entry in (await cli.run("bob", "history", "garden")).records
                if entry["event"] == "message"
            ]
            assert 900 * "y" not in texts
            assert not bob.stderr.count("Traceback"), bob.stderr
