"""The wire format written down a second time: numbers, fields in their order, and how far each field may go.

Devices of different versions talk to each other, so none of this may change by accident. For each field the smallest
and the largest value pass and come out as they went in, and what is one beyond is refused.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import attrs
import pytest
from blake3 import blake3

from poolnet.clock import MAX_HLC
from poolnet.errors import WireError
from poolnet.identity import user
from poolnet.identity.keys import DeviceKey
from poolnet.identity.statements import decode_statement_untrusted
from poolnet.ids import FileId, PoolId
from poolnet.limits import (
    CHUNK_SIZE,
    KIB,
    MAX_APP_NAME_CHARS,
    MAX_APP_SIZE,
    MAX_BODY_SIZE,
    MAX_CANDIDATES,
    MAX_CBOR_DEPTH,
    MAX_CLAIMS_PER_FRAME,
    MAX_COMPARE_SIZE,
    MAX_FILE_NAME_BYTES,
    MAX_FILE_SIZE,
    MAX_FOLDER_DEPTH,
    MAX_FOLDER_FILES,
    MAX_FOLDER_LIST_SIZE,
    MAX_FOLDER_PATH_BYTES,
    MAX_FRAME_SIZE,
    MAX_HOPS,
    MAX_IDS_PER_FRAME,
    MAX_IDS_PER_WANT,
    MAX_KEPT_STATEMENTS,
    MAX_KIND_CHARS,
    MAX_MEDIA_SIZE,
    MAX_MENTIONS,
    MAX_MESSAGE_SIZE,
    MAX_NAME_CHARS,
    MAX_OLDER_MESSAGES,
    MAX_PREVIEW_SIZE,
    MAX_RANGES_PER_FRAME,
    MAX_REASON_CHARS,
    MAX_SIGNAL_SIZE,
    MAX_STATEMENT_SIZE,
    MAX_TEXT_CHARS,
    MAX_USER_STATEMENT_SIZE,
    MAX_WANT_WINDOW,
    RING_COUNT,
)
from poolnet.wire import bodies, folder_list
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor, read_header_untrusted
from poolnet.wire.folder_list import (
    EntryKind,
    FolderEntry,
    check_path_untrusted,
    decode_folder_list_untrusted,
    empty_directory,
    encode_folder_list,
)
from poolnet.wire.framing import LENGTH_SIZE, FrameBuffer, FrameSet, encode_frame, frame_number_untrusted
from poolnet.wire.link_frames import LANE_FRAMES, LINK_FRAMES
from poolnet.wire.message import decode_message_untrusted, encode_message
from poolnet.wire.pool_frames import POOL_FRAMES
from poolnet.wire.schema import encode_fields
from poolnet.wire.signal import decode_signal_untrusted, encode_signal
from poolnet.wire.swarm_frames import SWARM_FRAMES, ChunkHeader
from poolnet.wire.sync_frames import SYNC_FRAMES


@attrs.frozen
class Spec:
    """Values in wire form that a field takes, the first of them nothing special, and some that it does not."""

    good: Sequence[Any]
    bad: Sequence[Any]


def integer(low: int, high: int) -> Spec:
    return Spec([low, high], [low - 1, high + 1, bool(low), b"", None])


def data(low: int, high: int) -> Spec:
    too_short = [bytes(low - 1)] if low else []
    return Spec([bytes(low), bytes(high)], [bytes(high + 1), *too_short, "", None, 0])


def text(low: int, high: int) -> Spec:
    too_short = ["x" * (low - 1)] if low else []
    return Spec(["x" * low, "x" * high, "𝄞" * high], ["x" * (high + 1), *too_short, b"x", None])


def name(high: int) -> Spec:
    good = ["x", "x" * high, "é" * (high // 2)]
    return Spec(good, ["", "x" * (high + 1), "é" * (high // 2 + 1), b"x", None])


def many(item: Spec, high: int, *, filler: Any = None) -> Spec:
    filler = item.good[0] if filler is None else filler
    good = [[], *([value] for value in item.good), [filler] * high]
    return Spec(good, [*([value] for value in item.bad), [filler] * (high + 1), None, b"", {}])


def optional(item: Spec) -> Spec:
    return Spec([*item.good, None], [value for value in item.bad if value is not None])


def record(*fields: Spec) -> Spec:
    first = [field.good[0] for field in fields]
    return Spec(
        [[*first[:place], value, *first[place + 1 :]] for place, field in enumerate(fields) for value in field.good],
        [[*first[:place], value, *first[place + 1 :]] for place, field in enumerate(fields) for value in field.bad]
        + [first[:-1], None],
    )


U64 = integer(0, 2**64 - 1)
BYTE = integer(0, 255)
NUMBER = integer(0, 2**32 - 1)
ID = data(32, 32)
SIGNATURE = data(64, 64)
BOOLEAN = Spec([False, True], [0, 1, None])
BOUND = Spec([b"\x01", b"", b"\x7f" + b"\xff" * 39, b"\x80"], [b"\x80" + bytes(39) + b"\x01", b"\x01" * 41, None, 1])
HOST = Spec(
    ["192.0.2.1", "2001:db8::1", "fe80::1%2", "fe80::1%999999999"],
    ["", "example.org", "fe80::1%1000000000", "fe80::1%x", "192.0.2.1%1", "0.0.0.0", "224.0.0.1", None],
)
PORT = integer(1, 65535)
ADDRESS = record(HOST, PORT)
ENTRY = record(ID, many(U64, RING_COUNT))
STATEMENT = data(0, MAX_STATEMENT_SIZE)
CLAIM = Spec(
    [
        *([b"\x01", 0, b""], [b"\x01", 1, bytes(16)], [b"\x01", 2, bytes(64)], [b"\x01", 3, bytes(32)]),
        *([b"\x01", 2, b""], [b"\x01", 3, bytes(MAX_COMPARE_SIZE)]),
    ],
    [
        *([b"\x01", 0], [b"\x01", 4, b""], [b"\x01", -1, b""], [b"\x01", True, bytes(16)], [1, 0, b""], b"\x01"),
        *([b"\x01", 1, bytes(15)], [b"\x01", 1, bytes(17)], [b"\x01", 2, bytes(33)], [b"\x01", 3, bytes(31)]),
        *([b"\x01", 3, bytes(MAX_COMPARE_SIZE + 32)], [b"\x01", 0, ""], [b"\x01" * 41, 0, b""]),
    ],
)
PIECES = Spec(
    [[0, 1], [], [2**31 - 1, 2**31], list(range(2 * MAX_RANGES_PER_FRAME))],
    [[0], [1, 1], [0, 2, 2, 4], [4, 6, 1, 2], [-1, 1], [0, 2**31 + 1], [False, 1], list(range(2002)), None],
)
LANE = data(16, 16)
TOKEN = data(32, 32)

#: The fields of each frame by its number. What is in the second list may be left off at the end.
FRAMES: dict[int, tuple[str, list[Spec], list[Spec]]] = {
    1: ("Hello", [BYTE, ID, ID, ID, many(STATEMENT, 4, filler=b"")], [data(0, 16)]),
    2: ("Proof", [SIGNATURE], []),
    3: ("Credit", [U64, U64], []),
    4: ("Ping", [U64, U64], []),
    5: ("Pong", [U64, U64], []),
    6: ("Goodbye", [text(0, MAX_REASON_CHARS), text(0, MAX_REASON_CHARS)], []),
    7: ("LaneOffer", [LANE, TOKEN, PORT, many(HOST, MAX_CANDIDATES)], []),
    8: ("LanePass", [], []),
    9: ("LaneEnded", [LANE, U64], []),
    10: ("LaneHello", [LANE, TOKEN], []),
    11: ("LaneWelcome", [], []),
    12: ("LaneReport", [U64, U64], []),
    16: ("StatementIds", [many(ID, MAX_IDS_PER_FRAME)], []),
    17: ("WantStatements", [many(ID, MAX_IDS_PER_FRAME)], []),
    18: ("Statements", [many(STATEMENT, MAX_IDS_PER_FRAME)], []),
    20: ("Gossip", [BYTE, data(0, MAX_MESSAGE_SIZE)], []),
    21: ("GossipHave", [many(ID, MAX_IDS_PER_FRAME)], []),
    22: ("Graft", [many(ID, MAX_IDS_PER_FRAME)], []),
    23: ("Prune", [], []),
    24: (
        "OpenComparison",
        [NUMBER, BOUND, BOUND, integer(0, MAX_OLDER_MESSAGES), optional(BOUND), data(16, 16)],
        [BYTE],
    ),
    25: ("Compare", [NUMBER, BOOLEAN, BOUND, many(CLAIM, MAX_CLAIMS_PER_FRAME)], [optional(BOUND), BYTE]),
    26: ("WantMessages", [NUMBER, many(ID, MAX_IDS_PER_WANT)], [BYTE]),
    27: ("Messages", [NUMBER, BOOLEAN, many(data(0, MAX_MESSAGE_SIZE), MAX_IDS_PER_WANT)], [BYTE]),
    32: ("Interest", [ID, BOOLEAN], [integer(0, MAX_HOPS)]),
    33: ("Have", [ID, PIECES], []),
    34: ("Want", [ID, PIECES, integer(1, MAX_WANT_WINDOW)], [integer(0, MAX_HOPS)]),
    35: ("Promise", [ID, PIECES], []),
    36: ("Withdraw", [ID, PIECES], []),
    37: ("Unwant", [ID, PIECES], []),
    38: ("Relay", [ID, integer(0, MAX_HOPS)], [BOOLEAN, integer(0, 2**31)]),
    40: ("ChunkHeader", [ID, integer(0, 2**31), integer(0, CHUNK_SIZE)], []),
    64: ("Attach", [U64], []),
    65: ("Attached", [U64, ADDRESS, U64], []),
    66: ("RosterPage", [many(ENTRY, 500), BOOLEAN], []),
    67: ("RosterJoined", [U64, ENTRY], []),
    68: ("RosterLeft", [U64, ID], []),
    69: ("Refused", [text(0, 32), text(0, MAX_REASON_CHARS)], []),
    70: ("SendSignal", [ID, data(0, MAX_SIGNAL_SIZE)], []),
    71: ("Signalled", [ID, data(0, MAX_SIGNAL_SIZE)], []),
    72: ("Report", [ID], []),
    73: ("Detach", [], []),
    74: ("ReportConduct", [ID, BYTE], []),
}
#: The fields of each kind of message.
BODIES: dict[str, tuple[list[Spec], list[Spec]]] = {
    "text": ([text(1, MAX_TEXT_CHARS)], [many(ID, MAX_MENTIONS), BOOLEAN]),
    "announcement": ([text(1, MAX_TEXT_CHARS)], []),
    "retract_message": ([ID], []),
    "app": ([text(1, MAX_APP_NAME_CHARS), data(0, MAX_APP_SIZE)], []),
    "profile": ([text(1, MAX_NAME_CHARS)], []),
    "offer": ([ID, name(MAX_FILE_NAME_BYTES), integer(0, MAX_FILE_SIZE)], [data(0, 32)]),
    "folder": (
        [
            *(ID, Spec([b"\x01" * 32], ID.bad), name(MAX_FILE_NAME_BYTES), integer(0, MAX_FILE_SIZE)),
            *(integer(0, MAX_FOLDER_LIST_SIZE), integer(0, MAX_FOLDER_FILES)),
        ],
        [],
    ),
    "media": (
        [
            *(ID, name(MAX_FILE_NAME_BYTES), integer(1, MAX_MEDIA_SIZE), integer(0, 2**31), integer(0, 2**31)),
            data(0, MAX_PREVIEW_SIZE),
        ],
        [],
    ),
    "stream": ([data(16, 16), name(MAX_FILE_NAME_BYTES)], []),
    "retract_offer": ([ID], []),
    "signal": ([ID, data(0, MAX_SIGNAL_SIZE)], []),
}
KEY = DeviceKey.from_seed(bytes(32)).public_key
ADD_DEVICE = [
    *(Spec([user.USER_LABEL], ["poolnet user 2", b"", None]), Spec(["add_device"], ["remove_device", None])),
    *(optional(ID), ID, ID, text(0, MAX_NAME_CHARS), U64, optional(U64)),
]
AN_ADD_DEVICE = encode_cbor([encode_cbor([field.good[0] for field in ADD_DEVICE]), bytes(64)])
KEPT = many(ID, MAX_KEPT_STATEMENTS)
ROLE = integer(0, 1)
#: The fields of each kind of statement.
STATEMENTS: dict[str, list[Spec]] = {
    "genesis": [text(1, MAX_NAME_CHARS), data(16, 16)],
    "invite": [ID, ROLE, U64, optional(integer(1, 2**32 - 1))],
    "join": [ID, Spec([AN_ADD_DEVICE], [b"", bytes(MAX_USER_STATEMENT_SIZE + 1), AN_ADD_DEVICE[:-1], None])],
    "remove_member": [ID, KEPT],
    "set_role": [ID, ROLE, KEPT],
}
ALL_CLASSES = tuple(dict.fromkeys((*LINK_FRAMES, *LANE_FRAMES, *POOL_FRAMES, *SWARM_FRAMES, *SYNC_FRAMES, ChunkHeader)))
ALL_FRAMES = FrameSet(ALL_CLASSES)


def check(
    fields: Sequence[Spec], appended: Sequence[Spec], decode: Callable[[list[Any]], Any], encode: Callable[[Any], Any]
) -> None:
    """Each field takes what it may and nothing beyond, with all others at nothing special; none may be missing."""
    every = [*fields, *appended]
    first = [field.good[0] for field in every]
    for place, field in enumerate(every):
        found = []
        for value in field.good:
            items = [*first[:place], value, *first[place + 1 :]]
            found.append(decode(items))
            again = encode(found[-1])
            assert again == items[: len(again)]
            assert len(again) >= len(fields)
            assert decode(again) == found[-1]  # without the appended fields that say nothing
        for (value, one), (other_value, other) in combinations(zip(field.good, found, strict=True), 2):
            assert (one == other) == (value == other_value)
        for value in field.bad:
            with pytest.raises(WireError):
                decode([*first[:place], value, *first[place + 1 :]])
    for count in range(len(fields)):
        with pytest.raises(WireError):
            decode(first[:count])
    assert encode(decode(first[: len(fields)])) == first[: len(fields)]


@pytest.mark.parametrize("number", FRAMES)
def test_a_frame_has_the_number_and_the_fields_that_other_versions_know(number: int) -> None:
    title, fields, appended = FRAMES[number]
    example = decode_frame(number, [field.good[0] for field in fields])
    assert (type(example).__name__, example.FRAME_TYPE) == (title, number)
    check(fields, appended, lambda items: decode_frame(number, items), lambda value: frame_items(value)[1:])


@pytest.mark.parametrize(
    ("number", "meant"),
    [
        (1, {"incarnation": b""}),
        (24, {"scope": 0}),
        (25, {"known_from": None, "scope": 0}),
        (26, {"scope": 0}),
        (27, {"scope": 0}),
        (32, {"hops": 0}),
        (34, {"hops": 0}),
        (38, {"is_fetching": False, "count": 0}),
    ],
)
def test_what_an_older_version_leaves_off_is_taken_for_nothing(number: int, meant: dict[str, Any]) -> None:
    _, fields, appended = FRAMES[number]
    frame = decode_frame(number, [field.good[0] for field in fields])
    assert {name: getattr(frame, name) for name in meant} == meant
    assert len(appended) == len(meant)


def test_what_an_older_version_leaves_off_a_body_is_taken_for_nothing() -> None:
    assert decode_body("text", ["x"]) == bodies.TextBody(text="x", mentions=(), to_all=False)
    assert decode_body("offer", [bytes(32), "x", 1]).stream_id == b""


def test_every_frame_is_written_down_here() -> None:
    assert {cls.FRAME_TYPE: cls.__name__ for cls in ALL_CLASSES} == {number: FRAMES[number][0] for number in FRAMES}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_has_the_fields_that_other_versions_know(kind: str) -> None:
    fields, appended = BODIES[kind]
    check(fields, appended, lambda items: decode_body(kind, items), encode_fields)


def test_a_body_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    fits = bodies.AppBody(name="𝄞" * MAX_APP_NAME_CHARS, data=bytes(MAX_APP_SIZE))
    assert bodies.decode_body_untrusted("app", bodies.encode_body(fits)) == fits
    frame = encode_cbor(["x", b"", b""])
    for size, is_taken in ((MAX_BODY_SIZE, True), (MAX_BODY_SIZE + 1, False)):
        filled = encode_cbor(["x", b"", bytes(size - len(frame) - 2)])
        assert len(filled) == size
        if is_taken:
            assert bodies.decode_body_untrusted("app", filled) == bodies.AppBody(name="x", data=b"")
        else:
            with pytest.raises(WireError):
                bodies.decode_body_untrusted("app", filled)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_statement_has_the_fields_that_other_versions_know(kind: str) -> None:
    def decode(items: list[Any]) -> Any:
        pool_id = None if kind == "genesis" else bytes(32)
        return decode_statement_untrusted(signed_statement(kind=kind, pool_id=pool_id, body=encode_cbor(items))).body

    check(STATEMENTS[kind], [], decode, encode_fields)


def test_what_surrounds_the_body_of_a_statement_is_bounded() -> None:
    content = [
        *(Spec(["poolnet statement 1"], ["poolnet statement 2", "", None]), text(1, 32), ID, integer(0, MAX_HLC)),
        *(ID, data(0, MAX_STATEMENT_SIZE)),
    ]
    first: list[Any] = ["poolnet statement 1", "newer", bytes(32), 0, KEY, b""]
    for place, field in enumerate(content):
        for value in field.good:
            items = [*first[:place], value, *first[place + 1 :]]
            if len(encode_cbor(items)) <= MAX_STATEMENT_SIZE:
                statement = decode_statement_untrusted(encode_cbor([encode_cbor(items), [bytes(64)]]))
                assert (statement.pool_id, statement.hlc, statement.author_key) == tuple(items[2:5])
        for value in field.bad:
            if (place, value) != (2, None):
                items = [*first[:place], value, *first[place + 1 :]]
                with pytest.raises(WireError):
                    decode_statement_untrusted(encode_cbor([encode_cbor(items), [bytes(64)]]))


@pytest.mark.parametrize(("kind", "pool_id"), [("genesis", bytes(32)), ("join", None), ("newer", None)])
def test_every_statement_but_a_genesis_names_its_pool(kind: str, pool_id: bytes | None) -> None:
    body = encode_cbor([field.good[0] for field in STATEMENTS.get(kind, [])])
    with pytest.raises(WireError):
        decode_statement_untrusted(signed_statement(kind=kind, pool_id=pool_id, body=body))


def test_a_statement_has_one_or_two_signatures() -> None:
    signed = encode_cbor(["poolnet statement 1", "newer", bytes(32), 0, KEY, b""])
    for count in (0, 1, 2):
        statement = decode_statement_untrusted(encode_cbor([signed, [bytes(64)] * count]))
        assert statement.signatures == (bytes(64),) * count
    for signatures in ([bytes(64)] * 3, [bytes(63)], [bytes(65)], bytes(64), None):
        with pytest.raises(WireError):
            decode_statement_untrusted(encode_cbor([signed, signatures]))


def test_a_statement_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    def statement(size: int) -> bytes:
        empty = encode_cbor(["poolnet statement 1", "newer", bytes(32), 0, KEY, bytes(1000)])
        signed = encode_cbor(["poolnet statement 1", "newer", bytes(32), 0, KEY, bytes(size - len(empty) + 1000)])
        assert len(signed) == size
        return encode_cbor([signed, [bytes(64)]])

    around = len(statement(2000)) - 2000
    assert decode_statement_untrusted(statement(MAX_STATEMENT_SIZE - around)).body is None
    with pytest.raises(WireError):
        decode_statement_untrusted(statement(MAX_STATEMENT_SIZE - around + 1))


def test_what_says_whose_device_it_is_has_the_fields_that_other_versions_know() -> None:
    def decode(items: list[Any]) -> user.AddDevice:
        encoded = encode_cbor([encode_cbor(items), bytes(64)])
        return user.decode_add_device_untrusted(encoded).content

    check(ADD_DEVICE, [], decode, encode_fields)
    for wrong in ([encode_cbor([]), bytes(63)], [encode_cbor([])], [bytes(MAX_USER_STATEMENT_SIZE), bytes(64)]):
        with pytest.raises(WireError):
            user.decode_add_device_untrusted(encode_cbor(wrong))


def test_a_statement_about_a_device_is_of_the_user_that_it_names_or_founds() -> None:
    for user_id in (None, bytes(range(32))):
        signed = encode_cbor([user.USER_LABEL, "add_device", user_id, KEY, KEY, "phone", 1, None])
        statement = user.decode_add_device_untrusted(encode_cbor([signed, bytes(64)]))
        assert statement.user_id == (user_id or blake3(signed).digest())
        assert (statement.signed, statement.signature) == (signed, bytes(64))


def test_the_signed_part_of_a_message_is_bounded() -> None:
    label, pool_id = "poolnet message 1", PoolId(bytes(32))

    def message(items: list[Any]) -> bytes:
        signed = encode_cbor(items)
        common = encode_cbor(label) + encode_cbor(pool_id)
        assert signed[1 : 1 + len(common)] == common
        return encode_cbor([signed[:1] + signed[1 + len(common) :], bytes(64)])

    content = [text(1, MAX_KIND_CHARS), integer(0, MAX_HLC), ID, data(0, MAX_BODY_SIZE)]
    first = [field.good[0] for field in content]
    for place, field in enumerate(content):
        for value in field.good:
            encoded = message([label, pool_id, *first[:place], value, *first[place + 1 :]])
            decoded = decode_message_untrusted(encoded, pool_id)
            assert encode_fields(decoded.content)[2 + place] == value
            assert encode_message(decoded) == encoded
        for value in field.bad:
            with pytest.raises(WireError):
                decode_message_untrusted(message([label, pool_id, *first[:place], value, *first[place + 1 :]]), pool_id)


def test_the_envelope_of_a_message_is_bounded() -> None:
    pool_id = PoolId(bytes(32))
    rest = encode_cbor([*["newer", 1, KEY, b""]])[1:]
    assert decode_message_untrusted(encode_cbor([b"\x86" + rest, bytes(64)]), pool_id).content.kind == "newer"
    for wrong in ([b"", bytes(64)], [b"\x86" + rest, bytes(63)], [b"\x85" + rest, bytes(64)], [b"\x86" + rest]):
        with pytest.raises(WireError):
            decode_message_untrusted(encode_cbor(wrong), pool_id)
    largest = b"\x87" + rest + b"\x59"
    for size, is_taken in ((MAX_MESSAGE_SIZE, True), (MAX_MESSAGE_SIZE + 1, False)):
        room = size - len(encode_cbor([bytes(2000), bytes(64)])) + 2000 - len(largest) - 2
        encoded = encode_cbor([largest + room.to_bytes(2, "big") + bytes(room), bytes(64)])
        assert len(encoded) == size
        if not is_taken:
            with pytest.raises(WireError):
                decode_message_untrusted(encoded, pool_id)


def test_a_signal_has_the_fields_that_other_versions_know() -> None:
    fields = [data(8, 8), ID, many(ADDRESS, MAX_CANDIDATES), BOOLEAN]
    check(
        fields,
        [],
        lambda items: decode_signal_untrusted(encode_cbor(items)),
        lambda signal: decode_cbor_untrusted(encode_signal(signal), max_size=MAX_SIGNAL_SIZE),
    )
    with pytest.raises(WireError):
        decode_signal_untrusted(encode_cbor([bytes(8), bytes(32), [], True, bytes(MAX_SIGNAL_SIZE - 40)]))


def test_a_frame_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    def payload(size: int) -> bytes:
        around = len(encode_cbor([18, [b""], bytes(1000)])) - 1000
        return encode_cbor([18, [b""], bytes(size - around)])

    for size, is_taken in ((MAX_FRAME_SIZE, True), (MAX_FRAME_SIZE + 1, False)):
        encoded = payload(size)
        assert len(encoded) == size
        if is_taken:
            assert ALL_FRAMES.decode_untrusted(encoded).statements == (b"",)
        else:
            with pytest.raises(WireError):
                ALL_FRAMES.decode_untrusted(encoded)


def test_a_frame_of_the_largest_size_is_written_behind_its_length() -> None:
    cls = type(decode_frame(18, [[]]))
    half = MAX_FRAME_SIZE // 2
    around = len(encode_frame(cls(statements=(bytes(half), bytes(half // 2))))) - half - half // 2 - LENGTH_SIZE
    fits = encode_frame(cls(statements=(bytes(half), bytes(half - around))))
    assert int.from_bytes(fits[:4], "big") == len(fits) - 4 == MAX_FRAME_SIZE
    with pytest.raises(WireError):
        encode_frame(cls(statements=(bytes(half), bytes(half - around + 1))))


@pytest.mark.parametrize("inner", [b"\x00", b"\x40", b"\xf6", b"\x80", b"\x82\x00\x00"])
def test_arrays_nest_as_deep_as_the_limit_and_no_deeper(inner: bytes) -> None:
    is_array = inner[0] >> 5 == 4
    deepest = MAX_CBOR_DEPTH - is_array
    decode_cbor_untrusted(b"\x81" * deepest + inner, max_size=100)
    with pytest.raises(WireError):
        decode_cbor_untrusted(b"\x81" * (deepest + 1) + inner, max_size=100)


@pytest.mark.parametrize("major", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("info", "size"), [(24, 1), (25, 2), (26, 4), (27, 8)])
def test_a_header_says_how_many_bytes_its_number_takes(major: int, info: int, size: int) -> None:
    header = bytes([major << 5 | info]) + bytes(size - 1) + b"\x03"
    assert read_header_untrusted(b"x" + header, 1) == (major, 3, 2 + size)
    with pytest.raises(WireError):
        read_header_untrusted(b"x" + header[:-1], 1)


def test_only_headers_that_poolnet_writes_are_read() -> None:
    for initial in range(256):
        major, info = divmod(initial, 32)
        is_simple = major == 7 and info in (20, 21, 22)
        if is_simple or (major < 5 and info < 28):
            number = 0 if is_simple or info > 23 else info
            assert read_header_untrusted(bytes([initial]) + bytes(8), 0)[:2] == (major, number)
        else:
            with pytest.raises(WireError):
                read_header_untrusted(bytes([initial]) + bytes(8), 0)


def test_a_value_of_the_largest_size_is_read() -> None:
    assert decode_cbor_untrusted(encode_cbor(bytes(8)), max_size=9) == bytes(8)
    assert decode_cbor_untrusted(encode_cbor(["", [], b""]), max_size=4) == ["", [], b""]
    with pytest.raises(WireError):
        decode_cbor_untrusted(encode_cbor(bytes(8)), max_size=8)


def test_a_path_of_the_largest_size_passes_and_one_more_does_not() -> None:
    for path in ("a" * MAX_FOLDER_PATH_BYTES, "a/" * (MAX_FOLDER_DEPTH - 1) + "a", "a", "...", "a..b/.c"):
        check_path_untrusted(path)
    for path in ("a" * (MAX_FOLDER_PATH_BYTES + 1), "é" * (MAX_FOLDER_PATH_BYTES // 2 + 1)):
        with pytest.raises(WireError):
            check_path_untrusted(path)


def test_a_list_of_a_folder_is_as_long_as_the_limits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [FolderEntry(path=name, size_bytes=5, file_id=FileId(bytes(32))) for name in ("a", "b", "c")]
    encoded = b"".join(encode_folder_list(entries))
    for limit, least in (("MAX_FOLDER_FILES", 3), ("MAX_FOLDER_LIST_SIZE", len(encoded)), ("MAX_FILE_SIZE", 15 + 32)):
        with monkeypatch.context() as patch:
            patch.setattr(folder_list, limit, least)
            assert list(decode_folder_list_untrusted([encoded[:50], encoded[50:]])) == entries
            patch.setattr(folder_list, limit, least - 1)
            with pytest.raises(WireError):
                list(decode_folder_list_untrusted([encoded[:50], encoded[50:]]))


def test_a_long_list_of_a_folder_is_handed_out_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_list, "_BLOCK_SIZE", 100)
    entries = [FolderEntry(path=f"{number:03}", size_bytes=1, file_id=FileId(bytes(32))) for number in range(50)]
    blocks = list(encode_folder_list(entries))
    assert len(blocks) > 10
    assert all(100 <= len(block) < 200 for block in blocks[:-1])
    assert list(decode_folder_list_untrusted(blocks)) == entries


def test_the_list_of_a_folder_is_written_as_other_versions_read_it() -> None:
    entry = FolderEntry(path="é", size_bytes=258, file_id=FileId(bytes(range(32))), kind=EntryKind.EXECUTABLE)
    (encoded,) = encode_folder_list([entry, empty_directory("z")])
    executable = b"\x01\x00\x02" + bytes(6) + b"\x01\x02" + bytes(range(32)) + "é".encode()
    directory = b"\x02\x00\x01" + bytes(8) + bytes(32) + b"z"
    assert encoded == b"poolnet folder\x00\x01" + executable + directory


def test_what_is_left_of_a_stream_is_handed_out_once() -> None:
    buffer = FrameBuffer(max_size=3)
    buffer.feed_untrusted(b"\0\0\0\x03abcrest")
    assert len(buffer) == 11
    assert (buffer.take(), len(buffer), buffer.take_rest(), buffer.take_rest()) == (b"abc", 4, b"rest", b"")


@pytest.mark.parametrize("payload", [b"\x80", b"\x00", b"\x81\x41\x00", b"\x81\x20", b"\x81\x80", b"\x81\xf5", b""])
def test_what_does_not_begin_with_a_number_is_no_frame(payload: bytes) -> None:
    with pytest.raises(WireError):
        frame_number_untrusted(payload)
    if payload != b"\x81\x20":  # a negative number is a frame of nobody
        with pytest.raises(WireError):
            ALL_FRAMES.decode_untrusted(payload)


def test_limits_of_the_protocol_are_what_other_versions_believe() -> None:
    """Changing one of these means that devices of two versions refuse what the other sends."""
    assert (MAX_FRAME_SIZE, MAX_STATEMENT_SIZE, MAX_BODY_SIZE) == (64 * KIB, 40 * KIB, 16 * KIB + 512)
    assert (MAX_TEXT_CHARS, MAX_NAME_CHARS, MAX_FILE_NAME_BYTES) == (1000, 64, 255)
    assert (CHUNK_SIZE, math.log2(MAX_FILE_SIZE), MAX_HLC) == (256 * KIB, 48, 2**63 - 1)


def decode_frame(number: int, items: list[Any]) -> Any:
    return ALL_FRAMES.decode_untrusted(encode_cbor([number, *items]))


def frame_items(value: Any) -> list[Any]:
    encoded = encode_frame(value)
    items: list[Any] = decode_cbor_untrusted(encoded[LENGTH_SIZE:], max_size=MAX_FRAME_SIZE)
    return items


def decode_body(kind: str, items: list[Any]) -> Any:
    return bodies.decode_body_untrusted(kind, encode_cbor(items))


def signed_statement(*, kind: str, pool_id: bytes | None, body: bytes) -> bytes:
    return encode_cbor([encode_cbor(["poolnet statement 1", kind, pool_id, 0, KEY, body]), [bytes(64)]])
