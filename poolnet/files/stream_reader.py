"""Reading a stream while it grows: in order, a window of pieces asked for ahead, memory bounded by that window.

From the start, nothing is ever skipped. Live, a reader begins at the last piece there is, and goes on at the end when
it has become too late (protocol/live_edge.py). When the pieces do not come any more and the stream is offered as a
file, the rest is read from that.
"""

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from poolnet.errors import PoolnetError, ProtocolError, StreamAborted
from poolnet.files.stream_exchange import StreamFollowing, StreamNews
from poolnet.files.stream_whole import StreamWhole
from poolnet.files.uses import PieceStore
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, PROMISE_TIMEOUT_S
from poolnet.protocol.live_edge import LiveEdge
from poolnet.protocol.stream_pieces import StreamPiece, decode_stream_piece_untrusted
from poolnet.storage.durable import store_errors
from poolnet.storage.files import run_on_disk
from poolnet.storage.piece_store import PiecesDamaged

#: Pieces asked for ahead, and kept in memory: 8 MiB.
WINDOW: Final = 32
#: The window moves in steps of so many pieces.
_STEP: Final = 8
#: How long a live reader waits for somebody to say how far the stream has come, before it takes it from the start.
_START_WAIT_S: Final = 1.0
#: Of a stream that is taken from its start nobody had anything then. If the first who comes has more pieces than a
#: device makes between two announcements, the stream is older than that.
_OLD_PIECES: Final = 256

#: Returns where a file is, after it was fetched if it was not here.
FetchFile = Callable[[FileId], Awaitable[Path]]


@attrs.frozen
class _Jump:
    """A move to where the stream is said to have come; `before` is where the reader was, None before anything."""

    before: int | None
    at: float


class StreamReader:
    """The bytes of one stream in order: ``async for data in reader``. Made by `Streams.watch`; for one task.

    It waits while the author is away, ends when the stream does, and raises when that cannot be. Cancelling it loses
    nothing.

    Raises:
        StreamAborted: the author broke off, or withdrew the stream before it was finished.
        ProtocolError: the author signed pieces that contradict each other; or all bytes were read, and are not the
            file that the author says they make.
        PoolnetError: what the disk, or fetching the whole as a file, says.

    Attributes:
        stream_id: which stream.
        skipped_bytes: so much was left out in order to stay live; nothing before the first piece counts.
        file_id: what the whole is as a file, once the stream has ended.
    """

    def __init__(
        self,
        store: PieceStore,
        following: StreamFollowing,
        news: StreamNews,
        fetch_file: FetchFile,
        *,
        from_start: bool,
    ) -> None:
        self.stream_id = store.file_id
        self.skipped_bytes = 0
        self.file_id: FileId | None = None
        self._store = store
        self._following = following
        self._news = news
        self._fetch_file = fetch_file
        self._is_live = not from_start
        self._edge = LiveEdge()
        self._has_heard = False  # of anybody who has something
        self._position = 0 if from_start else None  # the next piece; None: not known yet
        self._delivered = -1  # the last piece that was delivered
        self._offset = 0 if from_start else None  # bytes of the stream up to there
        self._arrived: dict[int, StreamPiece] = {}
        self._window = (0, 0)
        self._jump: _Jump | None = None
        self._began_at = trio.current_time()
        self._ended_before = news.whole_of_stream(self.stream_id) is not None
        self._file: Path | None = None
        self._whole = StreamWhole() if from_start else None  # of what was read, as long as that is all there was
        self._is_over = False
        self._error: PoolnetError | None = None
        self._changed = trio.Event()

    def __aiter__(self) -> "StreamReader":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._is_over:
            if self._file is not None:
                content = await self._read_file(self._file)
            else:
                piece = await self._next_piece()
                content = b"" if piece is None else self._deliver(piece)
            if content:
                return content
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    # --- for the exchange: a StreamWatcher ----------------------------------------------------------------------

    def pieces_arrived(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Take genuine pieces."""
        for number, encoded in pieces:
            piece = decode_stream_piece_untrusted(encoded)
            self._edge.heard(number + 1, trio.current_time())
            if piece.is_final:
                self._following.stream_ended(self.stream_id, number + 1)
            if self._position is not None and self._position <= number < self._position + WINDOW:
                self._arrived[number] = piece
                self._jump = None
        self._changed.set()

    def grew(self, count: int) -> None:
        """Take note that the stream has at least so many pieces, as somebody claims."""
        self._edge.heard(count, trio.current_time())
        self._changed.set()

    def news_changed(self) -> None:
        """Take note that the stream, or the whole of it as a file, was offered or withdrawn."""
        self._changed.set()

    def failed(self, error: PoolnetError) -> None:
        """Take note that the stream cannot be followed any more."""
        self._error, self._is_over = error, True
        self._changed.set()

    # --- where to read ------------------------------------------------------------------------------------------

    async def _next_piece(self) -> StreamPiece | None:
        """Return the piece to deliver next; None if it will not come, and what to do instead is decided."""
        began_at = trio.current_time()
        while not self._is_over:
            self._changed = trio.Event()
            if self._is_live:
                self._keep_up(trio.current_time())
            self._move_window()
            piece = await self._here()
            if piece is not None:
                return piece
            is_stalled = trio.current_time() >= began_at + PROMISE_TIMEOUT_S
            if (is_stalled or self._ended_before) and await self._turn_to_file():
                return None
            with trio.move_on_at(self._next_look(math.inf if is_stalled else began_at + PROMISE_TIMEOUT_S)):
                await self._changed.wait()
        return None

    def _next_look(self, stalled_at: float) -> float:
        """Return when to look around again if nothing happens before."""
        moments = [stalled_at]
        end = self._edge.end
        if self._jump is not None:
            moments.append(self._jump.at + PROMISE_TIMEOUT_S)
        if self._position is None and end is None:
            moments.append(self._began_at + _START_WAIT_S)
        if self._is_live and self._position is not None and end is not None and self._position < end - 1:
            moments.append(self._edge.late_at(self._position))
        return min(moments)

    async def _here(self) -> StreamPiece | None:
        """Return the next piece if it has arrived, or was here before."""
        if self._position is None:
            return None
        piece = self._arrived.pop(self._position, None)
        if piece is not None:
            return piece
        try:
            (encoded,) = await run_on_disk(self._store.read_pieces, [self._position])
        except PiecesDamaged:
            return None
        return decode_stream_piece_untrusted(encoded)

    def _keep_up(self, now: float) -> None:
        """Go to the end of the stream if the reader is too late, or does not stand anywhere yet."""
        if self._jump is not None and now >= self._jump.at + PROMISE_TIMEOUT_S:
            assert self._position is not None
            if self._edge.doubt(self._position):
                self._position = self._jump.before
            self._jump = None
        end = self._edge.end
        if end is None:
            if self._position is None and now >= self._began_at + _START_WAIT_S:
                self._position = 0
            return
        is_first, self._has_heard = not self._has_heard, True
        if self._position is None or (is_first and end > _OLD_PIECES) or self._is_behind(self._position, end, now):
            self._jump = _Jump(self._position, now)
            self._position = end - 1

    def _is_behind(self, position: int, end: int, now: float) -> bool:
        """Return whether what comes next is old; also at first, if the first who was heard had only begun to watch."""
        if now < self._began_at + _START_WAIT_S and end > position + WINDOW:
            return True
        return position < end - 1 and now >= self._edge.late_at(position)

    def _move_window(self) -> None:
        """Ask for what is missing ahead, and drop what is not ahead any more."""
        if self._position is None:
            return
        for number in [number for number in self._arrived if number < self._position]:
            del self._arrived[number]
        start, stop = self._position, self._position + WINDOW
        while start in self._arrived:
            start += 1
        before_start, before_stop = self._window
        if not (0 <= start - before_start < _STEP and 0 <= stop - before_stop < _STEP):
            self._window = (start, stop)
            self._following.move_stream(self.stream_id, start, stop)

    # --- what is read -------------------------------------------------------------------------------------------

    def _deliver(self, piece: StreamPiece) -> bytes:
        """Take the next piece for its place in the stream; return its bytes."""
        if self._offset is not None:
            gap = piece.offset - self._offset
            if gap < 0 or (gap > 0 and piece.index == self._delivered + 1):
                raise ProtocolError("the author of the stream signed pieces that contradict each other")
            self.skipped_bytes += gap
        self._edge.passed(piece.index)
        self._jump = None
        self._delivered, self._position, self._offset = piece.index, piece.index + 1, piece.end_offset
        if self._whole is not None:
            self._whole.add(piece.data)
        if piece.is_final:
            self._end(FileId(piece.file_id))
        return piece.data

    def _end(self, file_id: FileId) -> None:
        self._is_over = True
        if file_id:
            self.file_id = file_id
            self._compare({file_id, self._news.whole_of_stream(self.stream_id) or file_id})
        else:
            self._error = StreamAborted("the author broke off the stream; what came before is all there is")

    async def _turn_to_file(self) -> bool:
        """Decide what to do when pieces do not come; return whether to wait for them no more."""
        whole = self._news.whole_of_stream(self.stream_id)
        if whole is None:
            if self._news.is_stream_offered(self.stream_id):
                return False
            self.failed(StreamAborted("the stream was withdrawn before it was finished"))
            return True
        self.file_id = whole
        if self._offset is None:  # live, and nothing was ever there: nothing will come
            self._is_over = True
        else:
            self._file = await self._fetch_file(whole)
        return True

    async def _read_file(self, path: Path) -> bytes:
        assert self._offset is not None
        content = await run_on_disk(_read_at, path, self._offset)
        self._offset += len(content)
        if self._whole is not None:
            self._whole.add(content)
        self._is_over = not content
        if self._is_over and self.file_id is not None:
            self._compare({self.file_id})
        return content

    def _compare(self, said: set[FileId]) -> None:
        """End with an error if all was read, and is not each of the files that it is said to be."""
        if self._whole is not None and said != {self._whole.finish()}:
            self._error = ProtocolError(
                "what was sent of the stream is not the file that its author says it is; ask for that to be sent again"
            )


def _read_at(path: Path, offset: int) -> bytes:
    with store_errors("read", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, CHUNK_SIZE, offset)
        finally:
            os.close(descriptor)
