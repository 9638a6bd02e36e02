"""What peers did to this device, noted where it is seen, and what follows carried out: drives the pure `Conduct`.

Whoever finds a fault closes the link for it, as the protocol says; here it is remembered. Nothing is kept on disk:
after a restart everybody has a fresh chance, and loses it at the third fault.
"""

import logging
from collections.abc import Callable, Mapping
from typing import assert_never

import trio

from poolnet.errors import BadSignature, Flood, PoolnetError
from poolnet.ids import DeviceId, short_id
from poolnet.limits import CLOCK_WARNING_S, CONDUCT_CHECK_INTERVAL_S
from poolnet.protocol import conduct
from poolnet.protocol.conduct import Conduct, ConductStatistics, Kind, PeerConduct
from poolnet.timer import Timer

logger = logging.getLogger(__name__)


class ConductKeeper:
    """The record of the peers of one pool.

    Args:
        shun: has no link to a peer until that time (trio's clock), and closes the one there is.
        report: tells the sync server; returns False if there is none now, and is tried again later.
        credit_changed: takes for how many pieces a peer may be asked at a time from now on.
        clock_errors_ms: returns by how much the clocks of the linked peers are ahead of the time that all agree on.
    """

    def __init__(
        self,
        *,
        shun: Callable[[DeviceId, float], None],
        report: Callable[[DeviceId, Kind], bool],
        credit_changed: Callable[[DeviceId, int], None],
        clock_errors_ms: Callable[[], Mapping[DeviceId, int]],
    ) -> None:
        self._machine = Conduct()
        self._shun = shun
        self._report = report
        self._credit_changed = credit_changed
        self._clock_errors_ms = clock_errors_ms
        self._timer = Timer(self._machine.next_deadline)

    def note(self, peer: DeviceId, kind: Kind) -> None:
        """Take note of what a peer did."""
        level = logging.WARNING if kind.is_fault else logging.INFO
        logger.log(level, "conduct of %s: %s", short_id(peer), kind.word)
        self._perform(self._machine.handle(conduct.Noted(peer, kind), trio.current_time()))
        self._timer.rearm()

    def faulted(self, peer: DeviceId, error: PoolnetError) -> None:
        """Take note of a peer whose link was closed because it broke the protocol, and how it did."""
        match error:
            case BadSignature():
                self.note(peer, Kind.BAD_SIGNATURE)
            case Flood():
                self.note(peer, Kind.FLOOD)
            case _:
                self.note(peer, Kind.PROTOCOL)

    def credit_of(self, peer: DeviceId) -> int:
        """Return for how many pieces a peer may be asked at a time."""
        return self._machine.credit_of(peer)

    def of(self, peer: DeviceId) -> PeerConduct | None:
        """Return what is remembered of a peer, or None."""
        return self._machine.of(peer, trio.current_time())

    def statistics(self) -> ConductStatistics:
        """Return counts and sizes."""
        return self._machine.statistics(trio.current_time())

    async def run(self) -> None:
        """Let time pass, and look at clocks now and then. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timer)
            nursery.start_soon(self._watch_clocks)

    async def _run_timer(self) -> None:
        while True:
            await self._timer.wait()
            self._perform(self._machine.tick(trio.current_time()))

    async def _watch_clocks(self) -> None:
        while True:
            await trio.sleep(CONDUCT_CHECK_INTERVAL_S)
            for peer, ahead_ms in self._clock_errors_ms().items():
                if abs(ahead_ms) > CLOCK_WARNING_S * 1000:
                    self.note(peer, Kind.CLOCK)

    def _perform(self, effects: list[conduct.ConductEffect]) -> None:
        for effect in effects:
            match effect:
                case conduct.Shun(peer, until):
                    wait_s = until - trio.current_time()
                    logger.warning("no link to %s for %.0f s: it broke the rules too often", short_id(peer), wait_s)
                    self._shun(peer, until)
                case conduct.Report(peer, kind):
                    if not self._report(peer, kind):
                        self._machine.handle(conduct.Untold(peer), trio.current_time())
                case conduct.CreditChanged(peer, pieces):
                    self._credit_changed(peer, pieces)
                case _:
                    assert_never(effect)
