"""What a command says while it works, independent of where it runs and how it is shown.

A command emits *records* (JSON objects with the fields of docs/cli.md), *progress* (records that only the latest of
matters), *notes* (sentences for people) and *data* (bytes). Who shows them decides: JSON lines, text, or the control
socket to another process.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import trio

Record = dict[str, Any]


class Reporter(Protocol):
    """Where a command's output goes. Each call waits until the output is taken."""

    async def record(self, record: Record) -> None:
        """Emit a result or an event: standard output."""

    async def progress(self, record: Record) -> None:
        """Emit progress: an event with ``--json``, a bar otherwise."""

    async def note(self, text: str) -> None:
        """Emit a sentence for people: standard error."""

    async def data(self, data: bytes) -> None:
        """Emit bytes as they are: standard output."""


@contextlib.asynccontextmanager
async def latest_progress(reporter: Reporter) -> AsyncIterator[Callable[[Record], None]]:
    """Yield a function that reports progress without waiting; what comes faster than it is shown is skipped."""
    send, receive = trio.open_memory_channel[Record](1)

    def post(record: Record) -> None:
        with contextlib.suppress(trio.WouldBlock):
            send.send_nowait(record)

    async def pass_on() -> None:
        async for record in receive:
            await reporter.progress(record)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on)
        yield post
        send.close()
