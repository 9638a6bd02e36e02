"""The swarm machine: files among direct neighbours. Pure; poolnet/file_manager.py drives it.

Whoever wants a file tells its neighbours (`Interest`) and hears what they hold (`Have`, kept up to date). It asks each
for some of what it lacks (`Want`: these would do, send me up to so many), is told which it will get (`Promise`), and
asks for more as they come. Everyone serves what it holds while it is still fetching the rest. Pieces of a file are its
tree nodes and chunks in one numbering (protocol/hash_tree.py); a piece is asked for once its parent in the tree is
here, so every piece can be verified when it arrives.

Parts: protocol/swarm_server.py gives, protocol/swarm_requester.py takes, and knows a protocol/swarm_download.py for
each file and a protocol/swarm_pace.py for each link. `handle` is made for many hundred pieces a second.

Invariants, whatever peers do:
- a piece is promised by one peer at a time, except the last few of a file, and what came after its promise was dropped;
- `expects` is true only for pieces that were promised, so nobody can send what was not asked for;
- at most `MAX_WANT_WINDOW` pieces are queued for a peer and promised by a peer, over all files;
- memory for a file goes with the runs of pieces, not with its size.
"""

from typing import assert_never

import attrs

from poolnet.errors import LocalError
from poolnet.ids import DeviceId, FileId
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm_events import (
    CancelDownload,
    CancelSend,
    Completed,
    Download,
    LinkDown,
    LinkUp,
    Misbehaved,
    PieceArrived,
    PieceDropped,
    PieceRejected,
    PieceSent,
    PieceStored,
    Received,
    SendFrame,
    SendPiece,
    Serve,
    SizeDoubted,
    SourcesChanged,
    StopServing,
    SwarmEffect,
    SwarmEvent,
    SwarmFrame,
)
from poolnet.protocol.swarm_requester import Requester
from poolnet.protocol.swarm_server import PieceServer
from poolnet.ranges import Ranges
from poolnet.wire.swarm_frames import Have, Interest, Promise, Unwant, Want, Withdraw

__all__ = [
    "CancelDownload",
    "CancelSend",
    "Completed",
    "Download",
    "LinkDown",
    "LinkUp",
    "Misbehaved",
    "PieceArrived",
    "PieceDropped",
    "PieceRejected",
    "PieceSent",
    "PieceStored",
    "Received",
    "SendFrame",
    "SendPiece",
    "Serve",
    "SizeDoubted",
    "SourcesChanged",
    "StopServing",
    "Swarm",
    "SwarmEffect",
    "SwarmEvent",
    "SwarmFrame",
    "SwarmStatistics",
]


@attrs.frozen(kw_only=True)
class SwarmStatistics:
    """Counts since the machine was made."""

    wants_sent: int
    promises_dropped: int
    pieces_arrived: int
    pieces_unexpected: int
    pieces_rejected: int
    pieces_asked_twice: int
    pieces_promised: int
    pieces_sent: int


class Swarm:
    """All files of one node among its links.

    Args:
        rng: where each download begins to ask.
    """

    def __init__(self, rng: RandomSource) -> None:
        self._effects: list[SwarmEffect] = []
        self._peers: set[DeviceId] = set()
        self._requester = Requester(rng, self._effects)
        self._server = PieceServer(self._effects)

    def handle(self, event: SwarmEvent, now: float) -> list[SwarmEffect]:
        """Take what happened; return what is to be done, in order.

        Events of peers that are not linked, or of files that are not known any more, are ignored.

        Raises:
            LocalError: `Serve` or `Download` of a file that is known with another size, or of too many files.
        """
        match event:
            case PieceArrived(peer, file_id, piece):
                self._requester.arrive(peer, file_id, piece, now)
            case PieceStored(file_id, piece):
                self._server.store(file_id, piece, now)
                self._requester.store(file_id, piece, now)
            case PieceSent(peer, file_id, piece):
                self._server.sent(peer, file_id, piece, now)
            case Received(peer, frame):
                if peer in self._peers:
                    self._receive(peer, frame, now)
            case PieceRejected(peer, file_id, piece):
                self._requester.reject(peer, file_id, piece, now)
            case PieceDropped(file_id, piece):
                self._requester.drop(file_id, piece, now)
            case LinkUp(peer):
                self._link_up(peer, now)
            case LinkDown(peer):
                self._link_down(peer, now)
            case Serve(file_id, size_bytes, held):
                self._check_size(file_id, size_bytes)
                self._server.serve(file_id, size_bytes, held, now)
            case StopServing(file_id, pieces):
                self._server.stop(file_id, pieces)
                if pieces is not None:
                    self._requester.lose(file_id, pieces, now)
            case Download(file_id, size_bytes, held):
                self._check_size(file_id, size_bytes)
                self._requester.check_room(file_id)
                self._server.serve(file_id, size_bytes, held, now)
                self._requester.start(file_id, size_bytes, held, now)
            case CancelDownload(file_id):
                self._requester.stop(file_id, now)
            case _:
                assert_never(event)
        return self._drain()

    def next_deadline(self) -> float | None:
        """Return when to call `tick`, or None if nothing waits for time to pass."""
        announce_at, ask_at = self._server.next_deadline(), self._requester.next_deadline()
        if announce_at is None or ask_at is None:
            return announce_at if ask_at is None else ask_at
        return min(announce_at, ask_at)

    def tick(self, now: float) -> list[SwarmEffect]:
        """Do what is due; return what is to be done, in order."""
        self._server.tick(now)
        self._requester.tick(now)
        return self._drain()

    def expects(self, peer: DeviceId, file_id: FileId, piece: int) -> bool:
        """Return whether this peer may send this piece: it promised it, and no other copy came first.

        To be asked when a piece begins to come, and again before `PieceArrived`: drop the piece if it is false then.
        """
        return self._requester.expects(peer, file_id, piece)

    def held(self, file_id: FileId) -> Ranges:
        """Return the pieces of a file that are served."""
        return self._server.held(file_id)

    def is_downloading(self, file_id: FileId) -> bool:
        """Return whether a download of that file is going on."""
        return self._requester.download_of(file_id) is not None

    def missing_count(self, file_id: FileId) -> int:
        """Return how many pieces a download lacks; 0 if there is none."""
        download = self._requester.download_of(file_id)
        return len(download.missing) if download is not None else 0

    def source_count(self, file_id: FileId) -> int:
        """Return how many linked peers hold something of a file that is downloaded."""
        download = self._requester.download_of(file_id)
        return download.source_count() if download is not None else 0

    def statistics(self) -> SwarmStatistics:
        """Return counts for people and tests."""
        taken, given = self._requester, self._server
        return SwarmStatistics(
            wants_sent=taken.wants_sent,
            promises_dropped=taken.promises_dropped,
            pieces_arrived=taken.pieces_arrived,
            pieces_unexpected=taken.pieces_unexpected,
            pieces_rejected=taken.pieces_rejected,
            pieces_asked_twice=taken.pieces_asked_twice,
            pieces_promised=given.pieces_promised,
            pieces_sent=given.pieces_sent,
        )

    def _receive(self, peer: DeviceId, frame: SwarmFrame, now: float) -> None:
        match frame:
            case Have():
                self._requester.have(peer, frame, now)
            case Want():
                self._server.want(peer, frame, now)
            case Promise():
                self._requester.promise(peer, frame, now)
            case Interest():
                self._server.interest(peer, frame)
            case Withdraw():
                self._requester.withdraw(peer, frame, now)
            case Unwant():
                self._server.unwant(peer, frame)
            case _:
                assert_never(frame)

    def _link_up(self, peer: DeviceId, now: float) -> None:
        if peer in self._peers:  # a new link in place of an old one
            self._link_down(peer, now)
        self._peers.add(peer)
        self._server.link_up(peer)
        self._requester.link_up(peer)

    def _link_down(self, peer: DeviceId, now: float) -> None:
        self._peers.discard(peer)
        self._server.link_down(peer)
        self._requester.link_down(peer, now)

    def _check_size(self, file_id: FileId, size_bytes: int) -> None:
        download = self._requester.download_of(file_id)
        known = download.shape.size_bytes if download is not None else self._server.size_of(file_id)
        if known is not None and known != size_bytes:
            raise LocalError(f"this file is known with {known} bytes, not {size_bytes}; one of the two is wrong")

    def _drain(self) -> list[SwarmEffect]:
        effects = self._effects[:]
        self._effects.clear()
        return effects
