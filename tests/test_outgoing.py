"""Pieces on their way out of one link."""

from collections.abc import Sequence

import trio
import trio.testing

from poolnet.errors import LinkClosed
from poolnet.files.outgoing import Outgoing, wait_for
from poolnet.ids import DeviceId, FileId
from poolnet.protocol.token_bucket import Throttle
from poolnet.ranges import RangeSet
from poolnet.wire.swarm_frames import ChunkHeader

A, B = FileId(b"A" * 32), FileId(b"B" * 32)


class Link:
    """Takes pieces, one whenever `room` is given."""

    peer = DeviceId(bytes(32))

    def __init__(self, *, is_closed: bool = False) -> None:
        self.sent: list[tuple[FileId, int]] = []
        self.is_closed = is_closed

    async def send_chunk(self, header: ChunkHeader, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise LinkClosed("closed")
        assert payload == b"%d" % header.piece
        self.sent.append((header.file_id, header.piece))


async def read(_file_id: FileId, pieces: Sequence[int]) -> list[bytes]:
    await trio.lowlevel.checkpoint()
    return [b"%d" % piece for piece in pieces]


async def no_wait(_size: int) -> None:
    await trio.lowlevel.checkpoint()


def make(link: Link, sent: list[int] | None = None) -> Outgoing:
    noted = [] if sent is None else sent
    return Outgoing(link, read=read, sent=lambda _file, piece, _size: noted.append(piece), wait=no_wait)  # type: ignore[arg-type]


async def run_until_idle(outgoing: Outgoing) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outgoing.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_pieces_of_one_file_go_in_the_order_in_which_they_were_asked_for() -> None:
    link, noted = Link(), list[int]()
    outgoing = make(link, noted)
    for piece in (3, 1, 2):
        outgoing.put(A, piece)
    await run_until_idle(outgoing)
    assert link.sent == [(A, 3), (A, 1), (A, 2)]
    assert noted == [3, 1, 2]
    assert len(outgoing) == 0


async def test_files_take_turns_whichever_was_asked_for_first() -> None:
    link = Link()
    outgoing = make(link)
    for piece in range(40):
        outgoing.put(A, piece)
    for piece in range(4):
        outgoing.put(B, piece)
    await run_until_idle(outgoing)
    assert len(link.sent) == 44
    assert max(place for place, (file_id, _) in enumerate(link.sent) if file_id == B) < 20


async def test_what_was_called_off_is_not_sent() -> None:
    link = Link()
    outgoing = make(link)
    for piece in range(10):
        outgoing.put(A, piece)
        outgoing.put(B, piece)
    outgoing.cancel(A, RangeSet.of(range(1, 10)))
    await run_until_idle(outgoing)
    assert sorted(link.sent) == [(A, 0), *((B, piece) for piece in range(10))]


async def test_a_file_that_cannot_be_read_any_more_does_not_hold_up_another() -> None:
    link = Link()

    async def read_b(file_id: FileId, pieces: Sequence[int]) -> list[bytes]:
        return await read(file_id, pieces) if file_id == B else []

    outgoing = Outgoing(link, read=read_b, sent=lambda *_: None, wait=no_wait)  # type: ignore[arg-type]
    outgoing.put(A, 0)
    outgoing.put(B, 1)
    await run_until_idle(outgoing)
    assert link.sent == [(B, 1)]


async def test_it_ends_with_its_link() -> None:
    outgoing = make(Link(is_closed=True))
    outgoing.put(A, 0)
    with trio.fail_after(5):
        await outgoing.run()


async def test_a_throttle_makes_it_wait_as_long_as_the_rate_says(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle(1000, now=trio.current_time())
    start = trio.current_time()
    for _ in range(1000):
        await wait_for(throttle, 1000)
    seconds = trio.current_time() - start
    assert 600 < seconds < 1000, "a burst of 256 KiB, then 1000 bytes a second"
