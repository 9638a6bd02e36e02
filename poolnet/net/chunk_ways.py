"""Which way the chunks of a link go: over its lane (bulk_lane.py) while it has one, else as QUIC streams.

A lane that ends may have chunks under way. The other side says how many it got whole, and those after them are sent
again, as streams and in order, before anything newer. So every chunk handed over arrives once, as long as the link
lives.
"""

from collections.abc import Callable
from typing import Literal

from trio.lowlevel import ParkingLot

from poolnet.errors import LinkClosed
from poolnet.net.bulk_lane import BulkLane, LaneBroken
from poolnet.net.chunk_inbox import ChunkFilter, ChunkInbox, ReceivedChunk
from poolnet.net.chunk_streams import ChunkReceiver, ChunkSender, StreamWriter
from poolnet.net.lane_ledger import LaneLedger
from poolnet.wire.swarm_frames import ChunkHeader

#: What carries chunks.
Carrier = Literal["tcp", "quic"]


class ChunkWays:
    """All chunks of one link.

    Args:
        writer: the QUIC connection.
        tell: called when a report about chunk streams is due.

    Attributes:
        inbox: what arrived, by either way.
        streams_out, streams_in: the way over QUIC.
        ledger: what went over the lanes so far.
    """

    def __init__(self, writer: StreamWriter, *, tell: Callable[[], None]) -> None:
        self.inbox = ChunkInbox()
        self.streams_out = ChunkSender(writer)
        self.streams_in = ChunkReceiver(writer, self.inbox, tell=tell)
        self.ledger = LaneLedger()
        self._lane: BulkLane | None = None
        self._is_settling = False
        self._settled = ParkingLot()
        self._is_closed = False

    @property
    def carrier(self) -> Carrier:
        """What carries chunks now."""
        return "quic" if self._lane is None else "tcp"

    @property
    def chunks_in(self) -> int:
        """How many arrived."""
        return self.streams_in.credit.received + self.ledger.incoming.received

    @property
    def chunks_out(self) -> int:
        """How many were handed over."""
        return self.streams_out.credit.sent + self.ledger.outgoing.sent

    @property
    def sent_bytes(self) -> int:
        """Payload of all that were handed over."""
        return self.streams_out.sent_bytes + self.ledger.sent_bytes

    async def send(self, header: ChunkHeader, payload: bytes) -> None:
        """Wait for room, then hand a chunk over; when cancelled while waiting, it is not sent.

        Raises:
            LinkClosed: the link ended first.
            ValueError: the payload is not as long as the header says.
        """
        if len(payload) != header.size:
            raise ValueError("the header declares another size")
        while True:
            while self._is_settling and not self._is_closed:
                await self._settled.park()
            if self._is_closed:
                raise LinkClosed("the link is closed")
            lane = self._lane
            if lane is None:
                await self.streams_out.send(header, payload)
                return
            try:
                await lane.send(header, payload)
            except LaneBroken:
                self.lane_down(lane)
            else:
                return

    async def receive(self) -> list[ReceivedChunk]:
        """See `ChunkInbox.receive`."""
        return await self.inbox.receive()

    def set_filter(self, expects: ChunkFilter) -> None:
        """See `ChunkInbox.set_filter`."""
        self.inbox.set_filter(expects)

    def lane_up(self, lane: BulkLane) -> None:
        """Send over a lane from now on."""
        self._lane = lane

    def lane_down(self, lane: BulkLane) -> None:
        """Hold chunks back until `resume`: the lane ended. Idempotent."""
        if self._lane is lane:
            self._lane = None
            self._is_settling = True

    async def resume(self, arrived: int) -> None:
        """Send as streams what the other side did not get over lanes, where `arrived` chunks came in all, and go on.

        Raises:
            LinkClosed: the link ended.
            ProtocolError: that many were not sent, or more were confirmed before.
        """
        for header, payload in self.ledger.take_back(arrived):
            await self.streams_out.send(header, payload)
        self._is_settling = False
        self._settled.unpark_all()

    def close(self) -> None:
        """Make `send` raise LinkClosed, and `receive` when nothing is left."""
        self._is_closed = True
        self._lane = None
        self.streams_in.close()
        self.streams_out.close()
        self.inbox.close()
        self._settled.unpark_all()
