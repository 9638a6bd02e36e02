"""The receiving side of a control stream: frames that wait, still encoded, until the application takes them.

A frame counts as consumed when the next one is asked for. The other side is told of that late, so that one report
covers what is consumed meanwhile; at once if a good part of what it may send has become free.

What waits lies in one piece, as it came: an object for each frame would make small frames cost ten times their bytes.
"""

import math
from collections.abc import Callable

import trio
from trio.lowlevel import ParkingLot, checkpoint

from poolnet.limits import MAX_UNACKNOWLEDGED_CONTROL
from poolnet.protocol.flow_credit import ReceiveCredit
from poolnet.wire.framing import LENGTH_SIZE, Frame, FrameBuffer, FrameSet, UnknownFrame

#: Consumption is reported this late, unless much was consumed.
_REPORT_DELAY_S = 0.2
#: What came together is handled together, so that what follows from it is sent and stored together.
_FRAMES_PER_TURN = 16


class FrameInbox:
    """The frames that one side of a link receives, but for those that the link takes itself.

    Args:
        frames: those that have a meaning; others are counted and passed over.
        report: called when a report of what was consumed is due: `report_consumed` goes into it.
        rearm: called when the next deadline may be earlier than before.
        window: how much the other side may send that was not consumed; after a quarter of it a report is due at once.

    Attributes:
        unknown: how many were passed over.
        peak_queued: how many waited at most.
    """

    def __init__(
        self,
        frames: FrameSet,
        *,
        report: Callable[[], None],
        rearm: Callable[[], None],
        window: int = MAX_UNACKNOWLEDGED_CONTROL,
    ) -> None:
        self.unknown = 0
        self.peak_queued = 0
        self._frames = frames
        self._report = report
        self._rearm = rearm
        self._window = window
        self._credit = ReceiveCredit(MAX_UNACKNOWLEDGED_CONTROL)
        self._waiting = FrameBuffer()
        self._count = 0  # of the frames in it
        self._taken_size = 0  # of the frame that the application has
        self._frames_of_turn = 0
        self._arrived = ParkingLot()
        self._report_at = math.inf

    @property
    def unconsumed(self) -> int:
        """Bytes of all that the application is not done with."""
        return len(self._waiting) + self._taken_size

    def put(self, payload: bytes) -> None:
        """Take a frame that arrived.

        Raises:
            ProtocolError: the other side went over its credit.
        """
        self._credit.arrive(LENGTH_SIZE + len(payload))
        self._waiting.feed_untrusted(len(payload).to_bytes(LENGTH_SIZE, "big") + payload)
        self._count += 1
        self.peak_queued = max(self.peak_queued, self._count)
        self._arrived.unpark()

    async def take(self, check_open: Callable[[], None]) -> Frame:
        """Return the next frame; the one before counts as consumed. One task at a time.

        Of frames that are there already, `_FRAMES_PER_TURN` are returned without letting other tasks run between them.

        Args:
            check_open: called when there is none; raises if none will come.

        Raises:
            WireError: it is malformed.
        """
        while True:
            payload = await self._next(check_open)
            frame: Frame = self._frames.decode_untrusted(payload)
            if not isinstance(frame, UnknownFrame):
                return frame
            self.unknown += 1

    def wake(self) -> None:
        """Have whoever waits look again whether the link is open."""
        self._arrived.unpark_all()

    def report_consumed(self) -> int:
        """Return how many bytes were consumed so far; they count as reported."""
        self._report_at = math.inf
        return self._credit.tell()

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called."""
        return self._report_at

    def tick(self, now: float) -> None:
        """Report what was consumed, if it is time."""
        if now >= self._report_at:
            self._report()

    async def _next(self, check_open: Callable[[], None]) -> bytes:
        """Return the next frame, known or not, as it came."""
        self._frames_of_turn += 1
        if not self._count or self._frames_of_turn >= _FRAMES_PER_TURN:
            self._frames_of_turn = 0
            await checkpoint()
        self._consume_taken()
        while (payload := self._waiting.take()) is None:
            check_open()
            await self._arrived.park()
        self._count -= 1
        self._taken_size = LENGTH_SIZE + len(payload)
        return payload

    def _consume_taken(self) -> None:
        self._credit.consume(self._taken_size)
        self._taken_size = 0
        if 4 * self._credit.untold >= self._window:
            self._report()
        elif self._report_at == math.inf and self._credit.should_tell(drained=True):
            self._report_at = trio.current_time() + _REPORT_DELAY_S
            self._rearm()
