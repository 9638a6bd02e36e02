"""What a simulated node keeps on its disk: its history and where that begins, and the files that it wants.

Only what is written is here. What the disk does not take waits, in order, and is tried again, as a real node does it
(poolnet/pool/storing.py). After a power cut, everything is what the disk says.
"""

from collections import deque
from collections.abc import Callable

import attrs

from poolnet.clock import Hlc
from poolnet.errors import StoreError
from poolnet.ids import DeviceId, FileId, MsgId
from poolnet.protocol.key_set import MemoryKeys
from poolnet.ranges import RangeSet
from poolnet.testing import sim_messages
from poolnet.testing.sim_disk import SimDisk
from poolnet.wire.claims import LOWEST, Bound

#: What a message costs on top of its bytes, and what a note costs, in bytes of the disk.
_OVERHEAD = 64


@attrs.frozen
class MessageRecord:
    """A message in the history."""

    msg_id: MsgId
    encoded: bytes


@attrs.frozen
class StartRecord:
    """Where the history that is kept in agreement begins."""

    bound: Bound


@attrs.frozen
class WantedRecord:
    """A file that is wanted, or (`is_done`) that is all here."""

    file_id: FileId
    is_done: bool = False


@attrs.frozen
class PieceRecord:
    """A piece of a file that is wanted; it is genuine, which proves how large the file is."""

    file_id: FileId
    piece: int
    size_bytes: int
    file_bytes: int


Record = MessageRecord | StartRecord | WantedRecord | PieceRecord


class SimStore:
    """The store of one node, over all its lives.

    Args:
        disk: where it is.
        is_founder: has the history from the beginning; others are newcomers at first.
    """

    def __init__(self, disk: SimDisk, *, is_founder: bool) -> None:
        self.disk = disk
        self._is_founder = is_founder
        self._unsaved: deque[Record] = deque()
        self._pending: set[MsgId] = set()
        self.load()

    def load(self) -> None:
        """Read everything from the disk."""
        self._unsaved.clear()
        self._pending.clear()
        self.history: dict[MsgId, bytes] = {}
        self.keys = MemoryKeys()
        self.known_from: Bound | None = LOWEST if self._is_founder else None
        #: Who offers a file, and of what size.
        self.offers: dict[FileId, dict[DeviceId, int]] = {}
        #: Files that are wanted, and whether all of them is known to be on the disk.
        self.wanted: dict[FileId, bool] = {}
        self.pieces: dict[FileId, RangeSet] = {}
        #: How large they are, of those of which there are pieces; what offers say may be wrong.
        self.sizes: dict[FileId, int] = {}
        for record in self.disk.records():
            self._apply(record)

    def last_stamps(self, host_id: DeviceId) -> tuple[Hlc, Hlc]:
        """Return the highest stamps of a node and of others, 0 if there is none."""
        last = {True: Hlc(0), False: Hlc(0)}
        for hlc, msg_id in self.keys:
            last[sim_messages.author_of(self.history[msg_id]) == host_id] = hlc
        return last[True], last[False]

    @property
    def unsaved(self) -> int:
        """How many records wait for the disk."""
        return len(self._unsaved)

    def is_pending(self, msg_id: MsgId) -> bool:
        """Return whether a message waits for the disk."""
        return msg_id in self._pending

    def write(self, record: Record) -> None:
        """Write a record now.

        Raises:
            StoreError: the disk does not take it; it is nowhere.
        """
        self.disk.append(record, _size_of(record))
        self._apply(record)

    def write_when_possible(self, record: Record) -> bool:
        """Write a record now, or when `save` can; return whether it is written."""
        if not self._unsaved:
            try:
                self.write(record)
            except StoreError:
                pass
            else:
                return True
        self._unsaved.append(record)
        if isinstance(record, MessageRecord):
            self._pending.add(record.msg_id)
        return False

    def save(self, saved: Callable[[Record], None]) -> None:
        """Try to write what waits; call `saved` with each record that is written now."""
        while self._unsaved:
            record = self._unsaved[0]
            try:
                self.disk.append(record, _size_of(record))
            except StoreError:
                return
            self._unsaved.popleft()
            self._apply(record)
            saved(record)

    def remove(self, msg_id: MsgId) -> None:
        """Forget a message; a power cut may bring it back."""
        self.keys.remove(sim_messages.key_of(msg_id, self.history.pop(msg_id)))

    def _apply(self, record: Record) -> None:
        match record:
            case MessageRecord(msg_id, encoded):
                self._pending.discard(msg_id)
                if msg_id not in self.history:
                    self.history[msg_id] = encoded
                    self.keys.add(sim_messages.key_of(msg_id, encoded))
                    if (offer := sim_messages.offered(encoded)) is not None:
                        self.offers.setdefault(offer[0], {})[sim_messages.author_of(encoded)] = offer[1]
            case StartRecord(bound):
                self.known_from = bound
            case WantedRecord(file_id, is_done):
                self.wanted[file_id] = is_done
            case PieceRecord(file_id, piece, _, file_bytes):
                self.pieces.setdefault(file_id, RangeSet()).add(piece)
                self.sizes[file_id] = file_bytes


def _size_of(record: Record) -> int:
    match record:
        case MessageRecord(encoded=encoded):
            return len(encoded) + _OVERHEAD
        case PieceRecord(size_bytes=size_bytes):
            return size_bytes + _OVERHEAD
        case _:
            return _OVERHEAD
