"""One deadline that moves: how a driver waits for a pure machine without polling."""

from collections.abc import Callable

import trio


class Timer:
    """The timer of one machine.

    Args:
        next_deadline: what the machine says now; on trio's clock, None for never.
    """

    def __init__(self, next_deadline: Callable[[], float | None]) -> None:
        self._next_deadline = next_deadline
        self._armed_for = float("inf")
        self._moved = trio.Event()

    def rearm(self) -> None:
        """Take note that the machine has been fed: its deadline may be earlier than the one waited for."""
        deadline = self._next_deadline()
        if deadline is not None and deadline < self._armed_for:
            self._armed_for = deadline
            self._moved.set()

    async def wait(self) -> None:
        """Return when the machine's deadline has come."""
        while True:
            deadline = self._next_deadline()
            self._armed_for = float("inf") if deadline is None else deadline
            self._moved = trio.Event()
            with trio.move_on_at(self._armed_for):
                await self._moved.wait()
            if trio.current_time() >= self._armed_for:
                return
