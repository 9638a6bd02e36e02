"""The downloads that the user asked for: those that wait, run or stand still, and those that have ended. On disk, too.

Of one place there is one download at a time. What is in no hurry is saved a moment later, together with what follows:
if that is lost, a download that was complete finds its file and is complete again.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import trio

from poolnet.errors import DownloadCancelled, PoolnetError, StoreError, UnknownFile
from poolnet.events import OfferKind
from poolnet.files.download_history import DownloadHistory, DownloadInfo, ended_info
from poolnet.files.download_job import Job
from poolnet.files.offer_book import OfferState
from poolnet.ids import FileId
from poolnet.steady_time import read_system_ms
from poolnet.storage.file_table import DownloadRecord, FileTable

logger = logging.getLogger(__name__)

#: Between two saves of what is in no hurry.
_SAVE_INTERVAL_S: Final = 1.0
#: How long a service that ends may take to save.
_LAST_SAVE_TIMEOUT_S: Final = 5.0


class DownloadList:
    """The downloads of one pool.

    Args:
        table: where they are listed.
    """

    def __init__(self, table: FileTable) -> None:
        self._table = table
        self._orders = count()
        self._jobs: dict[Path, Job] = {}  # by target, in the order of their age
        self._of_file: dict[FileId, list[Job]] = {}
        self._history = DownloadHistory()
        self._is_unsaved = False
        self._changed = trio.Event()

    def __iter__(self) -> Iterator[Job]:
        """Iterate over those that have not ended, the oldest first."""
        return iter(self._jobs.values())

    def __contains__(self, job: object) -> bool:
        return isinstance(job, Job) and self._jobs.get(job.record.target) is job

    def __len__(self) -> int:
        return len(self._jobs)

    def restore(self, records: Sequence[DownloadRecord]) -> None:
        """Take what was listed."""
        for record in records:
            if record.ended_ms is not None:
                self._history.add(next(self._orders), record)
            else:
                self.add(record, is_background=True, is_held=True)

    def add(self, record: DownloadRecord, *, is_background: bool = False, is_held: bool = False) -> Job:
        """Take a download that begins now; nothing else goes to its target."""
        job = Job(record, order=next(self._orders), is_background=is_background, is_held=is_held)
        self._history.forget(record.file_id, record.target)
        self._jobs[record.target] = job
        self._of_file.setdefault(record.file_id, []).append(job)
        return job

    def remove(self, job: Job) -> None:
        """Forget a download that has not ended, if it is here."""
        if job in self:
            del self._jobs[job.record.target]
            jobs = self._of_file[job.record.file_id]
            jobs.remove(job)
            if not jobs:
                del self._of_file[job.record.file_id]

    def end(self, job: Job, error: PoolnetError | None) -> None:
        """Take note that a download has ended, and why if it did not end well."""
        self.remove(job)
        code, reason = ("", "") if error is None else (error.code, str(error))
        job.change(is_paused=False, ended_ms=read_system_ms(), code=code, reason=reason)
        self._history.add(job.order, job.record)
        job.error = error
        job.ended.set()
        self.save_soon()

    def to(self, target: Path) -> Job | None:
        """Return the download that goes to that place."""
        return self._jobs.get(target)

    def of_file(self, file_id: FileId) -> list[Job]:
        """Return the downloads of a file that have not ended."""
        return list(self._of_file.get(file_id, ()))

    def last_failed(self, file_id: FileId) -> DownloadRecord:
        """Return the download of a file that ended last, without it.

        Raises:
            UnknownFile: there is none.
        """
        last = self._history.last_of(file_id)
        if last is None or not last.code:
            raise unknown_download()
        return last

    def clear_history(self) -> None:
        """Forget those that have ended."""
        self._history.clear()

    # --- what to show -------------------------------------------------------------------------------------------

    def info(self, job: Job, *, is_offered: bool) -> DownloadInfo:
        """Return how a download stands."""
        return ended_info(job.record) if job.ended.is_set() else job.info(is_offered=is_offered)

    def ended(self) -> Iterator[tuple[int, DownloadInfo]]:
        """Yield those that have ended, with their places among all."""
        for order, record in self._history:
            yield order, ended_info(record)

    def states(self) -> dict[tuple[FileId, OfferKind], tuple[OfferState, int]]:
        """Return the state and the verified bytes of everything that was asked for and is not here."""
        states: dict[tuple[FileId, OfferKind], tuple[OfferState, int]] = {}
        for _, record in self._history:
            states.pop((record.file_id, record.kind), None)
            if record.code and record.code != DownloadCancelled.code:
                states[record.file_id, record.kind] = ("failed", record.done_bytes)
        for job in self:
            record, state = job.record, job.state
            states[record.file_id, record.kind] = ("downloading" if state == "running" else state, record.done_bytes)
        return states

    # --- on disk ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Save what changes, until cancelled; then what is not saved yet."""
        try:
            while True:
                while not self._is_unsaved:
                    self._changed = trio.Event()
                    await self._changed.wait()
                try:
                    await self.save()
                except StoreError as exc:
                    logger.warning("cannot list downloads: %s", exc.code)  # tried again
                await trio.sleep(_SAVE_INTERVAL_S)
        finally:
            with trio.move_on_after(_LAST_SAVE_TIMEOUT_S, shield=True), suppress(StoreError):
                if self._is_unsaved or any(job.has_run for job in self):
                    await self.save()

    def save_soon(self) -> None:
        """Save when there is time."""
        self._is_unsaved = True
        self._changed.set()

    async def save(self) -> None:
        """Save; what is listed survives a restart when this returns.

        Raises:
            StoreError: that cannot be written.
        """
        self._is_unsaved, is_saved = False, False
        try:
            await self._table.save_queue(self._records)
            is_saved = True
        finally:
            if not is_saved:
                self.save_soon()

    def _records(self) -> list[DownloadRecord]:
        records = [*self._history, *((job.order, job.record) for job in self if job.is_background)]
        return [record for _, record in sorted(records, key=lambda item: item[0])]


def unknown_download() -> UnknownFile:
    """Return the error that nothing is known of such a download."""
    return UnknownFile("there is no download of that file")
