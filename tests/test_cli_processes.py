"""Real processes: bad input, ends and signals, and the socket of a home."""

import shlex
import signal
import sys
from pathlib import Path

import pytest
import trio
from cli_harness import Cli, open_cli

from poolnet import encode_id, open_node


def is_one_sentence(stderr: str) -> bool:
    """Return whether a failure was told as it should be."""
    return stderr.startswith("poolnet: ") and stderr.count("\n") == 1 and "Traceback" not in stderr


async def test_bad_input_is_one_sentence_and_a_code(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    cases = [
        (("join", "poolnet://127.0.0.1:1/cut"), 1, "invalid_invite"),
        (("join", "nowhere"), 1, "unknown_pool"),
        (("send", "nowhere", "hi"), 1, "unknown_pool"),
        (("send", "nowhere", "x" * 1001), 1, "text_too_long"),
        (("offer", "nowhere", str(tmp_path / "missing")), 1, "source_unavailable"),
        (("get", "nowhere", "x", "--out", str(tmp_path / "file")), 1, "output_exists"),
        (("send", "nowhere"), 2, "usage"),
    ]
    async with open_cli(tmp_path) as cli, trio.open_nursery() as nursery:
        for n, (arguments, code, word) in enumerate(cases):
            nursery.start_soon(check_failure, cli, f"home{n}", arguments, code, word)
    assert (tmp_path / "file").read_text() == "x"


async def check_failure(cli: Cli, home: str, arguments: tuple[str, ...], code: int, word: str) -> None:
    assert (await cli.run(home, "settings", "tcp", "on")).code == 0  # which makes it a home
    done = await cli.run(home, *arguments)
    assert (done.code, done.records[-1]["code"]) == (code, word), done
    assert is_one_sentence(done.stderr), done


async def test_an_invite_that_is_expired_or_used_up_is_refused_and_nothing_is_left_behind(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        await cli.create("ada", "garden", server=address)
        await cli.join("ada", "garden")
        once = (await cli.run("ada", "invite", "garden", "--uses", "1")).records[0]["invite"]
        short = (await cli.run("ada", "invite", "garden", "--expires", "0.001s")).records[0]["invite"]
        await cli.join("bob", once)
        for invite, code in ((once, "invite_used_up"), (short, "invite_expired")):
            done = await cli.run("cyd", "join", "-", stdin=invite.encode() + b"\n")
            assert (done.code, done.records[-1]["code"]) == (1, code), done
            assert is_one_sentence(done.stderr)
            assert not cli.home("cyd").exists()


async def test_a_place_that_cannot_be_listened_at_leaves_no_new_home(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        done = await cli.run("ada", "create", "garden", "--bind", "192.0.2.1:0")
        assert (done.code, done.records[-1]["code"]) == (2, "invalid_address"), done
        assert is_one_sentence(done.stderr)
        assert not cli.home("ada").exists()


async def test_nobody_reachable_is_code_3(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        server, address = await cli.serve()
        invite = await cli.create("ada", "garden", server=address)
        await server.kill()
        async with trio.open_nursery() as nursery:
            for name, arguments in (
                ("ada", ("send", "garden", "hi")),
                ("bob", ("join", invite)),
                ("cyd", ("create", "x", "--server", address)),
            ):
                nursery.start_soon(check_failure, cli, name, (*arguments, "--timeout", "0.5s"), 3, "unreachable")
        assert (await cli.run("ada", "history", "garden")).records == []
        assert (await cli.run("bob", "status")).records == (await cli.run("cyd", "status")).records == []


async def test_a_port_or_a_home_that_is_in_use_is_told(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        taken = address.split("/")[2]
        done = await cli.run("other", "serve", "--listen", taken)
        assert (done.code, done.records[-1]["code"]) == (1, "address_in_use"), done
        async with open_node(cli.home("ada"), listen=("127.0.0.1", 0)):  # a program without a control socket
            done = await cli.run("ada", "status")
        assert (done.code, done.records[-1]["code"]) == (1, "home_in_use"), done
        assert is_one_sentence(done.stderr)


async def test_a_join_ends_by_signals_and_by_quit_and_says_goodbye(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob, cyd = await cli.pool_of("ada", "bob", "cyd")
        await bob.end_input()  # which does not end it
        await cyd.end_input()
        await ada.type_line("still there?")
        await bob.event("message", text="still there?")
        await cyd.event("node_joined", count=2)  # whoever leaves before is not missed
        assert await bob.end(signal.SIGINT) == 130
        await cyd.event("node_left", name="bob")
        await ada.type_line("/quit")
        assert await ada.wait() == 0
        await cyd.event("node_left", name="ada")
        assert await cyd.end(signal.SIGTERM) == 0
        for name in ("ada", "bob", "cyd"):
            assert not (cli.home(name) / "control.sock").exists()


async def test_commands_go_through_the_join_of_their_home(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        sent = (await cli.run("ada", "send", "garden", "one\ntwo \x1b[2J")).records[0]
        heard = await bob.event("message", id=sent["id"])
        assert (heard["text"], heard["name"]) == ("one\ntwo \x1b[2J", "ada")
        shown = await cli.run("bob", "history", "garden", as_json=False)
        assert "ada: one\n    | two \\x1b[2J\n" in shown.stdout
        listed = (await cli.run("bob", "status")).records[0]
        assert (listed["name"], listed["joined"], listed["attached"]) == ("garden", True, True)
        assert [peer["name"] for peer in (await cli.run("bob", "peers", listed["pool"][:8])).records] == ["ada"]
        second = await cli.join("ada", "garden")  # another view of the same pool
        await second.type_line("from the second window")
        await ada.event("message", text="from the second window")
        await second.type_line("/quit")
        assert await second.wait() == 0
        assert (await cli.run("ada", "leave", "garden")).code == 0
        assert await ada.wait() == 0
        assert (await cli.run("ada", "status")).records == []
        await bob.event("node_left", name="ada")


async def test_what_a_killed_join_leaves_does_not_stand_in_the_way(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        _, address = await cli.serve()
        await cli.create("ada", "garden", server=address)
        ada = await cli.join("ada", "garden")
        await ada.kill()
        assert (cli.home("ada") / "control.sock").exists()
        assert (await cli.run("ada", "status")).records[0]["joined"] is False
        again = await cli.join("ada", "garden")
        assert again.events[0]["pool"] == ada.events[0]["pool"]
        assert len(encode_id(bytes(32))) == len(again.events[0]["node"])


async def test_what_was_withdrawn_in_an_earlier_session_is_no_news_in_the_next(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        names = ("gone", "again")
        for name in names:
            (tmp_path / name).write_text(name)
            await ada.type_line(f"/offer {tmp_path / name}")
            await bob.event("offer", name=name)
            assert (await cli.run("ada", "retract", "garden", name)).code == 0
            await bob.event("retracted", file_id=ada.all_of("offer", name=name)[0]["file_id"])
        await ada.type_line(f"/offer {tmp_path / 'again'}")
        await bob.event("offer", name="again", count=2)
        for joined in (ada, bob):
            assert await joined.end() == 0
        for name in ("ada", "bob"):
            joined = await cli.join(name, "garden")
            await joined.event("offer", name="again")
            await joined.type_line("said after all that was")
            await joined.event("message", text="said after all that was")
            assert joined.all_of("retracted") == []
            assert [offer["name"] for offer in joined.all_of("offer")] == ["again"]


@pytest.mark.parametrize(
    ("redirection", "told"), [(">&-", "it is closed"), (">/dev/full", "No space left on device"), ("2>&-", "")]
)
async def test_an_output_that_cannot_be_written_is_told_and_nothing_else_is_written_instead(
    tmp_path: Path, redirection: str, told: str
):
    home = tmp_path / "home"
    command = f"{shlex.quote(sys.executable)} -m poolnet_cli --home {home} settings downloads 3 {redirection}"
    done = await trio.run_process(["sh", "-c", command], check=False, capture_stderr=True)
    assert done.returncode == (1 if told else 0)
    assert done.stderr.decode() == (f"poolnet: standard output: {told}\n" if told else "")
    assert (home / "lock").read_bytes() == b""
    assert len((home / "device.key").read_bytes()) == 32


async def test_what_was_loaded_is_not_looked_through_whenever_memory_is_collected() -> None:
    program = (
        "import gc, poolnet_cli.cli as cli, poolnet_cli.main as main\n"
        "cli.run = lambda: len(gc.get_objects()) > gc.get_freeze_count()\n"
        "main.main()"
    )
    assert (await trio.run_process([sys.executable, "-c", program], check=False)).returncode == 0
