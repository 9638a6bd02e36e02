"""The file that a stream's bytes make, worked out while they are read: what its author says must be the same. Pure."""

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import TreeBuilder, chunk_hasher


class StreamWhole:
    """All bytes of one stream so far, as a hash. Memory is some 32 KiB, however long it is."""

    def __init__(self) -> None:
        self._tree = TreeBuilder()
        self._chunk = chunk_hasher()
        self._size_bytes = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            room = CHUNK_SIZE - self._size_bytes % CHUNK_SIZE
            self._chunk.update(view[:room])
            self._size_bytes += len(view[:room])
            if self._size_bytes % CHUNK_SIZE == 0:
                self._finish_chunk()
            view = view[room:]

    def finish(self) -> FileId:
        """Return the id of the file of these bytes. Ends its life."""
        if self._size_bytes % CHUNK_SIZE:
            self._finish_chunk()
        return self._tree.finish(self._size_bytes)[0]

    def _finish_chunk(self) -> None:
        self._tree.add(self._chunk.digest())
        self._chunk = chunk_hasher()
