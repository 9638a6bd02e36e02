"""A node and a pool without network, as the commands see them; its history is a real one."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from made_messages import POOL, make_said, make_tombstone

from poolnet import (
    DeviceId,
    EventsDropped,
    FileId,
    HistoryReader,
    InviteLink,
    MemberInfo,
    MessageDB,
    MessageReceived,
    MessageRetracted,
    MsgId,
    OfferInfo,
    PoolEvent,
    PoolId,
    PoolInfo,
    UnknownFile,
    UnknownPool,
    Unreachable,
    encode_id,
    open_message_db,
    parse_server_address,
)
from poolnet.clock import Hlc, make_hlc
from poolnet.event_stream import EventStream
from poolnet.ids import PublicKey
from poolnet.wire.bodies import Body, TextBody
from poolnet.wire.message import Message, author_id
from poolnet_cli.command import Call
from poolnet_cli.session import Session

ME, ADA, BOB = NODES = tuple(author_id(PublicKey(bytes([n]) * 32)) for n in (1, 2, 3))
NAMES = {ME: "me", ADA: "ada", BOB: "bob"}
POOL_ID = PoolId(b"p" * 32)
SERVER = parse_server_address("poolnet://192.0.2.7:7665/hqiqgkpuxxv3siyelvnazgtxmmhvjthjhiz2qdow5d5uvqz3b7ba")
GARDEN = PoolInfo(pool_id=POOL_ID, name="garden", role="member", servers=(SERVER,), hosts_server=False)


def said(ms: int, body: Body | str, *, by: DeviceId = ADA) -> Message:
    """Return a message of that time; a text, or another body."""
    body = TextBody(text=body) if isinstance(body, str) else body
    return make_said(make_hlc(ms), body, author=NODES.index(by) + 1)


def text_event(message: Message, text: str, **fields: Any) -> MessageReceived:
    """Return the event that tells of a text."""
    return MessageReceived(
        msg_id=message.msg_id,
        node=message.author,
        name=NAMES[message.author],
        text=text,
        unix_ms=message.content.hlc >> 16,
        key=message.key,
        **fields,
    )


def is_ada(device: DeviceId, hlc: Hlc) -> bool:
    """Say that ada is the only admin."""
    return device == ADA


def member(node: DeviceId, name: str, *, online: bool = True, linked: bool = True) -> MemberInfo:
    """Return a member."""
    return MemberInfo(node=node, name=name, role="member", is_self=node == ME, online=online, linked=linked)


def offer_info(n: int, name: str, *nodes: DeviceId) -> OfferInfo:
    """Return the n-th offer."""
    return OfferInfo(
        file_id=FileId(bytes([n]) * 32),
        name=name,
        size_bytes=100,
        nodes=nodes or (ADA,),
        local_path=None,
        state="offered",
        done_bytes=0,
    )


class FakeFiles:
    """Offers that are set by the test, and downloads that end when the test says so."""

    def __init__(self) -> None:
        self.known: list[OfferInfo] = []
        self.retracted: list[FileId] = []
        self.downloaded: list[tuple[FileId, Path]] = []
        self.may_complete = trio.Event()

    def offers(self) -> list[OfferInfo]:
        return list(self.known)

    def find(self, text: str) -> OfferInfo:
        for info in self.known:
            if info.name == text or encode_id(info.file_id).startswith(text):
                return info
        raise UnknownFile("no such file")

    async def offer(self, path: Path, *, on_progress: Any = None) -> OfferInfo:
        on_progress(50, 100)
        await trio.sleep(0.1)
        on_progress(100, 100)
        self.known.append(offer_info(200 + len(self.known), path.name, ME))
        return self.known[-1]

    async def retract(self, file_id: FileId) -> None:
        await trio.lowlevel.checkpoint()
        self.retracted.append(file_id)

    async def download(self, file_id: FileId, out: Path) -> Path:
        await self.may_complete.wait()
        self.downloaded.append((file_id, out))
        return out


class FakePool:
    """A joined pool. Somebody is linked when the test sets `is_linked`, and all agree when it sets `is_synced`.

    Attributes:
        unix_ms: what time it is.
    """

    def __init__(self, db: MessageDB) -> None:
        self.messages = db
        self.history = HistoryReader(db, was_admin=is_ada, name_of=self.name_of)
        self.unix_ms = 10**6
        self.is_synced = trio.Event()
        self.announced: list[str] = []
        self.retracted: list[MsgId] = []
        self.pool_id = POOL_ID
        self.node_id = ME
        self.display_name = "me"
        self.files = FakeFiles()
        self.events = EventStream[PoolEvent]()
        self.is_linked = trio.Event()
        self.sent: list[str] = []
        self.people: list[MemberInfo] = [member(ME, "me", linked=False)]

    def members(self) -> list[MemberInfo]:
        return self.people

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[PoolEvent | EventsDropped]]:
        return self.events.subscribe()

    async def send(self, text: str) -> MsgId:
        await trio.lowlevel.checkpoint()
        self.sent.append(text)
        return MsgId(bytes([100 + len(self.sent)]) * 32)

    async def announce(self, text: str) -> MsgId:
        self.announced.append(text)
        return await self.send(text)

    async def retract_message(self, msg_id: MsgId) -> None:
        await trio.lowlevel.checkpoint()
        self.retracted.append(msg_id)

    async def synced(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self.is_synced.wait()
            return
        raise Unreachable("they did not agree")

    def name_of(self, node: DeviceId) -> str:
        return NAMES[node]

    async def say(self, text: str, *, ms: int, by: DeviceId = ADA, **fields: Any) -> Message:
        """Store a text as if it had come, and tell of it."""
        message = await self.store(text, ms=ms, by=by)
        self.events.publish(text_event(message, text, **fields))
        return message

    async def store(self, body: Body | str, *, ms: int, by: DeviceId = ADA) -> Message:
        """Store a message as if it had come, and tell nobody."""
        (message,) = await self.messages.append([said(ms, body, by=by)])
        return message

    async def take_back(self, message: Message, *, by: DeviceId = ADA) -> None:
        """Delete a message as if a retraction had come, and tell of it."""
        tombstone = make_tombstone(message.content.hlc + 1, message, author=NODES.index(by) + 1)
        await self.messages.append([tombstone])
        self.events.publish(MessageRetracted(msg_id=message.msg_id, node=by, name=NAMES[by]))

    async def rename(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.display_name = name

    async def wait_linked(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self.is_linked.wait()
            return
        raise Unreachable("nobody was there")

    delivered = wait_linked


class FakeNode:
    """A device with one pool, garden."""

    def __init__(self, db: MessageDB) -> None:
        self.device_id = ME
        self.pool = FakePool(db)
        self.role = "member"
        self.joins = 0
        self.is_in_pool = False
        self.has_left_for_good = False
        self.error: Exception | None = None

    def pools(self) -> list[PoolInfo]:
        return [] if self.has_left_for_good else [GARDEN]

    def find_pool(self, text: str) -> PoolInfo:
        if self.has_left_for_good or (text != "garden" and text != encode_id(POOL_ID)):
            raise UnknownPool("no such pool")
        return attrs.evolve(GARDEN, role=self.role)

    @asynccontextmanager
    async def open_history(self, pool: PoolInfo) -> AsyncIterator[HistoryReader]:
        yield self.pool.history

    @asynccontextmanager
    async def join(self, pool: PoolInfo | InviteLink, *, name: str | None = None) -> AsyncIterator[FakePool]:
        assert not self.is_in_pool
        await trio.sleep(0.1)
        if self.error is not None:
            raise self.error
        self.joins += 1
        self.is_in_pool = True
        try:
            yield self.pool
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            self.is_in_pool = False

    async def leave_pool(self, pool: PoolInfo) -> None:
        await trio.lowlevel.checkpoint()
        assert not self.is_in_pool
        self.has_left_for_good = True

    async def history(self, pool: PoolInfo, *, limit: int) -> Any:
        return await self.pool.history.latest(limit)

    async def offers(self, pool: PoolInfo) -> list[OfferInfo]:
        await trio.lowlevel.checkpoint()
        return self.pool.files.offers()


class Recorder:
    """Keeps what a command reports."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.progressed: list[dict[str, Any]] = []
        self.notes: list[str] = []

    async def record(self, record: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.records.append(record)

    async def progress(self, record: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.progressed.append(record)

    async def note(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        self.notes.append(text)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("event") == event]


class SlowLines:
    """Lines that are typed a second apart."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = list(lines)

    def __aiter__(self) -> "SlowLines":
        return self

    async def __anext__(self) -> str:
        await trio.sleep(1)
        if not self._lines:
            raise StopAsyncIteration
        return self._lines.pop(0)


class Desk:
    """Calls commands on a fake node."""

    def __init__(self, node: FakeNode, nursery: trio.Nursery) -> None:
        self.node = node
        self.pool = node.pool
        self.session = Session(node, nursery)  # type: ignore[arg-type]

    def call(self, recorder: Recorder, lines: Sequence[str] = (), **params: Any) -> Call:
        asked = {"pool": "garden", "timeout_s": 30.0, "rows": None, **params}
        return Call(session=self.session, params=asked, reporter=recorder, lines=SlowLines(lines))


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    """Open a session on a fake node."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "messages.db"
        async with open_message_db(path, POOL, was_admin=is_ada) as db, trio.open_nursery() as nursery:
            yield Desk(FakeNode(db), nursery)
            nursery.cancel_scope.cancel()
