"""Real processes in networks of their own: an ordinary network, a slow uplink, routers that translate, pulled cables.

Skipped where no network namespaces can be made; they need root.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cli_harness import Cli, PoolnetProcess, open_cli
from test_end_to_end import MIB, offer, say, write_file

from poolnet.testing.namespaces import Network, can_make_namespaces, can_translate, open_network

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and network namespaces"),
]
needs_translation = pytest.mark.skipif(not can_translate(), reason="needs nft")


class Field:
    """A server, ada and bob, each on a host of its own that is called like its home. Made by `open_field`."""

    def __init__(self, cli: Cli, network: Network) -> None:
        self.cli = cli
        self.network = network
        cli.bind = "[::]:0"

    def add_host(self, name: str, *, is_behind_router: bool = False) -> str:
        """Put a host into the network, where the home of that name is from now on; return its address."""
        add = self.network.add_host_behind_router if is_behind_router else self.network.add_host
        address = add(name)
        self.cli.under[name] = self.network.under(name)
        return address

    async def pair(self) -> list[PoolnetProcess]:
        """Start a server and a pool of ada and bob, and wait until these are linked."""
        server = await self.cli.start("server", "serve", "--listen", f"{self.add_host('server')}:7665")
        invite = await self.cli.create("ada", "garden", server=(await server.event("serving"))["address"])
        pair = [await self.cli.join("ada", "garden"), await self.cli.join("bob", invite)]
        await self.cli.linked("bob", "garden", count=1)
        return pair

    async def begin_transfer(self, giver: PoolnetProcess, taker: PoolnetProcess, source: Path) -> str:
        """Offer a file, and type a get; return its id."""
        file_id = await offer(self.cli, giver.home.name, "garden", source)
        await taker.event("offer", file_id=file_id)
        await taker.type_line(f"/get {file_id} {copy_of(source)}")
        return file_id

    async def transfer(self, giver: PoolnetProcess, taker: PoolnetProcess, source: Path) -> None:
        """Bring a file from one to the other."""
        file_id = await self.begin_transfer(giver, taker, source)
        await taker.event("complete", file_id=file_id)
        assert are_equal(source, copy_of(source))


@asynccontextmanager
async def open_field(directory: Path, *, routers: tuple[str, ...] = ()) -> AsyncIterator[Field]:
    """Make a network with hosts for ada and bob, some behind routers of their own; everything ends with the block."""
    with open_network() as network:
        async with open_cli(directory) as cli:
            field = Field(cli, network)
            for name in ("ada", "bob"):
                field.add_host(name, is_behind_router=name in routers)
            yield field


def copy_of(source: Path) -> Path:
    return source.with_name(f"copy-of-{source.name}")


def are_equal(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


async def reach(taker: PoolnetProcess, size: int) -> None:
    """Wait until a download has so many bytes."""
    count = 1
    while (await taker.event("progress", count=count))["bytes"] < size:
        count += 1


async def test_an_ordinary_network_is_used_with_its_full_datagrams(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        ada, bob = await field.pair()
        for name in ("ada", "bob"):
            (link,) = [peer for peer in (await field.cli.run(name, "peers", "garden")).records if peer["linked"]]
            assert link["datagram_size"] == 1452
        await field.transfer(ada, bob, write_file(tmp_path / "f.bin", 8 * MIB))


async def test_talk_does_not_wait_for_a_file_on_a_slow_uplink(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        ada, bob = await field.pair()
        field.network.limit_uplink("ada", "20mbit")
        source = write_file(tmp_path / "f.bin", 10 * MIB)
        file_id = await field.begin_transfer(ada, bob, source)
        delays = []
        for part in range(1, 4):
            await reach(bob, part * 2 * MIB)
            said_at = trio.current_time()
            await say(ada, f"part {part}", [bob])
            delays.append(trio.current_time() - said_at)
            assert not bob.all_of("complete"), "the file was faster"
        await bob.event("complete", file_id=file_id)
        assert are_equal(source, copy_of(source))
        print(f"a text took {[round(delay, 2) for delay in delays]} s")
        assert max(delays) < 2


@needs_translation
async def test_a_node_behind_a_router_gives_and_takes(tmp_path: Path) -> None:
    async with open_field(tmp_path, routers=("bob",)) as field:
        ada, bob = await field.pair()
        await field.transfer(ada, bob, write_file(tmp_path / "f.bin", 3 * MIB))
        await field.transfer(bob, ada, write_file(tmp_path / "g.bin", 3 * MIB, seed=2))


@needs_translation
async def test_nodes_behind_different_routers_find_each_other(tmp_path: Path) -> None:
    async with open_field(tmp_path, routers=("ada", "bob")) as field:
        ada, bob = await field.pair()
        await say(ada, "through the hole", [bob])
        await field.transfer(ada, bob, write_file(tmp_path / "f.bin", 3 * MIB))


async def test_a_transfer_goes_on_after_an_interface_was_down_for_a_moment(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        ada, bob = await field.pair()
        field.network.limit_uplink("ada", "60mbit")
        source = write_file(tmp_path / "f.bin", 24 * MIB)
        file_id = await field.begin_transfer(ada, bob, source)
        await reach(bob, 6 * MIB)
        field.network.switch_off("ada")
        await trio.sleep(3)
        assert not bob.all_of("complete")
        field.network.switch_on("ada")
        await bob.event("complete", file_id=file_id)
        assert are_equal(source, copy_of(source))
        await say(bob, "still linked", [ada])


async def test_a_transfer_goes_on_when_a_link_that_broke_can_be_made_again(tmp_path: Path) -> None:
    async with open_field(tmp_path) as field:
        ada, bob = await field.pair()
        field.network.limit_uplink("ada", "60mbit")
        source = write_file(tmp_path / "f.bin", 24 * MIB)
        file_id = await field.begin_transfer(ada, bob, source)
        await reach(bob, 6 * MIB)
        field.network.pull_plug("ada")
        await bob.event("node_left", name="ada")
        assert not bob.all_of("complete")
        field.network.plug_in("ada")
        await bob.event("complete", file_id=file_id)
        assert are_equal(source, copy_of(source))
        fetched = (await field.cli.run("bob", "status")).records[0]["file_bytes_in"]
        assert fetched < 24 * MIB + 4 * MIB, "it began again from nothing"
