"""A stream that this device publishes, on disk: its bytes as the file that they will be, and an index of its pieces.

The index has a header with the stream's name, and one record a piece: where its bytes are and how they were signed. So
memory does not grow with the stream, and a piece is verified when it is read again: bytes that another program has
changed are noticed and never spread. When the stream is finished its file gets its name; the index stays beside it as
long as pieces are read.

Synchronous, to be called in a thread, a few MiB a call. One thread at a time writes; any number read meanwhile.
"""

import contextlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from poolnet.errors import OutputExists
from poolnet.ids import FileId, encode_id
from poolnet.protocol.hash_tree import OpenShape
from poolnet.protocol.stream_pieces import StreamPiece, StreamSigner, encode_stream_piece, stream_piece_is_genuine
from poolnet.storage.durable import PRIVATE_FILE, make_private_directory, store_errors, sync_file
from poolnet.storage.files import MAX_SAFE_NAME_BYTES, publish_without_overwrite, safe_file_name, shorten_name
from poolnet.storage.growing_tree import GrowingTree
from poolnet.storage.piece_store import PiecesDamaged, SourceChanged
from poolnet.storage.tree_file import write_at

#: Bytes of the name, and the name: it is needed to save a stream that a crash cut off.
_HEADER: Final = struct.Struct(">H254s")
#: Where the bytes of a piece begin, how many, and its signature.
_RECORD: Final = struct.Struct(">QI64s")
_SPOOL, _INDEX, _NODES = ".spool", ".index", ".nodes"
#: Room in a safe name for the number that tells it from others.
_NUMBER_BYTES: Final = 12


@attrs.frozen(kw_only=True)
class SpooledFile:
    """A stream that is finished, as a file; its tree is at its place."""

    stream_id: FileId
    file_id: FileId
    name: str
    size_bytes: int
    path: Path
    mtime_ns: int


class StreamSpool:
    """The pieces of one stream of this device; a `PieceStore` for serving it.

    Attributes:
        file_id: the stream's id.
        path: where its bytes are now.
        count: pieces that are complete, the final one included.
        size_bytes: bytes in them.

    Args:
        directory: where it is written, and where the file will be; made if it is missing.
        name: as others see it.
        signer: makes its pieces.

    Raises:
        StoreError: it cannot be begun.
    """

    def __init__(self, directory: Path, name: str, signer: StreamSigner) -> None:
        self.file_id = signer.stream_id
        self.shape = OpenShape()
        self.name = name
        self.count = 0
        self.size_bytes = 0
        self._signer = signer
        self._final: StreamPiece | None = None
        self._naming = threading.Lock()
        self._is_named = False
        make_private_directory(directory)
        self.path = directory / f".{encode_id(self.file_id)}{_SPOOL}"
        self._index_path = self.path.with_suffix(_INDEX)
        with contextlib.ExitStack() as opened:
            self._spool = opened.enter_context(_created(self.path))
            self._index = opened.enter_context(_created(self._index_path))
            with store_errors("write", self._index_path):
                title = safe_file_name(name).encode()
                write_at(self._index, _HEADER.pack(len(title), title), 0)
            self._tree = GrowingTree(self.path.with_suffix(_NODES))
            opened.callback(self._tree.close)
            self._open = opened.pop_all()

    def append(self, contents: Sequence[bytes]) -> None:
        """Write the next pieces; each is complete when `count` counts it.

        Raises:
            StoreError: the disk failed (`DiskFull`). The stream can only be aborted then.
        """
        for content in contents:
            piece = self._signer.sign(self.count, self.size_bytes, content)
            with store_errors("write", self.path):
                write_at(self._spool, content, piece.offset)
            with store_errors("write", self._index_path):
                write_at(self._index, _RECORD.pack(piece.offset, len(content), piece.signature), _place(self.count))
            self._tree.add(content)
            self.size_bytes += len(content)
            self.count += 1

    def finish(self, new_tree_path: Path, place: Callable[[FileId], Path]) -> SpooledFile:
        """Make the stream a file in its directory, durably, and add the piece that says which.

        Args:
            new_tree_path: where to write the file's tree.
            place: where to put it then.

        Raises:
            StoreError: the disk failed; the stream can only be aborted then.
        """
        with store_errors("write", self.path):
            os.fsync(self._spool)
        file_id = self._tree.finish(new_tree_path, place)
        mtime_ns = self._publish()
        self._end(file_id)
        return SpooledFile(
            stream_id=self.file_id,
            file_id=file_id,
            name=self.name,
            size_bytes=self.size_bytes,
            path=self.path,
            mtime_ns=mtime_ns,
        )

    def abort(self) -> None:
        """Add the piece that says that the stream was broken off, and keep what was written as a file, durably.

        Raises:
            StoreError: the file cannot be named; it stays where it is, and the final piece is there all the same.
        """
        self._end(None)
        if self.size_bytes:
            with store_errors("write", self.path):
                sync_file(self.path)
            self._publish()

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return pieces, each verified.

        Raises:
            SourceChanged: another program has changed or removed what was written.
            PiecesDamaged: some are not there (yet).
        """
        missing = [piece for piece in pieces if not 0 <= piece < self.count]
        if missing:
            raise PiecesDamaged(f"the stream has no such pieces: {missing}", missing)
        try:
            with _opened(self._index_path) as index, _closing(self._open_where_it_is()) as spool:
                return [self._read(spool, index, piece) for piece in pieces]
        except OSError as exc:
            raise SourceChanged(f"{self.path} cannot be read: {exc.strerror or exc}") from exc

    def forget(self) -> None:
        """Remove the index: pieces cannot be read any more. The file stays, unless nothing was ever written to it.

        Raises:
            StoreError: the system refused.
        """
        with store_errors("remove", self._index_path):
            self._index_path.unlink(missing_ok=True)
            if not self._is_named and not self.size_bytes:
                self.path.unlink(missing_ok=True)

    def _end(self, file_id: FileId | None) -> None:
        self._final = self._signer.sign(self.count, self.size_bytes, b"", is_final=True, file_id=file_id)
        self.count += 1
        self._open.close()

    def _publish(self) -> int:
        """Give the file its name; return its modification time."""
        with self._naming:
            if not self._is_named:
                self.path = publish_beside(self.path, self.name)
                self._is_named = True
        with store_errors("look at", self.path):
            return self.path.stat().st_mtime_ns

    def _read(self, spool: int, index: int, number: int) -> bytes:
        if self._final is not None and number == self._final.index:
            return encode_stream_piece(self._final)
        record = os.pread(index, _RECORD.size, _place(number))
        if len(record) < _RECORD.size:
            raise SourceChanged(f"what poolnet keeps about the stream {self.name} is damaged")
        offset, size, signature = _RECORD.unpack(record)
        piece = self._signer.restore(number, offset, os.pread(spool, size, offset), signature=signature)
        if not stream_piece_is_genuine(piece, pool_id=self._signer.pool_id, stream_id=self.file_id):
            raise SourceChanged(f"{self.path} was changed by another program")
        return encode_stream_piece(piece)

    def _open_where_it_is(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            with self._naming:  # another thread was just giving it its name
                return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


def publish_beside(part: Path, name: str) -> Path:
    """Rename `part` to `name` made safe in its directory, with a number if that is taken; return the new path.

    Raises:
        StoreError: the system refused.
    """
    safe = Path(shorten_name(safe_file_name(name), MAX_SAFE_NAME_BYTES - _NUMBER_BYTES))
    number = 1
    while True:
        target = part.with_name(safe.name if number == 1 else f"{safe.stem} ({number}){safe.suffix}")
        try:
            publish_without_overwrite(part, target)
        except OutputExists:
            number += 1
        else:
            return target


def recover_streams(directory: Path) -> list[Path]:
    """Name the files of streams that a crash cut off, remove what else was left, and return the files.

    Raises:
        StoreError: the system refused.
    """
    with store_errors("clean up", directory):
        spools = [path for path in directory.glob(f".*{_SPOOL}") if not _is_dropped_empty(path)]
        for path in spools:
            sync_file(path)
        found = [publish_beside(path, _recorded_name(path.with_suffix(_INDEX))) for path in spools]
        for suffix in (_INDEX, _NODES):
            for path in directory.glob(f".*{suffix}"):
                path.unlink(missing_ok=True)
    return found


def _is_dropped_empty(path: Path) -> bool:
    if path.stat().st_size:
        return False
    path.unlink()
    return True


def _recorded_name(index: Path) -> str:
    with contextlib.suppress(OSError, struct.error, UnicodeDecodeError), _opened(index) as header:
        size, name = _HEADER.unpack(os.pread(header, _HEADER.size, 0))
        return bytes(name[:size]).decode()
    return "stream"


def _place(number: int) -> int:
    return _HEADER.size + number * _RECORD.size


def _created(path: Path) -> contextlib.AbstractContextManager[int]:
    with store_errors("create", path):
        return _closing(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))


def _opened(path: Path) -> contextlib.AbstractContextManager[int]:
    return _closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
