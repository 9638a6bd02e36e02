"""What happens in a soak, and when: drawn from a seed before it begins. Pure.

The second half spares some members (`steady_members`) and the server: memory that grows shows only in a process that
lives. All others go on coming and going, so that those which stay see links and files come and go.
"""

import math
from random import Random
from typing import Final, Literal

import attrs

#: What of the members is left alone in the second half.
_STEADY_SHARE: Final = 0.4
#: From so many seconds on, things happen as often as `_EVERY_S` says; more often in a shorter soak.
_UNHURRIED_S: Final = 300.0
_MOST_HURRIED: Final = 0.1
#: Seconds between two of a kind, on average, in a pool of ten.
_EVERY_S: Final = {"say": 0.7, "take_back": 20, "offer": 15, "withdraw": 60, "kill": 12, "leave": 40, "freeze": 60}
_USUAL_MEMBERS: Final = 10
_SERVER_EVERY_S: Final = 75
#: Long enough for links to be given up, and too short for that.
_FROZEN_S: Final = (2.0, 14.0)
_AWAY_S: Final = (1.0, 15.0)
_LARGEST_SIZE: Final = 4 * 2**20
_KINDS: Final[tuple["Kind", ...]] = ("file", "file", "file", "folder", "media")

Kind = Literal["file", "folder", "media"]


@attrs.frozen(kw_only=True)
class Say:
    """Texts, one after another."""

    member: int
    count: int


@attrs.frozen(kw_only=True)
class TakeBack:
    """One of the member's own texts is retracted; `choice` in [0, 1) says which."""

    member: int
    choice: float


@attrs.frozen(kw_only=True)
class Offer:
    """Something is offered, which all others fetch."""

    member: int
    kind: Kind
    size_bytes: int


@attrs.frozen(kw_only=True)
class Withdraw:
    """One of the member's own offers is retracted."""

    member: int
    choice: float


@attrs.frozen(kw_only=True)
class Kill:
    """SIGKILL; the member comes back later."""

    member: int
    away_s: float


@attrs.frozen(kw_only=True)
class Leave:
    """The member ends as it should, and comes back later."""

    member: int
    away_s: float


@attrs.frozen(kw_only=True)
class Freeze:
    """SIGSTOP, and later SIGCONT."""

    member: int
    for_s: float


@attrs.frozen(kw_only=True)
class KillServer:
    """SIGKILL of the sync server; it comes back at the same address."""

    away_s: float


Action = Say | TakeBack | Offer | Withdraw | Kill | Leave | Freeze | KillServer
Plan = list[tuple[float, Action]]


def steady_members(members: int) -> range:
    """Return those that are not ended in the second half."""
    return range(math.ceil(members * _STEADY_SHARE))


def draw_plan(seed: int, *, duration_s: float, members: int) -> Plan:
    """Return what happens, in order, each with its second."""
    rng = Random(seed)
    hurry = max(_MOST_HURRIED, min(1.0, duration_s / _UNHURRIED_S))
    plan: Plan = []
    for what, every_s in _EVERY_S.items():
        for at_s in _times(rng, every_s * hurry * _USUAL_MEMBERS / members, duration_s):
            is_late = at_s > duration_s / 2
            lowest = len(steady_members(members)) if is_late and what in ("kill", "leave", "freeze") else 0
            plan.append((at_s, _action(what, rng, rng.randrange(lowest, members), hurry)))
    for at_s in _times(rng, _SERVER_EVERY_S * hurry, duration_s / 2):
        plan.append((at_s, KillServer(away_s=rng.uniform(*_AWAY_S) * hurry)))
    return sorted(plan, key=lambda entry: entry[0])


def _times(rng: Random, every_s: float, until_s: float) -> list[float]:
    """Return seconds from a Poisson process; at least one, so that even a short soak has one of everything."""
    times = [rng.uniform(0, until_s)]
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(1 / every_s)) < until_s:
        times.append(at_s)
    return times


def _action(what: str, rng: Random, member: int, hurry: float) -> Action:
    match what:
        case "say":
            return Say(member=member, count=rng.randint(1, 6))
        case "take_back":
            return TakeBack(member=member, choice=rng.random())
        case "offer":
            size = int(math.exp(rng.uniform(math.log(1000), math.log(_LARGEST_SIZE))))
            return Offer(member=member, kind=rng.choice(_KINDS), size_bytes=size)
        case "withdraw":
            return Withdraw(member=member, choice=rng.random())
        case "kill":
            return Kill(member=member, away_s=rng.uniform(*_AWAY_S) * hurry)
        case "leave":
            return Leave(member=member, away_s=rng.uniform(*_AWAY_S) * hurry)
        case _:
            return Freeze(member=member, for_s=rng.uniform(*_FROZEN_S) * hurry)
