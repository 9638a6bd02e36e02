"""One run of a scenario: the plan of a seed is carried out on a simulated pool, and what must hold is looked at.

A run follows from scenario and seed alone, in every process.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, assert_never

import attrs

from poolnet.clock import make_hlc
from poolnet.errors import PoolnetError, StoreError
from poolnet.identity.statements import Role
from poolnet.ids import DeviceId
from poolnet.limits import MAX_CLOCK_AHEAD_S
from poolnet.testing.invariants import ALWAYS, IN_THE_END, Check
from poolnet.testing.scenario import (
    Action,
    Arrive,
    BreakLink,
    Crash,
    CutOff,
    FailDisk,
    Fetch,
    FillDisk,
    Leave,
    MendDisk,
    Offer,
    Promote,
    Publish,
    Reconnect,
    Remove,
    Return,
    Scenario,
    SetClock,
    StartServer,
    StopServer,
)
from poolnet.testing.sim_node import SimNode
from poolnet.testing.sim_pool import SimPool

#: How long the nodes have to find each other before anything happens.
GATHER_S = 8.0
_STEP_S = 1.0
#: So much the times of nodes differ once they have told each other; what is that near to the limit some hold back.
_CLOCK_SLACK_S = 2.0
#: From this long after the plan was over it is enough to look now and then.
_PATIENT_AFTER_S = 60.0
_PATIENT_STEP_S = 5.0
#: What a broken machine raises: a finding like any other, to be told with its seed.
_BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    PoolnetError,
)

Tell = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Outcome:
    """What came out of one run.

    Attributes:
        violations: what was wrong, first of all of it at the first moment when anything was; nothing if it passed.
        trace_digest: equal for equal runs.
        settled_s: how long after the end of the plan everything was in order, in virtual seconds.
    """

    scenario: str
    seed: int
    violations: tuple[str, ...]
    trace_digest: str
    virtual_s: float
    settled_s: float
    took_s: float


class ScenarioRun:
    """A pool that lives through the plan of one seed.

    Args:
        tell: is told what happens, a line each: actions, and all that reaches a node.
    """

    def __init__(self, scenario: Scenario, seed: int, *, tell: Tell | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.pool = SimPool(
            seed, scenario.node_count, conditions=scenario.conditions, has_statements=scenario.has_statements
        )
        self.pool.server.tells_time = scenario.server_tells_time
        self.said_too_early: list[str] = []
        self._said = 0
        self._numbers = {node.host_id: number for number, node in enumerate(self.pool.nodes)}
        self._gone: set[DeviceId] = set()
        self._tell = tell
        if tell is not None:
            self.pool.network.watch(self._tell_event)

    def run(self) -> Outcome:
        """Let it all happen, until the end or until something is wrong."""
        started_at = time.perf_counter()
        settled_s = 0.0
        try:
            violations = self._follow_plan()
            if not violations:
                violations, settled_s = self._settle()
        except _BUGS as error:
            violations = (f"a node broke: {error!r}",)
        return Outcome(
            scenario=self.scenario.name,
            seed=self.seed,
            violations=tuple(violations),
            trace_digest=self.pool.network.trace_digest(),
            virtual_s=self.pool.network.now,
            settled_s=settled_s,
            took_s=time.perf_counter() - started_at,
        )

    def honest(self) -> list[SimNode]:
        """Return the members that are in the network now and do not lie."""
        return [node for node in self.members() if not node.is_liar]

    def members(self) -> list[SimNode]:
        """Return the nodes that are in the network now and were not removed, by all that was ever stated."""
        truth = self.pool.membership()
        return [node for node in self.pool.online() if truth is None or truth.is_member(node.host_id)]

    def liars(self) -> set[DeviceId]:
        """Return all who ever lied."""
        return {node.host_id for node in self.pool.nodes if node.is_liar}

    def name_of(self, host_id: DeviceId) -> str:
        """Return the short name of a node, by its number."""
        return f"n{self._numbers[host_id]}" if host_id in self._numbers else host_id.hex()[:8]

    # --- the run ------------------------------------------------------------------------------------------------

    def _follow_plan(self) -> tuple[str, ...]:
        self.pool.run_for(GATHER_S)
        due = deque(self.scenario.plan(self.seed))
        while due:
            until = self.pool.network.now + _STEP_S
            while due and GATHER_S + due[0][0] <= until:
                at, action = due.popleft()
                self.pool.network.run_until(GATHER_S + at)
                self._note(str(action))
                self._perform(action)
            self.pool.network.run_until(until)
            if violations := self._look(ALWAYS):
                return violations
        return ()

    def _settle(self) -> tuple[tuple[str, ...], float]:
        """Mend everything, and wait until all is as it must be in the end."""
        self._note("everything is mended")
        self._mend()
        began_at = self.pool.network.now
        while True:
            waited_s = self.pool.network.now - began_at
            wrong = self._look(ALWAYS)
            unsettled = self._look(IN_THE_END)
            if wrong or not unsettled or waited_s >= self.scenario.settle_s:
                return (*wrong, *unsettled), waited_s
            self.pool.run_for(_STEP_S if waited_s < _PATIENT_AFTER_S else _PATIENT_STEP_S)

    def _look(self, checks: Iterable[Check]) -> tuple[str, ...]:
        return tuple(wrong for check in checks for wrong in check(self))

    def _mend(self) -> None:
        self.pool.network.heal()
        if not self.pool.server.is_running:
            self.pool.server.start()
        for node in self.pool.nodes:
            if node.is_liar:
                if not self.scenario.liars_stay:
                    self._come_or_go(node, Leave(0, for_good=True))
                continue
            self._mend_disk(node)
            if not node.is_up and node.host_id not in self._gone:
                node.join()

    # --- actions ------------------------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        """Do what the plan says, as far as it fits what is."""
        match action:
            case Arrive(clock_error_ms, lies):
                node = self.pool.add_node(clock_error_ms=clock_error_ms, is_liar=lies)
                self._numbers[node.host_id] = len(self._numbers)
            case Crash() | Leave() | Return():
                self._come_or_go(self._node(action.node), action)
            case CutOff() | Reconnect() | BreakLink():
                self._change_network(action)
            case SetClock(number, error_ms):
                self._node(number).clock_error_ms = error_ms
            case StopServer():
                self.pool.server.stop()
            case StartServer():
                if not self.pool.server.is_running:
                    self.pool.server.start()
            case FillDisk() | FailDisk() | MendDisk():
                self._change_disk(self._node(action.node), action)
            case Publish() | Offer() | Fetch():
                self._use(self._node(action.node), action)
            case Remove(by, number) | Promote(by, number):
                self._sanction(self._node(by), self._node(number), action)
            case _:
                assert_never(action)

    def _come_or_go(self, node: SimNode, action: Crash | Leave | Return) -> None:
        if node.is_up == isinstance(action, Return) or node.host_id in self._gone:
            return
        match action:
            case Crash():
                node.crash()
            case Leave(_, for_good):
                node.leave()
                if for_good:
                    self._gone.add(node.host_id)
            case Return():
                node.join()

    def _change_network(self, action: CutOff | Reconnect | BreakLink) -> None:
        network = self.pool.network
        match action:
            case CutOff(numbers):
                network.partition(self._node(number).host_id for number in numbers)
            case Reconnect(numbers):
                network.heal(None if numbers is None else [self._node(number).host_id for number in numbers])
            case BreakLink(pick):
                if links := network.links():
                    network.reset_link(*links[int(pick * len(links))])

    def _change_disk(self, node: SimNode, action: FillDisk | FailDisk | MendDisk) -> None:
        match action:
            case FillDisk(_, free_bytes):
                node.disk.fill(free_bytes)
            case FailDisk(_, writes, syncs):
                node.disk.fail(writes=writes, syncs=syncs)
            case MendDisk():
                self._mend_disk(node)

    def _mend_disk(self, node: SimNode) -> None:
        node.disk.free()
        node.disk.mend()
        try:
            node.disk.check_sync()
        except StoreError:
            if node.is_up:
                node.leave()
                node.join()

    # --- what people do -----------------------------------------------------------------------------------------

    def _use(self, node: SimNode, action: Publish | Offer | Fetch) -> None:
        """Do what somebody does with a node; the disk may refuse it, and then they know."""
        if not node.is_up:
            return
        try:
            match action:
                case Publish():
                    self._publish(node)
                case Offer(_, size_bytes):
                    self.pool.offer(node, size_bytes)
                case Fetch(_, number):
                    if files := list(self.pool.offered):
                        node.fetch(files[number % len(files)])
        except StoreError as error:
            self._note(f"{self.name_of(node.host_id)} could not: {error}")

    def _publish(self, node: SimNode) -> None:
        self._said += 1
        ahead_ms = round((MAX_CLOCK_AHEAD_S - _CLOCK_SLACK_S) * 1000)
        believable = make_hlc(node.corrected_ms() + ahead_ms)  # whatever time its neighbours have talked it into
        seen = max((key for key in node.keys if key[0] <= believable), default=None)
        msg_id = self.pool.publish(node, b"text %d" % self._said)
        mine = next(key for key in node.keys if key[1] == msg_id)
        if seen is not None and mine <= seen:
            self.said_too_early.append(f"{self.name_of(node.host_id)} said something below what it had seen")

    def _sanction(self, admin: SimNode, node: SimNode, action: Remove | Promote) -> None:
        if not admin.is_up or admin.standing is None:
            return
        known = admin.standing.membership
        if known.role_of(admin.host_id) is not Role.ADMIN or not known.is_member(node.host_id) or node is admin:
            return
        if isinstance(action, Remove):
            admin.remove(node.host_id)
        else:
            admin.set_role(node.host_id, Role.MEMBER if action.demote else Role.ADMIN)

    def _node(self, number: int) -> SimNode:
        return self.pool.nodes[number % len(self.pool.nodes)]

    # --- the trace ----------------------------------------------------------------------------------------------

    def _note(self, line: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.pool.network.now:10.4f}  {line}")

    def _tell_event(self, now: float, source: DeviceId, target: DeviceId, what: Any) -> None:
        shown = f"link {what}" if isinstance(what, str) else _describe(what)
        self._note(f"{self.name_of(source)} > {self.name_of(target)}  {shown}")


def _describe(frame: Any) -> str:
    """Return the kind of a frame and what is in it, in a line."""
    fields = ", ".join(f"{field.name}={_shorten(getattr(frame, field.name))}" for field in attrs.fields(type(frame)))
    return f"{type(frame).__name__}({fields})"


def _shorten(value: Any) -> str:
    match value:
        case bytes():
            return value.hex()[-8:] or "-"
        case tuple() | list():
            return f"[{' '.join(_shorten(item) for item in value[:4])}{' …' if len(value) > 4 else ''}]"
    return str(value)
