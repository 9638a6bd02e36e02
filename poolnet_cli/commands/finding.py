"""What somebody means by a name or an id, in a pool that this device may have just entered."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import trio

from poolnet import FileId, OfferInfo, OfferKind, PoolNet, UnknownFile, Unreachable, encode_id, safe_file_name, short_id
from poolnet_cli.session import PoolUse

T = TypeVar("T")

#: Once linked, how long a pool may take to tell a newcomer of a file before it counts as unknown.
CATCH_UP_S: Final = 5.0
_FIND_POLL_S: Final = 0.1
#: So many are named when several are meant.
_NAMED_IN_ERRORS: Final = 5


async def wait_found(use: PoolUse, find: Callable[[], T], give_up_at: float) -> T:
    """Return what `find` does, waiting for the pool to tell of it if this device has just entered.

    Raises:
        UnknownFile: it is not there. Unreachable: nor was anybody who could tell.
    """
    try:
        return find()
    except UnknownFile:
        if use.is_shared:
            raise
    await use.net.wait_linked(max(0.0, give_up_at - trio.current_time()))
    unknown_at = min(give_up_at, trio.current_time() + CATCH_UP_S)
    while True:
        try:
            return find()
        except UnknownFile:
            if trio.current_time() >= unknown_at:
                raise
        await trio.sleep(_FIND_POLL_S)


async def wait_caught_up(use: PoolUse, give_up_at: float) -> None:
    """Wait until this device knows what is offered, as far as that can be said.

    Raises:
        Unreachable: this device has just entered, and nobody is there.
    """
    if use.is_shared:
        return
    await use.net.wait_linked(max(0.0, give_up_at - trio.current_time()))
    try:
        await use.net.synced(CATCH_UP_S)
    except Unreachable:
        return  # it knows what it knows


def find_offer(net: PoolNet, text: str, kind: OfferKind | None = None) -> OfferInfo:
    """Return what is to be fetched, by its name or the beginning of its id.

    Args:
        kind: what is meant, of a file that is offered as several.

    Raises:
        UnknownFile: there is none, there are several, or it is offered as several and `kind` does not say which.
    """
    item = net.files.find(text, kind=kind)
    if kind is None and len(same := [each for each in net.files.offers() if each.file_id == item.file_id]) > 1:
        raise UnknownFile(several_kinds(net, same))
    return item


def several_kinds(net: PoolNet, same: Sequence[OfferInfo]) -> str:
    """Return a sentence about one file that is offered as several kinds: who says what."""
    claims = [f"as a {each.kind} by {_names(net, each)}" for each in same]
    shown = f"{short_id(same[0].file_id)} ({same[0].name})"
    return f"{shown} is offered {' and '.join(claims)}; say which by poolnet get --kind"


def find_stream(net: PoolNet, text: str) -> tuple[FileId, str]:
    """Return the stream that is meant by its name, or the beginning of its id: its id and its name.

    Raises:
        UnknownFile: there is none, or there are several; or it has ended, so that it is offered as a file only.
    """
    offers = net.files.offers()
    streams = [(item.file_id, item.name) for item in offers if item.kind == "stream"]
    file_id = meant(streams, text)
    if file_id is None:
        if any(text == item.name for item in offers):
            raise UnknownFile(f"{text!r} is no stream (any more); poolnet get fetches it")
        raise UnknownFile(f"no stream {text!r} is offered here, by name or id; list the files to see what is")
    return next(stream for stream in streams if stream[0] == file_id)


def meant(known: Iterable[tuple[FileId, str]], text: str) -> FileId | None:
    """Return the one of `known` (ids and names) that is meant by its name, or the beginning of its id; None if none is.

    Raises:
        UnknownFile: several are meant.
    """
    known = list(known)
    found = {file_id for file_id, name in known if text in (name, safe_file_name(name))}
    if not found and text:
        found = {file_id for file_id, _ in known if encode_id(file_id).startswith(text.lower())}
    if len(found) > 1:
        ids = ", ".join(short_id(file_id) for file_id in sorted(found)[:_NAMED_IN_ERRORS])
        raise UnknownFile(f"{len(found)} are meant by {text!r} ({ids}); use the id of one")
    return next(iter(found), None)


def _names(net: PoolNet, offer: OfferInfo) -> str:
    names = [net.name_of(node) for node in offer.nodes[:_NAMED_IN_ERRORS]]
    return ", ".join(names) or "nobody any more"
