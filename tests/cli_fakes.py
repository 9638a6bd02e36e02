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
    DownloadInfo,
    EventsDropped,
    FileId,
    FolderEntry,
    HistoryReader,
    InviteLink,
    MemberInfo,
    MessageDB,
    MessageReceived,
    MessageRetracted,
    MsgId,
    OfferInfo,
    OfferKind,
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
from poolnet_cli.lines import Input
from poolnet_cli.session import Session

ME, ADA, BOB = NODES = tuple(author_id(PublicKey(bytes([n]) * 32)) for n in (1, 2, 3))
NAMES = {ME: "me", ADA: "ada", BOB: "bob"}
POOL_ID = PoolId(b"p" * 32)
SERVER = parse_server_address("poolnet://192.0.2.7:7665/hqiqgkpuxxv3siyelvnazgtxmmhvjthjhiz2qdow5d5uvqz3b7ba")
#: Parameters of commands as they are without options.
PLAIN_OFFER: dict[str, Any] = {"name": None, "media": False, "exclude": [], "hidden": False}
PLAIN_GET: dict[str, Any] = {"all": False, "only": [], "kind": None, "priority": 0, "background": False}
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


def offer_info(n: int, name: str, *nodes: DeviceId, **fields: Any) -> OfferInfo:
    """Return the n-th offer."""
    info = OfferInfo(
        file_id=FileId(bytes([n]) * 32),
        name=name,
        size_bytes=100,
        nodes=nodes or (ADA,),
        local_path=None,
        state="offered",
        done_bytes=0,
    )
    return attrs.evolve(info, **fields)


def download_info(n: int, name: str, **fields: Any) -> DownloadInfo:
    """Return the n-th download."""
    info = DownloadInfo(
        file_id=FileId(bytes([n]) * 32),
        name=name,
        kind="file",
        size_bytes=100,
        done_bytes=25,
        rate_bytes_per_s=0.0,
        sources=0,
        eta_s=None,
        state="running",
        reason="",
        path=Path("/x") / name,
        priority=0,
        started_ms=1000,
        ended_ms=None,
    )
    return attrs.evolve(info, **fields)


class FakeStream:
    """A stream that is written into, or read from; watched live, what came before the first byte is skipped."""

    def __init__(self, stream_id: FileId, name: str) -> None:
        self.stream_id = stream_id
        self.name = name
        self.sent: list[bytes] = []
        self.skipped_bytes = 0
        self.is_finished = False
        self.was_aborted = False

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for data in self.sent:
            await trio.lowlevel.checkpoint()
            yield data


class FakeFiles:
    """Offers that are set by the test, and downloads that end when the test says so.

    Attributes:
        may_complete: all downloads that do not fail are complete when it is set.
        failing: by name, what downloads fail with.
        entries: what is in every folder.
        kinds: of downloads, what they were asked for as.
        changes: of downloads, and offers of folders and pictures: what was asked for.
    """

    def __init__(self) -> None:
        self.known: list[OfferInfo] = []
        self.retracted: list[FileId] = []
        self.downloaded: list[tuple[FileId, Path]] = []
        self.may_complete = trio.Event()
        self.failing: dict[str, Exception] = {}
        self.changes: list[tuple[Any, ...]] = []
        self.folder_files = 3
        self.infos: list[DownloadInfo] = []
        self.limits: dict[str, int | None] = {}
        self.entries: tuple[FolderEntry, ...] = ()
        self.kinds: list[OfferKind | None] = []
        self.stream = FakeStream(FileId(bytes([99]) * 32), "radio")

    def offers(self) -> list[OfferInfo]:
        return list(self.known)

    def find(self, text: str, *, kind: OfferKind | None = None) -> OfferInfo:
        for info in self.known:
            if kind not in (None, info.kind):
                continue
            if info.name == text or encode_id(info.file_id).startswith(text):
                return info
        raise UnknownFile("no such file")

    async def offer(self, path: Path, *, name: str | None = None, on_progress: Any = None) -> OfferInfo:
        on_progress(50, 100)
        await trio.sleep(0.1)
        on_progress(100, 100)
        self.known.append(offer_info(200 + len(self.known), name or path.name, ME))
        return self.known[-1]

    async def offer_folder(
        self, path: Path, *, name: str | None = None, exclude: Any, include_hidden: bool, on_progress: Any = None
    ) -> OfferInfo:
        self.changes.append(("folder", path.name, tuple(exclude), include_hidden))
        self.known.append(
            offer_info(200 + len(self.known), name or path.name, ME, kind="folder", file_count=self.folder_files)
        )
        return self.known[-1]

    async def offer_media(self, path: Path, *, name: str | None = None, on_progress: Any = None) -> OfferInfo:
        self.changes.append(("media", path.name))
        self.known.append(offer_info(200 + len(self.known), name or path.name, ME, kind="media"))
        return self.known[-1]

    async def save_as(self, file_id: FileId, out: Path) -> Path:
        self.changes.append(("save", file_id, out))
        return out

    @asynccontextmanager
    async def open_stream(self, name: str) -> AsyncIterator[FakeStream]:
        self.stream.name = name
        try:
            yield self.stream
        except BaseException:
            self.stream.was_aborted = True
            raise
        self.stream.is_finished = True

    @asynccontextmanager
    async def watch(self, stream_id: FileId, *, from_start: bool = False) -> AsyncIterator[FakeStream]:
        self.changes.append(("watch", stream_id, from_start))
        yield self.stream

    def set_limits(self, *, up: int | None, down: int | None, concurrent: int) -> None:
        self.limits = {"up": up, "down": down, "concurrent": concurrent}

    def downloads(self) -> list[DownloadInfo]:
        return list(self.infos)

    async def pause(self, file_id: FileId) -> None:
        self._change("pause", file_id, state="paused", reason="paused by the user")

    async def resume(self, file_id: FileId) -> None:
        self._change("resume", file_id, state="queued", reason="")

    async def cancel(self, file_id: FileId) -> None:
        self._change("cancel", file_id, state="failed", reason="cancelled", code="cancelled")

    def prioritise(self, file_id: FileId, priority: int) -> None:
        self._change("prioritise", file_id, priority=priority)

    async def forget_downloads(self) -> None:
        self.infos = [info for info in self.infos if info.state not in ("complete", "failed")]

    def _change(self, what: str, file_id: FileId, **fields: Any) -> None:
        self.changes.append((what, file_id))
        self.infos = [attrs.evolve(i, **fields) if i.file_id == file_id else i for i in self.infos]

    async def retract(self, file_id: FileId) -> None:
        await trio.lowlevel.checkpoint()
        self.retracted.append(file_id)

    async def list_folder(self, file_id: FileId) -> tuple[FolderEntry, ...]:
        await self.may_complete.wait()
        assert any((info.file_id, info.kind) == (file_id, "folder") for info in self.known)
        return self.entries

    async def download(
        self,
        file_id: FileId,
        out: Path,
        *,
        priority: int = 0,
        only: Sequence[str] = (),
        kind: OfferKind | None = None,
    ) -> Path:
        self.kinds.append(kind)
        name = next(info.name for info in self.known if info.file_id == file_id)
        if name in self.failing:
            raise self.failing[name]
        await self.may_complete.wait()
        self.downloaded.append((file_id, out))
        return out

    async def start_download(
        self,
        file_id: FileId,
        out: Path,
        *,
        priority: int = 0,
        only: Sequence[str] = (),
        kind: OfferKind | None = None,
    ) -> DownloadInfo:
        self.kinds.append(kind)
        await trio.lowlevel.checkpoint()
        self.downloaded.append((file_id, out))
        name = next(info.name for info in self.known if info.file_id == file_id)
        return attrs.evolve(download_info(1, name, priority=priority, path=out / name), file_id=file_id)


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
        self.is_attached = True
        self.may_deliver = trio.Event()
        self.may_deliver.set()
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

    async def delivered(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            await self.may_deliver.wait()
            await self.wait_linked(timeout_s)
            return
        raise Unreachable(f"nobody confirmed it within {timeout_s:g} s")


class FakeNode:
    """A device with one pool, garden."""

    def __init__(self, db: MessageDB, home: Path) -> None:
        self.device_id = ME
        self.home = home
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
    async def open_files(self, pool: PoolInfo) -> AsyncIterator[FakeFiles]:
        yield self.pool.files

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
        self.written = b""

    async def data(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written += data

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


class Pieces:
    """Bytes that come in pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        await trio.sleep(1)
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop(0)


class Desk:
    """Calls commands on a fake node."""

    def __init__(self, node: FakeNode, nursery: trio.Nursery) -> None:
        self.node = node
        self.pool = node.pool
        self.session = Session(node, nursery)  # type: ignore[arg-type]

    def call(self, recorder: Recorder, lines: Sequence[str] = (), *, data: Sequence[bytes] = (), **params: Any) -> Call:
        asked = {"pool": "garden", "timeout_s": 30.0, "rows": None, **PLAIN_OFFER, **PLAIN_GET, **params}
        given = Input(lines=SlowLines(lines), data=Pieces(data))
        return Call(session=self.session, params=asked, reporter=recorder, input=given)


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    """Open a session on a fake node."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "messages.db"
        async with open_message_db(path, POOL, was_admin=is_ada) as db, trio.open_nursery() as nursery:
            yield Desk(FakeNode(db, Path(directory)), nursery)
            nursery.cancel_scope.cancel()
