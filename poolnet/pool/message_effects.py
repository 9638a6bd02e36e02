"""What a message does on this device once it is in the history: names, offers, and what applications hear of it."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trio

from poolnet.clock import Hlc, hlc_ms
from poolnet.errors import LocalError, WireError
from poolnet.events import (
    AnnouncementReceived,
    AppMessageReceived,
    Mentioned,
    MessageReceived,
    MessageRetracted,
    PoolEvent,
    UnknownMessageReceived,
)
from poolnet.file_manager import FileManager
from poolnet.files.offer_shares import OfferShares
from poolnet.identity.membership import Membership
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.limits import MAX_OFFERS
from poolnet.pool.history import apply_offer, offered_id, what_counts
from poolnet.protocol.presence import Presence, Said
from poolnet.timer import Timer
from poolnet.wire.bodies import (
    AnnouncementBody,
    AppBody,
    Body,
    FolderBody,
    MediaBody,
    OfferBody,
    ProfileBody,
    RetractMessageBody,
    RetractOfferBody,
    StreamBody,
    TextBody,
    decode_body_untrusted,
)
from poolnet.wire.message import Message, MessageKey

logger = logging.getLogger(__name__)

AppHandler = Callable[[AppMessageReceived], None]


class MessageEffects:
    """Turns messages, and comings and goings, into events.

    Args:
        publish: gives an event to the subscribers.
    """

    def __init__(
        self,
        *,
        self_id: DeviceId,
        membership: Membership,
        files: FileManager,
        publish: Callable[[PoolEvent], None],
    ) -> None:
        self._self_id = self_id
        self._membership = membership
        self._files = files
        self._publish = publish
        self._presence = Presence(self_id=self_id)
        self._timer = Timer(self._presence.next_deadline)
        self._newest: MessageKey | None = None  # of what people see
        self._offers: dict[MsgId, tuple[DeviceId, FileId, Hlc]] = {}  # by the messages that made them
        self._offer_shares = OfferShares()
        self._app_handlers: dict[str, AppHandler] = {}

    # --- who is here --------------------------------------------------------------------------------------------

    def name_of(self, node: DeviceId) -> str:
        """Return a device's display name, or a short form of its id."""
        return self._presence.name_of(node)

    def names(self) -> Mapping[DeviceId, str]:
        """Return all display names that are known."""
        return self._presence.names()

    def came(self, nodes: Iterable[DeviceId]) -> None:
        """Take nodes that are online now."""
        self._publish_all(self._presence.came(nodes, trio.current_time()))
        self._timer.rearm()

    def went(self, nodes: Iterable[DeviceId]) -> None:
        """Take nodes that are no longer online."""
        self._publish_all(self._presence.went(nodes))

    async def run_timer(self) -> None:
        """Announce nodes whose names do not come. Runs until cancelled."""
        while True:
            await self._timer.wait()
            self._publish_all(self._presence.tick(trio.current_time()))

    # --- messages -----------------------------------------------------------------------------------------------

    def begin_after(self, key: MessageKey) -> None:
        """Take the place of the newest message of earlier sessions: what comes before it is late."""
        self._newest = key

    def restore(self, standing: Iterable[Message]) -> None:
        """Take what stands in the history from earlier sessions, so that it holds and old changes are no news."""
        for message in what_counts(standing):
            self.apply(message)

    def handle_app(self, app_name: str, handler: AppHandler) -> None:
        """Call `handler` with each message of a program from now on.

        Raises:
            LocalError: another handler has that name.
        """
        if app_name in self._app_handlers:
            raise LocalError(f"messages of {app_name!r} have a handler already")
        self._app_handlers[app_name] = handler

    def apply(self, message: Message) -> None:
        """Do what a message says; called once for each, in the order in which they were stored."""
        try:
            body = decode_body_untrusted(message.content.kind, message.content.body)
        except WireError:
            return  # from a database of another version; it stays in the history
        match body:
            case ProfileBody(name=name):
                self._publish_all(self._presence.set_name(message.author, name, message.key, trio.current_time()))
                self._timer.rearm()
            case OfferBody() | FolderBody() | MediaBody() | StreamBody():
                self._remember_offer(message, offered_id(body, message))
                apply_offer(body, message, self._files)
            case RetractOfferBody():
                apply_offer(body, message, self._files)
            case RetractMessageBody():
                pass  # the database obeys it, and tells
            case _:
                self._said(message, body)

    def retracted(self, msg_id: MsgId, tombstone: Message) -> None:
        """Tell of a message that is gone from the history, and tell what it said no more."""
        self._presence.retracted(msg_id)
        if (offer := self._offers.pop(msg_id, None)) is not None:
            self._offer_shares.remove(offer[0], FileId(msg_id))
            self._files.learned_retraction(*offer)
        author = tombstone.author
        self._publish(MessageRetracted(msg_id=msg_id, node=author, name=self.name_of(author)))

    def _remember_offer(self, message: Message, file_id: FileId) -> None:
        """Take note of which message made an offer; there is as much room for these as for offers."""
        if message.msg_id in self._offers:
            return
        self._offers[message.msg_id] = (message.author, file_id, message.content.hlc)
        self._offer_shares.put(message.author, FileId(message.msg_id), message.content.hlc)
        if len(self._offer_shares) > MAX_OFFERS:
            author, oldest = self._offer_shares.first_to_go()
            self._offer_shares.remove(author, oldest)
            del self._offers[MsgId(oldest)]

    def _said(self, message: Message, body: Body | None) -> None:
        is_below = self._newest is not None and message.key < self._newest
        is_late = is_below and message.author != self._self_id  # an own one may be overtaken while it is stored
        if not is_below:
            self._newest = message.key
        for event in self._events(message, body, is_late=is_late):
            for heard in self._presence.said(event, trio.current_time()):
                self._hear(heard)
        self._timer.rearm()

    def _events(self, message: Message, body: Body | None, *, is_late: bool) -> list[Said]:
        author = message.author
        who: dict[str, Any] = {"msg_id": message.msg_id, "node": author, "name": self.name_of(author)}
        where: dict[str, Any] = {"unix_ms": hlc_ms(message.content.hlc), "key": message.key, "is_late": is_late}
        match body:
            case TextBody(text=text, mentions=mentions, to_all=to_all):
                received = MessageReceived(**who, **where, text=text, mentions=mentions, to_all=to_all)
                is_called = author != self._self_id and (to_all or self._self_id in mentions)
                return [received, Mentioned(**who, text=text, to_all=to_all)] if is_called else [received]
            case AnnouncementBody(text=text):
                if self._membership.was_admin(author, message.content.hlc):
                    return [AnnouncementReceived(**who, **where, text=text)]
                logger.info("an announcement by somebody who is no admin")
                return []
            case AppBody(name=app_name, data=data):
                return [AppMessageReceived(**who, **where, app_name=app_name, data=data)]
            case _:
                return [UnknownMessageReceived(**who, **where, kind=message.content.kind)]

    def _publish_all(self, events: Iterable[PoolEvent]) -> None:
        for event in events:
            self._hear(event)

    def _hear(self, event: PoolEvent) -> None:
        self._publish(event)
        if isinstance(event, AppMessageReceived) and (handler := self._app_handlers.get(event.app_name)) is not None:
            try:
                handler(event)
            except Exception:  # a program's own; the pool goes on
                logger.exception("the handler of %r failed", event.app_name)
