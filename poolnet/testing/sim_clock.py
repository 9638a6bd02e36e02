"""The time of a simulated node: a clock that may be wrong, and jump, corrected by what server and neighbours say."""

from collections.abc import Callable

from poolnet.clock import Hlc, HybridClock, agreed_offset_ms
from poolnet.ids import DeviceId
from poolnet.steady_time import MeasuredClock, SteadyTime, WallClock
from poolnet.testing.sim_network import SimNetwork
from poolnet.wire.link_frames import Ping

#: What a right clock shows when a network begins.
START_UNIX_MS = 1_750_000_000_000
#: How often neighbours tell each other what time it is.
CLOCK_INTERVAL_S = 60.0


class SimClock:
    """The time as one node has it in one life.

    Args:
        network: where the true time passes.
        error_ms: returns by how much the clock of the machine is ahead of that now.
        made: the highest stamp that the node made in earlier lives.
        seen: the highest that it has of others.
        send: sends a frame to a neighbour.
    """

    def __init__(
        self,
        network: SimNetwork,
        *,
        error_ms: Callable[[], int],
        made: Hlc,
        seen: Hlc,
        send: Callable[[DeviceId, Ping], None],
    ) -> None:
        self.hybrid = HybridClock(last=made)
        self.hybrid.observe(seen)
        self._network = network
        self._error_ms = error_ms
        self._send = send
        self._steady = SteadyTime(WallClock(read_unix_ms=self._wall_ms, read_elapsed_s=lambda: network.now))
        self._neighbours: dict[DeviceId, MeasuredClock] = {}
        self._server = MeasuredClock(self._steady)
        self._has_news = False  # what the neighbours say has changed, and is not looked at yet
        self._tell_at = network.now + CLOCK_INTERVAL_S

    def unix_ms(self) -> int:
        """Return this node's time, for `hybrid`, which is corrected by what the neighbours say first."""
        now_ms = self._steady.now_ms()
        if self._has_news:
            self._has_news = False
            offsets = [clock.ahead_ms for clock in self._neighbours.values()]
            known = [offset for offset in offsets if offset is not None]
            server_ms = self._server.ahead_ms
            if known or server_ms is not None:
                offset_ms = agreed_offset_ms(
                    known, unix_ms=now_ms, server_offset_ms=server_ms, seen_ms=self.hybrid.seen_ms
                )
                self.hybrid.correct(offset_ms, now_ms)
        return now_ms

    def corrected_ms(self) -> int:
        """Return the time as it probably is."""
        return self.hybrid.now_ms(self.unix_ms())

    def errors_ms(self) -> dict[DeviceId, int]:
        """Return by how much the clocks of neighbours are ahead of the time agreed on; of those that told theirs."""
        self.unix_ms()
        agreed_ms = self.hybrid.offset_ms
        told = {peer: clock.ahead_ms for peer, clock in self._neighbours.items()}
        return {peer: ahead_ms - agreed_ms for peer, ahead_ms in told.items() if ahead_ms is not None}

    def server_says(self, unix_ms: int) -> None:
        """Take note of the server's time; it counts as long as this life lasts."""
        self._server.says(unix_ms, at_elapsed_ms=self._steady.elapsed_ms())
        self._has_news = True

    def link_up(self, peer: DeviceId) -> None:
        """Tell a neighbour the time, and listen to it."""
        self._neighbours[peer] = MeasuredClock(self._steady)
        self._tell(peer)

    def link_down(self, peer: DeviceId) -> None:
        """Forget what a neighbour said."""
        self._neighbours.pop(peer, None)
        self._has_news = True

    def received(self, peer: DeviceId, frame: Ping) -> None:
        """Take note of a neighbour's time."""
        if (clock := self._neighbours.get(peer)) is not None:
            clock.says(frame.unix_ms, at_elapsed_ms=self._steady.elapsed_ms())
            self._has_news = True

    def next_deadline(self) -> float:
        """Return when `tick` has something to do."""
        return self._tell_at

    def tick(self) -> None:
        """Tell the neighbours the time now and then."""
        if self._tell_at <= self._network.now:
            self._tell_at = self._network.now + CLOCK_INTERVAL_S
            for peer in self._neighbours:
                self._tell(peer)

    def _wall_ms(self) -> int:
        return START_UNIX_MS + round(self._network.now * 1000) + self._error_ms()

    def _tell(self, peer: DeviceId) -> None:
        self._send(peer, Ping(number=0, unix_ms=self._steady.now_ms()))
