"""Messages that neighbours have and this node lacks: whom to ask for which, each of one neighbour at a time.

Comparisons (reconcile.py) note what is lacking and who has it. One neighbour gets at most `MAX_UNANSWERED_WANTS`
requests of `MAX_IDS_PER_WANT` ids that it has not answered to the last frame. What a neighbour turns out not to have
(any more), and what it was asked for when it fell silent, is asked of another that has it, or is *lost*: forgotten, and
found again by a later comparison. From one that is *slow*, what it owes may come late, so it is asked of others as
well, once of each that has nothing else to bring: nobody can hold back what others have by promising it. Who brought
what is remembered until it is stored.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

import attrs

from poolnet.ids import DeviceId, MsgId
from poolnet.limits import (
    KIB,
    MAX_IDS_PER_WANT,
    MAX_REMEMBERED_FETCHES,
    MAX_UNANSWERED_WANTS,
    MAX_WANTED_PER_LINK,
    RECONCILE_PATIENCE_S,
    RECONCILE_TIMEOUT_S,
    WANT_DELAY_S,
)
from poolnet.wire.pool_frames import Messages, WantMessages

#: Encoded messages in one frame: with one of the largest on top it stays well below a frame.
_BATCH_SIZE = 32 * KIB


@attrs.define
class _Peer:
    listed: dict[MsgId, None] = attrs.Factory(dict)  # what it has and we lack, asked for or not
    unanswered: dict[int, set[MsgId]] = attrs.Factory(dict)  # by number of the request: what has not come yet
    asked_at: dict[int, float] = attrs.Factory(dict)  # when, of the same requests, the first first
    heard_at: float = 0.0  # since when it brings nothing of what it owes
    is_slow: bool = False  # others are asked for what it owes
    is_silent: bool = False  # it owes an answer for too long

    def owes(self, msg_id: MsgId) -> bool:
        return any(msg_id in asked for asked in self.unanswered.values())

    def slow_at(self) -> float:
        oldest_at = next(iter(self.asked_at.values()))
        return min(self.heard_at + RECONCILE_PATIENCE_S, oldest_at + RECONCILE_TIMEOUT_S)


class Fetching:
    """What is wanted of all neighbours of one node.

    Attributes:
        fetched: how many messages came because they were asked for.
    """

    def __init__(self) -> None:
        self.fetched = 0
        self._peers: dict[DeviceId, _Peer] = {}
        self._wanted: dict[MsgId, DeviceId | None] = {}  # who is asked for it now
        self._not_before: dict[MsgId, float] = {}  # of those that gossip may still bring; the first first
        self._bringers: OrderedDict[MsgId, DeviceId] = OrderedDict()  # of messages that arrived and are not stored
        self._number = 0

    def link_up(self, peer: DeviceId) -> None:
        """A new link; it has listed nothing yet."""
        self._peers[peer] = _Peer()

    def link_down(self, peer: DeviceId) -> list[MsgId]:
        """Forget what only `peer` has. Returns what is lost by that."""
        state = self._peers[peer]
        lost = self._drop_listed(peer, list(state.listed))
        del self._peers[peer]
        return lost

    def note(self, peer: DeviceId, ids: Iterable[MsgId], now: float, *, is_old: bool) -> None:
        """Take note that `peer` has messages that are lacking here and wanted. `is_old`: gossip will not bring them."""
        listed = self._peers[peer].listed
        for msg_id in ids:
            listed[msg_id] = None
            if msg_id not in self._wanted:
                self._wanted[msg_id] = None
                if not is_old:
                    self._not_before[msg_id] = now + WANT_DELAY_S

    def has_room(self, peer: DeviceId) -> bool:
        """Return whether more that `peer` has may be noted."""
        return len(self._peers[peer].listed) < MAX_WANTED_PER_LINK

    def to_ask(self, now: float) -> list[tuple[DeviceId, WantMessages]]:
        """Return what to ask of whom now."""
        if not self._wanted:
            return []
        while self._not_before and (first := next(iter(self._not_before.items())))[1] <= now:
            del self._not_before[first[0]]
        asks = []
        for peer, state in self._peers.items():
            while len(state.unanswered) < MAX_UNANSWERED_WANTS and (ids := self._choose(peer, state)):
                self._number = (self._number + 1) % 2**32
                if not state.unanswered:
                    state.heard_at = now
                state.unanswered[self._number] = set(ids)
                state.asked_at[self._number] = now
                self._wanted.update(dict.fromkeys(ids, peer))
                asks.append((peer, WantMessages(number=self._number, ids=tuple(ids))))
        return asks

    def is_awaited(self, peer: DeviceId, number: int, msg_id: MsgId) -> bool:
        """Return whether `peer` was asked for a message by the request of that number, and has not brought it yet."""
        state = self._peers.get(peer)
        return state is not None and msg_id in state.unanswered.get(number, ())

    def arrived(
        self, peer: DeviceId, number: int, ids: Iterable[MsgId], now: float, *, is_last: bool
    ) -> tuple[list[MsgId], list[MsgId]]:
        """Take note of a `Messages` frame. Returns which of its messages were wanted, and what is lost by it."""
        state = self._peers[peer]
        wanted = [msg_id for msg_id in ids if msg_id in self._wanted]
        self._forget(wanted)
        self.fetched += len(wanted)
        self._remember(peer, wanted)
        asked = state.unanswered.get(number)
        if asked is None:
            return wanted, []
        if is_last or not asked.isdisjoint(ids):
            state.heard_at = now
            state.is_silent = state.is_slow = False
        asked.difference_update(ids)
        if not is_last:
            return wanted, []
        del state.unanswered[number], state.asked_at[number]
        return wanted, self._drop_listed(peer, [msg_id for msg_id in asked if msg_id in state.listed])

    def stored(self, ids: Iterable[MsgId]) -> set[DeviceId]:
        """Take note that these are stored. Returns who has brought them, of those that were asked for."""
        early = self._forget(ids)  # stored before it was said that they arrived
        self.fetched += len(early)
        bringers = {self._bringers.pop(msg_id) for msg_id in ids if msg_id in self._bringers}
        return bringers.union(early.values())

    def next_deadline(self) -> float | None:
        """Return when `tick` or `to_ask` has something to do, or None."""
        times = [_patience_ends(state) if state.is_slow else state.slow_at() for _, state in self._awaited()]
        return min([*times, *islice(self._not_before.values(), 1)], default=None)

    def tick(self, now: float) -> list[MsgId]:
        """Give up on neighbours that owe an answer for too long; returns what is lost by that.

        Such a neighbour is not asked again before it has answered.
        """
        lost = []
        for peer, state in self._awaited():
            state.is_slow |= state.slow_at() <= now
            if _patience_ends(state) <= now:
                state.is_silent = True
                lost += self._drop_listed(peer, list(state.listed))
        return lost

    def __contains__(self, msg_id: object) -> bool:
        return msg_id in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def _awaited(self) -> list[tuple[DeviceId, _Peer]]:
        """Return the neighbours that owe an answer, and are not given up."""
        return [(peer, state) for peer, state in self._peers.items() if state.unanswered and not state.is_silent]

    def _forget(self, ids: Iterable[MsgId]) -> dict[MsgId, DeviceId]:
        """Do not want these any more. Returns those that were asked for, and of whom."""
        asked = {}
        for msg_id in ids:
            if msg_id in self._wanted:
                peer = self._wanted.pop(msg_id)
                self._not_before.pop(msg_id, None)
                if peer is not None:
                    asked[msg_id] = peer
                for state in self._peers.values():
                    state.listed.pop(msg_id, None)
        return asked

    def _remember(self, bringer: DeviceId, ids: Iterable[MsgId]) -> None:
        for msg_id in ids:
            self._bringers[msg_id] = bringer
            if len(self._bringers) > MAX_REMEMBERED_FETCHES:
                self._bringers.popitem(last=False)

    def _choose(self, peer: DeviceId, state: _Peer) -> list[MsgId]:
        """Return what to ask of a neighbour next: what it has and nobody is asked for, or else somebody slow owes."""
        if state.is_silent or not state.listed:
            return []
        unasked = (msg_id for msg_id in state.listed if self._wanted[msg_id] is None)
        free = (msg_id for msg_id in unasked if msg_id not in self._not_before and not state.owes(msg_id))
        if (ids := list(islice(free, MAX_IDS_PER_WANT))) or state.is_slow:
            return ids
        slow = {other for other, known in self._peers.items() if known.is_slow and other != peer}
        owed = (msg_id for msg_id in state.listed if self._wanted[msg_id] in slow and not state.owes(msg_id))
        return list(islice(owed, MAX_IDS_PER_WANT)) if slow else []

    def _drop_listed(self, peer: DeviceId, ids: list[MsgId]) -> list[MsgId]:
        """Take note that `peer` will not bring these. Returns those that nobody else has."""
        lost = []
        listed = self._peers[peer].listed
        for msg_id in ids:
            del listed[msg_id]
            if self._wanted[msg_id] == peer:
                self._wanted[msg_id] = None
            if not any(msg_id in state.listed for state in self._peers.values()):
                del self._wanted[msg_id]
                self._not_before.pop(msg_id, None)
                lost.append(msg_id)
        return lost


def _patience_ends(state: _Peer) -> float:
    return state.heard_at + RECONCILE_TIMEOUT_S


def pack_messages(number: int, encoded: Iterable[bytes]) -> Iterator[Messages]:
    """Yield the answer to a `WantMessages` of that number: as few frames as hold these messages, at least one."""
    batch: list[bytes] = []
    size = 0
    for item in encoded:
        if batch and (size + len(item) > _BATCH_SIZE or len(batch) == MAX_IDS_PER_WANT):
            yield Messages(number=number, is_last=False, messages=tuple(batch))
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    yield Messages(number=number, is_last=True, messages=tuple(batch))
