"""The sending side of a control stream: frames that count against the other side's credit, and those that do not.

Gossip after gossip within a moment is gathered, and leaves together at its end: a single message never waits, and
hundreds a second travel, are decrypted, stored and acknowledged several at a time. So do announcements of pieces; one
of scattered pieces even waits for a want or a promise to go with. Nothing overtakes what is gathered.
"""

import math
from typing import Protocol

import trio

from poolnet.limits import MAX_UNACKNOWLEDGED_CONTROL
from poolnet.protocol.flow_credit import SendCredit
from poolnet.wire.framing import Frame, encode_frame
from poolnet.wire.pool_frames import Gossip, GossipHave
from poolnet.wire.swarm_frames import Have, Unwant

#: What is gathered, and how long that takes.
_GATHERED = frozenset({Gossip, GossipHave, Have, Unwant})
_GATHER_S = 0.01
#: How long an announcement of more runs of pieces than so many may wait: they come fast, from several, and the other
#: side knows of others.
_ANNOUNCE_S = 0.04
_FEW_RUNS = 2


class ControlWriter(Protocol):
    """What is needed of a connection."""

    def write_control(self, data: bytes) -> None:
        """Queue bytes on the control stream, and have them sent soon."""

    def rearm(self) -> None:
        """Take note that the next deadline may be earlier than before."""


class FrameOutlet:
    """The frames that one side of a link sends.

    Attributes:
        credit: bytes sent, and those that the other side's application has consumed.
        frames: how many were sent.
    """

    def __init__(self, writer: ControlWriter, *, now: float) -> None:
        self.credit = SendCredit(MAX_UNACKNOWLEDGED_CONTROL)
        self.frames = 0
        self._writer = writer
        self._gathered: list[bytes] = []
        self._leave_at = math.inf
        self._moment_ends = now

    def send(self, data: bytes) -> None:
        """Send an encoded frame for which there is credit, at once."""
        self.flush()
        self.credit.take(len(data))
        self.frames += 1
        self._writer.write_control(data)

    def post(self, frame: Frame, data: bytes) -> None:
        """Send a frame (`data` is its encoding) for which there is credit, perhaps with what follows in a moment."""
        if type(frame) not in _GATHERED:
            self.send(data)
            return
        self.credit.take(len(data))
        self.frames += 1
        now = trio.current_time()
        leave_at = now + _ANNOUNCE_S if _is_patient(frame) else self._moment_ends
        self._gathered.append(data)
        if leave_at <= now:
            self.flush()
        elif leave_at < self._leave_at:
            self._leave_at = leave_at
            self._writer.rearm()

    def send_uncounted(self, frame: Frame) -> None:
        """Send a frame outside the credit."""
        self.flush()
        self.frames += 1
        self._writer.write_control(encode_frame(frame))

    def flush(self) -> None:
        """Send what was gathered."""
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._leave_at = math.inf
            self._moment_ends = trio.current_time() + _GATHER_S
            self._writer.write_control(data)

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called."""
        return self._leave_at

    def tick(self, now: float) -> None:
        """Send what was gathered, if it is time."""
        if now >= self._leave_at:
            self.flush()


def _is_patient(frame: Frame) -> bool:
    return type(frame) is Have and len(frame.pieces) > _FEW_RUNS
