"""What went over the lanes of one link, in both directions: counts that outlive each single lane.

A chunk on a lane is *received* when it arrived whole, and *consumed* when the application is done with it. Received
ones need not be kept by their sender any more; consumed ones give it room for others. Both sides count all lanes since
the link came up, so a new lane begins where the last one ended, and no number of lanes makes a slow application hold
more than `MAX_CHUNKS_IN_TRANSIT` chunks.
"""

from collections import deque
from collections.abc import Callable

from poolnet.errors import ProtocolError
from poolnet.limits import MAX_CHUNKS_IN_TRANSIT
from poolnet.protocol.flow_credit import ReceiveCredit, SendCredit
from poolnet.wire.link_frames import LaneReport
from poolnet.wire.swarm_frames import ChunkHeader

#: A chunk, kept until the other side has it.
Kept = tuple[ChunkHeader, bytes]


class LaneLedger:
    """Both directions of one link.

    Attributes:
        outgoing: chunks sent, and those consumed there.
        incoming: chunks received, and those consumed here.
        sent_bytes: payload of the chunks sent.
        tell: called when something was consumed; set by the lane of the moment.
    """

    def __init__(self) -> None:
        self.outgoing = SendCredit(MAX_CHUNKS_IN_TRANSIT)
        self.incoming = ReceiveCredit(MAX_CHUNKS_IN_TRANSIT)
        self.sent_bytes = 0
        self.tell: Callable[[], None] = _tell_nobody
        self._unconfirmed: deque[Kept] = deque()

    @property
    def is_confirmed(self) -> bool:
        """Whether the other side has everything that was sent."""
        return not self._unconfirmed

    def sent(self, header: ChunkHeader, payload: bytes) -> None:
        """Keep a chunk that is on its way."""
        self.outgoing.take(1)
        self.sent_bytes += len(payload)
        self._unconfirmed.append((header, payload))

    def reported(self, report: LaneReport) -> None:
        """Take the other side's word for what it has.

        Raises:
            ProtocolError: it cannot be so.
        """
        self._confirm(report.received)
        if report.consumed > report.received:
            raise ProtocolError("more was consumed than received")
        self.outgoing.acknowledge(report.consumed)

    def report(self) -> LaneReport:
        """Return our word, and take it as told."""
        return LaneReport(received=self.incoming.received, consumed=self.incoming.tell())

    def consumed(self, chunks: int) -> None:
        """Take note that the application is done with so many more of those received."""
        self.incoming.consume(chunks)
        self.tell()

    def take_back(self, arrived: int) -> list[Kept]:
        """Return, and forget, what did not arrive on a lane that ended; `arrived` chunks came over all lanes.

        Raises:
            ProtocolError: that many were not sent, or more were confirmed before.
        """
        self._confirm(arrived)
        lost = list(self._unconfirmed)
        self._unconfirmed.clear()
        self.outgoing.sent = arrived
        self.sent_bytes -= sum(len(payload) for _, payload in lost)
        return lost

    def _confirm(self, received: int) -> None:
        unconfirmed = self.outgoing.sent - received
        if not 0 <= unconfirmed <= len(self._unconfirmed):
            raise ProtocolError("a report of chunks that were never sent, or taken back")
        while len(self._unconfirmed) > unconfirmed:
            self._unconfirmed.popleft()


def _tell_nobody() -> None:
    pass
