"""What a user asked to be downloaded, and what became of it: values, and the bounded list of what has ended. No I/O."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from poolnet.events import OfferKind
from poolnet.ids import FileId
from poolnet.limits import MAX_DOWNLOAD_HISTORY
from poolnet.storage.file_table import DownloadRecord

#: ``queued``: waits for its turn, or for somebody to offer it · ``running``: is fetched, or waits for a holder ·
#: ``paused``: by the user, or because the disk is full · ``failed``: ended without the file, also when it was
#: cancelled · ``complete``.
DownloadState = Literal["queued", "running", "paused", "failed", "complete"]


@attrs.frozen(kw_only=True)
class DownloadInfo:
    """A download of this device, as it is now.

    Attributes:
        name: as the author of the offer wrote it.
        size_bytes: only a claim until the first piece is here; of a part of a folder, the size of the whole.
        done_bytes: verified bytes that are here.
        rate_bytes_per_s: of the last seconds; 0 unless it runs.
        sources: linked peers that have something of it, or fetch it for this device.
        eta_s: how long it takes at this rate, or None.
        reason: why it stands still or ended, for people; empty otherwise.
        code: the same for programs: "paused", "cancelled", that of an error (errors.py), or empty.
        path: where the file is, or will be.
        priority: those with a higher one go first.
        started_ms: when it was asked for, as Unix time in milliseconds.
        ended_ms: when it ended, or None.
    """

    file_id: FileId
    name: str
    kind: OfferKind
    size_bytes: int
    done_bytes: int
    rate_bytes_per_s: float
    sources: int
    eta_s: float | None
    state: DownloadState
    reason: str
    path: Path
    priority: int
    started_ms: int
    ended_ms: int | None
    code: str = ""


def ended_info(record: DownloadRecord) -> DownloadInfo:
    """Return a download that has ended."""
    return DownloadInfo(
        file_id=record.file_id,
        name=record.name,
        kind=record.kind,
        size_bytes=record.size_bytes,
        done_bytes=record.done_bytes,
        rate_bytes_per_s=0.0,
        sources=0,
        eta_s=None,
        state="failed" if record.code else "complete",
        reason=record.reason,
        path=record.target,
        priority=record.priority,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        code=record.code,
    )


class DownloadHistory:
    """The downloads that ended last, `MAX_DOWNLOAD_HISTORY` of them: of each file and place the latest."""

    def __init__(self) -> None:
        self._ended: dict[tuple[FileId, Path], tuple[int, DownloadRecord]] = {}

    def add(self, order: int, record: DownloadRecord) -> None:
        """Take a download that has ended; `order` is its place among all downloads."""
        self.forget(record.file_id, record.target)
        self._ended[record.file_id, record.target] = (order, record)
        if len(self._ended) > MAX_DOWNLOAD_HISTORY:
            del self._ended[next(iter(self._ended))]

    def forget(self, file_id: FileId, target: Path) -> None:
        """Forget a download: it was started again."""
        self._ended.pop((file_id, target), None)

    def clear(self) -> None:
        """Forget all."""
        self._ended.clear()

    def last_of(self, file_id: FileId) -> DownloadRecord | None:
        """Return the download of a file that ended last."""
        return next((record for _, record in reversed(self._ended.values()) if record.file_id == file_id), None)

    def __iter__(self) -> Iterator[tuple[int, DownloadRecord]]:
        return iter(self._ended.values())
