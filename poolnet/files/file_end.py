"""The last bytes of a file, fetched into memory and verified by its tree before anything of it is on disk.

That is how a folder says which list it has (wire/folder_list.py): its content ends with the list's id. Memory is one
chunk, or two, and the tree nodes above them.
"""

from collections.abc import Sequence

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeShape, piece_is_genuine
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.piece_store import PiecesDamaged


class FileEnd:
    """A `PieceSink` for the end of one file.

    Args:
        file_id: which file.
        size_bytes: its size; with a wrong one no piece is genuine.
        byte_count: how many bytes of it are wanted.
    """

    def __init__(self, file_id: FileId, size_bytes: int, byte_count: int) -> None:
        self.file_id = file_id
        self.shape = shape = TreeShape(size_bytes)
        self._byte_count = byte_count
        first = shape.piece_of_chunk(max(0, size_bytes - byte_count) // CHUNK_SIZE)
        self.chunks: Ranges = ((first, shape.piece_count),) if size_bytes else ()
        self._needed = shape.with_ancestors(RangeSet(self.chunks))
        self._pieces: dict[int, bytes] = {}

    @property
    def needed(self) -> list[int]:
        """The chunks, and after each node what it is needed for: in an order in which they can be written."""
        return list(self._needed)

    @property
    def data(self) -> bytes:
        """The last bytes of the file, all of it if it has no more; complete when all of `chunks` is here."""
        return b"".join(data for _, data in self.chunk_data())[-self._byte_count :]

    def chunk_data(self) -> list[tuple[int, bytes]]:
        """Return the chunks that are here, in their order."""
        return [(piece, self._pieces[piece]) for piece in RangeSet(self.chunks) if piece in self._pieces]

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """See `PieceSink`. What is not needed is verified, and not kept."""
        return [self._take(piece, data) for piece, data in pieces]

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """See `PieceStore`."""
        gone = [piece for piece in pieces if piece not in self._pieces]
        if gone:
            raise PiecesDamaged("these pieces were not kept", gone)
        return [self._pieces[piece] for piece in pieces]

    def _take(self, piece: int, data: bytes) -> bool:
        parent = self.shape.parent(piece) if 0 <= piece < self.shape.piece_count else None
        parent_data = None if parent is None else self._pieces.get(parent[0])
        is_genuine = piece_is_genuine(self.shape, self.file_id, piece, data, parent_data=parent_data)
        if is_genuine and piece in self._needed:
            self._pieces[piece] = data
        return is_genuine
