"""The demo: what it judges, and the whole of it with real processes."""

import os
import signal
from pathlib import Path

from cli_harness import open_cli

from poolnet_cli.demo_view import DemoState, NodeState, summary_text

ALL = {"hello from ada", "hello from bob"}


def played() -> DemoState:
    """Return a demo that went well."""
    nodes = [NodeState(name, messages=set(ALL), is_identical=True) for name in ("ada", "bob")]
    return DemoState(nodes=nodes, size_bytes=2**20, total_s=5.0, transfer_s=0.5, seeder_sent_bytes=2**20)


def test_the_summary_says_what_was_achieved():
    summary = played().summary()
    assert summary["ok"]
    assert summary["rate"] == 2 * 2**20
    assert "1.00 times the file" in summary_text(summary)
    assert "✗" not in summary_text(summary)


def test_a_missing_message_or_a_wrong_file_is_a_failure():
    silent, wrong = played(), played()
    silent.nodes[1].messages.pop()
    wrong.nodes[1].is_identical = False
    for state in (silent, wrong):
        summary = state.summary()
        assert not summary["ok"]
        assert summary_text(summary).count("✗") == 1


async def test_the_demo_passes_and_leaves_nothing_behind(tmp_path: Path):
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(3_000_000))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    async with open_cli(tmp_path) as cli:
        done = await cli.run("-", "demo", str(file), "--nodes", "3", env={"TMPDIR": str(temporary)}, within_s=90)
    assert done.code == 0, done
    summary = done.records[-1]
    assert (summary["event"], summary["ok"], summary["nodes"]) == ("summary", True, 3)
    assert summary["seeder_sent"] >= 3_000_000
    assert {record["at"] for record in done.records if record["event"] == "complete"} == {"bob", "cleo"}
    assert list(temporary.iterdir()) == []


async def test_an_interrupted_demo_takes_its_processes_along(tmp_path: Path):
    async with open_cli(tmp_path) as cli:
        demo = await cli.start("-", "demo", "--nodes", "2", env={"TMPDIR": str(tmp_path)})
        address = (await demo.event("serving"))["address"]
        assert await demo.end(signal.SIGINT) == 130
        assert not [name for name in os.listdir(tmp_path) if name.startswith("poolnet-demo-")]
        port = address.split("/")[2].rpartition(":")[2]
        server = await cli.start("server", "serve", "--listen", f"127.0.0.1:{port}")  # the port is free again
        await server.event("serving")
