"""The short way for packets of bulk, compared with aioquic's own. Pairs fed by hand, over a network that may be bad."""

import random
from collections import Counter

import attrs
import pytest
from aioquic.buffer import encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch
from hypothesis import given, settings
from hypothesis import strategies as st
from link_world import device

from poolnet.limits import MAX_DATAGRAMS_PER_TURN, PRE_AUTH_WINDOW, QUIC_STREAM_WINDOW
from poolnet.net.bulk_quic import BulkQuicConnection, _protect
from poolnet.net.quic_settings import AcceptingSettings, dialling_settings

DIALLER, ACCEPTOR = ("10.0.0.1", 1), ("10.0.0.2", 2)
STEP_S = 0.005


@attrs.define
class Weather:
    """What the network does with a datagram, each with a probability."""

    seed: int = 0
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    damaged: float = 0.0
    dice: random.Random = attrs.Factory(lambda self: random.Random(self.seed), takes_self=True)
    delayed: list[bytes] = attrs.Factory(list)

    def pass_on(self, datagrams: list[bytes]) -> list[bytes]:
        arriving, self.delayed = self.delayed, []
        for data in datagrams:
            if self.dice.random() < self.lost:
                continue
            if self.dice.random() < self.damaged:
                at = self.dice.randrange(len(data))
                arriving.append(data[:at] + bytes((data[at] ^ 1 << self.dice.randrange(8),)) + data[at + 1 :])
            target = self.delayed if self.dice.random() < self.late else arriving
            target += [data] * (2 if self.dice.random() < self.doubled else 1)
        return arriving


@attrs.define
class Pair:
    """Two connections and a network; the dialler sends, the acceptor receives."""

    dialler: QuicConnection
    acceptor: QuicConnection
    weather: Weather = attrs.Factory(Weather)
    now: float = 0.0
    events: list[QuicEvent] = attrs.Factory(list)
    sizes: Counter[str] = attrs.Factory(Counter)

    @classmethod
    def connect(
        cls,
        dialler: type[QuicConnection] = BulkQuicConnection,
        acceptor: type[QuicConnection] = BulkQuicConnection,
        *,
        datagram_size: int = 1452,
    ) -> "Pair":
        one = dialler(configuration=dialling_settings(device(2).public_key, datagram_size=datagram_size))
        other = acceptor(
            configuration=AcceptingSettings(device(2)).make(datagram_size=datagram_size),
            original_destination_connection_id=one.original_destination_connection_id,
        )
        one.connect(ACCEPTOR, 0.0)
        pair = cls(one, other)
        pair.exchange(20)
        assert one._handshake_confirmed
        assert other._handshake_confirmed
        pair.events.clear()
        return pair

    def exchange(self, turns: int) -> None:
        for _ in range(turns):
            self.now += STEP_S
            self._turn(self.dialler, self.acceptor, DIALLER)
            self._turn(self.acceptor, self.dialler, ACCEPTOR)

    def _turn(self, source: QuicConnection, target: QuicConnection, address: tuple[str, int]) -> None:
        if (timer := source.get_timer()) is not None and timer < self.now:
            source.handle_timer(self.now)
        for data in self.weather.pass_on([data for data, _ in source.datagrams_to_send(self.now)]):
            target.receive_datagram(data, address, self.now)
        while (event := target.next_event()) is not None:
            if target is self.acceptor:
                self.events.append(event)

    def received(self) -> dict[int, bytes]:
        """The streams that are complete."""
        streams: dict[int, bytes] = {}
        complete = set()
        for event in self.events:
            if isinstance(event, StreamDataReceived):
                streams[event.stream_id] = streams.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    complete.add(event.stream_id)
        return {stream_id: streams[stream_id] for stream_id in complete}

    def write_chunks(self, count: int, size: int, *, seed: int = 1) -> dict[int, bytes]:
        chunks = {2 + 4 * index: random.Random(seed + index).randbytes(size) for index in range(count)}
        for stream_id, data in chunks.items():
            self.dialler.send_stream_data(stream_id, data[:40])
            self.dialler.send_stream_data(stream_id, data[40:], end_stream=True)
        return chunks

    def deliver(self, payload: bytes) -> None:
        """Have the acceptor get a packet of the dialler with this payload and nothing else."""
        sender = self.dialler
        keys = sender._cryptos[Epoch.ONE_RTT].send
        first = 0x41 | keys.key_phase << 2
        data = _protect(keys, first, sender._peer_cid.cid, sender._packet_number, payload)
        sender._packet_number += 1
        self.acceptor.receive_datagram(data, DIALLER, self.now)


def stream_frame(stream_id: int, offset: int, data: bytes, *, end: bool = False) -> bytes:
    kind = 8 | 4 | 2 | end
    return bytes((kind,)) + b"".join(map(encode_uint_var, (stream_id, offset, len(data)))) + data


@pytest.fixture
def handled_by_aioquic(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many packets aioquic itself has opened and built."""
    counts: Counter[str] = Counter()
    opened, written = QuicConnection._payload_received, QuicConnection._write_stream_frame

    def count_opened(*args, **kwargs):  # type: ignore[no-untyped-def]
        counts["opened"] += 1
        return opened(*args, **kwargs)

    def count_written(*args, **kwargs):  # type: ignore[no-untyped-def]
        counts["written"] += 1
        return written(*args, **kwargs)

    monkeypatch.setattr(QuicConnection, "_payload_received", count_opened)
    monkeypatch.setattr(QuicConnection, "_write_stream_frame", count_written)
    return counts


@pytest.mark.parametrize("datagram_size", [1200, 1452, 16370])
def test_packets_of_chunks_take_the_short_way(handled_by_aioquic: Counter[str], datagram_size: int) -> None:
    pair = Pair.connect(datagram_size=datagram_size)
    handled_by_aioquic.clear()
    before = pair.dialler._packet_number
    chunks = pair.write_chunks(4, 256 * 1024)
    pair.exchange(400)
    assert pair.received() == chunks
    packets = pair.dialler._packet_number - before
    assert packets < 1.1 * 4 * 256 * 1024 / (datagram_size - 60) + 100
    assert handled_by_aioquic["written"] == 0
    acknowledgements = pair.acceptor._packet_number
    assert handled_by_aioquic["opened"] < packets / 4 + acknowledgements


@pytest.mark.parametrize(
    ("dialler", "acceptor"),
    [
        (BulkQuicConnection, BulkQuicConnection),
        (BulkQuicConnection, QuicConnection),
        (QuicConnection, BulkQuicConnection),
    ],
)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lost=st.sampled_from([0.0, 0.02, 0.08]),
    doubled=st.sampled_from([0.0, 0.1]),
    late=st.sampled_from([0.0, 0.1]),
    damaged=st.sampled_from([0.0, 0.05]),
)
def test_chunks_arrive_whole_whoever_sends_them_in_any_weather(
    dialler: type[QuicConnection],
    acceptor: type[QuicConnection],
    seed: int,
    lost: float,
    doubled: float,
    late: float,
    damaged: float,
) -> None:
    pair = Pair.connect(dialler, acceptor)
    pair.weather = Weather(seed=seed, lost=lost, doubled=doubled, late=late, damaged=damaged)
    chunks = pair.write_chunks(4, 20_000, seed=seed)
    pair.dialler.send_stream_data(0, b"c" * 5000, end_stream=True)
    for _ in range(200):
        pair.exchange(10)
        if len(pair.received()) == 5:
            break
    assert pair.received() == {**chunks, 0: b"c" * 5000}
    pair.weather = Weather()
    pair.exchange(200)
    assert pair.dialler._loss.bytes_in_flight == 0


@pytest.mark.parametrize("updates", ["dialler", "acceptor"])
def test_a_change_of_keys_in_the_middle_of_chunks_is_followed(updates: str) -> None:
    pair = Pair.connect()
    chunks = pair.write_chunks(4, 100_000)
    pair.exchange(3)
    getattr(pair, updates).request_key_update()
    pair.exchange(300)
    assert pair.received() == chunks
    assert pair.dialler._cryptos[Epoch.ONE_RTT].send.key_phase == 1
    assert pair.acceptor._cryptos[Epoch.ONE_RTT].recv.key_phase == 1


def test_a_damaged_datagram_changes_nothing() -> None:
    pair = Pair.connect()
    pair.write_chunks(1, 1300)
    (datagram,) = [data for data, _ in pair.dialler.datagrams_to_send(pair.now)]
    space = pair.acceptor._spaces[Epoch.ONE_RTT]
    before = (list(space.ack_queue), space.largest_received_packet, space.expected_packet_number)
    for at in range(0, len(datagram), 7):
        damaged = datagram[:at] + bytes((datagram[at] ^ 0x20,)) + datagram[at + 1 :]
        pair.acceptor.receive_datagram(damaged, DIALLER, pair.now)
    for size in range(40):
        pair.acceptor.receive_datagram(datagram[:size], DIALLER, pair.now)
    assert (list(space.ack_queue), space.largest_received_packet, space.expected_packet_number) == before
    assert pair.acceptor.next_event() is None
    pair.acceptor.receive_datagram(datagram, DIALLER, pair.now)
    assert isinstance(pair.acceptor.next_event(), StreamDataReceived)


ENDED = stream_frame(2, 0, b"whole", end=True)
LONE_FRAMES = {
    "the next bytes": [stream_frame(2, 0, b"one"), stream_frame(2, 3, b"two")],
    "the end": [stream_frame(2, 0, b"one"), stream_frame(2, 3, b"two", end=True)],
    "an empty end": [stream_frame(2, 0, b"one"), stream_frame(2, 3, b"", end=True)],
    "without a length": [stream_frame(2, 0, b"one"), bytes((8 | 4,)) + b"\x02\x03" + b"two"],
    "bytes of an ended stream": [ENDED, stream_frame(2, 0, b"whole")],
    "bytes beyond the end": [
        stream_frame(2, 0, b"x"),
        stream_frame(2, 5, b"y", end=True),
        stream_frame(2, 1, b"x" * 9),
    ],
    "an end before what came": [stream_frame(2, 0, b"x"), stream_frame(2, 5, b"y"), stream_frame(2, 1, b"x", end=True)],
    "another end": [stream_frame(2, 0, b"x"), stream_frame(2, 5, b"y", end=True), stream_frame(2, 1, b"x", end=True)],
    "what fills a gap": [stream_frame(2, 0, b"x"), stream_frame(2, 2, b"z"), stream_frame(2, 1, b"y")],
    "more than fills it": [stream_frame(2, 0, b"x"), stream_frame(2, 2, b"z"), stream_frame(2, 1, b"yza")],
    "known bytes and more": [stream_frame(2, 0, b"abc"), stream_frame(2, 1, b"bcd")],
    "beyond the window of the stream": [stream_frame(2, 0, b"x"), stream_frame(2, 1, bytes(QUIC_STREAM_WINDOW))],
    "beyond the window of the connection": [stream_frame(2, 0, b"x"), stream_frame(2, 1, bytes(PRE_AUTH_WINDOW))],
    "a stream that only we send on": [stream_frame(3, 0, b"x")],
    "too many streams": [stream_frame(4 * 1000 + 2, 0, b"x")],
    "a frame cut short": [stream_frame(2, 0, b"x"), stream_frame(2, 1, b"four")[:-2]],
    "two frames": [stream_frame(2, 0, b"x"), stream_frame(2, 1, b"y") + stream_frame(6, 0, b"z")],
    "a frame and padding": [stream_frame(2, 0, b"x"), stream_frame(2, 1, b"y") + bytes(20)],
    "an unknown frame": [stream_frame(2, 0, b"x"), b"\x2f\x00\x00\x00"],
    "a frame that is not for us": [stream_frame(2, 0, b"x"), b"\x1e" + bytes(9)],
}


def outcome(acceptor: type[QuicConnection], payloads: list[bytes]) -> tuple[object, ...]:
    """Everything that a connection knows after some payloads."""
    pair = Pair.connect(acceptor=acceptor)
    pair.acceptor.send_stream_data(3, b"ours")
    pair.acceptor._packet_number = 100
    pair.dialler._packet_number = 100
    for payload in payloads:
        pair.now += STEP_S
        pair.deliver(payload)
    events = []
    while (event := pair.acceptor.next_event()) is not None:
        events.append(event)
    space, end = pair.acceptor._spaces[Epoch.ONE_RTT], pair.acceptor._close_event
    return (
        events,
        None if end is None else (end.error_code, end.frame_type, end.reason_phrase),
        pair.acceptor._local_max_data.used,
        list(space.ack_queue),
        space.ack_at,
        space.expected_packet_number,
        space.largest_received_time,
        pair.acceptor._spin_bit,
        pair.acceptor._close_at,
    )


@pytest.mark.parametrize("payloads", LONE_FRAMES.values(), ids=LONE_FRAMES)
def test_frames_are_judged_as_aioquic_judges_them(payloads: list[bytes]) -> None:
    ours, theirs = outcome(BulkQuicConnection, payloads), outcome(QuicConnection, payloads)
    assert ours[1:] == theirs[1:]
    assert ours[0] == theirs[0]


def test_the_cases_above_end_connections_in_all_ways_there_are() -> None:
    codes = {end[0] for _, end, *_ in (outcome(BulkQuicConnection, each) for each in LONE_FRAMES.values()) if end}  # type: ignore[misc, index]
    assert codes == {
        QuicErrorCode.FINAL_SIZE_ERROR,
        QuicErrorCode.FLOW_CONTROL_ERROR,
        QuicErrorCode.FRAME_ENCODING_ERROR,
        QuicErrorCode.PROTOCOL_VIOLATION,
        QuicErrorCode.STREAM_LIMIT_ERROR,
        QuicErrorCode.STREAM_STATE_ERROR,
    }


def test_control_leaves_before_chunks_that_wait_already() -> None:
    pair = Pair.connect()
    pair.write_chunks(4, 100_000)
    pair.dialler.send_stream_data(0, b"urgent")
    first, *others = pair.dialler.datagrams_to_send(pair.now)
    assert others
    pair.acceptor.receive_datagram(first[0], DIALLER, pair.now)
    event = pair.acceptor.next_event()
    assert isinstance(event, StreamDataReceived)
    assert event.data == b"urgent"


def test_the_first_chunk_is_complete_first() -> None:
    pair = Pair.connect()
    pair.write_chunks(6, 30_000)
    pair.exchange(100)
    ends = [event.stream_id for event in pair.events if isinstance(event, StreamDataReceived) and event.end_stream]
    assert ends == [2, 6, 10, 14, 18, 22]


def burst(pair: Pair, *, packet_time: float, bucket: float) -> int:
    """Return how many datagrams leave at once, with a wide window and a pacer in this state."""
    pair.dialler._loss._cc.congestion_window = 10_000_000
    pacer = pair.dialler._loss._pacer
    pacer.packet_time, pacer.bucket_max, pacer.bucket_time = packet_time, bucket, bucket
    pacer.evaluation_time = pair.now
    return len(pair.dialler.datagrams_to_send(pair.now))


def test_the_pacer_may_be_overdrawn_by_a_millisecond_and_no_more() -> None:
    pair = Pair.connect()
    pair.write_chunks(1, 60_000)
    assert burst(pair, packet_time=0.0001, bucket=0.0005) in (15, 16)
    timer = pair.dialler.get_timer()
    assert timer is not None
    assert pair.now + 0.001 <= timer <= pair.now + 0.0013
    assert pair.dialler.datagrams_to_send(pair.now + 0.0005) != []
    assert pair.dialler.datagrams_to_send(pair.now + 0.0005) == []


def test_control_does_not_wait_until_the_overdrawn_pacer_has_recovered() -> None:
    pair = Pair.connect()
    pair.write_chunks(1, 60_000)
    burst(pair, packet_time=0.0001, bucket=0.0005)
    pair.dialler.send_stream_data(0, b"urgent")
    assert len(pair.dialler.datagrams_to_send(pair.now)) == 1
    assert pair.dialler._streams[0].sender.buffer_is_empty


def test_much_control_is_paced_as_well() -> None:
    pair = Pair.connect()
    pair.dialler.send_stream_data(0, bytes(60_000))
    assert burst(pair, packet_time=0.0001, bucket=0.0005) in range(20, 27)
    timer = pair.dialler.get_timer()
    assert timer is not None
    assert timer - pair.now == pytest.approx(0.0001)


def test_an_overdrawn_pacer_wakes_nobody_who_has_nothing_to_send() -> None:
    pair = Pair.connect()
    pair.write_chunks(1, 14 * 1400)
    burst(pair, packet_time=0.0001, bucket=0.0005)
    assert pair.dialler._streams_queue
    assert pair.dialler.datagrams_to_send(pair.now) == []
    timer = pair.dialler.get_timer()
    assert timer is not None
    assert timer > pair.now + 0.01


def test_a_turn_is_bounded_and_the_rest_follows_at_once() -> None:
    pair = Pair.connect()
    pair.dialler._remote_max_data = 10_000_000
    pair.write_chunks(4, 60_000)
    assert burst(pair, packet_time=0.000001, bucket=1.0) == MAX_DATAGRAMS_PER_TURN
    timer = pair.dialler.get_timer()
    assert timer == pair.now
    assert len(pair.dialler.datagrams_to_send(pair.now)) == MAX_DATAGRAMS_PER_TURN


def test_no_more_is_in_flight_than_the_window_allows() -> None:
    pair = Pair.connect()
    pair.write_chunks(4, 60_000)
    loss = pair.dialler._loss
    loss._cc.congestion_window = 20_000
    pair.dialler.datagrams_to_send(pair.now)
    assert 20_000 - 1452 < loss.bytes_in_flight <= 20_000
    packets = list(pair.dialler._spaces[Epoch.ONE_RTT].sent_packets.values())
    assert loss.bytes_in_flight == sum(packet.sent_bytes for packet in packets if packet.in_flight)


def test_silence_after_a_burst_ends_in_a_probe_that_carries_what_is_missing() -> None:
    pair = Pair.connect()
    chunks = pair.write_chunks(1, 1000)
    pair.dialler.datagrams_to_send(pair.now)  # and lost
    pair.exchange(100)
    assert pair.received() == chunks


@pytest.mark.parametrize(
    "path",
    [
        "_ack_delay",
        "_close_at",
        "_close_pending",
        "_handshake_confirmed",
        "_local_max_data.used",
        "_local_max_data.value",
        "_loss._pacer.bucket_time",
        "_loss._pacer.packet_time",
        "_loss._pacer.update_bucket",
        "_loss.bytes_in_flight",
        "_loss.congestion_window",
        "_loss.on_packet_sent",
        "_max_datagram_size",
        "_pacing_at",
        "_packet_number",
        "_peer_cid.cid",
        "_probe_pending",
        "_remote_max_data",
        "_remote_max_data_used",
        "_spin_bit",
        "_spin_highest_pn",
        "_state",
        "_streams_queue",
        "_payload_received",
        "_ack_eliciting_sent_since_receipt",
        "_idle_timeout",
        "host_cid",
    ],
)
def test_aioquic_still_has_the_state_that_is_used(path: str) -> None:
    """If this fails with a newer aioquic, read what it does there now before touching bulk_quic.py."""
    thing: object = Pair.connect(QuicConnection, QuicConnection).dialler
    for name in path.split("."):
        assert hasattr(thing, name)
        thing = getattr(thing, name)


def test_aioquic_still_has_the_state_of_streams_keys_and_packets_that_is_used() -> None:
    pair = Pair.connect(QuicConnection, QuicConnection)
    pair.dialler.send_stream_data(2, b"x")
    stream = pair.dialler._streams[2]
    sender = stream.sender
    assert (sender.next_offset, sender.highest_offset, sender.buffer_is_empty, sender.reset_pending) == (
        0,
        0,
        False,
        False,
    )
    assert (stream.is_blocked, stream.receiver.is_finished, stream.receiver._final_size) == (False, True, None)
    keys = pair.dialler._cryptos[Epoch.ONE_RTT]
    assert keys._update_key_requested is False
    assert keys.send.hp is not None
    assert len(keys.send.hp._mask(bytes(16))) >= 5
    assert keys.send.aead is not None
    assert len(keys.send.aead.encrypt(b"", b"", 0)) == 16
    assert {"sent_time", "sent_bytes", "delivery_handlers"} <= set(QuicSentPacket.__dataclass_fields__)
