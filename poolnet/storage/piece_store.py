"""Pieces of one file on disk: read from a complete file, or written to and read from one that is on its way.

Every piece is verified when it is written and again when it is read, so that a file that was edited, cut or damaged is
noticed at once and never spreads. Files are opened for each batch of pieces: nothing stays open while it is idle, and
a file that was removed or replaced is noticed.

Synchronous, to be called in a thread, a few MiB a call. Several threads may use one object.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from poolnet.errors import OutputExists, SourceUnavailable, StoreError
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import TreeShape
from poolnet.ranges import RangeSet
from poolnet.storage.durable import store_errors, write_durably
from poolnet.storage.files import check_free_space, publish_without_overwrite
from poolnet.storage.tree_file import TreeFile, write_at

#: One run of chunks that were written, in the journal: first piece, piece after the last.
_JOURNAL_ENTRY: Final = struct.Struct("<II")

#: The unit of `st_blocks` (POSIX leaves it open; Linux, macOS and the BSDs agree).
_BLOCK_SIZE: Final = 512


class SourceChanged(SourceUnavailable):
    """A complete file is not what it was: edited, cut, replaced, removed, or its tree is damaged."""


class PiecesDamaged(StoreError):
    """Pieces of an unfinished download are not what was written; `pieces` are to be fetched again."""

    def __init__(self, message: str, pieces: list[int]) -> None:
        super().__init__(message)
        self.pieces = pieces


class FileSource:
    """A complete file and its tree.

    Args:
        path: the file.
        tree: its tree; its path may differ from the file's directory.
    """

    def __init__(self, path: Path, tree: TreeFile) -> None:
        self.path = path
        self.tree = tree

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
            with _opened(self.path, os.O_RDONLY) as descriptor:
                if os.fstat(descriptor).st_size != self.shape.size_bytes:
                    raise SourceChanged(f"{self.path} has another size than when it was offered")
                return [self._read_piece(descriptor, piece) for piece in pieces]
        except FileNotFoundError as exc:
            raise SourceChanged(f"{self.path} is not there any more") from exc
        except OSError as exc:
            raise SourceChanged(f"{self.path} cannot be read: {exc.strerror or exc}") from exc

    def _read_piece(self, descriptor: int, piece: int) -> bytes:
        if not self.shape.is_chunk(piece):
            node = self.tree.node(piece)
            if node is None:
                raise SourceChanged(f"what poolnet keeps about {self.path} is damaged; offer it again")
            return node
        data = _read_chunk(descriptor, self.shape, piece)
        if not self.tree.is_genuine(piece, data):
            raise SourceChanged(f"{self.path} was changed since it was offered")
        return data


class PartFile:
    """A download on its way: ``NAME.part``, its tree, and a journal of the chunks that were written.

    The journal only says where to look after a crash; what counts is that the piece is genuine. So it needs no syncing,
    and a torn entry at its end does no harm.
    """

    def __init__(self, path: Path, tree: TreeFile, journal_path: Path) -> None:
        self.path = path
        self.tree = tree
        self._journal_path = journal_path
        self._target: Path | None = None  # where `publish` puts it

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
        check_free_space(self.path.parent, self.shape.size_bytes)
        try:
            with store_errors("create", self.path), _opened(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as new:
                os.ftruncate(new, self.shape.size_bytes)
                self._journal_path.unlink(missing_ok=True)
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
        with store_errors("look at", self.path):
            try:
                found = self.path.stat()
            except FileNotFoundError:
                return None
        if found.st_size != self.shape.size_bytes:
            return None
        check_free_space(self.path.parent, self.shape.size_bytes - found.st_blocks * _BLOCK_SIZE)
        return self._read_journal()

    def verify(self, pieces: Sequence[int]) -> list[int]:
        """Return those of these chunks that are there and genuine.

        Raises:
            StoreError: the disk failed.
        """
        with store_errors("read", self.path), _opened(self.path, os.O_RDONLY) as descriptor:
            return [
                piece for piece in pieces if self.tree.is_genuine(piece, _read_chunk(descriptor, self.shape, piece))
            ]

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Verify and write pieces; return for each whether it was genuine (the others are not written).

        Raises:
            StoreError: the disk failed (`DiskFull`); some may have been written.
        """
        genuine = [self._take(piece, data) for piece, data in pieces]
        chunks = [
            (piece, data)
            for (piece, data), is_genuine in zip(pieces, genuine, strict=True)
            if is_genuine and self.shape.is_chunk(piece)
        ]
        if chunks:
            with store_errors("write", self.path), _opened(self.path, os.O_WRONLY) as descriptor:
                for piece, data in chunks:
                    write_at(descriptor, data, self.shape.chunk_offset(self.shape.chunk_index(piece)))
            self.note_written(RangeSet.of(piece for piece, _ in chunks))
        return genuine

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return pieces that were written, each verified.

        Raises:
            PiecesDamaged: some are not what was written.
            StoreError: the disk failed.
        """
        with store_errors("read", self.path), self._opened_where_it_is() as descriptor:
            found = [self._read_piece(descriptor, piece) for piece in pieces]
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
        entries = b"".join(_JOURNAL_ENTRY.pack(*run) for run in pieces.ranges())
        with (
            store_errors("write", self._journal_path),
            _opened(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as journal,
        ):
            os.write(journal, entries)

    def begin_journal(self, pieces: RangeSet) -> None:
        """Replace the journal by one that lists just these chunks.

        Raises:
            StoreError: it cannot be written.
        """
        write_durably(self._journal_path, b"".join(_JOURNAL_ENTRY.pack(*run) for run in pieces.ranges()))

    def discard(self) -> None:
        """Remove what was begun, which is of no use: nothing in it is genuine.

        Raises:
            StoreError: the system refused.
        """
        with store_errors("remove", self.path):
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_size == self.shape.size_bytes:
                    self.path.unlink()
            self._journal_path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Bring everything written to the disk.

        Raises:
            StoreError: it failed; what was written may be lost.
        """
        with store_errors("write", self.path), _opened(self.path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def publish(self, target: Path) -> int:
        """Give the complete file its name; return its modification time (ns). The journal goes.

        Raises:
            OutputExists: something has that name; the part file stays.
            StoreError: the system refused.
        """
        self._target = target
        publish_without_overwrite(self.path, target)
        with store_errors("look at", target):
            self._journal_path.unlink(missing_ok=True)
            return target.stat().st_mtime_ns

    @contextlib.contextmanager
    def _opened_where_it_is(self) -> Iterator[int]:
        """Open the file for reading, although another thread may just be giving it its final name."""
        with contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(_opened(self.path, os.O_RDONLY))
            except FileNotFoundError:
                if self._target is None:
                    raise
                descriptor = stack.enter_context(_opened(self._target, os.O_RDONLY))
            yield descriptor

    def _take(self, piece: int, data: bytes) -> bool:
        """Return whether a piece is genuine; keep it if it is a tree node, so that its children can be verified."""
        is_genuine = self.tree.is_genuine(piece, data)
        if is_genuine and not self.shape.is_chunk(piece):
            self.tree.write(piece, data)
        return is_genuine

    def _read_piece(self, descriptor: int, piece: int) -> bytes | None:
        if not self.shape.is_chunk(piece):
            return self.tree.node(piece)
        data = _read_chunk(descriptor, self.shape, piece)
        return data if self.tree.is_genuine(piece, data) else None

    def _read_journal(self) -> RangeSet:
        with store_errors("read", self._journal_path):
            try:
                content = self._journal_path.read_bytes()
            except FileNotFoundError:
                return RangeSet()
        whole = len(content) - len(content) % _JOURNAL_ENTRY.size
        return RangeSet(_JOURNAL_ENTRY.iter_unpack(content[:whole])).intersection(
            ((self.shape.node_count, self.shape.piece_count),)
        )


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_chunk(descriptor: int, shape: TreeShape, piece: int) -> bytes:
    return os.pread(descriptor, shape.piece_size(piece), shape.chunk_offset(shape.chunk_index(piece)))
