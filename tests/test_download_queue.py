"""The queue of downloads against a plain model: whatever users do in whatever order, what may run does run."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from poolnet.errors import OutputExists, PoolnetError, UnknownFile
from poolnet.events import OfferKind
from poolnet.files.download_queue import DownloadQueue, Offer
from poolnet.files.progress import Download
from poolnet.ids import FileId
from poolnet.storage.file_table import DownloadRecord, PartRecord

FILES = [FileId(bytes([number]) * 32) for number in range(6)]
#: No such directory is needed: nothing is written.
PLACE = Path("/")


class FakeTable:
    """What is on disk: the records of the last save."""

    def __init__(self) -> None:
        self.parts: dict[FileId, PartRecord] = {}
        self.directory = PLACE
        self.saved: list[DownloadRecord] = []

    async def save_queue(self, records: Callable[[], Iterable[DownloadRecord]]) -> None:
        await trio.lowlevel.checkpoint()
        self.saved = list(records())


class FakeDownloads:
    """Downloads that end when the test says so; `fetched` has those under way, in the order in which they began."""

    def __init__(self) -> None:
        self.contents = {"file": None}
        self.running: dict[FileId, Download] = {}
        self.fetched: dict[FileId, trio.Event] = {}
        self.errors: dict[FileId, PoolnetError] = {}
        self.most = 0

    async def fetch(self, record: PartRecord, _sizes: Callable[[], Sequence[int]], **_options: Any) -> Path:
        assert record.file_id not in self.fetched, "one at a time of each file"
        done = self.fetched[record.file_id] = trio.Event()
        self.most = max(self.most, len(self.fetched))
        try:
            await done.wait()
        finally:
            del self.fetched[record.file_id]
        if record.file_id in self.errors:
            raise self.errors.pop(record.file_id)
        return record.target

    async def discard(self, _file_id: FileId) -> None:
        await trio.lowlevel.checkpoint()

    def prioritise(self, file_id: FileId, priority: int) -> None:
        """Nothing to do."""


class AllOffered:
    def offer(self, file_id: FileId, kind: OfferKind | None = None) -> Offer | None:
        return Offer(name=f"poolnet-test-{file_id[0]}", size_bytes=5, kind="file", list_id=None)

    def is_known(self, _file_id: FileId) -> bool:
        return True

    def is_withdrawn(self, _file_id: FileId) -> bool:
        return False

    def sizes(self, _file_id: FileId) -> Sequence[int]:
        return [5]


class World:
    """The queue beside its model.

    Attributes:
        waiting: the model of those that have not ended: priority and age, and whether they stand still.
        ended: the model of the others: how.
    """

    def __init__(self, nursery: trio.Nursery, concurrent: int) -> None:
        self.table, self.downloads = FakeTable(), FakeDownloads()
        table: Any = self.table
        downloads: Any = self.downloads
        self.queue = DownloadQueue(
            nursery=nursery, table=table, downloads=downloads, offers=AllOffered(), publish=lambda _event: None
        )
        self.queue.set_concurrent(concurrent)
        self.concurrent = concurrent
        self.waiting: dict[FileId, tuple[int, int, bool]] = {}
        self.ended: dict[FileId, str] = {}
        self._age = 0

    async def start(self, file_id: FileId, priority: int) -> None:
        await self.queue.start(file_id, PLACE, priority=priority, only=(), kind=None)
        earlier, age, _ = self.waiting.get(file_id, (priority, self._age, False))
        self.waiting[file_id] = (max(priority, earlier), age, False)
        self._age += 1
        self.ended.pop(file_id, None)

    async def pause(self, file_id: FileId, _priority: int) -> None:
        if await self._refused_unless(file_id in self.waiting, self.queue.pause(file_id)):
            return
        self.waiting[file_id] = (*self.waiting[file_id][:2], True)

    async def resume(self, file_id: FileId, _priority: int) -> None:
        may = file_id in self.waiting or self.ended.get(file_id, "complete") != "complete"
        if await self._refused_unless(may, self.queue.resume(file_id)):
            return
        if file_id in self.ended:
            self.waiting[file_id] = (self._priority_of(file_id), self._age, False)
            self._age += 1
            del self.ended[file_id]
        self.waiting[file_id] = (*self.waiting[file_id][:2], False)

    async def cancel(self, file_id: FileId, _priority: int) -> None:
        if not await self._refused_unless(file_id in self.waiting, self.queue.cancel(file_id)):
            del self.waiting[file_id]
            self.ended[file_id] = "cancelled"

    async def prioritise(self, file_id: FileId, priority: int) -> None:
        if file_id in self.waiting:
            self.queue.prioritise(file_id, priority)
            self.waiting[file_id] = (priority, *self.waiting[file_id][1:])

    async def finish(self, file_id: FileId, _priority: int) -> None:
        if file_id in self.downloads.fetched:
            self.downloads.fetched[file_id].set()
            del self.waiting[file_id]
            self.ended[file_id] = "complete"

    async def fail(self, file_id: FileId, _priority: int) -> None:
        if file_id in self.downloads.fetched:
            self.downloads.errors[file_id] = OutputExists("something is there")
            await self.finish(file_id, 0)
            self.ended[file_id] = "output_exists"

    async def settle(self) -> None:
        """Compare with the model when all is quiet."""
        running_before = set(self.downloads.fetched)
        await trio.testing.wait_all_tasks_blocked()
        infos = {info.file_id: info for info in self.queue.infos()}
        assert {file_id for file_id, info in infos.items() if info.ended_ms is None} == set(self.waiting)
        assert {f: i.code or "complete" for f, i in infos.items() if i.ended_ms is not None} == self.ended
        assert {f for f, i in infos.items() if i.state == "paused"} == {f for f, w in self.waiting.items() if w[2]}
        running = set(self.downloads.fetched)
        assert {f for f, i in infos.items() if i.state == "running"} == running
        ready = [file_id for file_id, (_, _, is_paused) in self.waiting.items() if not is_paused]
        assert len(running) == min(self.concurrent, len(ready))
        assert self.downloads.most <= self.concurrent
        queued = [self._rank(file_id) for file_id in ready if file_id not in running]
        begun = [self._rank(file_id) for file_id in running - running_before]
        assert not queued or not begun or max(begun) < min(queued), "priority, then age"

    def _rank(self, file_id: FileId) -> tuple[int, int]:
        priority, age, _ = self.waiting[file_id]
        return (-priority, age)

    def _priority_of(self, file_id: FileId) -> int:
        return next(info.priority for info in self.queue.infos() if info.file_id == file_id)

    async def _refused_unless(self, may: bool, call: Any) -> bool:
        try:
            await call
        except UnknownFile:
            assert not may
            return True
        assert may
        return False


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "pause", "resume", "cancel", "prioritise", "finish", "fail"]),
        st.sampled_from(FILES),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(concurrent=st.integers(1, 3), steps=STEPS)
def test_what_may_run_does_run_and_the_list_on_disk_is_what_is_shown(
    concurrent: int, steps: list[tuple[str, FileId, int]]
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery, concurrent)
            nursery.start_soon(world.queue.run)
            for step, file_id, priority in steps:
                await getattr(world, step)(file_id, priority)
                await world.settle()
            shown = world.queue.infos()
            await trio.sleep(2)
            saved = [(record.file_id, record.ended_ms is None, record.code) for record in world.table.saved]
            assert saved == [
                (info.file_id, info.ended_ms is None, info.code if info.ended_ms is not None else "") for info in shown
            ]
            assert [record.is_paused for record in world.table.saved] == [info.state == "paused" for info in shown]
            again = DownloadQueueReader(world.table.saved)
            assert again.files == [info.file_id for info in shown]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


class DownloadQueueReader:
    """What a queue shows after a restart."""

    def __init__(self, records: list[DownloadRecord]) -> None:
        table: Any = FakeTable()
        downloads: Any = FakeDownloads()
        nursery: Any = None
        queue = DownloadQueue(
            nursery=nursery, table=table, downloads=downloads, offers=AllOffered(), publish=lambda _event: None
        )
        queue.list.restore(records)
        self.files = [info.file_id for info in queue.infos()]
