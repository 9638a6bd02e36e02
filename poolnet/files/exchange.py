"""Performs what the swarm machine says: posts its frames, reads and sends pieces, verifies and writes what comes.

Holds no policy: which piece goes where is decided in protocol/swarm.py, what a file is by whoever adds it (uses.py). On
each link, pieces that come in are verified and written a batch at a time, and pieces that go out are read and verified
a batch ahead of the sending (outgoing.py).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import attrs
import trio

from poolnet.errors import Flood, LinkClosed, ProtocolError, SourceUnavailable, StoreError
from poolnet.files.chunk_link import ChunkLink, ReceivedPiece
from poolnet.files.disk_turns import DiskTurns
from poolnet.files.incoming import chunk_bytes, take_in
from poolnet.files.outgoing import Outgoing, wait_for
from poolnet.files.relays import RelayMaker, Relays, RouteFinder
from poolnet.files.uses import (
    DownloadWatcher,
    Fetched,
    Followed,
    PieceSink,
    PieceStore,
    Relayed,
    RelaySink,
    Served,
    StreamWatcher,
    Use,
)
from poolnet.ids import DeviceId, FileId
from poolnet.limits import MAX_WANT_WINDOW
from poolnet.protocol import swarm_events as sw
from poolnet.protocol.conduct import Kind
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm import Swarm
from poolnet.protocol.token_bucket import Throttle
from poolnet.ranges import Ranges, RangeSet
from poolnet.service import open_service_nursery
from poolnet.storage.piece_store import PiecesDamaged
from poolnet.timer import Timer

logger = logging.getLogger(__name__)


@attrs.define(kw_only=True)
class ExchangeStatistics:
    """Bytes and pieces moved since opening; `bad_pieces` were received and not genuine."""

    links: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pieces_verified: int = 0
    bad_pieces: int = 0
    unexpected_pieces: int = 0
    peak_queued_sends: int = 0
    relayed_files: int = 0
    relayed_pieces: int = 0


class Exchange:
    """The files of one pool in motion.

    Args:
        rng: for the swarm machine.
        make_relay: makes room for what is relayed; without it nothing is.
    """

    def __init__(self, rng: RandomSource, make_relay: RelayMaker | None = None) -> None:
        self._swarm = Swarm(rng)
        self._uses: dict[FileId, Use] = {}
        self._links: dict[DeviceId, tuple[ChunkLink, Outgoing]] = {}
        self._timer = Timer(self._swarm.next_deadline)
        self._disk = DiskTurns()
        now = trio.current_time()
        self._up, self._down = Throttle(now=now), Throttle(now=now)
        self._statistics = ExchangeStatistics()
        self._relays = Relays(
            self._uses,
            make_relay,
            stop=self.stop,
            held=self._swarm.held,
            no_way=lambda file_id, size_bytes: self._feed(sw.Route(file_id, size_bytes, None)),
        )
        self._noted: Callable[[DeviceId, Kind], None] = lambda _peer, _kind: None
        self._credit_of: Callable[[DeviceId], int] = lambda _peer: MAX_WANT_WINDOW
        self._undone: deque[sw.SwarmEffect] = deque()
        self._is_performing = False

    # --- files --------------------------------------------------------------------------------------------------

    def serve(self, source: PieceStore, lost: Callable[[str], None], *, held: Ranges | None = None) -> None:
        """Give a complete file to whoever asks, and fetch it no more. If it was downloaded, its pieces go on from here.

        Args:
            source: the file.
            lost: called, once and with a reason, when it is not what it was; it is not served any more then.
            held: the pieces that there are; None: all.
        """
        was_fetched = isinstance(self._uses.get(source.file_id), Fetched)
        self._use(Served(source, lost))
        if was_fetched:
            self._feed(sw.CancelDownload(source.file_id))
        shape = source.shape
        everything = ((0, shape.piece_count),)
        self._feed(sw.Serve(source.file_id, shape.size_bytes, everything if held is None else held))

    def download(self, part: PieceSink, held: Ranges, watcher: DownloadWatcher, *, priority: int = 0) -> None:
        """Fetch what is missing of a file; `held` is there and genuine."""
        self._use(Fetched(part, watcher))
        assert part.shape.size_bytes is not None, "a stream is followed"
        self._feed(sw.Download(part.file_id, part.shape.size_bytes, held))
        if priority:
            self.prioritise(part.file_id, priority)

    async def take_cached(self, part: PieceSink) -> RangeSet:
        """Write what is in the cache of a file that was relayed until now into a download; return what was written.

        Raises:
            StoreError: the disk does not take it.
        """
        return await self._relays.copy_to(part)

    def select(self, file_id: FileId, pieces: Ranges | None) -> None:
        """Fetch only these chunks of a download; None: all."""
        self._feed(sw.Select(file_id, pieces))

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Ask for pieces of this download before those with a lower priority."""
        self._feed(sw.Prioritise(file_id, priority))

    def stop(self, file_id: FileId) -> None:
        """Neither fetch nor give a file, or a stream, any more."""
        if self._uses.pop(file_id, None) is not None:
            self._relays.used_otherwise(file_id)
            self._feed(sw.CancelDownload(file_id))
            self._feed(sw.StopServing(file_id))

    def stop_relaying(self, file_id: FileId) -> None:
        """Drop what is in the cache of a file, if it is only relayed."""
        if isinstance(self._uses.get(file_id), Relayed):
            self.stop(file_id)

    def size_here(self, file_id: FileId) -> int | None:
        """Return the size of a file of which pieces are here, verified: it is no claim any more; None for a stream."""
        use = self._uses.get(file_id)
        return use.store.shape.size_bytes if use is not None and self._swarm.held(file_id) else None

    def source_count(self, file_id: FileId) -> int:
        """Return how many linked peers hold something of a file that is being fetched, or relay it."""
        return self._swarm.source_count(file_id)

    def statistics(self) -> ExchangeStatistics:
        """Return counts since opening."""
        return attrs.evolve(self._statistics, links=len(self._links), relayed_files=len(self._relays))

    # --- streams (StreamExchange) -------------------------------------------------------------------------------

    def follow_stream(self, store: RelaySink, start: int, stop: int, watcher: StreamWatcher) -> None:
        """Fetch the pieces from `start` to before `stop` in ascending order, as they appear, into `store`.

        Raises:
            LocalError: it is known as a file, which has a size, and goes on as that; or too much is being fetched.
        """
        self._feed(sw.Serve(store.file_id, None, store.held()))
        self._use(Followed(store, watcher))
        self._feed(sw.Follow(store.file_id, start, stop))

    def move_stream(self, stream_id: FileId, start: int, stop: int) -> None:
        """Fetch these pieces of a stream that is followed instead of those named before."""
        if isinstance(self._uses.get(stream_id), Followed):
            self._feed(sw.Follow(stream_id, start, stop))

    def stream_ended(self, stream_id: FileId, count: int) -> None:
        """Take note that a stream that is followed has so many pieces."""
        self._feed(sw.StreamEnded(stream_id, count))

    def stop_following(self, stream_id: FileId) -> None:
        """Fetch no more of a stream; what is in the cache is given to others for a while."""
        use = self._uses.get(stream_id)
        if isinstance(use, Followed):
            self._uses[stream_id] = Relayed(use.store)
            self._feed(sw.CancelDownload(stream_id))
            self._relays.rest(stream_id)

    def serve_stream(self, store: PieceStore) -> None:
        """Give pieces of a stream of this device to everyone who asks: none yet, `stream_stored` adds them."""
        self._use(Served(store, lambda reason: logger.warning("a stream is served no more: %s", reason)))
        self._feed(sw.Serve(store.file_id, None, ()))

    def stream_stored(self, stream_id: FileId, piece: int) -> None:
        """Take note that the store of a stream of this device has another piece."""
        self._feed(sw.PieceStored(stream_id, piece))

    # --- routes and limits --------------------------------------------------------------------------------------

    def on_relays(self, finder: RouteFinder) -> None:
        """Say who finds routes of what peers would like to have relayed; `route` is the answer."""
        self._relays.finder = finder

    def route(self, file_id: FileId, size_bytes: int | None, hops: int | None) -> None:
        """Say how many links away a holder of a file is (None: no way), and what size it has (None: a stream)."""
        self._feed(sw.Route(file_id, size_bytes, hops))

    def set_limits(self, *, up: int | None, down: int | None) -> None:
        """Move at most so many bytes a second, over all links; None: as many as possible."""
        now = trio.current_time()
        self._up.set_rate(up, now)
        self._down.set_rate(down, now)

    # --- peers --------------------------------------------------------------------------------------------------

    def on_conduct(self, *, noted: Callable[[DeviceId, Kind], None], credit_of: Callable[[DeviceId], int]) -> None:
        """Say who remembers what peers did.

        Args:
            noted: called with a peer that sent a wrong piece, or broke a promise.
            credit_of: returns for how many pieces a peer may be asked at a time; `set_credit` tells when that changes.
        """
        self._noted, self._credit_of = noted, credit_of

    def set_credit(self, peer: DeviceId, pieces: int) -> None:
        """Ask a peer for at most so many pieces at a time from now on."""
        self._feed(sw.SetCredit(peer, pieces))

    # --- links --------------------------------------------------------------------------------------------------

    def handle_frame(self, peer: DeviceId, frame: sw.SwarmFrame) -> None:
        """Take a frame about files from a peer whose link is being served; others are ignored.

        Raises:
            ProtocolError: the peer broke the protocol; its link is to be closed.
        """
        if peer in self._links:
            self._feed(sw.Received(peer, frame), blame=peer)

    async def serve_link(self, link: ChunkLink, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move pieces over a link until it closes; then return.

        From `task_status.started` on, frames of that peer are understood. A newer link to the same peer takes over.

        Raises:
            ProtocolError: the peer broke the protocol; the link is to be closed.
        """
        peer = link.peer
        outgoing = Outgoing(
            link,
            read=self._read,
            sent=lambda file_id, piece, size: self._sent(outgoing, peer, file_id, piece, size),
            wait=lambda size: wait_for(self._up, size),
        )
        self._link_down(peer)
        self._links[peer] = (link, outgoing)
        link.set_chunk_filter(lambda file_id, piece: self._swarm.expects(peer, file_id, piece))
        try:
            self._feed(sw.LinkUp(peer))
            self._feed(sw.SetCredit(peer, self._credit_of(peer)))
            task_status.started()
            async with open_service_nursery() as nursery:
                nursery.start_soon(outgoing.run)
                await self._receive(link)
        except LinkClosed:
            logger.debug("link closed: files")
        finally:
            if self._links.get(peer, (None, None))[1] is outgoing:
                self._link_down(peer)

    async def run_timer(self) -> None:
        """Feed the machine its deadlines, until cancelled."""
        while True:
            await self._timer.wait()
            self._perform(self._swarm.tick(trio.current_time()), None)

    def _link_down(self, peer: DeviceId) -> None:
        if self._links.pop(peer, None) is not None:
            self._feed(sw.LinkDown(peer))

    # --- pieces in ----------------------------------------------------------------------------------------------

    async def _receive(self, link: ChunkLink) -> None:
        while True:
            received = await link.receive_chunks()
            expected = [piece for piece in received if self._arrived(link.peer, piece)]
            self._timer.rearm()
            with trio.CancelScope(shield=True):  # the link may end: what arrived is fetched from nobody else
                for file_id, pieces in groupby(expected, key=lambda piece: piece.header.file_id):
                    await self._store(link.peer, file_id, [(piece.header.piece, piece.payload) for piece in pieces])
            size = sum(len(piece.payload) for piece in received)
            await wait_for(self._down, size)

    def _arrived(self, peer: DeviceId, received: ReceivedPiece) -> bool:
        """Take note of a piece; return whether it is wanted."""
        file_id, piece = received.header.file_id, received.header.piece
        self._statistics.bytes_in += len(received.payload)
        if not self._swarm.expects(peer, file_id, piece):
            self._statistics.unexpected_pieces += 1
            return False
        self._take_up(sw.PieceArrived(peer, file_id, piece))
        return True

    async def _store(self, peer: DeviceId, file_id: FileId, pieces: list[tuple[int, bytes]]) -> None:
        """Verify and write pieces of one file, and tell the machine."""
        is_relayed = isinstance(self._uses.get(file_id), Relayed)
        for outcome in await take_in(peer, file_id, pieces, self._uses.get, self._disk):
            match outcome:
                case sw.PieceStored():
                    self._statistics.pieces_verified += 1
                    self._statistics.relayed_pieces += is_relayed
                case sw.PieceRejected():
                    self._statistics.bad_pieces += 1
                case sw.Route():
                    self._relays.finder.refused()
            self._take_up(outcome)
        self._timer.rearm()

    def _is_current(self, use: Use) -> bool:
        """Return whether a file is still what it was before a wait: not stopped, not complete since."""
        return self._uses.get(use.store.file_id) is use

    # --- pieces out ---------------------------------------------------------------------------------------------

    async def _read(self, file_id: FileId, pieces: Sequence[int]) -> Sequence[bytes | None]:
        """Read and verify pieces of one file: None for those that are damaged, nothing if it cannot be served."""
        use = self._uses.get(file_id)
        if use is None:
            return ()
        try:
            return await self._disk.do(use.store.read_pieces, pieces)
        except (StoreError, SourceUnavailable) as exc:
            if not self._is_current(use):
                return await self._read(file_id, pieces)  # what they promised holds, whatever the file is now
            self._cannot_read(use, exc)
            damaged = exc.pieces if isinstance(exc, PiecesDamaged) else pieces
        intact = [piece for piece in pieces if piece not in damaged]
        if not intact or len(intact) == len(pieces):
            return ()
        found = dict(zip(intact, await self._read(file_id, intact), strict=False))
        return [found.get(piece) for piece in pieces]

    def _cannot_read(self, use: Use, error: StoreError | SourceUnavailable) -> None:
        file_id = use.store.file_id
        if isinstance(use, Served):
            self.stop(file_id)
            use.lost(str(error))
        elif isinstance(error, PiecesDamaged):
            if isinstance(use, Fetched):
                use.watcher.pieces_stored(-chunk_bytes(use.store, error.pieces))
            self._feed(sw.StopServing(file_id, RangeSet.of(sorted(error.pieces)).to_ranges()))
        elif isinstance(use, Relayed):
            self.stop(file_id)
        else:
            assert isinstance(error, StoreError)
            use.watcher.failed(error)

    def _sent(self, outgoing: Outgoing, peer: DeviceId, file_id: FileId, piece: int, size: int) -> None:
        self._statistics.bytes_out += size
        if self._links.get(peer, (None, None))[1] is outgoing:
            self._feed(sw.PieceSent(peer, file_id, piece))

    def _use(self, use: Use) -> None:
        """Do something else with a file from now on. What was in the cache of it is served no more."""
        file_id = use.store.file_id
        before = self._uses.get(file_id)
        self._uses[file_id] = use
        self._relays.used_otherwise(file_id)
        if isinstance(before, Relayed) and not isinstance(use, Followed):
            self._feed(sw.StopServing(file_id))

    # --- the machine --------------------------------------------------------------------------------------------

    def _feed(self, event: sw.SwarmEvent, *, blame: DeviceId | None = None) -> None:
        self._take_up(event, blame)
        self._timer.rearm()

    def _take_up(self, event: sw.SwarmEvent, blame: DeviceId | None = None) -> None:
        """Feed an event; whoever has fed the last one of several rearms the timer."""
        effects = self._swarm.handle(event, trio.current_time())
        if effects:
            self._perform(effects, blame)

    def _perform(self, effects: Iterable[sw.SwarmEffect], blame: DeviceId | None) -> None:
        """Do what the machine says; a fault of `blame`, whose frame it was, is raised when all else is done.

        What follows from an effect is done after the effects that came with it: peers hear of everything in order.
        """
        self._undone.extend(effects)
        if self._is_performing:
            return
        fault: ProtocolError | None = None
        self._is_performing = True
        try:
            while self._undone:
                effect = self._undone.popleft()
                self._do(effect)
                if isinstance(effect, sw.Misbehaved) and effect.peer == blame:
                    fault = (Flood if effect.kind is Kind.FLOOD else ProtocolError)(effect.reason)
        finally:
            self._is_performing = False
        if fault is not None:
            raise fault

    def _do(self, effect: sw.SwarmEffect) -> None:
        match effect:
            case sw.SendFrame(peer, frame):
                self._post(peer, frame)
            case sw.SendPiece(peer, file_id, piece):
                self._queue(peer, file_id, piece)
            case sw.CancelSend(peer, file_id, pieces):
                if peer in self._links:
                    self._links[peer][1].cancel(file_id, RangeSet(pieces))
            case sw.Misbehaved(peer, reason, kind):
                logger.warning("a peer broke the rules: %s", reason)
                if kind is Kind.BAD_CHUNK:  # others cost the link, and are noted by who closes it
                    self._noted(peer, kind)
            case sw.PromiseBroken(peer):
                self._noted(peer, Kind.BROKEN_PROMISE)
            case _:
                self._tell(effect)

    def _tell(self, effect: sw.SwarmEffect) -> None:
        """Pass on what concerns whoever uses a file."""
        match effect:
            case sw.Completed(file_id):
                if isinstance(use := self._uses.get(file_id), Fetched):
                    use.watcher.completed()
            case sw.SizeDoubted(_, file_id):
                use = self._uses.get(file_id)
                if isinstance(use, Fetched):
                    use.watcher.size_doubted()
                else:
                    self._relays.doubt(file_id, is_word=True)
            case sw.RelayFruitless(file_id):
                self._relays.doubt(file_id, is_word=False)
            case sw.RouteWanted(file_id):
                self._relays.finder.wanted(file_id)
            case sw.RelayBegan(file_id, size_bytes):
                self._relays.began(file_id, size_bytes)
            case sw.RelayEnded(file_id):
                self._relays.ended(file_id)
            case sw.StreamGrew(stream_id, count):
                if isinstance(use := self._uses.get(stream_id), Followed):
                    use.watcher.grew(count)
            case _:
                pass  # SourcesChanged: `source_count` tells whoever asks

    def _post(self, peer: DeviceId, frame: sw.SwarmFrame) -> None:
        if peer not in self._links:
            return
        try:
            self._links[peer][0].post_frame(frame)
        except LinkClosed:
            logger.debug("a frame for a link that is closing")

    def _queue(self, peer: DeviceId, file_id: FileId, piece: int) -> None:
        if peer in self._links:
            outgoing = self._links[peer][1]
            outgoing.put(file_id, piece)
            self._statistics.peak_queued_sends = max(self._statistics.peak_queued_sends, len(outgoing))
