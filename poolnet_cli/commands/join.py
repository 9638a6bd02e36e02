"""``join``: enter a pool and stay; its feed comes out, what is typed goes in."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import trio

from poolnet import HistoryEntry, MsgId, Node, PoolId, PoolNet, UnknownPool, encode_id, parse_invite_link
from poolnet.clock import Hlc
from poolnet.limits import RECENT_MESSAGES
from poolnet_cli import feed
from poolnet_cli.arguments import is_invite
from poolnet_cli.command import Call
from poolnet_cli.commands.fetching import check_output
from poolnet_cli.commands.finding import find_offer
from poolnet_cli.commands.history import lacks_older, session_records
from poolnet_cli.commands.offers import OfferOptions, check_source, hash_and_offer
from poolnet_cli.commands.showing import EventTalk, PrintedTalk, Showing
from poolnet_cli.outcome import failure_of
from poolnet_cli.patience import told_if_slow, until_reached
from poolnet_cli.records import error_record, failure_record, file_record, history_record, offer_record, peer_record
from poolnet_cli.reporter import Record
from poolnet_cli.session import PoolLeft

#: Typed /offer and /older that may run at once; more are refused.
MAX_JOBS: Final = 16
#: Messages that a program gets for /older and /search; for people as many as fit on the screen.
OLDER_PAGE: Final = 50

Key = tuple[Hlc, MsgId]


async def join(call: Call) -> None:
    """Enter a pool and stay until /quit.

    Params: pool (a name, an id or an invite), name (or None), cwd, timeout_s, rows. `rows` are those of the screen that
    shows the feed; None for a program, which gets events as they are. The end of input only ends the typing.
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
    """One feed: what happens comes out, what is typed goes in.

    Args:
        known: messages that are no news to a program.
    """

    def __init__(self, call: Call, net: PoolNet, known: set[MsgId]) -> None:
        self._call = call
        self._net = net
        self._cwd = call.params["cwd"]
        self._rows: int | None = call.params["rows"]
        self._older_than: Key | None = None
        self._jobs = 0
        self._talk: EventTalk | PrintedTalk
        if self._rows is None:
            self._talk = EventTalk(net, call.reporter, known)
        else:
            self._talk = PrintedTalk(net, call.reporter, self._rows)

    async def run(self) -> None:
        """Show events and obey what is typed, until /quit or cancelled."""
        info = self._call.session.node.find_pool(encode_id(self._net.pool_id))
        showing = Showing(self._net, info, self._call.reporter, self._talk)
        async with self._net.subscribe() as events, trio.open_nursery() as nursery:
            await showing.begin()
            nursery.start_soon(showing.run, events)
            nursery.start_soon(showing.announce_nameless)
            nursery.start_soon(showing.announce_no_server)
            await self._obey(nursery)
            nursery.cancel_scope.cancel()

    async def _record(self, record: Record) -> None:
        await self._call.reporter.record(record)

    # --- what goes in -------------------------------------------------------------------------------------------

    async def _obey(self, nursery: trio.Nursery) -> None:
        async for line in self._call.input.lines:
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
            case feed.OfferFile():
                await self._start_job(nursery, lambda: self._offer(typed))
            case feed.GetFile(file=file, out=out):
                await self._attempt(lambda: self._get(file, out))
            case feed.ListFiles():
                await self._record({"event": "files", "files": [file_record(o) for o in self._net.files.offers()]})
            case feed.ListPeers():
                others = [m for m in self._net.members() if not m.is_self]
                await self._record({"event": "who", "nodes": [peer_record(member) for member in others]})
            case feed.ShowOlder():
                await self._start_job(nursery, self._show_older)
            case feed.Search(words=words):
                await self._attempt(lambda: self._search(words))
            case feed.ListSessions():
                await self._attempt(self._list_sessions)
            case feed.RetractMessage(message=message):
                await self._attempt(lambda: self._retract(message))
            case feed.Announce(text=text):
                await self._attempt(lambda: self._net.announce(text))
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
            await self._record(
                error_record("busy", f"{MAX_JOBS} things are on their way already; wait for one of them")
            )
            return
        self._jobs += 1
        nursery.start_soon(self._run_job, job)

    async def _run_job(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._attempt(job)
        finally:
            self._jobs -= 1

    async def _show_older(self) -> None:
        """Show the page before what was shown, also what only others have."""
        history, count = self._net.history, self._rows or OLDER_PAGE
        start = self._talk.oldest_key if isinstance(self._talk, PrintedTalk) else None
        place = self._older_than or start

        async def read() -> list[HistoryEntry]:
            return await (history.latest(count) if place is None else history.before(place, count))

        entries = await read()
        if await lacks_older(history.messages, entries, count):
            async with told_if_slow(self._call.reporter, "asking the others for what is older"):
                await history.messages.fetch_older(place, count)
                entries = await read()
        if entries:
            self._older_than = entries[0].key
        records = [history_record(entry) for entry in entries]
        await self._record({"event": "older", "entries": records, "is_start": len(entries) < count})

    async def _search(self, words: str) -> None:
        entries = await self._net.history.search(words, limit=self._rows or OLDER_PAGE)
        records = [history_record(entry) for entry in entries]
        await self._record({"event": "found", "search": words, "entries": records})

    async def _list_sessions(self) -> None:
        sessions = await session_records(self._net.history, limit=self._rows or OLDER_PAGE)
        await self._record({"event": "sessions", "sessions": sessions})

    async def _retract(self, message: str) -> None:
        await self._net.retract_message(await self._net.history.find(message))

    async def _offer(self, typed: feed.OfferFile) -> None:
        options = OfferOptions(name=typed.name, media=typed.media, exclude=typed.exclude, hidden=typed.hidden)
        target = self._resolve(typed.path)
        await trio.to_thread.run_sync(check_source, target, options)
        before = {offer.file_id for offer in self._net.files.offers() if self._net.node_id in offer.nodes}
        info = await hash_and_offer(self._net, target, self._call.reporter, options)
        if info.file_id in before:  # no event tells of it
            await self._record(
                offer_record(
                    info.file_id,
                    info.name,
                    info.size_bytes,
                    self._net.node_id,
                    kind=info.kind,
                    file_count=info.file_count,
                )
            )

    def _resolve(self, path: str) -> str:
        """Return a typed path as seen from where it was typed."""
        return os.path.normpath(os.path.join(self._cwd, os.path.expanduser(path)))

    async def _get(self, file: str, out: str | None) -> None:
        """Fetch in the background; what becomes of it is told by events."""
        target = self._resolve(out or ".")
        await trio.to_thread.run_sync(check_output, target)
        item = find_offer(self._net, file)
        await self._net.files.start_download(item.file_id, Path(target), kind=item.kind)
