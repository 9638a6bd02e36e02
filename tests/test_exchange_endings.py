"""What changes while pieces are on their way to or from the disk: a link ends, a file comes from elsewhere."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from poolnet.errors import PoolnetError, SourceUnavailable
from poolnet.files.exchange import Exchange
from poolnet.ids import DeviceId, FileId
from poolnet.protocol.hash_tree import TreeShape
from poolnet.testing.chunk_links import MemoryPiece
from poolnet.wire.swarm_frames import ChunkHeader, Have, Interest, Want

pytestmark = pytest.mark.timeout(60)

PEER = DeviceId(b"p" * 32)
FILES = [FileId(bytes([number]) * 32) for number in range(1, 4)]
CONTENT = b"all that is in it"


class Link:
    """A link to `PEER`, whose pieces a test sends."""

    def __init__(self) -> None:
        self.peer = PEER
        self.frames: list[Any] = []
        self.sent: list[tuple[int, bytes]] = []
        self._send, self._receive = trio.open_memory_channel[Sequence[MemoryPiece]](1)

    def post_frame(self, frame: Any) -> None:
        """See `ChunkLink`."""
        self.frames.append(frame)

    async def send_chunk(self, header: ChunkHeader, payload: bytes) -> None:
        """See `ChunkLink`."""
        self.sent.append((header.piece, payload))

    async def receive_chunks(self) -> Sequence[MemoryPiece]:
        """See `ChunkLink`."""
        return await self._receive.receive()

    def set_chunk_filter(self, expects: Callable[[FileId, int], bool]) -> None:
        """See `ChunkLink`."""

    def bring(self, file_ids: Sequence[FileId]) -> None:
        """Let the only pieces of some files arrive together."""
        headers = [ChunkHeader(file_id=file_id, piece=0, size=len(CONTENT)) for file_id in file_ids]
        self._send.send_nowait([MemoryPiece(header=header, payload=CONTENT) for header in headers])

    def wanted(self) -> set[FileId]:
        """Return what was asked for."""
        return {frame.file_id for frame in self.frames if isinstance(frame, Want)}


@attrs.define(eq=False)
class Part:
    """A download of one piece, and who waits for it; `before_write` is called before the piece is written."""

    file_id: FileId
    before_write: Callable[[], None] = lambda: None
    shape: TreeShape = TreeShape(len(CONTENT))
    written: list[int] = attrs.Factory(list)
    is_complete: bool = False

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """See `PieceStore`."""
        return [CONTENT for _ in pieces]

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """See `PieceSink`."""
        self.before_write()
        self.written += [piece for piece, _ in pieces]
        return [True for _ in pieces]

    def pieces_stored(self, chunk_bytes: int) -> None:
        """See `DownloadWatcher`."""

    def completed(self) -> None:
        """See `DownloadWatcher`."""
        self.is_complete = True

    def failed(self, error: PoolnetError) -> None:
        """See `DownloadWatcher`."""
        raise AssertionError(error)

    def size_doubted(self) -> None:
        """See `DownloadWatcher`."""
        raise AssertionError("the size is right")


@asynccontextmanager
async def open_exchange(parts: Sequence[Part]) -> AsyncIterator[Exchange]:
    """Fetch these files."""
    exchange = Exchange(random.Random(1))
    for part in parts:
        exchange.download(part, (), part)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run_timer)
        yield exchange
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_link(exchange: Exchange) -> AsyncIterator[tuple[Link, trio.CancelScope]]:
    """Serve a link to a peer that has all files, in a scope whose cancelling ends it, as a link that closes does."""
    link = Link()
    async with trio.open_nursery() as nursery:
        await nursery.start(exchange.serve_link, link)
        for file_id in FILES:
            exchange.handle_frame(PEER, Have(file_id=file_id, pieces=((0, 1),)))
        await trio.sleep(1)
        yield link, nursery.cancel_scope


async def test_pieces_that_had_arrived_when_the_link_ended_are_written_and_asked_of_nobody_else(
    jumping_clock: MockClock,
) -> None:
    parts = [Part(file_id) for file_id in FILES]
    async with open_exchange(parts) as exchange:
        async with open_link(exchange) as (link, end):
            assert link.wanted() == set(FILES)
            parts[0].before_write = end.cancel
            link.bring(FILES[:2])
            await wait_all_tasks_blocked()
        assert end.cancelled_caught
        assert [part.written for part in parts] == [[0], [0], []]
        assert [part.is_complete for part in parts] == [True, True, False]
        assert exchange.statistics().pieces_verified == 2
        async with open_link(exchange) as (link, end):
            assert link.wanted() == {FILES[2]}
            end.cancel()


@attrs.define(eq=False)
class VanishingFile:
    """A file that is gone when it is read."""

    file_id: FileId
    before_read: Callable[[], None] = lambda: None
    shape: TreeShape = TreeShape(len(CONTENT))

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """See `PieceStore`."""
        self.before_read()
        raise SourceUnavailable("it is gone")


async def test_a_piece_that_was_promised_from_a_file_that_is_gone_comes_from_where_the_file_is_now(
    jumping_clock: MockClock,
) -> None:
    reasons: list[str] = []
    gone, here = VanishingFile(FILES[0]), Part(FILES[0])
    async with open_exchange(()) as exchange:
        gone.before_read = lambda: exchange.serve(here, reasons.append)
        exchange.serve(gone, reasons.append)
        async with open_link(exchange) as (link, end):
            exchange.handle_frame(PEER, Interest(file_id=FILES[0], interested=True))
            exchange.handle_frame(PEER, Want(file_id=FILES[0], pieces=((0, 1),), count=1))
            await trio.sleep(1)
            assert (link.sent, reasons) == ([(0, CONTENT)], [])
            end.cancel()
