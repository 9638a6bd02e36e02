"""``offer``, ``files``, ``get`` and ``retract``."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from poolnet import (
    DownloadProgress,
    FileId,
    MessageRetracted,
    OfferInfo,
    OutputExists,
    PoolNet,
    SourceUnavailable,
    UnknownFile,
    Unreachable,
    encode_id,
    short_id,
)
from poolnet_cli.command import Call
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import complete_record, event_record, file_record, progress_record
from poolnet_cli.reporter import Record, Reporter, latest_progress
from poolnet_cli.session import PoolUse

#: Once linked, how long a pool may take to tell a newcomer of a file before it counts as unknown.
CATCH_UP_S: Final = 5.0
_FIND_POLL_S: Final = 0.1


def check_source(path: str) -> None:
    """Raise SourceUnavailable unless `path` is a file that can be read: before anything is joined or hashed."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise SourceUnavailable(f"{path} is a directory; offer the files in it")
        if not stat.S_ISREG(mode):
            raise SourceUnavailable(f"{path} is not a regular file; only those can be offered")
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise SourceUnavailable(f"{path} cannot be offered: {exc.strerror}") from exc


def check_output(out: str) -> None:
    """Raise OutputExists if `out` is there and not a directory to put files in."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise OutputExists(f"{out} exists, and poolnet never overwrites; choose another path with --out")


async def offer(call: Call) -> None:
    """Hash and offer files. Params: pool, paths.

    Where the pool is joined already, that process goes on seeding. Otherwise this stays and seeds until interrupted.
    """
    for path in call.params["paths"]:
        await trio.to_thread.run_sync(check_source, path)
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.use_pool(info) as use:
        for path in call.params["paths"]:
            item = await hash_and_offer(use.net, path, call.reporter)
            await call.reporter.record({"file_id": encode_id(item.file_id), "name": item.name, "size": item.size_bytes})
        if not use.is_shared:
            await call.reporter.note("offered for as long as this runs; Ctrl-C ends it, and joining again resumes it")
            await trio.sleep_forever()


async def hash_and_offer(net: PoolNet, path: str, reporter: Reporter) -> OfferInfo:
    """Hash and offer one file, with progress.

    Raises:
        SourceUnavailable: it cannot be read, or changed meanwhile.
    """
    async with latest_progress(reporter) as post:
        return await net.files.offer(Path(path), on_progress=_hashing_progress(Path(path).name, post))


def _hashing_progress(name: str, post: Callable[[Record], None]) -> Callable[[int, int], None]:
    return lambda done, size: post({"name": f"hashing {name}", "bytes": done, "size": size})


async def files(call: Call) -> None:
    """List what is offered. Params: pool."""
    info = call.session.node.find_pool(call.params["pool"])
    offers = await call.session.node.offers(info)
    for item in offers:
        await call.reporter.record(file_record(item))
    if not offers:
        await call.reporter.note("nothing is offered")


async def get(call: Call) -> None:
    """Fetch a file. Params: pool, file (a name or the beginning of an id), out (a path), timeout_s.

    `timeout_s` bounds the time until something of the file has come; from then on only the swarm's own patience counts.

    Raises:
        UnknownFile: nobody offers it. Unreachable: nobody was reached, or nobody who has it, in time.
        OutputExists: the target is there.
    """
    await trio.to_thread.run_sync(check_output, call.params["out"])
    info = call.session.node.find_pool(call.params["pool"])
    give_up_at = trio.current_time() + call.params["timeout_s"]
    async with call.session.use_pool(info) as use:
        async with told_if_slow(call.reporter, "waiting until another member is there"):
            item = await _find_offer(use, call.params["file"], give_up_at)
        path = await fetch_file(use.net, item, Path(call.params["out"]), give_up_at, call.reporter)
        await call.reporter.record(complete_record(item.file_id, str(path)))


async def _find_offer(use: PoolUse, text: str, give_up_at: float) -> OfferInfo:
    """Return the offer that `text` names, waiting for the pool to tell of it if this device has just entered."""
    if use.is_shared:
        return use.net.files.find(text)
    try:
        return use.net.files.find(text)
    except UnknownFile:
        await use.net.wait_linked(max(0.0, give_up_at - trio.current_time()))
    unknown_at = min(give_up_at, trio.current_time() + CATCH_UP_S)
    while True:
        try:
            return use.net.files.find(text)
        except UnknownFile:
            if trio.current_time() >= unknown_at:
                raise
        await trio.sleep(_FIND_POLL_S)


async def fetch_file(net: PoolNet, item: OfferInfo, out: Path, give_up_at: float, reporter: Reporter) -> Path:
    """Download a file with progress; give up if nothing of it has come at `give_up_at`.

    Raises:
        Unreachable: nothing came in time.
    """
    with trio.CancelScope(deadline=give_up_at) as patience:
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_progress, net, item, patience, reporter)
            path = await net.files.download(item.file_id, out)
            nursery.cancel_scope.cancel()
        return path
    raise Unreachable(f"nobody who has {item.name} was reached in time; try again when one of them is there")


async def _watch_progress(
    net: PoolNet,
    item: OfferInfo,
    patience: trio.CancelScope,
    reporter: Reporter,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    already: int | None = None
    async with net.subscribe() as events:
        task_status.started()
        async for event in events:
            if not isinstance(event, DownloadProgress) or event.file_id != item.file_id:
                continue
            already = event.done_bytes if already is None else already
            if event.done_bytes > already or event.rate_bytes_per_s > 0:
                patience.deadline = float("inf")
            await reporter.progress({**progress_record(event), "name": item.name})


async def retract(call: Call) -> None:
    """Withdraw an offer of this device, or take a message back. Params: pool, file, message (one is None), timeout_s.

    Entering the pool for it, this waits until a neighbour knows; if nobody is there, others hear of it later.
    """
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.use_pool(info) as use:
        if call.params["message"] is not None:
            await _retract_message(call, use)
        else:
            await _retract_offer(call, use)


async def _retract_message(call: Call, use: PoolUse) -> None:
    net = use.net
    msg_id = await net.history.find(call.params["message"])
    await net.retract_message(msg_id)
    own_name = net.name_of(net.node_id)
    await call.reporter.record(event_record(MessageRetracted(msg_id=msg_id, node=net.node_id, name=own_name)))
    await _tell_retracted(call, use, f"the message {short_id(msg_id)} is taken back; its text is deleted here")


async def _retract_offer(call: Call, use: PoolUse) -> None:
    item = use.net.files.find(call.params["file"])
    is_own = use.net.node_id in item.nodes
    await use.net.files.retract(item.file_id)
    await call.reporter.record(_retracted(item.file_id))
    if is_own:
        await _tell_retracted(call, use, f"{item.name} is withdrawn; the file itself stays")
    else:
        await call.reporter.note(
            f"this device no longer gives {item.name} to others; somebody else's offer of it stays"
        )


async def _tell_retracted(call: Call, use: PoolUse, what: str) -> None:
    if use.is_shared or await _is_told(use.net, call.params["timeout_s"]):
        await call.reporter.note(what)
    else:
        await call.reporter.note(f"{what}; nobody is there now, others will hear of it when they meet this device")


async def _is_told(net: PoolNet, timeout_s: float) -> bool:
    """Wait until a neighbour knows what was sent; return False if none is there in time."""
    try:
        await net.wait_linked(timeout_s)
        await net.delivered(timeout_s)
    except Unreachable:
        return False
    return True


def _retracted(file_id: FileId) -> Record:
    return {"event": "retracted", "file_id": encode_id(file_id)}
