"""``join``: enter a pool and stay; its feed comes out, what is typed goes in."""

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import trio

from poolnet import (
    DeviceId,
    EventsDropped,
    FileId,
    FileOffered,
    MessageReceived,
    MsgId,
    Node,
    NodeJoined,
    NodeLeft,
    PoolEvent,
    PoolId,
    PoolNet,
    UnknownPool,
    encode_id,
    parse_invite_link,
    short_id,
)
from poolnet.limits import NAME_GRACE_S, RECENT_MESSAGES
from poolnet_cli import feed
from poolnet_cli.command import Call
from poolnet_cli.commands.files import check_output, check_source, fetch_file, hash_and_offer
from poolnet_cli.outcome import failure_of
from poolnet_cli.patience import until_reached
from poolnet_cli.records import (
    error_record,
    event_record,
    failure_record,
    file_record,
    history_record,
    joined_record,
    node_record,
    offer_record,
    peer_record,
)
from poolnet_cli.reporter import Record, Reporter
from poolnet_cli.session import PoolLeft

#: Typed /offer and /get that may run at once; more are refused.
MAX_JOBS: Final = 16


def is_invite(text: str) -> bool:
    """Return whether `text` is meant as an invite link, not as a pool of this home."""
    return "://" in text or text.lower().startswith("poolnet:")


async def join(call: Call) -> None:
    """Enter a pool and stay until /quit. Params: pool (a name, an id or an invite), name (or None), cwd, timeout_s.

    The end of input only ends the typing.
    """
    text = call.params["pool"]
    node = call.session.node
    target = parse_invite_link(text) if is_invite(text) else node.find_pool(text)
    known = await _known_messages(node, target.pool_id)
    patience = partial(
        until_reached, timeout_s=call.params["timeout_s"], servers=target.servers, reporter=call.reporter
    )
    try:
        async with call.session.use_pool(target, name=call.params["name"], patience=patience) as use:
            await _Feed(call, use.net, known).run()
    except PoolLeft as exc:
        await call.reporter.note(str(exc))


async def _known_messages(node: Node, pool_id: PoolId) -> set[MsgId]:
    """Return the newest messages that this device had before it entered."""
    try:
        info = node.find_pool(encode_id(pool_id))
    except UnknownPool:
        return set()
    return {entry.msg_id for entry in await node.history(info, limit=RECENT_MESSAGES)}


class _Feed:
    """One feed: what was missed between entering and listening comes first, then events as they happen.

    Args:
        known: messages that are no news.
    """

    def __init__(self, call: Call, net: PoolNet, known: set[MsgId]) -> None:
        self._call = call
        self._net = net
        self._info = call.session.node.find_pool(encode_id(net.pool_id))
        self._cwd = call.params["cwd"]
        self._shown_messages = known
        self._shown_offers: set[tuple[FileId, DeviceId]] = set()
        self._here: set[DeviceId] = set()
        self._jobs = 0

    async def run(self) -> None:
        """Show events and obey what is typed, until /quit or cancelled."""
        net = self._net
        async with net.subscribe() as events:
            await self._record(joined_record(self._info, net.node_id, net.display_name))
            async with trio.open_nursery() as nursery:
                await self._catch_up()
                nursery.start_soon(self._show, events)
                nursery.start_soon(self._announce_nameless)
                await self._obey(nursery)
                nursery.cancel_scope.cancel()

    async def _record(self, record: Record) -> None:
        await self._call.reporter.record(record)

    # --- what comes out -----------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Show who is here, what is offered, and messages that came before this feed listened."""
        for member in self._net.members():
            if member.online and not member.is_self and member.name != short_id(member.node):
                await self._show_event(NodeJoined(node=member.node, name=member.name))
        for offer in self._net.files.offers():
            for node in offer.nodes:
                self._shown_offers.add((offer.file_id, node))
                await self._record(offer_record(offer.file_id, offer.name, offer.size_bytes, node))
        for entry in await self._call.session.node.history(self._info, limit=RECENT_MESSAGES):
            if entry.msg_id not in self._shown_messages:
                self._shown_messages.add(entry.msg_id)
                await self._record(history_record(entry))

    async def _show(self, events: AsyncIterator[PoolEvent | EventsDropped]) -> None:
        async for event in events:
            await self._show_event(event)

    async def _show_event(self, event: PoolEvent | EventsDropped) -> None:
        if self._is_news(event):
            await self._record(event_record(event))

    def _is_news(self, event: PoolEvent | EventsDropped) -> bool:
        """Return whether an event is not yet shown; the catching up may have been faster."""
        match event:
            case NodeJoined(node=node):
                is_new = node not in self._here
                self._here.add(node)
                return is_new
            case NodeLeft(node=node):
                was_here = node in self._here
                self._here.discard(node)
                return was_here
            case MessageReceived(msg_id=msg_id):
                return msg_id not in self._shown_messages
            case FileOffered(file_id=file_id, node=node):
                is_new = (file_id, node) not in self._shown_offers
                self._shown_offers.discard((file_id, node))
                return is_new
            case _:
                return True

    async def _announce_nameless(self) -> None:
        """Show those who were here before this feed and whose names did not come."""
        await trio.sleep(NAME_GRACE_S + 1)
        for member in self._net.members():
            if member.online and not member.is_self and member.node not in self._here:
                self._here.add(member.node)
                await self._record(node_record("node_joined", member.node, member.name))

    # --- what goes in -------------------------------------------------------------------------------------------

    async def _obey(self, nursery: trio.Nursery) -> None:
        async for line in self._call.lines:
            try:
                typed = feed.parse_typed(line)
            except ValueError as exc:
                await self._record(error_record("usage", str(exc)))
                continue
            if isinstance(typed, feed.Quit):
                return
            await self._do(typed, nursery)
        await trio.sleep_forever()

    async def _do(self, typed: feed.Typed, nursery: trio.Nursery) -> None:
        match typed:
            case feed.Say(text=text):
                await self._attempt(lambda: self._net.send(text))
            case feed.OfferFile(path=path):
                await self._start_job(nursery, lambda: self._offer(path))
            case feed.GetFile(file=file, out=out):
                await self._start_job(nursery, lambda: self._get(file, out))
            case feed.ListFiles():
                await self._record({"event": "files", "files": [file_record(o) for o in self._net.files.offers()]})
            case feed.ListPeers():
                others = [m for m in self._net.members() if not m.is_self]
                await self._record({"event": "who", "nodes": [peer_record(member) for member in others]})
            case feed.ShowHelp():
                await self._call.reporter.note(feed.HELP)
            case feed.Nothing() | feed.Quit():
                pass
            case _:
                assert_never(typed)

    async def _attempt(self, action: Callable[[], Awaitable[object]]) -> None:
        """Do it; if it cannot be done, the feed says why and goes on."""
        failure = await failure_of(action)
        if failure is not None:
            await self._record(failure_record(failure))

    async def _start_job(self, nursery: trio.Nursery, job: Callable[[], Awaitable[None]]) -> None:
        if self._jobs >= MAX_JOBS:
            await self._record(error_record("busy", f"{MAX_JOBS} files are on their way already; wait for one of them"))
            return
        self._jobs += 1
        nursery.start_soon(self._run_job, job)

    async def _run_job(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._attempt(job)
        finally:
            self._jobs -= 1

    async def _offer(self, path: str) -> None:
        target = self._resolve(path)
        await trio.to_thread.run_sync(check_source, target)
        before = {offer.file_id for offer in self._net.files.offers() if self._net.node_id in offer.nodes}
        info = await hash_and_offer(self._net, target, self._call.reporter)
        if info.file_id in before:  # no event tells of it
            await self._record(offer_record(info.file_id, info.name, info.size_bytes, self._net.node_id))

    def _resolve(self, path: str) -> str:
        """Return a typed path as seen from where it was typed."""
        return os.path.normpath(os.path.join(self._cwd, os.path.expanduser(path)))

    async def _get(self, file: str, out: str | None) -> None:
        target = self._resolve(out or ".")
        await trio.to_thread.run_sync(check_output, target)
        item = self._net.files.find(file)
        await fetch_file(self._net, item, Path(target), math.inf, _WithoutProgress(self._call.reporter))


class _WithoutProgress:
    """A reporter for jobs whose progress comes as events of the pool already."""

    def __init__(self, reporter: Reporter) -> None:
        self.record = reporter.record
        self.note = reporter.note

    async def progress(self, record: Record) -> None:
        await trio.lowlevel.checkpoint()
