"""A bounded ring of pieces on disk, held for others: the oldest go first, and what is damaged is not there.

Which piece is where is known in memory only, so a ring begins empty: what is lost with a crash is fetched again by who
wants it. Each slot's BLAKE3 is kept there as well and checked on reading. A disk that is full or fails costs pieces,
never an error: the piece that could not be stored counts as evicted at once.

Invariants: a slot is free, or in use by exactly one entry, or being written by one thread. The index is changed under a
lock that is never held while bytes move or the file grows, so several threads read and write at once, and who only asks
what is here never waits for the disk. Synchronous; all methods may be called by several threads at once.
"""

import contextlib
import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs
from blake3 import blake3

from poolnet.ids import FileId
from poolnet.limits import CHUNK_SIZE, MAX_CACHE_SLOTS
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.durable import make_private_directory
from poolnet.storage.ring_file import RingFile, new_ring_path, remove_stale_rings

logger = logging.getLogger(__name__)

#: A piece of a file (or of a stream, whose id takes the place of a file's).
PieceKey = tuple[FileId, int]

#: How long a disk that had no room for more slots is left alone.
_GROW_AGAIN_AFTER_S: Final = 5.0


@attrs.frozen(kw_only=True)
class RingStatistics:
    """Pieces and slots there are now; since opening: what came, what was asked for, what went.

    Refused are those that could not be stored: no room, all slots pinned, or a disk that failed (`disk_errors`).
    Damaged are those that were not what had been written.
    """

    pieces: int
    slots: int
    max_slots: int
    stored: int
    refused: int
    evicted: int
    hits: int
    misses: int
    damaged: int
    disk_errors: int


@attrs.frozen(eq=False)
class _Entry:
    """Where a piece is. Another object for each time that it is stored."""

    slot: int
    size_bytes: int
    digest: bytes


@attrs.define
class _Counts:
    stored: int = 0
    refused: int = 0
    evicted: int = 0
    hits: int = 0
    misses: int = 0
    damaged: int = 0
    disk_errors: int = 0


def open_ring(directory: Path, *, size_bytes: int) -> "CacheRing":
    """Return a new, empty ring in a file of its own in `directory`, which is made if it is missing.

    What crashes left there is removed. `CacheRing.close` ends it.

    Raises:
        StoreError: the directory cannot be made or read.
    """
    make_private_directory(directory)
    path = new_ring_path(directory)
    remove_stale_rings(directory)
    return CacheRing(path, size_bytes)


class CacheRing:
    """Pieces of any files, at most so many bytes of them.

    Args:
        path: of a file that is not there; it is made when the first piece comes.
        size_bytes: how large it may become, rounded down to whole chunks and to `MAX_CACHE_SLOTS` of them; a piece
            takes a whole chunk, however small it is. Less than a chunk: nothing is stored.
        clock: monotonic seconds; a test brings its own.
    """

    def __init__(self, path: Path, size_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = RingFile(path)
        self._clock = clock
        self._max_slots = min(max(0, size_bytes) // CHUNK_SIZE, MAX_CACHE_SLOTS)
        self._lock = threading.Lock()
        self._growing = threading.Lock()  # held by who waits for the disk; never taken with the other one held
        self._entries: OrderedDict[PieceKey, _Entry] = OrderedDict()  # oldest first
        self._held: dict[FileId, RangeSet] = {}  # the same, by file
        self._pins: Counter[PieceKey] = Counter()
        self._free: list[int] = []
        self._no_growth_before = -math.inf
        self._counts = _Counts()

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return self._file.path

    @property
    def is_usable(self) -> bool:
        """Return whether pieces can be stored: not if it was turned off, or the disk had no room a moment ago."""
        return self._max_slots > 0 and (self._file.slot_count > 0 or self._clock() >= self._no_growth_before)

    def put(self, file_id: FileId, piece: int, data: bytes) -> list[PieceKey]:
        """Store a piece, as the newest; return what is not here any more because of that.

        That is the oldest piece that is not pinned if there was no room, and the piece itself if it could not be
        stored: nothing but pinned pieces here, no room on the disk, or a disk that failed. One that is here already is
        the newest then, and replaced if it is different.

        Raises:
            ValueError: more than `CHUNK_SIZE` bytes.
        """
        if len(data) > CHUNK_SIZE:
            raise ValueError(f"a piece has at most {CHUNK_SIZE} bytes, this has {len(data)}")
        key = (file_id, piece)
        digest = blake3(data).digest()
        with self._lock:
            if self._renew(key, digest):
                return []
            if key in self._entries:
                self._remove(key)  # another version of the same
            is_full = not self._free
        if is_full:
            self._grow()
        with self._lock:
            slot, gone = self._take_slot()
        if slot is not None and not self._write(slot, data):
            slot = None
        with self._lock:
            if slot is None or not self._max_slots:  # closed meanwhile
                self._counts.refused += 1
                return [*gone, key]
            self._insert(key, _Entry(slot, len(data), digest))
        return gone

    def get(self, file_id: FileId, piece: int) -> bytes | None:
        """Return a piece exactly as it was stored; None if it is not here, or not any more because it was damaged."""
        key = (file_id, piece)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._counts.misses += 1
                return None
            self._pins[key] += 1  # its slot is not written while it is read
        data = self._read(entry)
        with self._lock:
            self._unpin(key)
            if data is not None:
                self._counts.hits += 1
                return data
            self._counts.misses += 1
            if self._entries.get(key) is entry:  # else it went meanwhile, and its slot to another piece
                self._counts.damaged += 1
                self._remove(key)
        return None

    def renew(self, file_id: FileId, pieces: Iterable[int]) -> None:
        """Make pieces the newest, those that are here."""
        with self._lock:
            for piece in pieces:
                if (file_id, piece) in self._entries:
                    self._entries.move_to_end((file_id, piece))

    @contextlib.contextmanager
    def pinned(self, file_id: FileId, pieces: Iterable[int]) -> Iterator[None]:
        """Keep pieces from being evicted during the block, those too that come only then; pins add up.

        Each eviction looks past the pinned pieces that are older, so pin some hundred, not all.
        """
        keys = [(file_id, piece) for piece in pieces]
        with self._lock:
            self._pins.update(keys)
        try:
            yield
        finally:
            with self._lock:
                for key in keys:
                    self._unpin(key)

    def held(self, file_id: FileId) -> Ranges:
        """Return which pieces of a file are here."""
        with self._lock:
            found = self._held.get(file_id)
            return found.to_ranges() if found is not None else ()

    def forget(self, file_id: FileId) -> None:
        """Drop all pieces of a file, pinned or not."""
        with self._lock:
            for piece in list(self._held.get(file_id, ())):
                self._remove((file_id, piece))

    def statistics(self) -> RingStatistics:
        """Return what is here, and counts since opening."""
        with self._lock:
            return RingStatistics(
                pieces=len(self._entries),
                slots=self._file.slot_count,
                max_slots=self._max_slots,
                **attrs.asdict(self._counts),
            )

    def close(self) -> None:
        """Remove the file. After that nothing is here and nothing is stored. More than once does no harm.

        Raises:
            StoreError: it cannot be removed; the next `open_ring` there tries again.
        """
        with self._lock:
            self._max_slots = 0
            self._free.clear()
            self._entries.clear()
            self._held.clear()
        self._file.close()

    # --- the disk, without the lock -------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Get more free slots, if there may be more and the disk has room; who comes meanwhile waits, and shares."""
        with self._growing:
            with self._lock:
                max_slots = self._max_slots
                if self._free or not self._may_grow():
                    return
            added, error = range(0), None
            try:
                added = self._file.grow(max_slots)
            except OSError as exc:
                error = exc
            with self._lock:
                self._grown(added, error)

    def _read(self, entry: _Entry) -> bytes | None:
        try:
            data = self._file.read(entry.slot, entry.size_bytes)
        except OSError as exc:
            with self._lock:
                self._disk_failed(exc)
            return None
        return data if blake3(data).digest() == entry.digest else None

    def _write(self, slot: int, data: bytes) -> bool:
        try:
            self._file.write(slot, data)
        except OSError as exc:
            with self._lock:
                self._disk_failed(exc)
                self._free.insert(0, slot)  # the last to be tried again
            return False
        return True

    # --- the index, with the lock ---------------------------------------------------------------------------------

    def _renew(self, key: PieceKey, digest: bytes) -> bool:
        """Make a piece the newest if it is here; return whether it is."""
        entry = self._entries.get(key)
        if entry is None or entry.digest != digest:
            return False
        self._entries.move_to_end(key)
        return True

    def _take_slot(self) -> tuple[int | None, list[PieceKey]]:
        """Return a slot to write to, if there is one, and what had to go for it."""
        gone = []
        if not self._free and (oldest := self._oldest()) is not None:
            self._remove(oldest)
            self._counts.evicted += 1
            gone.append(oldest)
        return self._free.pop() if self._free else None, gone

    def _may_grow(self) -> bool:
        return self._file.slot_count < self._max_slots and self._clock() >= self._no_growth_before

    def _grown(self, added: range, error: OSError | None) -> None:
        """Take new slots, unless the ring was closed meanwhile."""
        if not self._max_slots:
            return
        self._free.extend(reversed(added))
        if error is not None:
            self._disk_failed(error)
        if not added:
            self._no_growth_before = self._clock() + _GROW_AGAIN_AFTER_S

    def _oldest(self) -> PieceKey | None:
        """Return what is to go first: the oldest piece that is not pinned."""
        return next((key for key in self._entries if key not in self._pins), None)

    def _insert(self, key: PieceKey, entry: _Entry) -> None:
        if key in self._entries:
            self._remove(key)  # stored by two threads at once
        self._entries[key] = entry
        self._held.setdefault(key[0], RangeSet()).add(key[1])
        self._counts.stored += 1

    def _remove(self, key: PieceKey) -> None:
        self._free.append(self._entries.pop(key).slot)
        held = self._held[key[0]]
        held.discard(key[1])
        if not held:
            del self._held[key[0]]

    def _unpin(self, key: PieceKey) -> None:
        self._pins[key] -= 1
        if not self._pins[key]:
            del self._pins[key]

    def _disk_failed(self, error: OSError) -> None:
        if not self._counts.disk_errors:
            logger.warning("the chunk cache cannot use %s: %s", self._file.path, error)
        self._counts.disk_errors += 1
