"""What is kept for others or for show: the ring of relayed pieces, and the pictures."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from faulty_disk.subject import Step, Subject
from poolnet.clock import Hlc
from poolnet.errors import OutputExists
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, hash_chunk
from poolnet.storage.cache_ring import CacheRing, open_ring
from poolnet.storage.media_cache import MediaCache, copy_verified

_FILE: Final = FileId(bytes(range(32)))
_PIECES: Final = [random.Random(number).randbytes(CHUNK_SIZE // (number + 1)) for number in range(4)]


@asynccontextmanager
async def _open_ring(directory: Path) -> AsyncIterator[CacheRing]:
    ring = open_ring(directory / "ring", size_bytes=3 * CHUNK_SIZE)
    try:
        yield ring
    finally:
        ring.close()


async def _put(ring: CacheRing, number: int) -> None:
    ring.put(_FILE, number, _PIECES[number])


async def _check_ring(ring: CacheRing) -> Any:
    """What is here is genuine; that anything is, nobody promises."""
    for number in range(4):
        assert ring.get(_FILE, number) in (None, _PIECES[number])


RING: Final = Subject(
    open=_open_ring,
    steps=[Step(f"put {number}", lambda ring, number=number: _put(ring, number)) for number in range(4)],
    observe=_check_ring,
    belongs=[],
)


def _id_of(content: bytes) -> FileId:
    builder = TreeBuilder()
    builder.add(hash_chunk(content))
    return builder.finish(len(content))[0]


_PICTURES: Final = {_id_of(content): content for content in _PIECES[1:]}


@asynccontextmanager
async def _open_media(directory: Path) -> AsyncIterator[MediaCache]:
    cache = MediaCache(directory / "media", 10**6)
    cache.load()
    yield cache


async def _keep(cache: MediaCache, file_id: FileId) -> None:
    source = cache.directory.parent.with_name("pictures")
    source.write_bytes(_PICTURES[file_id])
    place = cache.place(file_id, "a.png")
    try:
        copy_verified(source, file_id, place)
    except OutputExists:
        assert place.read_bytes() == _PICTURES[file_id]
    cache.add(file_id, place, Hlc(1))


async def _remove(cache: MediaCache, file_id: FileId) -> None:
    cache.remove(file_id)


async def _check_media(cache: MediaCache) -> Any:
    for file_id in cache:
        path = cache.path_of(file_id)
        assert path is not None
        assert path.read_bytes() == _PICTURES[file_id]
    return sorted(file_id.hex() for file_id in cache)


_FIRST, _SECOND, _THIRD = _PICTURES
MEDIA: Final = Subject(
    open=_open_media,
    steps=[
        Step("keep", lambda cache: _keep(cache, _FIRST), is_durable=False),
        Step("keep another", lambda cache: _keep(cache, _SECOND), is_durable=False),
        Step("remove", lambda cache: _remove(cache, _FIRST), is_durable=False),
        Step("keep a third", lambda cache: _keep(cache, _THIRD), is_durable=False),
    ],
    observe=_check_media,
    belongs=["media/*.png"],
    may_be=lambda seen, states: set(seen) <= {file_id for state in states for file_id in state},
)
