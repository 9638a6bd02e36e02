"""One link to another member, from its first frame to its last: statements, then messages; files at any time."""

import logging
from collections import deque
from typing import Any

import trio

from poolnet.errors import LinkClosed, PoolnetError, ProtocolError, WireError
from poolnet.file_manager import FileManager
from poolnet.identity.membership import Membership
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.net.link import Link
from poolnet.pool.agreement_keeper import AgreementFrame
from poolnet.pool.message_flow import GossipFrame, MessageFlow
from poolnet.pool.statement_keeper import StatementKeeper
from poolnet.protocol.statement_exchange import Exchanged, StatementExchange
from poolnet.service import open_service_nursery
from poolnet.wire.pool_frames import (
    Compare,
    Gossip,
    GossipHave,
    Graft,
    Messages,
    OpenComparison,
    Prune,
    StatementIds,
    Statements,
    WantMessages,
    WantStatements,
)
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw

logger = logging.getLogger(__name__)


class MemberLink:
    """Dispatches the frames of one link.

    Messages wait until the peer has all our statements, and what it sends of them until then is kept: whoever judges a
    message must know its author.
    """

    def __init__(
        self, link: Link, *, membership: Membership, statements: StatementKeeper, flow: MessageFlow, files: FileManager
    ) -> None:
        self._link = link
        self._exchange = StatementExchange(membership)
        self._statements = statements
        self._flow = flow
        self._files = files
        self._membership = membership
        self._has_begun = False
        self._fault: PoolnetError | None = None  # of the peer, found while answering
        self._is_ready = trio.Event()  # what came early is dealt with
        self._early: deque[GossipFrame | AgreementFrame] = deque()

    def check_peer(self) -> None:
        """Take the credentials that the peer has shown, which are proven to be its own by now, and judge it by them.

        Before the proof it was judged by a copy of what was known then; somebody may have been removed since.

        Raises:
            WireError: a statement among them is malformed, not signed or of another pool.
            LinkClosed: the peer is no member, and the link was closed.
        """
        self._statements.from_link(self._link.peer_credentials, self._link)
        if not self._membership.is_member(self._link.peer):
            self._link.close_now(code="not_a_member", reason="that device is not a member of this pool")
            raise LinkClosed("a device that is not a member")

    async def serve(self) -> None:
        """Run the link until it closes.

        Raises:
            LinkClosed: always, in the end.
            ProtocolError, WireError: the peer broke the protocol.
        """
        lists = self._exchange.greet()
        for frame in lists:
            self._link.post_frame(frame)
        # one answer for each list is all that the exchange allows
        self._answers, answers = trio.open_memory_channel[Exchanged](len(lists))
        try:
            async with open_service_nursery() as nursery:
                await nursery.start(self._files.serve_link, self._link)
                nursery.start_soon(self._answer, answers)
                while True:
                    await self._handle(await self._link.receive_frame())
        except LinkClosed:
            if self._fault is not None:
                raise self._fault from None
            raise
        finally:
            self._flow.link_down(self._link)

    async def _handle(self, frame: Any) -> None:
        match frame:
            case (
                Gossip() | GossipHave() | Graft() | Prune() | OpenComparison() | Compare() | WantMessages() | Messages()
            ):
                await self._talk(frame)
            case Interest() | Have() | Want() | Promise() | Withdraw() | Unwant() | Relay():
                self._files.handle_frame(self._link.peer, frame)
            case StatementIds():
                for reply in self._exchange.handle(frame).replies:
                    self._link.post_frame(reply)
            case Statements():
                self._statements.exchanged(self._exchange.handle(frame).added, self._link)
            case WantStatements():
                self._answers.send_nowait(self._exchange.handle(frame))
            case _:
                logger.debug("ignoring a %s", type(frame).__name__)  # of a newer version

    async def _talk(self, frame: GossipFrame | AgreementFrame) -> None:
        if self._has_begun:  # then to wait holds back the link, as it does when the inbox is full
            if not self._is_ready.is_set():
                await self._is_ready.wait()
            await self._flow.handle_frame(self._link, frame)
        elif len(self._early) < MAX_QUEUED_FRAMES:
            self._early.append(frame)
        else:
            raise ProtocolError("messages without taking our statements first")

    async def _answer(self, answers: trio.MemoryReceiveChannel[Exchanged]) -> None:
        """Send what the peer lacks, one answer at a time; a task of its own, because a long one waits for credit."""
        try:
            async for answer in answers:
                for reply in answer.replies:
                    await self._link.send_frame(reply)
                if answer.peer_is_ready:
                    await self._begin_talk()
        except LinkClosed:
            return  # `serve` notices
        except (ProtocolError, WireError) as exc:
            self._fault = exc
            self._link.close_now(code="protocol", reason=str(exc))

    async def _begin_talk(self) -> None:
        self._has_begun = True
        try:
            self._flow.link_up(self._link)
            while self._early:
                await self._flow.handle_frame(self._link, self._early.popleft())
        finally:
            self._is_ready.set()
