"""What `join` shows of a pool: the feed for people, or the events as they are for programs.

The feed for people begins with the newest messages that this device has, and puts what comes late where it belongs
(printed_feed.py). Programs get what came since this device was last in the pool, and then every event once; they have
`order` to sort by.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from poolnet import (
    AnnouncementReceived,
    DeviceId,
    EventsDropped,
    FileId,
    FileOffered,
    HistoryEntry,
    MessageReceived,
    MessageRetracted,
    MsgId,
    NodeJoined,
    NodeLeft,
    OfferInfo,
    PoolEvent,
    PoolInfo,
    PoolNet,
    ServerLost,
    UnknownMessageReceived,
    encode_id,
    short_id,
)
from poolnet.clock import Hlc
from poolnet.limits import NAME_GRACE_S, RECENT_MESSAGES
from poolnet_cli.printed_feed import PrintedFeed, Printout
from poolnet_cli.records import event_record, history_record, joined_record, node_record, offer_record
from poolnet_cli.reporter import Record, Reporter

_OFFER: Final = "offer"
#: A sync server that is there has answered long before this.
SERVER_PATIENCE_S: Final = 2.5

Key = tuple[Hlc, MsgId]
ShowPeople = Callable[[], Awaitable[None]]


class Talk(Protocol):
    """Shows messages; the rest is not its business."""

    @property
    def due_at(self) -> float:
        """When something is to be shown even if nothing happens; infinite if nothing is."""

    async def begin(self, show_people: ShowPeople) -> None:
        """Show what there is before the first event, and let those be shown who are here."""

    async def show(self, event: PoolEvent | EventsDropped) -> bool:
        """Take an event; return False if it is not about a message, so that it is still to be shown."""

    async def flush(self) -> None:
        """Show what was held back until `due_at`."""


class Showing:
    """The output of one feed.

    Args:
        talk: shows the messages.
    """

    def __init__(self, net: PoolNet, info: PoolInfo, reporter: Reporter, talk: Talk) -> None:
        self._net = net
        self._info = info
        self._reporter = reporter
        self._talk = talk
        self._shown_offers: set[tuple[FileId, DeviceId]] = set()
        self._here: set[DeviceId] = set()
        self._has_lost_server = False

    async def begin(self) -> None:
        """Show what is there: who is here, what is offered, what was said."""
        await self._reporter.record(joined_record(self._info, self._net.node_id, self._net.display_name))
        self._shown_offers.update((offer.file_id, node) for offer in self._net.files.offers() for node in offer.nodes)
        await self._talk.begin(self._show_people)

    async def run(self, events: AsyncIterator[PoolEvent | EventsDropped]) -> None:
        """Show events until there are no more."""
        while True:
            event: PoolEvent | EventsDropped | None = None
            with trio.move_on_at(self._talk.due_at):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    break
            if event is not None:
                await self._show(event)
            if trio.current_time() >= self._talk.due_at:
                await self._talk.flush()
        await self._talk.flush()

    async def _show_people(self) -> None:
        for member in self._net.members():
            if member.online and not member.is_self and member.name != short_id(member.node):
                await self._show(NodeJoined(node=member.node, name=member.name))

    async def announce_nameless(self) -> None:
        """After a while, show those who were here before this feed and whose names did not come."""
        await trio.sleep(NAME_GRACE_S + 1)
        for member in self._net.members():
            if member.online and not member.is_self and member.node not in self._here:
                self._here.add(member.node)
                await self._reporter.record(node_record("node_joined", member.node, member.name))

    async def announce_no_server(self) -> None:
        """Say soon if no sync server answers; that none does for sure is known much later."""
        await trio.sleep(SERVER_PATIENCE_S)
        if not self._net.is_attached and not self._has_lost_server:
            places = ", ".join(f"{server.host}:{server.port}" for server in self._info.servers)
            await self._show(ServerLost(address=places, reason=f"none has answered yet at {places}"))

    async def _show(self, event: PoolEvent | EventsDropped) -> None:
        self._has_lost_server |= isinstance(event, ServerLost)
        if self._is_news(event) and not await self._talk.show(event):
            await self._reporter.record(event_record(event))

    def _is_news(self, event: PoolEvent | EventsDropped) -> bool:
        """Return whether it is not yet shown; the beginning may have been faster."""
        match event:
            case NodeJoined(node=node):
                is_new = node not in self._here
                self._here.add(node)
                return is_new
            case NodeLeft(node=node):
                was_here = node in self._here
                self._here.discard(node)
                return was_here
            case FileOffered(file_id=file_id, node=node):
                is_new = (file_id, node) not in self._shown_offers
                self._shown_offers.discard((file_id, node))
                return is_new
            case _:
                return True


class EventTalk:
    """Messages as events, each once.

    Args:
        known: the newest messages that this device had before it entered: no news.
    """

    def __init__(self, net: PoolNet, reporter: Reporter, known: Iterable[MsgId]) -> None:
        self._net = net
        self._reporter = reporter
        self._shown = set(known)

    @property
    def due_at(self) -> float:
        """Never: nothing is held back."""
        return float("inf")

    async def begin(self, show_people: ShowPeople) -> None:
        """Show offers, and messages that came after entering and before listening."""
        await show_people()
        for offer in self._net.files.offers():
            for node in offer.nodes:
                await self._reporter.record(_standing_offer(offer, node))
        for entry in await self._net.history.latest(RECENT_MESSAGES):
            if entry.msg_id not in self._shown and entry.kind != _OFFER:
                self._shown.add(entry.msg_id)
                await self._reporter.record(history_record(entry))

    async def show(self, event: PoolEvent | EventsDropped) -> bool:
        """Say that a message was shown already, or leave it to be shown."""
        match event:
            case MessageReceived() | AnnouncementReceived() | UnknownMessageReceived():
                return event.msg_id in self._shown
            case _:
                return False

    async def flush(self) -> None:
        """Nothing is held back."""


class PrintedTalk:
    """Messages as a feed for people.

    Args:
        rows: of the screen.
    """

    def __init__(self, net: PoolNet, reporter: Reporter, rows: int) -> None:
        self._net = net
        self._reporter = reporter
        self._printed = PrintedFeed(rows)
        self._pinned: HistoryEntry | None = None

    @property
    def due_at(self) -> float:
        """When something is to be printed even if nothing happens."""
        return self._printed.due_at

    @property
    def oldest_key(self) -> Key | None:
        """The place of the oldest message in the feed."""
        return self._printed.feed.oldest_key

    async def begin(self, show_people: ShowPeople) -> None:
        """Print the newest messages, and what of the files is not among them."""
        await self._load()
        recent = self._printed.flush() or Printout()
        self._pinned = self._printed.feed.pinned
        if self._pinned is not None and self._pinned not in recent.entries:
            await self._record_pinned(self._pinned)
        if recent.entries:
            await self._reporter.record({"event": "recent", "entries": self._records(recent.entries)})
        await self._record_other_offers(recent.entries)
        await show_people()

    async def show(self, event: PoolEvent | EventsDropped) -> bool:
        """Print what an event about a message comes to."""
        if isinstance(event, MessageRetracted):
            await self._record_retracted(event)
            return True
        printout = self._printed.apply(event, now=trio.current_time(), unix_ms=self._net.unix_ms)
        await self._print(printout)
        await self._follow()
        match event:
            case MessageReceived() | AnnouncementReceived() | UnknownMessageReceived():
                return True
            case FileOffered(key=key):
                return key is not None
            case _:
                return False

    async def flush(self) -> None:
        """Print what was gathered."""
        await self._print(self._printed.flush())

    # --- inside -------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        history, feed = self._net.history, self._printed.feed
        self._printed.load(await history.latest(feed.size), await history.announcement(), trio.current_time())

    async def _follow(self) -> None:
        """Read what the feed lacks after an event, and show another announcement that counts now."""
        feed = self._printed.feed
        if feed.wants_load:
            await self._load()
        before, self._pinned = self._pinned, feed.pinned
        if self._pinned is None or (before is not None and before.msg_id == self._pinned.msg_id):
            return
        is_new = before is None or self._pinned.key > before.key
        if not is_new or self._pinned.msg_id not in {entry.msg_id for entry in feed.messages}:
            await self._record_pinned(self._pinned)

    async def _print(self, printout: Printout | None) -> None:
        if printout is None:
            return
        records = self._records(printout.entries)
        if printout.is_again or printout.further_up:
            late = records if printout.is_again else []
            await self._reporter.record({"event": "late", "entries": late, "further_up": printout.further_up})
        if not printout.is_again:
            for record in records:
                await self._reporter.record(record)

    async def _record_retracted(self, event: MessageRetracted) -> None:
        record = event_record(event)
        for entry in self._printed.feed.messages:
            if entry.msg_id == event.msg_id:
                record["of"] = {"node": encode_id(entry.node), "name": entry.name, "time": entry.unix_ms / 1000}
        self._printed.apply(event, now=trio.current_time(), unix_ms=self._net.unix_ms)
        await self._reporter.record(record)
        await self._follow()

    async def _record_pinned(self, announcement: HistoryEntry) -> None:
        await self._reporter.record({**history_record(announcement), "event": "pinned"})

    async def _record_other_offers(self, shown: Sequence[HistoryEntry]) -> None:
        """Show the files on offer whose offers are further up than the feed reaches."""
        seen = {(entry.node, entry.text) for entry in shown if entry.kind == _OFFER}
        offers = [
            {**_standing_offer(offer, node), "by": self._net.name_of(node)}
            for offer in self._net.files.offers()
            for node in offer.nodes
            if (node, offer.name) not in seen
        ]
        if offers:
            await self._reporter.record({"event": "offers", "offers": offers})

    def _records(self, entries: Sequence[HistoryEntry]) -> list[dict[str, object]]:
        if not any(entry.kind == _OFFER for entry in entries):
            return [history_record(entry) for entry in entries]
        offers = self._net.files.offers()
        how_many = Counter((node, offer.name) for offer in offers for node in offer.nodes)
        by_name = {(node, offer.name): offer for offer in offers for node in offer.nodes}
        return [
            {**history_record(entry), **_offer_fields(by_name.get((entry.node, entry.text or "")), entry, how_many)}
            for entry in entries
        ]


def _standing_offer(offer: OfferInfo, node: DeviceId) -> Record:
    """Return an offer that was made before, by one of those who make it."""
    return offer_record(offer.file_id, offer.name, offer.size_bytes, node, kind=offer.kind, file_count=offer.file_count)


def _offer_fields(
    offer: OfferInfo | None, entry: HistoryEntry, how_many: Counter[tuple[DeviceId, str]]
) -> dict[str, object]:
    """Return what is to be added to an offer in the history while it stands, if it is clear which file that is."""
    if entry.kind != _OFFER or offer is None or how_many[entry.node, offer.name] != 1:
        return {}
    return {"file_id": encode_id(offer.file_id), "size": offer.size_bytes}
