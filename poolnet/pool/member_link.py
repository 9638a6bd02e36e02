"""One link to another member, from its first frame to its last: statements, then gossip; files at any time."""

import logging
from collections import deque
from typing import Any

import trio

from poolnet.errors import LinkClosed, ProtocolError, WireError
from poolnet.file_manager import FileManager
from poolnet.identity.membership import Membership
from poolnet.limits import MAX_QUEUED_FRAMES
from poolnet.net.link import Link
from poolnet.pool.message_flow import GossipFrame, MessageFlow
from poolnet.pool.statement_keeper import StatementKeeper
from poolnet.protocol.statement_exchange import StatementExchange
from poolnet.service import open_service_nursery
from poolnet.wire.pool_frames import Gossip, GossipHave, Graft, Prune, StatementIds, Statements, WantStatements
from poolnet.wire.swarm_frames import Have, Interest, Promise, Unwant, Want, Withdraw

logger = logging.getLogger(__name__)


class MemberLink:
    """Dispatches the frames of one link.

    Gossip waits until the peer has all our statements, and its gossip until then is kept: whoever judges a message must
    know its author.
    """

    def __init__(
        self, link: Link, *, membership: Membership, statements: StatementKeeper, flow: MessageFlow, files: FileManager
    ) -> None:
        self._link = link
        self._exchange = StatementExchange(membership)
        self._statements = statements
        self._flow = flow
        self._files = files
        self._is_ready = False
        self._early: deque[GossipFrame] = deque()

    async def serve(self) -> None:
        """Run the link until it closes.

        Raises:
            LinkClosed: always, in the end.
            ProtocolError, WireError: the peer broke the protocol.
        """
        self._statements.from_link(self._link.peer_credentials, self._link)
        for frame in self._exchange.greet():
            self._link.post_frame(frame)
        try:
            async with open_service_nursery() as nursery:
                await nursery.start(self._files.serve_link, self._link)
                while True:
                    await self._handle(await self._link.receive_frame(), nursery)
        finally:
            self._flow.link_down(self._link)

    async def _handle(self, frame: Any, nursery: trio.Nursery) -> None:
        match frame:
            case Gossip() | GossipHave() | Graft() | Prune():
                await self._gossip(frame)
            case Interest() | Have() | Want() | Promise() | Withdraw() | Unwant():
                self._files.handle_frame(self._link.peer, frame)
            case StatementIds():
                for reply in self._exchange.handle(frame).replies:
                    self._link.post_frame(reply)
            case Statements():
                self._statements.exchanged(self._exchange.handle(frame).added, self._link)
            case WantStatements():
                nursery.start_soon(self._answer, frame)
            case _:
                logger.debug("ignoring a %s", type(frame).__name__)  # of a newer version

    async def _gossip(self, frame: GossipFrame) -> None:
        if self._is_ready:
            await self._flow.handle_frame(self._link, frame)
        elif len(self._early) < MAX_QUEUED_FRAMES:
            self._early.append(frame)
        else:
            raise ProtocolError("gossip without taking our statements first")

    async def _answer(self, frame: WantStatements) -> None:
        """Send what the peer lacks; in a task of its own, because a long answer waits for credit."""
        try:
            answer = self._exchange.handle(frame)
            for reply in answer.replies:
                await self._link.send_frame(reply)
            if answer.peer_is_ready:
                self._flow.link_up(self._link)
                while self._early:
                    await self._flow.handle_frame(self._link, self._early.popleft())
                self._is_ready = True
        except LinkClosed:
            return  # `serve` notices
        except (ProtocolError, WireError) as exc:
            self._link.close_now(code="protocol", reason=str(exc))
