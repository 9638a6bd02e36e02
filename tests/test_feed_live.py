"""A live feed on every node shows what the history has, whatever comes, whenever, and whatever is taken back."""

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from test_pool import World
from trio.testing import MockClock

import poolnet
from poolnet.clock import make_hlc
from poolnet.identity.authorship import sign_message
from poolnet.node import Node
from poolnet.pool_net import PoolNet
from poolnet.wire.bodies import TextBody
from poolnet.wire.message import encode_message

pytestmark = pytest.mark.timeout(240)

SIZE = 12
NAMES = ("ada", "bob", "cyd", "dan")


class Watcher:
    """A joined pool, and the feed of somebody who watches it."""

    def __init__(self, node: Node, pool: PoolNet) -> None:
        self.node = node
        self.pool = pool
        self.feed = poolnet.Feed(SIZE)

    async def watch(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the feed up to date until cancelled."""
        reader = self.pool.history
        async with self.pool.subscribe() as events:
            task_status.started()
            while True:
                if self.feed.wants_load:
                    self.feed.load(await reader.latest(self.feed.size), await reader.announcement())
                self.feed.apply(await anext(events))

    async def say_late(self, text: str, *, minutes: int) -> None:
        """Say something as if it had been on its way for a while."""
        message = sign_message(
            self.node._own.key,
            pool_id=self.pool.pool_id,
            hlc=make_hlc(self.pool.unix_ms - minutes * 60_000),
            body=TextBody(text=text),
        )
        self.pool._flow._inbox.judge(message.msg_id, encode_message(message))
        await self.pool._flow._inbox.put(message.msg_id)
        self.pool._flow._push(message)

    async def take_back_something(self, rng: random.Random) -> poolnet.MsgId | None:
        """Retract a message that this node may retract, if there is one among the latest."""
        is_admin = self.node.find_pool("garden").role == "admin"
        entries = await self.pool.history.latest(2 * SIZE)
        mine = [entry for entry in entries if is_admin or entry.node == self.pool.node_id]
        if not mine:
            return None
        msg_id = rng.choice(mine).msg_id
        await self.pool.retract_message(msg_id)
        return msg_id

    async def shows_history(self) -> None:
        """Wait until the feed and the history are the same."""
        with trio.fail_after(60):
            while True:
                entries = await self.pool.history.latest(SIZE)
                pinned = await self.pool.history.announcement()
                shown = [(entry.msg_id, entry.text) for entry in self.feed.messages]
                if shown == [(entry.msg_id, entry.text) for entry in entries] and _id(self.feed.pinned) == _id(pinned):
                    return
                await trio.sleep(0.5)


def _id(entry: poolnet.HistoryEntry | None) -> poolnet.MsgId | None:
    return None if entry is None else entry.msg_id


class Comings:
    """Who is there now, of those who may come and go; each in a task of its own."""

    def __init__(self, nursery: trio.Nursery, nodes: dict[str, Node], invite: poolnet.InviteLink) -> None:
        self.here: dict[str, Watcher] = {}
        self._nursery = nursery
        self._nodes = nodes
        self._invite = invite
        self._ends: dict[str, tuple[trio.Event, trio.Event]] = {}

    async def come(self, name: str) -> None:
        """Let somebody join."""
        self._ends[name] = (trio.Event(), trio.Event())
        self.here[name] = await self._nursery.start(self._stay, name, *self._ends[name])

    async def go(self, name: str) -> None:
        """Let somebody leave."""
        del self.here[name]
        go, gone = self._ends.pop(name)
        go.set()
        await gone.wait()

    async def _stay(
        self, name: str, go: trio.Event, gone: trio.Event, *, task_status: trio.TaskStatus[Watcher]
    ) -> None:
        node = self._nodes[name]
        async with node.join(self._invite, name=name) as pool, trio.open_nursery() as nursery:
            watcher = Watcher(node, pool)
            await nursery.start(watcher.watch)
            task_status.started(watcher)
            await go.wait()
            nursery.cancel_scope.cancel()
        gone.set()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_live_feed_is_the_newest_part_of_the_history_on_every_node(
    tmp_path: Path, jumping_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(tmp_path, seed=seed, loss=0.02)
    retracted: set[poolnet.MsgId | None] = set()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world.server())
        nodes = {name: await stack.enter_async_context(world.node(name)) for name in NAMES}
        nursery = await stack.enter_async_context(trio.open_nursery())
        comings = Comings(nursery, nodes, await nodes["ada"].create_pool("garden", server=server.address))
        for name in NAMES[:2]:
            await comings.come(name)
        for number in range(100):
            somebody = rng.choice(list(comings.here.values()))
            match rng.choices(["say", "late", "retract", "announce", "come or go", "wait"], [50, 15, 10, 5, 6, 14])[0]:
                case "say":
                    await somebody.pool.send(f"text {number}")
                case "late":
                    await somebody.say_late(f"late {number}", minutes=rng.choice([0, 1, 2, 100]))
                case "retract":
                    retracted.add(await somebody.take_back_something(rng))
                case "announce":
                    await comings.here["ada"].pool.announce(f"hear, hear {number}")
                case "come or go":
                    name = rng.choice(NAMES[1:])
                    await (comings.go(name) if name in comings.here else comings.come(name))
                case _:
                    await trio.sleep(rng.choice([0.01, 0.3, 3]))
        for name in set(NAMES) - set(comings.here):
            await comings.come(name)
        for watcher in comings.here.values():
            await watcher.pool.synced(120)
        for watcher in comings.here.values():
            await watcher.shows_history()
            assert not retracted & {entry.msg_id for entry in watcher.feed.messages}
        first, *others = [[entry.msg_id for entry in watcher.feed.messages] for watcher in comings.here.values()]
        assert len(first) == SIZE
        assert all(other == first for other in others)
        for name in list(comings.here):
            await comings.go(name)
