"""CBOR from outside, bounded before it is decoded.

`cbor2` decodes whatever it is given: deep nesting, tags that build objects, declared lengths of 2^32. The check here
walks the headers first and lets through only what poolnet itself writes: integers, byte and text strings, arrays,
booleans and null, of definite length, with no more items than there are bytes.
"""

from typing import Any

import cbor2

from poolnet.errors import WireError
from poolnet.limits import MAX_CBOR_DEPTH

_ARGUMENT_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
_FALSE, _TRUE, _NULL = 20, 21, 22
_SIMPLE = 7
_ARRAY = 4
_STRINGS = (2, 3)
_INTEGERS = (0, 1)


def encode_cbor(value: Any) -> bytes:
    """Return `value` as CBOR; equal values give equal bytes."""
    return cbor2.dumps(value)


def decode_cbor_untrusted(data: bytes, *, max_size: int) -> Any:
    """Return the value that `data` holds: int, bytes, str, bool, None, or lists of these.

    Raises:
        WireError: longer than `max_size`, not well-formed, nested too deep, of a type poolnet never writes, or followed
            by stray bytes.
    """
    if len(data) > max_size:
        raise WireError(f"{len(data)} bytes where at most {max_size} are allowed")
    end = _skip_item(data)
    if end != len(data):
        raise WireError("stray bytes after the value")
    try:
        return cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as exc:  # ValueError: text that is not UTF-8
        raise WireError("malformed CBOR") from exc


def _skip_item(data: bytes) -> int:
    """Return the offset after the first item of `data`, checking every header on the way."""
    size = len(data)
    offset = 0
    pending = [1]  # items still to come, a level
    while pending:
        if pending[-1] == 0:
            pending.pop()
            continue
        pending[-1] -= 1
        major, argument, offset = read_header_untrusted(data, offset)
        if major in _STRINGS:
            offset += argument
            if offset > size:
                raise WireError("a string is cut off")
        elif major == _ARRAY:
            if argument > size - offset:
                raise WireError("an array is cut off")
            if len(pending) > MAX_CBOR_DEPTH:
                raise WireError("nested too deep")
            pending.append(argument)
    return offset


def read_header_untrusted(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return major type, argument and the offset behind the header of the item at `offset`.

    Raises:
        WireError: cut off, or of a type that poolnet never writes.
    """
    if offset >= len(data):
        raise WireError("cut off")
    initial = data[offset]
    major, info = initial >> 5, initial & 31
    offset += 1
    if major == _SIMPLE:
        if info not in (_FALSE, _TRUE, _NULL):
            raise WireError("a type that poolnet does not use")
        return major, 0, offset
    if major not in _INTEGERS and major not in _STRINGS and major != _ARRAY:
        raise WireError("a type that poolnet does not use")
    if info < 24:
        return major, info, offset
    argument_size = _ARGUMENT_SIZES.get(info)
    if argument_size is None or offset + argument_size > len(data):
        raise WireError("an indefinite length, or cut off")
    return major, int.from_bytes(data[offset : offset + argument_size], "big"), offset + argument_size
