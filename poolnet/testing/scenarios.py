"""The scenarios that poolnet itself has to pass, by the names that the command line knows.

What is drawn from a seed is who, when, how often and in which order; how much of it there is at all is fixed, so that
every seed costs about the same.
"""

from random import Random

import attrs

from poolnet.limits import CHUNK_SIZE, KIB
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
    Plan,
    Promote,
    Publish,
    Reconnect,
    Remove,
    Return,
    Scenario,
    SetClock,
    StartServer,
    StopServer,
    merge,
)
from poolnet.testing.sim_liars import Lie
from poolnet.testing.sim_network import PathConditions

GOOD_PATHS = PathConditions(latency_s=0.02, jitter_s=0.01)
BAD_PATHS = PathConditions(latency_s=0.04, jitter_s=0.08, loss=0.03)
SLOW_PATHS = attrs.evolve(BAD_PATHS, bandwidth_bytes_per_s=2_000_000)

_MINUTE_MS = 60_000
#: How long things happen.
_DURATION_S = 40.0


def _talk(rng: Random, nodes: int, *, count: int = 30) -> Plan:
    return [(rng.uniform(0, _DURATION_S), Publish(rng.randrange(nodes))) for _ in range(count)]


def _swizzle(rng: Random, nodes: int) -> Plan:
    """Take some nodes out of the game one after the other, each in its way, and bring them back in another order.

    The idea is FoundationDB's "swizzle-clogging": what is wrong with an order of events shows in some order.
    """
    plan: list[tuple[float, Action]] = []
    for start in (0.0, _DURATION_S / 2):
        middle, end = start + _DURATION_S / 6, start + _DURATION_S / 2
        for node in rng.sample(range(nodes), rng.randint(1, nodes - 1)):
            out: Action = rng.choice((CutOff((node,)), CutOff((node,)), Crash(node), Leave(node)))
            back: Action = Reconnect((node,)) if isinstance(out, CutOff) else Return(node)
            plan += [(rng.uniform(start, middle), out), (rng.uniform(middle, end), back)]
    return plan


def _split(rng: Random, nodes: int) -> Plan:
    """Split the pool in two, somewhere, for some time."""
    cut_off = tuple(rng.sample(range(nodes), rng.randint(1, nodes - 1)))
    begin = rng.uniform(0, _DURATION_S / 2)
    return [(begin, CutOff(cut_off)), (begin + rng.uniform(1, _DURATION_S / 2), Reconnect())]


def _broken_links(rng: Random, count: int) -> Plan:
    return [(rng.uniform(0, _DURATION_S), BreakLink(rng.random())) for _ in range(count)]


def _churn(rng: Random, nodes: int) -> Plan:
    """Let nodes come, and others go for good; the first two stay."""
    plan: list[tuple[float, Action]] = []
    for _ in range(nodes):
        node = rng.randrange(2, 2 * nodes)
        going: Action = rng.choice((Leave(node, for_good=True), Crash(node)))
        plan += [(rng.uniform(0, _DURATION_S), going), (rng.uniform(0, _DURATION_S), Arrive())]
    return plan


def _clocks(rng: Random, nodes: int, *, slowest_ms: int = -5 * _MINUTE_MS) -> Plan:
    """Set clocks, let nodes with wrong ones come, and let some begin anew, alone with what their clock says."""
    plan: list[tuple[float, Action]] = []
    for _ in range(nodes):
        node, at = rng.randrange(nodes), rng.uniform(0, _DURATION_S)
        plan.append((at, SetClock(node, max(slowest_ms, _wrong_by_ms(rng)))))
        if rng.random() < 0.3:
            plan += [(at + 0.1, Crash(node)), (at + rng.uniform(0.2, 20), Return(node))]
    coming = [max(slowest_ms, _wrong_by_ms(rng)) for _ in range(2)]
    return [*plan, *[(rng.uniform(0, _DURATION_S), Arrive(error_ms)) for error_ms in coming]]


def _wrong_by_ms(rng: Random) -> int:
    """What is said alone, with a clock that is ahead, is held by others for as long; a scenario must wait for it."""
    return round(rng.choice((-1, 1)) * rng.choice((0.01, 1, 5)) * _MINUTE_MS * rng.random())


def _server_away(rng: Random, nodes: int) -> Plan:
    """Take the server away, more than once, while nodes come and go; at times for longer than it waits for them."""
    plan: list[tuple[float, Action]] = [
        (rng.uniform(0, 10), StopServer()),
        (rng.uniform(11, 25), StartServer()),
        (rng.uniform(25, 32), StopServer()),
    ]
    for node in rng.sample(range(nodes), 3):
        at = rng.uniform(0, _DURATION_S)
        plan += [(at, rng.choice((Crash(node), Leave(node)))), (at + rng.uniform(1, 20), Return(node))]
    return [*plan, (rng.uniform(0, 30), Arrive())]


def _disks(rng: Random, nodes: int) -> Plan:
    """Fill disks, let them fail, cut the power meanwhile, and mend them."""
    plan: list[tuple[float, Action]] = []
    for _ in range(nodes):
        node, at = rng.randrange(nodes), rng.uniform(0, _DURATION_S)
        trouble: Action = rng.choice(
            (
                FillDisk(node, rng.choice((0, 100, 4 * KIB))),
                FailDisk(node, writes=rng.randint(1, 10)),
                FailDisk(node, syncs=rng.randint(1, 3)),
            )
        )
        plan += [(at, trouble), (at + rng.uniform(1, 15), MendDisk(node))]
        if rng.random() < 0.5:
            cut_at = at + rng.uniform(0, 2)
            plan += [(cut_at, Crash(node)), (cut_at + rng.uniform(0.1, 10), Return(node))]
    return plan


def _power_cuts(rng: Random, nodes: int, *, count: int) -> Plan:
    """Cut the power of whoever has just said something, about when it may be on the disk."""
    plan: list[tuple[float, Action]] = []
    for _ in range(count):
        node, at = rng.randrange(nodes), rng.uniform(0, _DURATION_S)
        cut_at = at + rng.uniform(0, 0.02)
        plan += [(at, Publish(node)), (cut_at, Crash(node)), (cut_at + rng.uniform(0.1, 5), Return(node))]
    return plan


def _files(rng: Random, nodes: int, *, count: int = 3) -> Plan:
    """Offer files of up to so many chunks; most nodes want each of them, some before they know of it at all."""
    plan: list[tuple[float, Action]] = []
    for file in range(count):
        at = rng.uniform(0, _DURATION_S / 3)
        plan.append((at, Offer(rng.randrange(nodes), rng.randint(1, 12 * CHUNK_SIZE))))
        wanting = rng.sample(range(nodes), rng.randint(1, nodes))
        plan += [(at + rng.uniform(0, _DURATION_S / 3), Fetch(node, file)) for node in wanting]
    return plan


def _liars(rng: Random, nodes: int, *, count: int = 2) -> Plan:
    """Let liars come, each with some lies of its own."""
    plan: list[tuple[float, Action]] = []
    for _ in range(count):
        lies = tuple(rng.sample(list(Lie), rng.randint(1, len(Lie))))
        plan.append((rng.uniform(0, _DURATION_S / 2), Arrive(lies=lies)))
    return plan


def _conspiracy(rng: Random, nodes: int) -> Plan:
    """Let half as many come as there are, which cut off one of them as well as they can; the honest ones talk.

    Half of the seeds slander as well. Not all: whom they slander with success is given other neighbours than them.
    """
    slander = rng.choice(((), (Lie.SLANDER,)))
    lies = (Lie.SURROUND, Lie.SILENCE, Lie.FALSE_HAVES, *slander)
    coming: list[tuple[float, Action]] = [(rng.uniform(0, 5), Arrive(lies=lies)) for _ in range(nodes // 2)]
    return [(0.0, Publish(rng.randrange(nodes))), *coming]


def _removals(rng: Random, nodes: int) -> Plan:
    """Let admins be made, and remove, promote and demote whomever: each other too, and while they cannot hear that."""
    admins = range(1, nodes // 2)
    plan: list[tuple[float, Action]] = [(rng.uniform(0, 4), Promote(0, admin)) for admin in admins]
    for number in range(7):
        by = rng.randrange(nodes // 2)
        action = Promote(by, rng.randrange(nodes), demote=rng.random() < 0.7)
        sanction = Remove(by, rng.randrange(nodes + 2)) if number < 4 else action
        plan.append((rng.uniform(4, _DURATION_S), sanction))
    return plan


def _storm(rng: Random, nodes: int) -> Plan:
    """Draw all of it, but no clock that is slower than what its node has seen.

    Who knows that its own clock is wrong, and has nobody but a liar to ask, has to believe it: no rule helps there.
    """
    parts = (_talk, _swizzle, _split, _churn, _server_away, _disks, _files)
    clocks = _clocks(rng, nodes, slowest_ms=-_MINUTE_MS // 4)
    return merge((*(draw(rng, nodes) for draw in parts), clocks, _liars(rng, nodes, count=1)))


_ALL = (
    Scenario(
        name="calm",
        summary="ten nodes talk, and nothing goes wrong",
        node_count=10,
        conditions=GOOD_PATHS,
        draw=lambda rng, nodes: _talk(rng, nodes, count=40),
    ),
    Scenario(
        name="swizzle",
        summary="nodes are cut off, crash and leave one after the other, and come back in any order",
        node_count=10,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge((_talk(rng, nodes), _swizzle(rng, nodes), _broken_links(rng, 5))),
    ),
    Scenario(
        name="partition",
        summary="the pool is split in two, with the server on one side, and both sides go on talking",
        node_count=10,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge((_talk(rng, nodes), _split(rng, nodes), _split(rng, nodes))),
    ),
    Scenario(
        name="churn",
        summary="as many as there are come, and as many go, some without a word; links break",
        node_count=10,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge((_talk(rng, 2 * nodes), _churn(rng, nodes), _broken_links(rng, 20))),
    ),
    Scenario(
        name="clocks",
        summary="clocks are wrong, and are set while nodes run and before they start",
        node_count=8,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge((_talk(rng, nodes), _clocks(rng, nodes))),
        settle_s=600.0,
        server_tells_time=False,
    ),
    Scenario(
        name="disks",
        summary="disks are full, do not write and do not sync, and the power is cut",
        node_count=8,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge(
            (_talk(rng, nodes), _disks(rng, nodes), _power_cuts(rng, nodes, count=5), _files(rng, nodes, count=1))
        ),
    ),
    Scenario(
        name="liars",
        summary="two more nodes come that lie, cheat and flood, while others talk, fetch files and crash",
        node_count=6,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge(
            (_talk(rng, nodes), _liars(rng, nodes), _files(rng, nodes, count=2), _power_cuts(rng, nodes, count=2))
        ),
    ),
    Scenario(
        name="files",
        summary="files are offered and fetched over slow paths, while links break and nodes crash and are cut off",
        node_count=8,
        conditions=SLOW_PATHS,
        draw=lambda rng, nodes: merge((_files(rng, nodes), _swizzle(rng, nodes), _broken_links(rng, 10))),
    ),
    Scenario(
        name="server_away",
        summary="the sync server goes down and comes back, while nodes come, crash and leave",
        node_count=10,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge((_talk(rng, nodes), _server_away(rng, nodes))),
    ),
    Scenario(
        name="removal",
        summary="admins remove, promote and demote members and each other, on both sides of a split; liars among them",
        node_count=10,
        conditions=BAD_PATHS,
        draw=lambda rng, nodes: merge(
            (
                _talk(rng, nodes),
                _removals(rng, nodes),
                _split(rng, nodes),
                _liars(rng, nodes, count=1),
                _power_cuts(rng, nodes, count=2),
            )
        ),
        has_statements=True,
    ),
    Scenario(
        name="surround",
        summary="a third of all conspire to surround one: they pass nothing on, say that all is equal, and may slander",
        node_count=10,
        conditions=GOOD_PATHS,
        draw=lambda rng, nodes: merge(
            (_conspiracy(rng, nodes), _talk(rng, nodes), _files(rng, nodes, count=1), _broken_links(rng, 10))
        ),
        liars_stay=True,
    ),
    Scenario(
        name="storm",
        summary="all of it at once",
        node_count=7,
        conditions=BAD_PATHS,
        draw=_storm,
        settle_s=600.0,
    ),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
