"""``files --in``: what is in a folder that somebody offers, before it is fetched."""

from functools import partial

import trio

from poolnet import EntryKind, LocalError, OfferInfo, PoolNet, UnknownFile, Unreachable
from poolnet_cli.command import Call
from poolnet_cli.commands.finding import wait_found
from poolnet_cli.patience import told_if_slow
from poolnet_cli.records import entry_record


async def contents(call: Call) -> None:
    """List what is in a folder. Params: pool, folder (a name or the beginning of an id), timeout_s.

    Raises:
        UnknownFile: nobody offers it. LocalError: it is no folder.
        Unreachable: nobody was reached, or nobody who has the list, in time.
    """
    info = call.session.node.find_pool(call.params["pool"])
    give_up_at = trio.current_time() + call.params["timeout_s"]
    async with call.session.use_pool(info) as use:
        async with told_if_slow(call.reporter, "waiting until another member is there"):
            folder = await wait_found(use, partial(_find, use.net, call.params["folder"]), give_up_at)
        with trio.move_on_at(give_up_at) as waiting:
            entries = await use.net.files.list_folder(folder.file_id)
        if waiting.cancelled_caught:
            raise Unreachable(f"nobody who has {folder.name} was reached in time; try again when one of them is there")
        for entry in entries:
            await call.reporter.record(entry_record(entry))
        files = sum(entry.kind != EntryKind.EMPTY_DIRECTORY for entry in entries)
        await call.reporter.note(f"{files} file{'' if files == 1 else 's'}; poolnet get --only fetches a part of them")


def _find(net: PoolNet, text: str) -> OfferInfo:
    try:
        return net.files.find(text, kind="folder")
    except UnknownFile:
        item = net.files.find(text)
        if item.kind != "folder":
            raise LocalError(f"{item.name} is no folder; there is nothing to list") from None
        raise  # several folders are meant
