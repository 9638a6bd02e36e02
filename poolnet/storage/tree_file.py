"""The hash tree of one file, on disk beside nothing but itself: where every piece's hash is looked up.

Nodes lie in the order of their piece numbers without gaps. They are believed only after they have been verified up to
the file id, so a damaged or half-written tree is noticed, never used. Synchronous; several threads may use one object.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

from poolnet.ids import FileId
from poolnet.limits import MAX_CACHED_TREE_NODES
from poolnet.protocol.hash_tree import TreeShape, piece_is_genuine
from poolnet.storage.durable import PRIVATE_FILE, store_errors, sync_directory, sync_file

#: File, size, piece: what verifies with one size does not with another.
_NodeKey = tuple[FileId, int, int]


class NodeCache:
    """The verified tree nodes used last, of any file."""

    def __init__(self, *, max_nodes: int = MAX_CACHED_TREE_NODES) -> None:
        self._max_nodes = max_nodes
        self._lock = threading.Lock()
        self._nodes: OrderedDict[_NodeKey, bytes] = OrderedDict()

    def get(self, key: _NodeKey) -> bytes | None:
        """Return a node if it is here."""
        with self._lock:
            data = self._nodes.get(key)
            if data is not None:
                self._nodes.move_to_end(key)
            return data

    def put(self, key: _NodeKey, data: bytes) -> None:
        """Keep a node that is verified; the one that was not used for longest may go."""
        with self._lock:
            self._nodes[key] = data
            self._nodes.move_to_end(key)
            if len(self._nodes) > self._max_nodes:
                self._nodes.popitem(last=False)


class TreeFile:
    """Tree nodes of the file `file_id` of `shape`, kept in `path`.

    Which nodes are there shows when they are asked for. Methods raise `StoreError` when the disk fails.
    """

    def __init__(self, path: Path, file_id: FileId, shape: TreeShape, cache: NodeCache) -> None:
        self.path = path
        self.file_id = file_id
        self.shape = shape
        self._cache = cache

    def node(self, piece: int) -> bytes | None:
        """Return a tree node, verified; None if it is not there or damaged."""
        cached = self._cache.get(self._key(piece))
        if cached is not None:
            return cached
        data = self._read(piece)
        if data is None or not self.is_genuine(piece, data):
            return None
        self._cache.put(self._key(piece), data)
        return data

    def is_genuine(self, piece: int, data: bytes | memoryview) -> bool:
        """Return whether `data` is that piece of the file; False also while its parent is not there."""
        parent = self.shape.parent(piece) if 0 <= piece < self.shape.piece_count else None
        parent_data = None if parent is None else self.node(parent[0])
        return piece_is_genuine(self.shape, self.file_id, piece, data, parent_data=parent_data)

    def write(self, piece: int, data: bytes) -> None:
        """Keep a node that is genuine."""
        with store_errors("write", self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                write_at(descriptor, data, self.shape.node_offset(piece))
            finally:
                os.close(descriptor)
        self._cache.put(self._key(piece), data)

    def sync(self) -> None:
        """Bring the nodes that are there to the disk."""
        with store_errors("write", self.path), contextlib.suppress(FileNotFoundError):
            sync_file(self.path)
            sync_directory(self.path.parent)

    def present_nodes(self) -> list[int]:
        """Return the nodes that are on the disk and genuine; one that is only remembered is there no more."""
        return [piece for piece in range(self.shape.node_count) if self._is_on_disk(piece)]

    def is_complete(self) -> bool:
        """Return whether the file on disk is as long as the tree; that it is genuine shows on reading."""
        with store_errors("look at", self.path):
            try:
                return self.path.stat().st_size == self.shape.tree_size_bytes
            except FileNotFoundError:
                return self.shape.node_count == 0

    def _key(self, piece: int) -> _NodeKey:
        return (self.file_id, self.shape.size_bytes, piece)

    def _is_on_disk(self, piece: int) -> bool:
        data = self._read(piece)
        return data is not None and self.is_genuine(piece, data)

    def _read(self, piece: int) -> bytes | None:
        with store_errors("read", self.path):
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return os.pread(descriptor, self.shape.piece_size(piece), self.shape.node_offset(piece))
            finally:
                os.close(descriptor)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`.

    Raises:
        OSError: as `os.pwrite`; a part of it may have been written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
