"""Pieces of a file that this device neither has nor wants, kept for a while so that others get them from here.

They live in the `CacheRing` of the pool, chunks and tree nodes alike, where the oldest of any file go when there is no
room. So a piece that was stored may be gone at any time: what went is told (`take_evicted`, `PiecesDamaged`), and is
fetched again if anybody still asks. Nodes used last are in memory as well, so that most chunks are verified without a
look at the disk.

Synchronous, to be called in a thread, a few MiB a call. Several threads may use one object.
"""

import threading
from collections.abc import Sequence

from poolnet.errors import StoreError
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import TreeShape, piece_is_genuine
from poolnet.ranges import Ranges
from poolnet.storage.cache_ring import CacheRing, PieceKey
from poolnet.storage.piece_store import PiecesDamaged
from poolnet.storage.tree_file import NodeCache


class RelayStore:
    """What is here of a file of others.

    Args:
        ring: where its pieces are; shared by all files of a pool.
        file_id: which file.
        size_bytes: its size; with a wrong one no piece is genuine.
        nodes: tree nodes in memory, verified; shared by all files, so that their number does not count.
    """

    def __init__(self, ring: CacheRing, file_id: FileId, size_bytes: int, *, nodes: NodeCache) -> None:
        self.file_id = file_id
        self.shape = TreeShape(size_bytes)
        self._ring = ring
        self._nodes = nodes
        self._lock = threading.Lock()
        self._evicted: list[PieceKey] = []

    def held(self) -> Ranges:
        """Return which pieces are here."""
        return self._ring.held(self.file_id)

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Verify and store pieces; return for each whether it was genuine (the others are not stored).

        What had to go for them is in `take_evicted`. If an error is raised, some of them are stored all the same.

        Raises:
            PiecesDamaged: tree nodes that are needed to verify them are gone; fetch those first, then these again.
            StoreError: the cache takes nothing: its disk is full or fails.
        """
        lacking: set[int] = set()
        refused = False
        genuine = []
        for piece, data in pieces:
            parent = self._parent(piece)
            parent_data = None if parent is None else self._node(parent)
            if parent is not None and parent_data is None:
                lacking.add(parent)
                continue
            is_genuine = piece_is_genuine(self.shape, self.file_id, piece, data, parent_data=parent_data)
            refused |= is_genuine and not self._store(piece, data)
            genuine.append(is_genuine)
        self._renew_parents(pieces)
        if refused:
            raise StoreError(f"the chunk cache {self._ring.path} takes nothing; see whether its disk is full")
        if lacking:
            raise PiecesDamaged("tree nodes of a relayed file are gone; fetching them again", sorted(lacking))
        return genuine

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return pieces that were stored, exactly as they were verified.

        Raises:
            PiecesDamaged: some are gone or damaged.
        """
        with self._ring.pinned(self.file_id, pieces):
            found = [self._ring.get(self.file_id, piece) for piece in pieces]
        there = [data for data in found if data is not None]
        if len(there) < len(found):
            gone = [piece for piece, data in zip(pieces, found, strict=True) if data is None]
            raise PiecesDamaged("pieces of a relayed file are not in the cache any more", gone)
        return there

    def take_evicted(self) -> list[PieceKey]:
        """Return what went since the last call because this store put something into the ring, of any file.

        To be called after each `write_pieces`, also one that failed; a piece may have been stored again since.
        """
        with self._lock:
            evicted, self._evicted = self._evicted, []
        return evicted

    def _store(self, piece: int, data: bytes) -> bool:
        """Put a genuine piece into the ring; return whether it is there now."""
        gone = self._ring.put(self.file_id, piece, data)
        if not self.shape.is_chunk(piece):
            self._nodes.put(self._node_key(piece), data)
        if gone:
            with self._lock:
                self._evicted += gone
        return (self.file_id, piece) not in gone

    def _renew_parents(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Nodes that are in use do not go before the chunks below them that came later."""
        parents = {self._parent(piece) for piece, _ in pieces}
        self._ring.renew(self.file_id, [parent for parent in parents if parent is not None])

    def _parent(self, piece: int) -> int | None:
        """Return the node that has a piece's hash; None for piece 0 and what is no piece of the file."""
        parent = self.shape.parent(piece) if 0 <= piece < self.shape.piece_count else None
        return None if parent is None else parent[0]

    def _node(self, piece: int) -> bytes | None:
        """Return a tree node, verified before it was stored; None if it is gone."""
        data = self._nodes.get(self._node_key(piece))
        if data is None:
            data = self._ring.get(self.file_id, piece)
            if data is not None:
                self._nodes.put(self._node_key(piece), data)
        return data

    def _node_key(self, piece: int) -> tuple[FileId, int, int]:
        return (self.file_id, self.shape.size_bytes, piece)
