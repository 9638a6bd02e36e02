"""Frames 32-47: files. Pieces of a file are its tree nodes and its chunks in one numbering (protocol/hash_tree.py)."""

import attrs

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_RANGES_PER_FRAME, MAX_WANT_WINDOW
from poolnet.ranges import Ranges
from poolnet.wire.framing import Frame, frame
from poolnet.wire.schema import BOOLEAN, ID32, integer, ranges, wire

#: Pieces of the largest file stay far below this.
MAX_PIECES = 2**31
PIECE_RANGES = ranges(max_value=MAX_PIECES, max_ranges=MAX_RANGES_PER_FRAME)


@frame(32)
@attrs.frozen(kw_only=True)
class Interest(Frame):
    """Tell me (or stop telling me) which pieces of this file you hold."""

    file_id: FileId = wire(ID32)
    interested: bool = wire(BOOLEAN)


@frame(33)
@attrs.frozen(kw_only=True)
class Have(Frame):
    """Pieces that the sender holds, in addition to what it said before."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)


@frame(34)
@attrs.frozen(kw_only=True)
class Want(Frame):
    """Of these pieces, send me up to `count`; choose those you have sent least. Replaces an earlier unanswered want."""

    file_id: FileId = wire(ID32)
    pieces: Ranges = wire(PIECE_RANGES)
    count: int = wire(integer(1, MAX_WANT_WINDOW))


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


@frame(40)
@attrs.frozen(kw_only=True)
class ChunkHeader(Frame):
    """Opens a chunk stream: which piece follows, and how many bytes it has."""

    file_id: FileId = wire(ID32)
    piece: int = wire(integer(0, MAX_PIECES))
    size: int = wire(integer(0, CHUNK_SIZE))


SWARM_FRAMES = (Interest, Have, Want, Promise, Withdraw, Unwant)
