"""The files of a simulated node: the swarm machine and what it drives, as poolnet/files/exchange.py does it.

Pieces carry no bytes, only whether they are genuine; their sizes count for disks and uplinks. What is fetched goes to
the disk piece by piece and is complete when all of it is synced. What is relayed for others lies in a cache in memory,
where the oldest goes when there is no room.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from poolnet.errors import StoreError
from poolnet.files.routes import Routes
from poolnet.files.size_claims import SizeClaims
from poolnet.ids import DeviceId, FileId
from poolnet.limits import CHUNK_SIZE, DEFAULT_CACHE_SIZE
from poolnet.protocol import swarm_events as sw
from poolnet.protocol.conduct import Kind
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.swarm import Swarm
from poolnet.ranges import RangeSet
from poolnet.testing.sim_life import SimLife
from poolnet.testing.sim_store import PieceRecord, SimStore, WantedRecord
from poolnet.testing.sim_timer import SimTimer

#: Pieces of one link that wait for the uplink; those of other links come in between.
_IN_TRANSIT = 2
#: Pieces in the cache of a node.
_CACHE_PIECES = DEFAULT_CACHE_SIZE // CHUNK_SIZE
#: Files that nobody asks for any more and of which pieces stay in the cache (poolnet/files/exchange.py).
_MAX_RESTING = 64
#: When a disk that failed is tried again.
_RETRY_S = 5.0


@attrs.frozen
class SimPiece:
    """A piece of a file on its way. Not even piece 0 proves anything to who believes another size than its sender."""

    file_id: FileId
    piece: int
    is_genuine: bool = True
    file_bytes: int = 0


@attrs.define(eq=False)
class _Outgoing:
    """What is to be sent to one peer."""

    queue: deque[tuple[FileId, int]] = attrs.Factory(deque)
    in_transit: int = 0


class SimFiles:
    """The files of one node in one life.

    Args:
        life: where it is.
        store: what it has of files, and who offers which.
        sources: files that it has complete from elsewhere.
        hops_to: how many links away the nearest of some nodes is.
        completed: called when a file that was wanted is all on the disk.
        send_piece: sends a piece to a neighbour, and calls back when the next may follow.
        credit_of: returns for how many pieces a peer may be asked at a time; `set_credit` tells when that changes.
    """

    def __init__(
        self,
        life: SimLife,
        store: SimStore,
        *,
        sources: dict[FileId, int],
        hops_to: Callable[[Any], int | None],
        completed: Callable[[FileId], None],
        send_piece: Callable[[DeviceId, SimPiece, int, Callable[[], None]], None],
        credit_of: Callable[[DeviceId], int],
    ) -> None:
        self.swarm = Swarm(life.network.random_for(f"swarm of {life.host_id.hex()}"))
        #: Pieces that came and were not expected; wrong ones; those that the cache threw out.
        self.unexpected = self.rejected = self.evicted = 0
        self._life = life
        self._store = store
        self._sources = sources
        self._completed = completed
        self._send_piece = send_piece
        self._credit_of = credit_of
        self._links: dict[DeviceId, _Outgoing] = {}
        self._fetching: dict[FileId, int] = {}
        self._complete: dict[FileId, int] = {}
        self._relayed: dict[FileId, int] = {}
        self._resting: dict[FileId, None] = {}
        self._cache: OrderedDict[tuple[FileId, int], None] = OrderedDict()
        self._undone: deque[sw.SwarmEffect] = deque()
        self._is_performing = False
        self._blocked: set[FileId] = set()  # the disk did not take them
        self._claims: dict[FileId, SizeClaims] = {}
        self._doubted: set[FileId] = set()  # of what is fetched: somebody has another size, and nothing proves ours
        self._patient_until: dict[FileId, float] = {}
        self._timer = SimTimer(life.network, self.swarm.next_deadline, self._tick)
        self._routes = Routes(self, tell=self._tell_route, fetched=lambda: self._fetching, size_here=self._size_here)
        self._routes.measure_by(hops_to)
        for file_id, size_bytes in sources.items():
            self.serve(file_id, size_bytes)
        for file_id in store.wanted:
            self._begin(file_id)

    def end(self) -> None:
        """Do nothing any more."""
        self._timer.stop()

    # --- what this node wants and has ---------------------------------------------------------------------------

    def serve(self, file_id: FileId, size_bytes: int) -> None:
        """Give a complete file to everyone who asks."""
        self._drop_relayed(file_id)
        self._feed(sw.Serve(file_id, size_bytes, ((0, shape_of(size_bytes).piece_count),)))

    def fetch(self, file_id: FileId) -> None:
        """Fetch a file as soon as somebody offers it.

        Raises:
            StoreError: the disk does not take note of it.
        """
        if file_id not in self._store.wanted and file_id not in self._sources:
            self._store.write(WantedRecord(file_id))
            self._begin(file_id)

    def offer_heard(self, file_id: FileId) -> None:
        """Take note that somebody offers a file, or somebody more."""
        if file_id in self._store.wanted and file_id not in {*self._fetching, *self._complete}:
            self._begin(file_id)
        self._look_at_size(file_id)
        self._routes.offers_changed(file_id)

    def holders(self) -> set[DeviceId]:
        """Return who offers what is being fetched: a node wants links to some of them."""
        return {node for file_id in self._fetching for node in self._store.offers.get(file_id, ())}

    def overlay_changed(self) -> None:
        """Take note that nodes or links came or went: holders may be nearer or farther."""
        self._routes.refresh()

    @property
    def longest_queue(self) -> int:
        """How many pieces wait for the uplink of the one neighbour for whom most do."""
        return max((len(outgoing.queue) for outgoing in self._links.values()), default=0)

    def nodes(self, file_id: FileId) -> list[DeviceId]:
        """Return who offers a file (`Offers` of poolnet/files/routes.py)."""
        return list(self._store.offers.get(file_id, ()))

    def sizes(self, file_id: FileId) -> list[int]:
        """Return the sizes with which a file is offered, the most frequent first."""
        counts = Counter(self._store.offers.get(file_id, {}).values())
        return sorted(counts, key=lambda size_bytes: (-counts[size_bytes], size_bytes))

    def _begin(self, file_id: FileId) -> None:
        if not self.sizes(file_id) or file_id in self._blocked:
            return
        size_bytes = self._size_to_try(file_id)
        held = self._store.pieces.get(file_id, RangeSet())
        if self._store.wanted[file_id]:
            self._complete[file_id] = size_bytes
            self._feed(sw.Serve(file_id, size_bytes, held.to_ranges()))
            return
        for piece in self._cached(file_id):
            if not self._write(file_id, piece, size_bytes):
                self._block(file_id)
                return
        self._drop_relayed(file_id)
        self._fetching[file_id] = size_bytes
        held = self._store.pieces.get(file_id, RangeSet())
        self._feed(sw.Download(file_id, size_bytes, held.to_ranges()))
        self._routes.refresh([file_id])

    def _size_to_try(self, file_id: FileId) -> int:
        """Return how large a file is, or which claim to go by until a piece proves one."""
        known = self._store.sizes.get(file_id)
        if known is None and self._cached(file_id):
            known = self._relayed.get(file_id)
        if known is not None:
            return known
        if file_id not in self._claims:
            self._claims[file_id] = SizeClaims(file_id, partial(self.sizes, file_id))
        claims = self._claims[file_id]
        self._doubted.discard(file_id)
        size_bytes = claims.choose()
        until = self._patient_until[file_id] = self._life.now + claims.patience_s()
        if until < math.inf:
            self._life.network.call_at(until, partial(self._look_at_size, file_id))
        return size_bytes

    def _look_at_size(self, file_id: FileId) -> None:
        """Try another size if nothing proves the one that a file is fetched with, and it is not believed any more."""
        if self._life.is_over or file_id not in self._fetching or file_id in self._store.sizes:
            return
        claims = self._claims[file_id]
        is_late = self._patient_until[file_id] <= self._life.now and claims.has_others()
        if is_late or claims.is_hopeless(is_doubted=file_id in self._doubted):
            self._stop(file_id)
            self._begin(file_id)

    # --- links --------------------------------------------------------------------------------------------------

    def link_up(self, peer: DeviceId) -> None:
        """Exchange files with a neighbour."""
        self._links[peer] = _Outgoing()
        self._feed(sw.LinkUp(peer))
        self._feed(sw.SetCredit(peer, self._credit_of(peer)))

    def set_credit(self, peer: DeviceId, pieces: int) -> None:
        """Ask a peer for at most so many pieces at a time from now on."""
        self._feed(sw.SetCredit(peer, pieces))

    def link_down(self, peer: DeviceId) -> None:
        """Stop with a neighbour."""
        if self._links.pop(peer, None) is not None:
            self._feed(sw.LinkDown(peer))

    def received(self, peer: DeviceId, item: Any) -> None:
        """Take a frame about files, or a piece."""
        if peer not in self._links:
            return
        if isinstance(item, SimPiece):
            self._take_piece(peer, item)
        else:
            self._feed(sw.Received(peer, item), blame=peer)

    def _take_piece(self, peer: DeviceId, item: SimPiece) -> None:
        file_id, piece = item.file_id, item.piece
        if not self.swarm.expects(peer, file_id, piece):
            self.unexpected += 1
            return
        self._feed(sw.PieceArrived(peer, file_id, piece))
        size_bytes = self._fetching.get(file_id, self._relayed.get(file_id))
        if size_bytes is None:
            self._feed(sw.PieceDropped(file_id, piece))
            return
        shape = shape_of(size_bytes)
        parent = shape.parent(piece)
        if parent is not None and parent[0] not in self._held(file_id):
            self._feed(sw.StopServing(file_id, ((parent[0], parent[0] + 1),)))
            self._feed(sw.PieceDropped(file_id, piece))
        elif not item.is_genuine or item.file_bytes != size_bytes:
            self.rejected += 1
            self._feed(sw.PieceRejected(peer, file_id, piece))
        elif file_id in self._relayed:
            self._keep_in_cache(file_id, piece)
        elif self._write(file_id, piece, size_bytes):
            self._feed(sw.PieceStored(file_id, piece))
        else:
            self._feed(sw.PieceDropped(file_id, piece))
            self._block(file_id)

    # --- what is here -------------------------------------------------------------------------------------------

    def _held(self, file_id: FileId) -> RangeSet:
        return RangeSet.from_ranges(self.swarm.held(file_id))

    def _write(self, file_id: FileId, piece: int, file_bytes: int) -> bool:
        try:
            self._store.write(PieceRecord(file_id, piece, shape_of(file_bytes).piece_size(piece), file_bytes))
        except StoreError:
            return False
        return True

    def _block(self, file_id: FileId) -> None:
        """Let a file be whose pieces the disk does not take, for a while."""
        self._blocked.add(file_id)
        self._stop(file_id)
        self._life.network.call_later(_RETRY_S, partial(self._unblock, file_id))

    def _unblock(self, file_id: FileId) -> None:
        self._blocked.discard(file_id)
        if not self._life.is_over:
            self._begin(file_id)

    def _stop(self, file_id: FileId) -> None:
        self._fetching.pop(file_id, None)
        self._feed(sw.CancelDownload(file_id))
        self._feed(sw.StopServing(file_id))
        self._routes.ended(file_id)

    def _is_here(self, file_id: FileId) -> None:
        """Sync a file of which every piece is written; then it is complete."""
        self._complete[file_id] = self._fetching.pop(file_id)
        self._routes.ended(file_id)
        self._store.disk.sync(partial(self._synced, file_id))

    def _synced(self, file_id: FileId, is_durable: bool) -> None:
        if self._life.is_over or not is_durable:
            return  # not known to be complete; the next life looks again
        self._store.write_when_possible(WantedRecord(file_id, is_done=True))
        self._completed(file_id)

    # --- the cache ----------------------------------------------------------------------------------------------

    def _cached(self, file_id: FileId) -> list[int]:
        return sorted(piece for known, piece in self._cache if known == file_id)

    def _keep_in_cache(self, file_id: FileId, piece: int) -> None:
        self._cache[file_id, piece] = None
        self._feed(sw.PieceStored(file_id, piece))
        if len(self._cache) > _CACHE_PIECES:
            self.evicted += 1
            gone_id, gone = self._cache.popitem(last=False)[0]
            self._feed(sw.StopServing(gone_id, ((gone, gone + 1),)))

    def _drop_relayed(self, file_id: FileId) -> None:
        self._resting.pop(file_id, None)
        if self._relayed.pop(file_id, None) is not None:
            for piece in self._cached(file_id):
                del self._cache[file_id, piece]
            self._feed(sw.StopServing(file_id))

    def _relay(self, file_id: FileId, size_bytes: int | None) -> None:
        self._resting.pop(file_id, None)
        if size_bytes is None or any(file_id in known for known in (self._fetching, self._complete, self._sources)):
            return
        if self._relayed.get(file_id, size_bytes) != size_bytes:
            self._drop_relayed(file_id)
        self._relayed[file_id] = size_bytes

    def _rest(self, file_id: FileId) -> None:
        if file_id not in self._relayed:
            return
        self._resting[file_id] = None
        if len(self._resting) > _MAX_RESTING:
            self._drop_relayed(next(iter(self._resting)))

    # --- routes -------------------------------------------------------------------------------------------------

    def _size_here(self, file_id: FileId) -> int | None:
        if not self.swarm.held(file_id):
            return None
        known = (self._fetching, self._complete, self._relayed, self._sources)
        return next((sizes[file_id] for sizes in known if file_id in sizes), None)

    def _tell_route(self, file_id: FileId, size_bytes: int | None, hops: int | None) -> None:
        self._feed(sw.Route(file_id, size_bytes, hops))

    # --- the machine --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._perform(self.swarm.tick(self._life.now), None)

    def _feed(self, event: sw.SwarmEvent, *, blame: DeviceId | None = None) -> None:
        self._perform(self.swarm.handle(event, self._life.now), blame)
        self._timer.rearm()

    def _perform(self, effects: list[sw.SwarmEffect], blame: DeviceId | None) -> None:
        """Do what the machine says; what follows from an effect is done after the effects that came with it."""
        self._undone.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        while self._undone:
            effect = self._undone.popleft()
            if isinstance(effect, sw.Misbehaved):
                self._life.blame(effect, closes_link=effect.peer == blame)
            else:
                self._do(effect)
        self._is_performing = False

    def _do(self, effect: sw.SwarmEffect) -> None:
        match effect:
            case sw.SendFrame(peer, frame):
                if peer in self._links:
                    self._life.send(peer, frame)
            case sw.SendPiece(peer, file_id, piece):
                if (outgoing := self._links.get(peer)) is not None:
                    outgoing.queue.append((file_id, piece))
                    self._pump(peer, outgoing)
            case sw.CancelSend(peer, file_id, pieces):
                if (outgoing := self._links.get(peer)) is not None:
                    gone = RangeSet.from_ranges(pieces)
                    kept = [item for item in outgoing.queue if item[0] != file_id or item[1] not in gone]
                    outgoing.queue = deque(kept)
            case sw.Completed(file_id):
                self._is_here(file_id)
            case sw.PromiseBroken(peer):
                self._life.note(peer, Kind.BROKEN_PROMISE)
            case sw.RouteWanted(file_id):
                self._routes.ask(file_id)
            case sw.RelayBegan(file_id, size_bytes):
                self._relay(file_id, size_bytes)
            case sw.RelayEnded(file_id):
                self._rest(file_id)
                self._routes.forget(file_id)
            case sw.SizeDoubted(_, file_id):
                if file_id in self._relayed:
                    self._doubt_relayed(file_id, is_word=True)
                elif file_id in self._fetching:
                    self._doubted.add(file_id)
                    self._look_at_size(file_id)
            case sw.RelayFruitless(file_id):
                self._doubt_relayed(file_id, is_word=False)
            case _:
                pass  # how many sources there are is asked, not told

    def _doubt_relayed(self, file_id: FileId, *, is_word: bool) -> None:
        if file_id in self._relayed and self._routes.size_doubted(file_id, is_word=is_word):
            self._drop_relayed(file_id)
            self._routes.ask(file_id)

    # --- pieces out ---------------------------------------------------------------------------------------------

    def _pump(self, peer: DeviceId, outgoing: _Outgoing) -> None:
        while outgoing.queue and outgoing.in_transit < _IN_TRANSIT:
            file_id, piece = outgoing.queue.popleft()
            size_bytes = self._size_here(file_id)
            if size_bytes is None:
                continue
            outgoing.in_transit += 1
            sent = partial(self._sent, peer, outgoing, file_id, piece)
            item = SimPiece(file_id, piece, file_bytes=size_bytes)
            self._send_piece(peer, item, shape_of(size_bytes).piece_size(piece), sent)

    def _sent(self, peer: DeviceId, outgoing: _Outgoing, file_id: FileId, piece: int) -> None:
        outgoing.in_transit -= 1
        if self._links.get(peer) is outgoing and not self._life.is_over:
            self._feed(sw.PieceSent(peer, file_id, piece))
            self._pump(peer, outgoing)
