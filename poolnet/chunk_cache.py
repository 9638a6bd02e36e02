"""A bounded on-disk cache of verified chunks: what this device holds for others.

The asynchronous face of storage/cache_ring.py, usable alone by programs that pass chunks of their own around. Whoever
puts something in says how it is verified; what comes out is exactly that.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from poolnet.ids import FileId
from poolnet.limits import CLOSE_TIMEOUT_S, DEFAULT_CACHE_SIZE
from poolnet.ranges import Ranges
from poolnet.storage.cache_ring import CacheRing, RingStatistics, open_ring
from poolnet.storage.files import run_on_disk

__all__ = ["ChunkCache", "RingStatistics", "open_chunk_cache"]


class ChunkCache:
    """Chunks of any files, the oldest of which go when there is no room. Opened by `open_chunk_cache`.

    It forgets everything when it is closed. Example:

    ```python
    from hashlib import sha256

    async def main() -> None:
        data = b"what others may ask for"
        file_id = poolnet.FileId(sha256(data).digest())

        async with poolnet.open_chunk_cache(Path("cache"), size_bytes=64 * 2**20) as cache:
            assert await cache.put(file_id, 0, data, verify=lambda found: sha256(found).digest() == file_id)
            assert not await cache.put(file_id, 1, b"forged", verify=lambda found: sha256(found).digest() == file_id)
            assert await cache.get(file_id, 0) == data
            assert cache.held(file_id) == ((0, 1),)
    ```

    Args:
        ring: where the chunks are; not closed by this object.
    """

    def __init__(self, ring: CacheRing) -> None:
        self._ring = ring

    async def put(self, file_id: FileId, piece: int, data: bytes, *, verify: Callable[[bytes], bool]) -> bool:
        """Store a chunk if it is genuine; return whether it is in the cache now.

        It is not if `verify` says no, if the disk is full or fails, or if the cache was turned off; `statistics` tells
        how often it could not be stored. Once begun it is finished, even if the caller is cancelled.

        Args:
            file_id: which file (32 bytes of any meaning).
            piece: which chunk of it, from 0.
            data: at most `CHUNK_SIZE` bytes.
            verify: called in a thread with `data`; True if it is that chunk. What it raises is raised here.

        Raises:
            ValueError: `data` is too large.
        """

        def put_verified() -> bool:
            return verify(data) and (file_id, piece) not in self._ring.put(file_id, piece, data)

        return await run_on_disk(put_verified)

    async def get(self, file_id: FileId, piece: int) -> bytes | None:
        """Return a chunk exactly as it was verified; None if it is not here (any more)."""
        return await run_on_disk(self._ring.get, file_id, piece)

    async def forget(self, file_id: FileId) -> None:
        """Drop all chunks of a file."""
        await run_on_disk(self._ring.forget, file_id)

    def held(self, file_id: FileId) -> Ranges:
        """Return which chunks of a file are here, as half-open ranges."""
        return self._ring.held(file_id)

    def statistics(self) -> RingStatistics:
        """Return what is here, and counts since opening."""
        return self._ring.statistics()


@asynccontextmanager
async def open_chunk_cache(directory: Path, *, size_bytes: int = DEFAULT_CACHE_SIZE) -> AsyncIterator[ChunkCache]:
    """Open a new, empty cache in a file in `directory`, for the block; then the file is removed.

    Room is taken as chunks come, never the last of the disk. What crashes left behind is removed; several processes may
    use the same directory, each with a cache of its own.

    Args:
        directory: made if it is missing.
        size_bytes: how large the file may become; 0 turns the cache off.

    Raises:
        StoreError: the directory cannot be made or read.
    """
    ring = await run_on_disk(lambda: open_ring(directory, size_bytes=size_bytes))
    try:
        yield ChunkCache(ring)
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await run_on_disk(ring.close)
