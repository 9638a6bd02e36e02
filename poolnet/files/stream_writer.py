"""Publishing a stream: what is sent is written, signed, and given to whoever follows, a piece at a time."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from poolnet.errors import LocalError, StoreError
from poolnet.files.stream_exchange import StreamExchange
from poolnet.ids import FileId
from poolnet.limits import MAX_STREAM_PIECE_SIZE, STREAM_FLUSH_S
from poolnet.storage.files import run_on_disk
from poolnet.storage.stream_spool import SpooledFile, StreamSpool

logger = logging.getLogger(__name__)

#: Written in one thread hop.
_BATCH_SIZE: Final = 4 * MAX_STREAM_PIECE_SIZE

#: Makes a spool a file.
Finish = Callable[[StreamSpool], Awaitable[SpooledFile]]
#: Takes the whole of a stream into the files of this device, and offers it with its `stream_id`.
OfferWhole = Callable[[SpooledFile], Awaitable[None]]


class StreamWriter:
    """A stream that this device publishes. Made by `Streams.open_stream`; several tasks may send.

    Attributes:
        stream_id: what others watch.
        name: as others see it.
        file: what the whole became, once the stream is finished.
    """

    def __init__(
        self,
        spool: StreamSpool,
        exchange: StreamExchange,
        *,
        finish: Finish,
        offer: OfferWhole,
        stored: Callable[[], None],
    ) -> None:
        self.stream_id: FileId = spool.file_id
        self.name = spool.name
        self.file: SpooledFile | None = None
        self._spool = spool
        self._exchange = exchange
        self._finish = finish
        self._offer = offer
        self._stored = stored
        self._turn = trio.Lock()
        self._buffer = bytearray()
        self._has_some = trio.Event()
        self._told = 0  # pieces that the exchange knows of
        self._is_aborted = False
        self._is_offered = False
        self._failure: StoreError | None = None

    @property
    def is_over(self) -> bool:
        """Whether the stream is finished or aborted."""
        return self._is_aborted or self.file is not None

    @property
    def path(self) -> Path:
        """Where the bytes are: a hidden file until the stream is over, then ``streams/NAME``."""
        return self._spool.path

    @property
    def size_bytes(self) -> int:
        """Bytes that were sent so far, also those that wait for a full piece."""
        return self._spool.size_bytes + len(self._buffer)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes to the stream; waits while the disk is busy. They go out within `STREAM_FLUSH_S`.

        If it is cancelled, a part of `data` may be in the stream already.

        Raises:
            LocalError: the stream is finished.
            StoreError: the disk failed (`DiskFull`): the stream cannot go on. Leaving its block by this error says so.
        """
        view = memoryview(data).cast("B")
        async with self._turn:
            self._check()
            for start in range(0, len(view), _BATCH_SIZE):
                self._buffer += view[start : start + _BATCH_SIZE]
                await self._write(len(self._buffer) - len(self._buffer) % MAX_STREAM_PIECE_SIZE)
            if self._buffer:
                self._has_some.set()

    async def aclose(self) -> None:
        """Finish the stream: it becomes a file, which is offered. After that it does nothing.

        Raises:
            StoreError: the disk failed. Unless `file` is there, the stream is not finished; leaving its block by this
                error says so.
        """
        async with self._turn:
            if self._is_aborted:
                return
            if self.file is None:
                self._check()
                await self._write(len(self._buffer))
                try:
                    self.file = await self._finish(self._spool)
                except StoreError as exc:
                    self._failure = exc
                    raise
                self._tell()
            if not self._is_offered:
                await self._offer(self.file)
                self._is_offered = True

    async def abort(self) -> None:
        """Say that the stream ends here without being whole, unless it is finished. What was sent goes out before."""
        async with self._turn:
            if self.is_over:
                return
            self._is_aborted = True
            try:
                if self._failure is None:
                    await self._write(len(self._buffer))
            except StoreError as exc:
                logger.warning("the end of what was sent of a stream is lost: %s", exc.code)
            try:
                await run_on_disk(self._spool.abort)
            finally:
                self._tell()

    async def run_flush(self) -> None:
        """Send what waits for a full piece when it has waited long enough, until cancelled."""
        while True:
            await self._has_some.wait()
            await trio.sleep(STREAM_FLUSH_S)
            async with self._turn:
                self._has_some = trio.Event()
                if self.is_over or self._failure is not None:
                    return
                try:
                    await self._write(len(self._buffer))
                except StoreError:
                    return  # the next `send` says so

    async def _write(self, size: int) -> None:
        """Make pieces of the first `size` bytes that wait."""
        if not size:
            return
        starts = range(0, size, MAX_STREAM_PIECE_SIZE)
        pieces = [bytes(self._buffer[start : min(size, start + MAX_STREAM_PIECE_SIZE)]) for start in starts]
        try:
            await run_on_disk(self._spool.append, pieces)
        except StoreError as exc:
            self._failure = exc
            raise
        finally:
            self._tell()
        del self._buffer[:size]

    def _tell(self) -> None:
        """Let others have the pieces that are complete."""
        while self._told < self._spool.count:
            self._exchange.stream_stored(self.stream_id, self._told)
            self._told += 1
        self._stored()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.is_over:
            raise LocalError("the stream is finished; open another one")
