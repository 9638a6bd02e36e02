"""What neighbours say of a node that breaks the rules, and when a server acts on it. Pure.

A server sees no message and no piece, so it can only believe others, and some of them lie. It acts when of the node's
neighbours on the rings more than half complain, at least `MIN_COMPLAINTS`. Places are drawn by the server, so nobody
chooses to be a neighbour. A neighbour that is away counts as content while it keeps its places: who comes back first
after a restart is no majority. What somebody says before it is a neighbour counts from when it is one, as it may have
closed its link for longer than it takes to become one. To count as several, one must be several *guests of admins*:

- devices of one user have one voice, and so has a member with all whom it brought in, as it may invent these; it is a
  complaint only if all of them that are neighbours complain;
- those of the node's own voice have none;
- whoever has had a part in a verdict on a node has none in the next: the new neighbours judge. Unless more than half
  of all in the pool complain, as neighbours that have not judged yet may be too few, or, in a full mesh, none;
- who asked for other places is not believed for `STRIKE_LIFETIME_S`: it may have been looking for a neighbour.

The first verdicts give the node other places, which does an honest one no harm, and takes it away from those who
slander it. Only after `STRIKES_PER_REMOVAL` of them within `STRIKE_LIFETIME_S`, each `STRIKE_INTERVAL_S` after the
last, is it out of the roster, for `REMOVAL_S`.

Whom an admin let in is somebody of its own, so whoever has an admin's invite for many may still invent enough of them
to sit on most sides of a node, and push it about. All of this is in memory only: a server that was restarted has
forgotten it, and hears it again if it is true.
"""

import enum
from collections.abc import Callable, Collection, Iterable

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import (
    COMPLAINT_LIFETIME_S,
    MIN_COMPLAINTS,
    REMOVAL_S,
    STRIKE_INTERVAL_S,
    STRIKE_LIFETIME_S,
    STRIKES_PER_REMOVAL,
)

#: New entries before those that are over are looked for.
_SWEEP_AT = 256


class Verdict(enum.Enum):
    """What is to become of a node."""

    NOTHING = enum.auto()
    #: Other places on the rings.
    MOVE = enum.auto()
    #: Out of the roster.
    REMOVE = enum.auto()


@attrs.frozen
class _Strike:
    at: float
    voices: frozenset[bytes]

    @property
    def until(self) -> float:
        return self.at + STRIKE_LIFETIME_S


class Complaints:
    """The complaints about the nodes of one pool. Costs O(neighbours) a complaint; O(nodes) if half of them complain.

    Whoever calls sees to it that one reporter is not heard too often; that bounds what is held.

    Args:
        voice_of: for whom a member speaks; whose that is the same have one voice together.
    """

    def __init__(self, voice_of: Callable[[DeviceId], bytes]) -> None:
        self._voice_of = voice_of
        self._complaints: dict[DeviceId, dict[DeviceId, float]] = {}  # node → who complains → how long it counts
        self._strikes: dict[DeviceId, list[_Strike]] = {}
        self._out: dict[DeviceId, float] = {}
        self._silent: dict[DeviceId, float] = {}
        self._new = 0  # entries since those that are over were last looked for
        self._sweep_at = _SWEEP_AT

    def add(
        self,
        reporter: DeviceId,
        node: DeviceId,
        neighbours: Iterable[DeviceId],
        everyone: Collection[DeviceId],
        now: float,
    ) -> Verdict:
        """Take a complaint and judge. Only nodes of the roster complain, and about others of it.

        Args:
            neighbours: those of the node that have their places now, attached or not.
            everyone: the roster.
        """
        if reporter == node or reporter not in everyone or node not in everyone:
            return Verdict.NOTHING
        self._sweep(now)
        self._complaints.setdefault(node, {})[reporter] = now + COMPLAINT_LIFETIME_S
        strikes = [strike for strike in self._strikes.get(node, ()) if strike.until > now]
        if strikes and now < strikes[-1].at + STRIKE_INTERVAL_S:
            return Verdict.NOTHING  # it counts with the next one
        present = frozenset(neighbours)
        heard = frozenset[bytes]().union(*(strike.voices for strike in strikes))
        agreed = self._majority(node, present, now, heard=heard)
        if not agreed and heard and self._is_known_to_half(node, everyone, now):
            agreed = self._majority(node, present, now)
        if not agreed:
            return Verdict.NOTHING
        for device in present:
            self._complaints[node].pop(device, None)
        self._strikes[node] = [*strikes, _Strike(now, agreed)][-STRIKES_PER_REMOVAL:]
        if len(self._strikes[node]) < STRIKES_PER_REMOVAL:
            return Verdict.MOVE
        self._out[node] = now + REMOVAL_S
        return Verdict.REMOVE

    def is_out(self, node: DeviceId, now: float) -> bool:
        """Return whether a node may not be in the roster yet."""
        return self._out.get(node, now) > now

    def silence(self, device: DeviceId, now: float) -> None:
        """Take note of a node that asked for other places, and got them."""
        self._sweep(now)
        self._silent[device] = now + STRIKE_LIFETIME_S

    def _is_known_to_half(self, node: DeviceId, everyone: Collection[DeviceId], now: float) -> bool:
        """Return whether more than half of all others complain, counted by nodes and by voices."""
        return 2 * len(self._complaints[node]) >= len(everyone) and bool(self._majority(node, everyone, now))

    def _majority(
        self, node: DeviceId, judges: Iterable[DeviceId], now: float, *, heard: frozenset[bytes] = frozenset()
    ) -> frozenset[bytes]:
        """Return the voices of these that complain, if they are enough; else none."""
        complaints = self._complaints[node]
        complains: dict[bytes, bool] = {}
        for device in judges:
            voice = self._voice_of(device)
            does_complain = complaints.get(device, now) > now and self._silent.get(device, now) <= now
            complains[voice] = complains.get(voice, True) and does_complain
        for voice in (*heard, self._voice_of(node)):
            complains.pop(voice, None)
        agreed = frozenset(voice for voice, does in complains.items() if does)
        is_enough = len(agreed) >= MIN_COMPLAINTS and 2 * len(agreed) > len(complains)
        return agreed if is_enough else frozenset()

    def _sweep(self, now: float) -> None:
        """Forget what is over, at a cost of O(1) a new entry on average."""
        self._new += 1
        if self._new < self._sweep_at:
            return
        for node, complaints in list(self._complaints.items()):
            self._complaints[node] = {reporter: until for reporter, until in complaints.items() if until > now}
        self._complaints = {node: complaints for node, complaints in self._complaints.items() if complaints}
        self._strikes = {node: kept for node, kept in self._strikes.items() if kept[-1].until > now}
        self._out = {node: until for node, until in self._out.items() if until > now}
        self._silent = {device: until for device, until in self._silent.items() if until > now}
        self._new, self._sweep_at = 0, max(_SWEEP_AT, len(self))

    def __len__(self) -> int:
        complaints = sum(map(len, self._complaints.values()))
        return complaints + len(self._strikes) + len(self._out) + len(self._silent)
