"""Tells the swarm machine how far holders are: for what this device fetches, and for what peers ask it to relay.

The pool knows the distance (protocol/routes.py), the offers say who are the holders and how large the file is.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

import attrs
import trio

from poolnet.ids import DeviceId, FileId

#: Files that peers ask to be relayed, over all links; the longest known go first.
_MAX_ASKED: Final = 10_000
#: How long nothing is relayed after the cache took nothing: as long as that leaves a full disk alone, and a bit.
_REST_S: Final = 6.0

#: Returns how many links away the nearest of these nodes is, or None if there is no way to any.
HopsTo = Callable[[Collection[DeviceId]], int | None]


class Offers(Protocol):
    """What is known of the offers of a pool."""

    def nodes(self, file_id: FileId) -> Sequence[DeviceId]:
        """Return the devices that offer a file."""

    def sizes(self, file_id: FileId) -> Sequence[int | None]:
        """Return the sizes that it may have, the most believable first; None stands for a stream."""


@attrs.define
class _Doubts:
    """The sizes of one file by which nothing came, and whether what peers say of them does not count any more."""

    sizes: set[int] = attrs.Factory(set)
    are_words_void: bool = False


class Routes:
    """The routes of one pool.

    Args:
        offers: who has what.
        tell: called with a file, its size (None: a stream, or unknown) and the links to a holder (None: no way).
        fetched: returns the files that this device is fetching.
        size_here: returns the size of a file of which genuine pieces are here, which counts more than what offers say.
    """

    def __init__(
        self,
        offers: Offers,
        *,
        tell: Callable[[FileId, int | None, int | None], None],
        fetched: Callable[[], Iterable[FileId]],
        size_here: Callable[[FileId], int | None] = lambda _file_id: None,
    ) -> None:
        self._offers = offers
        self._tell = tell
        self._fetched = fetched
        self._size_here = size_here
        self._asked: dict[FileId, None] = {}
        self._told: dict[FileId, tuple[int | None, int | None]] = {}
        self._doubted: dict[FileId, _Doubts] = {}  # also when nobody asks now
        self._hops_to: HopsTo = lambda _holders: None
        self._is_resting = False
        self._refused = trio.Event()

    def measure_by(self, hops_to: HopsTo) -> None:
        """Measure distances by this function from now on."""
        self._hops_to = hops_to
        self.refresh()

    def ask(self, file_id: FileId) -> None:
        """Take note that a peer asks for a file to be relayed."""
        self._asked.pop(file_id, None)
        self._asked[file_id] = None
        if len(self._asked) > _MAX_ASKED:
            self.forget(next(iter(self._asked)))
        self.refresh([file_id])

    def forget(self, file_id: FileId) -> None:
        """Take note that nobody asks for a file to be relayed any more."""
        self._asked.pop(file_id, None)
        self._told.pop(file_id, None)

    def refuse(self) -> None:
        """Take note that the cache takes nothing: for a while, there is no way over this device."""
        self._is_resting = True
        self._refused.set()
        self.refresh(list(self._asked))

    async def run(self) -> None:
        """Let relaying go on when the cache has rested, until cancelled."""
        while True:
            await self._refused.wait()
            self._refused = trio.Event()
            await trio.sleep(_REST_S)
            if not self._refused.is_set():
                self._is_resting = False
                self.refresh(list(self._asked))

    def size_doubted(self, file_id: FileId, *, is_word: bool) -> bool:
        """Take note that a relayed file may have another size than was told; return whether there is another to tell.

        Args:
            file_id: which file.
            is_word: whether a peer says so; otherwise nothing came. Each size falls once by a word. When all have,
                some of the words were lies, and from then on only what comes counts (files/size_claims.py).
        """
        size, _ = self._told.get(file_id, (None, None))
        if size is None:
            return False
        doubts = self._doubted.pop(file_id, _Doubts())
        self._doubted[file_id] = doubts
        if len(self._doubted) > _MAX_ASKED:
            del self._doubted[next(iter(self._doubted))]
        if not (is_word and doubts.are_words_void):
            doubts.sizes.add(size)
        return self._size(file_id) != size

    def offers_changed(self, file_id: FileId) -> None:
        """Take note that others offer a file now, or somebody does no more."""
        if file_id in self._told or file_id in self._asked:
            self.refresh([file_id])

    def refresh(self, file_ids: Iterable[FileId] | None = None) -> None:
        """Measure again, and tell what has changed.

        Args:
            file_ids: which files may be nearer or farther now; None: all that matter.
        """
        measured: dict[frozenset[DeviceId], int | None] = {}
        fetched = dict.fromkeys(self._fetched())
        for file_id in list(fetched | self._asked if file_ids is None else file_ids):
            holders = frozenset(self._offers.nodes(file_id))
            if holders not in measured:
                measured[holders] = self._hops_to(holders) if holders else None
            is_refused = self._is_resting and file_id not in fetched
            route = (self._size(file_id), None if is_refused else measured[holders])
            if self._told.get(file_id) != route:
                self._told[file_id] = route
                self._tell(file_id, *route)

    def ended(self, file_id: FileId) -> None:
        """Take note that a file is not fetched any more; the machine has forgotten its route."""
        if file_id not in self._asked:
            self._told.pop(file_id, None)

    def _size(self, file_id: FileId) -> int | None:
        if (here := self._size_here(file_id)) is not None:
            return here
        sizes, doubts = self._offers.sizes(file_id), self._doubted.get(file_id, _Doubts())
        if len(sizes) > 1 and doubts.sizes.issuperset(sizes):
            doubts.sizes.clear()
            doubts.are_words_void = True
        return next((size for size in sizes if size not in doubts.sizes), sizes[0] if sizes else None)
