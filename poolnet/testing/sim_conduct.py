"""What a simulated node remembers of what peers did, and what follows: as poolnet/pool/conduct_keeper.py does it."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import assert_never

from poolnet.ids import DeviceId
from poolnet.limits import CLOCK_WARNING_S, CONDUCT_CHECK_INTERVAL_S, FAULTS_PER_SHUNNING
from poolnet.protocol import agreement, conduct, gossip
from poolnet.protocol import swarm_events as sw
from poolnet.protocol.conduct import Conduct, Kind
from poolnet.testing.sim_life import Misbehaved, SimLife
from poolnet.testing.sim_timer import SimTimer


class SimConduct:
    """The record that one node keeps of its peers in one life.

    Args:
        life: where it is.
        shun: has no link to a peer until that time, and closes the one there is.
        report: tells the server that a peer breaks the rules; returns False if there is none now.
        credit_changed: takes for how many pieces a peer may be asked at a time from now on.
        clock_errors_ms: returns by how much the clocks of the linked peers are ahead of the time that all agree on.
    """

    def __init__(
        self,
        life: SimLife,
        *,
        shun: Callable[[DeviceId, float], None],
        report: Callable[[DeviceId], bool],
        credit_changed: Callable[[DeviceId, int], None],
        clock_errors_ms: Callable[[], Mapping[DeviceId, int]],
    ) -> None:
        self.machine = Conduct()
        #: When each peer was last caught at so many faults as cost it the link; for those who look on.
        self.caught_at: dict[DeviceId, deque[float]] = {}
        self._life = life
        self._shun = shun
        self._report = report
        self._credit_changed = credit_changed
        self._clock_errors_ms = clock_errors_ms
        self._clocks_at = life.now + CONDUCT_CHECK_INTERVAL_S
        self._timer = SimTimer(life.network, self._next_deadline, self._tick)
        self._timer.rearm()

    def end(self) -> None:
        """Do nothing any more."""
        self._timer.stop()

    def note(self, peer: DeviceId, kind: Kind) -> None:
        """Take note of what a peer did."""
        if kind.is_fault:
            self.caught_at.setdefault(peer, deque(maxlen=FAULTS_PER_SHUNNING)).append(self._life.now)
        self._perform(self.machine.handle(conduct.Noted(peer, kind), self._life.now))
        self._timer.rearm()

    def _next_deadline(self) -> float:
        at = self.machine.next_deadline()
        return self._clocks_at if at is None else min(at, self._clocks_at)

    def _tick(self) -> None:
        now = self._life.now
        self._perform(self.machine.tick(now))
        if self._clocks_at <= now:
            self._clocks_at = now + CONDUCT_CHECK_INTERVAL_S
            for peer, ahead_ms in self._clock_errors_ms().items():
                if abs(ahead_ms) > CLOCK_WARNING_S * 1000:
                    self.note(peer, Kind.CLOCK)

    def _perform(self, effects: list[conduct.ConductEffect]) -> None:
        for effect in effects:
            match effect:
                case conduct.Shun(peer, until):
                    self._shun(peer, until)
                case conduct.Report(peer):
                    if not self._report(peer):
                        self.machine.handle(conduct.Untold(peer), self._life.now)
                case conduct.CreditChanged(peer, pieces):
                    self._credit_changed(peer, pieces)
                case _:
                    assert_never(effect)


def kind_of(fault: Misbehaved) -> Kind:
    """Return what kind of fault a machine has found."""
    match fault:
        case gossip.Misbehaved():
            return Kind.BAD_SIGNATURE
        case agreement.Misbehaved():
            return Kind.PROTOCOL
        case sw.Misbehaved(kind=kind):
            return kind
