"""The giving half of the swarm: which pieces this device holds, who is told, and who gets which.

A want is answered at once, with the pieces among those asked that were sent *least*; ties go in ascending order from a
cursor that moves on. So receivers that ask at the same time get different pieces, pass them on to each other, and the
sender uploads about once. Who had the whole file from the beginning does not even send a second time what it promised
to somebody else a moment ago: the asker will hear of it from that neighbour; if not, it asks again.

What is not here may be promised all the same, by a `Custodian` (protocol/swarm_relay.py) that has it fetched; `push`
sends it then. Promised pieces, here or not, are at most `MAX_WANT_WINDOW` for one peer.
"""

from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from poolnet.ids import DeviceId, FileId
from poolnet.limits import HAVE_INTERVAL_S, MAX_INTERESTS_PER_LINK, MAX_RANGES_PER_FRAME, MAX_WANT_WINDOW
from poolnet.protocol.conduct import Kind
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.piece_runs import CountedRanges, Run, rotated, within, without
from poolnet.protocol.swarm_events import CancelSend, Misbehaved, SendFrame, SendPiece, SwarmEffect
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import MAX_PIECES, Have, Interest, Promise, Unwant, Want, Withdraw

#: A chunk handed to one link is not promised to another for this long, and for as long as so many more pieces take.
#: Tree nodes are not held back: nobody can begin without.
_HOLD_BACK_S = 1.0
_HOLD_BACK_PIECES = 8
_MAX_HOLD_BACK_S = 10.0
#: ... nor are the pieces of smaller files: there a quarter of a second is worth more than a few uploads.
_MIN_HOLD_BACK_CHUNKS = 16
#: So many pieces since the last announcement: the next waits for this. An announcement to every neighbour costs as much
#: work as a few pieces do. Where pieces come one by one, each is announced at once, so that no uplink stands idle.
_MANY_NEWS = 4
_LATER_S = 2 * HAVE_INTERVAL_S
_INFINITE = float("inf")


class Custodian(Protocol):
    """Promises pieces that are not here, and has them fetched."""

    def count_for(self, peer: DeviceId) -> int:
        """Return how many pieces a peer was promised in this way and waits for."""

    def waited_for(self, peer: DeviceId, file_id: FileId) -> Iterable[int]:
        """Return the pieces of a file that a peer was promised in this way and waits for."""

    def take(self, peer: DeviceId, frame: Want, wanted: RangeSet, room: int, now: float) -> list[int]:
        """Promise a peer up to `room` pieces of `wanted`; return which."""


class _Served:
    """What this device holds of one file, and what it has sent."""

    __slots__ = (
        "_first_held_back",
        "announce_after_s",
        "announced_at",
        "cursor",
        "fresh",
        "held",
        "piece_count",
        "recent",
        "sent",
        "size_bytes",
    )

    def __init__(self, size_bytes: int | None, *, is_origin: bool) -> None:
        self.size_bytes = size_bytes
        shape = shape_of(size_bytes)
        self.piece_count = shape.piece_count
        #: Pieces from here on may be held back, by who has them all from the beginning.
        self._first_held_back = shape.piece_count
        if is_origin and shape.chunk_count >= _MIN_HOLD_BACK_CHUNKS:
            self._first_held_back = shape.node_count
        self.held = RangeSet()
        self.fresh = RangeSet()  # not announced yet
        self.announced_at = -_INFINITE
        self.announce_after_s = HAVE_INTERVAL_S  # not sooner after the last announcement
        self.sent = CountedRanges()
        self.cursor = 0
        self.recent: dict[int, tuple[DeviceId, float]] = {}  # piece → last receiver, until when it is held back

    def choose(self, asked: RangeSet, room: int, peer: DeviceId, peers: Container[DeviceId], now: float) -> list[int]:
        """Return up to `room` pieces of `asked` to send to `peer`: those held and sent least."""
        chosen: list[int] = []
        self.sent.drop_full_levels(self.piece_count)
        for count in range(self.sent.highest + 1):
            if len(chosen) >= room:
                break
            runs: Iterable[Run] = rotated(asked, self.cursor)
            if len(self.held) < self.piece_count:
                runs = within(runs, self.held)
            if count:
                runs = within(runs, self.sent.at_least(count))
            pieces = _each(without(runs, self.sent.at_least(count + 1)))
            for piece in pieces:
                if self._held_back(piece, peer, peers, now):
                    continue
                chosen.append(piece)
                if len(chosen) >= room:
                    break
        if chosen:
            self.cursor = chosen[-1] + 1
        return chosen

    def _held_back(self, piece: int, peer: DeviceId, peers: Container[DeviceId], now: float) -> bool:
        if piece < self._first_held_back:
            return False
        entry = self.recent.get(piece)
        return entry is not None and entry[0] != peer and entry[1] > now and entry[0] in peers


class _Receiver:
    """One linked peer: what it is interested in and what is queued for it."""

    __slots__ = ("count", "interests", "interval_s", "last_sent_at", "queued")

    def __init__(self) -> None:
        self.interests: set[FileId] = set()
        self.queued: dict[FileId, dict[int, None]] = {}
        self.count = 0
        self.interval_s = 0.0  # between two pieces handed to the link, averaged
        self.last_sent_at: float | None = None

    def enqueue(self, file_id: FileId, piece: int) -> None:
        self.queued.setdefault(file_id, {})[piece] = None
        self.count += 1

    def dequeue(self, file_id: FileId, piece: int) -> bool:
        pieces = self.queued.get(file_id)
        if pieces is None or piece not in pieces:
            return False
        del pieces[piece]
        self.count -= 1
        if not pieces:
            del self.queued[file_id]
        return True

    def note_sent(self, now: float) -> float:
        """Return how long what was just sent should be held back from others."""
        if self.last_sent_at is not None:
            self.interval_s += 0.2 * (min(now - self.last_sent_at, _MAX_HOLD_BACK_S) - self.interval_s)
        self.last_sent_at = now if self.count else None
        return min(_HOLD_BACK_S + _HOLD_BACK_PIECES * self.interval_s, _MAX_HOLD_BACK_S)


class PieceServer:
    """Answers interests and wants. Appends its effects to `effects`."""

    def __init__(self, effects: list[SwarmEffect]) -> None:
        self._effects = effects
        self.custodian: Custodian | None = None
        self._files: dict[FileId, _Served] = {}
        self._receivers: dict[DeviceId, _Receiver] = {}
        self._interested: dict[FileId, dict[DeviceId, None]] = {}  # in the order in which they asked
        self._to_announce: dict[FileId, float] = {}
        self._expiring: deque[tuple[float, FileId, int]] = deque()
        self.pieces_promised = 0
        self.pieces_sent = 0

    def held(self, file_id: FileId) -> Ranges:
        """Return what is served of a file."""
        file = self._files.get(file_id)
        return file.held.to_ranges() if file else ()

    def knows(self, file_id: FileId) -> bool:
        """Return whether a file is served, if only without pieces yet."""
        return file_id in self._files

    def has_all(self, file_id: FileId) -> bool:
        """Return whether every piece of a file is served."""
        file = self._files.get(file_id)
        return file is not None and len(file.held) == file.piece_count

    def size_of(self, file_id: FileId) -> int | None:
        """Return the size of a file that is served; None if it is a stream, or not served."""
        file = self._files.get(file_id)
        return file.size_bytes if file is not None else None

    def link_up(self, peer: DeviceId) -> None:
        """Serve a peer."""
        self._receivers[peer] = _Receiver()

    def link_down(self, peer: DeviceId) -> None:
        """Forget a peer and what was queued for it."""
        receiver = self._receivers.pop(peer, None)
        if receiver is None:
            return
        for file_id, pieces in receiver.queued.items():
            self._uncount(file_id, peer, pieces)
        for file_id in receiver.interests:
            self._drop_interest(file_id, peer)

    def serve(self, file_id: FileId, size_bytes: int | None, held: Ranges, now: float) -> None:
        """Hold (also) these pieces. A file is always served with the size that it was first served with."""
        file = self._files.get(file_id)
        if file is None:
            count = sum(stop - start for start, stop in held)
            is_origin = count == shape_of(size_bytes).piece_count
            file = self._files[file_id] = _Served(size_bytes, is_origin=is_origin)
        for start, stop in list(without(held, file.held)):
            file.held.add_range(start, min(stop, file.piece_count))
            file.fresh.add_range(start, min(stop, file.piece_count))
        self._announce(file_id, file, now)

    def store(self, file_id: FileId, piece: int, now: float) -> None:
        """Hold one more piece, if the file is served at all."""
        file = self._files.get(file_id)
        if file is None or piece >= file.piece_count:
            return
        file.held.add(piece)
        file.fresh.add(piece)
        self._announce(file_id, file, now)

    def stop(self, file_id: FileId, pieces: Ranges | None) -> None:
        """Hold these pieces (None: any of the file) no more: tell the interested and cancel what is queued."""
        file = self._files.get(file_id)
        if file is None:
            return
        gone = file.held.intersection(pieces) if pieces is not None else file.held.copy()
        for ranges in _frames_of(gone):
            for peer in self._interested.get(file_id, ()):
                self._effects.append(SendFrame(peer, Withdraw(file_id=file_id, pieces=ranges)))
        for peer, receiver in self._receivers.items():
            self._cancel(peer, receiver, file_id, gone)
        if pieces is None:
            del self._files[file_id]
            self._to_announce.pop(file_id, None)
        else:
            file.held.difference_update(gone)
            file.fresh.difference_update(gone)

    def interest(self, peer: DeviceId, frame: Interest) -> None:
        """Tell a peer what is held, now and from now on. Said again, for the sake of its hops, it changes nothing."""
        receiver, file_id = self._receivers[peer], frame.file_id
        if not frame.interested:
            receiver.interests.discard(file_id)
            self._drop_interest(file_id, peer)
            return
        if file_id in receiver.interests:
            return
        if len(receiver.interests) >= MAX_INTERESTS_PER_LINK:
            self._effects.append(Misbehaved(peer, f"interest in more than {MAX_INTERESTS_PER_LINK} files", Kind.FLOOD))
            return
        receiver.interests.add(file_id)
        self._interested.setdefault(file_id, {})[peer] = None
        file = self._files.get(file_id)
        if file is not None:
            for ranges in _frames_of(file.held):
                self._effects.append(SendFrame(peer, Have(file_id=file_id, pieces=ranges)))

    def want(self, peer: DeviceId, frame: Want, now: float) -> None:
        """Answer with a promise (an empty one if there is nothing to give) and queue what it says."""
        receiver, file_id = self._receivers[peer], frame.file_id
        self._expire(now)
        asked = RangeSet.from_ranges(frame.pieces)
        promised = [*receiver.queued.get(file_id, ()), *self._waited_for(peer, file_id)]
        repeated = [piece for piece in promised if piece in asked][: frame.count]
        for piece in repeated:  # promised before, and under way: said once more, sent once
            asked.discard(piece)
        room = min(frame.count - len(repeated), self.room(peer))
        chosen = self._choose(peer, file_id, asked, room, now)
        relayed = self._relay(peer, frame, asked, room - len(chosen), now)
        pieces = RangeSet.of(sorted([*repeated, *chosen, *relayed]))
        self._effects.append(SendFrame(peer, Promise(file_id=file_id, pieces=pieces.to_ranges())))
        for piece in chosen:
            self.push(peer, file_id, piece)
        self.pieces_promised += len(chosen) + len(relayed)

    def room(self, peer: DeviceId) -> int:
        """Return how many more pieces may be promised to a peer."""
        waiting = self.custodian.count_for(peer) if self.custodian is not None else 0
        return MAX_WANT_WINDOW - self._receivers[peer].count - waiting

    def push(self, peer: DeviceId, file_id: FileId, piece: int) -> None:
        """Send a piece that was promised and is held."""
        receiver, file = self._receivers[peer], self._files[file_id]
        receiver.enqueue(file_id, piece)
        file.sent.add_range(piece, piece + 1)
        file.recent[piece] = (peer, _INFINITE)
        self._effects.append(SendPiece(peer, file_id, piece))

    def is_interested(self, peer: DeviceId, file_id: FileId) -> bool:
        """Return whether a peer hears what is held of a file."""
        return peer in self._interested.get(file_id, ())

    def _waited_for(self, peer: DeviceId, file_id: FileId) -> Iterable[int]:
        return self.custodian.waited_for(peer, file_id) if self.custodian is not None else ()

    def _choose(self, peer: DeviceId, file_id: FileId, asked: RangeSet, room: int, now: float) -> list[int]:
        file = self._files.get(file_id)
        if file is None or room <= 0:
            return []
        asked.discard_range(file.piece_count, MAX_PIECES)
        return file.choose(asked, room, peer, self._receivers, now)

    def _relay(self, peer: DeviceId, frame: Want, asked: RangeSet, room: int, now: float) -> list[int]:
        if self.custodian is None or not frame.hops or room <= 0:
            return []
        file = self._files.get(frame.file_id)
        return self.custodian.take(peer, frame, asked.difference(file.held) if file else asked, room, now)

    def unwant(self, peer: DeviceId, frame: Unwant) -> None:
        """Take pieces off a peer's queue."""
        self._cancel(peer, self._receivers[peer], frame.file_id, RangeSet.from_ranges(frame.pieces))

    def sent(self, peer: DeviceId, file_id: FileId, piece: int, now: float) -> None:
        """Note that a queued piece was handed to the link."""
        receiver = self._receivers.get(peer)
        if receiver is None or not receiver.dequeue(file_id, piece):
            return
        self.pieces_sent += 1
        until = now + receiver.note_sent(now)
        file = self._files.get(file_id)
        if file is not None and file.recent.get(piece, (None,))[0] == peer:
            file.recent[piece] = (peer, until)
            self._expiring.append((until, file_id, piece))

    def next_deadline(self) -> float | None:
        """Return when pieces are to be announced next."""
        return min(self._to_announce.values(), default=None)

    def tick(self, now: float) -> None:
        """Announce what is due."""
        for file_id in [file_id for file_id, due_at in self._to_announce.items() if due_at <= now]:
            self._announce(file_id, self._files[file_id], now)

    def _announce(self, file_id: FileId, file: _Served, now: float) -> None:
        """Tell the interested what is new; at once if nothing was told lately, otherwise together with what follows."""
        interested = self._interested.get(file_id)
        if not interested:
            file.fresh = RangeSet()
        if not file.fresh or not interested:
            self._to_announce.pop(file_id, None)
        elif now < file.announced_at + file.announce_after_s and len(file.held) < file.piece_count:
            self._to_announce[file_id] = file.announced_at + file.announce_after_s
        else:
            for ranges in _frames_of(file.fresh):
                have = Have(file_id=file_id, pieces=ranges)
                self._effects.extend(SendFrame(peer, have) for peer in interested)
            file.announce_after_s = _announce_after_s(len(file.fresh))
            file.fresh = RangeSet()
            file.announced_at = now
            self._to_announce.pop(file_id, None)

    def _cancel(self, peer: DeviceId, receiver: _Receiver, file_id: FileId, pieces: RangeSet) -> None:
        cancelled = [piece for piece in receiver.queued.get(file_id, ()) if piece in pieces]
        if not cancelled:
            return
        for piece in cancelled:
            receiver.dequeue(file_id, piece)
        self._uncount(file_id, peer, cancelled)
        self._effects.append(CancelSend(peer, file_id, RangeSet.of(cancelled).to_ranges()))

    def _uncount(self, file_id: FileId, peer: DeviceId, pieces: Iterable[int]) -> None:
        file = self._files.get(file_id)
        if file is None:
            return
        for piece in pieces:
            file.sent.discard_range(piece, piece + 1)
            if file.recent.get(piece, (None,))[0] == peer:
                del file.recent[piece]

    def _drop_interest(self, file_id: FileId, peer: DeviceId) -> None:
        interested = self._interested.get(file_id)
        if interested is not None:
            interested.pop(peer, None)
            if not interested:
                del self._interested[file_id]

    def _expire(self, now: float) -> None:
        """Forget which pieces were sent so long ago that they may be sent to others."""
        while self._expiring and self._expiring[0][0] <= now:
            _, file_id, piece = self._expiring.popleft()
            file = self._files.get(file_id)
            if file is not None and file.recent.get(piece, (None, _INFINITE))[1] <= now:
                del file.recent[piece]


def _announce_after_s(news: int) -> float:
    """Return how long what is new has to wait after an announcement of so many pieces."""
    return HAVE_INTERVAL_S if news < _MANY_NEWS else _LATER_S


def _each(runs: Iterable[Run]) -> Iterator[int]:
    for start, stop in runs:
        yield from range(start, stop)


def _frames_of(pieces: RangeSet) -> Iterator[Ranges]:
    """Yield `pieces` in parts that fit a frame."""
    runs = pieces.to_ranges()
    for first in range(0, len(runs), MAX_RANGES_PER_FRAME):
        yield runs[first : first + MAX_RANGES_PER_FRAME]
