"""Chunks that arrived and wait for the application."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from poolnet.errors import LinkClosed
from poolnet.ids import FileId
from poolnet.net.chunk_inbox import ChunkInbox, ReceivedChunk
from poolnet.wire.swarm_frames import ChunkHeader

FILE = FileId(bytes(32))


def chunk(piece: int) -> ReceivedChunk:
    return ReceivedChunk(ChunkHeader(file_id=FILE, piece=piece, size=1), b"x")


def put(inbox: ChunkInbox, *pieces: int, consumed: Callable[[int], None] = lambda _count: None) -> None:
    for piece in pieces:
        inbox.put(chunk(piece), consumed)


async def receive(inbox: ChunkInbox) -> tuple[list[int], float]:
    """Return the pieces that are handed out next, and how long that takes."""
    start = trio.current_time()
    pieces = [received.header.piece for received in await inbox.receive()]
    return pieces, trio.current_time() - start


async def test_the_first_chunk_after_a_silence_does_not_wait_for_others(autojump_clock: MockClock) -> None:
    inbox = ChunkInbox()
    put(inbox, 1)
    assert await receive(inbox) == ([1], 0)
    await trio.sleep(1)
    put(inbox, 2)
    assert await receive(inbox) == ([2], 0)


async def test_a_chunk_that_follows_another_closely_waits_a_moment_for_more(autojump_clock: MockClock) -> None:
    inbox = ChunkInbox()
    put(inbox, 1)
    await inbox.receive()
    async with trio.open_nursery() as nursery:
        put(inbox, 2)

        async def put_later() -> None:
            await trio.sleep(0.001)
            put(inbox, 3)

        nursery.start_soon(put_later)
        pieces, waited_s = await receive(inbox)
    assert pieces == [2, 3]
    assert 0.001 < waited_s < 0.02


async def test_so_many_chunks_as_make_a_batch_wait_for_no_more(autojump_clock: MockClock) -> None:
    inbox = ChunkInbox()
    put(inbox, 1)
    await inbox.receive()
    put(inbox, *range(2, 20))
    assert await receive(inbox) == (list(range(2, 20)), 0)
    async with trio.open_nursery() as nursery:
        put(inbox, 20)
        nursery.start_soon(_put_soon, inbox, range(21, 30))
        pieces, waited_s = await receive(inbox)
    assert pieces[0] == 20
    assert len(pieces) > 1
    assert waited_s == 0


async def _put_soon(inbox: ChunkInbox, pieces: range) -> None:
    await trio.lowlevel.checkpoint()
    put(inbox, *pieces)


async def test_what_is_gathered_when_the_link_closes_is_still_handed_out(autojump_clock: MockClock) -> None:
    inbox = ChunkInbox()
    put(inbox, 1)
    await inbox.receive()
    put(inbox, 2)
    inbox.close()
    assert await receive(inbox) == ([2], 0)
    with pytest.raises(LinkClosed):
        await inbox.receive()


async def test_chunks_count_as_consumed_when_more_are_asked_for(autojump_clock: MockClock) -> None:
    inbox, counts = ChunkInbox(), list[int]()
    put(inbox, 1, 2, consumed=counts.append)
    await inbox.receive()
    assert counts == []
    put(inbox, 3, consumed=counts.append)
    await inbox.receive()
    assert counts == [2]


async def test_a_cancelled_wait_loses_no_chunk(autojump_clock: MockClock) -> None:
    inbox = ChunkInbox()
    put(inbox, 1)
    await inbox.receive()
    put(inbox, 2)
    with trio.move_on_after(0.001):
        await inbox.receive()
    await trio.sleep(1)
    put(inbox, 3)
    assert await receive(inbox) == ([2, 3], 0)
