"""Performs what the swarm machine says: posts its frames, reads and sends pieces, verifies and writes what comes.

Holds no policy: which piece goes where is decided in protocol/swarm.py, what a file is by whoever adds it. On each
link, pieces that come in are verified and written a batch at a time, and pieces that go out are read and verified a
batch ahead of the sending.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, Protocol

import attrs
import trio

from poolnet.errors import LinkClosed, ProtocolError, SourceUnavailable, StoreError
from poolnet.files.chunk_link import ChunkLink, ReceivedPiece
from poolnet.ids import DeviceId, FileId
from poolnet.protocol import swarm_events as sw
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm import Swarm
from poolnet.ranges import Ranges, RangeSet
from poolnet.service import open_service_nursery
from poolnet.storage.files import run_on_disk
from poolnet.storage.piece_store import FileSource, PartFile, PiecesDamaged
from poolnet.timer import Timer
from poolnet.wire.swarm_frames import ChunkHeader

logger = logging.getLogger(__name__)

#: Pieces read in one thread hop; as many again wait to be sent: 2 MiB a link.
_READ_BATCH: Final = 4


class DownloadWatcher(Protocol):
    """Who waits for a download; called synchronously."""

    def pieces_stored(self, chunk_bytes: int) -> None:
        """Pieces were verified and written, `chunk_bytes` of the file with them (negative: that much was damaged)."""

    def completed(self) -> None:
        """Every piece is written."""

    def failed(self, error: StoreError) -> None:
        """The disk does not take it any more."""

    def size_doubted(self) -> None:
        """No piece is here yet, and a peer means a file of another size, or the size that is believed is wrong."""


@attrs.frozen(eq=False)
class _Served:
    """A complete file, and whom to tell (with a reason) when it is not what it was."""

    store: FileSource
    lost: Callable[[str], None]


@attrs.frozen(eq=False)
class _Fetched:
    """An unfinished download."""

    store: PartFile
    watcher: DownloadWatcher


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


@attrs.define(eq=False)
class _Sending:
    """A piece to be sent on one link."""

    file_id: FileId
    piece: int
    is_cancelled: bool = False


class _Lane:
    """What is to be sent on one link."""

    def __init__(self, link: ChunkLink) -> None:
        self.link = link
        self.unsent: dict[_Sending, None] = {}  # asked for and neither sent nor cancelled, in order
        self.unread: deque[_Sending] = deque()
        self.wake = trio.Event()

    def put(self, sending: _Sending) -> None:
        self.unsent[sending] = None
        self.unread.append(sending)
        self.wake.set()

    def cancel(self, file_id: FileId, pieces: RangeSet) -> None:
        for sending in [s for s in self.unsent if s.file_id == file_id and s.piece in pieces]:
            sending.is_cancelled = True
            del self.unsent[sending]

    async def take(self, count: int) -> list[_Sending]:
        """Return the next pieces to read, at least one and at most `count`."""
        while True:
            while self.unread and self.unread[0].is_cancelled:
                self.unread.popleft()
            if self.unread:
                return [self.unread.popleft() for _ in range(min(count, len(self.unread)))]
            self.wake = trio.Event()
            await self.wake.wait()


class Exchange:
    """The files of one pool in motion.

    Args:
        rng: for the swarm machine.
    """

    def __init__(self, rng: RandomSource) -> None:
        self._swarm = Swarm(rng)
        self._files: dict[FileId, _Served | _Fetched] = {}
        self._lanes: dict[DeviceId, _Lane] = {}
        self._timer = Timer(self._swarm.next_deadline)
        self._statistics = ExchangeStatistics()

    # --- files --------------------------------------------------------------------------------------------------

    def serve(self, source: FileSource, lost: Callable[[str], None]) -> None:
        """Give a complete file to whoever asks. If it was downloaded just now, its pieces go on from here.

        Args:
            source: the file.
            lost: called, once and with a reason, when it is not what it was; it is not served any more then.
        """
        self._files[source.file_id] = _Served(source, lost)
        self._feed(sw.Serve(source.file_id, source.shape.size_bytes, ((0, source.shape.piece_count),)))

    def download(self, part: PartFile, held: Ranges, watcher: DownloadWatcher) -> None:
        """Fetch what is missing of a file; `held` is there and genuine."""
        self._files[part.file_id] = _Fetched(part, watcher)
        self._feed(sw.Download(part.file_id, part.shape.size_bytes, held))

    def stop(self, file_id: FileId) -> None:
        """Neither fetch nor give a file any more."""
        if self._files.pop(file_id, None) is not None:
            self._feed(sw.CancelDownload(file_id))
            self._feed(sw.StopServing(file_id))

    def source_count(self, file_id: FileId) -> int:
        """Return how many linked peers hold something of a file that is being fetched."""
        return self._swarm.source_count(file_id)

    def statistics(self) -> ExchangeStatistics:
        """Return counts since opening."""
        return attrs.evolve(self._statistics, links=len(self._lanes))

    # --- links --------------------------------------------------------------------------------------------------

    def handle_frame(self, peer: DeviceId, frame: sw.SwarmFrame) -> None:
        """Take a frame about files from a peer whose link is being served; others are ignored.

        Raises:
            ProtocolError: the peer broke the protocol; its link is to be closed.
        """
        if peer in self._lanes:
            self._feed(sw.Received(peer, frame), blame=peer)

    async def serve_link(self, link: ChunkLink, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move pieces over a link until it closes; then return.

        From `task_status.started` on, frames of that peer are understood. A newer link to the same peer takes over.

        Raises:
            ProtocolError: the peer broke the protocol; the link is to be closed.
        """
        lane = _Lane(link)
        self._link_down(link.peer)
        self._lanes[link.peer] = lane
        link.set_chunk_filter(lambda file_id, piece: self._swarm.expects(link.peer, file_id, piece))
        try:
            self._feed(sw.LinkUp(link.peer))
            task_status.started()
            async with open_service_nursery() as nursery:
                to_send, batches = trio.open_memory_channel[list[tuple[_Sending, bytes]]](1)
                nursery.start_soon(self._read_ahead, lane, to_send)
                nursery.start_soon(self._send, lane, batches)
                await self._receive(link)
        except LinkClosed:
            logger.debug("link closed: files")
        finally:
            if self._lanes.get(link.peer) is lane:
                self._link_down(link.peer)

    async def run_timer(self) -> None:
        """Feed the machine its deadlines, until cancelled."""
        while True:
            await self._timer.wait()
            self._perform(self._swarm.tick(trio.current_time()), None)

    def _link_down(self, peer: DeviceId) -> None:
        if self._lanes.pop(peer, None) is not None:
            self._feed(sw.LinkDown(peer))

    # --- pieces in ----------------------------------------------------------------------------------------------

    async def _receive(self, link: ChunkLink) -> None:
        while True:
            received = await link.receive_chunks()
            expected = [piece for piece in received if self._arrived(link.peer, piece)]
            for file_id, pieces in groupby(expected, key=lambda piece: piece.header.file_id):
                await self._store(link.peer, file_id, [(piece.header.piece, piece.payload) for piece in pieces])

    def _arrived(self, peer: DeviceId, received: ReceivedPiece) -> bool:
        """Take note of a piece; return whether it is wanted."""
        file_id, piece = received.header.file_id, received.header.piece
        self._statistics.bytes_in += len(received.payload)
        if not self._swarm.expects(peer, file_id, piece):
            self._statistics.unexpected_pieces += 1
            return False
        self._feed(sw.PieceArrived(peer, file_id, piece))
        return True

    async def _store(self, peer: DeviceId, file_id: FileId, pieces: list[tuple[int, bytes]]) -> None:
        """Verify and write pieces of one file, and tell the machine."""
        genuine = await self._write(self._files.get(file_id), pieces)
        for index, (piece, _) in enumerate(pieces):
            if genuine is None:
                self._feed(sw.PieceDropped(file_id, piece))
            elif genuine[index]:
                self._statistics.pieces_verified += 1
                self._feed(sw.PieceStored(file_id, piece))
            else:
                self._statistics.bad_pieces += 1
                self._feed(sw.PieceRejected(peer, file_id, piece))

    async def _write(self, file: _Served | _Fetched | None, pieces: list[tuple[int, bytes]]) -> list[bool] | None:
        """Write pieces; return which were genuine, or None if the download is over or cannot go on."""
        if not isinstance(file, _Fetched):
            return None
        try:
            genuine = await run_on_disk(file.store.write_pieces, pieces)
        except StoreError as exc:
            if self._is_current(file):
                file.watcher.failed(exc)
            return None
        if not self._is_current(file):
            return None
        shape = file.store.shape
        stored = [(piece, data) for (piece, data), is_genuine in zip(pieces, genuine, strict=True) if is_genuine]
        if stored:
            file.watcher.pieces_stored(sum(len(data) for piece, data in stored if shape.is_chunk(piece)))
        return genuine

    def _is_current(self, file: _Served | _Fetched) -> bool:
        """Return whether a file is still what it was before a wait: not stopped, not complete since."""
        return self._files.get(file.store.file_id) is file

    # --- pieces out ---------------------------------------------------------------------------------------------

    async def _read_ahead(self, lane: _Lane, to_send: trio.MemorySendChannel[list[tuple[_Sending, bytes]]]) -> None:
        while True:
            ready = []
            wanted = await lane.take(_READ_BATCH)
            for file_id, group in groupby(wanted, key=lambda sending: sending.file_id):
                ready += await self._read(file_id, list(group))
            await to_send.send(ready)

    async def _read(self, file_id: FileId, wanted: Sequence[_Sending]) -> list[tuple[_Sending, bytes]]:
        """Read and verify pieces of one file; nothing if it cannot be served any more."""
        file = self._files.get(file_id)
        wanted = [sending for sending in wanted if not sending.is_cancelled]
        if file is None or not wanted:
            return []
        try:
            found = await run_on_disk(file.store.read_pieces, [sending.piece for sending in wanted])
        except (StoreError, SourceUnavailable) as exc:
            if self._is_current(file):
                self._cannot_read(file, exc)
            return []
        return list(zip(wanted, found, strict=True))

    def _cannot_read(self, file: _Served | _Fetched, error: StoreError | SourceUnavailable) -> None:
        store = file.store
        if isinstance(file, _Served):
            self.stop(store.file_id)
            file.lost(str(error))
        elif isinstance(error, PiecesDamaged):
            damaged = [piece for piece in error.pieces if store.shape.is_chunk(piece)]
            file.watcher.pieces_stored(-sum(store.shape.piece_size(piece) for piece in damaged))
            self._feed(sw.StopServing(store.file_id, RangeSet.of(error.pieces).to_ranges()))
        else:
            assert isinstance(error, StoreError)
            file.watcher.failed(error)

    async def _send(self, lane: _Lane, batches: trio.MemoryReceiveChannel[list[tuple[_Sending, bytes]]]) -> None:
        async for batch in batches:
            for sending, payload in batch:
                if sending.is_cancelled:
                    continue
                header = ChunkHeader(file_id=sending.file_id, piece=sending.piece, size=len(payload))
                try:
                    await lane.link.send_chunk(header, payload)
                except LinkClosed:
                    return  # `_receive` ends as well
                self._sent(lane, sending, len(payload))

    def _sent(self, lane: _Lane, sending: _Sending, size: int) -> None:
        self._statistics.bytes_out += size
        lane.unsent.pop(sending, None)
        if self._lanes.get(lane.link.peer) is lane:
            self._feed(sw.PieceSent(lane.link.peer, sending.file_id, sending.piece))

    # --- the machine --------------------------------------------------------------------------------------------

    def _feed(self, event: sw.SwarmEvent, *, blame: DeviceId | None = None) -> None:
        effects = self._swarm.handle(event, trio.current_time())
        if effects:
            self._perform(effects, blame)
        self._timer.rearm()

    def _perform(self, effects: Iterable[sw.SwarmEffect], blame: DeviceId | None) -> None:
        """Do what the machine says; a fault of `blame`, whose frame it was, is raised when all else is done."""
        fault = None
        for effect in effects:
            match effect:
                case sw.SendFrame(peer, frame):
                    self._post(peer, frame)
                case sw.SendPiece(peer, file_id, piece):
                    self._queue(peer, _Sending(file_id, piece))
                case sw.CancelSend(peer, file_id, pieces):
                    if peer in self._lanes:
                        self._lanes[peer].cancel(file_id, RangeSet(pieces))
                case sw.Completed(file_id):
                    self._tell(file_id, lambda watcher: watcher.completed())
                case sw.SizeDoubted(_, file_id):
                    self._tell(file_id, lambda watcher: watcher.size_doubted())
                case sw.Misbehaved(peer, reason):
                    logger.warning("a peer broke the rules: %s", reason)
                    fault = reason if peer == blame else fault
                case sw.SourcesChanged():
                    pass  # `source_count` tells whoever asks
        if fault is not None:
            raise ProtocolError(fault)

    def _tell(self, file_id: FileId, tell: Callable[[DownloadWatcher], None]) -> None:
        file = self._files.get(file_id)
        if isinstance(file, _Fetched):
            tell(file.watcher)

    def _post(self, peer: DeviceId, frame: sw.SwarmFrame) -> None:
        lane = self._lanes.get(peer)
        if lane is None:
            return
        try:
            lane.link.post_frame(frame)
        except LinkClosed:
            logger.debug("a frame for a link that is closing")

    def _queue(self, peer: DeviceId, sending: _Sending) -> None:
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.put(sending)
            self._statistics.peak_queued_sends = max(self._statistics.peak_queued_sends, len(lane.unsent))
