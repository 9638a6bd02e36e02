"""Two devices that are linked, and all that they do with files: whole file managers, whose homes are on one disk.

What the pool was told is lost with the process, as if its history had been on another device: who offers something says
so again, as after any start.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from file_overlay import Overlay, files_of, look, until

from faulty_disk.subject import Step, Subject, each_part_may_be
from poolnet.errors import DiskFull, OutputExists, StoreError, UnknownFile
from poolnet.events import DownloadComplete, DownloadFailed, DownloadPaused
from poolnet.file_manager import FileManager, OfferInfo
from poolnet.limits import CHUNK_SIZE
from poolnet.storage.durable import make_private_directory
from poolnet.storage.files import sync_name
from poolnet.testing.chunk_links import FileNode

_SIZES: Final = {
    "letter": CHUNK_SIZE + 100,
    "book": 2 * CHUNK_SIZE + 1,
    "trip/a/1": CHUNK_SIZE,
    "trip/a/2": 3000,
    "trip/b": CHUNK_SIZE // 2,
    "trip/empty": 0,
    "cat.png": 70_000,
    "talk": 100_000,
}
_TARGETS: Final = ("letter", "book", "trip", "parts/trip", "cat.png")
_WITHIN_S: Final = 300.0


def _content(name: str) -> bytes:
    return random.Random(name).randbytes(_SIZES[name])


def _is_whole(target: Path, name: str) -> bool:
    if target.is_file():
        return target.read_bytes() == _content(name)
    expected = {path: _content(f"trip/{path}") for path in ("a/1", "a/2", "b", "empty")}
    if name == "parts/trip":
        expected = {path: content for path, content in expected.items() if path.startswith("a/")}
    return look(target) == expected


@attrs.frozen
class _World:
    """Who offers, who takes, and what there is to offer: it lies beside the disk that fails."""

    giver: FileNode
    taker: FileNode
    sources: Path
    out: Path

    def find(self, name: str) -> OfferInfo:
        return files_of(self.taker).find(name)

    async def offer(self, name: str, call: Callable[[FileManager, Path], Awaitable[Any]]) -> None:
        """Offer something; once more does no harm."""
        await call(files_of(self.giver), self.sources / name)

    async def fetch(self, name: str, directory: str = "", *, only: Sequence[str] = ()) -> None:
        out = self.out / directory
        try:
            await files_of(self.taker).download(self.find(name).file_id, out, only=only)
        except OutputExists:  # it was complete when the process ended
            sync_name(out / name)

    async def fetch_in_background(self, name: str) -> None:
        """Ask for a download, and see it through: what the disk says comes as an event then."""
        taker = files_of(self.taker)
        async with taker.subscribe() as events:
            try:
                await taker.start_download(self.find(name).file_id, self.out)
            except OutputExists:  # as above
                sync_name(self.out / name)
                return
            with trio.fail_after(_WITHIN_S):
                async for event in events:
                    if isinstance(event, DownloadComplete):
                        return
                    if isinstance(event, DownloadPaused | DownloadFailed):
                        raise (DiskFull if event.code == DiskFull.code else StoreError)(event.reason)

    async def save_picture(self) -> None:
        """Save a copy of the picture that is fetched by itself, which goes on until the disk takes it."""
        taker, file_id = files_of(self.taker), self.find("cat.png").file_id
        try:
            await until(lambda: taker._files.media.path_of(file_id) is not None, _WITHIN_S)
        except trio.TooSlowError as exc:
            raise DiskFull("the picture does not come") from exc
        try:
            await taker.save_as(file_id, self.out / "cat.png")
        except OutputExists:
            sync_name(self.out / "cat.png")

    async def publish(self) -> None:
        async with files_of(self.giver).open_stream("talk") as stream:
            await stream.send(_content("talk"))

    async def retract(self) -> None:
        try:
            await files_of(self.giver).retract(files_of(self.giver).find("letter").file_id)
        except UnknownFile:
            assert "letter" not in self.offered()

    async def give_up(self) -> None:
        """Ask for a download that cannot end, and give it up."""
        taker = files_of(self.taker)
        file_id = taker.find("talk", kind="file").file_id
        if not any(info.file_id == file_id for info in taker.downloads()):
            await taker.start_download(file_id, self.out)
        with suppress(UnknownFile):  # it was cancelled, and that could not be listed
            await taker.cancel(file_id)
        await taker.forget_downloads()

    def offered(self) -> list[str]:
        return sorted(info.name for info in files_of(self.giver).offers() if info.kind != "stream")


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[_World]:
    pool, out = Overlay(directory), directory / "out"
    for path in (pool.home(1), pool.home(2), out / "parts"):
        make_private_directory(path)
    sources = directory.parent / "sources"
    for name in _SIZES:
        if not (source := sources / name).exists():
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_bytes(_content(name))
    async with (
        pool.device(1, is_settled=True) as giver,
        pool.device(2, is_settled=True) as taker,
        pool.linked(giver, taker),
    ):
        yield _World(giver, taker, sources, out)


async def _observe(world: _World) -> Any:
    """What is listed comes to its end; what is at its place is whole, and what is offered can be had."""
    taker = files_of(world.taker)
    await until(lambda: all(info.state not in ("queued", "running") for info in taker.downloads()), _WITHIN_S)
    targets = []
    for name in _TARGETS:
        target = world.out / name
        if target.exists():
            assert _is_whole(target, name), f"{name} is not whole"
            targets.append(name)
    return [world.offered(), targets]


def _may_be(seen: Any, states: Sequence[Any]) -> bool:
    return each_part_may_be(seen, states)


FILES: Final = Subject(
    open=_open,
    steps=[
        Step("offer", lambda world: world.offer("letter", lambda files, path: files.offer(path))),
        Step("fetch", lambda world: world.fetch("letter")),
        Step("offer a folder", lambda world: world.offer("trip", lambda files, path: files.offer_folder(path))),
        Step("fetch a part of it", lambda world: world.fetch("trip", "parts", only=["a"])),
        Step("fetch all of it", lambda world: world.fetch("trip")),
        Step("offer a book", lambda world: world.offer("book", lambda files, path: files.offer(path))),
        Step("fetch in the background", lambda world: world.fetch_in_background("book")),
        Step("offer a picture", lambda world: world.offer("cat.png", lambda files, path: files.offer_media(path))),
        Step("save a copy of it", lambda world: world.save_picture()),
        Step("publish a stream", lambda world: world.publish()),
        Step("give up", lambda world: world.give_up()),
        Step("retract", lambda world: world.retract()),
    ],
    observe=_observe,
    belongs=[
        "device[12]/manager/offers.json",
        "device[12]/manager/partials.json",
        "device[12]/manager/downloads.json",
        "device[12]/manager/queue.json",
        "device[12]/manager/trees/*.tree",
        "device[12]/manager/folders/*.list",
        "device[12]/manager/folders/*.stamps",
        "device[12]/manager/media/[!.]*.png",
        "device1/manager/streams/[!.]*",
        "out/letter",
        "out/book",
        "out/trip/*",
        "out/parts/trip/*",
        "out/cat.png",
        "out/*.part.damaged",  # it had another size than its download: whoever's it is, it stays
    ],
    unfinished=[
        "device[12]/manager/trees/*.journal",
        "device[12]/manager/trees/*.spill",
        "device2/manager/folders/*.part",
        "device2/manager/media/*.part",
        "device2/manager/media/*.part.damaged",
        "out/*.part",
        "out/*.part/*",
        "out/.poolnet-*.part",
    ],
    may_be=_may_be,
)
