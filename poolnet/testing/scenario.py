"""What happens to a simulated pool: a scenario is data, and a plan of timed actions that is drawn from a seed.

A plan is drawn before anything runs, so an action may meet a pool that it does not fit: a node that is to crash is down
already. Then it does nothing. That is why plans can be put together at will (`merge`): whatever is drawn is allowed.

Nodes are meant by number, in the order in which they came; a number counts on from the first after the last. Files are
meant by number in the same way.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random

import attrs

from poolnet.testing.sim_liars import Lie
from poolnet.testing.sim_network import PathConditions

# --- actions ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Publish:
    """A node says something."""

    node: int


@attrs.frozen
class Arrive:
    """A node that was never there joins; its clock is so much ahead, and it lies in these ways until the end."""

    clock_error_ms: int = 0
    lies: tuple[Lie, ...] = ()


@attrs.frozen
class Crash:
    """A node vanishes without a word."""

    node: int


@attrs.frozen
class Leave:
    """A node says goodbye; `for_good` if it does not even come back when all is over."""

    node: int
    for_good: bool = False


@attrs.frozen
class Return:
    """A node that crashed or left joins again, with what is on its disk."""

    node: int


@attrs.frozen
class CutOff:
    """These nodes hear only each other from now on; the server is with the others."""

    nodes: tuple[int, ...]


@attrs.frozen
class Reconnect:
    """These nodes, or all, are on the side of the server again."""

    nodes: tuple[int, ...] | None = None


@attrs.frozen
class BreakLink:
    """A link breaks, and what is under way on it is lost: `pick`, below 1, says which of all."""

    pick: float


@attrs.frozen
class SetClock:
    """The clock of a node is set: it is so much ahead now."""

    node: int
    error_ms: int


@attrs.frozen
class StopServer:
    """The sync server goes down."""


@attrs.frozen
class StartServer:
    """The sync server comes back, with the roster that it had."""


@attrs.frozen
class FillDisk:
    """The disk of a node has so much room left, and no more."""

    node: int
    free_bytes: int


@attrs.frozen
class FailDisk:
    """The disk of a node does not write for so many times (EIO), nor sync for so many."""

    node: int
    writes: int = 0
    syncs: int = 0


@attrs.frozen
class MendDisk:
    """The disk of a node works again, and has room; if it failed to sync, the node starts anew."""

    node: int


@attrs.frozen
class Offer:
    """A node offers a file that nobody else has."""

    node: int
    size_bytes: int


@attrs.frozen
class Fetch:
    """A node wants a file of those offered so far."""

    node: int
    file: int


@attrs.frozen
class Remove:
    """A member removes another, if it is an admin as far as it knows."""

    by: int
    node: int


@attrs.frozen
class Promote:
    """A member makes another an admin, or (`demote`) an admin a plain member, if it is an admin as far as it knows."""

    by: int
    node: int
    demote: bool = False


Action = (
    Publish
    | Arrive
    | Crash
    | Leave
    | Return
    | CutOff
    | Reconnect
    | BreakLink
    | SetClock
    | StopServer
    | StartServer
    | FillDisk
    | FailDisk
    | MendDisk
    | Offer
    | Fetch
    | Remove
    | Promote
)
#: Actions with their times, in seconds from the moment when the pool has found together; in any order.
Plan = Sequence[tuple[float, Action]]


# --- scenarios --------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Scenario:
    """What is tried, over and over with other seeds.

    Args:
        draw: makes the plan for so many nodes; everything random in it comes from the generator.
        server_tells_time: whether the server says what time it is; if not, nodes have only each other to ask.
        liars_stay: whether liars are there, and lie, until the very end.
        has_statements: whether members can be promoted and removed; if not, everybody who is there is one.
        settle_s: when the plan is over, everything that was broken is mended, liars leave, and those who did not leave
            for good return. So long it may take until all that must hold in the end does.
    """

    name: str
    summary: str
    node_count: int
    draw: Callable[[Random, int], Plan]
    conditions: PathConditions = PathConditions()
    settle_s: float = 240.0
    server_tells_time: bool = True
    liars_stay: bool = False
    has_statements: bool = False

    def plan(self, seed: int) -> list[tuple[float, Action]]:
        """Return the plan of a seed, in the order of time."""
        drawn = self.draw(Random(f"plan of {self.name} {seed}"), self.node_count)
        return sorted(drawn, key=lambda timed: timed[0])


def merge(plans: Iterable[Plan]) -> list[tuple[float, Action]]:
    """Let several plans take place at the same time."""
    return [timed for plan in plans for timed in plan]
