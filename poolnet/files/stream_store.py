"""Pieces of somebody else's stream on this device: verified by their signatures, kept in the cache ring for others.

What the ring does not take (it is turned off, or its disk is full) is kept in memory for a little while, so that even
then those who follow a stream pass it on to each other.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from poolnet.errors import WireError
from poolnet.ids import FileId, PoolId
from poolnet.protocol.hash_tree import OpenShape
from poolnet.protocol.stream_pieces import StreamPiece, decode_stream_piece_untrusted, stream_piece_is_genuine
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.cache_ring import CacheRing, PieceKey
from poolnet.storage.piece_store import PiecesDamaged

#: Pieces that the ring did not take and that are kept in memory: 8 MiB.
_MAX_SPARE_PIECES: Final = 32


class StreamStore:
    """The pieces of one stream that are in the ring: a `RelaySink`, for following a stream and for relaying it.

    Its methods may be called in several threads at once.

    Args:
        ring: where pieces are kept; shared with everything else that is cached.
        pool_id: the pool that the stream is published in.
        stream_id: which stream.
    """

    def __init__(self, ring: CacheRing, pool_id: PoolId, stream_id: FileId) -> None:
        self.file_id = stream_id
        self.shape = OpenShape()
        self._ring = ring
        self._pool_id = pool_id
        self._lock = threading.Lock()
        self._spare: OrderedDict[int, bytes] = OrderedDict()
        self._evicted: dict[PieceKey, None] = {}
        self._count: int | None = None

    @property
    def count(self) -> int | None:
        """How many pieces the stream has; None until its last one was here."""
        return self._count

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Verify and keep pieces; return for each whether it was genuine (the others are not kept)."""
        return [self._write(piece, data) for piece, data in pieces]

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return pieces as they came.

        Raises:
            PiecesDamaged: some are not here any more.
        """
        found = [self._read(piece) for piece in pieces]
        intact = [data for data in found if data is not None]
        if len(intact) < len(found):
            gone = [piece for piece, data in zip(pieces, found, strict=True) if data is None]
            raise PiecesDamaged("pieces of a stream are not in the cache any more", gone)
        return intact

    def held(self) -> Ranges:
        """Return which pieces are here."""
        held = RangeSet.from_ranges(self._ring.held(self.file_id))
        with self._lock:
            held.update(RangeSet.of(self._spare))
        return held.to_ranges()

    def take_evicted(self) -> list[PieceKey]:
        """Return the pieces (also of other files) that are not here any more because of what was written since."""
        with self._lock:
            evicted, self._evicted = self._evicted, {}
        return list(evicted)

    def _write(self, number: int, data: bytes) -> bool:
        piece = self._genuine(number, data)
        if piece is None:
            return False
        evicted = self._ring.put(self.file_id, number, data)
        with self._lock:
            if piece.is_final:
                self._count = number + 1
            self._evicted.pop((self.file_id, number), None)
            self._evicted.update(dict.fromkeys(key for key in evicted if key != (self.file_id, number)))
            if (self.file_id, number) in evicted:
                self._keep_spare(number, data)
        return True

    def _genuine(self, number: int, data: bytes) -> StreamPiece | None:
        try:
            piece = decode_stream_piece_untrusted(data)
        except WireError:
            return None
        is_genuine = piece.index == number and stream_piece_is_genuine(
            piece, pool_id=self._pool_id, stream_id=self.file_id
        )
        return piece if is_genuine else None

    def _keep_spare(self, number: int, data: bytes) -> None:
        self._spare[number] = data
        if len(self._spare) > _MAX_SPARE_PIECES:
            oldest, _ = self._spare.popitem(last=False)
            self._evicted[self.file_id, oldest] = None

    def _read(self, number: int) -> bytes | None:
        with self._lock:
            spare = self._spare.get(number)
        return spare if spare is not None else self._ring.get(self.file_id, number)
