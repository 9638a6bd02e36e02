"""Whole nodes in one process: real aioquic, SQLite and files, a lossy network in memory, a jumping clock."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import poolnet
from poolnet.clock import make_hlc
from poolnet.identity.authorship import sign_message
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import make_removal
from poolnet.limits import GLARE_WAIT_S, MAX_TEXT_CHARS
from poolnet.node import Node
from poolnet.pool_net import PoolNet
from poolnet.protocol.gossip import Verdict
from poolnet.steady_time import WallClock
from poolnet.steady_time import read_system_ms as now_ms
from poolnet.testing.memory_udp import MemoryNetwork
from poolnet.wire.bodies import TextBody
from poolnet.wire.message import encode_message
from poolnet.wire.sync_frames import Address

pytestmark = pytest.mark.timeout(240)


class World:
    """Devices on one network, each at an address of its own; `clocks` are of those that do not have the system's."""

    def __init__(
        self, directory: Path, *, seed: int = 1, loss: float = 0.0, clocks: Mapping[str, WallClock] | None = None
    ) -> None:
        self.network = MemoryNetwork(seed, latency_s=0.01, jitter_s=0.005, loss=loss)
        self.directory = directory
        self._hosts = 0
        self._clocks = {} if clocks is None else clocks

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Node]:
        """Open a device."""
        self._hosts += 1
        listen = (f"10.{self._hosts // 250}.0.{self._hosts % 250}", 0)
        async with poolnet.open_node(
            self.directory / name,
            listen=listen,
            open_socket=self.network.open_socket,
            wall_clock=self._clocks.get(name),
        ) as node:
            yield node

    @asynccontextmanager
    async def server(self, port: int = 7665) -> AsyncIterator[poolnet.SyncServer]:
        """Run a sync server at 10.0.1.1."""
        async with poolnet.open_sync_server(
            data_dir=self.directory / "server",
            listen=("10.0.1.1", port),
            open_socket=self.network.open_socket,
            wall_clock=self._clocks.get("server"),
        ) as server:
            yield server

    async def run_server(self, end: trio.Event, *, task_status: trio.TaskStatus[poolnet.ServerAddress]) -> None:
        """Run the server until `end` is set."""
        async with self.server() as server:
            task_status.started(server.address)
            await end.wait()

    @asynccontextmanager
    async def pool(self, *names: str, links: int | None = None) -> AsyncIterator[list["Member"]]:
        """Run a server and members that are all linked with each other, or with at least `links` others."""
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self.server())
            members: list[Member] = []
            invite: poolnet.InviteLink | None = None
            for name in names:
                node = await stack.enter_async_context(self.node(name))
                invite = invite or await node.create_pool("garden", server=server.address)
                members.append(await stack.enter_async_context(enter(node, invite, name)))
            for member in members:
                await member.linked(len(names) - 1 if links is None else links)
            yield members


class Member:
    """A joined pool, and what was heard in it."""

    def __init__(self, node: Node, pool: PoolNet) -> None:
        self.node = node
        self.pool = pool
        self.events: list[object] = []
        self._heard = trio.lowlevel.ParkingLot()

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Collect events until cancelled."""
        async with self.pool.subscribe() as events:
            task_status.started()
            async for event in events:
                self.events.append(event)
                self._heard.unpark_all()

    def texts(self) -> list[str]:
        """Return the texts heard so far."""
        return [event.text for event in self.events if isinstance(event, poolnet.MessageReceived)]

    async def hears(self, *texts: str, within_s: float = 60) -> None:
        """Wait until all these texts were heard."""
        with trio.fail_after(within_s):
            while not set(texts) <= set(self.texts()):
                await self._heard.park()

    async def sees(self, kind: type) -> object:
        """Wait for an event of that kind; return the first."""
        with trio.fail_after(60):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                await self._heard.park()
        return found[0]

    async def linked(self, count: int) -> None:
        """Wait until there are `count` links."""
        with trio.fail_after(60):
            while sum(member.linked for member in self.pool.members()) < count:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.05)


@asynccontextmanager
async def enter(node: Node, target: poolnet.InviteLink | str, name: str) -> AsyncIterator[Member]:
    """Join and collect events."""
    async with node.join(target, name=name) as pool, trio.open_nursery() as nursery:
        member = Member(node, pool)
        await nursery.start(member.listen)
        yield member
        nursery.cancel_scope.cancel()


async def test_five_nodes_on_a_lossy_network_hear_everything_in_one_order(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path, loss=0.05).pool("ada", "bob", "cyd", "dan", "eve") as members:
        texts = [f"{number} by {member.pool.display_name}" for number in range(4) for member in members]
        for number in range(4):
            for member in members:
                await member.pool.send(f"{number} by {member.pool.display_name}")
        for member in members:
            await member.hears(*texts)
        histories = [
            [entry.msg_id for entry in await member.node.history(member.node.find_pool("garden"), limit=100)]
            for member in members
        ]
        assert len(histories[0]) == len(texts)
        assert all(history == histories[0] for history in histories)
        assert all(len(member.texts()) == len(texts) for member in members), "a message came twice"


async def test_a_file_crosses_a_lossy_network_and_arrives_whole(tmp_path: Path, jumping_clock: MockClock) -> None:
    content = bytes(range(256)) * 4096 + b"the end"
    (tmp_path / "source.bin").write_bytes(content)
    async with World(tmp_path, loss=0.1).pool("ada", "bob") as (ada, bob):
        offer = await ada.pool.files.offer(tmp_path / "source.bin")
        await bob.sees(poolnet.FileOffered)
        path = await bob.pool.files.download(offer.file_id, tmp_path / "copy.bin")
        assert path.read_bytes() == content


async def test_a_message_written_alone_reaches_the_first_one_who_comes(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(ada, "garden", "ada") as alone:
            await alone.pool.send("is anybody here?")
            with pytest.raises(poolnet.Unreachable):
                await alone.pool.delivered(1.0)
            async with world.node("bob") as node, enter(node, invite, "bob") as bob:
                await bob.hears("is anybody here?")
                await alone.pool.delivered(5.0)
                assert bob.events[-1].name == "ada"


async def test_what_was_said_in_an_earlier_session_is_delivered_in_a_later_one(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada, world.node("bob") as bob:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(bob, invite, "bob"):
            pass
        async with enter(ada, "garden", "ada") as before:
            await before.pool.send("kept for later")
        async with enter(ada, "garden", "ada") as after, enter(bob, "garden", "bob") as hearer:
            await hearer.hears("kept for later")
            await after.pool.delivered(10.0)


async def test_what_a_neighbour_has_from_an_earlier_session_is_delivered_though_this_device_lacks_what_came_since(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada_node, world.node("bob") as bob_node:
        invite = await ada_node.create_pool("garden", server=server.address)
        async with enter(ada_node, "garden", "ada") as ada:
            async with enter(bob_node, invite, "bob") as bob:
                await bob.pool.send("see you")
                await ada.hears("see you")
            await ada.pool.send("come back")
            async with enter(bob_node, "garden", "bob") as bob:
                await bob.hears("come back")
                await bob.pool.delivered(5.0)


async def test_members_go_on_without_the_server_and_meet_it_again(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    end = trio.Event()
    async with world.node("ada") as ada_node, world.node("bob") as bob_node, trio.open_nursery() as nursery:
        invite = await ada_node.create_pool("garden", server=await nursery.start(world.run_server, end))
        async with enter(ada_node, "garden", "ada") as ada, enter(bob_node, invite, "bob") as bob:
            await ada.linked(1)
            end.set()
            await ada.sees(poolnet.ServerLost)
            await ada.pool.send("without a server")
            await bob.hears("without a server")
            ada.events.clear()
            await trio.sleep(5)
            async with world.server(), world.node("cyd") as cyd_node, enter(cyd_node, invite, "cyd") as cyd:
                await ada.sees(poolnet.ServerAttached)
                await cyd.hears("without a server")
                gone = [event for event in ada.events if isinstance(event, poolnet.NodeLeft)]
                assert gone == [], "a restart of the server disturbed the pool"


async def test_a_lost_link_comes_back_through_the_mesh_while_the_server_is_gone(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.pool("ada", "bob", "cyd") as (ada, bob, cyd):
        world.network.silence(("10.0.1.1", 7665))
        await ada.sees(poolnet.ServerLost)
        await cyd.sees(poolnet.ServerLost)
        ada.pool._links.links[bob.node.device_id].close_now(code="test", reason="")
        with trio.fail_after(60):
            while bob.node.device_id in ada.pool._links.links:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await ada.linked(2)
        await ada.pool.send("linked again")
        await bob.hears("linked again")


async def test_a_silent_node_is_noticed_and_reported_as_gone(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.pool("ada", "bob") as (ada, bob):
        await ada.sees(poolnet.NodeJoined)
        world.network.silence(bob.node._endpoint.address)
        left = await ada.sees(poolnet.NodeLeft)
        assert left == poolnet.NodeLeft(node=bob.node.device_id, name="bob")


async def test_a_neighbour_that_was_killed_and_is_back_before_its_silence_is_noticed_is_linked_again_at_once(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    ids = {}
    for name in ("ada", "bob"):
        async with world.node(name) as node:
            ids[name] = node.device_id
    dialler, killed = sorted(ids, key=lambda name: ids[name])  # by their ids the one that is killed would wait
    async with world.server() as server, world.node(dialler) as node:
        invite = await node.create_pool("garden", server=server.address)
        async with enter(node, invite, dialler) as here:
            async with world.node(killed) as before, enter(before, invite, killed):
                await here.linked(1)
                world.network.silence(before._endpoint.address)
            async with world.node(killed) as after, enter(after, "garden", killed) as back:
                with trio.fail_after(GLARE_WAIT_S / 2):
                    await back.linked(1)
                await here.pool.send("welcome back")
                await back.hears("welcome back", within_s=2)


async def test_a_removed_member_is_cut_off_and_cannot_come_back(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.pool("ada", "bob", "cyd") as (ada, bob, cyd):
        statement = make_removal(
            ada.node._own.key,
            pool_id=ada.pool.pool_id,
            device=bob.node.device_id,
            keep=(),
            hlc=ada.pool._time.clock.tick(0),
        )
        await ada.pool.add_statement(statement)
        with trio.fail_after(60):
            while bob.node.device_id in {*ada.pool._links.links, *cyd.pool._links.links}:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await ada.pool.send("without bob")
        await cyd.hears("without bob")
        assert bob.node.device_id not in [member.node for member in cyd.pool.members()]
        await trio.sleep(30)
        assert "without bob" not in bob.texts()


async def test_an_invite_that_is_used_up_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada:
        await ada.create_pool("garden", server=server.address)
        invite = await ada.invite(ada.find_pool("garden"), uses=1)
        async with world.node("bob") as node, node.join(invite):
            pass
        async with world.node("cyd") as node:
            with pytest.raises(poolnet.Refused) as caught:
                async with node.join(invite):
                    pytest.fail("a used invite let somebody in")
            assert caught.value.code == "invite_used_up"
            assert node.pools() == []
            assert list((node.home / "pools").iterdir()) == []


async def test_an_invite_with_the_wrong_secret_is_refused(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada, world.node("bob") as bob:
        invite = await ada.create_pool("garden", server=server.address)
        forged = poolnet.InviteLink(servers=invite.servers, pool_id=invite.pool_id, secret=bytes(32))
        with pytest.raises(poolnet.Refused):
            async with bob.join(forged):
                pytest.fail("a forged invite let somebody in")


async def test_nobody_at_the_address_of_an_invite_is_unreachable(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.node("ada") as ada, world.node("bob") as bob:
        async with world.server() as server:
            invite = await ada.create_pool("garden", server=server.address)
        with pytest.raises(poolnet.Unreachable):
            async with bob.join(invite):
                pytest.fail("joined without a server")
        assert bob.pools() == []


async def test_a_text_over_the_limit_is_an_error_and_not_sent(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada:
        await ada.create_pool("garden", server=server.address)
        async with ada.join("garden") as pool:
            for text in ("", "x" * (MAX_TEXT_CHARS + 1)):
                with pytest.raises(poolnet.TextTooLong):
                    await pool.send(text)
            await pool.send("x" * MAX_TEXT_CHARS)
        assert len(await ada.history(ada.find_pool("garden"), limit=10)) == 1


async def test_leaving_for_good_is_told_to_the_others_and_a_new_invite_leads_in_again(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada, world.node("bob") as bob:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(ada, "garden", "ada") as founder:
            async with enter(bob, invite, "bob"):
                await founder.linked(1)
            await bob.leave_pool(bob.find_pool("garden"))
            assert bob.pools() == []
            with trio.fail_after(30):
                while len(founder.pool.members()) > 1:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            async with enter(bob, await ada.invite(ada.find_pool("garden")), "bob") as again:
                await founder.linked(1)
                await again.pool.send("here again")
                await founder.hears("here again")


async def test_a_server_that_lies_about_the_time_neither_stops_a_node_nor_moves_it_out_of_this_century(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        for unix_ms in (2**64 - 1, 0):
            ada.pool._placement.observed(Address(host="192.0.2.1", port=1), unix_ms)
            await ada.pool.send(f"at {unix_ms}")
            await bob.hears(f"at {unix_ms}")
        for entry in await ada.node.history(ada.node.find_pool("garden"), limit=10):
            assert abs(entry.unix_ms - now_ms()) < 120_000


async def test_a_neighbour_outvotes_a_server_whose_time_is_a_day_off(tmp_path: Path, jumping_clock: MockClock) -> None:
    async with World(tmp_path).pool("ada", "bob") as (ada, bob):
        says = ada.pool._links.links[bob.node.device_id]._pings._their_clock.says
        elapsed_ms = ada.node._time.elapsed_ms()
        says(ada.node._time.now_ms() + 5000, at_elapsed_ms=elapsed_ms)
        ada.pool._placement.observed(Address(host="192.0.2.1", port=1), now_ms() + 24 * 3600_000)
        assert round(ada.pool._time.clock.offset_ms, -2) == 5000
        says(ada.node._time.now_ms() + 9000, at_elapsed_ms=elapsed_ms)
        await ada.pool.send("corrected anew")
        assert round(ada.pool._time.clock.offset_ms, -2) == 9000


async def test_what_a_removed_member_says_after_it_costs_nobody_a_link(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    """The removal voids how bob had come in; cyd, who has not heard of it, passes his message on."""
    async with World(tmp_path).pool("ada", "bob", "cyd") as (ada, bob, cyd):
        before, hlc, after = (ada.pool._time.clock.tick(now_ms()) for _ in range(3))
        old, new = (
            sign_message(bob.node._own.key, pool_id=ada.pool.pool_id, hlc=at, body=TextBody(text="hi"))
            for at in (before, after)
        )
        removal = make_removal(ada.node._own.key, pool_id=ada.pool.pool_id, device=bob.node.device_id, keep=(), hlc=hlc)
        ada.pool._membership.add(removal)
        assert ada.pool._flow._inbox.judge(new.msg_id, encode_message(new)) is Verdict.DROP
        assert ada.pool._flow._inbox.judge(old.msg_id, encode_message(old)) is Verdict.ACCEPT
        stranger = sign_message(
            DeviceKey.from_seed(bytes(32)), pool_id=ada.pool.pool_id, hlc=hlc, body=TextBody(text="x")
        )
        assert ada.pool._flow._inbox.judge(stranger.msg_id, encode_message(stranger)) is Verdict.REJECT
        assert ada.node.device_id in cyd.pool._links.links


async def test_leaving_comes_after_everything_that_was_said_even_by_a_clock_that_is_ahead(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada, world.node("bob") as bob:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(ada, "garden", "ada") as founder:
            async with enter(bob, invite, "bob") as guest:
                guest.pool._time.clock.observe(make_hlc(now_ms() + 50_000))
                await guest.pool.send("from the future")
                await founder.hears("from the future")
                last = await guest.pool.messages.last_hlc()
            await bob.leave_pool(bob.find_pool("garden"))
            with trio.fail_after(30):
                while not (left := founder.pool._membership.state.left):  # noqa: ASYNC110
                    await trio.sleep(0.1)
            assert left[bob.device_id] > last


async def test_the_server_that_a_node_runs_for_its_pool_serves_no_other(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.node("ada") as ada, world.node("eve") as eve:
        invite = await ada.create_pool("garden")
        async with enter(ada, "garden", "ada"):
            with pytest.raises(poolnet.Refused) as refused:
                await eve.create_pool("squat", server=invite.servers[0])
            assert refused.value.code == "unknown_pool"
            assert eve.pools() == []
            async with enter(eve, invite, "eve") as guest:
                await guest.linked(1)


async def test_in_a_pool_larger_than_a_mesh_whoever_offers_a_file_can_be_reached(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    names = [f"node{number}" for number in range(12)]
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 3000)
    world = World(tmp_path)
    async with world.pool(*names, links=2) as members:
        offer = await members[0].pool.files.offer(source)
        for member in members:
            await member.sees(poolnet.FileOffered)
        strangers = [member for member in members[1:] if members[0].node.device_id not in member.pool._links.links]
        assert strangers, "with twelve nodes and six links each, somebody is not linked to the first one"
        target = tmp_path / "copy.bin"
        with trio.fail_after(60):
            await strangers[0].pool.files.download(offer.file_id, target)
        assert target.read_bytes() == source.read_bytes()
        await trio.sleep(60)
        links = strangers[0].pool._links  # by chance they may be acquainted
        assert not links.is_steady(members[0].node.device_id), "the link is not needed any more"


async def test_two_pools_hosted_by_one_device_do_not_share_a_port(tmp_path: Path, jumping_clock: MockClock) -> None:
    world = World(tmp_path)
    async with world.node("ada") as ada:
        first, second = await ada.create_pool("one"), await ada.create_pool("two")
        assert first.servers[0].port != second.servers[0].port
        async with ada.join("one") as one, ada.join("two") as two:
            await one.wait_attached(5)
            await two.wait_attached(5)


async def test_what_happens_while_a_pool_is_entered_is_heard_by_who_subscribes_then(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.pool("ada") as (ada,):
        await ada.pool.send("before you came")
        invite = await ada.node.invite(ada.node.find_pool("garden"))
        async with world.node("bob") as node, node.join(invite, name="bob") as pool:
            await pool.wait_linked(10)
            await trio.sleep(5)
            async with pool.subscribe() as events:
                with trio.fail_after(1):
                    texts = [event.text async for event in _until(events, poolnet.MessageReceived)]
            assert texts == ["before you came"]


async def _until(events: AsyncIterator[object], kind: type) -> AsyncIterator[object]:
    """Yield the first event of a kind."""
    async for event in events:
        if isinstance(event, kind):
            yield event
            return


async def test_a_new_name_is_seen_by_the_others_and_kept_for_the_next_session(
    tmp_path: Path, jumping_clock: MockClock
) -> None:
    world = World(tmp_path)
    async with world.server() as server, world.node("ada") as ada, world.node("bob") as bob:
        invite = await ada.create_pool("garden", server=server.address)
        async with enter(ada, "garden", "ada") as hearer:
            async with enter(bob, invite, "bob") as renamed:
                await renamed.linked(1)
                await renamed.pool.rename("  robert ")
                await renamed.pool.send("call me robert")
                await hearer.hears("call me robert")
            async with bob.join("garden") as again:
                assert again.display_name == "robert"
                await again.wait_linked(10)
                await again.send("still robert")
                await hearer.hears("still robert")
        names = {event.text: event.name for event in hearer.events if isinstance(event, poolnet.MessageReceived)}
        assert names == {"call me robert": "robert", "still robert": "robert"}
        async with ada.join("garden") as pool:
            with pytest.raises(poolnet.TextTooLong):
                await pool.rename(" ")
