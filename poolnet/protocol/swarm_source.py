"""What one peer has of one file, and what it is asked for; protocol/swarm_download.py knows all of them."""

from poolnet.ids import DeviceId
from poolnet.protocol.swarm_pace import Pace
from poolnet.ranges import RangeSet


class Source:
    """What one peer has of one file, and what is asked of it."""

    __slots__ = (
        "asked",
        "asked_at",
        "asked_count",
        "asked_hops",
        "empty_answers",
        "given_up",
        "has",
        "is_counted",
        "is_laggard",
        "is_origin",
        "is_second_ask",
        "late",
        "overtook",
        "pace",
        "peer",
        "promised",
        "relay_count",
        "relay_hops",
        "relay_is_fetching",
        "relay_refusals",
        "relay_rest_until",
        "relayed",
        "rest_until",
        "told_end",
        "top",
        "useful",
    )

    def __init__(self, peer: DeviceId, pace: Pace) -> None:
        self.peer = peer
        self.pace = pace
        self.has = RangeSet()
        self.top = 0  # one more than the last piece that it ever had
        self.told_end = 0  # `end`, as it was told last
        self.useful = RangeSet()
        self.is_origin = False
        self.is_counted = False  # in the download's `holders`
        self.is_laggard = False  # much slower than the other partial holders
        self.promised: dict[int, float] = {}  # piece → when
        self.late: set[int] = set()  # promises given up; they may still be kept
        #: Pieces of the want that is not answered yet; nobody else is asked for them meanwhile.
        self.asked: RangeSet | None = None
        #: The `count` of that want; 0 if there is none. A want that was given up still awaits its answer.
        self.asked_count = 0
        self.asked_at = 0.0
        #: Pieces of a want that was given up: they may come before its answer does.
        self.given_up: RangeSet | None = None
        self.overtook: set[int] = set()  # pieces of that want, given up or not, that came before the promise
        self.is_second_ask = False  # that want is for pieces that another peer has promised
        self.rest_until = 0.0
        self.empty_answers = 0
        self.relay_hops = 0  # how far it is from a holder, if it relays; otherwise 0
        self.relay_is_fetching = False  # it fetches everything for itself
        self.relay_count = 0  # of a stream: the pieces that it knows to exist
        self.relay_rest_until = 0.0
        self.relay_refusals = 0
        self.asked_hops = 0  # of the last want
        self.relayed: dict[int, int] = {}  # of `promised`: what it did not have → the hops of the want

    @property
    def end(self) -> int:
        """One more than the last piece that this peer had, or knows of."""
        return max(self.top, self.relay_count)

    def is_asked_for(self, piece: int) -> bool:
        """Return whether a want that awaits its answer names a piece."""
        return any(pieces is not None and piece in pieces for pieces in (self.asked, self.given_up))
