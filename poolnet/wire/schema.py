"""Field types: how each field of a frame, statement or message body is checked when it comes from outside.

A class lists its fields with `wire(TYPE)`; its wire form is the array of them in that order. A newer version may append
fields: what follows the known ones is ignored, and fields declared with `appended` may be missing.
"""

import ipaddress
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from poolnet.errors import WireError
from poolnet.ids import ID_SIZE
from poolnet.ranges import Ranges

T = TypeVar("T")
_KEY = "wire"
_APPENDED = "appended"
_MAX_U64 = 2**64 - 1
#: Interfaces are numbered in 32 bits.
_MAX_SCOPE_DIGITS = 9


@attrs.frozen
class FieldType(Generic[T]):
    """How one field is decoded (raising `WireError`) and encoded (into what CBOR takes)."""

    decode: Callable[[Any], T]
    encode: Callable[[T], Any] = lambda value: value


def wire(field_type: FieldType[Any], **kwargs: Any) -> Any:
    """Declare an attrs field that travels as `field_type`."""
    return attrs.field(metadata={_KEY: field_type}, **kwargs)


def appended(field_type: FieldType[Any], *, default: Any) -> Any:
    """Declare an attrs field at the end of a class that is left off where it, and all after it, have their defaults."""
    return attrs.field(metadata={_KEY: field_type, _APPENDED: True}, default=default)


@attrs.frozen
class _Field:
    """One field of a class that travels."""

    name: str
    type: FieldType[Any]
    is_appended: bool
    default: Any


class _Layouts(dict[type, tuple[_Field, ...]]):
    """The fields of every class that travel, in the order in which they do; found when they are first asked for."""

    def __missing__(self, cls: type) -> tuple[_Field, ...]:
        self[cls] = layout = tuple(
            _Field(field.name, field.metadata[_KEY], _APPENDED in field.metadata, field.default)
            for field in attrs.fields(cast(Any, cls))
            if _KEY in field.metadata
        )
        return layout


_LAYOUTS: Final = _Layouts()


def encode_fields(value: Any) -> list[Any]:
    """Return the fields of `value` in wire form."""
    items = []
    needed = 0
    for field in _LAYOUTS[type(value)]:
        item = getattr(value, field.name)
        items.append(field.type.encode(item))
        if not field.is_appended or item != field.default:
            needed = len(items)
    return items[:needed]


def decode_fields_untrusted(cls: type[T], items: Any) -> T:
    """Return a `cls` from the array of its fields.

    Raises:
        WireError: not an array, too few fields, or a field that is not what `cls` says.
    """
    fields = _LAYOUTS[cls]
    needed = sum(not field.is_appended for field in fields)
    if not isinstance(items, list) or len(items) < needed:
        raise WireError(f"{cls.__name__} needs {needed} fields")
    try:
        values = {field.name: field.type.decode(item) for field, item in zip(fields, items, strict=False)}
    except WireError as exc:
        raise WireError(f"{cls.__name__}: {exc}") from exc
    return cls(**values)


def integer(low: int = 0, high: int = _MAX_U64) -> FieldType[int]:
    """An integer from `low` to `high`, both included."""

    def decode(item: Any) -> int:
        if type(item) is not int or not low <= item <= high:
            raise WireError(f"an integer from {low} to {high} was expected")
        return item

    return FieldType(decode)


def data(*, max_size: int, min_size: int = 0) -> FieldType[bytes]:
    """A byte string of `min_size` to `max_size` bytes."""

    def decode(item: Any) -> bytes:
        if type(item) is not bytes or not min_size <= len(item) <= max_size:
            raise WireError(f"a byte string of {min_size} to {max_size} bytes was expected")
        return item

    return FieldType(decode)


def text(*, max_chars: int, min_chars: int = 0) -> FieldType[str]:
    """A text of `min_chars` to `max_chars` Unicode characters."""

    def decode(item: Any) -> str:
        if type(item) is not str or not min_chars <= len(item) <= max_chars:
            raise WireError(f"a text of {min_chars} to {max_chars} characters was expected")
        return item

    return FieldType(decode)


def short_text(*, max_bytes: int) -> FieldType[str]:
    """A text that is not empty and has at most `max_bytes` bytes in UTF-8."""

    def decode(item: Any) -> str:
        if type(item) is not str or not 1 <= len(item.encode("utf-8", "replace")) <= max_bytes:
            raise WireError(f"a text of 1 to {max_bytes} bytes was expected")
        return item

    return FieldType(decode)


def list_of(item_type: FieldType[T], *, max_items: int) -> FieldType[tuple[T, ...]]:
    """At most `max_items` values of `item_type`."""

    def decode(items: Any) -> tuple[T, ...]:
        if type(items) is not list or len(items) > max_items:
            raise WireError(f"a list of at most {max_items} items was expected")
        return tuple(item_type.decode(item) for item in items)

    return FieldType(decode, lambda values: [item_type.encode(value) for value in values])


def optional(item_type: FieldType[T]) -> FieldType[T | None]:
    """A value of `item_type`, or null."""
    return FieldType(
        lambda item: None if item is None else item_type.decode(item),
        lambda value: None if value is None else item_type.encode(value),
    )


def record(cls: type[T]) -> FieldType[T]:
    """A nested class with `wire` fields."""
    return FieldType(lambda item: decode_fields_untrusted(cls, item), encode_fields)


def ranges(*, max_value: int, max_ranges: int) -> FieldType[Ranges]:
    """A `Ranges`: ascending, disjoint, non-adjacent, below `max_value`; flat on the wire (start, stop, start, …)."""

    def decode(items: Any) -> Ranges:
        if type(items) is not list or len(items) > 2 * max_ranges or len(items) % 2:
            raise WireError(f"at most {max_ranges} ranges were expected")
        previous = -1
        for item in items:
            if type(item) is not int or not previous < item <= max_value:
                raise WireError("ranges must ascend, be disjoint and in bounds")
            previous = item
        return tuple(zip(items[::2], items[1::2], strict=True))

    return FieldType(decode, lambda pairs: [bound for pair in pairs for bound in pair])


def _decode_ip_address(item: Any) -> str:
    if type(item) is not str:
        raise WireError("an IP address was expected")
    host, percent, scope = item.partition("%")
    try:
        address = ipaddress.ip_address(host)
    except ValueError as exc:
        raise WireError("an IP address was expected") from exc
    if address.is_unspecified or address.is_multicast or getattr(address, "ipv4_mapped", None) is not None:
        raise WireError("the IP address of one device was expected, IPv4 in plain form")
    if percent and not (
        address.version == 6 and scope.isascii() and scope.isdecimal() and len(scope) <= _MAX_SCOPE_DIGITS
    ):
        raise WireError("the scope of an IPv6 address is a number")
    return item


def _decode_boolean(item: Any) -> bool:
    if type(item) is not bool:
        raise WireError("true or false was expected")
    return item


#: Any 32-byte id, key or hash.
ID32: FieldType[Any] = data(min_size=ID_SIZE, max_size=ID_SIZE)
SIGNATURE: FieldType[bytes] = data(min_size=64, max_size=64)
#: A numeric IP address of one device, IPv4 never in the form of IPv6 (``::ffff:…``); a link-local one may have the
#: number of its interface as a scope (``fe80::1%2``).
IP_ADDRESS: FieldType[str] = FieldType(_decode_ip_address)
BOOLEAN: FieldType[bool] = FieldType(_decode_boolean)
