"""The programs in examples/ are run as they stand: real processes in a pool with a `join`."""

import os
import signal
from pathlib import Path

import pytest
import trio
from cli_harness import PATIENCE_S, Cli, PoolnetProcess, open_cli

EXAMPLES = Path(__file__).parent.parent / "examples"
#: And what to call them with besides a pool.
PROGRAMS = {"echo_bot.py": (), "drop_folder.py": (".",), "vote.py": ("tea",)}


async def start(cli: Cli, name: str, program: str, *arguments: str) -> PoolnetProcess:
    """Start an example in the home of that name, on loopback."""
    home = ("--home", str(cli.home(name)), "--listen", "127.0.0.1")
    return await cli.start_script(name, EXAMPLES / program, *arguments, *home)


async def printed(program: PoolnetProcess, text: str) -> None:
    """Wait until a program has printed a text."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            if text in program.stderr:
                return
            await trio.sleep(0.05)
    raise AssertionError(f"no {text!r} in {program.stderr!r}")


async def test_the_echo_bot_answers_what_begins_with_echo_and_nothing_else(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        bot = await start(cli, "bot", "echo_bot.py", invite)
        await ada.event("node_joined", name="echo bot")
        for line in ("hello everybody", "echo hi", "echo once more"):
            await ada.type_line(line)
        await ada.event("message", text="once more", name="echo bot")
        assert [said["text"] for said in ada.all_of("message", name="echo bot")] == ["hi", "once more"]
        assert await bot.end(signal.SIGINT) == 0
        await ada.event("node_left", name="echo bot")
        assert bot.stderr.splitlines() == [f"in garden as {bot_id(ada)}", "ada is here", "bye"]


def bot_id(observer: PoolnetProcess) -> str:
    """Return the beginning of the bot's id, as another member knows it."""
    return str(observer.all_of("node_joined", name="echo bot")[0]["node"])[:8]


async def test_what_is_dropped_into_one_folder_appears_in_the_others(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    content = os.urandom(700_000)
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        for folder in (here, there):
            folder.mkdir()
        (here / "early.txt").write_text("I was here before")
        programs = [
            await start(cli, f"home of {folder.name}", "drop_folder.py", invite, str(folder))
            for folder in (here, there)
        ]
        await printed(programs[1], "fetched early.txt")
        (there / "later.bin").write_bytes(content)
        await printed(programs[0], "fetched later.bin")
        (here / "a copy.txt").write_text("I was here before")
        await printed(programs[0], "offered a copy.txt")
        await ada.type_line(f"/offer {EXAMPLES / 'vote.py'}")
        await printed(programs[1], "fetched vote.py")
        streamed = await cli.run("ada", "stream", "garden", "--name", "readings", stdin=b"1\n2\n")
        assert streamed.code == 0
        for program in programs:
            await printed(program, "fetched vote.py")
            await printed(program, "fetched readings")
        for program in programs:
            assert await program.end(signal.SIGINT) == 0
        offers = ada.all_of("offer")
    for folder in (here, there):
        others = {"a copy.txt"} & {path.name for path in here.iterdir() if folder == here}
        expected = {"early.txt", "later.bin", "readings", "vote.py"} | others
        assert {path.name for path in folder.iterdir()} == expected
        assert (folder / "early.txt").read_text() == "I was here before"
        assert (folder / "later.bin").read_bytes() == content
    by_others = [offer["name"] for offer in offers if offer["node"] != ada.events[0]["node"]]
    assert by_others == ["early.txt", "later.bin"]  # what was fetched is not offered again
    for program in programs:
        assert program.stderr.count("offered a copy.txt") == (program is programs[0])
        assert all(line.startswith(("offered ", "fetched ", "bye")) for line in program.stderr.splitlines())


async def test_votes_come_to_the_same_result_on_all_devices_and_for_who_was_away(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        bob = await start(cli, "bob", "vote.py", invite, "tea")
        cyd = await start(cli, "cyd", "vote.py", invite, "coffee")
        for voter in (bob, cyd):
            await printed(voter, "coffee: 1, tea: 1")
        assert await bob.end(signal.SIGINT) == 0
        dan = await start(cli, "dan", "vote.py", invite, "tea")
        await printed(dan, "coffee: 1, tea: 2")
        again = await start(cli, "bob", "vote.py", "garden", "coffee")
        for voter in (cyd, dan, again):
            await printed(voter, "coffee: 2, tea: 1")
        for voter in (cyd, dan, again):
            assert await voter.end(signal.SIGINT) == 0


@pytest.mark.parametrize("program", PROGRAMS)
async def test_an_example_says_in_one_sentence_what_is_wrong(tmp_path: Path, program: str):
    async with open_cli(tmp_path) as cli:
        started = await start(cli, "home", program, "poolnet://127.0.0.1:1/cut", *PROGRAMS[program])
        assert await started.wait() == 1
    assert "an invite link goes on with" in started.stderr
    assert started.stderr.count("\n") == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_is_short(program: str):
    assert len((EXAMPLES / program).read_text(encoding="utf-8").splitlines()) <= 80
