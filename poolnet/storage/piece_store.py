"""Pieces of one file on disk: read from a complete file, or written to and read from one that is on its way.

The file may be the content of a folder: its layout (layout.py) knows how the bytes are spread.

Every piece is verified when it is written and again when it is read, so that a file that was edited, cut or damaged is
noticed at once and never spreads. Files are opened for each batch of pieces: nothing stays open while it is idle, and
a file that was removed or replaced is noticed.

Synchronous, to be called in a thread, a few MiB a call. Several threads may use one object.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from poolnet.errors import OutputExists, StoreError
from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE
from poolnet.protocol.hash_tree import HASH_SIZE, TreeShape
from poolnet.ranges import RangeSet
from poolnet.storage.durable import store_errors
from poolnet.storage.files import check_free_space
from poolnet.storage.hashing import ZERO_CHUNK_HASH
from poolnet.storage.layout import Layout, OneFile, OpenFiles, SourceChanged
from poolnet.storage.part_journal import PartJournal
from poolnet.storage.tree_file import TreeFile

__all__ = ["FileSource", "PartFile", "PiecesDamaged", "SourceChanged"]

#: Chunks written again in one step: 4 MiB.
_CHUNKS_PER_STEP: Final = 16

#: What a hole in a file reads as.
_ZEROS: Final = bytes(CHUNK_SIZE)


class PiecesDamaged(StoreError):
    """Pieces of an unfinished download are not what was written; `pieces` are to be fetched again."""

    def __init__(self, message: str, pieces: list[int]) -> None:
        super().__init__(message)
        self.pieces = pieces


class FileSource:
    """A complete file and its tree.

    Args:
        path: the file, or the folder.
        tree: its tree; its path may differ from the file's directory.
        layout: of a folder; None: it is one file.
    """

    def __init__(self, path: Path, tree: TreeFile, layout: Layout | None = None) -> None:
        self.path = path
        self.tree = tree
        self._layout = layout or OneFile(tree.shape.size_bytes)

    @property
    def file_id(self) -> FileId:
        """Which file this is."""
        return self.tree.file_id

    @property
    def shape(self) -> TreeShape:
        """Its pieces."""
        return self.tree.shape

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return these pieces, each verified.

        Raises:
            SourceChanged: one is not what it was; `str()` of it says what happened to the file.
        """
        try:
            with self._layout.reading(self.path, is_complete=True) as files:
                return [self._read_piece(files, piece) for piece in pieces]
        except FileNotFoundError as exc:
            raise SourceChanged(f"{self._blamed(exc)} is not there any more") from exc
        except OSError as exc:
            raise SourceChanged(f"{self._blamed(exc)} cannot be read: {exc.strerror or exc}") from exc

    def _read_piece(self, files: OpenFiles, piece: int) -> bytes:
        if not self.shape.is_chunk(piece):
            node = self.tree.node(piece)
            if node is None:
                raise SourceChanged(f"what poolnet keeps about {self.path} is damaged; offer it again")
            return node
        data = _read_chunk(files, self.shape, piece)
        if not self.tree.is_genuine(piece, data):
            raise SourceChanged(f"{self.path} was changed since it was offered")
        return data

    def _blamed(self, error: OSError) -> Path:
        """Return which file an error is about: in a folder, one of its files."""
        return self.path / error.filename if isinstance(error.filename, str) else self.path


class PartFile:
    """A download on its way: ``NAME.part`` (a directory for a folder), its tree, and a journal of the chunks written.

    After a sync that failed, a system may show what was written as if it were there, and the next sync succeeds without
    it. So all is written again then; the journal says so, in case that is left to another process.

    Args:
        path: the part file.
        tree: its tree.
        journal_path: where the journal is.
        layout: of a folder; None: it is one file.
    """

    def __init__(self, path: Path, tree: TreeFile, journal_path: Path, layout: Layout | None = None) -> None:
        self.path = path
        self.tree = tree
        self.layout = layout or OneFile(tree.shape.size_bytes)
        self._journal = PartJournal(journal_path)
        self._target: Path | None = None  # where `publish` puts it
        self._settled: int | None = 0  # how far `settle` is; None: to the end
        self._written_again: int | None = None  # how far `settle` is with that, in pieces; None: it need not

    @property
    def file_id(self) -> FileId:
        """Which file this is."""
        return self.tree.file_id

    @property
    def shape(self) -> TreeShape:
        """Its pieces."""
        return self.tree.shape

    def create(self) -> None:
        """Begin a download: make the part file.

        Raises:
            OutputExists: the part file is there; it belongs to something else.
            DiskFull: there is no room for the whole file.
            StoreError: it cannot be made.
        """
        check_free_space(self.path.parent, self.layout.needed_bytes)
        try:
            with store_errors("create", self.path):
                self._journal.remove()
                self.layout.create(self.path)
        except StoreError as exc:
            if isinstance(exc.__cause__, FileExistsError):
                raise OutputExists(f"{self.path} is there already; move it away, or choose another place") from exc
            raise

    def reopen(self) -> RangeSet | None:
        """Go on with a download: return the chunks (as pieces) that the journal says were written, unverified.

        None: there is no part file of the right size; begin anew.

        Raises:
            DiskFull: there is no room for the rest.
            StoreError: it cannot be read.
        """
        chunks = ((self.shape.node_count, self.shape.piece_count),)
        written = self._journal.read().intersection(chunks)
        if self._journal.sync_failed:
            self._written_again = self.shape.node_count
        with store_errors("look at", self.path):
            missing_bytes = self.layout.missing_bytes(self.path, len(written) * CHUNK_SIZE)
        if missing_bytes is None:
            return None
        check_free_space(self.path.parent, missing_bytes)
        return written

    def verify(self, pieces: Sequence[int]) -> list[int]:
        """Return those of these chunks that are there and genuine.

        Raises:
            StoreError: the disk failed.
        """
        with store_errors("read", self.path), self.layout.reading(self.path, is_complete=False) as files:
            return [piece for piece in pieces if self.tree.is_genuine(piece, _read_chunk(files, self.shape, piece))]

    def find_holes(self, missing: RangeSet) -> RangeSet:
        """Return those of these chunks that are zeros by the tree, and holes here: nothing has to be fetched.

        Raises:
            StoreError: the disk failed.
        """
        zeros = missing.intersection(_zero_chunks(self.tree).to_ranges())
        holes = RangeSet()
        for start, stop in zeros.ranges():
            holes.update(self._holes(range(start, stop)))
        if holes:
            self.note_written(holes)
        return holes

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Verify and write pieces; return for each whether it was genuine (the others are not written).

        Raises:
            PiecesDamaged: tree nodes that are needed to verify them are gone; fetch those first, then these again.
            StoreError: the disk failed (`DiskFull`); some may have been written.
        """
        genuine = [self._take(piece, data) for piece, data in pieces]
        self._check_parents(piece for (piece, _), is_genuine in zip(pieces, genuine, strict=True) if not is_genuine)
        chunks = [
            (piece, data)
            for (piece, data), is_genuine in zip(pieces, genuine, strict=True)
            if is_genuine and self.shape.is_chunk(piece)
        ]
        if chunks:
            with store_errors("write", self.path), self.layout.writing(self.path) as files:
                for piece, data in chunks:
                    _write_chunk(files, self.shape, piece, data)
            self.note_written(RangeSet.of(piece for piece, _ in chunks))
        return genuine

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return pieces that were written, each verified.

        Raises:
            PiecesDamaged: some are not what was written.
            StoreError: the disk failed.
        """
        with store_errors("read", self.path), self._reading_where_it_is() as files:
            found = [self._read_piece(files, piece) for piece in pieces]
        intact = [data for data in found if data is not None]
        if len(intact) < len(found):
            damaged = [piece for piece, data in zip(pieces, found, strict=True) if data is None]
            raise PiecesDamaged(f"{self.path} was changed by another program; fetching that part again", damaged)
        return intact

    def note_written(self, pieces: RangeSet) -> None:
        """Append runs of chunks to the journal.

        Raises:
            StoreError: it cannot be written.
        """
        self._journal.append(pieces)

    def begin_journal(self, pieces: RangeSet) -> None:
        """Replace the journal by one that lists just these chunks.

        Raises:
            StoreError: it cannot be written.
        """
        self._journal.replace(pieces)

    def discard(self) -> None:
        """Remove what was begun, which is of no use: nothing in it is genuine.

        Raises:
            StoreError: the system refused.
        """
        with store_errors("remove", self.path):
            self.layout.discard(self.path)
        self._journal.remove()

    def write_back(self) -> None:
        """Bring what was written so far to the disk, so that little is left for `sync`. Beside other calls.

        Raises:
            StoreError: it failed; what was written may be lost.
        """
        with self._syncing():
            self.layout.write_back(self.path)

    def settle(self) -> bool:
        """Do a part of what `sync` does; return whether more is left. Of a folder with many files that takes a while.

        Raises:
            StoreError: it failed; what was written may be lost.
        """
        if self._written_again is not None:
            self._write_again(self._written_again)
        elif self._settled is not None:
            with self._syncing():
                self._settled = self.layout.settle(self.path, self._settled)
            if self._settled is None:
                with contextlib.suppress(StoreError):  # it can be made from the file again
                    self.tree.sync()
        return self._settled is not None

    def sync(self) -> None:
        """Bring everything written to the disk.

        Raises:
            StoreError: it failed; what was written may be lost.
        """
        while self.settle():
            pass

    def publish(self, target: Path) -> int:
        """Give the complete file, which is synced, its name; return its modification time (ns). The journal goes.

        Raises:
            OutputExists: something has that name; the part file stays.
            StoreError: the system refused.
        """
        with store_errors("look at", self.path):
            mtime_ns = self.path.stat().st_mtime_ns
        self._target = target
        self.layout.publish(self.path, target)
        with contextlib.suppress(StoreError):  # it is complete; the next start removes what is left
            self._journal.remove()
        return mtime_ns

    @contextlib.contextmanager
    def _syncing(self) -> Iterator[None]:
        """Turn errors of a sync into `StoreError`, and see to it that all is written again before the next."""
        try:
            with store_errors("write", self.path):
                yield
        except StoreError:
            self._settled, self._written_again = 0, self.shape.node_count
            with contextlib.suppress(StoreError):
                self._journal.note_failed_sync()
            raise

    def _holes(self, pieces: range) -> RangeSet:
        """Return those of these chunks that are holes, as far as the file system tells."""
        offset, holes = self.shape.chunk_offset(self.shape.chunk_index(pieces.start)), RangeSet()
        with store_errors("read", self.path):
            for first, last in self.layout.holes(self.path, offset, offset + len(pieces) * CHUNK_SIZE):
                start = pieces.start + -(-(first - offset) // CHUNK_SIZE)
                holes.add_range(start, max(start, pieces.start + (last - offset) // CHUNK_SIZE))
        return holes

    def _write_again(self, start: int) -> None:
        """Write some chunks again from piece `start` on, but for those that are holes."""
        pieces = range(start, min(start + _CHUNKS_PER_STEP, self.shape.piece_count))
        holes = self._holes(pieces) if pieces else RangeSet()
        with store_errors("write", self.path), self.layout.writing(self.path) as files:
            for piece in pieces:
                if piece not in holes:
                    data = _read_chunk(files, self.shape, piece)
                    files.write(self.shape.chunk_offset(self.shape.chunk_index(piece)), data)
        self._written_again = pieces.stop if pieces.stop < self.shape.piece_count else None

    @contextlib.contextmanager
    def _reading_where_it_is(self) -> Iterator[OpenFiles]:
        """Open the file for reading, although another thread may just be giving it its final name."""
        with contextlib.ExitStack() as stack:
            try:
                files = stack.enter_context(self.layout.reading(self.path, is_complete=False))
            except FileNotFoundError:
                if self._target is None:
                    raise
                files = stack.enter_context(self.layout.reading(self._target, is_complete=False))
            yield files

    def _check_parents(self, pieces: Iterable[int]) -> None:
        """See to it that nobody is blamed for pieces that only look wrong because the tree here is damaged."""
        existing = (piece for piece in pieces if 0 < piece < self.shape.piece_count)
        parents = {parent[0] for piece in existing if (parent := self.shape.parent(piece)) is not None}
        damaged = sorted(parent for parent in parents if self.tree.node(parent) is None)
        if damaged:
            raise PiecesDamaged(f"{self.tree.path} is not what was written; fetching that part again", damaged)

    def _take(self, piece: int, data: bytes) -> bool:
        """Return whether a piece is genuine; keep it if it is a tree node, so that its children can be verified."""
        is_genuine = self.tree.is_genuine(piece, data)
        if is_genuine and not self.shape.is_chunk(piece):
            self.tree.write(piece, data)
        return is_genuine

    def _read_piece(self, files: OpenFiles, piece: int) -> bytes | None:
        if not self.shape.is_chunk(piece):
            return self.tree.node(piece)
        data = _read_chunk(files, self.shape, piece)
        return data if self.tree.is_genuine(piece, data) else None


def _zero_chunks(tree: TreeFile) -> RangeSet:
    """Return the whole chunks that are zeros, as far as the tree is here."""
    zeros = RangeSet()
    for node in range(tree.shape.node_count):
        chunks = tree.shape.children(node)
        data = tree.node(node) if chunks and tree.shape.is_chunk(chunks[0]) else None
        if data is None or ZERO_CHUNK_HASH not in data:
            continue
        for slot, chunk in enumerate(chunks):
            if data[slot * HASH_SIZE : (slot + 1) * HASH_SIZE] == ZERO_CHUNK_HASH:
                zeros.add(chunk)
    return zeros


def _read_chunk(files: OpenFiles, shape: TreeShape, piece: int) -> bytes:
    return files.read(shape.chunk_offset(shape.chunk_index(piece)), shape.piece_size(piece))


def _write_chunk(files: OpenFiles, shape: TreeShape, piece: int, data: bytes) -> None:
    """Write a chunk; zeros where there are zeros are left out, so that a sparse file stays sparse."""
    offset = shape.chunk_offset(shape.chunk_index(piece))
    if data == _ZEROS[: len(data)] and files.read(offset, len(data)) == data:
        return
    files.write(offset, data)
