"""The one timer of a simulated machine, as poolnet/timer.py is of a real one."""

from collections.abc import Callable
from functools import partial

from poolnet.testing.sim_network import SimNetwork


class SimTimer:
    """Calls `fire` when a machine has something to do, with one pending action at most in use.

    Args:
        network: whose time it is.
        next_deadline: returns when the machine has something to do, or None.
        fire: ticks the machine; the timer is armed again after that.
    """

    def __init__(
        self, network: SimNetwork, next_deadline: Callable[[], float | None], fire: Callable[[], None]
    ) -> None:
        self._network = network
        self._next_deadline = next_deadline
        self._fire = fire
        self._armed_for: float | None = None
        self._is_stopped = False

    def rearm(self) -> None:
        """Look at the deadline again: the machine was told something."""
        deadline = self._next_deadline()
        if deadline is not None and (self._armed_for is None or deadline < self._armed_for):
            self._armed_for = deadline
            self._network.call_at(deadline, partial(self._is_due, deadline))

    def stop(self) -> None:
        """Never call `fire` again."""
        self._is_stopped = True

    def _is_due(self, armed_for: float) -> None:
        if self._armed_for == armed_for and not self._is_stopped:
            self._armed_for = None
            self._fire()
            self.rearm()
