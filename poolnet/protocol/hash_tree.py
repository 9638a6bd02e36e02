"""The hash tree of a file: what a file id stands for, and how every piece is checked against it.

A file is cut into chunks of `CHUNK_SIZE`. The hashes of up to `TREE_FAN_OUT` chunks, one after another, are a tree
node; the hashes of up to `TREE_FAN_OUT` nodes are a node one level up; and so on until one node is left, the top. The
file id binds the hash of the top and the size. A file of one chunk has no nodes (its top is the chunk), an empty file
has no pieces at all.

Tree nodes travel like chunks, so both are *pieces* in one numbering: nodes first, breadth first from the top (which is
piece 0), then the chunks. A piece can be verified as soon as its parent is there; piece 0 is verified by the file id.
Kept in a file in the order of their numbers, the nodes lie without gaps (`node_offset`).

BLAKE3 in its key derivation mode gives chunks, nodes and ids domains of their own (BLAKE3 specification, section 2.3).
"""

from bisect import bisect_right
from typing import Final

import attrs
from blake3 import blake3

from poolnet.ids import ID_SIZE, FileId
from poolnet.limits import CHUNK_SIZE, TREE_FAN_OUT
from poolnet.ranges import RangeSet
from poolnet.wire.swarm_frames import MAX_PIECES

HASH_SIZE = ID_SIZE
_CHUNK_CONTEXT = "poolnet file chunk 1"
_NODE_CONTEXT = "poolnet file node 1"
_FILE_CONTEXT = "poolnet file 1"
_EMPTY_TOP = bytes(HASH_SIZE)


def hash_chunk(chunk: bytes | memoryview) -> bytes:
    """Return the hash of a chunk: a leaf of the tree."""
    return blake3(chunk, derive_key_context=_CHUNK_CONTEXT).digest()


def chunk_hasher() -> blake3:
    """Return a hasher that is fed a chunk bit by bit; its `digest` is then the same as `hash_chunk` of the whole."""
    return blake3(derive_key_context=_CHUNK_CONTEXT)


def hash_node(node: bytes | memoryview) -> bytes:
    """Return the hash of a tree node, given the hashes of its children one after another."""
    return blake3(node, derive_key_context=_NODE_CONTEXT).digest()


def file_id_of(size_bytes: int, top_hash: bytes) -> FileId:
    """Return the id of a file of that size whose piece 0 has that hash (32 zero bytes if it is empty)."""
    return FileId(blake3(size_bytes.to_bytes(8, "big") + top_hash, derive_key_context=_FILE_CONTEXT).digest())


def expected_hash(parent_data: bytes | memoryview, slot: int) -> bytes:
    """Return the hash that a verified node says its child in `slot` has."""
    return bytes(parent_data[slot * HASH_SIZE : (slot + 1) * HASH_SIZE])


class TreeShape:
    """Where the pieces of a file of `size_bytes` lie, and which hashes which. Small and immutable.

    Methods that take a piece expect one in ``range(piece_count)``.
    """

    __slots__ = ("_level_counts", "_level_starts", "chunk_count", "node_count", "piece_count", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        if size_bytes < 0:
            raise ValueError("a size is not negative")
        self.size_bytes = size_bytes
        self.chunk_count = -(-size_bytes // CHUNK_SIZE)
        counts = [self.chunk_count]  # of each level, from the chunks to the top
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // TREE_FAN_OUT))
        counts.reverse()
        self._level_counts = counts
        self._level_starts = [sum(counts[:depth]) for depth in range(len(counts))]
        self.node_count = self._level_starts[-1]
        self.piece_count = self.node_count + self.chunk_count

    @property
    def roots(self) -> range:
        """The pieces that are verified without another."""
        return range(min(1, self.piece_count))

    @property
    def tree_size_bytes(self) -> int:
        """The size of all tree nodes together."""
        return HASH_SIZE * (self.piece_count - 1) if self.node_count else 0

    def is_chunk(self, piece: int) -> bool:
        """Return whether a piece is a chunk (otherwise it is a tree node)."""
        return piece >= self.node_count

    def chunk_index(self, piece: int) -> int:
        """Return which chunk of the file a piece is."""
        return piece - self.node_count

    def piece_of_chunk(self, index: int) -> int:
        """Return the piece that is chunk `index` of the file."""
        return self.node_count + index

    def chunk_offset(self, index: int) -> int:
        """Return where in the file chunk `index` begins."""
        return index * CHUNK_SIZE

    def piece_of_node(self, height: int, index: int) -> int:
        """Return the piece that is node `index` of those `height` levels above the chunks' parents (height 0)."""
        return self._level_starts[-2 - height] + index

    def node_offset(self, piece: int) -> int:
        """Return where a node begins when all nodes lie one after another in the order of their numbers."""
        return HASH_SIZE * (self.children(piece).start - 1)

    def piece_size(self, piece: int) -> int:
        """Return how many bytes a piece has."""
        if piece >= self.node_count:
            return min(CHUNK_SIZE, self.size_bytes - (piece - self.node_count) * CHUNK_SIZE)
        return HASH_SIZE * len(self.children(piece))

    def parent(self, piece: int) -> tuple[int, int] | None:
        """Return the node that holds the hash of a piece, and in which slot; None for piece 0."""
        if piece == 0:
            return None
        depth = self._depth(piece)
        index, slot = divmod(piece - self._level_starts[depth], TREE_FAN_OUT)
        return self._level_starts[depth - 1] + index, slot

    def children(self, node: int) -> range:
        """Return the pieces whose hashes a node holds; slot i is the i-th of them."""
        depth = self._depth(node)
        first = (node - self._level_starts[depth]) * TREE_FAN_OUT
        start = self._level_starts[depth + 1]
        return range(start + first, start + min(first + TREE_FAN_OUT, self._level_counts[depth + 1]))

    def with_ancestors(self, pieces: RangeSet) -> RangeSet:
        """Return `pieces` and every node above them, in O(runs × levels)."""
        result = pieces.copy()
        for start, stop in pieces.ranges():
            for depth in range(self._depth(start), self._depth(stop - 1) + 1):
                level_start, level_count = self._level_starts[depth], self._level_counts[depth]
                first = max(start, level_start) - level_start
                last = min(stop - level_start, level_count) - 1
                for above in range(depth - 1, -1, -1):
                    first, last = first // TREE_FAN_OUT, last // TREE_FAN_OUT
                    result.add_range(self._level_starts[above] + first, self._level_starts[above] + last + 1)
        return result

    def _depth(self, piece: int) -> int:
        return bisect_right(self._level_starts, piece) - 1

    def __repr__(self) -> str:
        return f"TreeShape({self.size_bytes})"


class OpenShape:
    """The shape of a stream: it has no tree and no end, and each of its pieces is verified alone.

    It answers what a `TreeShape` answers, so that whoever moves pieces need not know the difference. A piece has at
    most `CHUNK_SIZE` bytes (protocol/stream_pieces.py).
    """

    __slots__ = ()

    size_bytes: Final = None
    node_count: Final = 0
    chunk_count: Final = MAX_PIECES
    piece_count: Final = MAX_PIECES
    tree_size_bytes: Final = 0
    roots: Final = range(MAX_PIECES)

    def is_chunk(self, _piece: int) -> bool:
        """Return True: there are no tree nodes."""
        return True

    def chunk_index(self, piece: int) -> int:
        """Return the number of a piece in the stream: the piece."""
        return piece

    def piece_of_chunk(self, index: int) -> int:
        """Return the piece of that number in the stream: the same."""
        return index

    def piece_size(self, _piece: int) -> int:
        """Return how many bytes a piece has at most."""
        return CHUNK_SIZE

    def parent(self, _piece: int) -> tuple[int, int] | None:
        """Return None: a piece is verified alone."""
        return None

    def children(self, _piece: int) -> range:
        """Return nothing: there are no tree nodes."""
        return range(0)

    def with_ancestors(self, pieces: RangeSet) -> RangeSet:
        """Return `pieces`, in a set of their own."""
        return pieces.copy()

    def __repr__(self) -> str:
        return "OpenShape()"


#: A file of a size, or a stream.
Shape = TreeShape | OpenShape


def shape_of(size_bytes: int | None) -> Shape:
    """Return the shape of a file of that size, or of a stream (None)."""
    return OpenShape() if size_bytes is None else TreeShape(size_bytes)


def piece_hash(shape: TreeShape, piece: int, data: bytes | memoryview) -> bytes:
    """Return the hash of `data` as the piece of that number."""
    return hash_chunk(data) if shape.is_chunk(piece) else hash_node(data)


def piece_is_genuine(
    shape: TreeShape,
    file_id: FileId,
    piece: int,
    data: bytes | memoryview,
    *,
    parent_data: bytes | memoryview | None,
) -> bool:
    """Return whether `data` is that piece of that file.

    Args:
        shape: of the size that the file is said to have; the wrong one makes every piece 0 wrong.
        file_id: which file.
        piece: which piece of it; False for one that the file does not have.
        data: what somebody says the piece is.
        parent_data: the verified node that holds the piece's hash; None for piece 0.
    """
    if not 0 <= piece < shape.piece_count or len(data) != shape.piece_size(piece):
        return False
    found = piece_hash(shape, piece, data)
    parent = shape.parent(piece)
    if parent is None:
        return file_id_of(shape.size_bytes, found) == file_id
    return parent_data is not None and expected_hash(parent_data, parent[1]) == found


@attrs.frozen(kw_only=True)
class FinishedNode:
    """A complete tree node. `height` 0 is the parents of chunks; `TreeShape.piece_of_node` tells the piece."""

    height: int
    index: int
    data: bytes


class TreeBuilder:
    """Builds the tree of a file from its chunks' hashes in order, without knowing the size in advance.

    Nodes come out as soon as they are complete, so memory is one unfinished node a level (32 KiB), whatever the size.
    """

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]  # hashes not yet in a finished node, from the leaves up
        self._finished: list[int] = [0]  # nodes finished at each height
        self.leaf_count = 0

    def add(self, leaf_hash: bytes) -> list[FinishedNode]:
        """Take the hash of the next chunk; return the nodes that it completes, lowest first."""
        self.leaf_count += 1
        nodes: list[FinishedNode] = []
        self._levels[0] += leaf_hash
        height = 0
        # A full node is finished only when more follows: the top of a tree is known at the end.
        while len(self._levels[height]) > TREE_FAN_OUT * HASH_SIZE:
            nodes.append(self._finish_node(height))
            height += 1
        return nodes

    def finish(self, size_bytes: int) -> tuple[FileId, list[FinishedNode]]:
        """Return the id of the file, and the nodes not returned yet, lowest first. Ends the builder's life.

        Raises:
            ValueError: the number of hashes does not fit the size.
        """
        if self.leaf_count != TreeShape(size_bytes).chunk_count:
            raise ValueError(f"{self.leaf_count} chunks for {size_bytes} bytes")
        if not self.leaf_count:
            return file_id_of(size_bytes, _EMPTY_TOP), []
        nodes: list[FinishedNode] = []
        height = 0
        while height + 1 < len(self._levels) or len(self._levels[height]) > HASH_SIZE:
            while self._levels[height]:  # two nodes if the last one below was one too many
                nodes.append(self._finish_node(height))
            height += 1
        return file_id_of(size_bytes, bytes(self._levels[height])), nodes

    def _finish_node(self, height: int) -> FinishedNode:
        level = self._levels[height]
        size = TREE_FAN_OUT * HASH_SIZE
        node = FinishedNode(height=height, index=self._finished[height], data=bytes(level[:size]))
        del level[:size]
        self._finished[height] += 1
        if height + 1 == len(self._levels):
            self._levels.append(bytearray())
            self._finished.append(0)
        self._levels[height + 1] += hash_node(node.data)
        return node
