"""Pictures that are shown to everyone: each device fetches them as they are offered, and keeps the newest.

What is worth having is decided by the offers alone: the newest pictures that fit into the cache together. Of these,
what is not here is fetched, a few at a time, those first that had no turn yet; one whose holders are away gives way to
others that wait after `_TURN_S`, and keeps what it has. When one is complete, the oldest make room. So the cache is
never larger than it may be, but for what is being fetched. A picture that nobody offers any more is removed.

This device's own pictures, and those that its user downloaded, are where they are; they are not copied.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from poolnet.errors import DiskFull, LocalError, PoolnetError, SourceUnavailable, StoreError, UnknownFile
from poolnet.events import ErrorReported, MediaReceived, PoolEvent
from poolnet.files.offer_book import NodeOffer
from poolnet.files.preview import make_preview
from poolnet.ids import DeviceId, FileId, short_id
from poolnet.limits import MAX_MEDIA_SIZE, MIB
from poolnet.service import open_service_nursery
from poolnet.storage.file_table import LocalFile
from poolnet.storage.files import download_target, run_on_disk, whole_path
from poolnet.storage.held_files import remove_left_over
from poolnet.storage.media_cache import MediaCache, copy_verified
from poolnet.wire.bodies import MediaBody

logger = logging.getLogger(__name__)

#: Pictures fetched at once: enough that a slow or absent holder delays few others.
_FETCHED_AT_ONCE: Final = 4
#: How long a picture may take until others that wait have a turn.
_TURN_S: Final = 60.0
#: How long to leave the disk alone after it failed, and a picture after a turn: whatever is wrong, there is no flood.
_RETRY_S: Final = 30.0

#: Fetches a file to a path that is free, and serves it from then on; waits as long as no holder is there.
Fetch = Callable[[FileId, Path], Awaitable[Path]]
#: Serves a file no more, and drops what was fetched of it; nothing if there is nothing.
Forget = Callable[[FileId], Awaitable[None]]


@attrs.frozen(kw_only=True)
class MediaStatistics:
    """Pictures here and their bytes; pictures that are being fetched; how many were fetched since opening."""

    kept: int
    kept_bytes: int
    fetching: int
    fetched: int


class Pictures(Protocol):
    """What is shown."""

    def pictures(self) -> Iterable[tuple[FileId, NodeOffer]]:
        """Return all pictures that somebody shows, with the newest offer of each."""

    def picture(self, file_id: FileId) -> NodeOffer | None:
        """Return the newest offer of a picture; None if nobody shows it."""


@attrs.frozen(kw_only=True)
class _Wanted:
    """A picture that is to be here."""

    file_id: FileId
    offer: NodeOffer


class Media:
    """The pictures of one pool. `run` in a task; `settle` when all stored offers were told.

    Args:
        cache: where they are kept; of size 0, nothing is fetched.
        shown: what is shown.
        fetch: see `Fetch`; must not fetch more than `MAX_MEDIA_SIZE`, whatever offers claim. Cancelled often: then it
            keeps what it has for the next time. Raises what `FileManager.download` does.
        forget: see `Forget`. Raises StoreError.
        here: returns where this device has a complete file that it serves, in the cache or elsewhere, or None.
        publish: called with events.
        claimed_sizes: returns the sizes that `fetch` may take a picture to have, besides that of its newest offer.
        name_of: a node's display name.
    """

    def __init__(
        self,
        cache: MediaCache,
        shown: Pictures,
        *,
        fetch: Fetch,
        forget: Forget,
        here: Callable[[FileId], Path | None],
        publish: Callable[[PoolEvent], None],
        claimed_sizes: Callable[[FileId], Sequence[int]] = lambda _file_id: (),
        name_of: Callable[[DeviceId], str] = short_id,
    ) -> None:
        self._cache = cache
        self._shown = shown
        self._fetch = fetch
        self._forget = forget
        self._here = here
        self._publish = publish
        self._claimed_sizes = claimed_sizes
        self._name_of = name_of
        self._begun: set[FileId] = set()  # of these there may be a part
        self._fetching: dict[FileId, trio.CancelScope] = {}
        self._damaged: set[FileId] = set()
        self._sizes: dict[FileId, int] = {}  # as they turned out to be; offers may lie
        self._last_turn: dict[FileId, float] = {}
        self._rests_until = -math.inf
        self._reported: str | None = None
        self._is_settled = False
        self._fetched = 0
        self._news = trio.Event()

    # --- for the pool -------------------------------------------------------------------------------------------

    async def prepare(self, file: LocalFile) -> MediaBody:
        """Return what tells everyone of a picture of this device: its id, its size, and a preview if there can be one.

        Args:
            file: as it was hashed.

        Raises:
            LocalError: it is empty, or larger than `MAX_MEDIA_SIZE`.
        """
        if not 1 <= file.size_bytes <= MAX_MEDIA_SIZE:
            raise LocalError(f"a picture has at most {MAX_MEDIA_SIZE // MIB} MiB, and is not empty; offer it as a file")
        preview = await run_on_disk(make_preview, file.path)
        return MediaBody(
            file_id=file.file_id,
            name=file.name,
            size=file.size_bytes,
            width=preview.width,
            height=preview.height,
            preview=preview.jpeg,
        )

    def offered(self, file_id: FileId, *, is_first: bool) -> None:
        """Take note that another device shows a picture, `is_first` if no other does; also for stored offers."""
        offer = self._shown.picture(file_id)
        if offer is None:
            return
        self._cache.date(file_id, offer.hlc)
        if is_first and self._is_settled and (path := self._path_outside(file_id)) is not None:
            self._tell(file_id, offer, path)
        self._news.set()

    def withdrawn(self, file_id: FileId) -> None:
        """Take note that nobody offers a picture any more: it goes, unless its user has it elsewhere."""
        if file_id in self._fetching:
            self._fetching[file_id].cancel()
        self._news.set()

    def give_way(self, file_id: FileId) -> None:
        """Let go of a picture that is being fetched: its user wants that file, as a picture or as what else it is."""
        if file_id in self._fetching:
            self._fetching[file_id].cancel()

    def served(self, file_id: FileId) -> None:
        """Take note that a file is served from here now: if that is not the picture in the cache, that one goes."""
        if file_id in self._cache:
            self._news.set()

    def settle(self) -> None:
        """Take note that all stored offers were told: what is not among them goes, and what is missing is fetched."""
        self._is_settled = True
        self._news.set()

    def lost(self, file_id: FileId) -> None:
        """Take note that a picture in the cache is not what it was, or gone: it is removed, and fetched again."""
        if file_id in self._cache:
            self._damaged.add(file_id)
            self._news.set()

    # --- for applications ---------------------------------------------------------------------------------------

    def path_of(self, file_id: FileId) -> Path | None:
        """Return where a picture is on this device, in the cache or elsewhere; None if it is not here."""
        return self._path_outside(file_id) or self._cache.path_of(file_id)

    async def save_as(self, file_id: FileId, out: Path) -> Path:
        """Copy a picture that is here, and return where the copy is; it is whole and genuine.

        Args:
            out: a directory, where it gets its own name made safe, or the path of the file to be made.

        Raises:
            UnknownFile: it is not here (any more).
            SourceUnavailable: what is here is damaged; if it was in the cache it is fetched again.
            OutputExists: something is there; it is never overwritten.
            StoreError: it cannot be written (`DiskFull` if that is why).
        """
        source = self.path_of(file_id)
        if source is None:
            raise UnknownFile("that picture is not here, or not any more; download it")
        offer = self._shown.picture(file_id)
        target = await run_on_disk(_place_of_copy, out, source.name if offer is None else offer.name)
        try:
            await run_on_disk(copy_verified, source, file_id, target)
        except SourceUnavailable:
            self.lost(file_id)
            raise
        return target

    def statistics(self) -> MediaStatistics:
        """Return sizes and counts; costs nothing."""
        return MediaStatistics(
            kept=sum(1 for _ in self._cache),
            kept_bytes=self._cache.total_bytes,
            fetching=len(self._fetching),
            fetched=self._fetched,
        )

    # --- fetching and making room -------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch and make room until cancelled.

        Raises:
            StoreError: the directory of the cache cannot be made or read.
        """
        self._begun |= await run_on_disk(self._cache.load)
        for file_id, offer in self._shown.pictures():
            self._cache.date(file_id, offer.hlc)
        task_status.started()
        async with open_service_nursery() as nursery:
            while True:
                self._news = trio.Event()
                wake_at = self._rests_until
                if self._may_work():
                    await self._tidy_up()
                if self._may_work():
                    wake_at = self._give_turns(nursery)
                with trio.move_on_at(wake_at if wake_at > trio.current_time() else math.inf):
                    await self._news.wait()

    def _may_work(self) -> bool:
        return self._is_settled and trio.current_time() >= self._rests_until

    def _wanted(self) -> list[_Wanted]:
        """Return the newest pictures that fit into the cache, of those that are not elsewhere on this device."""
        wanted, room = [], self._cache.size_bytes
        for file_id, offer in sorted(self._shown.pictures(), key=lambda shown: (shown[1].hlc, shown[0]), reverse=True):
            least, most = self._size_between(file_id, offer)
            if least > self._cache.size_bytes or self._path_outside(file_id) is not None:
                continue
            room -= min(most, self._cache.size_bytes)
            if room < 0:
                break
            wanted.append(_Wanted(file_id=file_id, offer=offer))
        return wanted

    def _size_between(self, file_id: FileId, offer: NodeOffer) -> tuple[int, int]:
        """Return what size a picture has at least and at most; of those not fetched yet offers may lie."""
        known = self._sizes.get(file_id)
        sizes = [offer.size_bytes, *self._claimed_sizes(file_id)] if known is None else [known]
        return min(sizes), max(sizes)

    def _give_turns(self, nursery: trio.Nursery) -> float:
        """Fetch what is wanted and not here, as many at once as there may be; return when to look again at the latest.

        While more are waiting, those that had their turn give way.
        """
        now = trio.current_time()
        absent = [wanted for wanted in self._wanted() if wanted.file_id not in self._cache]
        waiting = [wanted for wanted in absent if wanted.file_id not in self._fetching]
        waiting.sort(key=self._due)  # among equals, the newest first
        ready = [wanted for wanted in waiting if self._due(wanted) <= now]
        wake_at = min(map(self._due, waiting[len(ready) :]), default=math.inf)
        room = _FETCHED_AT_ONCE - len(self._fetching)
        for wanted in ready[:room]:
            self._begin_turn(nursery, wanted)
        if len(ready) <= room:
            return wake_at
        ends = {file_id: self._last_turn[file_id] + _TURN_S for file_id in self._fetching}
        for file_id, end in ends.items():
            if end <= now:
                self._fetching[file_id].cancel()
        return min(wake_at, *ends.values())

    def _due(self, wanted: _Wanted) -> float:
        """Return when a picture may have its next turn."""
        return self._last_turn.get(wanted.file_id, -math.inf) + _RETRY_S

    def _begin_turn(self, nursery: trio.Nursery, wanted: _Wanted) -> None:
        scope = self._fetching[wanted.file_id] = trio.CancelScope()
        self._begun.add(wanted.file_id)
        self._last_turn[wanted.file_id] = trio.current_time()
        nursery.start_soon(self._have_turn, wanted.file_id, wanted.offer, scope)

    async def _have_turn(self, file_id: FileId, offer: NodeOffer, scope: trio.CancelScope) -> None:
        try:
            path = self._here(file_id)  # complete since an earlier turn that ended just then
            if path is None:
                with scope:
                    path = await self._fetch(file_id, self._cache.place(file_id, offer.name))
            if path is not None:
                self._sizes[file_id] = await run_on_disk(self._cache.add, file_id, path, offer.hlc)
                self._received(file_id, path)
        except UnknownFile:
            pass  # withdrawn just then
        except PoolnetError as exc:
            self._failed(exc)
        finally:
            del self._fetching[file_id]
            self._news.set()

    def _received(self, file_id: FileId, path: Path) -> None:
        self._reported = None
        self._fetched += 1
        if file_id not in self._cache:
            return  # larger than it said, and than the cache
        self._begun.discard(file_id)
        offer = self._shown.picture(file_id)
        if offer is not None and file_id not in self._cache.surplus():
            self._tell(file_id, offer, path)

    async def _tidy_up(self) -> None:
        """Remove what has to go; whoever is being served from it is not any more."""
        for file_id in [file_id for file_id in self._last_turn if self._shown.picture(file_id) is None]:
            if file_id not in self._fetching:
                del self._last_turn[file_id]
                self._sizes.pop(file_id, None)
        try:
            for file_id in self._unwanted():
                if self._path_outside(file_id) is None:
                    await self._forget(file_id)
                await run_on_disk(self._cache.remove, file_id)
                self._begun.discard(file_id)
                self._damaged.discard(file_id)
        except StoreError as exc:
            self._failed(exc)

    def _unwanted(self) -> list[FileId]:
        unwanted = self._damaged.union(self._cache.surplus())
        unwanted.update(file_id for file_id in self._cache if not self._is_good(file_id))
        if self._begun:
            unwanted |= self._begun.difference(wanted.file_id for wanted in self._wanted())
        return [file_id for file_id in unwanted if file_id not in self._fetching]

    def _is_good(self, file_id: FileId) -> bool:
        """Return whether a picture in the cache is still offered, and served from there."""
        is_served = self._here(file_id) is not None and self._path_outside(file_id) is None
        return is_served and self._shown.picture(file_id) is not None

    # --- helpers ------------------------------------------------------------------------------------------------

    def _path_outside(self, file_id: FileId) -> Path | None:
        path = self._here(file_id)
        return None if path is None or path.parent == self._cache.directory else path

    def _tell(self, file_id: FileId, offer: NodeOffer, path: Path) -> None:
        self._publish(
            MediaReceived(
                file_id=file_id,
                file_name=offer.name,
                path=path,
                width=offer.width,
                height=offer.height,
                node=offer.node,
                name=self._name_of(offer.node),
            )
        )

    def _failed(self, error: PoolnetError) -> None:
        """Leave the disk alone for a while if it failed; tell once, until something works again.

        What is wrong with a picture alone delays that one: it has had its turn.
        """
        if not (
            isinstance(error, DiskFull) or (isinstance(error, StoreError) and isinstance(error.__cause__, OSError))
        ):
            logger.info("a picture cannot be fetched: %s", error.code)
            return
        self._rests_until = trio.current_time() + _RETRY_S
        logger.warning("a picture cannot be fetched or removed: %s", error.code)
        if error.code != self._reported:
            self._reported = error.code
            self._publish(ErrorReported(code=error.code, message=f"a picture: {error}"))


def _place_of_copy(out: Path, name: str) -> Path:
    """Return where a copy goes, as `download_target`; what earlier ones left there that were killed goes first."""
    whole = whole_path(out)
    remove_left_over(whole if whole.is_dir() else whole.parent)
    return download_target(out, name)
