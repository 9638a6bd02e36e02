"""The hash tree of a file that is being written: found on the way, whatever the size will be in the end.

Where a node lies in a tree depends on the size. So the lowest nodes, which are all but a thousandth of the tree, are
put into a file of their own as they come, and moved to their place when the size is known. Synchronous; for one thread
at a time.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MIB
from poolnet.protocol.hash_tree import FinishedNode, TreeBuilder, TreeShape, hash_chunk
from poolnet.storage.durable import PRIVATE_FILE, replace_durably, store_errors
from poolnet.storage.tree_file import write_at

_COPY_SIZE: Final = 1 * MIB


class GrowingTree:
    """Hashes a file as it grows. Memory: one chunk, one unfinished node a level, and the few nodes above the lowest.

    Args:
        path: where to put the lowest nodes meanwhile; made anew.

    Raises:
        StoreError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0
        self._path = path
        self._builder = TreeBuilder()
        self._chunk = bytearray()  # the last bytes, less than a chunk
        self._upper: list[FinishedNode] = []
        self._lowest_size = 0
        with store_errors("create", path):
            self._lowest = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)

    def add(self, data: bytes) -> None:
        """Take the next bytes of the file.

        Raises:
            StoreError: a node cannot be written; the tree is of no use any more.
        """
        self._chunk += data
        self.size_bytes += len(data)
        whole = len(self._chunk) - len(self._chunk) % CHUNK_SIZE
        for start in range(0, whole, CHUNK_SIZE):
            self._keep(self._builder.add(hash_chunk(bytes(self._chunk[start : start + CHUNK_SIZE]))))
        del self._chunk[:whole]

    def finish(self, tree_path: Path, place: Callable[[FileId], Path]) -> FileId:
        """Return the id of the file; its tree is written to `tree_path`, synced, and moved to ``place(file_id)``.

        Raises:
            StoreError: the tree cannot be written.
        """
        if self._chunk:
            self._keep(self._builder.add(hash_chunk(bytes(self._chunk))))
            self._chunk.clear()
        file_id, nodes = self._builder.finish(self.size_bytes)
        self._keep(nodes)
        with store_errors("write", tree_path):
            tree = os.open(tree_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                self._write_tree(tree, TreeShape(self.size_bytes))
                os.fsync(tree)
            finally:
                os.close(tree)
            replace_durably(tree_path, place(file_id))
        return file_id

    def close(self) -> None:
        """Remove what was kept meanwhile; if that fails, the next start does it."""
        os.close(self._lowest)
        with contextlib.suppress(OSError):  # or it would hide what went wrong before
            self._path.unlink(missing_ok=True)

    def _keep(self, nodes: list[FinishedNode]) -> None:
        with store_errors("write", self._path):
            for node in nodes:
                if node.height:
                    self._upper.append(node)
                else:
                    write_at(self._lowest, node.data, self._lowest_size)
                    self._lowest_size += len(node.data)

    def _write_tree(self, tree: int, shape: TreeShape) -> None:
        for node in self._upper:
            write_at(tree, node.data, shape.node_offset(shape.piece_of_node(node.height, node.index)))
        if not self._lowest_size:
            return
        start = shape.node_offset(shape.piece_of_node(0, 0))
        for offset in range(0, self._lowest_size, _COPY_SIZE):
            write_at(tree, os.pread(self._lowest, _COPY_SIZE, offset), start + offset)
