"""Pieces of a stream: each verified alone, and nothing that was changed on the way."""

import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolnet.errors import WireError
from poolnet.identity.keys import DeviceKey
from poolnet.ids import FileId, PoolId
from poolnet.limits import CHUNK_SIZE, MAX_FILE_SIZE, MAX_STREAM_PIECE_SIZE
from poolnet.protocol.live_edge import MAX_LIVE_DELAY_S, LiveEdge
from poolnet.protocol.stream_pieces import (
    StreamPiece,
    StreamSigner,
    decode_stream_piece_untrusted,
    encode_stream_piece,
    stream_id_of,
    stream_piece_is_genuine,
)
from poolnet.wire.cbor import encode_cbor
from poolnet.wire.schema import encode_fields
from poolnet.wire.swarm_frames import MAX_PIECES

KEY, OTHER_KEY = DeviceKey(bytes([1]) * 32), DeviceKey(bytes([2]) * 32)
POOL, OTHER_POOL = PoolId(bytes([3]) * 32), PoolId(bytes([4]) * 32)
NONCE = bytes(16)
SIGNER = StreamSigner(KEY, POOL, NONCE)
FILE = FileId(bytes([9]) * 32)


def is_genuine(piece: StreamPiece) -> bool:
    return stream_piece_is_genuine(piece, pool_id=POOL, stream_id=SIGNER.stream_id)


@given(st.integers(0, MAX_PIECES - 1), st.integers(0, MAX_FILE_SIZE), st.binary(min_size=1, max_size=500))
def test_a_piece_survives_its_wire_form_and_is_genuine(index: int, offset: int, content: bytes) -> None:
    piece = SIGNER.sign(index, offset, content)
    decoded = decode_stream_piece_untrusted(encode_stream_piece(piece))
    assert decoded == piece
    assert is_genuine(decoded)
    assert decoded.end_offset == offset + len(content)


@pytest.mark.parametrize("file_id", [None, FILE])
def test_the_last_piece_says_what_the_whole_is_or_that_it_was_broken_off(file_id: FileId | None) -> None:
    piece = decode_stream_piece_untrusted(encode_stream_piece(SIGNER.sign(7, 70, b"", is_final=True, file_id=file_id)))
    assert is_genuine(piece)
    assert piece.is_final
    assert piece.file_id == (file_id or b"")


def test_the_largest_piece_fits_into_a_chunk() -> None:
    piece = SIGNER.sign(MAX_PIECES - 1, MAX_FILE_SIZE, bytes(MAX_STREAM_PIECE_SIZE), is_final=True, file_id=FILE)
    assert len(encode_stream_piece(piece)) <= CHUNK_SIZE
    assert decode_stream_piece_untrusted(encode_stream_piece(piece)) == piece


@pytest.mark.parametrize(
    "change",
    [
        {"index": 2},
        {"offset": 11},
        {"data": b"Hello"},
        {"is_final": True},
        {"is_final": True, "file_id": FILE},
        {"nonce": bytes([1]) * 16},
        {"author_key": OTHER_KEY.public_key},
        {"signature": bytes(64)},
    ],
)
def test_a_piece_with_anything_changed_is_not_genuine(change: dict[str, Any]) -> None:
    piece = SIGNER.sign(1, 10, b"hello")
    assert is_genuine(piece)
    assert not is_genuine(attrs.evolve(piece, **change))


def test_a_piece_of_another_author_pool_or_stream_is_not_genuine() -> None:
    others = [
        StreamSigner(OTHER_KEY, POOL, NONCE),
        StreamSigner(KEY, OTHER_POOL, NONCE),
        StreamSigner(KEY, POOL, bytes([1]) * 16),
    ]
    assert len({signer.stream_id for signer in [*others, SIGNER]}) == 4
    assert not any(is_genuine(signer.sign(0, 0, b"hello")) for signer in others)


def test_the_id_follows_from_author_pool_and_nonce() -> None:
    assert SIGNER.stream_id == stream_id_of(KEY.device_id, POOL, NONCE)


@pytest.mark.parametrize(
    "change",
    [
        {"data": b""},
        {"file_id": FILE},
        {"is_final": True, "file_id": b"half"},
        {"signature": bytes(63)},
        {"data": bytes(MAX_STREAM_PIECE_SIZE + 1)},
        {"index": MAX_PIECES},
        {"offset": -1},
        {"offset": MAX_FILE_SIZE + 1},
    ],
)
def test_what_no_author_makes_is_refused(change: dict[str, Any]) -> None:
    piece = attrs.evolve(SIGNER.sign(1, 10, b"hello"), **change)
    with pytest.raises(WireError):
        decode_stream_piece_untrusted(encode_stream_piece(piece))


def test_a_relay_cannot_add_to_a_piece() -> None:
    fields = encode_fields(SIGNER.sign(1, 10, b"hello"))
    assert decode_stream_piece_untrusted(encode_cbor(fields))
    with pytest.raises(WireError):
        decode_stream_piece_untrusted(encode_cbor([*fields, b"more"]))


@given(st.binary(max_size=400) | st.lists(st.integers() | st.binary() | st.booleans(), max_size=9).map(encode_cbor))
def test_garbage_raises_only_wire_errors(garbage: bytes) -> None:
    with pytest.raises(WireError):
        decode_stream_piece_untrusted(garbage)


# --- the live edge ------------------------------------------------------------------------------------------------


def test_a_place_is_as_late_as_what_follows_it_is_known() -> None:
    edge = LiveEdge()
    assert edge.end is None
    edge.heard(5, 100.0)
    edge.heard(9, 103.0)
    edge.heard(7, 104.0)  # somebody who has less
    assert edge.end == 9
    assert edge.late_at(4) == 100.0 + MAX_LIVE_DELAY_S
    assert edge.late_at(5) == 103.0 + MAX_LIVE_DELAY_S
    assert edge.late_at(9) == math.inf


def test_a_doubted_claim_is_not_believed_until_the_stream_has_come_so_far() -> None:
    edge = LiveEdge()
    edge.heard(10, 0.0)
    edge.heard(1_000_000, 0.0)
    assert edge.doubt(999_999)
    assert edge.end == 10
    edge.heard(2_000_000, 1.0)
    edge.heard(12, 1.0)
    assert edge.end == 12
    assert edge.late_at(10) == 1.0 + MAX_LIVE_DELAY_S
    edge.passed(999_999)
    assert edge.end == 2_000_000


def test_the_only_claim_there_is_is_not_doubted() -> None:
    edge = LiveEdge()
    edge.heard(10, 0.0)
    assert not edge.doubt(9)
    assert edge.end == 10


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40)), max_size=300), st.integers(0, 40))
def test_delays_are_right_to_a_quarter_of_a_second_up_to_the_longest_that_counts(
    claims: list[tuple[float, int]], position: int
) -> None:
    edge, now, known_since = LiveEdge(), 0.0, None
    for pause, claim in claims:
        now += pause
        edge.heard(claim, now)
        if claim > position and known_since is None:
            known_since = now
    late_at = edge.late_at(position)
    if known_since is None:
        assert late_at == math.inf
    elif late_at <= now or known_since + MAX_LIVE_DELAY_S <= now:
        assert late_at <= now + 0.25  # both ways: it is late when it is, and not before
        assert known_since + MAX_LIVE_DELAY_S <= now + 0.25
    else:
        assert abs(late_at - known_since - MAX_LIVE_DELAY_S) <= 0.25
