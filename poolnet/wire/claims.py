"""What two nodes claim about ranges of their histories while they compare them (protocol/reconcile.py).

A history is ordered by key, (hlc, message id). A `Bound` is a place in that order that need not be a message's: its id
part may be a prefix, even empty. Claims follow each other: a range begins where the one before it ends.

On the wire a bound is the 8 bytes of the stamp and the bytes of the id, without the zeros at the end, which makes no
difference to any message; a claim is ``[upper, kind, data]``.
"""

from collections.abc import Iterable
from typing import Any, assert_never

import attrs

from poolnet.errors import WireError
from poolnet.ids import ID_SIZE, MsgId
from poolnet.limits import MAX_COMPARE_SIZE
from poolnet.wire.schema import FieldType, data

#: Where a range of a history begins (included) or ends (excluded); compared like a message's key.
Bound = tuple[int, bytes]
LOWEST: Bound = (0, b"")
#: Above every message: stamps are below 2^63.
HIGHEST: Bound = (2**63, b"")

FINGERPRINT_SIZE = 16
_STAMP_SIZE = 8


@attrs.frozen
class Equal:
    """We have the same in this range."""

    upper: Bound


@attrs.frozen
class Fingerprint:
    """The fingerprint of all that I have in this range. Yours?"""

    upper: Bound
    fingerprint: bytes


@attrs.frozen
class Listing:
    """All that I have in this range. What else have you?"""

    upper: Bound
    ids: tuple[MsgId, ...]


@attrs.frozen
class More:
    """What I have in this range besides what you listed; maybe nothing. Asks for nothing."""

    upper: Bound
    ids: tuple[MsgId, ...] = ()


Claim = Equal | Fingerprint | Listing | More


def encode_bound(bound: Bound) -> bytes:
    """Return the wire form of a bound."""
    return (bound[0].to_bytes(_STAMP_SIZE, "big") + bound[1]).rstrip(b"\0")


def decode_bound_untrusted(item: Any) -> Bound:
    """Return the bound in `item`.

    Raises:
        WireError: not the wire form of a bound, or above `HIGHEST`.
    """
    if type(item) is not bytes or len(item) > _STAMP_SIZE + ID_SIZE:
        raise WireError(f"a byte string of at most {_STAMP_SIZE + ID_SIZE} bytes was expected")
    shortest = item.rstrip(b"\0")  # so that places which mean the same are equal
    bound = (int.from_bytes(shortest[:_STAMP_SIZE].ljust(_STAMP_SIZE, b"\0"), "big"), shortest[_STAMP_SIZE:])
    if bound > HIGHEST:
        raise WireError("a bound above every message")
    return bound


def as_on_wire(bound: Bound) -> Bound:
    """Return the bound that comes out on the other side: it means the same, and may be shorter."""
    return decode_bound_untrusted(encode_bound(bound))


def size_of(claim: Claim) -> int:
    """Return how many bytes a claim takes at most on the wire."""
    return len(encode_bound(claim.upper)) + len(_data_of(claim)) + 8


def _encode_claim(claim: Claim) -> list[Any]:
    return [encode_bound(claim.upper), _KINDS.index(type(claim)), _data_of(claim)]


def _decode_claim(item: Any) -> Claim:
    if type(item) is not list or len(item) < 3 or type(item[1]) is not int:
        raise WireError("a claim is an array of a bound, a kind and data")
    upper = decode_bound_untrusted(item[0])
    content = _DATA.decode(item[2])
    match item[1]:
        case 0:
            return Equal(upper)
        case 1:
            if len(content) != FINGERPRINT_SIZE:
                raise WireError(f"a fingerprint has {FINGERPRINT_SIZE} bytes")
            return Fingerprint(upper, content)
        case 2:
            return Listing(upper, _split_ids(content))
        case 3:
            return More(upper, _split_ids(content))
        case _:
            raise WireError("a claim of an unknown kind")


def _data_of(claim: Claim) -> bytes:
    match claim:
        case Equal():
            return b""
        case Fingerprint(fingerprint=fingerprint):
            return fingerprint
        case Listing(ids=ids) | More(ids=ids):
            return _join_ids(ids)
        case _:
            assert_never(claim)


def _join_ids(ids: Iterable[MsgId]) -> bytes:
    return b"".join(ids)


def _split_ids(content: bytes) -> tuple[MsgId, ...]:
    if len(content) % ID_SIZE:
        raise WireError("a list of ids that is cut off")
    return tuple(MsgId(content[start : start + ID_SIZE]) for start in range(0, len(content), ID_SIZE))


_KINDS: list[type[Any]] = [Equal, Fingerprint, Listing, More]
_DATA = data(max_size=MAX_COMPARE_SIZE)

BOUND: FieldType[Bound] = FieldType(decode_bound_untrusted, encode_bound)
CLAIM: FieldType[Claim] = FieldType(_decode_claim, _encode_claim)
