"""Sets of message keys in order, as histories are compared (reconcile.py): what a database must answer about them.

Ranges are [lower, upper). A range is told from another by its summary, the count and the sum of the ids modulo 2^256,
which can be added and subtracted, so that a database keeps it of blocks of messages.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import attrs
from blake3 import blake3

from poolnet.clock import Hlc, hlc_ms
from poolnet.ids import MsgId
from poolnet.limits import SESSION_GAP_S
from poolnet.wire.claims import FINGERPRINT_SIZE, HIGHEST, Bound
from poolnet.wire.message import MessageKey

_MODULUS = 2**256
#: Keys in one block of `MemoryKeys`, at most.
_BLOCK_SIZE = 512


@attrs.frozen
class Summary:
    """How many messages a range holds, and the sum of their ids modulo 2^256."""

    count: int = 0
    total: int = 0

    def __add__(self, other: "Summary") -> "Summary":
        return Summary(self.count + other.count, (self.total + other.total) % _MODULUS)

    def __sub__(self, other: "Summary") -> "Summary":
        return Summary(self.count - other.count, (self.total - other.total) % _MODULUS)

    def fingerprint(self) -> bytes:
        """Return what is compared: 16 bytes of BLAKE3 over count (8 bytes) and total (32), big-endian."""
        content = self.count.to_bytes(8, "big") + self.total.to_bytes(32, "big")
        return blake3(content).digest(FINGERPRINT_SIZE)


def summary_of(ids: Iterable[MsgId]) -> Summary:
    """Return the summary of these messages."""
    values = [int.from_bytes(msg_id, "big") for msg_id in ids]
    return Summary(len(values), sum(values) % _MODULUS)


def ids_of(keys: Iterable[MessageKey]) -> tuple[MsgId, ...]:
    """Return the ids in these keys."""
    return tuple(msg_id for _, msg_id in keys)


class KeySet(Protocol):
    """The keys of the messages that are kept in agreement, ascending. Ranges are [lower, upper)."""

    def summary(self, lower: Bound, upper: Bound) -> Summary:
        """Return the summary of a range."""

    def keys(self, lower: Bound, upper: Bound, limit: int) -> list[MessageKey]:
        """Return the first `limit` keys of a range, ascending."""

    def parts(self, lower: Bound, upper: Bound, count: int) -> list[tuple[Bound, Summary]]:
        """Cut a range into at most `count` parts of about as many keys each, none of them empty if any has a key.

        Each part is where it ends and its summary; the last ends at `upper`. The bounds between are as short as tell
        the keys beside them apart (`separator`).
        """

    def nth_newest(self, upper: Bound, n: int) -> MessageKey | None:
        """Return the `n`th key below `upper` from the end (1: the last), or None if there are fewer."""

    def session_start(self, upper: Bound) -> MessageKey | None:
        """Return the first key of the session that the last key below `upper` is in, or None if there is none.

        Between two sessions is a gap of more than `SESSION_GAP_S`.
        """


def separator(below: MessageKey, above: MessageKey) -> Bound:
    """Return a short bound that `below` is below and `above` is not. `below` must be less than `above`."""
    if below[0] != above[0]:
        lowest_bit = (below[0] ^ above[0]).bit_length() - 1
        return (above[0] >> lowest_bit << lowest_bit, b"")
    same = next(index for index, (one, other) in enumerate(zip(below[1], above[1], strict=True)) if one != other)
    return (above[0], above[1][: same + 1])


@attrs.define
class _Block:
    keys: list[MessageKey]
    total: int  # of the ids, not reduced yet: a key more or less changes nothing else

    def summary(self) -> Summary:
        return Summary(len(self.keys), self.total % _MODULUS)


class MemoryKeys:
    """A `KeySet` in memory: a sorted list in blocks, each with its summary. For tests and simulations."""

    def __init__(self, keys: Iterable[MessageKey] = ()) -> None:
        ordered = sorted(set(keys))
        half = _BLOCK_SIZE // 2
        self._blocks = [_make_block(ordered[start : start + half]) for start in range(0, len(ordered), half)]
        self._firsts = [block.keys[0] for block in self._blocks]

    def add(self, key: MessageKey) -> bool:
        """Add a key; returns whether it is new."""
        if not self._blocks:
            self._blocks, self._firsts = [_make_block([key])], [key]
            return True
        index = max(0, bisect_right(self._firsts, key) - 1)
        block = self._blocks[index]
        place = bisect_left(block.keys, key)
        if place < len(block.keys) and block.keys[place] == key:
            return False
        block.keys.insert(place, key)
        block.total += int.from_bytes(key[1], "big")
        if len(block.keys) > _BLOCK_SIZE:
            half = len(block.keys) // 2
            self._blocks[index : index + 1] = [_make_block(block.keys[:half]), _make_block(block.keys[half:])]
            self._firsts[index : index + 1] = [block.keys[0], block.keys[half]]
        self._firsts[index] = self._blocks[index].keys[0]
        return True

    def remove(self, key: MessageKey) -> None:
        """Remove a key.

        Raises:
            KeyError: it is not there.
        """
        if key not in self:
            raise KeyError(key)
        index, place = self._place(key)
        block = self._blocks[index]
        del block.keys[place]
        block.total -= int.from_bytes(key[1], "big")
        if block.keys:
            self._firsts[index] = block.keys[0]
        else:
            del self._blocks[index], self._firsts[index]

    def __contains__(self, key: MessageKey) -> bool:
        return self.keys(key, HIGHEST, 1) == [key]

    def __iter__(self) -> Iterator[MessageKey]:
        return (key for block in self._blocks for key in block.keys)

    def __len__(self) -> int:
        return sum(len(block.keys) for block in self._blocks)

    def summary(self, lower: Bound, upper: Bound) -> Summary:
        """See `KeySet`."""
        (first, start), (last, stop) = self._place(lower), self._place(upper)
        if (first, start) >= (last, stop):
            return Summary()
        if first == last:
            return summary_of(ids_of(self._blocks[first].keys[start:stop]))
        result = summary_of(ids_of(self._blocks[first].keys[start:]))
        for block in self._blocks[first + 1 : last]:
            result += block.summary()
        return result + summary_of(ids_of(self._blocks[last].keys[:stop])) if stop else result

    def keys(self, lower: Bound, upper: Bound, limit: int) -> list[MessageKey]:
        """See `KeySet`."""
        index, start = self._place(lower)
        found: list[MessageKey] = []
        while index < len(self._blocks) and len(found) < limit:
            keys = self._blocks[index].keys
            stop = bisect_left(keys, upper)
            found += keys[start : min(stop, start + limit - len(found))]
            if stop < len(keys):
                break
            index, start = index + 1, 0
        return found

    def parts(self, lower: Bound, upper: Bound, count: int) -> list[tuple[Bound, Summary]]:
        """See `KeySet`."""
        offsets = [0, *accumulate(len(block.keys) for block in self._blocks)]
        first, last = self._rank(lower, offsets), self._rank(upper, offsets)
        size = max(0, last - first)
        count = max(1, min(count, size))
        cuts = [first + size * number // count for number in range(1, count)]
        bounds = [separator(self._at(cut - 1, offsets), self._at(cut, offsets)) for cut in cuts]
        parts = []
        for bound in (*bounds, upper):
            parts.append((bound, self.summary(lower, bound)))
            lower = bound
        return parts

    def nth_newest(self, upper: Bound, n: int) -> MessageKey | None:
        """See `KeySet`."""
        offsets = [0, *accumulate(len(block.keys) for block in self._blocks)]
        rank = self._rank(upper, offsets) - n
        return self._at(rank, offsets) if rank >= 0 else None

    def session_start(self, upper: Bound) -> MessageKey | None:
        """See `KeySet`."""
        start: MessageKey | None = None
        for key in self._backwards(upper):
            if start is not None and _gap_s(key[0], start[0]) > SESSION_GAP_S:
                break
            start = key
        return start

    def _backwards(self, upper: Bound) -> Iterator[MessageKey]:
        index, place = self._place(upper)
        if place:
            yield from reversed(self._blocks[index].keys[:place])
        for block in reversed(self._blocks[:index]):
            yield from reversed(block.keys)

    def _place(self, bound: Bound) -> tuple[int, int]:
        """Return the block and the index in it of the first key that is not below `bound`."""
        index = max(0, bisect_right(self._firsts, bound) - 1)
        if index >= len(self._blocks):
            return 0, 0
        place = bisect_left(self._blocks[index].keys, bound)
        return (index, place) if place < len(self._blocks[index].keys) else (index + 1, 0)

    def _rank(self, bound: Bound, offsets: Sequence[int]) -> int:
        index, place = self._place(bound)
        return offsets[index] + place

    def _at(self, rank: int, offsets: Sequence[int]) -> MessageKey:
        index = bisect_right(offsets, rank) - 1
        return self._blocks[index].keys[rank - offsets[index]]


def _make_block(keys: list[MessageKey]) -> _Block:
    return _Block(keys, summary_of(ids_of(keys)).total)


def _gap_s(earlier: Hlc, later: Hlc) -> float:
    return (hlc_ms(later) - hlc_ms(earlier)) / 1000
