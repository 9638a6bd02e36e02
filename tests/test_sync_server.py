"""A whole sync server: real endpoint over loopback, real database; and with links made by hand where time matters."""

import doctest
import inspect
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace

import pytest
import trio
from sync_world import Node, PoolMaker, device_key

import poolnet
from poolnet.errors import AddressInUse, DiskFull, LinkClosed, Refused, StoreLocked
from poolnet.identity.invite_link import ServerAddress
from poolnet.identity.statements import decode_statement_untrusted
from poolnet.ids import PublicKey
from poolnet.limits import CLOSE_TIMEOUT_S, MAX_CLIENT_BACKLOG, RELINK_GRACE_S
from poolnet.net.endpoint import Endpoint, open_endpoint
from poolnet.net.link import Link
from poolnet.protocol import attachment
from poolnet.server import SyncServer, open_sync_server
from poolnet.server.store import open_pool_store
from poolnet.steady_time import SteadyTime
from poolnet.wire.link_frames import Purpose
from poolnet.wire.pool_frames import WantStatements
from poolnet.wire.sync_frames import Attached, RosterJoined, RosterLeft, SendSignal
from poolnet.wire.sync_frames import Refused as RefusedFrame

LOCAL = ("127.0.0.1", 0)


def refuse_everyone(hello):
    raise Refused("a node of a test takes no links", code="refused")


class OnlineNode:
    """A node whose attachment is driven over a real link."""

    def __init__(self, node: Node, link) -> None:
        self.node = node
        self.link = link
        self.changed = trio.Condition()

    async def run(self) -> None:
        await self.feed(attachment.Connected())
        try:
            while True:
                await self.feed(attachment.Received(await self.link.receive_frame()))
        except LinkClosed:
            await self.feed(attachment.Disconnected())

    async def feed(self, event) -> None:
        node = self.node
        for effect in node.attachment.handle(event, trio.current_time()):
            match effect:
                case attachment.SendFrame(frame):
                    self.link.post_frame(frame)
                case attachment.AddStatements(statements):
                    for encoded in statements:
                        node.membership.add(decode_statement_untrusted(encoded))
                case attachment.RosterReset(epoch, entries):
                    node.roster.reset(epoch, entries)
                case attachment.NodeJoined(epoch, entry):
                    node.roster.apply_joined(epoch, entry)
                case attachment.NodeLeft(epoch, gone):
                    node.roster.apply_left(epoch, gone)
                case attachment.AttachRefused():
                    node.refused.append(effect)
                case attachment.Observed():
                    node.observed = effect
                case attachment.SignalReceived(sender, body):
                    node.signals.append((sender, body))
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition) -> None:
        with trio.fail_after(10):
            await self._until(condition)

    async def _until(self, condition) -> None:
        async with self.changed:
            while not condition(self.node):
                await self.changed.wait()


async def dial(endpoint: Endpoint, server: ServerAddress, node: Node, purpose: Purpose) -> Link:
    return await endpoint.dial(
        (server.host, server.port),
        peer_key=server.key,
        hello_purpose=purpose,
        pool_id=node.membership.pool_id,
        credentials=(),
    )


@asynccontextmanager
async def online(node: Node, server: ServerAddress) -> AsyncIterator[OnlineNode]:
    """Open an endpoint for `node`, dial the server and follow it."""
    async with (
        open_endpoint(key=node.key, listen=LOCAL, authorise=refuse_everyone, rng=Random(1)) as endpoint,
        trio.open_nursery() as nursery,
    ):
        link = await dial(endpoint, server, node, Purpose.SYNC)
        driven = OnlineNode(node, link)
        nursery.start_soon(driven.run)
        yield driven
        link.close_now()


def founder_and_newcomer() -> tuple[PoolMaker, Node, Node]:
    maker = PoolMaker(unix_ms=2**44)  # far in the future, so that no invite expires by the clock on the wall
    secret, invite = maker.invite()
    founder = Node(maker.founder, maker.pool_id, [maker.genesis, invite])
    key = device_key(2)
    return maker, founder, Node(key, maker.pool_id, [maker.join(key, secret)])


async def test_two_nodes_meet_at_a_server_and_signal_each_other(tmp_path):
    _, founder, newcomer = founder_and_newcomer()
    async with (
        open_sync_server(data_dir=tmp_path, listen=LOCAL) as server,
        online(founder, server.address) as first,
    ):
        await first.until(lambda node: node.is_attached)
        async with online(newcomer, server.address) as second:
            await second.until(lambda node: node.is_attached)
            await first.until(lambda node: newcomer.device in node.roster)
            assert founder.membership.is_member(newcomer.device)
            assert newcomer.observed.address.host == "127.0.0.1"
            await second.feed(attachment.Signal(founder.device, b"here I am"))
            await first.until(lambda node: node.signals == [(newcomer.device, b"here I am")])
            statistics = server.statistics()
            assert (statistics.core.attached, statistics.core.signals_passed) == (2, 1)
            await second.feed(attachment.Leaving())
            await first.until(lambda node: newcomer.device not in node.roster)


async def run_server(data_dir, stop: trio.Event, *, task_status) -> None:
    async with open_sync_server(data_dir=data_dir, listen=LOCAL) as server:
        task_status.started(server)
        await stop.wait()


async def test_a_restarted_server_has_the_same_key_and_knows_everyone(tmp_path):
    _, founder, newcomer = founder_and_newcomer()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(run_server, tmp_path, stop)
        address = server.address
        async with online(founder, address) as first:
            await first.until(lambda node: node.is_attached)
            async with online(newcomer, address) as second:
                await second.until(lambda node: node.is_attached)
                places = {entry.node: entry.places for entry in newcomer.roster.entries()}
                stop.set()  # the server goes first: nobody has left
                await second.until(lambda node: not node.is_attached)
    async with open_sync_server(data_dir=tmp_path, listen=("127.0.0.1", address.port)) as server:
        assert server.address == address
        async with online(newcomer, server.address) as second:
            await second.until(lambda node: node.is_attached)
            assert {entry.node: entry.places for entry in newcomer.roster.entries()} == places


async def test_who_is_no_member_hears_why(tmp_path):
    maker, founder, _ = founder_and_newcomer()
    stranger = Node(device_key(9), maker.pool_id, [])
    async with (
        open_sync_server(data_dir=tmp_path, listen=LOCAL) as server,
        online(founder, server.address) as first,
    ):
        await first.until(lambda node: node.is_attached)
        async with online(stranger, server.address) as refused:
            await refused.until(lambda node: node.refused)
            assert stranger.refused[0].code == "not_a_member"
            await refused.link.wait_closed()
        assert server.statistics().core.closed == {"not_a_member": 1}


async def test_a_member_of_a_pool_does_not_mistake_a_server_for_another_member(tmp_path):
    _, founder, _ = founder_and_newcomer()
    async with (
        open_sync_server(data_dir=tmp_path, listen=LOCAL) as server,
        open_endpoint(key=founder.key, listen=LOCAL, authorise=refuse_everyone, rng=Random(1)) as endpoint,
    ):
        with pytest.raises(Refused) as caught:
            await dial(endpoint, server.address, founder, Purpose.POOL)
        assert caught.value.code == "wrong_purpose"


async def test_what_a_flushed_link_told_is_stored(tmp_path):
    maker, founder, _ = founder_and_newcomer()
    async with open_sync_server(data_dir=tmp_path, listen=LOCAL) as server, online(founder, server.address) as first:
        await first.until(lambda node: node.is_attached)
        _, invite = maker.invite()
        founder.membership.add(invite)
        [encoded] = founder.membership.get([invite.statement_id])
        await first.feed(attachment.StatementsMade((encoded,)))
        await first.link.flushed()
        before = server.statistics().store.transactions
        assert before > 0
    async with open_pool_store(tmp_path / "server.db") as store:
        assert encoded in (await store.load(maker.pool_id)).statements


async def test_one_server_a_directory_and_one_a_port(tmp_path):
    async with open_sync_server(data_dir=tmp_path / "a", listen=LOCAL) as server:
        with pytest.raises(StoreLocked):
            async with open_sync_server(data_dir=tmp_path / "a", listen=LOCAL):
                pass
        with pytest.raises(AddressInUse):
            async with open_sync_server(data_dir=tmp_path / "b", listen=("127.0.0.1", server.address.port)):
                pass


async def test_the_address_names_a_host_that_others_can_use(tmp_path):
    async with open_sync_server(data_dir=tmp_path, listen=("::", 0)) as server:
        assert server.address.host not in ("::", "0.0.0.0")
    async with open_sync_server(data_dir=tmp_path, listen=LOCAL, public_host="pool.example.org") as server:
        assert str(server.address).startswith("poolnet://pool.example.org:")
    assert (tmp_path / "device.key").stat().st_mode & 0o777 == 0o600


def test_the_example_in_the_documentation_runs(tmp_path):
    parser = doctest.DocTestParser()
    example = parser.get_doctest(
        inspect.getdoc(open_sync_server),
        {"poolnet": poolnet, "trio": trio, "data_dir": tmp_path},
        "open_sync_server",
        None,
        None,
    )
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


# --- with links made by hand --------------------------------------------------------------------------------------


class HandLink:
    """A link of which the test is the other side. With `stalled`, nothing that is sent is ever consumed."""

    def __init__(self, node: Node, *, stalled: bool = False) -> None:
        self.peer, self.pool_id = node.device, node.membership.pool_id
        self.remote_address = ("192.0.2.1", 4000)
        self.stalled = stalled
        self.sent: list = []
        self.closed_as: str | None = None
        self._frames, self._incoming = trio.open_memory_channel(1000)
        self._is_closed = trio.Event()

    def say(self, frame) -> None:
        self._frames.send_nowait(frame)

    async def receive_frame(self):
        try:
            return await self._incoming.receive()
        except trio.EndOfChannel:
            raise LinkClosed("closed") from None

    async def send_frame(self, frame) -> None:
        await trio.lowlevel.checkpoint()
        if self.stalled:
            await self._is_closed.wait()
        if self.closed_as is not None:
            raise LinkClosed("closed")
        self.sent.append(frame)

    async def aclose(self, *, code: str = "done", reason: str = "") -> None:
        self.close_now(code=code, reason=reason)

    def close_now(self, *, code: str = "done", reason: str = "") -> None:
        if self.closed_as is None:
            self.closed_as = code
            self._frames.close()
            self._is_closed.set()


@asynccontextmanager
async def server_by_hand(path) -> AsyncIterator[tuple[SyncServer, trio.MemorySendChannel]]:
    """Run a server that accepts what the test puts into a channel."""
    send, receive = trio.open_memory_channel(100)
    endpoint = SimpleNamespace(accept=receive.receive, statistics=lambda: None, time=SteadyTime())
    address = ServerAddress(host="127.0.0.1", port=1, key=PublicKey(b"k" * 32))
    async with open_pool_store(path / "server.db") as store, trio.open_nursery() as nursery:
        server = SyncServer(endpoint, store, address=address)
        nursery.start_soon(server.run)
        yield server, send
        nursery.cancel_scope.cancel()


async def attach_by_hand(node: Node, links: trio.MemorySendChannel) -> HandLink:
    link = HandLink(node)
    links.send_nowait(link)
    for effect in node.attachment.handle(attachment.Connected(), 0.0):
        link.say(effect.frame)
    answered = 0
    while not any(isinstance(frame, Attached) for frame in link.sent):
        await trio.testing.wait_all_tasks_blocked(0.01)
        questions = [frame for frame in link.sent if isinstance(frame, WantStatements)]
        for question in questions[answered:]:
            for effect in node.attachment.handle(attachment.Received(question), 0.0):
                link.say(effect.frame)
        answered = len(questions)
    return link


async def test_a_client_that_does_not_listen_is_closed_and_disturbs_nobody(tmp_path):
    _, founder, newcomer = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (server, links):
        first = await attach_by_hand(founder, links)
        second = await attach_by_hand(newcomer, links)
        second.stalled = True
        await trio.testing.wait_all_tasks_blocked(0.01)
        session = next(session for session in server._sessions.values() if session.link is second)
        for _ in range(MAX_CLIENT_BACKLOG):
            session.outbox.send_nowait(RefusedFrame(code="x", message="y"))
        for _ in range(3):
            first.say(SendSignal(to=newcomer.device, body=b"x"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert second.closed_as == "too_slow"
        assert first.closed_as is None
        assert server.statistics().too_slow == 1


async def test_a_refused_client_that_does_not_listen_is_closed_all_the_same(tmp_path, jumping_clock):
    maker, _, _ = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (server, links):
        link = HandLink(Node(device_key(9), maker.pool_id, []), stalled=True)
        links.send_nowait(link)
        node_frames = Node(device_key(9), maker.pool_id, []).attachment.handle(attachment.Connected(), 0.0)
        for effect in node_frames:
            link.say(effect.frame)
        started = trio.current_time()
        await link._is_closed.wait()
        assert link.closed_as == "unknown_pool"
        assert trio.current_time() - started <= CLOSE_TIMEOUT_S + 1
        assert Counter(server.statistics().core.closed) == {"unknown_pool": 1}


async def test_a_node_whose_link_broke_is_gone_after_a_while_without_anybody_asking(tmp_path, jumping_clock):
    _, founder, newcomer = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (_, links):
        first = await attach_by_hand(founder, links)
        second = await attach_by_hand(newcomer, links)
        second.close_now()
        await trio.sleep(RELINK_GRACE_S + 1)
        gone = [frame.node for frame in first.sent if isinstance(frame, RosterLeft)]
        assert gone == [newcomer.device]


async def test_when_the_disk_is_full_the_clients_hear_of_it_and_can_come_back(tmp_path):
    _, founder, newcomer = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (server, links):
        first = await attach_by_hand(founder, links)
        store = server._store
        server._store = SimpleNamespace(save=disk_full, load=store.load, statistics=store.statistics)
        second = HandLink(newcomer)
        links.send_nowait(second)
        for effect in newcomer.attachment.handle(attachment.Connected(), 0.0):
            second.say(effect.frame)
        await first._is_closed.wait()
        await second._is_closed.wait()
        assert (first.closed_as, second.closed_as) == ("busy", "busy")
        assert not any(isinstance(frame, RosterJoined) for frame in first.sent)
        server._store = store
        newcomer.attachment.handle(attachment.Disconnected(), 0.0)
        assert (await attach_by_hand(newcomer, links)).closed_as is None


async def test_a_store_that_cannot_be_read_turns_clients_away(tmp_path):
    _, founder, _ = founder_and_newcomer()
    async with server_by_hand(tmp_path) as (server, links):
        server._store = SimpleNamespace(load=disk_full)
        link = HandLink(founder)
        links.send_nowait(link)
        await link._is_closed.wait()
        assert link.closed_as == "busy"


async def disk_full(_) -> None:
    await trio.lowlevel.checkpoint()
    raise DiskFull("no space left")
