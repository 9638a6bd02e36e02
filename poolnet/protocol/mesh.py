"""Which links a node keeps: its ring neighbours, whoever replaces the lost ones, and a few direct ones.

The machine reads the pool's `Roster` and says what to dial and what to close. Some rules make it heal without a server
and without flapping:

- A peer that could not be dialled `GONE_AFTER_DIALS` times counts as gone; the next node on that ring is linked
  instead. It is tried again with back-off as long as it would be a neighbour.
- Who has just come, or was given other places, dials at once: it knows best that it has no links, as after a restart
  that nobody else has noticed. Those to whom it comes wait `GLARE_WAIT_S`, so that two dials rarely meet. Of others
  the smaller id dials at once and the larger one waits.
- Only the side that dialled a link closes it when it is no longer needed, after `LINK_GRACE_S`: the other side may
  need it for a reason that we cannot see (a peer that only it cannot reach). What others dialled is kept as a guest
  until there are too many links.
- A link to who is not in the roster is a guest, whoever dialled it: who leaves closes its links itself, and a server
  that names a member no more, mistaken or lying, cuts nobody off.
- Where a pool is larger than a full mesh, one more link goes to a member drawn at random, the *acquaintance*, another
  one every `ACQUAINTANCE_S`. Who has drawn only liars for neighbours, on rings that nobody changes, is not left with
  them. Where there is no room a guest makes some, at most one in `GUEST_STAY_S`.
- A peer that is to be shunned counts as gone for as long, and its own dials are refused.
- A node that is not in the roster itself (it has just come, or the server forgot it) changes nothing.

Who may be in the pool at all is not decided here (identity/membership.py).
"""

from typing import assert_never

import attrs

from poolnet.ids import DeviceId
from poolnet.limits import (
    GLARE_WAIT_S,
    GUEST_STAY_S,
    LINK_GRACE_S,
    MAX_RING_LINKS,
    MAX_TEMPORARY_LINKS,
)
from poolnet.protocol.acquaintance import Acquaintance
from poolnet.protocol.dial_attempts import DialAttempts
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.rings import Roster

MAX_LINKS = MAX_RING_LINKS + MAX_TEMPORARY_LINKS

NOT_A_NEIGHBOUR = "no longer a neighbour"
TOO_MANY_LINKS = "too many links"
SHUNNED = "it broke the rules too often"


# --- events -----------------------------------------------------------------------------------------------------


@attrs.frozen
class RosterChanged:
    """The roster has changed. `joined`: nodes that came or have new places; they get a fresh chance."""

    joined: frozenset[DeviceId] = frozenset()


@attrs.frozen
class LinkUp:
    """A proven link to `peer` is there; it replaces an earlier one. `is_dialler`: it was set up by this side."""

    peer: DeviceId
    is_dialler: bool


@attrs.frozen
class LinkDown:
    """The link to `peer` is gone, by whichever side."""

    peer: DeviceId


@attrs.frozen
class DialFailed:
    """A `Dial` came to nothing."""

    peer: DeviceId


@attrs.frozen
class WantDirect:
    """Links to some of these peers are wanted whatever the rings say, and to nobody else of whom that was said before.

    Up to `MAX_TEMPORARY_LINKS` are drawn: a choice that could be foreseen is one that ids can be made to fit.
    """

    peers: frozenset[DeviceId]


@attrs.frozen
class Shun:
    """Have no link to `peer` until then, whatever else is wanted."""

    peer: DeviceId
    until: float


# --- effects ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Dial:
    """Set up a link; to be answered by `DialFailed`, or by `LinkUp` (also when the peer's own dial got through)."""

    peer: DeviceId


@attrs.frozen
class CloseLink:
    """Close the link; to be answered by `LinkDown`."""

    peer: DeviceId
    reason: str


@attrs.frozen
class Unreachable:
    """A neighbour that cannot be dialled: told to the sync server, which may draw other places."""

    peer: DeviceId


MeshEvent = RosterChanged | LinkUp | LinkDown | DialFailed | WantDirect | Shun
MeshEffect = Dial | CloseLink | Unreachable


@attrs.frozen
class MeshStatistics:
    """Counts since the machine was made, and sizes now."""

    links: int
    guests: int
    gone: int
    dials: int
    failed_dials: int
    closed: int


@attrs.define
class _Link:
    up_at: float
    is_dialler: bool
    close_at: float | None = None
    is_closing: bool = False


class Mesh:
    """The links of one node in one pool.

    Args:
        node: this node.
        roster: the pool's roster, changed by its owner, who then tells `RosterChanged`.
        rng: for the jitter of the back-off, and to draw direct peers and the acquaintance; nobody may foresee it.
        has_acquaintance: whether it draws one.
    """

    def __init__(self, node: DeviceId, roster: Roster, rng: RandomSource, *, has_acquaintance: bool = True) -> None:
        self.node = node
        self._roster = roster
        self._rng = rng
        self._links: dict[DeviceId, _Link] = {}
        self._attempts: dict[DeviceId, DialAttempts] = {}
        self._direct: frozenset[DeviceId] = frozenset()
        self._shunned: dict[DeviceId, float] = {}
        self._wanted: frozenset[DeviceId] = frozenset()
        #: Who has just come, by the event that is being handled.
        self._came: frozenset[DeviceId] = frozenset()
        self._acquaintance = Acquaintance(node, roster, rng) if has_acquaintance else None
        self._now = float("-inf")
        self._dials = self._failed_dials = self._closed = 0

    @property
    def wanted(self) -> frozenset[DeviceId]:
        """The peers that should be linked now: neighbours, replacements of gone ones, direct ones, the acquaintance."""
        return self._wanted

    @property
    def linked(self) -> frozenset[DeviceId]:
        """The peers that are linked now."""
        return frozenset(self._links)

    @property
    def gone(self) -> frozenset[DeviceId]:
        """The peers that cannot be dialled at the moment and are replaced."""
        return frozenset(peer for peer, tries in self._attempts.items() if tries.is_gone)

    @property
    def shunned(self) -> frozenset[DeviceId]:
        """The peers that no link is wanted to at the moment."""
        return frozenset(self._shunned)

    def is_steady(self, peer: DeviceId) -> bool:
        """Return whether a link is meant to stay: to a neighbour, a direct one, or to who is not in the roster yet."""
        if self._acquaintance is not None and peer == self._acquaintance.peer:
            return False
        return peer in self._wanted or peer not in self._roster

    def may_accept(self, peer: DeviceId) -> bool:
        """Return whether an incoming link of a member is welcome: from neighbours always, else while there is room.

        From one that is shunned never. Room is made if nobody came lately.
        """
        if peer in self._shunned:
            return False
        if len(self._links) < MAX_LINKS or peer in self._links or peer in self._wanted:
            return True
        guests = [link.up_at for known, link in self._links.items() if known not in self._wanted]
        has_turn = bool(guests) and max(guests) + GUEST_STAY_S <= self._now
        return has_turn or peer in self._roster.neighbours(self.node)

    def handle(self, event: MeshEvent, now: float) -> list[MeshEffect]:
        """Take note of an event and return what to do."""
        effects: list[MeshEffect] = []
        match event:
            case RosterChanged(joined):
                self._came = joined
                for peer in sorted(joined):
                    self._give_fresh_chance(peer, now)
            case LinkUp(peer, is_dialler):
                self._attempts.setdefault(peer, DialAttempts(now)).linked()
                self._links[peer] = _Link(now, is_dialler)
            case LinkDown(peer):
                self._link_down(peer, now)
            case DialFailed(peer):
                self._dial_failed(peer, now, effects)
            case WantDirect(peers):
                if not self._draw_direct(peers):
                    return []
            case Shun(peer, until):
                self._shunned[peer] = until
            case _:
                assert_never(event)
        effects += self._settle(now)
        self._came = frozenset()
        return effects

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do, or None."""
        times = [self._attempts[peer].dial_at for peer in self._to_dial()]
        times += self._shunned.values()
        if self._acquaintance is not None and self._acquaintance.draw_at is not None:
            times.append(self._acquaintance.draw_at)
        times += [link.close_at for link in self._links.values() if link.close_at is not None and not link.is_closing]
        return min(times, default=None)

    def tick(self, now: float) -> list[MeshEffect]:
        """Do what is due."""
        return self._settle(now)

    def statistics(self) -> MeshStatistics:
        """Return counts and sizes."""
        return MeshStatistics(
            links=len(self._links),
            guests=sum(peer not in self._wanted for peer in self._links),
            gone=len(self.gone),
            dials=self._dials,
            failed_dials=self._failed_dials,
            closed=self._closed,
        )

    # --- events -------------------------------------------------------------------------------------------------

    def _give_fresh_chance(self, peer: DeviceId, now: float) -> None:
        tries = self._attempts.get(peer)
        if tries is not None and not tries.is_dialling:
            self._attempts[peer] = DialAttempts(self._first_dial_at(peer, now))

    def _link_down(self, peer: DeviceId, now: float) -> None:
        link = self._links.pop(peer, None)
        if link is None:
            return
        tries = self._attempts.setdefault(peer, DialAttempts(now))
        tries.ended(now - link.up_at, now, not_before=self._first_dial_at(peer, now), rng=self._rng)

    def _dial_failed(self, peer: DeviceId, now: float, effects: list[MeshEffect]) -> None:
        tries = self._attempts.setdefault(peer, DialAttempts(now))
        tries.is_dialling = False
        self._failed_dials += 1
        if peer in self._links:  # the other side got through meanwhile
            return
        is_gone = tries.failed(now, self._rng)
        if self._acquaintance is not None:
            self._acquaintance.lost(peer, now)
        if is_gone and peer in self._roster:
            effects.append(Unreachable(peer))

    def _draw_direct(self, peers: frozenset[DeviceId]) -> bool:
        """Keep who was drawn before and can be linked, and draw the rest; somebody lost only if there is nobody else.

        Returns whether that changes anything.
        """
        before, lost = self._direct, self.gone | self._shunned.keys()

        def rank(peer: DeviceId) -> tuple[bool, bool, float]:
            return peer in lost, peer not in self._direct, self._rng.random()

        self._direct = frozenset(sorted(sorted(peers - {self.node}), key=rank)[:MAX_TEMPORARY_LINKS])
        return self._direct != before

    # --- decisions ----------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[MeshEffect]:
        """Bring links in line with what is wanted."""
        self._now = now
        for peer in [peer for peer, until in self._shunned.items() if until <= now]:
            del self._shunned[peer]
            self._give_fresh_chance(peer, now)
        self._update_wanted(now)
        effects = self._dial_due(now)
        effects += self._close_due(now)
        return effects + self._evict_guests()

    def _update_wanted(self, now: float) -> None:
        neighbours = self._roster.neighbours(self.node, without=self.gone | self._shunned.keys())
        self._wanted = (neighbours | self._direct) - self._shunned.keys()
        self._want_acquaintance(now)
        for peer in sorted(self._wanted - self._attempts.keys()):
            self._attempts[peer] = DialAttempts(self._first_dial_at(peer, now))
        for peer in [peer for peer, tries in self._attempts.items() if not self._is_relevant(peer, tries)]:
            del self._attempts[peer]

    def _want_acquaintance(self, now: float) -> None:
        if self._acquaintance is None:
            return
        self._acquaintance.update(lambda: self._wanted | self._links.keys() | self.gone | self._shunned.keys(), now)
        peer = self._acquaintance.peer
        if peer is not None and peer not in self._shunned and len(self._wanted) < MAX_LINKS:
            self._wanted |= {peer}

    def _is_relevant(self, peer: DeviceId, tries: DialAttempts) -> bool:
        is_gone = tries.is_gone and peer in self._roster
        return tries.is_dialling or is_gone or peer in self._wanted or peer in self._links

    def _dial_due(self, now: float) -> list[MeshEffect]:
        effects: list[MeshEffect] = []
        for peer in self._to_dial():
            tries = self._attempts[peer]
            if tries.dial_at <= now:
                tries.is_dialling = True
                self._dials += 1
                effects.append(Dial(peer))
        return effects

    def _to_dial(self) -> list[DeviceId]:
        """Return the peers to be dialled when their time comes: wanted ones, and gone ones that would be wanted."""
        free = sorted(
            peer for peer, tries in self._attempts.items() if not tries.is_dialling and peer not in self._links
        )
        if not free:
            return []
        gone = self.gone - self._shunned.keys()
        return [
            peer for peer in free if peer in self._wanted or (peer in gone and self._would_be_neighbour(peer, gone))
        ]

    def _would_be_neighbour(self, peer: DeviceId, gone: frozenset[DeviceId]) -> bool:
        return peer in self._roster.neighbours(self.node, without=(gone | self._shunned.keys()) - {peer})

    def _close_due(self, now: float) -> list[MeshEffect]:
        effects: list[MeshEffect] = []
        is_here = self.node in self._roster
        for peer, link in sorted(self._links.items()):
            if peer in self._shunned and not link.is_closing:
                effects.append(self._close(peer, SHUNNED))
                continue
            if not is_here or peer in self._wanted or not link.is_dialler or peer not in self._roster:
                link.close_at = None
            elif link.close_at is None:
                link.close_at = now + LINK_GRACE_S
            elif link.close_at <= now and not link.is_closing:
                effects.append(self._close(peer, NOT_A_NEIGHBOUR))
        return effects

    def _evict_guests(self) -> list[MeshEffect]:
        """Close the oldest links that are not wanted while there are too many."""
        kept = [peer for peer, link in self._links.items() if not link.is_closing]
        guests = sorted((peer for peer in kept if peer not in self._wanted), key=lambda peer: self._links[peer].up_at)
        return [self._close(peer, TOO_MANY_LINKS) for peer in guests[: max(0, len(kept) - MAX_LINKS)]]

    def _close(self, peer: DeviceId, reason: str) -> MeshEffect:
        self._links[peer].is_closing = True
        self._closed += 1
        return CloseLink(peer, reason)

    def _first_dial_at(self, peer: DeviceId, now: float) -> float:
        if peer in self._direct or self.node in self._came:
            return now  # of the first only this side knows
        waits = peer in self._came or self.node > peer
        return now + GLARE_WAIT_S if waits else now
