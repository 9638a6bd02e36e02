"""Which pieces of a file are to come to this device, and for whom.

`own` is what it wants itself: all of a file, some chunks of it, or a window of a stream. `custody` is what it has
promised to others without having it. Both need the tree nodes above, because nothing is taken that cannot be verified.
"""

from poolnet.protocol.hash_tree import Shape
from poolnet.ranges import Ranges, RangeSet


class Goal:
    """What is wanted of one file, and what is here.

    Args:
        shape: of the file.
        have: the pieces that are here and verified.
    """

    __slots__ = ("_shape", "custody", "have", "is_whole", "own")

    def __init__(self, shape: Shape, have: RangeSet) -> None:
        self._shape = shape
        self.have = have
        self.own = RangeSet()
        self.custody = RangeSet()
        self.is_whole = False  # everything is wanted for this device itself

    def want(self, pieces: Ranges | None) -> None:
        """Want these for this device itself; None: everything."""
        self.is_whole = pieces is None
        everything = RangeSet.up_to(self._shape.piece_count)
        self.own = everything if pieces is None else self._shape.with_ancestors(everything.intersection(pieces))

    def missing(self) -> RangeSet:
        """Return what is to be fetched."""
        missing = self.own.difference(self.have)
        others = self.custody.difference(self.have)
        if others:
            missing.update(self._shape.with_ancestors(others).difference(self.have))
        return missing

    def blocking(self, piece: int) -> int:
        """Return what has to come first for a piece: the highest node above it that is not here, or itself."""
        while (parent := self._shape.parent(piece)) is not None and parent[0] not in self.have:
            piece = parent[0]
        return piece
