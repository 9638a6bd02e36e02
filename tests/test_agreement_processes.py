"""Histories that agree, between real processes: who was away, whom to ask, and whether what is said of it is true."""

from pathlib import Path

import pytest
from cli_harness import Cli, open_cli

pytestmark = pytest.mark.timeout(300)


async def texts(cli: Cli, name: str) -> list[str]:
    """Return the texts in one device's history, in order."""
    done = await cli.run(name, "history", "garden", "--limit", "1000")
    assert done.code == 0, done
    return [record["text"] for record in done.records if record["event"] == "message"]


def read_databases(directory: Path) -> bytes:
    """Return all that is in the files of the histories below a directory."""
    return b"".join(file.read_bytes() for file in directory.rglob("messages.db*"))


async def test_who_was_away_has_everything_from_the_only_one_that_is_there(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        bob, cyd = await cli.join("bob", invite), await cli.join("cyd", invite)
        await ada.type_line("hello")
        await bob.event("message", text="hello")
        await cyd.event("message", text="hello")
        assert await cyd.end() == 0
        for number in range(120):
            await (ada if number % 2 else bob).type_line(f"talk {number}")
        for number in (118, 119):
            await ada.event("message", text=f"talk {number}")
            await bob.event("message", text=f"talk {number}")
        done = await cli.run("ada", "wait", "garden", "--synced", "--timeout", "30s")
        assert done.code == 0, done
        talk = await texts(cli, "ada")
        assert len(talk) == 121
        assert await texts(cli, "bob") == talk
        assert await ada.end() == 0  # cyd and ada never meet

        cyd = await cli.join("cyd", "garden")
        done = await cli.run("cyd", "wait", "garden", "--synced", "--timeout", "30s")
        assert done.code == 0, done
        assert await texts(cli, "cyd") == talk
        assert await bob.end() == 0

        ada = await cli.join("ada", "garden")
        await cyd.type_line("we have it all")
        await ada.event("message", text="we have it all")
        done = await cli.run("ada", "wait", "garden", "--synced", "--timeout", "30s")
        assert done.code == 0, done
        assert await texts(cli, "ada") == await texts(cli, "cyd") == [*talk, "we have it all"]


async def test_what_was_said_while_all_others_were_away_arrives_late_and_in_its_place(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada, bob = await cli.join("ada", "garden"), await cli.join("bob", invite)
        await ada.event("node_joined", name="bob")
        assert await bob.end() == 0
        await ada.event("node_left", name="bob")
        await ada.type_line("first")
        await ada.event("message", text="first")
        assert await ada.end() == 0
        bob = await cli.join("bob", "garden")
        await bob.type_line("second")
        await bob.event("message", text="second")
        ada = await cli.join("ada", "garden")
        late = await bob.event("message", text="first")
        assert late["late"] is True
        on_time = await ada.event("message", text="second")
        assert on_time["late"] is False
        assert await texts(cli, "ada") == await texts(cli, "bob") == ["first", "second"]


async def test_wait_says_so_when_nobody_is_there(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        await cli.create("ada", "garden")
        done = await cli.run("ada", "wait", "garden", "--synced", "--timeout", "2s")
        assert done.code == 3, done


async def test_a_retraction_reaches_who_was_away_and_leaves_nothing_in_the_files(tmp_path: Path) -> None:
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        ada, bob = await cli.join("ada", "garden"), await cli.join("bob", invite)
        await bob.type_line("my password is swordfish")
        slip = await ada.event("message", text="my password is swordfish")
        assert await ada.end() == 0
        done = await cli.run("bob", "retract", "garden", "--message", slip["id"])
        assert done.code == 0, done
        await bob.event("message_retracted", id=slip["id"])
        ada = await cli.join("ada", "garden")
        await ada.event("message_retracted", id=slip["id"])
        assert await texts(cli, "ada") == await texts(cli, "bob") == []
        for name in ("ada", "bob"):
            found = (await cli.run(name, "history", "garden", "--search", "swordfish")).records
            assert found == []
        assert await ada.end() == await bob.end() == 0
        assert b"swordfish" not in read_databases(tmp_path)
