"""What this device does with a file whose pieces move: serve it, fetch it, relay it, follow or publish it as a stream.

A *store* has the pieces of one file, on disk or in the cache, verified when they are written and when they are read.
Its methods are called in threads.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from poolnet.errors import PoolnetError
from poolnet.ids import FileId
from poolnet.protocol.hash_tree import OpenShape, TreeShape
from poolnet.ranges import Ranges


class PieceStore(Protocol):
    """Pieces of one file, or one stream, that can be read."""

    @property
    def file_id(self) -> FileId:
        """Which file, or which stream."""

    @property
    def shape(self) -> TreeShape | OpenShape:
        """Its pieces; of a stream, nobody knows how many."""

    def read_pieces(self, pieces: Sequence[int]) -> list[bytes]:
        """Return these pieces, each verified.

        Raises:
            SourceUnavailable: a complete file is not what it was.
            PiecesDamaged: some are not here any more, or not what was written.
            StoreError: the disk failed.
        """


class PieceSink(PieceStore, Protocol):
    """Pieces of one file that can be written as they come."""

    def write_pieces(self, pieces: Sequence[tuple[int, bytes]]) -> list[bool]:
        """Verify and keep pieces; return for each whether it was genuine.

        Raises:
            StoreError: the disk failed; some may have been kept.
        """


class RelaySink(PieceSink, Protocol):
    """A sink in the bounded cache: what is written may push out what was there, of this file or another."""

    def take_evicted(self) -> list[tuple[FileId, int]]:
        """Return the pieces that are not here any more, each once."""

    def held(self) -> Ranges:
        """Return the pieces that are here."""


class DownloadWatcher(Protocol):
    """Who waits for a download; called synchronously."""

    def pieces_stored(self, chunk_bytes: int) -> None:
        """Pieces were verified and written, `chunk_bytes` of the file with them (negative: that much was damaged)."""

    def completed(self) -> None:
        """Every piece that is wanted is written."""

    def failed(self, error: PoolnetError) -> None:
        """The disk does not take it any more."""

    def size_doubted(self) -> None:
        """No piece is here yet, and a peer means a file of another size, or the size that is believed is wrong."""


class StreamWatcher(Protocol):
    """Who follows a stream; called synchronously."""

    def pieces_arrived(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """These pieces are genuine; in any order, each once (again, if it was lost from the cache meanwhile)."""

    def grew(self, count: int) -> None:
        """The stream has at least so many pieces, as one peer says; nothing of that is verified."""

    def failed(self, error: PoolnetError) -> None:
        """It cannot be followed any more."""


@attrs.frozen(eq=False)
class Served:
    """A complete file, or a stream of this device; `lost` is told (with a reason) when it is not what it was."""

    store: PieceStore
    lost: Callable[[str], None]


@attrs.frozen(eq=False)
class Fetched:
    """An unfinished download."""

    store: PieceSink
    watcher: DownloadWatcher


@attrs.frozen(eq=False)
class Relayed:
    """Somebody else's file, of which pieces are fetched for others and kept in the cache for a while."""

    store: RelaySink


@attrs.frozen(eq=False)
class Followed:
    """Somebody else's stream that this device follows."""

    store: RelaySink
    watcher: StreamWatcher


Use = Served | Fetched | Relayed | Followed
