"""``get`` and ``save``: files of others, to where they are wanted."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from poolnet import (
    DownloadProgress,
    EventsDropped,
    FileId,
    LocalError,
    OfferInfo,
    OutputExists,
    PoolEvent,
    PoolNet,
    PoolnetError,
    Unreachable,
    encode_id,
)
from poolnet.limits import CHUNK_SIZE
from poolnet_cli.command import Call
from poolnet_cli.commands.finding import find_offer, several_kinds, wait_caught_up, wait_found
from poolnet_cli.outcome import FAILED, UNREACHABLE, CommandFailed, Outcome, failure_of
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import complete_record, download_record, progress_record
from poolnet_cli.reporter import Reporter
from poolnet_cli.session import PoolUse

#: How long after the last piece, at the rate of the last ones, the next may be awaited before the rate sinks.
_PIECES_AWAITED: Final = 2
#: What gets nothing for so long has no rate.
_STALLED_AFTER_S: Final = 4.0
_LOOK_INTERVAL_S: Final = 1.0
#: Files that were not fetched, of which the last sentence tells.
_NAMED_IN_ERRORS: Final = 3
#: States of what need not be fetched: it is here.
_HERE: Final = frozenset({"complete", "seeding"})


@attrs.frozen(kw_only=True)
class Wish:
    """What is to be fetched: where to, how urgently, and of a folder which part (all of it if empty)."""

    out: Path
    priority: int = 0
    only: tuple[str, ...] = ()


def check_output(out: str) -> None:
    """Raise OutputExists if `out` is there and not a directory to put files in."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise OutputExists(f"{out} is there already; choose another place for the download")


async def get(call: Call) -> None:
    """Fetch files and folders, several at once.

    Params: pool, files (names or beginnings of ids), all (whatever is not here), kind (or None), out (a path), only,
    priority, background, timeout_s. `timeout_s` bounds the time in which nothing comes of any file; one of which
    something has come takes as long as it takes.

    Raises:
        UnknownFile: nobody offers it. Unreachable: nobody was reached, or nobody who has it, in time.
        OutputExists: the target is there. LocalError: it is a stream.
        CommandFailed: of several files some were not fetched.
    """
    params = call.params
    await trio.to_thread.run_sync(check_output, params["out"])
    info = call.session.node.find_pool(params["pool"])
    wish = Wish(out=Path(params["out"]), priority=params["priority"], only=tuple(params["only"]))
    give_up_at = trio.current_time() + params["timeout_s"]
    async with call.session.use_pool(info) as use:
        async with told_if_slow(call.reporter, "waiting until another member is there"):
            items = await _wanted(use, call, give_up_at)
        if not items:
            await call.reporter.note("everything that is offered is here")
        elif params["background"]:
            await _start(call, use, items, wish)
        else:
            await _Fetching(use.net, call.reporter, params["timeout_s"], give_up_at).fetch(items, wish)


async def _wanted(use: PoolUse, call: Call, give_up_at: float) -> list[OfferInfo]:
    """Return the files that are meant, each once."""
    if call.params["all"]:
        await wait_caught_up(use, give_up_at)
        return await _lacking(use.net, call)
    items: dict[FileId, OfferInfo] = {}
    for text in call.params["files"]:
        item = await wait_found(use, partial(find_offer, use.net, text, call.params["kind"]), give_up_at)
        if item.kind == "stream":
            raise LocalError(f"{item.name} is a stream that has not ended; poolnet watch reads it")
        items[item.file_id] = item
    return list(items.values())


async def _lacking(net: PoolNet, call: Call) -> list[OfferInfo]:
    """Return all that can be fetched and is not here; of what is offered as several kinds, say that it is left out."""
    same: dict[FileId, list[OfferInfo]] = {}
    for item in net.files.offers():
        if item.kind != "stream" and call.params["kind"] in (None, item.kind):
            same.setdefault(item.file_id, []).append(item)
    for items in same.values():
        if len(items) > 1:
            await call.reporter.note(f"left out: {several_kinds(net, items)}")
    return [items[0] for items in same.values() if len(items) == 1 and items[0].state not in _HERE]


async def _start(call: Call, use: PoolUse, items: Sequence[OfferInfo], wish: Wish) -> None:
    """Fetch in the background, and say where the files will be."""
    for item in items:
        started = await use.net.files.start_download(
            item.file_id, wish.out, priority=wish.priority, only=wish.only, kind=item.kind
        )
        await call.reporter.record(download_record(started))
    if not use.is_shared:
        await call.reporter.note("no join runs in this home; they are fetched while one does")


@attrs.define
class _Fetch:
    """One file on its way."""

    item: OfferInfo
    scope: trio.CancelScope
    begun_with: int | None = None  # bytes that were here before
    latest: DownloadProgress | None = None
    news_at: float = 0.0
    shown_rate: float = 0.0


class _Fetching:
    """Several downloads at once, their progress, and patience with them.

    Args:
        timeout_s: how long nothing may come, of any of them, before those that have not begun are given up.
        give_up_at: when they are if nothing comes at all.
    """

    def __init__(self, net: PoolNet, reporter: Reporter, timeout_s: float, give_up_at: float) -> None:
        self._net = net
        self._reporter = reporter
        self._timeout_s = timeout_s
        self._give_up_at = give_up_at
        self._fetches: dict[FileId, _Fetch] = {}
        self._failures: list[tuple[OfferInfo, Outcome]] = []

    async def fetch(self, items: Sequence[OfferInfo], wish: Wish) -> None:
        """Fetch them; if it is one, what goes wrong is raised as it is.

        Raises:
            CommandFailed: some of several were not fetched; the others are here.
        """
        for item in items:
            self._fetches[item.file_id] = _Fetch(item, trio.CancelScope(deadline=self._give_up_at))
        async with self._watching():
            if len(items) == 1:
                await self._fetch_one(items[0], wish)
                return
            for item in items:
                await self._reporter.progress(self._record(item, _nothing_yet(item)))
            async with trio.open_nursery() as nursery:
                for item in items:
                    nursery.start_soon(self._try_one, item, wish)
        if self._failures:
            raise CommandFailed(_summary(self._failures, len(items)))

    async def _try_one(self, item: OfferInfo, wish: Wish) -> None:
        """Fetch one of several; what goes wrong is told, and the others go on."""
        failure = await failure_of(lambda: self._fetch_one(item, wish))
        if failure is None:
            return
        self._failures.append((item, failure))
        why = {"code": failure.code, "reason": failure.message}
        await self._reporter.record({"event": "download_failed", "file_id": encode_id(item.file_id), **why})
        await self._reporter.note(f"{item.name} was not fetched: {failure.message}")

    async def _fetch_one(self, item: OfferInfo, wish: Wish) -> None:
        fetch = self._fetches[item.file_id]
        try:
            with fetch.scope:
                path = await self._net.files.download(
                    item.file_id, wish.out, priority=wish.priority, only=wish.only, kind=item.kind
                )
        finally:
            del self._fetches[item.file_id]
        if fetch.scope.cancelled_caught:
            raise Unreachable(f"nobody who has {item.name} was reached in time; try again when one of them is there")
        await self._reporter.record(complete_record(item.file_id, str(path)))

    # --- progress -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Report progress during the block. What ends it is raised as it is."""
        failure: PoolnetError | OSError | CommandFailed | None = None
        async with self._net.subscribe() as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, events)
            nursery.start_soon(self._watch_stalled)
            try:
                yield
            except (
                PoolnetError,
                OSError,
                CommandFailed,
            ) as exc:  # raised below, outside of the nursery, which would wrap it
                failure = exc
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, events: AsyncIterator[PoolEvent | EventsDropped]) -> None:
        async for event in events:
            if isinstance(event, DownloadProgress) and (fetch := self._fetches.get(event.file_id)) is not None:
                self._take(fetch, event)
                await self._reporter.progress(self._record(fetch.item, event))

    def _take(self, fetch: _Fetch, event: DownloadProgress) -> None:
        """Take note of progress; while anything comes, the others may wait."""
        if fetch.begun_with is None:
            fetch.begun_with = event.done_bytes
        if event.done_bytes == fetch.begun_with and event.rate_bytes_per_s <= 0:
            return
        fetch.latest, fetch.news_at, fetch.shown_rate = event, trio.current_time(), event.rate_bytes_per_s
        fetch.scope.deadline = float("inf")
        for other in self._fetches.values():
            if other.latest is None:
                other.scope.deadline = max(other.scope.deadline, trio.current_time() + self._timeout_s)

    async def _watch_stalled(self) -> None:
        """Let the rate of what gets nothing any more sink; no event tells of that."""
        while True:
            await trio.sleep(_LOOK_INTERVAL_S)
            for fetch in list(self._fetches.values()):
                if fetch.latest is not None and fetch.shown_rate:
                    rate = _rate_after_silence(fetch.latest.rate_bytes_per_s, trio.current_time() - fetch.news_at)
                    if rate != fetch.shown_rate:
                        fetch.shown_rate = rate
                        sunk = attrs.evolve(fetch.latest, rate_bytes_per_s=rate)
                        await self._reporter.progress(self._record(fetch.item, sunk))

    def _record(self, item: OfferInfo, event: DownloadProgress) -> dict[str, object]:
        return {**progress_record(event), "name": item.name}


def _rate_after_silence(rate: float, silent_s: float) -> float:
    """Return the rate to show when nothing has come for so long."""
    if rate <= 0 or silent_s > _STALLED_AFTER_S:
        return 0.0
    late_s = silent_s - max(_LOOK_INTERVAL_S, _PIECES_AWAITED * CHUNK_SIZE / rate)
    return rate if late_s < 0 else rate / 2 ** (int(late_s / _LOOK_INTERVAL_S) + 1)


def _nothing_yet(item: OfferInfo) -> DownloadProgress:
    return DownloadProgress(
        file_id=item.file_id, done_bytes=item.done_bytes, size_bytes=item.size_bytes, rate_bytes_per_s=0.0
    )


def _summary(failures: Sequence[tuple[OfferInfo, Outcome]], count: int) -> Outcome:
    """Return how a command ends of whose `count` files some were not fetched."""
    outcomes = [outcome for _, outcome in failures]
    named = ", ".join(item.name for item, _ in failures[:_NAMED_IN_ERRORS])
    others = f" and {len(failures) - _NAMED_IN_ERRORS} more" if len(failures) > _NAMED_IN_ERRORS else ""
    is_unreachable = all(outcome.exit_code == UNREACHABLE for outcome in outcomes)
    return Outcome(
        exit_code=UNREACHABLE if is_unreachable else FAILED,
        code=outcomes[0].code,
        message=f"{len(failures)} of {count} files were not fetched: {named}{others}; see above why",
    )


async def save(call: Call) -> None:
    """Copy a picture that is here. Params: pool, file (a name or the beginning of an id), out (a path)."""
    info = call.session.node.find_pool(call.params["pool"])
    await trio.to_thread.run_sync(check_output, call.params["out"])
    async with call.session.open_files(info) as files:
        item = files.find(call.params["file"])
        path = await files.save_as(item.file_id, Path(call.params["out"]))
        await call.reporter.record({"event": "saved", "file_id": encode_id(item.file_id), "path": str(path)})
