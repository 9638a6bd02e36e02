"""Messages from the future: held until their time comes.

A device whose clock is far ahead would otherwise write below everyone's latest message for as long as it takes the
others to get there. Its messages are passed on like any other, but shown and stored only when their time has come.
"""

import heapq

from poolnet.clock import HybridClock, hlc_ms
from poolnet.ids import MsgId
from poolnet.limits import MAX_CLOCK_AHEAD_S, MAX_HELD_MESSAGES
from poolnet.wire.message import Message, MessageKey


class HeldMessages:
    """Messages more than `MAX_CLOCK_AHEAD_S` ahead of corrected time; at most `MAX_HELD_MESSAGES` of them."""

    def __init__(self, clock: HybridClock) -> None:
        self._clock = clock
        self._heap: list[tuple[MessageKey, Message]] = []
        self._ids: set[MsgId] = set()
        self.dropped = 0

    def admit(self, message: Message, unix_ms: int) -> bool:
        """Return True for a message to handle now; keep one whose time has not come."""
        if self._clock.ahead_s(message.content.hlc, unix_ms) <= MAX_CLOCK_AHEAD_S:
            self._clock.observe(message.content.hlc)
            return True
        if message.msg_id in self._ids:
            return False
        if len(self._heap) < MAX_HELD_MESSAGES:
            heapq.heappush(self._heap, (message.key, message))
            self._ids.add(message.msg_id)
        else:
            self.dropped += 1
        return False

    def release(self, unix_ms: int) -> list[Message]:
        """Return the messages whose time has come, in order."""
        due = []
        while self._heap and self._clock.ahead_s(self._heap[0][0][0], unix_ms) <= MAX_CLOCK_AHEAD_S:
            message = heapq.heappop(self._heap)[1]
            self._ids.remove(message.msg_id)
            self._clock.observe(message.content.hlc)
            due.append(message)
        return due

    def wait_s(self, unix_ms: int) -> float | None:
        """Return in how many seconds `release` has something, or None."""
        if not self._heap:
            return None
        due_ms = hlc_ms(self._heap[0][0][0]) - MAX_CLOCK_AHEAD_S * 1000
        return max(0.0, (due_ms - self._clock.now_ms(unix_ms)) / 1000)

    def __contains__(self, msg_id: MsgId) -> bool:
        return msg_id in self._ids

    def __len__(self) -> int:
        return len(self._heap)
