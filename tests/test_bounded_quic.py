"""QUIC with bounded windows: against peers that leave gaps, send crumbs, never acknowledge. Pairs fed by hand."""

import inspect
import math

import attrs
import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch
from hostile_quic import HostileQuic, crypto_frame, reset_frame, stream_frame
from link_world import device

from poolnet.limits import (
    CHUNK_SIZE,
    MAX_CHUNK_STREAMS,
    MAX_FRAGMENTS,
    MAX_HANDSHAKE_SIZE,
    MAX_UNACKNOWLEDGED_CONTROL,
    MIB,
    PRE_AUTH_WINDOW,
    QUIC_CONNECTION_WINDOW,
    QUIC_STREAM_WINDOW,
)
from poolnet.net.bounded_quic import BoundedQuicConnection
from poolnet.net.quic_settings import AcceptingSettings, dialling_settings

DIALLER, ACCEPTOR = ("10.0.0.1", 1), ("10.0.0.2", 2)


@attrs.define
class Pair:
    """A hostile dialler, an acceptor, and nothing between them."""

    dialler: HostileQuic
    acceptor: BoundedQuicConnection
    now: float = 0.0
    at_dialler: list[QuicEvent] = attrs.Factory(list)
    at_acceptor: list[QuicEvent] = attrs.Factory(list)

    @classmethod
    def connect(cls, *, is_open: bool = False) -> "Pair":
        """Let the handshake pass; `is_open`: both take each other for proven."""
        dialler = HostileQuic(configuration=dialling_settings(device(2).public_key, datagram_size=16370))
        acceptor = HostileQuic(
            configuration=AcceptingSettings(device(2)).make(datagram_size=16370),
            original_destination_connection_id=dialler.original_destination_connection_id,
        )
        dialler.connect(ACCEPTOR, 0.0)
        pair = cls(dialler, acceptor)
        pair.exchange()
        dialler.send_stream_data(0, b"!")
        pair.exchange()
        pair.at_acceptor.clear()
        if is_open:
            acceptor.open_windows()
            dialler.open_windows()
            pair.exchange()
        return pair

    def exchange(self, turns: int = 20) -> None:
        """Pass datagrams back and forth for a while."""
        for _ in range(turns):
            self.now += 0.005
            for source, address, target, events in (
                (self.dialler, DIALLER, self.acceptor, self.at_acceptor),
                (self.acceptor, ACCEPTOR, self.dialler, self.at_dialler),
            ):
                if (timer := source.get_timer()) is not None and timer < self.now:
                    source.handle_timer(self.now)
                for data, _ in source.datagrams_to_send(self.now):
                    target.receive_datagram(data, address, self.now)
                while (event := target.next_event()) is not None:
                    events.append(event)

    def say(self, *frames: tuple[int, bytes]) -> None:
        self.dialler.say(*frames)
        self.exchange(4)

    def reassembly_size(self) -> int:
        """What the acceptor holds because something before it is missing."""
        return sum(len(stream.receiver._buffer) for stream in self.acceptor._streams.values())

    def end(self) -> ConnectionTerminated | None:
        """How the acceptor ended it, if it did."""
        return self.acceptor._close_event

    def delivered(self) -> int:
        return sum(len(event.data) for event in self.at_acceptor if isinstance(event, StreamDataReceived))


def leave_gaps(pair: Pair, stream_ids: range, *, times: int = 12) -> None:
    """Send the last byte of a window that doubles, as an aioquic of its own would have it, on each of some streams."""
    size = PRE_AUTH_WINDOW
    for _ in range(times):
        for stream_id in stream_ids:
            if pair.end() is None:
                pair.say(stream_frame(stream_id, size - 1, b"x"))
        size *= 2


def test_gaps_of_an_unproven_peer_open_nothing() -> None:
    pair = Pair.connect()
    leave_gaps(pair, range(1))
    assert pair.reassembly_size() <= PRE_AUTH_WINDOW
    end = pair.end()
    assert end is not None
    assert end.error_code == QuicErrorCode.FLOW_CONTROL_ERROR


def test_gaps_of_a_proven_peer_open_nothing_either() -> None:
    pair = Pair.connect(is_open=True)
    leave_gaps(pair, range(1))
    assert pair.reassembly_size() <= MAX_UNACKNOWLEDGED_CONTROL
    end = pair.end()
    assert end is not None
    assert end.error_code == QuicErrorCode.FLOW_CONTROL_ERROR


def test_gaps_in_many_chunks_hold_no_more_than_the_window_of_the_connection() -> None:
    pair = Pair.connect(is_open=True)
    for index in range(MAX_CHUNK_STREAMS):
        if pair.end() is None:
            pair.say(stream_frame(2 + 4 * index, QUIC_STREAM_WINDOW - 1, b"x"))
    assert QUIC_CONNECTION_WINDOW // 2 < pair.reassembly_size() <= QUIC_CONNECTION_WINDOW
    assert pair.end() is not None


def test_the_window_of_a_chunk_stream_never_moves() -> None:
    pair = Pair.connect(is_open=True)
    for start in range(0, QUIC_STREAM_WINDOW, 8192):
        pair.say(stream_frame(2, start, bytes(8192)))
    assert pair.delivered() == QUIC_STREAM_WINDOW
    assert pair.end() is None
    pair.say(stream_frame(2, QUIC_STREAM_WINDOW, b"x"))
    assert pair.end() is not None


def test_what_is_delivered_moves_the_windows_as_far_as_it_takes() -> None:
    pair = Pair.connect(is_open=True)
    pair.dialler.send_stream_data(0, bytes(5 * MIB))
    for _ in range(5 * QUIC_CONNECTION_WINDOW // CHUNK_SIZE):
        while not pair.dialler.may_open_chunk_stream():
            pair.exchange(1)
        stream_id = pair.dialler.get_next_available_stream_id(is_unidirectional=True)
        pair.dialler.send_stream_data(stream_id, bytes(CHUNK_SIZE), end_stream=True)
    pair.exchange(200)
    assert pair.delivered() == 5 * QUIC_CONNECTION_WINDOW + 5 * MIB
    assert pair.dialler.held(0) == 0


def test_chunks_that_are_given_up_do_not_use_the_window_up() -> None:
    pair = Pair.connect(is_open=True)
    for index in range(3 * QUIC_CONNECTION_WINDOW // QUIC_STREAM_WINDOW):
        pair.say(stream_frame(2 + 4 * index, 0, b"begun"), reset_frame(2 + 4 * index, QUIC_STREAM_WINDOW))
    assert pair.end() is None
    pair.dialler._remote_max_data_used = pair.acceptor._local_max_data.used
    pair.dialler.send_stream_data(0, bytes(MIB))
    pair.exchange(50)
    assert pair.delivered() >= MIB


def test_a_stream_of_crumbs_ends_the_connection() -> None:
    pair = Pair.connect()
    pair.say(*(stream_frame(0, 2 * index + 2, b"x") for index in range(4 * MAX_FRAGMENTS)))
    assert pair.end() is not None
    assert all(len(stream.receiver._ranges) <= MAX_FRAGMENTS + 1 for stream in pair.acceptor._streams.values())


@pytest.mark.parametrize("offsets", [[MAX_HANDSHAKE_SIZE], range(1, 4 * MAX_FRAGMENTS, 2)], ids=["gap", "crumbs"])
def test_a_handshake_full_of_gaps_ends_the_connection(offsets: list[int]) -> None:
    pair = Pair.connect()
    pair.say(*(crypto_frame(offset, b"x") for offset in offsets))
    end = pair.end()
    assert end is not None
    assert end.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


@pytest.mark.parametrize("is_open", [False, True], ids=["before the proof", "after it"])
def test_a_message_of_the_handshake_that_never_ends_is_not_collected(is_open: bool) -> None:
    pair = Pair.connect(is_open=is_open)
    message = b"\x04" + (2**24 - 1).to_bytes(3, "big") + bytes(4 * MAX_HANDSHAKE_SIZE)
    for start in range(0, len(message), 1000):
        pair.say(crypto_frame(start, message[start : start + 1000]))
    end = pair.end()
    assert end is not None
    assert end.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert len(pair.acceptor.tls._receive_buffer) <= MAX_HANDSHAKE_SIZE


@pytest.mark.parametrize("stream_id", [2, 4], ids=["a chunk", "a second control stream"])
def test_an_unproven_peer_has_one_stream(stream_id: int) -> None:
    pair = Pair.connect()
    pair.say(stream_frame(0, 0, b"x"), stream_frame(stream_id, 1000, b"x"))
    end = pair.end()
    assert end is not None
    assert end.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def test_a_proven_peer_has_one_control_stream_and_some_chunks() -> None:
    for allowed, refused in ((4 * MAX_CHUNK_STREAMS - 2, 4 * MAX_CHUNK_STREAMS + 2), (0, 4)):
        pair = Pair.connect(is_open=True)
        pair.say(stream_frame(allowed, 1000, b"x"))
        assert pair.end() is None
        pair.say(stream_frame(refused, 1000, b"x"))
        assert pair.end() is not None


def test_a_dialler_takes_no_bidirectional_stream_of_the_acceptor() -> None:
    pair = Pair.connect(is_open=True)
    assert isinstance(pair.acceptor, HostileQuic)
    pair.acceptor.say(stream_frame(1, 1000, b"x"))
    pair.exchange(4)
    assert pair.dialler._close_event is not None


def test_a_peer_that_never_acknowledges_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolnet.net.bounded_quic.MAX_UNACKNOWLEDGED_PACKETS", 100)
    pair = Pair.connect(is_open=True)
    pair.dialler.acknowledges = False
    for _ in range(400):  # makes the acceptor acknowledge, and an acknowledgement is kept until it is acknowledged
        pair.say()
    end = pair.end()
    assert end is not None
    assert "acknowledged" in end.reason_phrase


def test_unfinished_chunks_and_unacknowledged_bytes_are_counted() -> None:
    pair = Pair.connect(is_open=True)
    for index in range(MAX_CHUNK_STREAMS):
        assert pair.dialler.may_open_chunk_stream()
        pair.dialler.send_stream_data(2 + 4 * index, bytes(1000), end_stream=True)
    assert not pair.dialler.may_open_chunk_stream()
    pair.dialler.send_stream_data(0, bytes(1000))
    assert pair.dialler.held(0) == 1000
    pair.exchange()
    assert pair.dialler.held(0) == 0
    assert pair.dialler.may_open_chunk_stream()


def unacknowledged(pair: Pair) -> int:
    """How many packets of the dialler wait to be acknowledged."""
    return len(pair.dialler._spaces[Epoch.ONE_RTT].sent_packets)


def write(pair: Pair, data: bytes, *, lose: int = 0) -> None:
    """Have the dialler send some bytes; of the datagrams that takes, the first `lose` do not arrive."""
    pair.dialler.send_stream_data(0, data)
    for datagram, _ in pair.dialler.datagrams_to_send(pair.now)[lose:]:
        pair.acceptor.receive_datagram(datagram, DIALLER, pair.now)


def answer(pair: Pair, *, after_s: float) -> int:
    """Let time pass and the acceptor send what it has; return how many datagrams that are."""
    pair.now += after_s
    datagrams = pair.acceptor.datagrams_to_send(pair.now)
    for data, _ in datagrams:
        pair.dialler.receive_datagram(data, ACCEPTOR, pair.now)
    return len(datagrams)


@pytest.fixture
def quiet() -> Pair:
    """Two that are proven and have nothing more to say to each other."""
    pair = Pair.connect(is_open=True)
    pair.exchange()
    assert unacknowledged(pair) == 0
    pair.now = math.ceil(pair.now / 0.05) * 0.05 + 0.001  # acknowledgements leave at multiples
    return pair


def test_small_datagrams_are_acknowledged_together_and_in_time(quiet: Pair) -> None:
    for _ in range(5):
        write(quiet, b"x")
        assert answer(quiet, after_s=0.005) == 0
    assert unacknowledged(quiet) == 5
    assert answer(quiet, after_s=0.025) == 1
    assert unacknowledged(quiet) == 0


def test_an_acknowledgement_goes_with_data(quiet: Pair) -> None:
    write(quiet, b"x")
    quiet.acceptor.send_stream_data(0, b"y")
    assert answer(quiet, after_s=0.001) == 1
    assert unacknowledged(quiet) == 0


@pytest.mark.parametrize("is_late", [False, True])
def test_a_large_datagram_is_acknowledged_soon(quiet: Pair, is_late: bool) -> None:
    if is_late:
        write(quiet, b"x")
    write(quiet, bytes(1100))
    assert answer(quiet, after_s=0.002) == 1
    assert unacknowledged(quiet) == 0


def test_many_small_datagrams_are_acknowledged_soon(quiet: Pair) -> None:
    for _ in range(10):
        write(quiet, b"x")
        quiet.now += 0.001  # QUIC paces them
    assert answer(quiet, after_s=0.002) == 1


def test_what_follows_a_loss_is_acknowledged_soon(quiet: Pair) -> None:
    write(quiet, b"x", lose=1)
    write(quiet, b"y")
    assert answer(quiet, after_s=0.002) == 1
    assert unacknowledged(quiet) == 1


def test_before_the_proof_acknowledgements_are_not_held_back() -> None:
    pair = Pair.connect()
    write(pair, b"x")
    assert answer(pair, after_s=0.002) == 1


def test_both_sides_know_how_long_the_other_holds_acknowledgements_back() -> None:
    pair = Pair.connect()
    assert pair.dialler._loss.max_ack_delay == pair.acceptor._loss.max_ack_delay == 0.06


@pytest.mark.parametrize(
    "name",
    [
        "_write_connection_limits",
        "_write_stream_limits",
        "_handle_stream_frame",
        "_handle_crypto_frame",
        "datagrams_to_send",
        "next_event",
        "receive_datagram",
        "_serialize_transport_parameters",
    ],
)
def test_aioquic_still_has_what_is_overridden(name: str) -> None:
    """If this fails with a newer aioquic, read what it does there now before touching bounded_quic.py."""
    theirs, ours = (
        list(inspect.signature(getattr(cls, name)).parameters) for cls in (QuicConnection, BoundedQuicConnection)
    )
    assert theirs == ours
    assert name in vars(BoundedQuicConnection)


def test_aioquic_still_has_the_state_that_is_read_and_set() -> None:
    """The same for attributes; each is named in bounded_quic.py."""
    pair = Pair.connect()
    for name in ("_local_max_data", "_local_max_streams_bidi", "_local_max_streams_uni"):
        assert {"value", "sent", "used"} <= set(vars(getattr(pair.acceptor, name)))
    pair.dialler.send_stream_data(0, b"x")
    pair.exchange()
    stream = pair.acceptor._streams[0]
    assert stream.max_stream_data_local == QUIC_STREAM_WINDOW
    assert stream.receiver.starting_offset() == stream.receiver.highest_offset == 2
    assert len(stream.receiver._ranges) == len(stream.sender._buffer) == 0
    assert stream.sender.is_finished is False
    assert all(hasattr(space, "sent_packets") for space in pair.acceptor._spaces.values())
    assert set(pair.acceptor._crypto_streams) == set(pair.acceptor._spaces)
    space = pair.acceptor._spaces[Epoch.ONE_RTT]
    assert space.ack_at is None
    assert len(space.ack_queue) <= 1
    assert stream in pair.acceptor._streams_queue
    assert stream.sender.buffer_is_empty is True
