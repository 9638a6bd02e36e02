"""Frames: one CBOR array ``[type, field, …]`` behind a four-byte length, on a control stream or opening a chunk stream.

Each frame class carries its number; a `FrameSet` is the set of frames that one kind of link understands. A frame of an
unknown number comes from a newer version and is skipped, not punished.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import attrs

from poolnet.errors import WireError
from poolnet.limits import MAX_FRAME_SIZE
from poolnet.wire.cbor import decode_cbor_untrusted, encode_cbor, read_header_untrusted
from poolnet.wire.schema import decode_fields_untrusted, encode_fields

LENGTH_SIZE = 4
_UNSIGNED, _ARRAY = 0, 4


class Frame:
    """Base of all frames: attrs-frozen classes made with `@frame`, each with its number on the wire."""

    __slots__ = ()
    FRAME_TYPE: ClassVar[int]


@attrs.frozen
class UnknownFrame(Frame):
    """A frame whose number this version does not know; to be counted and ignored."""

    FRAME_TYPE: ClassVar[int] = -1
    number: int


C = TypeVar("C", bound=type[Frame])


def frame(number: int) -> Callable[[C], C]:
    """Give an attrs class its number on the wire."""

    def mark(cls: C) -> C:
        cls.FRAME_TYPE = number
        return cls

    return mark


class FrameSet:
    """The frames that one kind of link understands, by number."""

    def __init__(self, classes: Iterable[type[Any]]) -> None:
        self._classes: dict[int, type[Any]] = {}
        for cls in classes:
            if cls.FRAME_TYPE in self._classes:
                raise ValueError(f"two frames with number {cls.FRAME_TYPE}")
            self._classes[cls.FRAME_TYPE] = cls

    def decode_untrusted(self, payload: bytes) -> Any:
        """Return the frame in `payload` (without its length).

        Raises:
            WireError: not a frame, or a field that is not what its class says.
        """
        items = decode_cbor_untrusted(payload, max_size=MAX_FRAME_SIZE)
        if not isinstance(items, list) or not items or type(items[0]) is not int:
            raise WireError("a frame is an array that begins with its number")
        cls = self._classes.get(items[0])
        return UnknownFrame(items[0]) if cls is None else decode_fields_untrusted(cls, items[1:])


def frame_number_untrusted(payload: bytes) -> int:
    """Return the number of the frame in `payload` without decoding the rest.

    Raises:
        WireError: not a frame.
    """
    major, count, offset = read_header_untrusted(payload, 0)
    if major != _ARRAY or count == 0:
        raise WireError("a frame is an array that begins with its number")
    major, number, _ = read_header_untrusted(payload, offset)
    if major != _UNSIGNED:
        raise WireError("a frame is an array that begins with its number")
    return number


def encode_frame(value: Frame) -> bytes:
    """Return the bytes of a frame, length included.

    Raises:
        WireError: longer than a frame may be.
    """
    payload = encode_cbor([value.FRAME_TYPE, *encode_fields(value)])
    if len(payload) > MAX_FRAME_SIZE:
        raise WireError(f"a frame of {len(payload)} bytes; at most {MAX_FRAME_SIZE} are allowed")
    return len(payload).to_bytes(LENGTH_SIZE, "big") + payload


class FrameBuffer:
    """Cuts a stream of bytes into frame payloads, whatever pieces it arrives in.

    Args:
        max_size: largest payload accepted; lower before a peer has proven itself.
    """

    def __init__(self, *, max_size: int = MAX_FRAME_SIZE) -> None:
        self.max_size = max_size
        self._buffer = bytearray()

    def feed_untrusted(self, piece: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += piece

    def payloads(self) -> Iterator[bytes]:
        """Yield every payload that is complete.

        Raises:
            WireError: a length over the limit; nothing after it can be read.
        """
        while (payload := self.take()) is not None:
            yield payload

    def take(self) -> bytes | None:
        """Return the next payload, or None if it is not complete yet.

        Raises:
            WireError: a length over the limit; nothing after it can be read.
        """
        if len(self._buffer) < LENGTH_SIZE:
            return None
        size = int.from_bytes(self._buffer[:LENGTH_SIZE], "big")
        if size > self.max_size:
            raise WireError(f"a frame of {size} bytes; at most {self.max_size} are allowed")
        end = LENGTH_SIZE + size
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[LENGTH_SIZE:end])
        del self._buffer[:end]
        return payload

    def take_rest(self) -> bytes:
        """Return, and forget, the bytes that follow the last payload taken."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def __len__(self) -> int:
        return len(self._buffer)
