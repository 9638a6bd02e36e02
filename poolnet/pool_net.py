"""One pool as seen from this device: who is here, messages out and in, files, events.

`PoolNet` composes the parts and holds no policy of its own. A message from a link goes `MemberLink` → `MessageFlow` →
database → `MessageEffects` → subscribers; a chunk goes from the link to the `FileManager` without passing here.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import attrs
import trio

from poolnet.errors import PoolnetError, Refused, TextTooLong, UnknownMessage, Unreachable
from poolnet.event_stream import EventStream
from poolnet.events import (
    AppMessageReceived,
    ClockWrong,
    ErrorReported,
    EventsDropped,
    PoolEvent,
)
from poolnet.file_manager import FileManager
from poolnet.identity.invite_link import ServerAddress
from poolnet.identity.keys import DeviceKey
from poolnet.identity.membership import Membership
from poolnet.identity.statements import Role, Statement, encode_statement
from poolnet.ids import DeviceId, MsgId, PoolId
from poolnet.limits import MAX_APP_SIZE, MAX_NAME_CHARS, MAX_TEXT_CHARS
from poolnet.message_db import MessageDB
from poolnet.net.endpoint import Endpoint
from poolnet.net.link import Link
from poolnet.pool.clock_keeper import ClockKeeper
from poolnet.pool.conduct_keeper import ConductKeeper
from poolnet.pool.link_keeper import LinkKeeper
from poolnet.pool.member_link import MemberLink
from poolnet.pool.member_list import MemberInfo, MemberList
from poolnet.pool.message_effects import MessageEffects
from poolnet.pool.message_flow import MessageFlow, MessageStatistics
from poolnet.pool.placement import Placement
from poolnet.pool.server_keeper import ServerKeeper
from poolnet.pool.statement_keeper import StatementKeeper
from poolnet.protocol import mesh
from poolnet.protocol.conduct import ConductStatistics
from poolnet.protocol.mentions import find_mentions
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.rings import Roster
from poolnet.steady_time import SteadyTime
from poolnet.views.reader import HistoryReader
from poolnet.wire.bodies import (
    AnnouncementBody,
    AppBody,
    ProfileBody,
    RetractMessageBody,
    SignalBody,
    TextBody,
    decode_body_untrusted,
)
from poolnet.wire.link_frames import Hello
from poolnet.wire.message import Message

__all__ = ["MemberInfo", "PoolNet", "PoolStatistics", "check_display_name"]


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """Sizes and counts of a joined pool."""

    members: int
    online: int
    links: int
    attached: bool
    messages: MessageStatistics
    conduct: ConductStatistics


class PoolNet:
    """A joined pool. Made by `Node.join`.

    Attributes:
        pool_id: the pool.
        node_id: this device.
        messages: the history on this device, message by message.
        history: the same as people read it, with names.
        files: offers and downloads.

    Example:
        ```python
        async def main(home, invite):
            async with poolnet.open_node(home) as node, node.join(invite, name="Ada") as pool:
                await pool.send("hello")
                async with pool.subscribe() as events:
                    async for event in events:
                        print(event)
        ```
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        endpoint: Endpoint,
        key: DeviceKey,
        membership: Membership,
        servers: Sequence[ServerAddress],
        db: MessageDB,
        files: FileManager,
        events: EventStream[PoolEvent],
        rng: RandomSource,
        time: SteadyTime,
        join: Statement | None,
        display_name: str | None,
        default_name: str,
        statements_changed: Callable[[], None],
    ) -> None:
        self.pool_id: PoolId = membership.pool_id
        self.node_id: DeviceId = key.device_id
        self._chosen_name = display_name
        self._default_name = default_name
        self.messages = db
        self.history = HistoryReader(db, was_admin=membership.was_admin, name_of=self.name_of)
        self.files = files
        self._key = key
        self._membership = membership
        self._events = events
        self._nursery = nursery
        self._save_statements = statements_changed
        self._roster = Roster()
        self._time = self._make_clock(time)
        self._effects = MessageEffects(
            self_id=self.node_id, membership=membership, files=files, publish=self._events.publish
        )
        self._flow = self._make_flow(rng)
        self._conduct = self._make_conduct()
        self._links = self._make_links(endpoint, rng)
        self._placement = self._make_placement()
        self._server = self._make_server(endpoint, rng, servers, join)
        self._statements = StatementKeeper(
            membership=membership, server=self._server, links=self._links.links, changed=self._statements_changed
        )
        self._members = MemberList(
            self_id=self.node_id,
            membership=membership,
            roster=self._roster,
            links=self._links.links,
            name_of=self.name_of,
            conduct_of=self._conduct.of,
        )

    # --- for applications ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._membership.name

    @property
    def display_name(self) -> str:
        """How others see this device: by the name that it took last, else by the one that it is to take."""
        return self._effects.names().get(self.node_id) or self._chosen_name or self._default_name

    @property
    def is_attached(self) -> bool:
        """Whether a sync server holds this node in its roster at the moment."""
        return self._server.is_attached

    async def send(self, text: str) -> MsgId:
        """Send a text message to everyone; return its id once it is stored on this device, durably.

        It goes to the neighbours at once, and to whoever is not there now when they come; `delivered` waits for that.
        Whoever sends faster than the neighbours take it waits here, before the message is stored, until they have
        caught up; a single slow neighbour among several is not waited for. Cancelling before it is stored leaves
        nothing; after, it is in the history and goes out, as if this had returned. That holds for all that is sent.
        Members whose names it has behind an at-sign, or everyone by ``@all``, are told that they are meant.

        Raises:
            TextTooLong: empty, or more than `MAX_TEXT_CHARS` characters.
        """
        _check_text(text)
        mentions, to_all = find_mentions(text, self._effects.names()) if "@" in text else ((), False)
        return await self._flow.publish(TextBody(text=text, mentions=mentions, to_all=to_all))

    async def announce(self, text: str) -> MsgId:
        """Send a text that interfaces keep in sight; for admins. Return its id once it is stored, durably.

        Raises:
            TextTooLong: empty, or more than `MAX_TEXT_CHARS` characters.
            Refused: this device is no admin of the pool.
        """
        _check_text(text)
        if self._membership.role_of(self.node_id) != Role.ADMIN:
            raise Refused("only an admin of the pool can announce; send it as a message", code="not_admin")
        return await self._flow.publish(AnnouncementBody(text=text))

    async def send_app(self, app_name: str, data: bytes) -> MsgId:
        """Send a message of a program to everyone; it is stored, ordered and passed on like a text.

        Args:
            app_name: which program, and which kind of its messages; 1 to `MAX_APP_NAME_CHARS` characters.
            data: at most `MAX_APP_SIZE` bytes.

        Raises:
            TextTooLong: either is over its limit.
        """
        if len(data) > MAX_APP_SIZE:
            raise TextTooLong(f"{len(data)} bytes; at most {MAX_APP_SIZE} fit into a message, offer a file instead")
        return await self._flow.publish(AppBody(name=app_name, data=data))

    def handle_app(self, app_name: str, handler: Callable[[AppMessageReceived], None]) -> None:
        """Call `handler` with each message that `send_app` sends under that name, own ones too, from now on.

        It is called once for each, in the order in which they arrive here (`key` is their order in the pool), must not
        block, and what it raises is logged. Earlier ones are in `messages`.

        Raises:
            LocalError: that name has a handler already.
        """
        self._effects.handle_app(app_name, handler)

    async def retract_message(self, msg_id: MsgId) -> None:
        """Take a message back: its text is deleted on every device, now or when that device hears of it.

        Its author can, and an admin. Return once it is gone here, durably.

        Raises:
            UnknownMessage: it is not in this device's history.
            Refused: it is another's, and this device is no admin.
        """
        found = await self.messages.get([msg_id])
        if not found:
            raise UnknownMessage("there is no message of that id in this device's history")
        if found[0].author != self.node_id and self._membership.role_of(self.node_id) != Role.ADMIN:
            raise Refused("only its author or an admin of the pool can take a message back", code="not_admin")
        await self._flow.publish(RetractMessageBody(msg_id=msg_id))

    async def delivered(self, timeout_s: float) -> None:
        """Wait until at least one neighbour has everything that was sent so far.

        Raises:
            Unreachable: not within `timeout_s`; the messages are kept and go out when somebody comes.
        """
        await self._flow.delivered(timeout_s)

    async def synced(self, timeout_s: float) -> None:
        """Wait until this node and all its neighbours have the same history up to this moment.

        That is its window: what is kept in agreement by itself (docs/messages.md).

        Raises:
            Unreachable: not within `timeout_s`, or there is no neighbour.
        """
        deadline = trio.current_time() + timeout_s
        await self.wait_linked(timeout_s)
        await self._flow.synced(deadline - trio.current_time())

    async def rename(self, display_name: str) -> None:
        """Change how others see this device, now and in later sessions.

        Raises:
            TextTooLong: empty, or more than `MAX_NAME_CHARS` characters.
        """
        await self._flow.publish(ProfileBody(name=check_display_name(display_name)))

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[PoolEvent | EventsDropped]]:
        """Return a context manager around an iterator over everything that happens from now on (poolnet/events.py).

        The first subscriber also gets what has happened since the pool was joined.
        """
        return self._events.subscribe()

    def members(self) -> list[MemberInfo]:
        """Return all members of the pool, online or not, by name."""
        return self._members.all()

    def name_of(self, node: DeviceId) -> str:
        """Return a member's display name, or a short form of its id."""
        return self.display_name if node == self.node_id else self._effects.name_of(node)

    async def wait_linked(self, timeout_s: float) -> None:
        """Wait until there is a link to another member.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        with trio.move_on_after(timeout_s):
            await self._links.wait_linked()
            return
        raise Unreachable("no other member was there in time; try again when somebody is online")

    async def wait_attached(self, timeout_s: float) -> None:
        """Wait until a sync server has let this node in.

        Raises:
            Refused: it said no for good.
            Unreachable: none answered in time.
        """
        await self._server.wait_attached(timeout_s)

    def statistics(self) -> PoolStatistics:
        """Return sizes and counts."""
        return PoolStatistics(
            members=len(self._membership.members()),
            online=len(self._roster),
            links=len(self._links.links),
            attached=self.is_attached,
            messages=self._flow.statistics(),
            conduct=self._conduct.statistics(),
        )

    @property
    def unix_ms(self) -> int:
        """What time it is by the sync server, the neighbours and this device, in milliseconds since 1970."""
        return self._time.corrected_ms()

    # --- for Node -----------------------------------------------------------------------------------------------

    def authorise(self, hello: Hello) -> tuple[bytes, ...]:
        """Decide on an incoming link; see `LinkKeeper.authorise`."""
        return self._links.authorise(hello)

    def adopt(self, link: Link) -> None:
        """Serve an incoming link until it closes, or until this pool is left."""
        self._nursery.start_soon(self._links.adopt, link)

    async def add_statement(self, statement: Statement) -> None:
        """Take a statement that this device made, pass it on, and wait until the server has it, if one is there."""
        self._statements.made(statement)
        await self._server.flushed()

    def retracted(self, msg_id: MsgId, tombstone: Message) -> None:
        """Take note of a message that the database deleted."""
        self._flow.retracted(msg_id)
        self._effects.retracted(msg_id, tombstone)

    def report(self, error: PoolnetError) -> None:
        """Tell subscribers of something that went wrong without anybody having asked."""
        self._events.publish(ErrorReported(code=error.code, message=str(error)))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the history's standing part, then keep links, server and timers going until cancelled."""
        await self.files.bind(
            self._key,
            self.pool_id,
            self._flow.publish,
            name_of=self.name_of,
            want_holders=self._placement.want_holders,
            hops_to=self._placement.hops_to,
            noted=self._conduct.note,
            credit_of=self._conduct.credit_of,
        )
        newest = await self._flow.load()
        if newest is not None:
            self._effects.begin_after(newest)
        await self.files.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flow.run)
            nursery.start_soon(self._links.run_timer)
            nursery.start_soon(self._effects.run_timer)
            nursery.start_soon(self._server.run)
            nursery.start_soon(self._time.run)
            nursery.start_soon(self._conduct.run)
            task_status.started()

    async def take_name(self) -> None:
        """Go by the name that was chosen for this session, else by the last one; tell the others if it is new.

        Not for visits that only bring a statement: others would know this device by a name that nobody chose.
        """
        last = self._effects.names().get(self.node_id)
        name = self._chosen_name or last or self._default_name
        if name != last:
            await self._flow.publish(ProfileBody(name=name))

    async def leave_quietly(self) -> None:
        """Tell server and neighbours that this node goes offline now, within a moment."""
        await self._server.leave()
        for link in list(self._links.links.values()):
            link.close_now(code="done", reason="")

    # --- links --------------------------------------------------------------------------------------------------

    async def _serve(self, link: Link) -> None:
        member = MemberLink(
            link, membership=self._membership, statements=self._statements, flow=self._flow, files=self.files
        )
        member.check_peer()
        self._effects.came([link.peer])
        await member.serve()

    def _signal(self, to: DeviceId, body: bytes) -> None:
        """Send a signal through the server, or along the mesh while there is none."""
        if not self._server.signal(to, body):
            self._flow.publish_ephemeral(SignalBody(to=to, signal=body))

    def _unreachable(self, peer: DeviceId) -> None:
        if self._server.is_attached:
            self._server.cannot_reach(peer)
        else:  # nobody else tells us that it is gone
            self._effects.went([peer])

    def _statements_changed(self) -> None:
        self._save_statements()
        self._flow.membership_changed()

    # --- messages -----------------------------------------------------------------------------------------------

    def _apply_ephemeral(self, message: Message) -> None:
        body = decode_body_untrusted(message.content.kind, message.content.body)
        if isinstance(body, SignalBody) and body.to == self.node_id and message.author != self.node_id:
            self._links.signal_received(message.author, body.signal)

    # --- parts, each of which hears of what happens in others -----------------------------------------------------

    def _make_clock(self, time: SteadyTime) -> ClockKeeper:
        return ClockKeeper(
            time,
            neighbours=lambda: [link.clock_offset_ms for link in self._links.links.values()],
            server=lambda: self._server.clock_offset_ms,
            changed=lambda: self._flow.clock_changed(),
            warn=lambda ahead_s: self._events.publish(ClockWrong(ahead_s=ahead_s)),
        )

    def _make_flow(self, rng: RandomSource) -> MessageFlow:
        return MessageFlow(
            nursery=self._nursery,
            key=self._key,
            membership=self._membership,
            db=self.messages,
            time=self._time,
            rng=rng,
            apply=self._effects.apply,
            apply_ephemeral=self._apply_ephemeral,
            restore=self._effects.restore,
            report=self.report,
            room=self._events.room,
            is_steady=lambda peer: self._links.is_steady(peer),
        )

    def _make_links(self, endpoint: Endpoint, rng: RandomSource) -> LinkKeeper:
        return LinkKeeper(
            nursery=self._nursery,
            endpoint=endpoint,
            membership=self._membership,
            self_id=self.node_id,
            machine=mesh.Mesh(self.node_id, self._roster, rng),
            signal=self._signal,
            serve=self._serve,
            unreachable=self._unreachable,
            changed=self.files.routes_changed,
            corrected_ms=self._time.corrected_ms,
            faulted=self._conduct.faulted,
        )

    def _make_conduct(self) -> ConductKeeper:
        return ConductKeeper(
            shun=lambda peer, until: self._links.feed(mesh.Shun(peer, until)),
            report=lambda peer, kind: self._server.misbehaved(peer, kind),
            credit_changed=self.files.credit_changed,
            clock_errors_ms=lambda: self._time.errors_ms(
                {peer: link.clock_offset_ms for peer, link in self._links.links.items()}
            ),
        )

    def _make_placement(self) -> Placement:
        return Placement(
            self_id=self.node_id,
            roster=self._roster,
            links=self._links,
            effects=self._effects,
            time=self._time,
            events=self._events,
            take_statements=lambda encoded: self._statements.from_server(encoded),
            ask_for_roster=lambda: self._server.roster_lost(),
            routes_changed=self.files.routes_changed,
        )

    def _make_server(
        self, endpoint: Endpoint, rng: RandomSource, servers: Sequence[ServerAddress], join: Statement | None
    ) -> ServerKeeper:
        return ServerKeeper(
            endpoint=endpoint,
            membership=self._membership,
            self_id=self.node_id,
            servers=servers,
            credentials=() if join is None else (encode_statement(join),),
            rng=rng,
            listener=self._placement,
        )


def _check_text(text: str) -> None:
    if not 1 <= len(text) <= MAX_TEXT_CHARS:
        raise TextTooLong(
            f"a message has 1 to {MAX_TEXT_CHARS} characters, this has {len(text)}; send it in parts, or as a file"
        )


def check_display_name(name: str) -> str:
    """Return `name` without white space around it.

    Raises:
        TextTooLong: empty, or more than `MAX_NAME_CHARS` characters.
    """
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise TextTooLong(f"a display name has 1 to {MAX_NAME_CHARS} characters, this has {len(name)}")
    return name
