"""A download that the user asked for and that has not ended: queued, running or paused. No I/O."""

from typing import Any, Final

import attrs
import trio

from poolnet.errors import DiskFull, PoolnetError
from poolnet.files.download_history import DownloadInfo, DownloadState
from poolnet.files.progress import Download
from poolnet.storage.file_table import DownloadRecord, PartRecord

#: How long to wait at most until another look at a disk that was full, though it said that there was room.
_MAX_LOOK_INTERVAL_S: Final = 60.0


class Job:
    """One download in the queue.

    Args:
        record: what was asked for.
        order: its place among all downloads: the age.
        is_background: whether it is listed durably and goes on when nobody waits for it.
        is_held: whether it waits until the offers of the pool are known, after a restart.

    Attributes:
        waiters: how many callers wait for its end.
        blocked: why the disk does not take it, while that is so.
        scope: cancels it while it runs, otherwise None.
        ending: why it is to end as soon as it stands still.
        error: why it ended, once `ended` is set; None if the file is there.
        stopped: set while it does not run.
    """

    def __init__(self, record: DownloadRecord, *, order: int, is_background: bool, is_held: bool = False) -> None:
        self.order = order
        self.is_background = is_background
        self.is_held = is_held
        self.waiters = 0
        self.blocked: DiskFull | None = None
        self.scope: trio.CancelScope | None = None
        self.ending: PoolnetError | None = None
        self.error: PoolnetError | None = None
        self.ended = trio.Event()
        self.stopped = trio.Event()
        self.stopped.set()
        self._record = record
        self._download: Download | None = None
        self._began_at = 0.0
        self._look_at = 0.0
        self._blocked_at: tuple[int, int] = (-1, 0)  # bytes done then, and how often in a row with no more

    @property
    def record(self) -> DownloadRecord:
        """What was asked for, and how far it is."""
        if self._download is not None and self._download.has_begun:
            record, running = self._record, self._download
            if (record.done_bytes, record.size_bytes) != (running.done_bytes, running.record.size_bytes):
                self.change(done_bytes=running.done_bytes, size_bytes=running.record.size_bytes)
        return self._record

    @property
    def is_ready(self) -> bool:
        """Whether nothing of its own keeps it from running now."""
        is_waiting = self.scope is None and self.ending is None and not self.is_held
        return is_waiting and self.blocked is None and not self._record.is_paused

    @property
    def has_run(self) -> bool:
        """Whether it ran since the pool was opened."""
        return self._download is not None

    @property
    def is_worth_another_look(self) -> bool:
        """Whether the disk did not take it, and that was a while ago."""
        return self.blocked is not None and trio.current_time() >= self._look_at

    @property
    def state(self) -> DownloadState:
        """What to show."""
        if self._record.is_paused or self.blocked is not None:
            return "paused"
        return "queued" if self.scope is None else "running"

    def change(self, **changes: Any) -> None:
        """Replace fields of the record."""
        self._record = attrs.evolve(self._record, **changes)

    def part_record(self) -> PartRecord:
        """Return it in the words of `Downloads.fetch`."""
        record = self._record
        return PartRecord(
            file_id=record.file_id,
            name=record.name,
            size_bytes=record.size_bytes,
            target=record.target,
            kind=record.kind,
            list_id=record.list_id,
            only=record.only,
        )

    def begin(self) -> trio.CancelScope:
        """Take note that it runs from now on; return what `stop` cancels."""
        self.scope = trio.CancelScope()
        self.stopped = trio.Event()
        self._began_at = trio.current_time()
        return self.scope

    def began(self, download: Download) -> None:
        """Take note that it is fetched: it has what describes it, and waits for no other download of the file."""
        self._download = download

    def block(self, error: DiskFull, interval_s: float) -> None:
        """Take note that the disk does not take it; look again after that time, or longer each time it is in vain."""
        done_bytes, tries = self._blocked_at
        tries = tries + 1 if self.record.done_bytes == done_bytes else 0
        self._blocked_at = (self.record.done_bytes, tries)
        self._look_at = trio.current_time() + min(interval_s * 2.0**tries, _MAX_LOOK_INTERVAL_S)
        self.blocked = error

    def is_stalled(self, after_s: float) -> bool:
        """Return whether it runs and got nothing for so long, also while it waits for what it needs first."""
        news_at = self._began_at if self._download is None else max(self._began_at, self._download.news_at)
        return self.scope is not None and trio.current_time() - news_at >= after_s

    def stop(self) -> None:
        """Let it stand still; `stopped` is set when it does."""
        if self.scope is not None:
            self.scope.cancel()

    def info(self, *, is_offered: bool) -> DownloadInfo:
        """Return it as it is now."""
        record, state = self.record, self.state
        running = self._download if state == "running" else None
        rate = 0.0 if running is None else running.rate_bytes_per_s
        sources = 0 if running is None else running.count_sources()
        return DownloadInfo(
            file_id=record.file_id,
            name=record.name,
            kind=record.kind,
            size_bytes=record.size_bytes,
            done_bytes=record.done_bytes,
            rate_bytes_per_s=rate,
            sources=sources,
            eta_s=max(0, record.size_bytes - record.done_bytes) / rate if rate else None,
            state=state,
            reason=self._reason(state, sources, is_offered=is_offered),
            path=record.target,
            priority=record.priority,
            started_ms=record.started_ms,
            ended_ms=None,
            code=self._code(state),
        )

    def _reason(self, state: DownloadState, sources: int, *, is_offered: bool) -> str:
        if state == "paused":
            return str(self.blocked or "paused by the user")
        if not is_offered:
            return "nobody offers it at the moment"
        if state == "queued":
            return "it waits for its turn"
        return "" if sources or self.record.done_bytes else "nobody who has it is linked"

    def _code(self, state: DownloadState) -> str:
        if state != "paused":
            return ""
        return "paused" if self.blocked is None else self.blocked.code
