"""What a device keeps of its files: the tables of offers, parts and downloads, and the trees that belong to them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from faulty_disk.subject import Step, Subject
from poolnet.ids import FileId
from poolnet.storage.durable import store_errors
from poolnet.storage.file_table import DownloadRecord, FileTable, LocalFile, PartRecord

_IDS: Final = [FileId(bytes([number]) * 32) for number in range(1, 5)]


@attrs.define
class _Table:
    table: FileTable
    queue: list[DownloadRecord]

    async def offer(self, number: int) -> None:
        """List a complete file, whose tree is made first."""
        with store_errors("write", self.table.directory):
            self.table.new_tree_path().write_bytes(b"tree that was not finished")
            self.table.tree_path(_IDS[number]).write_bytes(b"tree")
        self.table.files[_IDS[number]] = LocalFile(
            file_id=_IDS[number], name=f"{number}", size_bytes=10**6, path=Path("/x"), mtime_ns=1, is_own=True
        )
        await self.table.save_files()

    async def withdraw(self, number: int) -> None:
        self.table.files.pop(_IDS[number], None)
        await self.table.save_files()
        self.table.remove_tree(_IDS[number])

    async def begin(self, number: int) -> None:
        self.table.parts[_IDS[number]] = PartRecord(
            file_id=_IDS[number], name=f"{number}", size_bytes=10**6, target=Path("/y")
        )
        await self.table.save_parts()
        with store_errors("write", self.table.directory):
            self.table.journal_path(_IDS[number]).write_bytes(bytes(8))

    async def save_queue(self, numbers: Sequence[int]) -> None:
        self.queue = [
            DownloadRecord(file_id=_IDS[number], name="n" * 500, size_bytes=1, target=Path("/z"), started_ms=number)
            for number in numbers
        ]
        await self.table.save_queue(lambda: self.queue)


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[_Table]:
    table = FileTable(directory)
    yield _Table(table, await table.load())


async def _observe(table: _Table) -> Any:
    lists = (table.table.files.values(), table.table.parts.values(), table.queue)
    return [[str(record) for record in records] for records in lists]


FILE_TABLE: Final = Subject(
    open=_open,
    steps=[
        Step("offer", lambda table: table.offer(0)),
        Step("queue", lambda table: table.save_queue([2])),
        Step("begin", lambda table: table.begin(2)),
        Step("offer again", lambda table: table.offer(1)),
        Step("queue more", lambda table: table.save_queue([2, 3])),
        Step("withdraw", lambda table: table.withdraw(0)),
        Step("queue less", lambda table: table.save_queue([])),
    ],
    observe=_observe,
    belongs=[
        "offers.json",
        "partials.json",
        "downloads.json",
        "queue.json",
        "trees/*.tree",
        "trees/*.journal",
        "trees/*.new",
    ],
)
