"""One download while it runs: how far it is, how fast it goes, and what it waits for."""

import math
from collections.abc import Callable
from typing import Final

import trio

from poolnet.errors import PoolnetError
from poolnet.events import DownloadProgress
from poolnet.files.size_claims import SizeClaims
from poolnet.limits import MAX_PROGRESS_RATE
from poolnet.storage.file_table import PartRecord

#: Weight of the newest measurement in the rate that is shown: settles within a second.
_RATE_WEIGHT: Final = 0.2
#: A download that got nothing for so long has no rate.
_RATE_LASTS_S: Final = 3.0


class Download:
    """A download that is running: the exchange tells it what comes (`DownloadWatcher`).

    Args:
        record: what is fetched.
        priority: of its pieces among those of other files.
        publish: called with progress, at most `MAX_PROGRESS_RATE` times a second.
        count_sources: returns how many linked peers have something of it.

    Attributes:
        record: what is fetched; its size is only a claim until a genuine piece proves it.
        priority: of its pieces among those of other files.
        done_bytes: verified bytes that are here.
        has_begun: whether it is known what was there already.
        news_at: when bytes came last (trio's clock).
        is_exchanged: whether the exchange fetches it, or did, and gives what is here to others.
    """

    def __init__(
        self,
        record: PartRecord,
        *,
        priority: int,
        publish: Callable[[DownloadProgress], None],
        count_sources: Callable[[], int],
    ) -> None:
        self.record = record
        self.priority = priority
        self.done_bytes = 0
        self.has_begun = False
        self.is_exchanged = False
        self.count_sources = count_sources
        self.news_at = trio.current_time()
        self._publish = publish
        self._news = trio.lowlevel.ParkingLot()
        self._grown = trio.lowlevel.ParkingLot()
        self._grown_at = 0
        self._is_complete = self._is_proven = self._is_doubted = self._is_here = False
        self._error: PoolnetError | None = None
        self._shown_at = trio.current_time()
        self._shown_bytes = 0
        self._rate = 0.0

    @property
    def rate_bytes_per_s(self) -> float:
        """Bytes a second, lately."""
        return self._rate if trio.current_time() - self.news_at < _RATE_LASTS_S else 0.0

    async def wait(self, sizes: SizeClaims) -> bool:
        """Wait until every piece is written and return True, or until another size, or a copy, should be tried.

        Raises:
            StoreError: the disk does not take it.
            UnknownFile: it was withdrawn by all who offered it.
        """
        self._is_complete = self._is_here = False
        give_up_at = trio.current_time() + sizes.patience_s()
        while not self._is_complete and self._error is None:
            if self._is_here:
                return False
            is_waiting = self._is_proven or not sizes.has_others()
            is_late = trio.current_time() >= give_up_at
            if not is_waiting and (is_late or sizes.is_hopeless(is_doubted=self._is_doubted)):
                return False
            with trio.move_on_at(math.inf if is_waiting else give_up_at):
                await self._news.park()
        if self._error is not None:
            raise self._error
        return True

    async def wait_for_growth(self, size_bytes: int) -> None:
        """Wait until so much more is here."""
        self._grown_at = self.done_bytes + size_bytes
        await self._grown.park()

    def begin(self, done_bytes: int, *, is_proven: bool) -> None:
        """Take note of what was there already, and whether that proves the size."""
        self._is_proven, self._is_doubted, self.has_begun = is_proven, False, True
        self.done_bytes = self._shown_bytes = done_bytes
        self.news_at = trio.current_time()
        self._show()

    def look_again(self) -> None:
        """Take note that there may be other claims about the size."""
        self._news.unpark_all()

    def found_here(self) -> None:
        """Take note that this device has the file by now; the exchange fetches it no more."""
        self._is_here, self.is_exchanged = True, False
        self._news.unpark_all()

    def size_doubted(self) -> None:
        """See `DownloadWatcher`."""
        self._is_doubted = True
        self._news.unpark_all()

    def pieces_stored(self, chunk_bytes: int) -> None:
        """See `DownloadWatcher`."""
        self._is_proven = True
        self.done_bytes += chunk_bytes
        self.news_at = trio.current_time()
        if self.done_bytes >= self._grown_at:
            self._grown.unpark_all()
        if self.news_at - self._shown_at >= 1 / MAX_PROGRESS_RATE:
            self._measure()
            self._show()

    def completed(self) -> None:
        """See `DownloadWatcher`."""
        self._show()
        self._is_complete = True
        self._news.unpark_all()

    def failed(self, error: PoolnetError) -> None:
        """See `DownloadWatcher`; also called when nobody offers the file any more."""
        self._error = self._error or error
        self._news.unpark_all()

    def _measure(self) -> None:
        rate = max(0, self.done_bytes - self._shown_bytes) / (self.news_at - self._shown_at)
        self._rate = rate if self._rate == 0 else self._rate + _RATE_WEIGHT * (rate - self._rate)

    def _show(self) -> None:
        self._shown_at, self._shown_bytes = trio.current_time(), self.done_bytes
        self._publish(
            DownloadProgress(
                file_id=self.record.file_id,
                done_bytes=self.done_bytes,
                size_bytes=self.record.size_bytes,
                rate_bytes_per_s=self._rate,
                sources=self.count_sources(),
            )
        )
