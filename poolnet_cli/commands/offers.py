"""``offer``, ``files`` and ``retract``: what this device gives to others, and what there is."""

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from poolnet import (
    FileId,
    MessageRetracted,
    OfferInfo,
    PoolNet,
    SourceUnavailable,
    Unreachable,
    encode_id,
    short_id,
)
from poolnet_cli.command import Call, Params
from poolnet_cli.pictures import HEAD_SIZE, is_picture
from poolnet_cli.records import event_record, file_record
from poolnet_cli.reporter import Record, Reporter, latest_progress
from poolnet_cli.session import PoolUse


@attrs.frozen(kw_only=True)
class OfferOptions:
    """How something is offered.

    Attributes:
        name: what others see; None for its own.
        media: as a picture that everyone fetches.
        exclude: of a folder, patterns of what is left out.
        hidden: of a folder, whether what begins with a dot is offered as well.
    """

    name: str | None = None
    media: bool = False
    exclude: tuple[str, ...] = ()
    hidden: bool = False

    @classmethod
    def of(cls, params: Params) -> "OfferOptions":
        """Return those that are among parameters."""
        return cls(
            name=params["name"], media=params["media"], exclude=tuple(params["exclude"]), hidden=params["hidden"]
        )


def check_source(path: str, options: OfferOptions = OfferOptions()) -> None:
    """Make sure, before anything is joined or hashed, that a path can be offered.

    Raises:
        SourceUnavailable: it is no file or folder that can be read, or the options are not for it.
    """
    if options.name is None:
        _check_name(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            if options.media:
                raise SourceUnavailable(f"{path} is a folder; offer it without --media, or offer the pictures in it")
            os.listdir(path)
            return
        if not stat.S_ISREG(mode):
            raise SourceUnavailable(f"{path} is neither a regular file nor a folder; only those can be offered")
        if options.exclude or options.hidden:
            raise SourceUnavailable(f"{path} is not a folder; --exclude and --hidden are for those")
        _check_content(path, as_picture=options.media)
    except OSError as exc:
        raise SourceUnavailable(f"{path} cannot be offered: {exc.strerror}") from exc


def _check_name(path: str) -> None:
    """Raise SourceUnavailable if the name of a file is nothing that others could see."""
    name = os.path.basename(path)
    if not name:
        raise SourceUnavailable(f"{path} has no name of its own; say by --name what others see")
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise SourceUnavailable(f"{path} has a name that is not UTF-8; say by --name what others see") from exc


def _check_content(path: str, *, as_picture: bool) -> None:
    """Make sure that a file is what it seems to be, by its first bytes.

    Raises:
        SourceUnavailable: it is not. OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(HEAD_SIZE)
    if head and not size:
        raise SourceUnavailable(
            f"{path} is made by the system as it is read, and has no size; copy it, or publish it by poolnet stream"
        )
    if as_picture and not is_picture(head):
        raise SourceUnavailable(f"{path} is no picture (JPEG, PNG, GIF, WebP and the like); offer it as a file")


def check_sources(paths: Sequence[str], options: OfferOptions) -> None:
    """Make sure that all paths can be offered. Of several, the options for folders are about the folders among them.

    Raises:
        SourceUnavailable: one cannot, or the options are not for it.
    """
    has_folder = any(os.path.isdir(path) for path in paths)
    of_files = attrs.evolve(options, exclude=(), hidden=False) if has_folder else options
    for path in paths:
        check_source(path, options if os.path.isdir(path) else of_files)


async def offer(call: Call) -> None:
    """Hash and offer files and folders. Params: pool, paths, and those of `OfferOptions`.

    Where the pool is joined already, that process goes on seeding. Otherwise this stays and seeds until interrupted.
    """
    options = OfferOptions.of(call.params)
    await trio.to_thread.run_sync(check_sources, call.params["paths"], options)
    info = call.session.node.find_pool(call.params["pool"])
    async with call.session.use_pool(info) as use:
        for path in call.params["paths"]:
            item = await hash_and_offer(use.net, path, call.reporter, options)
            await call.reporter.record(_offered(item))
        if not use.is_shared:
            await call.reporter.note("offered for as long as this runs; Ctrl-C ends it, and joining again resumes it")
            await trio.sleep_forever()


async def hash_and_offer(
    net: PoolNet, path: str, reporter: Reporter, options: OfferOptions = OfferOptions()
) -> OfferInfo:
    """Hash and offer a file, a picture or a folder, with progress.

    Raises:
        SourceUnavailable: it cannot be read, or changed meanwhile.
        LocalError: as a picture it is too large.
    """
    source = Path(path)
    offer_it = net.files.offer_media if options.media else net.files.offer
    if await trio.to_thread.run_sync(source.is_dir):
        offer_it = partial(net.files.offer_folder, exclude=options.exclude, include_hidden=options.hidden)
    async with latest_progress(reporter) as post:
        item = await offer_it(source, name=options.name, on_progress=_hashing_progress(source.name, post))
    if item.kind == "folder" and not item.file_count:
        hidden = "" if options.hidden else " and what begins with a dot"
        await reporter.note(f"{item.name} has no files to offer; links, special files{hidden} are left out")
    return item


def _hashing_progress(name: str, post: Callable[[Record], None]) -> Callable[[int, int], None]:
    return lambda done, size: post({"name": f"hashing {name}", "bytes": done, "size": size})


def _offered(item: OfferInfo) -> Record:
    return {
        "file_id": encode_id(item.file_id),
        "name": item.name,
        "size": item.size_bytes,
        "kind": item.kind,
        "file_count": item.file_count,
    }


async def files(call: Call) -> None:
    """List what is offered. Params: pool."""
    info = call.session.node.find_pool(call.params["pool"])
    offers = await call.session.node.offers(info)
    for item in offers:
        await call.reporter.record(file_record(item))
    if not offers:
        await call.reporter.note("nothing is offered")


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
        await _tell_retracted(call, use, f"{item.name} is withdrawn; what was offered stays where it is")
    else:
        await call.reporter.note(
            f"this device no longer gives {item.name} to others; somebody else's offer of it stays"
        )


async def _tell_retracted(call: Call, use: PoolUse, what: str) -> None:
    problem = "" if use.is_shared else await _why_not_told(use.net, call.params["timeout_s"])
    later = f"; {problem}, others will hear of it when they meet this device" if problem else ""
    await call.reporter.note(what + later)


async def _why_not_told(net: PoolNet, timeout_s: float) -> str:
    """Wait until a neighbour knows what was sent; return why none does, if that is so after `timeout_s`."""
    give_up_at = trio.current_time() + timeout_s
    try:
        await net.wait_linked(timeout_s)
    except Unreachable:
        return "nobody is there now"
    try:
        await net.delivered(max(0.0, give_up_at - trio.current_time()))
    except Unreachable:
        return "nobody has confirmed it yet"
    return ""


def _retracted(file_id: FileId) -> Record:
    return {"event": "retracted", "file_id": encode_id(file_id)}
