"""What is to be fetched: downloads, parts of them, windows of streams, and what others ask this device to relay.

One file is one `FileDownload`, whoever it is fetched for: what comes is here for all of them. It ends when neither this
device nor others want it any more. The fetching itself is in protocol/swarm_requester.py.
"""

from poolnet.errors import LocalError
from poolnet.ids import FileId
from poolnet.limits import MAX_INTERESTS_PER_LINK
from poolnet.protocol.hash_tree import shape_of
from poolnet.protocol.randomness import RandomSource
from poolnet.protocol.swarm_download import FileDownload
from poolnet.protocol.swarm_events import Completed, SwarmEffect
from poolnet.protocol.swarm_requester import Requester
from poolnet.ranges import Ranges, RangeSet


class Aims:
    """Decides what a requester fetches. Appends its effects to `effects`.

    Args:
        rng: where each download begins to ask.
        requester: which fetches.
        effects: what is to be done.
    """

    def __init__(self, rng: RandomSource, requester: Requester, effects: list[SwarmEffect]) -> None:
        self._rng = rng
        self._requester = requester
        self._effects = effects
        self._selected: dict[FileId, None] = {}  # downloads of which only a part is wanted, also if that is complete

    # --- for this device ----------------------------------------------------------------------------------------

    def check_room(self, file_id: FileId) -> None:
        """Raise LocalError if one file more would be too many."""
        known = self._requester.download_of(file_id)
        if known is not None and known.is_own:
            return
        if sum(download.is_own for download in self._requester.downloads()) >= MAX_INTERESTS_PER_LINK:
            raise LocalError(f"at most {MAX_INTERESTS_PER_LINK} files can be fetched at once; wait for one to finish")

    def start(self, file_id: FileId, size_bytes: int, held: Ranges, route: int | None, now: float) -> None:
        """Fetch a file; if it is being fetched already, note what is held of it.

        If it is only relayed, exactly `held` is here from now on: the rest may be in a cache, but not in the file.
        """
        download = self._requester.download_of(file_id)
        if download is not None and download.is_own:
            for piece in RangeSet(held).intersection(download.missing):
                self._requester.store(file_id, piece, now)
            return
        self._selected.pop(file_id, None)
        if download is None:
            self._add(self._make(file_id, size_bytes, held, route), now)
            return
        lost = download.goal.have.difference(held)
        download.goal.have = RangeSet(held)
        download.is_own = True
        self._requester.lose(file_id, lost.to_ranges(), now)
        self._aim(download, None, now)

    def select(self, file_id: FileId, pieces: Ranges | None, now: float) -> None:
        """Fetch only these pieces of a file that is downloaded; None: all of it."""
        download = self._requester.download_of(file_id)
        if download is None or not download.is_own or download.shape.size_bytes is None:
            return
        self._selected[file_id] = None
        self._aim(download, pieces, now)

    def resume(self, file_id: FileId, size_bytes: int, held: Ranges, route: int | None, now: float) -> None:
        """Fetch more of a file of which a part was fetched; `select` says what."""
        self._selected.pop(file_id, None)
        download = self._requester.download_of(file_id)
        if download is None:
            download = self._make(file_id, size_bytes, held, route)
            download.aim(())
            self._requester.add(download)
        download.is_own = True

    def is_selected(self, file_id: FileId) -> bool:
        """Return whether a download of a part of this file is complete, so that more of it may be selected."""
        download = self._requester.download_of(file_id)
        return file_id in self._selected and (download is None or not download.is_own)

    def follow(self, stream_id: FileId, start: int, stop: int, held: Ranges, route: int | None, now: float) -> None:
        """Fetch a window of a stream; `held` is what is here of it."""
        download = self._requester.download_of(stream_id)
        is_new = download is None
        if download is None:
            download = self._make(stream_id, None, held, route)
        download.is_own = True
        download.window = (start, stop)
        if is_new:
            download.aim(download.wanted_of_window())
            self._add(download, now)
        else:
            self._aim(download, download.wanted_of_window(), now)

    def end_stream(self, stream_id: FileId, count: int, now: float) -> None:
        """Note that a followed stream has so many pieces and no more."""
        download = self._requester.download_of(stream_id)
        if download is not None and download.is_own and download.shape.size_bytes is None:
            download.end = count
            self._aim(download, download.wanted_of_window(), now)

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Ask for this download before those of a lower priority."""
        download = self._requester.download_of(file_id)
        if download is not None:
            download.priority = priority
            self._requester.rank()

    def cancel(self, file_id: FileId, now: float) -> None:
        """Fetch a file for this device no more."""
        self._selected.pop(file_id, None)
        download = self._requester.download_of(file_id)
        if download is None or not download.is_own:
            return
        if download.is_relayed:
            download.is_own, download.told_sources = False, 0
            self._requester.retargeted(download, download.aim(()), now)
        else:
            self._requester.remove(file_id, now)

    # --- for others ---------------------------------------------------------------------------------------------

    def begin_relay(self, file_id: FileId, size_bytes: int | None, held: Ranges, route: int | None) -> bool:
        """Be ready to fetch pieces of a file for others; False if there are too many files already."""
        download = self._requester.download_of(file_id)
        if download is None:
            if len(self._requester.downloads()) >= MAX_INTERESTS_PER_LINK:
                return False
            download = self._make(file_id, size_bytes, held, route)
            download.aim(())
            self._requester.add(download)
        download.is_relayed = True
        self._requester.rank()
        return True

    def end_relay(self, file_id: FileId, now: float) -> None:
        """Fetch pieces of a file for others no more."""
        download = self._requester.download_of(file_id)
        if download is None or not download.is_relayed:
            return
        download.is_relayed = False
        if download.is_own:
            self._requester.retargeted(download, download.release_custody(download.goal.custody.copy()), now)
        else:
            self._requester.remove(file_id, now)

    def take_custody(self, file_id: FileId, pieces: RangeSet, now: float) -> None:
        """Fetch these pieces for others, of a file that is relayed."""
        download = self._requester.download_of(file_id)
        if download is not None and pieces:
            download.take_custody(pieces)
            self._requester.retargeted(download, (), now)

    def release_custody(self, file_id: FileId, pieces: RangeSet, now: float) -> None:
        """Fetch these pieces for others no more."""
        download = self._requester.download_of(file_id)
        if download is not None and pieces:
            self._requester.retargeted(download, download.release_custody(pieces), now)

    def set_route(self, file_id: FileId, hops: int | None, now: float) -> None:
        """Note how far holders of a file are."""
        download = self._requester.download_of(file_id)
        if download is not None and download.route != hops:
            self._requester.set_route(download, hops, now)

    # --- both ---------------------------------------------------------------------------------------------------

    def _make(self, file_id: FileId, size_bytes: int | None, held: Ranges, route: int | None) -> FileDownload:
        cursor = 0 if size_bytes is None else self._rng.randrange(shape_of(size_bytes).piece_count + 1)
        download = FileDownload(file_id, size_bytes, held, cursor=cursor)
        download.route = route
        return download

    def _add(self, download: FileDownload, now: float) -> None:
        download.is_own = True
        if download.is_complete:
            self._effects.append(Completed(download.file_id))
        else:
            self._requester.add(download)
            self._requester.retargeted(download, (), now)

    def _aim(self, download: FileDownload, own: Ranges | None, now: float) -> None:
        self._requester.retargeted(download, download.aim(own), now)
        if download.is_complete:
            self._requester.finish(download, now)
