"""Which download runs when: so many at once, by priority and then age; paused, resumed, cancelled, and after a restart.

Downloads in the background are listed on disk and go on until they are complete, cancelled or failed. One that somebody
waits for (`fetch`) lives as long as its waiter. Of one file a single download runs at a time, so that the next ones
copy what it has brought. One that gets nothing for a while goes on, but another may run as well.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from poolnet.errors import DiskFull, DownloadCancelled, LocalError, OutputExists, PoolnetError, StoreError, UnknownFile
from poolnet.events import DownloadFailed, DownloadPaused, DownloadResumed, OfferKind, PoolEvent
from poolnet.files.download_history import DownloadInfo
from poolnet.files.download_job import Job
from poolnet.files.download_list import DownloadList, unknown_download
from poolnet.files.downloads import Downloads
from poolnet.ids import FileId
from poolnet.limits import DEFAULT_CONCURRENT_DOWNLOADS
from poolnet.steady_time import read_system_ms
from poolnet.storage.file_table import DownloadRecord, FileTable
from poolnet.storage.files import check_free_space, download_target, run_on_disk

#: A download that got nothing for so long does not keep others waiting ...
_STALLED_AFTER_S: Final = 10.0
#: ... as long as there are no more of those; each is an interest that peers remember (`MAX_INTERESTS_PER_LINK`).
_MAX_STALLED: Final = 200
#: How often to look for downloads that are stalled, and for room on a disk that was full.
_LOOK_INTERVAL_S: Final = 3.0
#: How long whoever stops waiting for a download waits for it to stand still: a call to the disk or two.
_STOP_TIMEOUT_S: Final = 5.0


@attrs.frozen(kw_only=True)
class Offer:
    """What is known of a file that can be downloaded; `list_id` is of a folder."""

    name: str
    size_bytes: int
    kind: OfferKind
    list_id: FileId | None


class Offers(Protocol):
    """What can be downloaded now."""

    def offer(self, file_id: FileId, kind: OfferKind | None = None) -> Offer | None:
        """Return what is known of a file that somebody offers as `kind`, or that is here as that."""

    def is_known(self, file_id: FileId) -> bool:
        """Return whether there is such a file; cheap."""

    def is_withdrawn(self, file_id: FileId) -> bool:
        """Return whether nobody offers it any more, and somebody did."""

    def sizes(self, file_id: FileId) -> Sequence[int]:
        """Return the sizes that it may have, the most believable first."""


class DownloadQueue:
    """Runs the downloads of one pool that the user asked for.

    Args:
        nursery: where they run.
        table: where they are listed.
        downloads: runs them.
        offers: what there is to download.
        publish: called with events.
        begins: called with a file when its download begins to run.
    """

    def __init__(
        self,
        *,
        nursery: trio.Nursery,
        table: FileTable,
        downloads: Downloads,
        offers: Offers,
        publish: Callable[[PoolEvent], None],
        begins: Callable[[FileId], None] = lambda _file_id: None,
    ) -> None:
        self.list = DownloadList(table)
        self._concurrent = DEFAULT_CONCURRENT_DOWNLOADS
        self._nursery = nursery
        self._table = table
        self._downloads = downloads
        self._offers = offers
        self._publish = publish
        self._begins = begins
        self._running: dict[FileId, Job] = {}
        self._woken = trio.Event()

    # --- for applications: see FileManager ----------------------------------------------------------------------

    async def start(
        self, file_id: FileId, out: Path, *, priority: int, only: Sequence[str], kind: OfferKind | None
    ) -> DownloadInfo:
        """Download in the background; return how it stands."""
        job = await self._add(file_id, out, priority, only, kind)
        job.waiters += 1  # so that it stays until it is listed
        was_listed, job.is_background = job.is_background, True
        try:
            await self.list.save()
        except BaseException:  # cancelled as well: nobody would know of it
            job.is_background = was_listed
            raise
        finally:
            await self._leave(job)
        return self._info(job)

    async def fetch(
        self, file_id: FileId, out: Path, *, priority: int, only: Sequence[str], kind: OfferKind | None
    ) -> Path:
        """Download, wait until it is complete, and return where it is."""
        job = await self._add(file_id, out, priority, only, kind)
        job.waiters += 1
        try:
            await job.ended.wait()
        finally:
            await self._leave(job)
        if job.error is not None:
            raise job.error
        return job.record.target

    async def pause(self, file_id: FileId) -> None:
        """Let the downloads of a file stand still."""
        for job in self._jobs(file_id):
            if job.record.is_paused:
                continue
            job.change(is_paused=True)
            job.blocked = None
            job.stop()
            await job.stopped.wait()
            if not job.ended.is_set():
                self._publish(DownloadPaused(file_id=file_id, code="paused", reason="paused by the user"))
        await self.list.save()

    async def resume(self, file_id: FileId) -> None:
        """Go on with downloads that stand still, or try again one that failed."""
        jobs = self.list.of_file(file_id)
        if not jobs:
            failed = self.list.last_failed(file_id)
            await self.start(file_id, failed.target, priority=failed.priority, only=failed.only, kind=failed.kind)
            return
        for job in jobs:
            self._go_on(job)
        await self.list.save()

    async def cancel(self, file_id: FileId) -> None:
        """End the downloads of a file, and remove what was fetched."""
        jobs = self.list.of_file(file_id)
        if not jobs and (file_id not in self._table.parts or file_id in self._downloads.running):
            raise unknown_download()
        for job in jobs:
            self._end_early(job, DownloadCancelled("the download was cancelled"))
        for job in jobs:
            await job.ended.wait()
        await self._downloads.discard(file_id)
        await self.list.save()

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Change the priority of a file's downloads."""
        for job in self._jobs(file_id):
            job.change(priority=priority)
        self._downloads.prioritise(file_id, priority)
        self._woken.set()
        self.list.save_soon()

    async def forget(self) -> None:
        """Forget the downloads that have ended."""
        self.list.clear_history()
        await self.list.save()

    def infos(self) -> list[DownloadInfo]:
        """Return all downloads, those asked for last at the end."""
        infos = [*self.list.ended(), *((job.order, self._info(job)) for job in self.list)]
        return [info for _, info in sorted(infos, key=lambda item: item[0])]

    def set_concurrent(self, number: int) -> None:
        """Run so many downloads at once; those that run go on."""
        self._concurrent = number
        self._woken.set()

    # --- for the other parts ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Run what was listed: the offers are known now."""
        for job in list(self.list):
            job.is_held = False
            if self._offers.is_withdrawn(job.record.file_id):
                self._end_early(job, _withdrawn())
        self._woken.set()

    def offered(self) -> None:
        """Take note that something is offered."""
        self._woken.set()

    def withdrawn(self, file_id: FileId) -> None:
        """End the downloads of a file that nobody offers any more."""
        for job in self.list.of_file(file_id):
            if not job.is_held:  # the offers are being read; a later one may follow
                self._end_early(job, _withdrawn())

    async def run(self) -> None:
        """Run downloads when it is their turn, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.list.run)
            while True:
                self._start_ready()
                with trio.move_on_after(_LOOK_INTERVAL_S if self._has_to_look() else math.inf):
                    await self._woken.wait()
                self._woken = trio.Event()
                await self._look_at_disks()

    # --- which are there ----------------------------------------------------------------------------------------

    async def _add(self, file_id: FileId, out: Path, priority: int, only: Sequence[str], kind: OfferKind | None) -> Job:
        """Put a download into the queue, or return the one of that file to that place."""
        offer = self._check(file_id, only, kind)
        target = await run_on_disk(download_target, out, offer.name)
        job = self.list.to(target)
        asked_for = (file_id, offer.kind, tuple(only))
        if job is not None and (job.record.file_id, job.record.kind, job.record.only) != asked_for:
            raise OutputExists(f"another download goes to {target}; choose another place")
        if job is None:
            job = self.list.add(
                DownloadRecord(
                    file_id=file_id,
                    name=offer.name,
                    size_bytes=offer.size_bytes,
                    target=target,
                    started_ms=read_system_ms(),
                    kind=offer.kind,
                    list_id=offer.list_id,
                    only=tuple(only),
                    priority=priority,
                )
            )
        job.change(priority=max(priority, job.record.priority))
        self._go_on(job)
        return job

    def _check(self, file_id: FileId, only: Sequence[str], kind: OfferKind | None) -> Offer:
        """Return what is known of a file that is to be downloaded.

        Raises:
            UnknownFile: nobody offers it, or not as that.
            LocalError: it cannot be downloaded, or not in part.
        """
        offer = self._offers.offer(file_id, kind)
        if offer is None:
            raise UnknownFile(
                "nobody offers that file" + (f" as a {kind}" if kind and self._offers.is_known(file_id) else "")
            )
        if offer.kind not in self._downloads.contents:
            raise LocalError(f"{offer.name!r} is a {offer.kind}, which cannot be downloaded")
        if only and offer.kind != "folder":
            raise LocalError(f"{offer.name!r} is no folder; there is nothing to choose from")
        return offer

    def _jobs(self, file_id: FileId) -> list[Job]:
        jobs = self.list.of_file(file_id)
        if not jobs:
            raise unknown_download()
        return jobs

    def _info(self, job: Job) -> DownloadInfo:
        return self.list.info(job, is_offered=self._offers.is_known(job.record.file_id))

    async def _leave(self, job: Job) -> None:
        """Wait for a download no longer; one that nobody waits for and that is not listed stops."""
        job.waiters -= 1
        if job.waiters or job.is_background or job.ended.is_set():
            return
        self.list.remove(job)
        job.stop()
        with trio.move_on_after(_STOP_TIMEOUT_S, shield=True):
            await job.stopped.wait()

    # --- which run ----------------------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        while (job := self._next()) is not None:
            self._running[job.record.file_id] = job
            self._nursery.start_soon(self._run, job, job.begin())

    def _next(self) -> Job | None:
        """Return the download that may run now, if there is one."""
        stalled = sum(job.is_stalled(_STALLED_AFTER_S) for job in self._running.values())
        if len(self._running) - min(stalled, _MAX_STALLED) >= self._concurrent:
            return None
        return min(self._ready(), key=lambda job: (-job.record.priority, job.order), default=None)

    def _ready(self) -> Iterator[Job]:
        for job in self.list:
            file_id = job.record.file_id
            if job.is_ready and file_id not in self._running and self._offers.is_known(file_id):
                yield job

    async def _run(self, job: Job, scope: trio.CancelScope) -> None:
        """Run a download until it ends or is stopped."""
        file_id, error, is_complete = job.record.file_id, None, False
        self._begins(file_id)
        with scope:
            try:
                await self._downloads.fetch(
                    job.part_record(),
                    lambda: self._offers.sizes(file_id),
                    priority=job.record.priority,
                    began=job.began,
                )
                is_complete = True
            except PoolnetError as exc:
                error = exc
        job.scope = None
        del self._running[file_id]
        self._stopped(job, error, is_complete=is_complete)
        job.stopped.set()
        self._woken.set()

    def _stopped(self, job: Job, error: PoolnetError | None, *, is_complete: bool) -> None:
        """Decide what becomes of a download that does not run any more."""
        if is_complete or job.ending is not None:
            self._end(job, None if is_complete else job.ending)
        elif isinstance(error, DiskFull) and job.is_background and job in self.list:
            job.block(error, _LOOK_INTERVAL_S)
            self._publish(DownloadPaused(file_id=job.record.file_id, code=error.code, reason=str(error)))
        elif error is not None:
            self._end(job, error)

    def _end_early(self, job: Job, error: PoolnetError) -> None:
        job.ending = error
        if job.scope is None:
            self._end(job, error)
        else:
            job.stop()

    def _end(self, job: Job, error: PoolnetError | None) -> None:
        self.list.end(job, error)
        if error is not None:
            self._publish(DownloadFailed(file_id=job.record.file_id, code=error.code, reason=str(error)))

    def _go_on(self, job: Job) -> None:
        """Let a download go on that stands still."""
        job.is_held = False
        if job.state == "paused":
            job.change(is_paused=False)
            job.blocked = None
            self._publish(DownloadResumed(file_id=job.record.file_id))
            self.list.save_soon()
        self._woken.set()

    # --- disks --------------------------------------------------------------------------------------------------

    def _has_to_look(self) -> bool:
        is_full = len(self._running) >= self._concurrent and len(self.list) > len(self._running)
        return is_full or any(job.blocked is not None for job in self.list)

    async def _look_at_disks(self) -> None:
        """Go on with downloads for which there is room again."""
        for job in [job for job in self.list if job.is_worth_another_look]:
            places = (job.part_record().part_path, self._table.directory)
            if await run_on_disk(_has_room, *places, job.record) and job.blocked is not None:
                self._go_on(job)


def _has_room(part: Path, home: Path, record: DownloadRecord) -> bool:
    """Return whether the disks can take the rest of a download, and what is kept about it."""
    try:
        found = part.stat()
        there = found.st_blocks * 512 if part.is_file() else record.done_bytes
    except OSError:
        there = 0
    try:
        check_free_space(part.parent, max(0, record.size_bytes - there))
        check_free_space(home, 0)
    except StoreError:
        return False
    return True


def _withdrawn() -> UnknownFile:
    return UnknownFile("the file was withdrawn by everybody who offered it")
