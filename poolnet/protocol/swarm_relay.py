"""Relaying: what a peer wants that is not here is fetched for it, by whoever is nearer to a holder.

A peer that is interested and two or more links from a holder says how many (its *hops*). Whoever is nearer, and does
not have everything, answers `Relay`. A `Want` with hops for pieces that are not here may then be promised all the same:
this device takes *custody* of them, fetches them like any others (from holders, or by a want of its own with its own
hops), keeps them in the cache and sends each to *every* link that was promised it. What cannot be had is withdrawn,
and whoever asked asks elsewhere.

Why no want goes round in a circle, even when nodes disagree about who is how far: custody is taken only of a want whose
hops exceed this device's own, and those of every want that it has sent itself for the same piece. So along a chain of
promises the hops strictly fall. Relaying itself goes on only for those that are farther away.
"""

from collections.abc import Iterable, Iterator

from poolnet.ids import DeviceId, FileId
from poolnet.limits import HAVE_INTERVAL_S, MAX_HOPS, MAX_INTERESTS_PER_LINK, PROMISE_TIMEOUT_S
from poolnet.protocol.piece_runs import within
from poolnet.protocol.swarm_aims import Aims
from poolnet.protocol.swarm_custody import Custody
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_events import (
    RelayBegan,
    RelayEnded,
    RelayFruitless,
    RouteWanted,
    SendFrame,
    SwarmEffect,
)
from poolnet.protocol.swarm_relay_choice import is_out_of_reach, relayed_with
from poolnet.protocol.swarm_requester import Requester
from poolnet.protocol.swarm_server import PieceServer
from poolnet.ranges import RangeSet
from poolnet.wire.swarm_frames import MAX_PIECES, Interest, Relay, Want, Withdraw

#: How often custody is looked at, and how long peers have to say what they hold before a piece counts as not to be had.
_CHECK_INTERVAL_S = 1.0
_GRACE_S = 2.0
#: Files whose route was told and that nobody asks for; the oldest are forgotten.
_MAX_SPARE_ROUTES = 4096


class _Relayed:
    """One file that peers ask to be relayed."""

    __slots__ = ("askers", "began", "idle_since", "is_only_relayed", "is_route_wanted", "told", "told_at")

    def __init__(self) -> None:
        self.askers: dict[DeviceId, int] = {}  # with the hops of their interest
        self.told: dict[DeviceId, Relay] = {}  # what each asker was told last
        self.began = False
        self.is_only_relayed = False  # it is served because it is relayed, and for no other reason
        self.is_route_wanted = False
        self.idle_since = 0.0  # nothing of what is in custody is on its way here since then
        self.told_at = 0.0


class RelayDesk:
    """Knows who asks for what to be relayed, and what was promised. The `Custodian` of the server.

    Args:
        server: which gives.
        requester: which takes.
        aims: what it takes.
        effects: what is to be done.
    """

    def __init__(self, server: PieceServer, requester: Requester, aims: Aims, effects: list[SwarmEffect]) -> None:
        self._server = server
        self._requester = requester
        self._aims = aims
        self._effects = effects
        self._files: dict[FileId, _Relayed] = {}
        self._routes: dict[FileId, tuple[int | None, int | None]] = {}  # size and hops
        self._custody = Custody()
        self._check_at: float | None = None
        self._retell_at: dict[FileId, float] = {}  # when to tell how far a stream is
        self.pieces_relayed = 0
        self.pieces_withdrawn = 0
        server.custodian = self

    # --- who asks, and how far holders are ----------------------------------------------------------------------

    def interest(self, peer: DeviceId, frame: Interest, now: float) -> None:
        """Take note of what a peer says of its interest; tell it whether this device relays."""
        file_id = frame.file_id
        if not frame.interested or not frame.hops or not self._server.is_interested(peer, file_id):
            if frame.interested and (promised := self._custody.waited_for(peer, file_id)):
                self._withdraw(file_id, {peer: promised}, now)  # it waits for them, and may ask who has them
            self._drop_asker(peer, file_id, now)
            return
        file = self._files.setdefault(file_id, _Relayed())
        file.askers[peer] = frame.hops
        self._ask_route(file_id, file)
        self._look_whether_needed(file_id, file, now)
        self._tell(file_id, file, now)

    def route_of(self, file_id: FileId) -> int | None:
        """Return how far the nearest holder is, if that is known."""
        return self._routes.get(file_id, (None, None))[1]

    def route(self, file_id: FileId, size_bytes: int | None, hops: int | None, now: float) -> None:
        """Take note of how far holders are. What others wait for and are not farther away from is withdrawn."""
        hops = hops if hops is not None and 1 <= hops <= MAX_HOPS else None
        known = self._routes.pop(file_id, None)
        file = self._files.get(file_id)
        if known is not None and known[0] != size_bytes and hops is not None:
            self.yield_size(file_id, size_bytes, now, is_told=False)
        self._routes[file_id] = (size_bytes, hops)
        self._forget_spare_routes()
        self._aims.set_route(file_id, hops, now)
        if file is None:
            return
        not_nearer: dict[DeviceId, list[int]] = {}
        for piece, awaited in self._custody.of(file_id).items():
            for peer, limit in awaited.waiting.items():
                if hops is None or limit <= hops:
                    not_nearer.setdefault(peer, []).append(piece)
        self._withdraw(file_id, not_nearer, now)
        self._look_whether_needed(file_id, file, now)
        self._tell(file_id, file, now)

    def link_down(self, peer: DeviceId, now: float) -> None:
        """Fetch nothing for a peer that is gone."""
        for file_id in [file_id for file_id, file in self._files.items() if peer in file.askers]:
            self._drop_asker(peer, file_id, now)

    def forget_route(self, file_id: FileId) -> None:
        """Forget how far holders are of a file that this device does not want any more, or ask if others do."""
        file = self._files.get(file_id)
        if file is None:
            self._routes.pop(file_id, None)
        else:
            self._ask_route(file_id, file, again=True)

    def _drop_asker(self, peer: DeviceId, file_id: FileId, now: float) -> None:
        file = self._files.get(file_id)
        if file is None or file.askers.pop(peer, None) is None:
            return
        file.told.pop(peer, None)
        self._release(file_id, peer, self._custody.waited_for(peer, file_id), now)
        if file.askers:
            self._look_whether_needed(file_id, file, now)
        else:
            del self._files[file_id]
            self._end(file_id, file, now)
            download = self._requester.download_of(file_id)
            if download is None or not download.is_own:
                self._routes.pop(file_id, None)

    def _look_whether_needed(self, file_id: FileId, file: _Relayed, now: float) -> None:
        """End relaying if nobody asks who is farther away: two nodes that relay must not keep each other at it."""
        hops = self.route_of(file_id)
        if file.began and (hops is None or all(limit <= hops for limit in file.askers.values())):
            self._end(file_id, file, now)
            self._ask_route(file_id, file, again=True)

    def _ask_route(self, file_id: FileId, file: _Relayed, *, again: bool = False) -> None:
        is_known = self.route_of(file_id) is not None and not again
        if not is_known and not file.is_route_wanted and not self._server.has_all(file_id):
            file.is_route_wanted = True
            self._effects.append(RouteWanted(file_id))

    def _forget_spare_routes(self) -> None:
        """Forget routes of files that nobody wants, if there are too many of them."""
        if len(self._routes) <= _MAX_SPARE_ROUTES + len(self._files) + len(self._requester.downloads()):
            return
        for file_id in self._routes:
            if file_id not in self._files and self._requester.download_of(file_id) is None:
                del self._routes[file_id]
                return

    # --- what askers are told -----------------------------------------------------------------------------------

    def refresh(self, file_id: FileId, now: float) -> None:
        """Tell askers what has changed: this device fetches the file itself, has all of it, knows more of a stream."""
        file = self._files.get(file_id)
        if file is None:
            return
        if self._server.has_all(file_id):
            self._end(file_id, file, now)
        self._tell(file_id, file, now)

    def grew(self, file_id: FileId, now: float) -> None:
        """Tell askers how far a stream is, but not too often."""
        file = self._files.get(file_id)
        if file is None or not file.began or self._routes.get(file_id, (0, 0))[0] is not None:
            return
        if now >= file.told_at + HAVE_INTERVAL_S:
            self._tell(file_id, file, now)
        else:
            self._retell_at[file_id] = file.told_at + HAVE_INTERVAL_S

    def _tell(self, file_id: FileId, file: _Relayed, now: float) -> None:
        size_bytes, hops = self._routes.get(file_id, (None, None))
        if hops is not None and self._server.has_all(file_id):
            hops = None
        if hops is not None and size_bytes is None and any(limit > hops for limit in file.askers.values()):
            hops = hops if self._begin(file_id, file, now) else None  # to hear what there is of a stream
        download = self._requester.download_of(file_id)
        is_fetching = download is not None and download.is_own and download.goal.is_whole
        count = download.known_count() if download is not None and size_bytes is None else 0
        file.told_at = now
        self._retell_at.pop(file_id, None)
        for peer, limit in file.askers.items():
            frame = Relay(file_id=file_id, hops=0)
            if hops is not None and hops < limit:
                frame = Relay(file_id=file_id, hops=hops, is_fetching=is_fetching, count=min(count, MAX_PIECES))
            if file.told.get(peer, Relay(file_id=file_id, hops=0)) != frame:
                file.told[peer] = frame
                self._effects.append(SendFrame(peer, frame))

    # --- custody ------------------------------------------------------------------------------------------------

    def count_for(self, peer: DeviceId) -> int:
        """Return how many pieces a peer was promised that are not here."""
        return self._custody.count_for(peer)

    def waited_for(self, peer: DeviceId, file_id: FileId) -> list[int]:
        """Return the pieces of a file that a peer was promised and that are not here."""
        return self._custody.waited_for(peer, file_id)

    def take(self, peer: DeviceId, frame: Want, wanted: RangeSet, room: int, now: float) -> list[int]:
        """Take custody of up to `room` pieces of `wanted`, none of which is here; return which."""
        file_id, hops = frame.file_id, self.route_of(frame.file_id)
        file = self._files.get(file_id)
        if file is None or peer not in file.askers or hops is None or hops >= frame.hops:
            return []
        download = self._requester.download_of(file_id) if self._begin(file_id, file, now) else None
        if download is None:
            return []
        was_empty = not self._custody.of(file_id)
        taken, new = self._add(peer, frame, self._candidates(download, wanted), download, room, now)
        if new:
            if was_empty:
                file.idle_since = now
            if self._check_at is None:
                self._check_at = now + _CHECK_INTERVAL_S
            self._aims.take_custody(file_id, new, now)
        return taken

    def _add(
        self,
        peer: DeviceId,
        frame: Want,
        candidates: Iterable[int],
        download: FileDownload,
        room: int,
        now: float,
    ) -> tuple[list[int], RangeSet]:
        """Note what of `candidates` a peer is promised; return that, and what of it nobody else waits for."""
        file_id, custody = frame.file_id, self._custody
        taken: list[int] = []
        new = RangeSet()
        for piece in candidates:
            awaited = custody.of(file_id).get(piece)
            if len(taken) >= room or (awaited is None and not custody.has_room(peer, file_id)):
                break
            if awaited is not None and peer in awaited.waiting:
                continue
            if relayed_with(download, piece) >= frame.hops:
                continue
            if custody.add(file_id, piece, peer, frame.hops, now):
                new.add(piece)
            taken.append(piece)
        return taken, new

    def unwant(self, peer: DeviceId, file_id: FileId, pieces: RangeSet, now: float) -> None:
        """Take note that a peer does not wait for these pieces any more."""
        self._release(file_id, peer, [p for p in self._custody.waited_for(peer, file_id) if p in pieces], now)

    def stored(self, file_id: FileId, piece: int, now: float) -> None:
        """Send a piece that came to everyone who was promised it."""
        file = self._files.get(file_id)
        if file is None:
            return
        file.idle_since = now
        for peer in self._custody.pop(file_id, piece):
            self._server.push(peer, file_id, piece)
            self.pieces_relayed += 1
        self._rest_if_idle()
        if self._server.has_all(file_id):
            self.refresh(file_id, now)

    def dropped(self, file_id: FileId, piece: int, now: float) -> None:
        """Withdraw a piece that came and could not be kept."""
        awaited = self._custody.of(file_id).get(piece)
        if awaited is not None:
            self._withdraw(file_id, {peer: [piece] for peer in awaited.waiting}, now)

    def found(self, file_id: FileId, now: float) -> None:
        """Take note that a file is served anyway; send what others wait for and has turned out to be here."""
        file = self._files.get(file_id)
        if file is None:
            return
        file.is_only_relayed = False
        held = RangeSet.from_ranges(self._server.held(file_id))
        for piece in [piece for piece in self._custody.of(file_id) if piece in held]:
            self.stored(file_id, piece, now)
            self._requester.store(file_id, piece, now)

    def _candidates(self, download: FileDownload, wanted: RangeSet) -> Iterator[int]:
        """Yield what to promise: what others wait for already, then what neighbours have, then anything."""
        awaited = list(self._custody.of(download.file_id))
        end = download.known_count() if download.shape.size_bytes is None else download.shape.piece_count
        wanted = wanted.intersection(((0, end),)) if end else RangeSet()
        yield from (piece for piece in awaited if piece in wanted)
        seen = RangeSet.of(awaited)
        for source in list(download.sources.values()):
            for start, stop in list(within(wanted.ranges(), source.has)):
                for piece in range(start, stop):
                    if piece not in seen:
                        seen.add(piece)
                        yield piece
        for start, stop in wanted.ranges():
            yield from (piece for piece in range(start, stop) if piece not in seen)

    def _withdraw(self, file_id: FileId, pieces_of: dict[DeviceId, list[int]], now: float) -> None:
        """Tell peers that they will not get these pieces, which they were promised."""
        for peer, pieces in pieces_of.items():
            self.pieces_withdrawn += len(pieces)
            withdraw = Withdraw(file_id=file_id, pieces=RangeSet.of(pieces).to_ranges())
            self._effects.append(SendFrame(peer, withdraw))
            self._release(file_id, peer, pieces, now)

    def _release(self, file_id: FileId, peer: DeviceId, pieces: Iterable[int], now: float) -> None:
        self._aims.release_custody(file_id, self._custody.release(file_id, peer, pieces), now)
        self._rest_if_idle()

    def _rest_if_idle(self) -> None:
        if not self._custody:
            self._check_at = None

    # --- relaying begins and ends -------------------------------------------------------------------------------

    def yield_size(self, file_id: FileId, size_bytes: int | None, now: float, *, is_told: bool = True) -> None:
        """Forget what was relayed of a file that turns out to have another size.

        Args:
            file_id: which file.
            size_bytes: its size.
            now: the time.
            is_told: whether the driver is told that relaying ended; it is not when it goes on with another size.
        """
        file = self._files.get(file_id)
        if file is None or not file.is_only_relayed or self._server.size_of(file_id) == size_bytes:
            return
        was_wanted = file.is_route_wanted
        self._withdraw_everything(file_id, now)
        self._aims.end_relay(file_id, now)
        self._server.stop(file_id, None)
        file.began = file.is_only_relayed = False
        if is_told:
            self._effects.append(RelayEnded(file_id))
            file.is_route_wanted = False
            if was_wanted:
                self._ask_route(file_id, file, again=True)

    def stop(self, file_id: FileId, now: float) -> None:
        """Relay a file no more, unless it is asked for again: what was kept of it is gone."""
        file = self._files.get(file_id)
        if file is not None and file.began:
            self._end(file_id, file, now)
            self._ask_route(file_id, file, again=True)
            self._tell(file_id, file, now)

    def make_room(self, now: float) -> None:
        """Give up relaying a file if there are as many files as peers put up with."""
        if len(self._requester.downloads()) < MAX_INTERESTS_PER_LINK:
            return
        for file_id, file in self._files.items():
            download = self._requester.download_of(file_id)
            if file.began and download is not None and not download.is_own:
                self._end(file_id, file, now)
                return

    def _begin(self, file_id: FileId, file: _Relayed, now: float) -> bool:
        if file.began:
            return True
        size_bytes, hops = self._routes[file_id]
        is_known = self._server.knows(file_id)
        if is_known and self._server.size_of(file_id) != size_bytes:
            return False
        if not self._aims.begin_relay(file_id, size_bytes, self._server.held(file_id), hops):
            return False
        if not is_known:
            self._server.serve(file_id, size_bytes, (), now)
        file.began, file.is_only_relayed = True, not is_known
        self._effects.append(RelayBegan(file_id, size_bytes))
        return True

    def _end(self, file_id: FileId, file: _Relayed, now: float) -> None:
        """Withdraw what was promised and fetch no more of it for others."""
        self._withdraw_everything(file_id, now)
        if file.began:
            self._aims.end_relay(file_id, now)
        if file.is_only_relayed and not self._server.held(file_id):
            self._server.stop(file_id, None)
        if file.began or file.is_route_wanted:
            self._effects.append(RelayEnded(file_id))
        file.began = file.is_only_relayed = file.is_route_wanted = False
        self._retell_at.pop(file_id, None)

    def _withdraw_everything(self, file_id: FileId, now: float) -> None:
        promised: dict[DeviceId, list[int]] = {}
        for piece, awaited in self._custody.of(file_id).items():
            for peer in awaited.waiting:
                promised.setdefault(peer, []).append(piece)
        self._withdraw(file_id, promised, now)

    # --- time ---------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        retell_at = min(self._retell_at.values(), default=None)
        if retell_at is None or self._check_at is None:
            return self._check_at if retell_at is None else retell_at
        return min(retell_at, self._check_at)

    def tick(self, now: float) -> None:
        """Tell how far streams are; withdraw what cannot be had."""
        for file_id in [file_id for file_id, due_at in self._retell_at.items() if due_at <= now]:
            self._tell(file_id, self._files[file_id], now)
        if self._check_at is not None and self._check_at <= now:
            self._check_at = now + _CHECK_INTERVAL_S
            for file_id in self._custody.files():
                self._give_up(file_id, self._files[file_id], now)

    def _give_up(self, file_id: FileId, file: _Relayed, now: float) -> None:
        """Withdraw what nobody could be asked for, and everything if nothing has been on its way for long."""
        download = self._requester.download_of(file_id)
        if download is None:
            return
        if download.is_on_its_way():
            file.idle_since = now
        is_idle = now - file.idle_since >= PROMISE_TIMEOUT_S
        hopeless: dict[DeviceId, list[int]] = {}
        for piece, awaited in self._custody.of(file_id).items():
            if is_idle or (now - awaited.since >= _GRACE_S and is_out_of_reach(download, piece)):
                for peer in awaited.waiting:
                    hopeless.setdefault(peer, []).append(piece)
        if hopeless and 0 in download.missing:
            self._effects.append(RelayFruitless(file_id))
        self._withdraw(file_id, hopeless, now)
