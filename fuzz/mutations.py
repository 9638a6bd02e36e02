"""Changes to valid encodings: of their bytes, and of the CBOR or JSON that they are. Drawn from a seed.

Random bytes seldom get past the first check of a decoder. What is valid but for one place gets to all of them.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import attrs
import cbor2

_EDGES: Final = (0, 1, 23, 24, 255, 256, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
#: What `cbor2` says of an earlier mutation.
_NO_CBOR: Final = (cbor2.CBORError, ValueError, RecursionError, OverflowError, TypeError, MemoryError)
#: Levels of what is nested too deep.
DEEP: Final = 10_000

#: CBOR that poolnet never writes, or that is more than it says.
HOSTILE_CBOR: Final[tuple[bytes, ...]] = (
    b"\xc2\x58\x40" + b"\xff" * 64,  # a bignum
    b"\xc3\x41\x00",  # a negative one
    b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself: tags 28 and 29
    b"\xd9\x01\x00\x83\x63abc\xd8\x19\x00\x00",  # string references
    b"\xc1\x1b" + b"\x7f" * 8,  # a date
    b"\xd8\x23\x6a(a+)+$aaaa",  # a regular expression
    b"\xf9\x7e\x00",  # NaN
    b"\xfb\x7f\xf0" + bytes(6),  # infinity
    b"\xf7",  # undefined
    b"\xf8\xff",  # a simple value
    b"\xff",  # a break without a beginning
    b"\x9f\x00\xff",  # indefinite lengths
    b"\x5f\x41a\x41b\xff",
    b"\x7f\x61a\xff",
    b"\xbf\x00\x00\xff",
    b"\xa2\x00\x01\x00\x02",  # a map with a key twice
    b"\x9b" + b"\xff" * 8,  # lengths without content
    b"\x9a\xff\xff\xff\xff",
    b"\xbb" + b"\xff" * 8,
    b"\xba\xff\xff\xff\xff",
    b"\x5b" + b"\xff" * 8,
    b"\x5a\xff\xff\xff\xff",
    b"\x7b" + b"\xff" * 8,
    b"\x3b" + b"\xff" * 8,  # -2^64
    b"\x18\x00",  # longer than it need be
    b"\x1b" + bytes(8),
    b"\x61\xff",  # text that is not UTF-8
    b"\x63\xed\xa0\x80",  # half of a surrogate pair
    b"\x81" * DEEP + b"\x00",
    b"\xa1\x00" * DEEP + b"\x00",
    b"\xc6" * DEEP + b"\x00",
    b"\x9f" * DEEP + b"\xff" * DEEP,
)

#: JSON that may be in a file all the same.
HOSTILE_JSON: Final[tuple[str, ...]] = (
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "0" + "}" * DEEP,
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0.5",
    "true",
    "null",
    "[]",
    "{}",
    "[null]",
    '{"name": 1, "name": 2}',
    '""',
    '"\\ud800"',
    '"a\\u0000b"',
    '"\\u001b[2J\\u202e"',
    '"/"',
    '".."',
    '"é"',
    "9" * 400,
    "9" * 5000,
    str(2**63),
    str(2**64),
)


@attrs.frozen
class _Raw:
    """Bytes of CBOR, or text of JSON, to be put in as they are."""

    content: Any


@attrs.frozen
class _Nested:
    """CBOR in a byte string."""

    value: Any


def mutate(seed: int, samples: Sequence[bytes]) -> bytes:
    """Return one of the samples, changed in one way or in several."""
    rng = Random(seed)
    data = rng.choice(samples)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WAYS)(rng, data, samples)
    return data


def _flip(rng: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    if not data:
        return bytes([rng.randrange(256)])
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) + 1)
    new = rng.choice((b"\x00", b"\xff", b"\x7f\xff\xff\xff", bytes(8), b"\xff" * 8, rng.randbytes(4)))
    return data[:place] + new + data[place + len(new) :]


def _truncate(rng: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(rng: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    other = rng.choice(samples)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _repeat(rng: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 50)) + data[stop:]


def _insert(rng: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) + 1)
    new = rng.choice(HOSTILE_CBOR) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 4, 40)))
    return data[:place] + new + data[place:]


def _change_cbor(rng: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    try:
        return _encode_cbor(_replaced(rng, _exploded(cbor2.loads(data)), _new_item))
    except _NO_CBOR:
        return _flip(rng, data, samples)


def _change_json(rng: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(rng, data, samples)
    return _encode_json(_replaced(rng, value, _new_json)).encode()


_WAYS: Final = (
    _flip,
    _overwrite,
    _truncate,
    _splice,
    _repeat,
    _insert,
    *((_change_cbor,) * 4),
    *((_change_json,) * 4),
)


def _replaced(rng: Random, value: Any, new: Callable[[Random, Any], Any]) -> Any:
    """Return a value with one place in it changed; the deeper, the more places there are."""
    match value:
        case _Nested(inner) if rng.random() < 0.8:
            return _Nested(_replaced(rng, inner, new))
        case list() if value and rng.random() < 0.85:
            place = rng.randrange(len(value))
            if rng.random() < 0.1:
                return rng.choice((value[:place], value + value, value[::-1], [*value, rng.choice(value)]))
            return [*value[:place], _replaced(rng, value[place], new), *value[place + 1 :]]
        case dict() if value and rng.random() < 0.85:
            name = rng.choice(sorted(value))
            if rng.random() < 0.1:
                return {other: item for other, item in value.items() if other != name}
            return {**value, name: _replaced(rng, value[name], new)}
    return new(rng, value)


def _new_item(rng: Random, value: Any) -> Any:
    """Return something to put in the place of an item of CBOR: near to it, or far off."""
    if rng.random() < 0.4:
        return _Raw(rng.choice(HOSTILE_CBOR))
    match value:
        case bool() | None:
            return rng.choice((0, 1, True, False, None))
        case int():
            return rng.choice((value + 1, max(0, value - 1), -1, *_EDGES))
        case bytes():
            return rng.choice(
                (b"", value[:-1], value + b"\x00", bytes(len(value)), b"\xff" * len(value), bytes(70_000))
            )
        case str():
            return rng.choice(("", value + "\x1b[2J", "\u202e" + value, "\x00", value * 50, "x" * 70_000, "::1%1"))
    return rng.choice(([], [[]], 0, b"", "", None, [0] * 5000))


def _new_json(rng: Random, value: Any) -> Any:
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice((value[:-1], value + "a", value.upper(), value + "\x00", "/" + value, value * 20, "ß"))
    return _Raw(rng.choice(HOSTILE_JSON))


def _exploded(value: Any) -> Any:
    """Return a value with the CBOR inside its byte strings decoded."""
    if isinstance(value, list):
        return [_exploded(item) for item in value]
    if isinstance(value, bytes) and value and 0x80 < value[0] < 0x98:
        try:
            inner = cbor2.loads(value)
        except _NO_CBOR:
            return value
        return _Nested(_exploded(inner)) if isinstance(inner, list) else value
    return value


def _encode_cbor(value: Any) -> bytes:
    match value:
        case _Raw(content):
            return bytes(content)
        case _Nested(inner):
            return cbor2.dumps(_encode_cbor(inner))
        case list():
            head = bytes([0x80 | len(value)]) if len(value) < 24 else b"\x99" + len(value).to_bytes(2, "big")
            return head + b"".join(map(_encode_cbor, value))
    return cbor2.dumps(value)


def _encode_json(value: Any) -> str:
    match value:
        case _Raw(content):
            return str(content)
        case list():
            return "[" + ", ".join(map(_encode_json, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(name)}: {_encode_json(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)
