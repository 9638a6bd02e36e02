"""Devices whose file managers share a pool and know how far they are from each other, along the links there are.

Time jumps, and what normally runs in threads runs at once (`jumping_clock`), so nothing here waits for real.
"""

import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import TypeVar

import trio
from file_pool import Pool

from poolnet.events import EventsDropped, PoolEvent
from poolnet.file_manager import FileManager
from poolnet.ids import DeviceId, MsgId
from poolnet.testing.chunk_links import FileNode, MemoryLink, Tamper, linked
from poolnet.wire.bodies import Body

T = TypeVar("T")


class Overlay(Pool):
    """A pool whose devices are linked as a test says, and are told of it."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.crashing: DeviceId | None = None  # what it sends is lost
        self._links: list[tuple[DeviceId, DeviceId]] = []

    @contextlib.asynccontextmanager
    async def linked(self, a: FileNode, b: FileNode, *, tamper: Tamper | None = None) -> AsyncIterator[MemoryLink]:
        """Link two devices for the block, or until `cut`; `tamper` changes what `a` sends."""
        async with linked(a, b, tamper=tamper) as link:
            self._links.append((a.node, b.node))
            self._changed()
            try:
                yield link
            finally:
                self._unlink(a, b)

    @contextlib.asynccontextmanager
    async def chain(self, *devices: FileNode) -> AsyncIterator[list[MemoryLink]]:
        """Link each device with the next; yields the ends of the earlier ones."""
        async with contextlib.AsyncExitStack() as stack:
            pairs = itertools.pairwise(devices)
            yield [await stack.enter_async_context(self.linked(a, b)) for a, b in pairs]

    def cut(self, a: FileNode, b: FileNode, link: MemoryLink) -> None:
        """Cut a link."""
        link.close()
        self._unlink(a, b)

    def publish(self, node: DeviceId, body: Body) -> MsgId:
        """Pass on what a device says."""
        return MsgId(bytes(32)) if node == self.crashing else super().publish(node, body)

    def hops_to(self, node: DeviceId, holders: Collection[DeviceId]) -> int | None:
        """Return how many links `node` is away from the nearest other device of `holders`."""
        reached, seen, hops = {node}, {node}, 0
        while reached:
            reached = {other for link in self._links for other in link if not reached.isdisjoint(link)} - seen
            seen |= reached
            hops += 1
            if not reached.isdisjoint(holders):
                return hops
        return None

    def _unlink(self, a: FileNode, b: FileNode) -> None:
        with contextlib.suppress(ValueError):
            self._links.remove((a.node, b.node))
            self._changed()

    def _changed(self) -> None:
        for files in self.managers.values():
            files.routes_changed()


class Heard:
    """All that a device tells from now on. Made by `hearing`."""

    def __init__(self) -> None:
        self.events: list[PoolEvent | EventsDropped] = []

    def all_of(self, kind: type[T]) -> list[T]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def first(self, kind: type[T], within_s: float = 60.0) -> T:
        """Return the first event of one kind, when it has come."""
        await until(lambda: bool(self.all_of(kind)), within_s)
        return self.all_of(kind)[0]


@contextlib.asynccontextmanager
async def hearing(device: FileNode) -> AsyncIterator[Heard]:
    """Note what a device tells, during the block."""
    heard = Heard()

    async def listen() -> None:
        async for event in events:
            heard.events.append(event)

    async with files_of(device).subscribe() as events, trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        yield heard
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until something is so.

    Raises:
        TooSlowError: it is not, after that time on trio's clock.
    """
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - of things that tell nobody
            await trio.sleep(0.01)


def files_of(device: FileNode) -> FileManager:
    """Return a device's files."""
    assert isinstance(device.files, FileManager)
    return device.files


def write_file(path: Path, size: int, seed: int = 1) -> Path:
    """Write a file of random bytes."""
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def look(root: Path) -> dict[str, bytes]:
    """Return what is in a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def are_equal(one: Path, other: Path) -> bool:
    """Return whether two files have the same content."""
    return one.read_bytes() == other.read_bytes()
