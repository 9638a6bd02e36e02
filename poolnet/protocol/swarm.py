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
from poolnet.protocol.swarm_aims import Aims
from poolnet.protocol.swarm_events import (
    CancelDownload,
    CancelSend,
    Completed,
    Download,
    FileEvent,
    Follow,
    LinkDown,
    LinkUp,
    Misbehaved,
    PieceArrived,
    PieceDropped,
    PieceRejected,
    PieceSent,
    PieceStored,
    Prioritise,
    PromiseBroken,
    Received,
    RelayBegan,
    RelayEnded,
    RelayFruitless,
    Route,
    RouteWanted,
    Select,
    SendFrame,
    SendPiece,
    Serve,
    SetCredit,
    SizeDoubted,
    SourcesChanged,
    StopServing,
    StreamEnded,
    StreamGrew,
    SwarmEffect,
    SwarmEvent,
    SwarmFrame,
)
from poolnet.protocol.swarm_relay import RelayDesk
from poolnet.protocol.swarm_requester import Requester
from poolnet.protocol.swarm_server import PieceServer
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw

__all__ = [
    "CancelDownload",
    "CancelSend",
    "Completed",
    "Download",
    "Follow",
    "LinkDown",
    "LinkUp",
    "Misbehaved",
    "PieceArrived",
    "PieceDropped",
    "PieceRejected",
    "PieceSent",
    "PieceStored",
    "Prioritise",
    "PromiseBroken",
    "Received",
    "RelayBegan",
    "RelayEnded",
    "RelayFruitless",
    "Route",
    "RouteWanted",
    "Select",
    "SendFrame",
    "SendPiece",
    "Serve",
    "SetCredit",
    "SizeDoubted",
    "SourcesChanged",
    "StopServing",
    "StreamEnded",
    "StreamGrew",
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
    pieces_relayed: int
    pieces_withdrawn: int


class Swarm:
    """All files of one node among its links.

    Args:
        rng: where each download begins to ask.
    """

    def __init__(self, rng: RandomSource) -> None:
        self._effects: list[SwarmEffect] = []
        self._peers: set[DeviceId] = set()
        self._requester = Requester(self._effects)
        self._aims = Aims(rng, self._requester, self._effects)
        self._server = PieceServer(self._effects)
        self._desk = RelayDesk(self._server, self._requester, self._aims, self._effects)

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
                self._desk.stored(file_id, piece, now)
                self._requester.store(file_id, piece, now)
            case PieceSent(peer, file_id, piece):
                self._server.sent(peer, file_id, piece, now)
            case Received(peer, frame):
                if peer in self._peers:
                    self._receive(peer, frame, now)
            case PieceRejected(peer, file_id, piece):
                self._requester.reject(peer, file_id, piece, now)
            case PieceDropped(file_id, piece):
                self._desk.dropped(file_id, piece, now)
                self._requester.drop(file_id, piece, now)
            case SetCredit(peer, pieces):
                self._requester.set_credit(peer, pieces)
            case LinkUp(peer):
                self._link_up(peer, now)
            case LinkDown(peer):
                self._link_down(peer, now)
            case _:
                self._handle_file(event, now)
        return self._drain()

    def _handle_file(self, event: FileEvent, now: float) -> None:
        """Take what this device is to serve and to fetch."""
        match event:
            case Serve(file_id, size_bytes, held):
                self._serve(file_id, size_bytes, held, now)
            case StopServing(file_id, pieces):
                self._stop_serving(file_id, pieces, now)
            case Download(file_id, size_bytes, held):
                self._aims.check_room(file_id)
                self._desk.make_room(now)
                self._serve(file_id, size_bytes, held, now)
                self._aims.start(file_id, size_bytes, held, self._desk.route_of(file_id), now)
                self._desk.refresh(file_id, now)
            case Select(file_id, pieces):
                self._select(file_id, pieces, now)
            case Prioritise(file_id, priority):
                self._aims.prioritise(file_id, priority)
            case Follow(stream_id, start, stop):
                self._aims.check_room(stream_id)
                self._desk.make_room(now)
                self._serve(stream_id, None, (), now)
                held = self._server.held(stream_id)
                self._aims.follow(stream_id, start, stop, held, self._desk.route_of(stream_id), now)
            case StreamEnded(stream_id, count):
                self._aims.end_stream(stream_id, count, now)
            case CancelDownload(file_id):
                self._aims.cancel(file_id, now)
                self._desk.forget_route(file_id)
                self._desk.refresh(file_id, now)
            case Route(file_id, route_size, hops):
                self._desk.route(file_id, route_size, hops, now)
            case _:
                assert_never(event)

    def _serve(self, file_id: FileId, size_bytes: int | None, held: Ranges, now: float) -> None:
        self._check_size(file_id, size_bytes, now)
        self._server.serve(file_id, size_bytes, held, now)
        self._desk.found(file_id, now)

    def _stop_serving(self, file_id: FileId, pieces: Ranges | None, now: float) -> None:
        had_all = self._server.has_all(file_id)
        self._server.stop(file_id, pieces)
        if pieces is None:
            self._desk.stop(file_id, now)
        else:
            self._requester.lose(file_id, pieces, now)
        if had_all:
            self._desk.refresh(file_id, now)

    def _select(self, file_id: FileId, pieces: Ranges | None, now: float) -> None:
        size_bytes = self._server.size_of(file_id)
        if size_bytes is not None and self._aims.is_selected(file_id):  # what was selected is here; now it is more
            self._aims.check_room(file_id)
            self._aims.resume(file_id, size_bytes, self._server.held(file_id), self._desk.route_of(file_id), now)
        self._aims.select(file_id, pieces, now)
        self._desk.refresh(file_id, now)

    def next_deadline(self) -> float | None:
        """Return when to call `tick`, or None if nothing waits for time to pass."""
        parts = (self._server, self._requester, self._desk)
        return min((at for part in parts if (at := part.next_deadline()) is not None), default=None)

    def tick(self, now: float) -> list[SwarmEffect]:
        """Do what is due; return what is to be done, in order."""
        self._server.tick(now)
        self._requester.tick(now)
        self._desk.tick(now)
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
        """Return whether a download of that file for this device is going on."""
        download = self._requester.download_of(file_id)
        return download is not None and download.is_own

    def missing_count(self, file_id: FileId) -> int:
        """Return how many pieces a download lacks; 0 if there is none."""
        download = self._requester.download_of(file_id)
        return len(download.missing) if download is not None else 0

    def source_count(self, file_id: FileId) -> int:
        """Return how many linked peers hold something of a file that is downloaded."""
        download = self._requester.download_of(file_id)
        return download.source_count() if download is not None else 0

    def stream_ends(self, stream_id: FileId) -> tuple[int, ...]:
        """Return how far a stream is that is followed, as each linked peer says that has or knows something of it."""
        download = self._requester.download_of(stream_id)
        if download is None:
            return ()
        return tuple(source.end for source in download.sources.values() if source.end)

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
            pieces_relayed=self._desk.pieces_relayed,
            pieces_withdrawn=self._desk.pieces_withdrawn,
        )

    def _receive(self, peer: DeviceId, frame: SwarmFrame, now: float) -> None:
        match frame:
            case Have():
                self._requester.have(peer, frame, now)
                self._desk.grew(frame.file_id, now)
            case Want():
                self._server.want(peer, frame, now)
            case Promise():
                self._requester.promise(peer, frame, now)
            case Interest():
                self._server.interest(peer, frame)
                self._desk.interest(peer, frame, now)
            case Withdraw():
                self._requester.withdraw(peer, frame, now)
            case Unwant():
                self._server.unwant(peer, frame)
                self._desk.unwant(peer, frame.file_id, RangeSet.from_ranges(frame.pieces), now)
            case Relay():
                self._requester.relay(peer, frame, now)
                self._desk.grew(frame.file_id, now)
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
        self._requester.link_down(peer, now)  # so that it is not asked when what it waited for is released
        self._desk.link_down(peer, now)
        self._server.link_down(peer)

    def _check_size(self, file_id: FileId, size_bytes: int | None, now: float) -> None:
        self._desk.yield_size(file_id, size_bytes, now)
        if not self._server.knows(file_id):
            download = self._requester.download_of(file_id)
            if download is None or download.shape.size_bytes == size_bytes:
                return
            known = download.shape.size_bytes
        else:
            known = self._server.size_of(file_id)
        if known != size_bytes:
            raise LocalError(f"this file is known with {known} bytes, not {size_bytes}; one of the two is wrong")

    def _drain(self) -> list[SwarmEffect]:
        for file_id in [effect.file_id for effect in self._effects if isinstance(effect, Completed)]:
            self._desk.forget_route(file_id)
        effects = self._effects[:]
        self._effects.clear()
        return effects
