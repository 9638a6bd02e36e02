"""Files of others whose pieces pass through this device: which they are, of what size, and how long they stay.

A file is relayed as long as peers want it of the machine (protocol/swarm_relay.py). After that, what is in the cache of
it is given to whoever asks, of the last `_MAX_RESTING` files. The size of one may be a lie of who offers it: what is
doubted is relayed with the next size that it may have, if there is another.
"""

from collections.abc import Callable, Iterator, MutableMapping
from itertools import islice
from typing import Final, Protocol

import attrs

from poolnet.errors import SourceUnavailable, StoreError
from poolnet.files.uses import PieceSink, Relayed, RelaySink, Use
from poolnet.ids import FileId
from poolnet.ranges import Ranges, RangeSet
from poolnet.storage.files import run_on_disk
from poolnet.storage.piece_store import PiecesDamaged

#: Relayed files whose pieces stay in the cache after nobody asks any more; each costs a few tree nodes of memory.
_MAX_RESTING: Final = 64
#: Pieces copied out of the cache in one thread hop: 4 MiB.
_PIECES_PER_HOP: Final = 16


class RelayMaker(Protocol):
    """Makes what is needed to relay."""

    def __call__(self, file_id: FileId, size_bytes: int | None) -> RelaySink | None:
        """Return where to keep pieces of a file (None: of a stream) on their way to others; None if it cannot be."""


@attrs.frozen(kw_only=True)
class RouteFinder:
    """Who finds routes, and the sizes that go with them.

    Attributes:
        wanted: called with a file that a peer would like to have relayed; the answer is a route, now or later.
        unwanted: called when nobody asks for it any more.
        doubted: called with a relayed file that may have another size than the route said, and whether that is the word
            of a peer (otherwise nothing came). Returns whether there is another size, which the next route is to say.
        refused: called when the cache takes nothing; the next routes are to say so.
    """

    wanted: Callable[[FileId], None] = lambda _file_id: None
    unwanted: Callable[[FileId], None] = lambda _file_id: None
    doubted: Callable[[FileId, bool], bool] = lambda _file_id, _is_word: False
    refused: Callable[[], None] = lambda: None


class Relays:
    """What an exchange relays: those of its uses that are `Relayed`.

    Args:
        uses: what this device does with each file; shared with the exchange.
        make: makes room for what is relayed; None: there is none.
        stop: ends the use of a file.
        held: returns which pieces of a file are here.
        no_way: tells the machine that there is no way to a file of that size.

    Attributes:
        finder: who finds routes.
    """

    def __init__(
        self,
        uses: MutableMapping[FileId, Use],
        make: RelayMaker | None,
        *,
        stop: Callable[[FileId], None],
        held: Callable[[FileId], Ranges],
        no_way: Callable[[FileId, int | None], None],
    ) -> None:
        self.finder = RouteFinder()
        self._uses = uses
        self._make = make
        self._stop = stop
        self._held = held
        self._no_way = no_way
        self._resting: dict[FileId, None] = {}

    def __len__(self) -> int:
        return sum(isinstance(use, Relayed) for use in self._uses.values())

    def began(self, file_id: FileId, size_bytes: int | None) -> None:
        """Make room for pieces of a file that peers want."""
        self._resting.pop(file_id, None)
        use = self._uses.get(file_id)
        if use is not None and not (isinstance(use, Relayed) and use.store.shape.size_bytes != size_bytes):
            return  # with another size, it is left from when that was believed
        store = None if self._make is None else self._make(file_id, size_bytes)
        if store is None:
            self.finder.refused()
            self._no_way(file_id, size_bytes)
        else:
            self._uses[file_id] = Relayed(store)

    def ended(self, file_id: FileId) -> None:
        """Take note that nobody asks for a file any more."""
        self.rest(file_id)
        self.finder.unwanted(file_id)

    def rest(self, file_id: FileId) -> None:
        """Keep what is in the cache of a file that nobody asks for, among the last few of them."""
        if not isinstance(self._uses.get(file_id), Relayed):
            return
        self._resting[file_id] = None
        if len(self._resting) > _MAX_RESTING:
            self._stop(next(iter(self._resting)))

    def used_otherwise(self, file_id: FileId) -> None:
        """Take note that a file is not only relayed any more, or not at all."""
        self._resting.pop(file_id, None)

    def doubt(self, file_id: FileId, *, is_word: bool) -> None:
        """Relay a file with the next of the sizes that it may have, if it is relayed and there is another."""
        if isinstance(self._uses.get(file_id), Relayed) and self.finder.doubted(file_id, is_word):
            self._stop(file_id)
            self.finder.wanted(file_id)

    async def copy_to(self, part: PieceSink) -> RangeSet:
        """Write what is in the cache of a file into a download; return what was written.

        Raises:
            StoreError: the disk does not take it.
        """
        use = self._uses.get(part.file_id)
        taken = RangeSet()
        if not isinstance(use, Relayed) or use.store.shape.piece_count != part.shape.piece_count:
            return taken
        held = RangeSet(self._held(part.file_id))
        for batch in _batches(held):  # tree nodes come first: they are needed to verify the rest
            try:
                found = await run_on_disk(use.store.read_pieces, batch)
            except (StoreError, SourceUnavailable):
                continue
            try:
                genuine = await run_on_disk(part.write_pieces, list(zip(batch, found, strict=True)))
            except PiecesDamaged:  # tree nodes of them are not in the cache any more
                continue
            taken.update(RangeSet.of(piece for piece, is_genuine in zip(batch, genuine, strict=True) if is_genuine))
        return taken


def _batches(pieces: RangeSet) -> Iterator[list[int]]:
    remaining = iter(pieces)
    while batch := list(islice(remaining, _PIECES_PER_HOP)):
        yield batch
