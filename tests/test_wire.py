"""What goes over the wire: round trips, cuts, limits, and garbage that raises only WireError."""

import tracemalloc
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poolnet.clock import MAX_HLC, Hlc
from poolnet.errors import WireError
from poolnet.ids import FileId, PoolId, PublicKey
from poolnet.limits import (
    CHUNK_SIZE,
    KIB,
    MAX_CBOR_DEPTH,
    MAX_FILE_NAME_BYTES,
    MAX_FRAME_SIZE,
    MAX_HOPS,
    MAX_IDS_PER_FRAME,
    MAX_IDS_PER_WANT,
    MAX_OLDER_MESSAGES,
    MAX_RANGES_PER_FRAME,
    MAX_TEXT_CHARS,
    MAX_WANT_WINDOW,
    RING_COUNT,
)
from poolnet.ranges import RangeSet
from poolnet.wire import bodies, claims, link_frames, pool_frames, swarm_frames, sync_frames
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor
from poolnet.wire.framing import FrameBuffer, FrameSet, UnknownFrame, encode_frame, frame, frame_number_untrusted
from poolnet.wire.message import (
    Message,
    MessageContent,
    decode_message_untrusted,
    encode_content,
    encode_message,
    message_id,
    message_id_untrusted,
)
from poolnet.wire.signal import Signal, decode_signal_untrusted, encode_signal

id32 = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)
id_lists = st.lists(id32, max_size=20).map(tuple)
statements = st.lists(st.binary(max_size=100), max_size=4).map(tuple)
chars = st.characters(exclude_categories=["Cs"])
pieces = st.sets(st.integers(0, 200)).map(lambda values: RangeSet.of(values).to_ranges())
hosts = (
    st.ip_addresses()
    .filter(lambda host: not host.is_unspecified and not host.is_multicast and not getattr(host, "ipv4_mapped", None))
    .map(str)
) | st.just("fe80::1%2")
numbers = st.integers(0, 2**32 - 1)
bounds = st.one_of(
    st.tuples(st.integers(0, 2**63 - 1), st.binary(max_size=32)).map(claims.as_on_wire),
    st.sampled_from([claims.LOWEST, claims.HIGHEST]),
)
claim_values = st.one_of(
    st.builds(claims.Equal, bounds),
    st.builds(claims.Fingerprint, bounds, st.binary(min_size=16, max_size=16)),
    st.builds(claims.Listing, bounds, id_lists),
    st.builds(claims.More, bounds, id_lists),
)
addresses = st.builds(sync_frames.Address, host=hosts, port=st.integers(1, 65535))
lane_ids, lane_tokens = (
    st.binary(min_size=size, max_size=size) for size in (link_frames.LANE_ID_SIZE, link_frames.LANE_TOKEN_SIZE)
)
entries = st.builds(sync_frames.RosterEntry, node=id32, places=st.lists(u64, max_size=RING_COUNT).map(tuple))


def text(max_size: int, *, min_size: int = 0) -> st.SearchStrategy[str]:
    return st.text(chars, min_size=min_size, max_size=max_size)


FIELDS: dict[type[Any], dict[str, st.SearchStrategy[Any]]] = {
    link_frames.Hello: {
        "purpose": st.integers(0, 255),
        "pool_id": id32,
        "public_key": id32,
        "nonce": id32,
        "credentials": statements,
    },
    link_frames.Proof: {"signature": st.binary(min_size=64, max_size=64)},
    link_frames.Credit: {"control_bytes": u64, "chunks": u64},
    link_frames.Ping: {"number": u64, "unix_ms": u64},
    link_frames.Pong: {"number": u64, "unix_ms": u64},
    link_frames.Goodbye: {"code": text(200), "reason": text(200)},
    link_frames.LaneOffer: {
        "lane_id": lane_ids,
        "token": lane_tokens,
        "port": st.integers(1, 65535),
        "hosts": st.lists(hosts, max_size=8).map(tuple),
    },
    link_frames.LanePass: {},
    link_frames.LaneEnded: {"lane_id": lane_ids, "chunks": u64},
    link_frames.LaneHello: {"lane_id": lane_ids, "token": lane_tokens},
    link_frames.LaneWelcome: {},
    link_frames.LaneReport: {"received": u64, "consumed": u64},
    pool_frames.StatementIds: {"ids": id_lists},
    pool_frames.WantStatements: {"ids": id_lists},
    pool_frames.Statements: {"statements": statements},
    pool_frames.Gossip: {"hops": st.integers(0, 255), "message": st.binary(max_size=300)},
    pool_frames.GossipHave: {"ids": id_lists},
    pool_frames.Graft: {"ids": id_lists},
    pool_frames.Prune: {},
    pool_frames.OpenComparison: {
        "run": numbers,
        "lower": bounds,
        "upper": bounds,
        "count": st.integers(0, MAX_OLDER_MESSAGES),
        "suggested": st.none() | bounds,
        "fingerprint": st.binary(min_size=16, max_size=16),
        "scope": st.integers(0, 255),
    },
    pool_frames.Compare: {
        "run": numbers,
        "is_answer": st.booleans(),
        "lower": bounds,
        "claims": st.lists(claim_values, max_size=5).map(tuple),
        "known_from": st.none() | bounds,
        "scope": st.integers(0, 255),
    },
    pool_frames.WantMessages: {"number": numbers, "ids": id_lists, "scope": st.integers(0, 255)},
    pool_frames.Messages: {
        "number": numbers,
        "is_last": st.booleans(),
        "messages": statements,
        "scope": st.integers(0, 255),
    },
    swarm_frames.Interest: {"file_id": id32, "interested": st.booleans(), "hops": st.integers(0, MAX_HOPS)},
    swarm_frames.Have: {"file_id": id32, "pieces": pieces},
    swarm_frames.Want: {
        "file_id": id32,
        "pieces": pieces,
        "count": st.integers(1, MAX_WANT_WINDOW),
        "hops": st.integers(0, MAX_HOPS),
    },
    swarm_frames.Promise: {"file_id": id32, "pieces": pieces},
    swarm_frames.Withdraw: {"file_id": id32, "pieces": pieces},
    swarm_frames.Unwant: {"file_id": id32, "pieces": pieces},
    swarm_frames.Relay: {
        "file_id": id32,
        "hops": st.integers(0, MAX_HOPS),
        "is_fetching": st.booleans(),
        "count": st.integers(0, swarm_frames.MAX_PIECES),
    },
    swarm_frames.ChunkHeader: {
        "file_id": id32,
        "piece": st.integers(0, swarm_frames.MAX_PIECES),
        "size": st.integers(0, CHUNK_SIZE),
    },
    sync_frames.Attach: {"last_epoch": u64},
    sync_frames.Attached: {"epoch": u64, "observed": addresses, "unix_ms": u64},
    sync_frames.RosterPage: {"entries": st.lists(entries, max_size=5).map(tuple), "last": st.booleans()},
    sync_frames.RosterJoined: {"epoch": u64, "entry": entries},
    sync_frames.RosterLeft: {"epoch": u64, "node": id32},
    sync_frames.Refused: {"code": text(32), "message": text(200)},
    sync_frames.SendSignal: {"to": id32, "body": st.binary(max_size=300)},
    sync_frames.Signalled: {"sender": id32, "body": st.binary(max_size=300)},
    sync_frames.Report: {"node": id32},
    sync_frames.ReportConduct: {"node": id32, "kind": st.integers(0, 255)},
    sync_frames.Detach: {},
}
ALL_CLASSES = tuple(
    dict.fromkeys(
        (
            *link_frames.LINK_FRAMES,
            *link_frames.LANE_FRAMES,
            *pool_frames.POOL_FRAMES,
            *swarm_frames.SWARM_FRAMES,
            *sync_frames.SYNC_FRAMES,
            swarm_frames.ChunkHeader,
        )
    )
)
ALL_FRAMES = FrameSet(ALL_CLASSES)
frames = st.sampled_from(ALL_CLASSES).flatmap(lambda cls: st.builds(cls, **FIELDS[cls]))
cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | text(40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


class TestCbor:
    @given(cbor_values)
    def test_what_is_written_is_read_back_unless_it_nests_too_deep(self, value: Any) -> None:
        encoded = encode_cbor(value)
        if depth(value) <= MAX_CBOR_DEPTH:
            assert decode_cbor_untrusted(encoded, max_size=len(encoded)) == value
        else:
            with pytest.raises(WireError):
                decode_cbor_untrusted(encoded, max_size=len(encoded))

    @given(st.binary(max_size=200))
    @example(b"\x61\xff")  # a text that is not UTF-8
    @example(b"\xa0")
    @example(b"\xc1\x00")
    @example(b"\xf9\x00\x00")
    @example(b"\x9f\xff")
    @example(b"\x7f\x61a\xff")
    def test_garbage_raises_only_a_wire_error_and_what_passes_is_of_the_allowed_types(self, data: bytes) -> None:
        try:
            value = decode_cbor_untrusted(data, max_size=200)
        except WireError:
            return
        assert depth(value) <= MAX_CBOR_DEPTH

    @pytest.mark.parametrize(
        "value", [1.5, {1: 2}, {1, 2}, cbor2.CBORTag(1, 0), 2**64, cbor2.undefined, cbor2.CBORSimpleValue(99)]
    )
    def test_a_type_that_poolnet_never_writes_is_refused(self, value: Any) -> None:
        with pytest.raises(WireError):
            decode_cbor_untrusted(cbor2.dumps([value]), max_size=100)

    @given(cbor_values, st.data())
    def test_a_value_that_is_cut_off_or_goes_on_is_refused(self, value: Any, data: st.DataObject) -> None:
        encoded = encode_cbor(value)
        cut = data.draw(st.integers(0, len(encoded) - 1))
        for wrong in (encoded[:cut], encoded + b"\x00"):
            with pytest.raises(WireError):
                decode_cbor_untrusted(wrong, max_size=1000)

    def test_an_array_of_more_items_than_there_are_bytes_left_is_refused_before_its_items_are_read(self) -> None:
        assert decode_cbor_untrusted(b"\x82\x00\x00", max_size=10) == [0, 0]
        with pytest.raises(WireError, match="an array is cut off"):
            decode_cbor_untrusted(b"\x83\x00\x00", max_size=10)

    @pytest.mark.parametrize(
        "hostile",
        [
            b"\x9a\xff\xff\xff\xff",  # an array of 2^32 - 1
            b"\x9b" + b"\xff" * 8,
            b"\x5a\xff\xff\xff\xff",  # a byte string of 2^32 - 1
            b"\x7b" + b"\xff" * 8,
            b"\xba\xff\xff\xff\xff",  # a map
            b"\x81" * 10_000,
            b"\x81" * 10_000 + b"\x00",
            b"\x9f" * 10_000,
            b"\xc1" * 10_000 + b"\x00",
            (b"\x99\xff\x00" + b"\x00" * 5) * 100,
        ],
    )
    def test_declared_lengths_and_deep_nesting_allocate_little(self, hostile: bytes) -> None:
        assert peak_of_refusal(hostile) < 32 * KIB

    def test_a_frame_full_of_items_allocates_a_small_multiple_of_its_size(self) -> None:
        full = b"\x99\xff\xfc" + b"\x80" * 0xFFFC  # as many empty arrays as fit a frame
        tracemalloc.start()
        decode_cbor_untrusted(full, max_size=MAX_FRAME_SIZE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * MAX_FRAME_SIZE

    def test_more_bytes_than_allowed_are_refused_before_they_are_read(self) -> None:
        with pytest.raises(WireError, match="at most 10 are allowed"):
            decode_cbor_untrusted(encode_cbor(bytes(20)), max_size=10)


class TestFrames:
    def test_every_frame_class_has_its_own_number_and_a_round_trip_below(self) -> None:
        assert set(FIELDS) == set(ALL_CLASSES)
        assert len({cls.FRAME_TYPE for cls in ALL_CLASSES}) == len(ALL_CLASSES)

    @pytest.mark.parametrize("cls", ALL_CLASSES, ids=lambda cls: cls.__name__)
    @settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_a_frame_survives_the_wire(self, cls: type[Any], data: st.DataObject) -> None:
        value = data.draw(st.builds(cls, **FIELDS[cls]))
        payload = encode_frame(value)[4:]
        assert ALL_FRAMES.decode_untrusted(payload) == value
        assert frame_number_untrusted(payload) == cls.FRAME_TYPE

    @pytest.mark.parametrize("cls", ALL_CLASSES, ids=lambda cls: cls.__name__)
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_a_frame_with_a_wrong_field_raises_only_a_wire_error(self, cls: type[Any], data: st.DataObject) -> None:
        items = cbor2.loads(encode_frame(data.draw(st.builds(cls, **FIELDS[cls])))[4:])
        place = data.draw(st.integers(0, len(items) - 1))
        items[place] = data.draw(cbor_values)
        try:
            ALL_FRAMES.decode_untrusted(cbor2.dumps(items))
        except WireError:
            return

    @given(st.binary(max_size=100) | cbor_values.map(cbor2.dumps) | st.lists(cbor_values).map(cbor2.dumps))
    def test_garbage_is_no_frame_and_raises_only_a_wire_error(self, payload: bytes) -> None:
        for read in (ALL_FRAMES.decode_untrusted, frame_number_untrusted):
            try:
                read(payload)
            except WireError:
                continue

    def test_fields_that_a_newer_version_appended_are_ignored(self) -> None:
        payload = encode_cbor([link_frames.Ping.FRAME_TYPE, 1, 2, "new", [3]])
        assert ALL_FRAMES.decode_untrusted(payload) == link_frames.Ping(number=1, unix_ms=2)

    def test_a_frame_of_an_unknown_number_is_told_apart_from_a_malformed_one(self) -> None:
        assert ALL_FRAMES.decode_untrusted(encode_cbor([9999, "whatever"])) == UnknownFrame(9999)
        with pytest.raises(WireError, match="Ping needs 2 fields"):
            ALL_FRAMES.decode_untrusted(encode_cbor([link_frames.Ping.FRAME_TYPE, 1]))

    @pytest.mark.parametrize(
        "items",
        [
            [4, True, 0],  # a boolean is no integer
            [4, -1, 0],
            [4, 2**64 - 1, None],
            [17, [b"short"]],
            [17, [bytes(32)] * (MAX_IDS_PER_FRAME + 1)],
            [25, 1, 1, b"", []],  # an integer is no boolean
            [25, 1, True, bytes(41), []],
            [25, 1, True, b"\x80" + bytes(7) + b"\x01", []],  # above every message
            [25, 1, True, b"", [[b"\x01", 1, bytes(15)]]],
            [25, 1, True, b"", [[b"\x01", 2, bytes(33)]]],
            [25, 1, True, b"", [[b"\x01", 4, b""]]],
            [25, 1, True, b"", [[b"\x01", 0]]],
            [26, 1, [bytes(32)] * (MAX_IDS_PER_WANT + 1)],
            [34, bytes(32), [0, 1], 0],  # a want of nothing
            [34, bytes(32), [0, 1], MAX_WANT_WINDOW + 1],
            [33, bytes(32), [0]],
            [33, bytes(32), [3, 3]],
            [33, bytes(32), [0, 2, 2, 4]],  # adjacent
            [33, bytes(32), [4, 6, 1, 2]],
            [33, bytes(32), [0, 2**31 + 1]],
            [33, bytes(32), list(range(2 * MAX_RANGES_PER_FRAME + 2))],
            [6, "x" * 201, ""],
            [65, 1, ["::1"], 0],
            [65, 1, ["::1", 0], 0],
        ],
    )
    def test_a_field_out_of_bounds_is_refused(self, items: list[Any]) -> None:
        with pytest.raises(WireError):
            ALL_FRAMES.decode_untrusted(encode_cbor(items))

    @pytest.mark.parametrize(
        "host",
        [
            *["", "example.org", "127.0.0.1 ", "127.0.0.01", "[::1]", "192.0.2.1%2", "\x1b[2J", 7, b"\x7f\x00\x00\x01"],
            *["::1%", "fe80::1%eth0", "fe80::1%9999999999", "fe80::1%٣"],
        ],
    )
    def test_an_address_is_a_numeric_one(self, host: Any) -> None:
        encoded = encode_cbor([65, 1, [host, 4000], 1])
        with pytest.raises(WireError):
            FrameSet(sync_frames.SYNC_FRAMES).decode_untrusted(encoded)

    @pytest.mark.parametrize(
        "host",
        [
            *["0.0.0.0", "::", "::%1", "0:0:0:0:0:0:0:0", "224.0.0.251", "ff02::1", "ff02::fb%2"],
            *["::ffff:127.0.0.1", "::ffff:192.0.2.1", "::FFFF:7f00:1", "::ffff:192.0.2.1%2"],
        ],
    )
    def test_an_address_is_of_one_device_and_written_as_its_family_does(self, host: str) -> None:
        address = sync_frames.Address(host=host, port=1)
        signal = Signal(session=bytes(8), probe_key=bytes(32), candidates=(address,), answer=False)
        with pytest.raises(WireError):
            decode_signal_untrusted(encode_signal(signal))
        offer = link_frames.LaneOffer(lane_id=bytes(16), token=bytes(32), port=1, hosts=("192.0.2.1", host))
        with pytest.raises(WireError):
            FrameSet(link_frames.LINK_FRAMES).decode_untrusted(encode_frame(offer)[4:])

    def test_a_frame_over_the_limit_is_not_written(self) -> None:
        with pytest.raises(WireError, match="at most"):
            encode_frame(pool_frames.Statements(statements=(bytes(40_000), bytes(40_000))))

    def test_two_frames_with_one_number_are_a_mistake_of_the_programmer(self) -> None:
        with pytest.raises(ValueError, match="number 3"):
            FrameSet([link_frames.Credit, frame(3)(type("Other", (), {}))])


class TestFrameBuffer:
    @given(st.lists(frames, max_size=8), st.data())
    def test_a_stream_cut_anywhere_gives_the_same_frames(self, sent: list[Any], data: st.DataObject) -> None:
        stream = b"".join(encode_frame(value) for value in sent)
        whole, bytewise, cut = FrameBuffer(), FrameBuffer(), FrameBuffer()
        whole.feed_untrusted(stream)
        expected = list(whole.payloads())
        assert [ALL_FRAMES.decode_untrusted(payload) for payload in expected] == sent

        one_by_one = []
        for value in stream:
            bytewise.feed_untrusted(bytes([value]))
            one_by_one += bytewise.payloads()
        assert one_by_one == expected

        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        in_pieces = []
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            cut.feed_untrusted(stream[start:stop])
            in_pieces += cut.payloads()
        assert in_pieces == expected
        assert len(whole) == len(bytewise) == len(cut) == 0

    @given(st.binary(max_size=100), st.booleans())
    def test_garbage_raises_the_same_wire_error_however_it_arrives(self, stream: bytes, small: bool) -> None:
        max_size = 20 if small else MAX_FRAME_SIZE
        assert feed([stream], max_size) == feed([bytes([value]) for value in stream], max_size)

    def test_a_length_over_the_limit_is_refused_before_its_bytes_come(self) -> None:
        buffer = FrameBuffer(max_size=10)
        buffer.feed_untrusted((11).to_bytes(4, "big"))
        with pytest.raises(WireError, match="11 bytes; at most 10"):
            buffer.take()

    def test_what_follows_a_chunk_header_is_handed_out_raw(self) -> None:
        header = swarm_frames.ChunkHeader(file_id=bytes(32), piece=1, size=3)
        buffer = FrameBuffer()
        buffer.feed_untrusted(encode_frame(header) + b"abc")
        payload = buffer.take()
        assert payload is not None
        assert ALL_FRAMES.decode_untrusted(payload) == header
        assert buffer.take_rest() == b"abc"
        assert len(buffer) == 0


body_values = st.one_of(
    st.builds(bodies.TextBody, text=text(50, min_size=1)),
    st.builds(bodies.ProfileBody, name=text(20, min_size=1).filter(str.strip)),
    st.builds(bodies.OfferBody, file_id=id32, name=text(50, min_size=1), size=st.integers(0, 2**40)),
    st.builds(bodies.OfferBody, file_id=id32, name=text(50, min_size=1), size=st.integers(0, 2**40), stream_id=id32),
    st.builds(
        bodies.FolderBody,
        file_id=id32,
        list_id=id32,
        name=text(50, min_size=1),
        size=st.integers(0, 2**40),
        list_size=st.integers(0, 2**28),
        file_count=st.integers(0, 10**6),
    ).filter(lambda body: body.file_id != body.list_id),
    st.builds(
        bodies.MediaBody,
        file_id=id32,
        name=text(50, min_size=1),
        size=st.integers(1, 25 * 2**20),
        width=st.integers(0, 2**31),
        height=st.integers(0, 2**31),
        preview=st.binary(max_size=8 * 2**10),
    ),
    st.builds(bodies.StreamBody, nonce=st.binary(min_size=16, max_size=16), name=text(50, min_size=1)),
    st.builds(bodies.RetractOfferBody, file_id=id32),
    st.builds(bodies.SignalBody, to=id32, signal=st.binary(max_size=100)),
)


class TestBodiesAndMessages:
    @given(body_values)
    def test_a_body_survives_the_wire(self, body: bodies.Body) -> None:
        assert bodies.decode_body_untrusted(body.KIND, bodies.encode_body(body)) == body

    @given(
        st.sampled_from(["text", "profile", "offer", "folder", "media", "stream", "retract_offer", "signal", "newer"]),
        st.data(),
    )
    def test_garbage_is_no_body_and_raises_only_a_wire_error(self, kind: str, data: st.DataObject) -> None:
        encoded = data.draw(st.binary(max_size=60) | st.lists(cbor_values, max_size=4).map(cbor2.dumps))
        try:
            body = bodies.decode_body_untrusted(kind, encoded)
        except WireError:
            return
        assert (body is None) == (kind == "newer")

    @pytest.mark.parametrize(
        ("kind", "items"),
        [
            ("text", [""]),
            ("text", ["x" * (MAX_TEXT_CHARS + 1)]),
            ("profile", ["  \t "]),
            ("profile", ["x" * 65]),
            ("offer", [bytes(32), "", 1]),
            ("offer", [bytes(32), "name", -1]),
            ("folder", [bytes(32), bytes(32), "its own list", 1, 1, 1]),
        ],
    )
    def test_an_empty_or_oversized_body_is_refused(self, kind: str, items: list[Any]) -> None:
        with pytest.raises(WireError):
            bodies.decode_body_untrusted(kind, encode_cbor(items))

    def test_a_file_name_is_bounded_in_bytes(self) -> None:
        def offer(name: str) -> bytes:
            return bodies.encode_body(bodies.OfferBody(file_id=FileId(bytes(32)), name=name, size=1))

        for name in ("x" * MAX_FILE_NAME_BYTES, "é" * (MAX_FILE_NAME_BYTES // 2)):
            assert bodies.decode_body_untrusted("offer", offer(name)) is not None
        for name in ("", "é" * (MAX_FILE_NAME_BYTES // 2 + 1), "x" * (MAX_FILE_NAME_BYTES + 1)):
            with pytest.raises(WireError):
                bodies.decode_body_untrusted("offer", offer(name))

    def test_a_text_of_the_largest_size_passes_whatever_its_characters_take(self) -> None:
        body = bodies.TextBody(text="𝄞" * MAX_TEXT_CHARS)
        assert bodies.decode_body_untrusted("text", bodies.encode_body(body)) == body

    @given(id32, id32, st.integers(0, MAX_HLC), st.binary(max_size=200), text(32, min_size=1))
    def test_a_message_survives_the_wire_with_the_bytes_that_were_signed(
        self, pool_id: PoolId, author_key: PublicKey, hlc: Hlc, body: bytes, kind: str
    ) -> None:
        content = MessageContent(pool_id=pool_id, kind=kind, hlc=hlc, author_key=author_key, body=body)
        message = make_message(encode_content(content))
        decoded = decode_message_untrusted(encode_message(message), pool_id)
        assert decoded == message
        assert decoded.content == content
        assert decoded.key == (hlc, decoded.msg_id)

    def test_a_message_keeps_its_bytes_even_if_another_encoder_wrote_them_differently(self) -> None:
        """A newer version appends a field; the id is of the bytes as they are."""
        content = MessageContent(pool_id=PoolId(bytes(32)), kind="text", hlc=Hlc(1), author_key=bytes(32), body=b"")
        signed = encode_cbor([*cbor2.loads(encode_content(content)), "new"])
        newer = attrs.evolve(make_message(encode_content(content)), signed=signed)
        decoded = decode_message_untrusted(encode_message(newer), content.pool_id)
        assert decoded.signed == signed
        assert decoded.msg_id == message_id(signed) != message_id(encode_content(content))

    @given(id32, id32)
    def test_what_a_pool_has_in_common_does_not_travel(self, pool_id: PoolId, author_key: PublicKey) -> None:
        content = MessageContent(pool_id=pool_id, kind="text", hlc=Hlc(1), author_key=author_key, body=b"hello")
        encoded = encode_message(make_message(encode_content(content)))
        assert (pool_id in encoded) == (pool_id == author_key)
        assert message_id_untrusted(encoded, pool_id) == message_id(encode_content(content))
        assert len(encoded) < 100 + len(author_key)

    @given(st.binary(max_size=100) | cbor_values.map(lambda value: cbor2.dumps([cbor2.dumps(value), bytes(64)])))
    def test_garbage_is_no_message_and_raises_only_a_wire_error(self, encoded: bytes) -> None:
        with pytest.raises(WireError):
            decode_message_untrusted(encoded, PoolId(bytes(32)))


class TestSignals:
    @given(st.binary(min_size=8, max_size=8), id32, st.lists(addresses, max_size=8).map(tuple), st.booleans())
    def test_a_signal_survives_the_wire(
        self, session: bytes, probe_key: bytes, candidates: tuple[sync_frames.Address, ...], answer: bool
    ) -> None:
        signal = Signal(session=session, probe_key=probe_key, candidates=candidates, answer=answer)
        assert decode_signal_untrusted(encode_signal(signal)) == signal

    @given(st.binary(max_size=100) | cbor_values.map(cbor2.dumps))
    def test_garbage_is_no_signal_and_raises_only_a_wire_error(self, encoded: bytes) -> None:
        with pytest.raises(WireError):
            decode_signal_untrusted(encoded)


def make_message(signed: bytes) -> Message:
    """A message whose signature nobody checks here."""
    content = MessageContent(**dict(zip(CONTENT_FIELDS, cbor2.loads(signed), strict=True)))
    return Message(msg_id=message_id(signed), content=content, signed=signed, signature=bytes(64))


CONTENT_FIELDS = ("label", "pool_id", "kind", "hlc", "author_key", "body")


def depth(value: Any) -> int:
    """Levels of arrays in a value of the allowed types; fails on any other."""
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    assert value is None or type(value) in (int, bytes, str, bool)
    return 0


def feed(parts: list[bytes], max_size: int) -> tuple[list[bytes], str | None]:
    """What a buffer makes of a stream: payloads, and the error that ended it."""
    buffer = FrameBuffer(max_size=max_size)
    payloads: list[bytes] = []
    for part in parts:
        buffer.feed_untrusted(part)
        try:
            while (payload := buffer.take()) is not None:
                payloads.append(payload)
        except WireError as exc:
            return payloads, str(exc)
    return payloads, None


def peak_of_refusal(hostile: bytes) -> int:
    """The most memory that refusing these bytes takes."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode_cbor_untrusted(hostile, max_size=MAX_FRAME_SIZE)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
