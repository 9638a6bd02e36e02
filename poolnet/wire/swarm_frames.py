"""Frames 32-47: files. Pieces of a file are its tree nodes and its chunks in one numbering (protocol/hash_tree.py)."""

import attrs

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_HOPS, MAX_RANGES_PER_FRAME, MAX_WANT_WINDOW
from poolnet.ranges import Ranges
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import BOOLEAN, ID32, appended, integer, ranges, wire

#: Pieces of the largest file stay far below this.
MAX_PIECES = 2**31
PIECE_RANGES = ranges(max_value=MAX_PIECES, max_ranges=MAX_RANGES_PER_FRAME)


@frame(32)
@attrs.frozen(kw_only=True)
class Interest(Frame):
    """Tell me (or stop telling me) which pieces of this file you hold.

    `hops` is how many links the sender is away from a holder; who is nearer may offer to relay. 0: no relay.
    """

    file_id: FileId = wire(ID32)
    interested: bool = wire(BOOLEAN)
    hops: int = appended(integer(0, MAX_HOPS), default=0)


@frame(33)
@attrs.frozen(kw_only=True)
class Have(Frame):
    """Pieces that the sender holds, in addition to what it said before."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)


@frame(34)
@attrs.frozen(kw_only=True)
class Want(Frame):
    """Of these pieces, send me up to `count`; choose those you have sent least. Replaces an earlier unanswered want.

    `hops`: pieces that are not there may be promised, and fetched from elsewhere, by who is fewer links away from a
    holder than this. It falls with every relay, so that no want goes round in a circle. 0 asks only for what is there.
    """

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)
    count: int = wire(integer(1, MAX_WANT_WINDOW))
    hops: int = appended(integer(0, MAX_HOPS), default=0)


@frame(35)
@attrs.frozen(kw_only=True)
class Promise(Frame):
    """The answer to a want: these pieces I will deliver; of the others you asked, none (now). May be empty."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)


@frame(36)
@attrs.frozen(kw_only=True)
class Withdraw(Frame):
    """Pieces that the sender no longer holds; promises of them are void."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)


@frame(37)
@attrs.frozen(kw_only=True)
class Unwant(Frame):
    """Promised pieces that need not be delivered any more; those already under way may still arrive."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)


@frame(38)
@attrs.frozen(kw_only=True)
class Relay(Frame):
    """The answer to an interest with `hops`: only `hops` links away from a holder, I fetch for you what you want.

    0: not (any more). `is_fetching`: the sender fetches all of the file for itself; who wants all of it, too, does
    better to wait for what it announces. `count`: of a stream, how many pieces exist, as far as the sender knows.
    """

    file_id: FileId = wire(ID32)
    hops: int = wire(integer(0, MAX_HOPS))
    is_fetching: bool = appended(BOOLEAN, default=False)
    count: int = appended(integer(0, MAX_PIECES), default=0)


@frame(40)
@attrs.frozen(kw_only=True)
class ChunkHeader(Frame):
    """Opens a chunk stream: which piece follows, and how many bytes it has."""

    file_id: FileId = wire(ID32)
    piece: int = wire(integer(0, MAX_PIECES))
    size: int = wire(integer(0, CHUNK_SIZE))


SWARM_FRAMES = (Interest, Have, Want, Promise, Withdraw, Unwant, Relay)
