"""Real processes: histories that agree, read, searched and taken back through the command line."""

import json
import signal
from pathlib import Path

import pytest
import trio
from cli_harness import open_cli

pytestmark = pytest.mark.timeout(180)


async def test_a_third_who_was_away_has_everything_from_the_one_who_is_there(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob, cyd = await cli.pool_of("ada", "bob", "cyd")
        assert await cyd.end() == 0
        for n in range(3):
            await ada.type_line(f"ada {n}")
            await bob.event("message", text=f"ada {n}")
            await bob.type_line(f"bob {n}")
            await ada.event("message", text=f"bob {n}")
        assert await ada.end() == 0
        done = await cli.run("cyd", "wait", "garden", "--synced")  # enters, and leaves
        assert (done.code, done.records[-1]["event"], done.records[-1]["neighbours"]) == (0, "synced", 1), done
        said = [f"{name} {n}" for n in range(3) for name in ("ada", "bob")]
        assert [record["text"] for record in (await cli.run("cyd", "history", "garden")).records] == said
        found = await cli.run("cyd", "history", "garden", "--search", "ada", as_json=False)
        assert [line.split(": ")[1] for line in found.stdout.splitlines()] == ["ada 0", "ada 1", "ada 2"]
        assert await bob.end() == 0


async def test_a_wait_ends_in_time_or_by_a_signal_when_nobody_is_there_to_agree_with(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        await cli.create("ada", "garden")
        done = await cli.run("ada", "wait", "garden", "--synced", "--timeout", "0.5s")
        assert (done.code, done.records[-1]["code"]) == (3, "unreachable"), done
        assert done.stderr.startswith("poolnet: no other member was there")
        waiting = await cli.start("ada", "wait", "garden", "--synced", "--timeout", "1h")
        while "waiting until" not in waiting.stderr:  # noqa: ASYNC110 - nothing tells when a file grows
            await trio.sleep(0.05)
        assert await waiting.end(signal.SIGINT) == 130
        assert waiting.events[-1]["code"] == "interrupted"


async def test_a_message_that_is_taken_back_is_gone_everywhere(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        await bob.type_line("my secret is xyzzy")
        message = await ada.event("message", text="my secret is xyzzy")
        await ada.type_line("I heard that")
        heard = await bob.event("message", text="I heard that")
        done = await cli.run("bob", "retract", "garden", "--message", heard["id"])  # who is no admin
        assert (done.code, done.records[-1]["code"]) == (1, "not_admin")
        done = await cli.run("bob", "retract", "garden", "--message", message["id"][:8])
        assert (done.code, done.records[-1]["event"]) == (0, "message_retracted")
        await ada.event("message_retracted", id=message["id"], name="bob")
        for name in ("ada", "bob"):
            assert (await cli.run(name, "history", "garden", "--search", "xyzzy")).records == []
            for database in cli.home(name).rglob("messages.db*"):
                assert b"xyzzy" not in database.read_bytes()
        await ada.type_line(f"/retract {message['id'][:8]}")
        await ada.event("error", code="unknown_message")


async def test_announcements_mentions_sessions_and_an_export(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        ada, bob = await cli.pool_of("ada", "bob")
        assert (await cli.run("bob", "announce", "garden", "no")).records[-1]["code"] == "not_admin"
        done = await cli.run("ada", "announce", "garden", "hear", "me")
        await bob.event("announcement", id=done.records[0]["id"], text="hear me")
        await ada.type_line("are you there, @bob?")
        called = await bob.event("mention", text="are you there, @bob?")
        assert called["name"] == "ada"
        assert ada.all_of("mention") == []
        await bob.type_line("/sessions")
        (session,) = (await bob.event("sessions"))["sessions"]
        assert sorted(node["name"] for node in session["nodes"]) == ["ada", "bob"]
        await bob.type_line("/older")
        older = await bob.event("older")
        assert [entry["event"] for entry in older["entries"]] == ["announcement", "message"]
        out = tmp_path / "talk.jsonl"
        assert (await cli.run("bob", "history", "garden", "--export", str(out))).records[0]["path"] == str(out)
        kinds = [json.loads(line)["kind"] for line in out.read_text().splitlines()]
        assert set(kinds) == {"announcement", "profile", "text"}
        kept = await cli.run("bob", "keep", "garden", "--messages", "1")
        assert kept.records == [{"max_age_s": None, "max_count": 1, "removed": 1}]
        assert [record["event"] for record in (await cli.run("bob", "history", "garden")).records] == ["message"]
