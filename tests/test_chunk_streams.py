"""Chunks over QUIC, without QUIC: what comes on a stream, whole or in pieces, and what no honest sender writes."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from poolnet.errors import LinkClosed, ProtocolError
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_CHUNKS_IN_TRANSIT
from poolnet.net.chunk_inbox import ChunkInbox
from poolnet.net.chunk_streams import ChunkReceiver, ChunkSender
from poolnet.wire.framing import encode_frame
from poolnet.wire.link_frames import Ping
from poolnet.wire.swarm_frames import ChunkHeader

FILE = FileId(b"F" * 32)


class Connection:
    """What is needed of a connection."""

    datagram_size = 1200

    def __init__(self) -> None:
        self.has_room = True
        self.written: list[tuple[int, bytes, bool]] = []
        self.stopped: list[int] = []

    def may_open_chunk_stream(self) -> bool:
        return self.has_room

    def open_chunk_stream(self) -> int:
        return len(self.written)

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.written.append((stream_id, data, end))

    def stop_stream(self, stream_id: int) -> None:
        self.stopped.append(stream_id)


class Receiving:
    """A receiving side that expects the pieces below 100 of one file."""

    def __init__(self) -> None:
        self.connection, self.inbox = Connection(), ChunkInbox()
        self.inbox.set_filter(lambda file_id, piece: file_id == FILE and piece < 100)
        self.tells = 0
        self.receiver = ChunkReceiver(self.connection, self.inbox, tell=self._tell)

    def _tell(self) -> None:
        self.tells += 1

    def taken(self) -> list[tuple[int, bytes]]:
        return [(chunk.header.piece, chunk.payload) for chunk in self.inbox._queue]


def header(piece: int = 1, size: int = 5) -> bytes:
    return encode_frame(ChunkHeader(file_id=FILE, piece=piece, size=size))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_chunk_arrives_however_its_stream_is_cut(step: int) -> None:
    side = Receiving()
    data = header() + b"abcde"
    for start in range(0, len(data), step):
        assert side.taken() == []
        side.receiver.data_received(3, data[start : start + step], end=start + step >= len(data))
    assert side.taken() == [(1, b"abcde")]
    assert side.inbox.received_bytes == 5


def test_an_end_that_comes_by_itself_is_one() -> None:
    side = Receiving()
    side.receiver.data_received(3, header() + b"abcde", end=False)
    assert side.taken() == []
    side.receiver.data_received(3, b"", end=True)
    assert side.taken() == [(1, b"abcde")]


def test_a_chunk_in_a_thousand_pieces_is_put_together() -> None:
    side = Receiving()
    side.receiver.data_received(3, header(size=3000), end=False)
    for number in range(1500):
        side.receiver.data_received(3, bytes([number % 251]) * 2, end=number == 1499)
    ((_, payload),) = side.taken()
    assert payload == b"".join(bytes([number % 251]) * 2 for number in range(1500))


@pytest.mark.parametrize(
    ("data", "end", "says"),
    [
        (header() + b"abcdef", False, "longer than declared"),
        (header() + b"abcd", True, "too early"),
        (header()[:20], True, "too early"),
        (b"", True, "too early"),
        (encode_frame(Ping(number=1, unix_ms=1)), False, "begin with its header"),
        (b"\0\0\0\x81" + bytes(200), False, "malformed"),
        (b"\0\0\0\x02\xff\xff", False, "malformed"),
    ],
)
def test_what_no_honest_sender_writes_is_an_error_of_the_peer(data: bytes, end: bool, says: str) -> None:
    side = Receiving()
    with pytest.raises(ProtocolError, match=says):
        side.receiver.data_received(3, data, end=end)
    assert side.taken() == []


def test_what_was_not_asked_for_is_stopped_and_what_still_comes_of_it_is_dropped() -> None:
    side = Receiving()
    side.receiver.data_received(3, header(piece=100) + b"ab", end=False)
    assert side.connection.stopped == [3]
    side.receiver.data_received(3, b"c" * 100_000, end=False)
    side.receiver.data_received(3, b"", end=True)
    side.receiver.data_received(7, header(piece=100) + b"abcde", end=True)
    assert side.connection.stopped == [3], "it is over already"
    assert (side.taken(), side.inbox.dropped) == ([], 2)
    assert side.receiver.credit.consumed == 2
    assert not side.receiver._streams


def test_a_stream_that_was_given_up_gives_its_credit_back_once() -> None:
    side = Receiving()
    side.receiver.data_received(3, header(), end=False)
    side.receiver.stream_reset(3)
    side.receiver.stream_reset(3)
    side.receiver.stream_reset(7)
    assert (side.inbox.dropped, side.receiver.credit.consumed) == (1, 1)
    side.receiver.data_received(11, header(piece=100), end=False)  # stopped by this side
    side.receiver.stream_reset(11)
    assert (side.inbox.dropped, side.receiver.credit.consumed) == (2, 2)


def test_more_streams_than_there_is_credit_for_are_an_error_of_the_peer() -> None:
    side = Receiving()
    for number in range(MAX_CHUNKS_IN_TRANSIT):
        side.receiver.data_received(4 * number + 3, header(piece=number), end=False)
    with pytest.raises(ProtocolError):
        side.receiver.data_received(999, header(), end=False)
    side.receiver.close()
    assert not side.receiver._streams


async def test_a_chunk_waits_for_room_and_a_closed_link_ends_the_wait(autojump_clock: Any) -> None:
    connection = Connection()
    sender = ChunkSender(connection)
    chunk = ChunkHeader(file_id=FILE, piece=1, size=CHUNK_SIZE)
    await sender.send(chunk, bytes(CHUNK_SIZE))
    assert [(stream_id, end) for stream_id, _, end in connection.written] == [(0, False), (0, True)]
    assert connection.written[0][1] == encode_frame(chunk)
    ended = []

    async def send() -> None:
        try:
            await sender.send(chunk, bytes(CHUNK_SIZE))
        except LinkClosed:
            ended.append("closed")
        else:
            ended.append("sent")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert ended == []
        sender.transmitted(CHUNK_SIZE + 100)
        await wait_all_tasks_blocked()
        assert ended == ["sent"]
        connection.has_room = False
        sender.transmitted(10**7)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert ended == ["sent"], "earlier streams wait for the other side"
        sender.close()
    assert ended == ["sent", "closed"]
    with pytest.raises(LinkClosed):
        await sender.send(chunk, b"")
    assert sender.sent_bytes == 2 * CHUNK_SIZE


async def test_what_the_other_side_consumed_does_not_wait_to_be_sent() -> None:
    connection = Connection()
    sender = ChunkSender(connection)
    await sender.send(ChunkHeader(file_id=FILE, piece=1, size=CHUNK_SIZE), bytes(CHUNK_SIZE))
    with trio.move_on_after(0) as waiting:
        await sender.send(ChunkHeader(file_id=FILE, piece=2, size=1), b"x")
    assert waiting.cancelled_caught
    assert sender.sent_bytes == CHUNK_SIZE, "what was cancelled while it waited wrote nothing"
    sender.acknowledge(1)
    await sender.send(ChunkHeader(file_id=FILE, piece=2, size=1), b"x")
    assert sender.sent_bytes == CHUNK_SIZE + 1
    with pytest.raises(ProtocolError):
        sender.acknowledge(3)
