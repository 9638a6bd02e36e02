"""One file that is being fetched: what is missing, and who has what.

Every missing piece is in exactly one state: *locked* (its parent in the tree is not here, so it could not be verified),
*open* (to be asked for), *promised* by a peer, or *arrived* (being verified and written). Near the end, and when a
promise was given up, a piece may be promised by two.

A peer that held everything when it was first heard of is an *origin*; every other is a partial holder that got its
pieces from somebody. Origins are asked only for what no partial holder has, so that many receivers cost an origin
little more than one upload. `rare` is the open pieces that no (working) partial holder has; `Source.useful` the open
pieces that one partial holder has. Both are kept up to date piece by piece, which makes choosing cheap.

A peer that is nearer to a holder may *relay*: it promises what it does not have. It is asked for what is rare, as long
as no origin is there. What others wait for here in the same way is `custody` (protocol/swarm_relay.py).

A partial holder that is much slower than the others is a *laggard*: what only laggards have is still rare, and near the
end nothing is asked of them that others bring sooner. So a few slow uplinks do not hold up everybody else.
"""

from collections.abc import Iterable

from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_RUNS_PER_SOURCE
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.piece_runs import CountedRanges, Run, within, without
from poolnet.protocol.swarm_goal import Goal
from poolnet.protocol.swarm_pace import Pace
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import Ranges, RangeSet

#: A partial holder that delivers less than this part of what they deliver on average is a laggard, ...
_LAGGING = 0.25
#: ... until it delivers this part.
_RECOVERED = 0.5


class FileDownload:
    """The pieces of one file on their way here. Sends nothing itself: protocol/swarm_requester.py asks.

    Args:
        file_id: which file, or stream.
        size_bytes: its size; None: a stream.
        held: pieces that are here and verified already.
        cursor: where to begin asking; random, so that several receivers begin at different places.

    Everything is fetched, of a stream nothing, unless `aim` says otherwise.
    """

    def __init__(self, file_id: FileId, size_bytes: int | None, held: Ranges, *, cursor: int) -> None:
        self.file_id = file_id
        self.shape = shape_of(size_bytes)
        self.goal = Goal(self.shape, RangeSet(held))
        self.goal.want(None if size_bytes is not None else ())
        self.is_own = False  # wanted for this device itself
        self.is_relayed = False  # others ask for it
        self.priority = 0
        self.route: int | None = None  # links to the nearest holder
        self.window = (0, 0)  # what is followed of a stream
        self.end: int | None = None  # how many pieces a stream has that has ended
        self.told_sources = 0
        self.sources: dict[DeviceId, Source] = {}
        self.arrived: set[int] = set()
        self.asked_twice: set[int] = set()
        self.missing = self.goal.missing()
        self.open = RangeSet()
        self.rare = RangeSet()
        self.nodes = RangeSet.up_to(self.shape.node_count)
        self.holders = CountedRanges()
        self.cursor = cursor
        self._unlock_all()

    # --- what is wanted -----------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether everything that this device wants for itself is here."""
        if self.shape.size_bytes is None and (self.end is None or self.window[1] < self.end):
            return False
        return next(within(self.goal.own.ranges(), self.missing), None) is None

    @property
    def rank(self) -> tuple[bool, int]:
        """What is asked for first has the lowest."""
        return (not self.is_own, -self.priority)

    @property
    def interest_hops(self) -> int:
        """What to say in an interest: how far this device is from a holder, if others could help with that."""
        return self.route if self.route is not None and self.route >= 2 else 0

    def known_count(self) -> int:
        """Return how many pieces a stream has, as far as is known."""
        have = self.goal.have.to_ranges()
        return max([have[-1][1] if have else 0, *(source.end for source in self.sources.values())])

    def wanted_of_window(self) -> Ranges:
        """Return what is followed of a stream, as far as it goes."""
        start, stop = self.window
        stop = stop if self.end is None else min(stop, self.end)
        return ((start, stop),) if start < stop else ()

    def aim(self, own: Ranges | None) -> list[tuple[Source, list[int]]]:
        """Fetch these pieces for this device from now on (None: all); return the promises that are void now."""
        self.goal.want(own)
        voided = self._retarget()
        self._unlock_all()
        return voided

    def take_custody(self, pieces: RangeSet) -> None:
        """Fetch these pieces for others, too."""
        self.goal.custody.update(pieces)
        needed = self.shape.with_ancestors(pieces).ranges()
        for start, stop in list(without(without(needed, self.goal.have), self.missing)):
            self.missing.add_range(start, stop)
            for piece in range(start, stop):
                if piece not in self.arrived:
                    self._reopen(piece)

    def release_custody(self, pieces: RangeSet) -> list[tuple[Source, list[int]]]:
        """Fetch these pieces for others no more; return the promises that are void now."""
        self.goal.custody.difference_update(pieces)
        return [] if self.goal.is_whole else self._retarget()

    def _retarget(self) -> list[tuple[Source, list[int]]]:
        before, self.missing = self.missing, self.goal.missing()
        gone = before.difference(self.missing)
        voided = []
        for start, stop in gone.ranges():
            self._close(start, stop)
        for source in self.sources.values() if gone else ():
            pieces = [piece for piece in source.promised if piece in gone]
            if pieces:
                self.release(source, pieces)
                voided.append((source, pieces))
        return voided

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
        """Return how many peers have something, or fetch it for this device."""
        return sum(1 for source in self.sources.values() if source.has or self.may_relay(source))

    def learn(self, source: Source, pieces: Ranges) -> None:
        """Note that a peer has these pieces, too."""
        if source.has.run_count() + len(pieces) > MAX_RUNS_PER_SOURCE:
            return
        new = list(without(pieces, source.has))
        everything = ((0, self.shape.piece_count),)
        if not source.has and not source.is_counted and pieces == everything and self.shape.size_bytes is not None:
            source.is_origin = True
        source.has.update(tuple(new))
        source.top = max(source.top, pieces[-1][1])
        if source.is_counted:
            self._count(source, new)
        elif not source.is_origin and not source.pace.is_stalled:
            self.count(source)

    def forget(self, source: Source, pieces: Ranges) -> None:
        """Note that a peer has these pieces no more; promises of them are void."""
        gone = RangeSet.from_ranges(pieces)
        if source.is_counted:
            self._discount(source, source.has.intersection(gone).to_ranges())
        source.has.difference_update(gone)
        source.is_origin = False
        source.late -= {piece for piece in source.late if piece in gone}
        self.release(source, [piece for piece in source.promised if piece in gone])
        if not source.pace.is_stalled:
            self.count(source)  # if it was an origin

    def count(self, source: Source) -> None:
        """Let a partial holder's pieces count as held by somebody else than an origin."""
        if not source.is_origin and not source.is_counted and not source.is_laggard:
            source.is_counted = True
            source.useful = RangeSet()
            self._count(source, source.has.ranges())

    def uncount(self, source: Source) -> None:
        """Undo `count`: the peer is gone, or does not deliver, or slowly."""
        if source.is_counted:
            source.is_counted = False
            for start, stop in source.has.ranges():
                self.holders.discard_range(start, stop)
            self.rare = self.open.difference(self.holders.at_least(1))

    def _judge(self, source: Source) -> None:
        """Do not leave it to a laggard to spread what only it has: an origin may be asked for that as well.

        It is judged by the other partial holders and not by the origin: where all are slow, they still are many.
        """
        rates = [other.pace.rate for other in self.sources.values() if other.pace.rate and not other.is_origin]
        if not source.pace.rate or not rates or source.is_origin:
            return
        part = source.pace.rate * len(rates) / sum(rates)
        source.is_laggard = part < (_RECOVERED if source.is_laggard else _LAGGING)
        if source.is_laggard:
            self.uncount(source)
        else:
            self.count(source)

    def _count(self, source: Source, runs: Iterable[Run]) -> None:
        for start, stop in runs:
            self.holders.add_range(start, stop)
            self.rare.discard_range(start, stop)
            for low, high in within([(start, stop)], self.open):
                source.useful.add_range(low, high)

    def _discount(self, source: Source, runs: Iterable[Run]) -> None:
        for start, stop in runs:
            self.holders.discard_range(start, stop)
            source.useful.discard_range(start, stop)
            for low, high in list(without(within([(start, stop)], self.open), self.holders.at_least(1))):
                self.rare.add_range(low, high)

    def expects(self, source: Source, piece: int) -> bool:
        """Return whether a peer may send this piece now.

        It has promised it, perhaps so long ago that the promise was given up, or it is asked for it: frames and pieces
        travel on streams of their own, so a piece may overtake the promise that announces it.
        """
        may_come = piece in source.promised or piece in source.late or source.is_asked_for(piece)
        return may_come and piece in self.missing and piece not in self.arrived and self._is_unlocked(piece)

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
            if source.asked_hops and piece not in source.has:
                source.relayed[piece] = source.asked_hops
        for start, stop in accepted.ranges():
            self._close(start, stop)
        source.overtook.clear()
        source.pace.promised(len(source.promised) - before, now)
        return refused

    def arrive(self, source: Source, piece: int, now: float) -> list[Source]:
        """Note that an expected piece arrived; return the other peers that had promised it."""
        self.arrived.add(piece)
        promised_at = source.promised.pop(piece, None)
        was_promised = promised_at is not None
        if promised_at is not None and source.relayed.pop(piece, 0):
            source.relay_refusals = 0
            source.pace.relayed(now - promised_at)
        if source.pace.arrived(now, was_promised=was_promised):
            self._judge(source)
        if not was_promised and source.is_asked_for(piece):
            source.overtook.add(piece)
        self._close(piece, piece + 1)
        return self._revoke(piece)

    def store(self, piece: int) -> list[Source]:
        """Note that a piece is verified and written; return the peers that had promised it."""
        self.goal.have.add(piece)
        self.goal.custody.discard(piece)
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

    def lose(self, pieces: Ranges) -> list[tuple[Source, list[int]]]:
        """Note that stored pieces are gone; return the promises that are void, because they could not be verified."""
        self.goal.have.difference_update(pieces)
        self.missing = self.goal.missing()
        for start, stop in self.open.to_ranges():  # some may be locked again
            self._close(start, stop)
        self._unlock_all()
        voided = []
        for source in self.sources.values():
            locked = [piece for piece in source.promised if not self._is_unlocked(piece)]
            if locked:
                self.release(source, locked)
                voided.append((source, locked))
        return voided

    def release(self, source: Source, pieces: Iterable[int]) -> None:
        """Open pieces that a peer has promised for others."""
        for piece in pieces:
            del source.promised[piece]
            source.relayed.pop(piece, None)
            source.pace.promised_count -= 1
            self.asked_twice.discard(piece)
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
                source.relayed.pop(piece, None)
                source.pace.promised_count -= 1
                others.append(source)
        return others

    def _reopen(self, piece: int) -> None:
        if piece in self.missing and self._is_unlocked(piece):
            self._open(piece, piece + 1)

    def _is_unlocked(self, piece: int) -> bool:
        parent = self.shape.parent(piece)
        return parent is None or parent[0] in self.goal.have

    def _unlock_all(self) -> None:
        self._unlock(self.shape.roots)
        for node in self.nodes.intersection(self.goal.have):
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
        for low, high in without([(start, stop)], self.holders.at_least(1)):
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

    # --- who may help -------------------------------------------------------------------------------------------

    def may_relay(self, source: Source) -> bool:
        """Return whether a peer fetches for this device what it does not have, and is worth asking.

        Who fetches everything for itself soon announces all of it: that is early enough for who wants everything.
        """
        is_nearer = self.route is not None and 0 < source.relay_hops < self.route
        return is_nearer and not (source.relay_is_fetching and self.goal.is_whole)

    def is_on_its_way(self) -> bool:
        """Return whether anything is promised or asked for."""
        return any(source.promised or source.asked is not None for source in self.sources.values())
