"""Messages that were announced and have not come: when to ask for them, and whom.

The timers of Plumtree (gossip.py) with two additions that keep a repair from becoming a storm. At most `GRAFT_WINDOW`
messages are asked of one peer at a time, so a long list is pulled in steps, from all who announced it at once and each
message from one of them. And a peer that keeps answering is not given up because its answers take time.

Memory is bounded: a message counts against the link that announced it first, at most `MAX_MISSING_PER_LINK`.
"""

from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from itertools import islice

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    GRAFT_DELAY_S,
    GRAFT_RETRY_S,
    GRAFT_TRIES,
    GRAFT_WINDOW,
    MAX_MISSING_PER_LINK,
)


@attrs.frozen
class Ask:
    """Ask `peer` for these messages."""

    peer: DeviceId
    ids: tuple[MsgId, ...]


@attrs.define
class _Peer:
    asked: dict[MsgId, float] = attrs.Factory(dict)  # not answered yet, and when each was asked
    answered_at: float = float("-inf")
    owned: int = 0  # messages that count against this link
    ready: dict[MsgId, None] = attrs.Factory(dict)  # to be asked for, of it or another, once there is room in a window


@attrs.define
class _Missing:
    owner: DeviceId
    tries: dict[DeviceId, int]  # by announcer, the first to announce first


class MissingMessages:
    """What was announced and is not here, for all links of one node."""

    def __init__(self) -> None:
        self.given_up = 0
        self.ignored = 0
        self._peers: dict[DeviceId, _Peer] = {}
        self._missing: dict[MsgId, _Missing] = {}
        self._timers: list[tuple[float, int, MsgId, DeviceId | None]] = []  # no peer: not asked of anyone yet
        self._timer_count = 0

    def link_up(self, peer: DeviceId) -> None:
        """A new link; it has announced nothing yet."""
        self._peers[peer] = _Peer()

    def link_down(self, peer: DeviceId) -> None:
        """Forget what was announced by `peer` alone, and ask others for what it was asked for."""
        gone = self._peers.pop(peer)
        for msg_id, missing in list(self._missing.items()):
            if missing.tries.pop(peer, None) is None:
                continue
            if not missing.tries or (missing.owner == peer and not self._find_owner(missing)):
                self._forget(msg_id)
            elif msg_id in gone.asked or msg_id in gone.ready:
                self._make_ready(msg_id)

    def announced(self, peer: DeviceId, ids: Iterable[MsgId], now: float) -> None:
        """Take note that `peer` has messages that are not here."""
        state = self._peers[peer]
        for msg_id in ids:
            missing = self._missing.get(msg_id)
            if missing is not None:
                if any(msg_id in self._peers[known].ready for known in missing.tries):
                    state.ready[msg_id] = None
                missing.tries.setdefault(peer, 0)
            elif state.owned < MAX_MISSING_PER_LINK:
                state.owned += 1
                self._missing[msg_id] = _Missing(peer, {peer: 0})
                self._set_timer(now + GRAFT_DELAY_S, msg_id, None)
            else:
                self.ignored += 1

    def arrived(self, msg_id: MsgId) -> Collection[DeviceId]:
        """Take note that a message is here. Returns who announced it."""
        missing = self._missing.get(msg_id)
        if missing is None:
            return ()
        self._forget(msg_id)
        return missing.tries.keys()

    def answered(self, peer: DeviceId, msg_id: MsgId, now: float) -> bool:
        """Take note that `peer` sent a message. Returns whether it was asked to."""
        state = self._peers[peer]
        if state.asked.pop(msg_id, None) is None:
            return False
        state.answered_at = now
        return True

    def spoiled(self, peer: DeviceId, msg_id: MsgId) -> None:
        """What `peer` sent as this message is not acceptable: never ask it for that again, but others at once."""
        missing = self._missing.get(msg_id)
        if missing is not None and peer in missing.tries:
            missing.tries[peer] = GRAFT_TRIES
            self._peers[peer].ready.pop(msg_id, None)
            self._make_ready(msg_id)

    def has_room(self, peer: DeviceId) -> bool:
        """Return whether something waits to be asked for and half of this peer's window is free again."""
        state = self._peers[peer]
        return bool(state.ready) and 2 * len(state.asked) <= GRAFT_WINDOW

    def next_deadline(self) -> float | None:
        """Return when `to_ask` should be called next, or None."""
        while self._timers and not self._is_live(*self._timers[0][2:]):
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def to_ask(self, now: float) -> list[Ask]:
        """Return whom to ask for what now; each `Ask` counts as a try."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, _, msg_id, peer = heappop(self._timers)
            self._on_timer(msg_id, peer, now)
        asks: dict[DeviceId, list[MsgId]] = {}
        for state in self._peers.values():
            while state.ready and (room := GRAFT_WINDOW - len(state.asked)) > 0:
                for msg_id in list(islice(state.ready, room)):
                    chosen = self._choose(msg_id)
                    asks.setdefault(chosen, []).append(msg_id)
                    self._asked(chosen, msg_id, now)
        return [Ask(peer, tuple(ids)) for peer, ids in asks.items()]

    def __len__(self) -> int:
        return len(self._missing)

    def __contains__(self, msg_id: object) -> bool:
        return msg_id in self._missing

    def _on_timer(self, msg_id: MsgId, peer: DeviceId | None, now: float) -> None:
        if peer is not None:
            state = self._peers[peer]
            patience_ends = max(state.asked[msg_id], state.answered_at) + GRAFT_RETRY_S
            if patience_ends > now:
                self._set_timer(patience_ends, msg_id, peer)
                return
            del state.asked[msg_id]
        if msg_id in self._missing:
            self._make_ready(msg_id)

    def _is_live(self, msg_id: MsgId, peer: DeviceId | None) -> bool:
        if peer is None:
            return msg_id in self._missing
        state = self._peers.get(peer)
        return state is not None and msg_id in state.asked

    def _make_ready(self, msg_id: MsgId) -> None:
        """Have a message asked for by those who announced it; give it up if all were tried."""
        left = [peer for peer, count in self._missing[msg_id].tries.items() if count < GRAFT_TRIES]
        for peer in left:
            self._peers[peer].ready[msg_id] = None
        if not left:
            self.given_up += 1
            self._forget(msg_id)

    def _choose(self, msg_id: MsgId) -> DeviceId:
        """Return, of those who announced a message and have room in their windows, the one asked least for it."""
        tries = self._missing[msg_id].tries
        ready = [peer for peer in tries if msg_id in self._peers[peer].ready]
        return min((peer for peer in ready if len(self._peers[peer].asked) < GRAFT_WINDOW), key=tries.__getitem__)

    def _asked(self, peer: DeviceId, msg_id: MsgId, now: float) -> None:
        tries = self._missing[msg_id].tries
        for known in tries:
            self._peers[known].ready.pop(msg_id, None)
        tries[peer] += 1
        self._peers[peer].asked[msg_id] = now
        self._set_timer(now + GRAFT_RETRY_S, msg_id, peer)

    def _find_owner(self, missing: _Missing) -> bool:
        for peer in missing.tries:
            if self._peers[peer].owned < MAX_MISSING_PER_LINK:
                self._peers[peer].owned += 1
                missing.owner = peer
                return True
        return False

    def _forget(self, msg_id: MsgId) -> None:
        missing = self._missing.pop(msg_id)
        for peer in missing.tries:
            self._peers[peer].ready.pop(msg_id, None)
        owner = self._peers.get(missing.owner)
        if owner is not None:
            owner.owned -= 1

    def _set_timer(self, deadline: float, msg_id: MsgId, peer: DeviceId | None) -> None:
        self._timer_count += 1
        heappush(self._timers, (deadline, self._timer_count, msg_id, peer))
