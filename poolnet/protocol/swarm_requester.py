"""The taking half of the swarm: interest, wants, and what becomes of promises.

Which pieces to ask for is decided in protocol/swarm_download.py. One want a peer and file is on its way at a time, and
what a peer is asked for and has promised, over all files, stays within the window of its link
(protocol/swarm_pace.py). Every frame, piece or lapse of time that may let something be
asked leads to `_ask`, which decides anew from the state; nothing is scheduled piece by piece.
"""

from collections.abc import Collection, Iterable

from poolnet.ids import DeviceId, FileId
from poolnet.limits import END_GAME_PIECES, MAX_INTERESTS_PER_LINK, MAX_RUNS_PER_LINK
from poolnet.protocol.conduct import Kind
from poolnet.protocol.swarm_choice import choose
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_end_game import has_faster_source, is_ending, overdue, second_holder
from poolnet.protocol.swarm_events import (
    Completed,
    Misbehaved,
    PromiseBroken,
    SendFrame,
    SizeDoubted,
    SourcesChanged,
    StreamGrew,
    SwarmEffect,
)
from poolnet.protocol.swarm_pace import Pace
from poolnet.protocol.swarm_relay_choice import choose_relayed
from poolnet.protocol.swarm_source import Source
from poolnet.ranges import Ranges, RangeSet
from poolnet.wire.swarm_frames import Have, Interest, Promise, Relay, Unwant, Want, Withdraw

#: After an answer that promised nothing, or less than was asked for, the next want waits this long.
_EMPTY_REST_S = 0.25
_MAX_EMPTY_REST_S = 2.0
_SHORT_REST_S = 0.1
#: ... and the next want for what the other side would have to fetch, up to this.
_MAX_RELAY_REST_S = 8.0
#: An origin with nothing rare to give is looked at again this often: the partial holders may be slow.
_ORIGIN_REST_S = 1.0
#: In the end game: what is promised for so long is asked of a second partial holder, and later of an origin.
_OVERDUE_S = 0.5
_ORIGIN_OVERDUE_S = 2.0
_MAX_LATE = 256
#: A want asks for what all links together bring in this time, but not for more than so many pieces: a want and its
#: answer cost as much work as a piece, and where pieces come fast they can wait for each other. The windows have as
#: much slack (protocol/swarm_pace.py).
_BATCH_S = 0.1
_MAX_BATCH = 8
#: That rate is measured over so much time, and forgotten by half with each measurement.
_METER_S = 0.1


class _Link:
    """One linked peer."""

    __slots__ = ("banned", "pace", "peer", "sources", "wake_at")

    def __init__(self, peer: DeviceId) -> None:
        self.peer = peer
        self.pace = Pace()
        self.sources: dict[FileId, Source] = {}  # in the order in which they are asked next
        #: Files of which it sent something wrong, with the size that was believed then; the oldest are forgotten.
        self.banned: dict[tuple[FileId, int | None], None] = {}
        self.wake_at: float | None = None  # when to ask again, if nothing happens before

    def has_room(self, runs: int) -> bool:
        """Return whether so many runs of pieces more may be remembered of this peer, over all files."""
        return runs + sum(source.has.run_count() for source in self.sources.values()) <= MAX_RUNS_PER_LINK

    def wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at


class Requester:
    """Fetches files from whoever is linked. Appends its effects to `effects`."""

    def __init__(self, effects: list[SwarmEffect]) -> None:
        self._effects = effects
        self._links: dict[DeviceId, _Link] = {}
        self._downloads: dict[FileId, FileDownload] = {}
        self._ending: dict[FileId, float] = {}  # downloads in the end game → when to look at them
        self._is_ranked = False  # some downloads come before others
        self._batch = 1  # pieces worth a want
        self._rate = 0.0  # pieces a second, over all links
        self._metered_at = 0.0
        self._metered_count = 0
        self.wants_sent = 0
        self.promises_dropped = 0
        self.pieces_arrived = 0
        self.pieces_unexpected = 0
        self.pieces_rejected = 0
        self.pieces_asked_twice = 0

    def download_of(self, file_id: FileId) -> FileDownload | None:
        """Return the state of a download, or None if there is none."""
        return self._downloads.get(file_id)

    def downloads(self) -> Collection[FileDownload]:
        """Return everything that is fetched."""
        return self._downloads.values()

    def expects(self, peer: DeviceId, file_id: FileId, piece: int) -> bool:
        """Return whether this peer may send this piece now."""
        download = self._downloads.get(file_id)
        source = download.sources.get(peer) if download is not None else None
        return download is not None and source is not None and download.expects(source, piece)

    # --- links and downloads come and go ------------------------------------------------------------------------

    def link_up(self, peer: DeviceId) -> None:
        """Ask a new peer what it has."""
        link = self._links[peer] = _Link(peer)
        for download in self._downloads.values():
            self._add_source(link, download)

    def link_down(self, peer: DeviceId, now: float) -> None:
        """Ask others for what a peer had promised."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        for file_id, source in link.sources.items():
            self._remove_source(self._downloads[file_id], source, now)

    def set_credit(self, peer: DeviceId, pieces: int) -> None:
        """Ask a peer for at most so many pieces at a time."""
        if (link := self._links.get(peer)) is not None:
            link.pace.set_limit(pieces)

    def add(self, download: FileDownload) -> None:
        """Ask everyone for a file from now on."""
        self._downloads[download.file_id] = download
        for link in self._links.values():
            self._add_source(link, download)

    def remove(self, file_id: FileId, now: float) -> None:
        """Fetch a file no more; what peers have promised is called off."""
        download = self._downloads.pop(file_id, None)
        if download is None:
            return
        self._ending.pop(file_id, None)
        for source in list(download.sources.values()):
            link = self._links[source.peer]
            del link.sources[file_id]
            self._unwant(source.peer, file_id, download.drop_promises(source))
            self._send(link, Interest(file_id=file_id, interested=False))
            self._ask(link, now)

    def retargeted(self, download: FileDownload, voided: Iterable[tuple[Source, list[int]]], now: float) -> None:
        """Call off promises that are void, and ask for what is wanted now."""
        for source, pieces in voided:
            self._unwant(source.peer, download.file_id, pieces)
        self._ask_all(download, now)
        self._look_at_end(download, now)

    def rank(self) -> None:
        """Look at the ranks of downloads from now on."""
        self._is_ranked = True

    def set_route(self, download: FileDownload, hops: int | None, now: float) -> None:
        """Note how far holders are, and tell everyone."""
        old, download.route = download.interest_hops, hops
        if download.interest_hops != old:
            for peer in download.sources:
                self._send(self._links[peer], self._interest(download))
        self._tell_sources(download)
        self._ask_all(download, now)

    def _add_source(self, link: _Link, download: FileDownload) -> None:
        if (download.file_id, download.shape.size_bytes) in link.banned:
            if download.is_own:  # of what is relayed, the doubt counted when it came
                self._doubt_size(link, download)
            return
        link.sources[download.file_id] = download.add_source(link.peer, link.pace)
        self._send(link, self._interest(download))

    def _interest(self, download: FileDownload) -> Interest:
        return Interest(file_id=download.file_id, interested=True, hops=download.interest_hops)

    def _remove_source(self, download: FileDownload, source: Source, now: float) -> None:
        download.remove_source(source)
        self._tell_sources(download)
        self._ask_all(download, now)

    def _tell_sources(self, download: FileDownload) -> None:
        """Tell how many sources there are, if that has changed, and how far a stream is by what each of them says."""
        if not download.is_own:
            return
        if (count := download.source_count()) != download.told_sources:
            download.told_sources = count
            self._effects.append(SourcesChanged(download.file_id, count))
        if download.shape.size_bytes is not None:
            return
        for source in download.sources.values():  # each for itself: one that lies hides none of the others
            if source.end > source.told_end:
                source.told_end = source.end
                self._effects.append(StreamGrew(download.file_id, source.end))

    def _ban(self, link: _Link, download: FileDownload, now: float) -> None:
        """Never ask this link for this file again, unless its size turns out to be another.

        Before piece 0 is here nobody knows who is right about the size, so others are told of the doubt.
        """
        link.banned[download.file_id, download.shape.size_bytes] = None
        if len(link.banned) > MAX_INTERESTS_PER_LINK:
            del link.banned[next(iter(link.banned))]
        self._doubt_size(link, download)
        source = link.sources.pop(download.file_id, None)
        if source is not None:
            self._unwant(link.peer, download.file_id, source.promised)
            self._send(link, Interest(file_id=download.file_id, interested=False))
            self._remove_source(download, source, now)

    def _doubt_size(self, link: _Link, download: FileDownload) -> None:
        if 0 in download.missing:
            self._effects.append(SizeDoubted(link.peer, download.file_id))

    # --- frames -------------------------------------------------------------------------------------------------

    def have(self, peer: DeviceId, frame: Have, now: float) -> None:
        """Learn what a peer has, and ask it."""
        link = self._links[peer]
        source, download = link.sources.get(frame.file_id), self._downloads.get(frame.file_id)
        if source is None or download is None or not frame.pieces:
            return
        if frame.pieces[-1][1] > download.shape.piece_count:  # it means a file of another size
            self._ban(link, download, now)
            return
        is_new = not source.has
        if link.has_room(len(frame.pieces)):
            download.learn(source, frame.pieces)
        if is_new or download.shape.size_bytes is None:
            self._tell_sources(download)
        self._ask(link, now)

    def relay(self, peer: DeviceId, frame: Relay, now: float) -> None:
        """Learn whether a peer fetches what it does not have, and ask it."""
        link = self._links[peer]
        source, download = link.sources.get(frame.file_id), self._downloads.get(frame.file_id)
        if source is None or download is None:
            return
        source.relay_hops, source.relay_is_fetching, source.relay_count = frame.hops, frame.is_fetching, frame.count
        self._tell_sources(download)
        self._ask(link, now)

    def withdraw(self, peer: DeviceId, frame: Withdraw, now: float) -> None:
        """Learn what a peer has no more, and ask others."""
        source, download = self._links[peer].sources.get(frame.file_id), self._downloads.get(frame.file_id)
        if source is None or download is None:
            return
        gone = RangeSet.from_ranges(frame.pieces)
        if any(piece in gone for piece in source.relayed):
            self._rest_relay(self._links[peer], source, now)
        download.forget(source, frame.pieces)
        self._tell_sources(download)
        self._ask_all(download, now)

    def promise(self, peer: DeviceId, frame: Promise, now: float) -> None:
        """Take the answer to a want."""
        link = self._links[peer]
        source, download = link.sources.get(frame.file_id), self._downloads.get(frame.file_id)
        count = sum(stop - start for start, stop in frame.pieces)
        if source is None or download is None or not source.asked_count or count > source.asked_count:
            self._send_unwant(peer, frame.file_id, frame.pieces)  # called off, or more than was asked for
            if source is None or download is None or not source.asked_count:
                return
            count, frame = 0, Promise(file_id=frame.file_id, pieces=())
        asked_count, is_second = source.asked_count, source.is_second_ask
        if source.asked is not None:
            source.pace.answered(asked_count, now - source.asked_at)
        pieces = [piece for start, stop in frame.pieces for piece in range(start, stop)]
        if is_second and source.asked is not None:  # what this peer does not give now is asked for once more, later
            download.asked_twice.difference_update(source.asked.difference(RangeSet.of(pieces)))
        source.asked, source.given_up, source.asked_count, source.is_second_ask = None, None, 0, False
        refused = download.promise(source, pieces, now, again=is_second)
        self._unwant(peer, frame.file_id, refused)
        self._rest(link, source, count, asked_count, now)
        self._ask_all(download, now)  # others may be asked for what was asked and not promised
        self._look_at_end(download, now)

    def _rest(self, link: _Link, source: Source, count: int, asked_count: int, now: float) -> None:
        """Do not ask a peer again at once that has just not given what was asked for."""
        if source.asked_hops:
            if not count:
                self._rest_relay(link, source, now)
            elif count < asked_count:  # its custody is full
                source.relay_rest_until = now + _SHORT_REST_S
                link.wake(source.relay_rest_until)
            return
        if count:
            source.empty_answers = 0
            rest_s = _SHORT_REST_S if count < asked_count else 0.0
        else:
            rest_s = min(_EMPTY_REST_S * 2**source.empty_answers, _MAX_EMPTY_REST_S)
            source.empty_answers = min(source.empty_answers + 1, 8)
        if rest_s:
            source.rest_until = now + rest_s
            link.wake(source.rest_until)

    def _rest_relay(self, link: _Link, source: Source, now: float) -> None:
        """Do not ask a peer at once again to fetch something: it could not."""
        source.relay_rest_until = now + min(_EMPTY_REST_S * 2**source.relay_refusals, _MAX_RELAY_REST_S)
        source.relay_refusals = min(source.relay_refusals + 1, 8)
        link.wake(source.relay_rest_until)

    # --- pieces -------------------------------------------------------------------------------------------------

    def arrive(self, peer: DeviceId, file_id: FileId, piece: int, now: float) -> None:
        """Take a piece off a peer's promises and ask for the next."""
        link, download = self._links.get(peer), self._downloads.get(file_id)
        source = link.sources.get(file_id) if link is not None else None
        if link is None or download is None or source is None or not download.expects(source, piece):
            self.pieces_unexpected += 1
            return
        self.pieces_arrived += 1
        if now >= self._metered_at + _METER_S:
            self._meter(now)
        was_stalled = link.pace.is_stalled
        self._call_off(download, download.arrive(source, piece, now), piece, now)
        if was_stalled:
            for other_id, recovered in link.sources.items():
                self._downloads[other_id].count(recovered)
        if surplus := link.pace.surplus(is_laggard=source.is_laggard):
            self._give_back(download, source, surplus, now)
        self._ask(link, now)
        if not download.open:
            self._look_at_end(download, now)

    def _meter(self, now: float) -> None:
        """Measure how fast pieces come."""
        count = self.pieces_arrived - self._metered_count
        self._rate = (self._rate + count / (now - self._metered_at)) / 2
        self._metered_at, self._metered_count = now, self.pieces_arrived
        self._batch = max(1, min(int(_BATCH_S * self._rate), _MAX_BATCH))

    def _give_back(self, download: FileDownload, source: Source, count: int, now: float) -> None:
        """Call off the newest promises of a peer that turned out to be slow; what is under way is still welcome."""
        if not has_faster_source(download, source):
            return
        pieces = list(source.promised)[-count:]
        download.release(source, pieces)
        source.late.update(pieces)
        self._unwant(source.peer, download.file_id, pieces)
        self._ask_all(download, now)

    def store(self, file_id: FileId, piece: int, now: float) -> None:
        """Note that a piece is here for good."""
        download = self._downloads.get(file_id)
        if download is None:
            return
        self._call_off(download, download.store(piece), piece, now)
        if download.is_own and download.is_complete:
            self.finish(download, now)
        elif not download.shape.is_chunk(piece):
            self._ask_all(download, now)

    def finish(self, download: FileDownload, now: float) -> None:
        """End a download that is complete; what others wait for is still fetched."""
        if download.is_relayed:
            download.is_own, download.told_sources = False, 0
            self.retargeted(download, download.aim(()), now)
        else:
            self.remove(download.file_id, now)
        self._effects.append(Completed(download.file_id))

    def reject(self, peer: DeviceId, file_id: FileId, piece: int, now: float) -> None:
        """Hold a wrong piece against its sender.

        Piece 0 is also wrong if the size that somebody offered the file with is, so that is no misbehaviour.
        """
        self.pieces_rejected += 1
        download, link = self._downloads.get(file_id), self._links.get(peer)
        if download is not None:
            download.reopen(piece)
        if link is not None:
            if piece != 0:
                self._effects.append(Misbehaved(peer, "sent a piece of a file with a wrong hash", Kind.BAD_CHUNK))
            if download is not None:
                self._ban(link, download, now)
        if download is not None:
            self._ask_all(download, now)

    def drop(self, file_id: FileId, piece: int, now: float) -> None:
        """Fetch again a piece that could not be stored."""
        download = self._downloads.get(file_id)
        if download is not None:
            download.reopen(piece)
            self._ask_all(download, now)

    def lose(self, file_id: FileId, pieces: Ranges, now: float) -> None:
        """Fetch again pieces that were stored."""
        download = self._downloads.get(file_id)
        if download is not None:
            self.retargeted(download, download.lose(pieces), now)

    def _call_off(self, download: FileDownload, sources: Iterable[Source], piece: int, now: float) -> None:
        """Tell peers that promised a piece that it is here; they can give something else."""
        for source in sources:
            self._unwant(source.peer, download.file_id, [piece])
            self._ask(self._links[source.peer], now)

    # --- asking -------------------------------------------------------------------------------------------------

    def _ask_all(self, download: FileDownload, now: float) -> None:
        """Ask all who have room: first who did not break its last promise, then who has least to do."""
        links = [self._links[peer] for peer in download.sources if self._links[peer].pace.room(self._batch)]
        for link in sorted(links, key=lambda link: (link.pace.is_stalled, link.pace.outstanding / link.pace.window)):
            self._ask(link, now)

    def _ask(self, link: _Link, now: float) -> None:
        """Ask a peer for as much as its window has room for, each file in turn."""
        room = link.pace.room(self._batch)
        if not room or not link.sources:
            return
        if now < link.pace.resting_until:
            link.wake(link.pace.resting_until)
            return
        file_ids = list(link.sources)
        if self._is_ranked:
            file_ids.sort(key=lambda file_id: self._downloads[file_id].rank)
        for file_id in file_ids:
            source, download = link.sources[file_id], self._downloads[file_id]
            if source.asked_count or not download.open:
                continue
            choice, hops = self._choose(link, source, download, room, now)
            if choice is None:
                continue
            room -= choice[1]
            self._want(link, source, file_id, *choice, now, hops=hops)
            if room <= 0:
                break

    def _choose(
        self, link: _Link, source: Source, download: FileDownload, room: int, now: float
    ) -> tuple[tuple[RangeSet, int] | None, int]:
        """Return what to ask a peer for, if anything, and with how many hops: what it has before what it can fetch."""
        choice = None
        if now < source.rest_until:
            link.wake(source.rest_until)
        else:
            choice = choose(download, source, room)
            if choice is None and source.is_origin:
                link.wake(now + _ORIGIN_REST_S)
        if choice is not None:
            return choice, 0
        if source.relay_hops and now < source.relay_rest_until:
            link.wake(source.relay_rest_until)
        elif source.relay_hops:
            choice = choose_relayed(download, source, room)
        return choice, download.route or 0

    def _want(
        self, link: _Link, source: Source, file_id: FileId, pieces: RangeSet, count: int, now: float, *, hops: int = 0
    ) -> None:
        source.asked, source.asked_count, source.asked_at, source.asked_hops = pieces, count, now, hops
        source.pace.asked(count, now)
        link.sources[file_id] = link.sources.pop(file_id)  # the others are first the next time
        self.wants_sent += 1
        self._send(link, Want(file_id=file_id, pieces=pieces.to_ranges(), count=count, hops=hops))

    def _unwant(self, peer: DeviceId, file_id: FileId, pieces: Iterable[int]) -> None:
        self._send_unwant(peer, file_id, RangeSet.of(pieces).to_ranges())

    def _send_unwant(self, peer: DeviceId, file_id: FileId, pieces: Ranges) -> None:
        if pieces:
            self._effects.append(SendFrame(peer, Unwant(file_id=file_id, pieces=pieces)))

    def _send(self, link: _Link, frame: Interest | Want) -> None:
        self._effects.append(SendFrame(link.peer, frame))

    # --- time ---------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        earliest = min(self._ending.values(), default=None)
        for link in self._links.values():
            for due_at in (link.wake_at, link.pace.stall_at()):
                if due_at is not None and (earliest is None or due_at < earliest):
                    earliest = due_at
        return earliest

    def tick(self, now: float) -> None:
        """Drop promises that were not kept, ask again what rested, ask a second peer for the last pieces."""
        for link in list(self._links.values()):
            stall_at = link.pace.stall_at()
            if stall_at is not None and stall_at <= now:
                self._stall(link, now)
            if link.wake_at is not None and link.wake_at <= now:
                link.wake_at = None
                self._ask(link, now)
        for file_id in [file_id for file_id, due_at in self._ending.items() if due_at <= now]:
            del self._ending[file_id]
            download = self._downloads[file_id]
            self._end_game(download, now)
            if is_ending(download, END_GAME_PIECES):
                self._ending[file_id] = now + _OVERDUE_S

    def _stall(self, link: _Link, now: float) -> None:
        """Give up what a silent peer has promised. If it comes all the same before another's, it is welcome."""
        link.pace.stall(now)
        link.wake(link.pace.resting_until)
        if any(source.promised.keys() - source.relayed.keys() for source in link.sources.values()):
            self._effects.append(PromiseBroken(link.peer))
        for file_id, source in link.sources.items():
            download = self._downloads[file_id]
            download.uncount(source)
            dropped = download.drop_promises(source)
            self.promises_dropped += len(dropped)
            if len(source.late) > _MAX_LATE:
                source.late.clear()
            source.late.update(dropped)
        for file_id in list(link.sources):
            self._ask_all(self._downloads[file_id], now)

    def _look_at_end(self, download: FileDownload, now: float) -> None:
        if not download.is_own:  # of what is relayed there is always little, and who asked asks elsewhere by itself
            return
        if download.file_id not in self._ending and is_ending(download, END_GAME_PIECES):
            self._ending[download.file_id] = now

    def _end_game(self, download: FileDownload, now: float) -> None:
        """Ask a second holder for those of the last pieces that take long."""
        if not is_ending(download, END_GAME_PIECES):
            return
        asks: dict[DeviceId, list[int]] = {}
        for first, piece in list(overdue(download, now - _OVERDUE_S)):
            is_old = first.promised[piece] <= now - _ORIGIN_OVERDUE_S
            second = second_holder(download, piece, first, now, with_origins=is_old)
            if second is not None:
                download.asked_twice.add(piece)
                asks.setdefault(second.peer, []).append(piece)
        for peer, pieces in asks.items():
            source = download.sources[peer]
            source.is_second_ask = True
            self.pieces_asked_twice += len(pieces)
            self._want(self._links[peer], source, download.file_id, RangeSet.of(pieces), len(pieces), now)
