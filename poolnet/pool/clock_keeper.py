"""What time it is in one pool: this device's steady time, corrected by what the sync server and the neighbours say.

Whoever stamps or judges a message takes the time from `unix_ms`, which also brings the pool's `HybridClock` up to date.
Alone, there is only the system clock to ask. A user whose system clock is wrong is told so, not more often than needed.
"""

from collections.abc import Callable, Iterable, Mapping

import trio

from poolnet.clock import HybridClock, agreed_offset_ms
from poolnet.ids import DeviceId
from poolnet.limits import CLOCK_CHECK_INTERVAL_S, CLOCK_TOLERANCE_S, CLOCK_WAIT_S, CLOCK_WARNING_S
from poolnet.steady_time import MeasuredClock, SteadyTime


class ClockKeeper:
    """Keeps the clock of one pool right.

    Args:
        time: of this node, shared by its pools.
        neighbours: returns by how many milliseconds the clock of each neighbour is ahead of `time` (None: not known).
        server: returns the same of the sync server that is there now, if any.
        changed: called when the correction changed by what a person would notice: messages may be due.
        warn: called with by how many seconds the system clock is ahead (negative: behind) when that is wrong by more
            than `CLOCK_WARNING_S`: once, and again when it changes by more than that.

    Attributes:
        clock: the clock that is kept.
    """

    def __init__(
        self,
        time: SteadyTime,
        *,
        neighbours: Callable[[], Iterable[int | None]],
        server: Callable[[], int | None],
        changed: Callable[[], None],
        warn: Callable[[float], None],
    ) -> None:
        self.clock = HybridClock()
        self._time = time
        self._neighbours = neighbours
        self._server = server
        self._changed = changed
        self._warn = warn
        self._server_clock = MeasuredClock(time)
        self._is_told = trio.Event()
        self._give_up_at = trio.current_time() + CLOCK_WAIT_S
        self._warned_s: float | None = None
        self._last_ahead_s = 0.0

    def unix_ms(self) -> int:
        """Return this device's time, for `clock`, which corrects it from now on by the latest that others say."""
        self._correct()
        return self._time.now_ms()

    def corrected_ms(self) -> int:
        """Return what time it is by all that is known."""
        return self.clock.now_ms(self.unix_ms())

    def errors_ms(self, ahead_ms: Mapping[DeviceId, int | None]) -> dict[DeviceId, int]:
        """Return by how much clocks are ahead of the time agreed on; of those that were asked (None: not yet)."""
        self._correct()
        agreed_ms = self.clock.offset_ms
        return {device: ahead - agreed_ms for device, ahead in ahead_ms.items() if ahead is not None}

    def server_says(self, unix_ms: int) -> None:
        """Take the time as a sync server just told it."""
        self._server_clock.says(unix_ms, at_elapsed_ms=self._time.elapsed_ms())
        self._correct()

    async def told(self) -> None:
        """Wait until somebody has said what time it is, or for `CLOCK_WAIT_S` after the pool was entered.

        What is stamped before may be far ahead of the others' time, and would have to wait for them to get there.
        """
        if not self._is_told.is_set():
            with trio.move_on_at(self._give_up_at):
                await self._is_told.wait()

    async def run(self) -> None:
        """Compare with the others and with the system clock now and then, until cancelled.

        Nobody tells when the system clock is set, so this has to look.
        """
        await self.told()
        while True:
            self._ask_server()
            self._correct()
            self._check_system_clock()
            await trio.sleep(CLOCK_CHECK_INTERVAL_S)

    def _ask_server(self) -> None:
        """Take over what the link to the server has measured: nearer to the truth than what came with a frame."""
        ahead_ms = self._server()
        if ahead_ms is not None:
            self._server_clock.says(self._time.now_ms() + ahead_ms, at_elapsed_ms=self._time.elapsed_ms())

    def _correct(self) -> None:
        before_ms = self.clock.now_ms(self._time.now_ms())
        neighbours = [ahead_ms for ahead_ms in self._neighbours() if ahead_ms is not None]
        server_ms = self._server_clock.ahead_ms
        if neighbours or server_ms is not None:
            now_ms = self._time.now_ms()
            offset_ms = agreed_offset_ms(
                neighbours, unix_ms=now_ms, server_offset_ms=server_ms, seen_ms=self.clock.seen_ms
            )
            self.clock.correct(offset_ms, now_ms)
            self._is_told.set()
        else:
            self.clock.offset_ms = 0
            self._time.adopt_system_clock()
        if abs(self.clock.now_ms(self._time.now_ms()) - before_ms) > CLOCK_TOLERANCE_S * 1000:
            self._changed()

    def _check_system_clock(self) -> None:
        """Warn of a wrong system clock, once two looks agree: those who are asked first may not be those who know."""
        ahead_s = (self._time.system_ms() - self.clock.now_ms(self._time.now_ms())) / 1000
        is_settled = abs(ahead_s - self._last_ahead_s) <= CLOCK_TOLERANCE_S
        self._last_ahead_s = ahead_s
        if abs(ahead_s) <= CLOCK_WARNING_S:
            self._warned_s = None
        elif is_settled and (self._warned_s is None or abs(ahead_s - self._warned_s) > CLOCK_WARNING_S):
            self._warned_s = ahead_s
            self._warn(ahead_s)
