"""Pools: making, entering, using and leaving one is ended at each checkpoint; nothing is left over, and all is whole.

Whole nodes over a network in memory, by a clock that jumps; how it is done is in cancelling.py.
"""

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from cancelling import FEW, Act, Bug, interrupt_everywhere, time_limit
from conftest import leaves_of
from link_world import LinkWorld, admit_all, device, open_world, wait_until
from test_pool import World, enter
from trio.testing import MockClock

import poolnet
from poolnet.net.connection import Connection
from poolnet.net.endpoint import Endpoint, open_endpoint
from poolnet.net.link import Link
from poolnet.node import Node
from poolnet.testing.memory_udp import MemoryNetwork

pytestmark = [pytest.mark.usefixtures("own_temporary_directory", "no_power_cuts"), time_limit(240)]


def check_home(node: Node) -> None:
    """Make sure that a home has nothing of pools that it does not know."""
    assert len(list((node.home / "pools").iterdir())) == len(node.pools())


async def test_a_pool_of_its_own_from_its_making_to_its_end(tmp_path: Path, jumping_clock: MockClock) -> None:
    @asynccontextmanager
    async def trial(directory: Path) -> AsyncIterator[Act]:
        world = World(directory)
        sent: list[poolnet.MsgId] = []
        gone: list[str] = []

        async def act() -> None:
            async with world.node("ada") as node:
                await node.create_pool("garden")
                async with node.join("garden", name="Ada") as pool:
                    sent.append(await pool.send("hello"))
                    await node.invite(node.find_pool("garden"))
                gone.append("garden")
                await node.leave_pool(node.find_pool("garden"))

        yield act
        async with world.node("ada") as node:
            check_home(node)
            if not node.pools():
                assert gone or not sent
                await node.create_pool("garden")
                sent.clear()
            async with node.join("garden", name="Ada") as pool:
                assert {message.msg_id for message in await pool.messages.latest(100)} >= set(sent)
                await pool.wait_attached(30)

    await interrupt_everywhere(trial, tmp_path, cases=FEW)


async def test_a_pool_on_a_server_of_others_is_made_or_not(tmp_path: Path, jumping_clock: MockClock) -> None:
    outside = World(tmp_path)
    async with outside.server() as server:

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:

            async def act() -> None:
                async with outside.node(f"{directory.name}/ada") as node:
                    await node.create_pool("garden", server=server.address)
                    await node.leave_pool(node.find_pool("garden"))

            yield act
            async with outside.node(f"{directory.name}/ada") as node:
                check_home(node)
                for info in node.pools():
                    await node.leave_pool(info)
                await node.create_pool("garden", server=server.address)

        await interrupt_everywhere(trial, tmp_path, cases=FEW)
        assert server.statistics().core.clients == 0


async def test_a_member_comes_talks_and_comes_back(tmp_path: Path, jumping_clock: MockClock) -> None:
    outside = World(tmp_path)
    async with outside.pool("ada") as (ada,):
        invite = await ada.node.invite(ada.node.find_pool("garden"))

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:
            sent: list[poolnet.MsgId] = []

            async def act() -> None:
                async with outside.node(f"{directory.name}/bob") as node:
                    async with node.join(invite, name="Bob") as pool:
                        await pool.wait_linked(30)
                        sent.append(await pool.send("hello"))
                        await pool.delivered(30)
                    async with node.join("garden", name="Rob") as pool:
                        sent.append(await pool.send_app("chess", b"e4"))
                        await pool.synced(30)
                        await pool.retract_message(sent.pop(0))
                        await pool.history.latest(5)
                    await node.history(node.find_pool("garden"), limit=5)
                    assert await node.offers(node.find_pool("garden")) == []

            yield act
            async with outside.node(f"{directory.name}/bob") as node:
                check_home(node)
                async with node.join("garden" if node.pools() else invite) as pool:
                    await pool.wait_linked(60)
                    await pool.synced(60)
                    there = {message.msg_id for message in await pool.messages.latest(1000)}
                    others = {message.msg_id for message in await ada.pool.messages.latest(1000)}
                    assert set(sent) <= there
                    assert there <= others
            with trio.fail_after(60):
                while any(member.linked for member in ada.pool.members()):  # noqa: ASYNC110 - has no event
                    await trio.sleep(0.1)

        await interrupt_everywhere(trial, tmp_path, cases=FEW)


async def test_a_file_is_fetched_from_a_member(tmp_path: Path, jumping_clock: MockClock) -> None:
    outside = World(tmp_path)
    (tmp_path / "letter.txt").write_bytes(b"Dear all" * 100_000)
    async with outside.pool("ada") as (ada,):
        invite = await ada.node.invite(ada.node.find_pool("garden"))
        offer = await ada.pool.files.offer(tmp_path / "letter.txt")

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:
            target = directory / "copy"
            async with outside.node(f"{directory.name}/bob") as node, enter(node, invite, "Bob"):
                pass

            async def fetch() -> None:
                async with outside.node(f"{directory.name}/bob") as node, enter(node, "garden", "Bob") as bob:
                    await bob.sees(poolnet.FileOffered)
                    await bob.pool.files.download(offer.file_id, target)

            yield fetch
            if not target.exists():
                await fetch()
            assert target.read_bytes() == (tmp_path / "letter.txt").read_bytes()

        await interrupt_everywhere(trial, tmp_path, cases=FEW, keeps=r".*\.(part|journal)")


@asynccontextmanager
async def open_pair(network: MemoryNetwork) -> AsyncIterator[tuple[LinkWorld, Endpoint, Endpoint]]:
    """Two endpoints that stay open."""
    async with trio.open_nursery() as nursery:
        world = LinkWorld(network, nursery)
        yield world, await world.open(1), await world.open(2)
        nursery.cancel_scope.cancel()


async def test_a_link_that_is_dialled_in_vain_is_closed_at_both_ends(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with open_pair(MemoryNetwork(1)) as (world, here, there):

        @asynccontextmanager
        async def trial(directory: Path) -> AsyncIterator[Act]:
            accepted: list[Link] = []

            async def act() -> None:
                link = await world.dial(here, there, key=2)
                try:
                    await trio.sleep(0.1)
                finally:
                    await link.aclose()

            yield act
            with trio.move_on_after(1):
                accepted.append(await there.accept())
            await wait_until(lambda: here.statistics().links == there.statistics().links == 0, limit_s=20)

        await interrupt_everywhere(trial, tmp_path, cases={"cancelled at any step": 60}, counts_all=True)


async def test_a_link_that_comes_up_just_when_its_dial_is_given_up_is_closed(
    jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_pair(MemoryNetwork(1)) as (world, here, there):
        scope = trio.CancelScope()
        take = here.proven

        def give_up_then_take(connection: Connection, link: Link) -> None:
            scope.cancel()
            take(connection, link)

        monkeypatch.setattr(here, "proven", give_up_then_take)
        with scope:
            await world.dial(here, there, key=2)
        assert scope.cancelled_caught
        await wait_until(lambda: here.statistics().links == there.statistics().links == 0, limit_s=20)


async def test_an_endpoint_ends_also_when_closing_a_link_fails(
    jumping_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Endpoint.run
    deadline = trio.current_time() + 60

    async def run_for_a_while(endpoint: Endpoint, services: trio.CancelScope) -> None:
        services.deadline = deadline
        await run(endpoint, services)

    async def fail(_link: Link) -> None:
        raise Bug

    async def open_and_close(world: LinkWorld, there: Endpoint) -> None:
        async with open_endpoint(
            key=device(1),
            listen=("10.0.0.1", 1000),
            authorise=admit_all,
            rng=random.Random(1),
            open_socket=world.network.open_socket,
        ) as here:
            await world.dial(here, there, key=2)
            monkeypatch.setattr(Link, "aclose", fail)

    async with open_world(MemoryNetwork(1)) as world:
        there = await world.open(2)
        monkeypatch.setattr(Endpoint, "run", run_for_a_while)
        with pytest.raises(ExceptionGroup) as caught:
            await open_and_close(world, there)
        monkeypatch.undo()
    assert {type(leaf) for leaf in leaves_of(caught.value)} == {Bug}
    assert trio.current_time() < deadline


async def test_a_pool_that_is_just_being_entered_is_not_entered_twice_or_left(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.node("ada") as node:
        await node.create_pool("garden")
        info = node.find_pool("garden")
        refused: list[str] = []

        async def enter_again() -> None:
            with pytest.raises(poolnet.LocalError, match="just being entered"):
                async with node.join(info):
                    pass
            with pytest.raises(poolnet.LocalError, match="end that first"):
                await node.leave_pool(info)
            refused.append(info.name)

        async with trio.open_nursery() as nursery:
            entering = node.join(info)
            nursery.start_soon(_enter_and_leave, entering)
            while info.pool_id not in node._open:
                await trio.lowlevel.checkpoint()
            assert node.statistics().joined_pools == 0
            await enter_again()
        assert refused
        async with node.join(info) as pool:
            await pool.wait_attached(30)


async def _enter_and_leave(entering: AbstractAsyncContextManager[object]) -> None:
    async with entering:
        pass
