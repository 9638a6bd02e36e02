"""ChunkCache: the asynchronous face of the ring; what is not genuine is not taken, what was opened is removed."""

from pathlib import Path

import pytest
import trio

from poolnet.chunk_cache import open_chunk_cache
from poolnet.errors import StoreError
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE

FILE = FileId(b"f" * 32)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def anything(_data: bytes) -> bool:
    return True


async def test_a_chunk_is_taken_if_it_is_genuine_and_comes_back(tmp_path: Path) -> None:
    async with open_chunk_cache(tmp_path / "new" / "cache", size_bytes=4 * CHUNK_SIZE) as cache:
        assert await cache.put(FILE, 3, b"data", verify=lambda data: data == b"data")
        assert not await cache.put(FILE, 4, b"forged", verify=lambda data: data == b"data")
        assert await cache.get(FILE, 3) == b"data"
        assert await cache.get(FILE, 4) is None
        assert cache.held(FILE) == ((3, 4),)
        await cache.forget(FILE)
        assert cache.held(FILE) == ()
        statistics = cache.statistics()
        assert (statistics.stored, statistics.hits, statistics.misses) == (1, 1, 1)


async def test_the_oldest_chunks_go_when_there_is_no_room(tmp_path: Path) -> None:
    async with open_chunk_cache(tmp_path, size_bytes=3 * CHUNK_SIZE) as cache:
        for piece in range(5):
            assert await cache.put(FILE, piece, b"x", verify=anything)
        assert cache.held(FILE) == ((2, 5),)


async def test_a_cache_that_is_off_takes_nothing(tmp_path: Path) -> None:
    async with open_chunk_cache(tmp_path, size_bytes=0) as cache:
        assert not await cache.put(FILE, 0, b"x", verify=anything)
        assert cache.statistics().refused == 1


async def test_what_verify_raises_comes_out_and_nothing_is_stored(tmp_path: Path) -> None:
    def fail(_data: bytes) -> bool:
        raise KeyError("who knows")

    async with open_chunk_cache(tmp_path) as cache:
        with pytest.raises(KeyError, match="who knows"):
            await cache.put(FILE, 0, b"x", verify=fail)
        assert cache.held(FILE) == ()


async def test_the_file_goes_with_the_block_even_if_that_is_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_chunk_cache(tmp_path) as cache:
            await cache.put(FILE, 0, b"x", verify=anything)
            assert len(names_in(tmp_path)) == 1
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert names_in(tmp_path) == []


async def test_two_caches_share_a_directory_and_nothing_else(tmp_path: Path) -> None:
    async with open_chunk_cache(tmp_path) as first:
        await first.put(FILE, 0, b"first", verify=anything)
        async with open_chunk_cache(tmp_path) as second:
            await second.put(FILE, 0, b"second", verify=anything)
            assert await first.get(FILE, 0) == b"first"
        assert await first.get(FILE, 0) == b"first"


async def test_a_place_that_cannot_be_a_directory_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a directory"):
        async with open_chunk_cache(tmp_path / "file"):
            pass
