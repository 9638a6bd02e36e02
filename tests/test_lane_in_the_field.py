"""Which way chunks take between hosts of their own: TCP wherever one side can open it, QUIC where none can any more.

Skipped where no network namespaces can be made; they need root.
"""

import json
import subprocess
from pathlib import Path

import pytest
import trio
from cli_harness import PoolnetProcess
from test_end_to_end import MIB, say, write_file
from test_namespaces import Field, copy_of, open_field, reach

from poolnet.testing.namespaces import can_make_namespaces, can_translate

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not (can_make_namespaces() and can_translate()), reason="needs root, network namespaces, nft"),
]

SIZE = 12 * MIB
#: Tries on both sides, one after the other, and a busy machine.
LANE_S = 30.0
#: Counts what comes in over TCP, and drops what `rule` says.
_GATE = """
table inet gate {{
    counter tcp_in {{ }}
    chain in {{
        type filter hook input priority 0
        meta l4proto tcp counter name tcp_in
        {rule}
    }}
}}
"""
NOTHING = ""
NO_SYN = "tcp flags & (syn | ack) == syn drop"
NO_TCP = "meta l4proto tcp drop"


def set_gate(field: Field, name: str, rule: str) -> None:
    """Count TCP bytes that come into a host, from now on, and drop what the rule says."""
    field.network.run(name, "nft", "add", "table", "inet", "gate")  # so that it can be deleted
    field.network.run(name, "nft", "-f", "-", stdin="delete table inet gate\n" + _GATE.format(rule=rule))


def tcp_bytes(field: Field, name: str) -> int:
    """Return how many bytes came in since the gate was set."""
    command = [*field.network.under(name), "nft", "-j", "list", "counter", "inet", "gate", "tcp_in"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    (counter,) = [item["counter"] for item in listed["nftables"] if "counter" in item]
    return int(counter["bytes"])


async def pair(field: Field, *options: str) -> tuple[PoolnetProcess, PoolnetProcess]:
    """Start a server and a pool of ada, whose join has these options, and bob; return them once they are linked."""
    cli = field.cli
    server = await cli.start("server", "serve", "--listen", f"{field.add_host('server')}:7665")
    invite = await cli.create("ada", "garden", server=(await server.event("serving"))["address"])
    ada, bob = await cli.join("ada", "garden", *options), await cli.join("bob", invite)
    await cli.linked("bob", "garden", count=1)
    return ada, bob


async def carried_by(field: Field, process: PoolnetProcess, carrier: str) -> None:
    """Wait until that is what carries chunks to and from the only neighbour."""
    name, seen = process.home.name, ""
    with trio.move_on_after(LANE_S):
        while True:
            (peer,) = await field.cli.linked(name, "garden", count=1)
            if (seen := peer["carrier"]) == carrier:
                return
            await trio.sleep(0.05)
    raise AssertionError(f"chunks of {name} go over {seen}, not over {carrier}, after {LANE_S} s")


async def fetch(field: Field, giver: PoolnetProcess, taker: PoolnetProcess, source: Path) -> int:
    """Bring a file from one to the other; return how many bytes came over TCP for it."""
    set_gate_bytes = tcp_bytes(field, taker.home.name)
    await field.transfer(giver, taker, source)
    return tcp_bytes(field, taker.home.name) - set_gate_bytes


async def test_chunks_go_over_tcp_between_two_hosts_on_an_ordinary_network(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        set_gate(field, "bob", NOTHING)
        ada, bob = await pair(field)
        for process in (ada, bob):
            await carried_by(field, process, "tcp")
        (peer,) = (await field.cli.run("ada", "peers", "garden")).records
        assert (peer["name"], peer["carrier"]) == ("bob", "tcp")
        assert await fetch(field, ada, bob, write_file(tmp_path / "f.bin", SIZE)) > SIZE


@pytest.mark.parametrize("closed", ["ada", "bob"])
async def test_it_is_enough_that_one_side_can_open_tcp(tmp_path: Path, closed: str) -> None:
    async with open_field(tmp_path) as field:
        for name in ("ada", "bob"):
            set_gate(field, name, NO_SYN if name == closed else NOTHING)
        ada, bob = await pair(field)
        for process in (ada, bob):
            await carried_by(field, process, "tcp")
        assert await fetch(field, ada, bob, write_file(tmp_path / "f.bin", SIZE)) > SIZE


async def test_a_transfer_goes_on_over_quic_when_tcp_is_cut_off_in_the_middle(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        set_gate(field, "bob", NOTHING)
        ada, bob = await pair(field)
        for process in (ada, bob):
            await carried_by(field, process, "tcp")
        field.network.limit_uplink("ada", "60mbit")
        source = write_file(tmp_path / "f.bin", 2 * SIZE)
        file_id = await field.begin_transfer(ada, bob, source)
        await reach(bob, SIZE // 2)
        assert tcp_bytes(field, "bob") > SIZE // 4
        for name in ("ada", "bob"):
            set_gate(field, name, NO_TCP)
        assert not bob.all_of("complete"), "the file was faster"
        await say(bob, "is TCP gone?", [ada])
        await bob.event("complete", file_id=file_id)
        assert source.read_bytes() == copy_of(source).read_bytes()
        for process in (ada, bob):
            await carried_by(field, process, "quic")
        fetched = (await field.cli.run("bob", "status")).records[0]["file_bytes_in"]
        assert fetched < 2 * SIZE + 8 * MIB, "chunks came twice"
        assert not bob.all_of("node_left"), "the link broke with its lane"


async def test_chunks_go_over_quic_if_one_side_does_not_want_tcp(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        set_gate(field, "bob", NOTHING)
        ada, bob = await pair(field, "--no-tcp")
        assert await fetch(field, ada, bob, write_file(tmp_path / "f.bin", SIZE)) == 0
        for process in (ada, bob):
            await carried_by(field, process, "quic")


@pytest.mark.parametrize("inside", ["ada", "bob"])
async def test_a_host_behind_a_router_that_translates_opens_tcp_itself(tmp_path: Path, inside: str) -> None:
    async with open_field(tmp_path, routers=(inside,)) as field:
        for name in ("ada", "bob"):
            set_gate(field, name, NOTHING)
        ada, bob = await pair(field)
        for process in (ada, bob):
            await carried_by(field, process, "tcp")
        assert await fetch(field, ada, bob, write_file(tmp_path / "f.bin", SIZE)) > SIZE
        assert await fetch(field, bob, ada, write_file(tmp_path / "g.bin", SIZE, seed=2)) > SIZE
