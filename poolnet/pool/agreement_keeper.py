"""Brings the histories of this device and its neighbours together: drives the pure `Agreement` machines.

Two sets are kept in agreement, each by a machine of its own: the history, in a window of it; and what stands however
old it is (names, offers, what was taken back), as a whole. Keys are compared where they are, in the database's thread,
and nothing is kept here of either set; messages that come go the way of all others, through the inbox.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import count

import attrs
import trio

from poolnet.errors import BadSignature, Flood, LinkClosed, PoolnetError, ProtocolError, StoreError, Unreachable
from poolnet.ids import DeviceId, MsgId, PoolId
from poolnet.message_db import MessageDB
from poolnet.net.link import Link
from poolnet.pool.delivery import DeliveryBook
from poolnet.pool.inbox import Inbox
from poolnet.pool.storing import until_stored
from poolnet.protocol import agreement
from poolnet.protocol.agreement import Agreement
from poolnet.protocol.fetching import pack_messages
from poolnet.protocol.gossip import Verdict
from poolnet.protocol.randomness import RandomSource
from poolnet.timer import Timer
from poolnet.wire.claims import HIGHEST, LOWEST, Bound
from poolnet.wire.message import Message, encode_message, message_id_untrusted
from poolnet.wire.pool_frames import HISTORY, STANDING, Compare, Messages, OpenComparison, WantMessages

logger = logging.getLogger(__name__)

#: By then neighbours that are there have said what they consumed.
_CONSUMPTION_S = 0.5

AgreementFrame = OpenComparison | Compare | WantMessages | Messages


@attrs.define(eq=False)
class _Request:
    done: trio.Event = attrs.Factory(trio.Event)
    ok: bool = False


class AgreementKeeper:
    """The agreement of one pool with this device's neighbours.

    Args:
        nursery: owns the tasks that compare and answer; outlives this object.
        corrected_ms: the time that the pool agrees on.
        book: learns what neighbours are found to have.
        report: called with what goes wrong without anybody having asked.
        room: waits until applications have heard most of what came; by itself nobody is waited for.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        db: MessageDB,
        rng: RandomSource,
        corrected_ms: Callable[[], int],
        inbox: Inbox,
        book: DeliveryBook,
        pool_id: PoolId,
        report: Callable[[PoolnetError], None],
        room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._nursery = nursery
        self._db = db
        self._rng = rng
        self._corrected_ms = corrected_ms
        self._inbox = inbox
        self._book = book
        self._pool_id = pool_id
        self._report = report
        self._room = room
        self._links: dict[DeviceId, Link] = {}
        self._linked = trio.Event()
        self._machines: dict[int, Agreement] = {}
        self._known_from: Bound = HIGHEST  # as it is to be kept on disk
        self._requests: dict[int, _Request] = {}
        self._numbers = count(1)
        self._has_ended = False
        self._timer = Timer(self._next_deadline)

    async def load(self) -> None:
        """Begin with what the database says."""
        self._machines = {
            STANDING: self._machine(STANDING, known_from=LOWEST, floor=LOWEST),
            HISTORY: self._machine(HISTORY, known_from=await self._db.known_from(), floor=await self._db.floor()),
        }

    def _machine(self, scope: int, *, known_from: Bound | None, floor: Bound) -> Agreement:
        return Agreement(
            self._rng,
            is_whole=scope == STANDING,
            unix_ms=self._corrected_ms,
            is_pending=self._inbox.is_pending,
            is_held=self._inbox.is_held,
            known_from=known_from,
            floor=floor,
        )

    async def run(self) -> None:
        """Compare when it is time to. Runs until cancelled; requests that are not settled then are not fulfilled."""
        try:
            while True:
                await self._timer.wait()
                for scope, machine in self._machines.items():
                    self._perform(scope, machine.tick(trio.current_time()))
        finally:
            self._has_ended = True
            for request in self._requests.values():
                request.done.set()

    # --- what applications ask for ------------------------------------------------------------------------------

    async def fetch_older(self, before: Bound, number: int) -> None:
        """Have the `number` messages before a place here, as far as a neighbour has them."""
        await self._ask(HISTORY, lambda request: agreement.FetchOlder(request, before, number))

    async def synced(self, upper: Bound, timeout_s: float) -> None:
        """Wait until every neighbour has the same as this node below `upper`.

        Raises:
            Unreachable: not within `timeout_s`.
        """
        with trio.move_on_after(timeout_s):
            while not self._has_ended:
                await self._linked.wait()
                stand = await self._ask(STANDING, lambda request: agreement.Check(request, HIGHEST))
                if stand and await self._ask(HISTORY, lambda request: agreement.Check(request, upper)):
                    return
                await trio.lowlevel.checkpoint()
        raise Unreachable(
            f"this device and {_neighbours(len(self._links))} did not agree in time; "
            "histories are still being compared, or a neighbour does not answer"
            if self._links
            else "no other member was there in time; try again when somebody is online"
        )

    async def keep_checking(self) -> None:
        """Compare with the neighbours now and then, as long as somebody waits to hear that they have what is here.

        What they consume of this session's frames is known sooner. But what an earlier session sent, and what came
        while this device lacked something else, only a comparison tells. Runs until cancelled.
        """
        while not self._has_ended:
            await trio.sleep(_CONSUMPTION_S)
            await self._linked.wait()
            await self._ask(HISTORY, lambda request: agreement.Check(request, HIGHEST))

    async def _ask(self, scope: int, event: Callable[[int], agreement.AgreementEvent]) -> bool:
        if self._has_ended:
            return False
        number, request = next(self._numbers), _Request()
        self._requests[number] = request
        try:
            self._feed(scope, event(number))
            await request.done.wait()
        finally:
            if not request.done.is_set():
                self._feed(scope, agreement.Cancel(number))
            del self._requests[number]
        return request.ok

    # --- what happens here --------------------------------------------------------------------------------------

    def settled(self, ids: Sequence[MsgId]) -> None:
        """Take note that the inbox is done with messages."""
        self._feed_all(agreement.Stored(tuple(ids)))

    def floor_moved(self, floor: Bound) -> None:
        """Take note that this device keeps nothing below `floor`."""
        self._feed(HISTORY, agreement.FloorMoved(floor))

    def deferred(self, peer: DeviceId) -> None:
        """Take note that a peer brought something that was not taken, and that comparing is to bring."""
        self._feed(HISTORY, agreement.Deferred(peer))

    def link_up(self, link: Link) -> None:
        """Begin to compare with a peer that has all our statements."""
        self._links[link.peer] = link
        self._linked.set()
        self._feed_all(agreement.LinkUp(link.peer, link.is_dialler))

    def link_down(self, link: Link) -> None:
        """Stop with a link that closed."""
        del self._links[link.peer]
        if not self._links:
            self._linked = trio.Event()
        self._feed_all(agreement.LinkDown(link.peer))

    async def handle_frame(self, link: Link, frame: AgreementFrame) -> None:
        """Take a frame from a peer; waits while inbox or applications have enough, which holds back that link.

        Raises:
            ProtocolError: the peer does not keep to the protocol.
            WireError: a message that is malformed.
        """
        if frame.scope not in self._machines:
            return  # of a newer version
        if isinstance(frame, Messages):
            await self._take(link, frame)
        else:
            self._receive(link, frame.scope, agreement.Received(link.peer, frame))

    async def _take(self, link: Link, frame: Messages) -> None:
        """Take messages that were asked for, each once: nothing else is verified, or one could bring it without end."""
        machine = self._machines[frame.scope]
        ids: dict[MsgId, None] = {}
        for encoded in frame.messages:
            if self._links.get(link.peer) is not link:
                return  # another link has taken its place, and what this one was asked for is asked for there
            msg_id = message_id_untrusted(encoded, self._pool_id)
            if msg_id in ids or not machine.is_awaited(link.peer, frame.number, msg_id):
                raise Flood("a message that was not asked for")
            ids[msg_id] = None
            if self._inbox.is_pending(msg_id) or self._inbox.is_held(msg_id):
                continue
            verdict = self._inbox.judge_fetched(msg_id, encoded)
            if verdict is Verdict.REJECT:
                raise BadSignature("a message that is not acceptable")
            if verdict is Verdict.ACCEPT:
                await self._room()
                await self._inbox.put(msg_id)
        # only now: what does not get into the inbox because the link closes has not arrived
        self._receive(link, frame.scope, agreement.Arrived(link.peer, frame.number, tuple(ids), frame.is_last))

    def _receive(self, link: Link, scope: int, event: agreement.AgreementEvent) -> None:
        for effect in self._feed(scope, event):
            if isinstance(effect, agreement.Misbehaved) and effect.peer == link.peer:
                raise ProtocolError(effect.reason)

    # --- the machines -------------------------------------------------------------------------------------------

    def _feed_all(self, event: agreement.AgreementEvent) -> None:
        for scope in self._machines:
            self._feed(scope, event)

    def _feed(self, scope: int, event: agreement.AgreementEvent) -> list[agreement.AgreementEffect]:
        effects = self._machines[scope].handle(event, trio.current_time())
        self._perform(scope, effects)
        self._timer.rearm()
        return effects

    def _perform(self, scope: int, effects: Iterable[agreement.AgreementEffect]) -> None:
        for effect in effects:
            match effect:
                case agreement.SendFrame(peer, frame):
                    self._post(peer, attrs.evolve(frame, scope=scope))
                case agreement.Step():
                    self._nursery.start_soon(self._step, scope, effect)
                case agreement.Serve():
                    self._nursery.start_soon(self._serve, scope, effect)
                case agreement.Finished(request, ok):
                    self._finish(request, ok=ok)
                case agreement.KnownFrom(bound):
                    self._known_from = bound
                    self._nursery.start_soon(until_stored, self._remember, self._report)
                case agreement.Agreed():
                    pass  # of one step, which sees to it
                case agreement.Misbehaved(peer, reason):
                    if (link := self._links.get(peer)) is not None:
                        link.close_now(code="protocol", reason=reason)

    def _post(self, peer: DeviceId, frame: AgreementFrame) -> None:
        if (link := self._links.get(peer)) is not None:
            try:
                link.post_frame(frame)
            except LinkClosed:
                return  # its own task notices and reports it

    def _finish(self, number: int, *, ok: bool) -> None:
        request = self._requests.get(number)
        if request is not None:  # else this keeper has ended, and who asked has gone
            request.ok = ok
            request.done.set()

    async def _step(self, scope: int, effect: agreement.Step) -> None:
        result, unconfirmed = None, self._book.unconfirmed()
        try:
            with_keys = self._db.with_standing_keys if scope == STANDING else self._db.with_keys
            result = await with_keys(effect.call)
        except StoreError as exc:
            self._report(exc)
        for followed in self._feed(scope, agreement.Stepped(effect.step, result)):
            if scope == HISTORY and isinstance(followed, agreement.Agreed):
                self._book.agreed(followed.upper, unconfirmed)

    async def _serve(self, scope: int, effect: agreement.Serve) -> None:
        """Send messages that a peer lacks; waits for the credit of its link."""
        link = self._links.get(effect.peer)
        try:
            if link is not None:
                messages = await self._read(effect.ids)
                for frame in pack_messages(effect.number, map(encode_message, messages)):
                    await link.send_frame(attrs.evolve(frame, scope=scope))
                for message in messages:
                    self._book.sent(link, message.msg_id)
        except LinkClosed:
            pass  # its own task notices and reports it
        self._feed(scope, agreement.Served(effect.peer, effect.number))

    async def _read(self, ids: Sequence[MsgId]) -> list[Message]:
        """Return messages, none if the database fails: the peer waits for an answer, and asks others then."""
        try:
            return await self._db.get(ids)
        except StoreError as exc:
            self._report(exc)
            return []

    async def _remember(self) -> None:
        await self._db.set_known_from(self._known_from)

    def _next_deadline(self) -> float | None:
        deadlines = (machine.next_deadline() for machine in self._machines.values())
        return min((at for at in deadlines if at is not None), default=None)

    @property
    def runs(self) -> int:
        """Comparisons that this node began."""
        return sum(machine.statistics().runs for machine in self._machines.values())

    @property
    def fetched(self) -> int:
        """Messages that came because comparing showed that they were lacking."""
        return sum(machine.statistics().fetched for machine in self._machines.values())


def _neighbours(count: int) -> str:
    return "its neighbour" if count == 1 else f"its {count} neighbours"
