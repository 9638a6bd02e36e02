"""One file that is being fetched: what is missing, who has what, and what to ask of whom.

Every missing piece is in exactly one state: *locked* (its parent in the tree is not here, so it could not be verified),
*open* (to be asked for), *promised* by a peer, or *arrived* (being verified and written). Near the end, and when a
promise was given up, a piece may be promised by two.

A peer that held everything when it was first heard of is an *origin*; every other is a partial holder that got its
pieces from somebody. Origins are asked only for what no partial holder has, so that many receivers cost an origin
little more than one upload. `rare` is the open pieces that no (working) partial holder has; `Source.useful` the open
pieces that one partial holder has. Both are kept up to date piece by piece, which makes choosing cheap.
"""

from collections.abc import Iterable, Iterator

from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_RANGES_PER_WANT, MAX_RUNS_PER_SOURCE
from poolnet.protocol.hash_tree import TreeShape
from poolnet.protocol.piece_runs import CountedRanges, Run, rotated, take, within, without
from poolnet.protocol.swarm_pace import Pace
from poolnet.ranges import Ranges, RangeSet

#: A want names so many times more pieces than it asks for, so that the other side can choose.
_CHOICE = 4
#: Rarest first among so many runs; looking at all of them would cost more than it gains.
_MAX_SAMPLE = 64
#: Partial holders that together would need longer than this, and are that much slower than an origin, are helped by it.
_SLOW_S = 2.0
_SLOW_FACTOR = 4.0
#: In the end game, another partial holder is asked if it is so much faster.
_FASTER_FACTOR = 1.5


class Source:
    """What one peer has of one file, and what is asked of it."""

    __slots__ = (
        "asked",
        "asked_at",
        "asked_count",
        "empty_answers",
        "given_up",
        "has",
        "is_counted",
        "is_origin",
        "is_second_ask",
        "late",
        "overtook",
        "pace",
        "peer",
        "promised",
        "rest_until",
        "useful",
    )

    def __init__(self, peer: DeviceId, pace: Pace) -> None:
        self.peer = peer
        self.pace = pace
        self.has = RangeSet()
        self.useful = RangeSet()
        self.is_origin = False
        self.is_counted = False  # in the download's `holders`
        self.promised: dict[int, float] = {}  # piece → when
        self.late: set[int] = set()  # promises given up; they may still be kept
        #: Pieces of the want that is not answered yet; nobody else is asked for them meanwhile.
        self.asked: RangeSet | None = None
        #: The `count` of that want; 0 if there is none. A want that was given up still awaits its answer.
        self.asked_count = 0
        self.asked_at = 0.0
        #: Pieces of a want that was given up: they may come before its answer does.
        self.given_up: RangeSet | None = None
        self.overtook: set[int] = set()  # pieces of that want, given up or not, that came before the promise
        self.is_second_ask = False  # that want is for pieces that another peer has promised
        self.rest_until = 0.0
        self.empty_answers = 0

    def is_asked_for(self, piece: int) -> bool:
        """Return whether a want that awaits its answer names a piece."""
        return any(pieces is not None and piece in pieces for pieces in (self.asked, self.given_up))


class FileDownload:
    """The pieces of one file on their way here. Sends nothing itself: protocol/swarm_requester.py asks.

    Args:
        file_id: which file.
        size_bytes: its size.
        held: pieces that are here and verified already.
        cursor: where to begin asking; random, so that several receivers begin at different places.
    """

    def __init__(self, file_id: FileId, size_bytes: int, held: Ranges, *, cursor: int) -> None:
        self.file_id = file_id
        self.shape = TreeShape(size_bytes)
        self.sources: dict[DeviceId, Source] = {}
        self.arrived: set[int] = set()
        self.asked_twice: set[int] = set()
        self.missing = RangeSet.up_to(self.shape.piece_count)
        self.missing.difference_update(RangeSet(held))
        self.open = RangeSet()
        self.rare = RangeSet()
        self._nodes = RangeSet.up_to(self.shape.node_count)
        self._holders = CountedRanges()
        self._cursor = cursor
        self._unlock_all()

    # --- what peers have ----------------------------------------------------------------------------------------

    def add_source(self, peer: DeviceId, pace: Pace) -> Source:
        """Return the source for a peer, which has nothing yet."""
        source = self.sources[peer] = Source(peer, pace)
        return source

    def remove_source(self, source: Source) -> None:
        """Forget a peer; what it had promised is open again."""
        del self.sources[source.peer]
        self.uncount(source)
        self.drop_promises(source)

    def source_count(self) -> int:
        """Return how many peers have something."""
        return sum(1 for source in self.sources.values() if source.has)

    def learn(self, source: Source, pieces: Ranges) -> None:
        """Note that a peer has these pieces, too."""
        if source.has.run_count() + len(pieces) > MAX_RUNS_PER_SOURCE:
            return
        new = list(without(pieces, source.has))
        if not source.has and not source.is_counted and pieces == ((0, self.shape.piece_count),):
            source.is_origin = True
        source.has.update(tuple(new))
        if source.is_counted:
            self._count(source, new)
        elif not source.is_origin and not source.pace.is_stalled:
            self.count(source)

    def forget(self, source: Source, pieces: Ranges) -> None:
        """Note that a peer has these pieces no more; promises of them are void."""
        gone = RangeSet.from_ranges(pieces)
        self.uncount(source)
        source.has.difference_update(gone)
        source.is_origin = False
        source.late -= {piece for piece in source.late if piece in gone}
        self.release(source, [piece for piece in source.promised if piece in gone])
        if not source.pace.is_stalled:
            self.count(source)

    def count(self, source: Source) -> None:
        """Let a partial holder's pieces count as held by somebody else than an origin."""
        if not source.is_origin and not source.is_counted:
            source.is_counted = True
            source.useful = RangeSet()
            self._count(source, source.has.ranges())

    def uncount(self, source: Source) -> None:
        """Undo `count`: the peer is gone, or does not deliver."""
        if source.is_counted:
            source.is_counted = False
            for start, stop in source.has.ranges():
                self._holders.discard_range(start, stop)
            self.rare = self.open.difference(self._holders.at_least(1))

    def _count(self, source: Source, runs: Iterable[Run]) -> None:
        for start, stop in runs:
            self._holders.add_range(start, stop)
            self.rare.discard_range(start, stop)
            for low, high in within([(start, stop)], self.open):
                source.useful.add_range(low, high)

    def expects(self, source: Source, piece: int) -> bool:
        """Return whether a peer may send this piece now.

        It has promised it, perhaps so long ago that the promise was given up, or it is asked for it: frames and pieces
        travel on streams of their own, so a piece may overtake the promise that announces it.
        """
        may_come = piece in source.promised or piece in source.late or source.is_asked_for(piece)
        return may_come and piece in self.missing and piece not in self.arrived

    # --- pieces change their state ------------------------------------------------------------------------------

    def promise(self, source: Source, pieces: Iterable[int], now: float, *, again: bool) -> list[int]:
        """Take a peer's promise; return the pieces that are not needed from it.

        Args:
            source: who promises.
            pieces: what.
            now: the time.
            again: whether pieces that another peer has promised are wanted all the same.
        """
        refused: list[int] = []
        accepted = RangeSet()
        before = len(source.promised)
        for piece in pieces:
            if piece in self.open:
                accepted.add(piece)
            elif not (again and piece in self.missing and piece not in self.arrived):
                if piece not in source.promised and piece not in source.overtook:
                    refused.append(piece)
                continue
            source.promised[piece] = now
            source.late.discard(piece)
        for start, stop in accepted.ranges():
            self._close(start, stop)
        source.overtook.clear()
        source.pace.promised(len(source.promised) - before, now)
        return refused

    def arrive(self, source: Source, piece: int, now: float) -> list[Source]:
        """Note that an expected piece arrived; return the other peers that had promised it."""
        self.arrived.add(piece)
        was_promised = source.promised.pop(piece, None) is not None
        source.pace.arrived(now, was_promised=was_promised)
        if not was_promised and source.is_asked_for(piece):
            source.overtook.add(piece)
        self._close(piece, piece + 1)
        return self._revoke(piece)

    def store(self, piece: int) -> list[Source]:
        """Note that a piece is verified and written; return the peers that had promised it."""
        if piece not in self.missing:
            return []
        self.missing.discard(piece)
        self.arrived.discard(piece)
        self._close(piece, piece + 1)
        if not self.shape.is_chunk(piece):
            self._unlock(self.shape.children(piece))
        return self._revoke(piece)

    def reopen(self, piece: int) -> None:
        """Note that a piece that arrived was of no use."""
        if piece in self.arrived:
            self.arrived.discard(piece)
            self._reopen(piece)

    def lose(self, pieces: Ranges) -> None:
        """Note that stored pieces are gone."""
        self.missing.update(tuple(within(pieces, RangeSet.up_to(self.shape.piece_count))))
        for start, stop in self.open.to_ranges():  # some may be locked again
            self._close(start, stop)
        self._unlock_all()

    def release(self, source: Source, pieces: Iterable[int]) -> None:
        """Open pieces that a peer has promised for others."""
        for piece in pieces:
            del source.promised[piece]
            source.pace.promised_count -= 1
            if piece not in self.arrived and not self._is_promised(piece):
                self._reopen(piece)

    def drop_promises(self, source: Source) -> list[int]:
        """Give up everything that a peer has promised and is asked for; return what it had promised."""
        pieces = list(source.promised)
        self.release(source, pieces)
        if source.asked is not None:
            source.pace.asked_count -= source.asked_count
            source.asked, source.given_up = None, source.asked
        return pieces

    def _is_promised(self, piece: int) -> bool:
        return any(piece in source.promised for source in self.sources.values())

    def _revoke(self, piece: int) -> list[Source]:
        self.asked_twice.discard(piece)
        others = []
        for source in self.sources.values():
            source.late.discard(piece)
            if source.promised.pop(piece, None) is not None:
                source.pace.promised_count -= 1
                others.append(source)
        return others

    def _reopen(self, piece: int) -> None:
        parent = self.shape.parent(piece)
        if piece in self.missing and (parent is None or parent[0] not in self.missing):
            self._open(piece, piece + 1)

    def _unlock_all(self) -> None:
        self._unlock(range(min(1, self.shape.piece_count)))
        for node in self._nodes.difference(self.missing):
            self._unlock(self.shape.children(node))

    def _unlock(self, pieces: range) -> None:
        """Open `pieces`, whose parent is here, as far as they are missing and nobody is at work on them."""
        for low, high in list(within([(pieces.start, pieces.stop)], self.missing)):
            self._open(low, high)
        for piece in self.arrived.union(*(source.promised for source in self.sources.values())):
            if piece in pieces:
                self._close(piece, piece + 1)

    def _open(self, start: int, stop: int) -> None:
        self.open.add_range(start, stop)
        for low, high in without([(start, stop)], self._holders.at_least(1)):
            self.rare.add_range(low, high)
        for source in self.sources.values():
            if source.is_counted:
                for low, high in within([(start, stop)], source.has):
                    source.useful.add_range(low, high)

    def _close(self, start: int, stop: int) -> None:
        self.open.discard_range(start, stop)
        self.rare.discard_range(start, stop)
        for source in self.sources.values():
            if source.is_counted:
                source.useful.discard_range(start, stop)

    # --- what to ask --------------------------------------------------------------------------------------------

    def choose(self, source: Source, room: int) -> tuple[RangeSet, int] | None:
        """Return what to ask of a peer and how many of it, or None if it has nothing that should be asked of it now."""
        pool = self._pool(source)
        if not pool:
            return None
        helpers = [other for other in self.sources.values() if other.has and not other.pace.is_stalled]
        room = min(room, -(-len(self.open) // max(1, len(helpers))))  # leave their share to the others
        limit = _CHOICE * room
        if source.is_origin and sum(1 for other in helpers if other.is_origin) <= 1:
            limit = self.shape.piece_count  # nobody else is asked for these anyway
        taken = self._rarest_first(pool, source, limit)
        if not taken:
            return None
        self._cursor = taken[-1][1]
        pieces = RangeSet(taken)
        return pieces, min(room, len(pieces))

    def _pool(self, source: Source) -> RangeSet:
        if not source.is_origin:
            return source.useful if source.is_counted else self.open.intersection(source.has)
        return self.open if not self.rare and self._origin_should_help(source) else self.rare

    def _origin_should_help(self, origin: Source) -> bool:
        """Return whether the partial holders would take very long, and the origin not."""
        rates = [source.pace.rate for source in self.sources.values() if source.is_counted]
        if not self.open or origin.pace.rate is None or None in rates:
            return False
        rate = sum(rate for rate in rates if rate is not None)
        return len(self.open) > _SLOW_S * rate and origin.pace.rate > _SLOW_FACTOR * rate

    def _rarest_first(self, pool: RangeSet, source: Source, limit: int) -> list[Run]:
        if self._nodes and next(pool.ranges())[0] < self.shape.node_count:
            runs = self._unreserved(within(pool.ranges(), self._nodes), source)  # chunks cannot come before these
        else:
            runs = self._unreserved(rotated(pool, self._cursor), source)
        if source.is_origin:
            return take(runs, limit, max_runs=MAX_RANGES_PER_WANT)
        sample = take(runs, _CHOICE * limit, max_runs=_MAX_SAMPLE)
        sample.sort(key=lambda run: self._holders.count_of(run[0]))
        return take(sample, limit, max_runs=MAX_RANGES_PER_WANT)

    def _unreserved(self, runs: Iterable[Run], source: Source) -> Iterable[Run]:
        """Leave out what others are being asked for."""
        for other in self.sources.values():
            if other.asked is not None and other is not source:
                runs = without(runs, other.asked)
        return runs

    def has_faster_source(self, source: Source) -> bool:
        """Return whether another peer is known to deliver much faster."""
        return any(
            other.pace.rate and not other.pace.is_stalled and _is_slower(source, other)
            for other in self.sources.values()
            if other is not source and other.has
        )

    # --- the last pieces ----------------------------------------------------------------------------------------

    def is_ending(self, most: int) -> bool:
        """Return whether no more than `most` pieces are on their way, and nothing else is missing."""
        return not self.open and 0 < len(self.missing) - len(self.arrived) <= most

    def overdue(self, before: float) -> Iterator[tuple[Source, int]]:
        """Yield pieces promised before that time and not asked of a second peer yet, and by whom."""
        for source in self.sources.values():
            for piece, promised_at in source.promised.items():
                if promised_at <= before and piece not in self.asked_twice:
                    yield source, piece

    def second_holder(self, piece: int, first: Source, *, with_origins: bool) -> Source | None:
        """Return the least busy other peer that has a piece and is much faster than the first, or None."""
        best: Source | None = None
        for source in self.sources.values():
            if source is first or source.asked_count or source.pace.is_stalled or piece not in source.has:
                continue
            if source.pace.outstanding >= source.pace.window or (source.is_origin and not with_origins):
                continue
            if not _is_slower(first, source):
                continue
            if best is None or source.pace.outstanding < best.pace.outstanding:
                best = source
        return best


def _is_slower(first: Source, second: Source) -> bool:
    """Return whether the second peer would bring a piece much sooner than the first brings what it promised."""
    first_s = first.pace.delivery_s(len(first.promised))
    second_s = second.pace.delivery_s(second.pace.outstanding + 1)
    if first_s is None or second_s is None:
        return True
    return first_s > second_s * (_SLOW_FACTOR if second.is_origin else _FASTER_FACTOR)
